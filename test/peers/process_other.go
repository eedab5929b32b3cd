//go:build !linux

package peers

import "os/exec"

// tieToParent does nothing where the system has no such signal.
func tieToParent(*exec.Cmd) {}
