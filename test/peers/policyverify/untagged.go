//go:build !containers_image_openpgp

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "built without the tag containers_image_openpgp: no policy can be evaluated")
	os.Exit(2)
}
