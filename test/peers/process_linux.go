package peers

import (
	"os/exec"
	"syscall"
)

// tieToParent makes the child die with a test binary that panics or is killed.
func tieToParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
