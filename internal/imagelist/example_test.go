package imagelist_test

import (
	"fmt"
	"strings"

	"github.com/signfleet/signfleet/internal/imagelist"
)

func ExampleRead() {
	list := strings.NewReader(`# nightly
nginx
team/app:1.4        # goes to the project "prod"
quay.io/skopeo/stable registry.example.com/mirror/skopeo 1.22
busybox latest
`)
	for line, err := range imagelist.Read(list, imagelist.Options{Registry: "registry.example.com", Project: "prod"}) {
		switch {
		case err != nil:
			fmt.Println(err)
		case line.Err != nil:
			fmt.Println(line.Err)
		default:
			fmt.Println(line.Reference)
		}
	}
	// Output:
	// registry.example.com/prod/nginx:latest
	// registry.example.com/prod/app:1.4
	// registry.example.com/prod/skopeo:1.22
	// line 5: two columns: write name:tag, or three columns (source, destination, tag) for a mirrored image (in "busybox latest")
}
