package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"
)

// usage is what a process took.
type usage struct {
	wall, cpu time.Duration
	peak      int64 // bytes, the largest resident set
}

// with is the usage of two processes side by side.
func (u usage) with(other usage) usage {
	return usage{wall: max(u.wall, other.wall), cpu: u.cpu + other.cpu, peak: max(u.peak, other.peak)}
}

// command is a program to run with nothing of this machine's settings in reach.
func command(ctx context.Context, home, path string, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, path, args...)
	c.Dir = home
	c.Env = []string{"HOME=" + home, "PATH=" + os.Getenv("PATH"), "TMPDIR=" + os.TempDir()}
	return c
}

// runToEnd runs a program and tells what it took.
func runToEnd(c *exec.Cmd) (usage, error) {
	var said bytes.Buffer
	c.Stdout, c.Stderr = &said, &said
	began := time.Now()
	if err := c.Start(); err != nil {
		return usage{}, err
	}
	peak := watchPeak(c.Process.Pid)
	err := c.Wait()
	wall := time.Since(began)
	most := peak()
	if err != nil {
		return usage{}, fmt.Errorf("%s: %w\n%s", c.Path, err, said.Bytes())
	}
	rusage, ok := c.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		return usage{}, errors.New("what a process takes is not known on this system")
	}
	if most == 0 {
		most = rusage.Maxrss * rssUnit
	}
	return usage{wall: wall, cpu: c.ProcessState.UserTime() + c.ProcessState.SystemTime(), peak: most}, nil
}

// watchPeak follows the largest resident set of a process until it is asked for
// it. The one that rusage tells is at least that of the process that started it,
// which shares its memory until the program is loaded.
func watchPeak(pid int) (peak func() int64) {
	end, result := make(chan struct{}), make(chan int64)
	go func() {
		var most int64
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			most = max(most, highWater(pid))
			select {
			case <-tick.C:
			case <-end:
				result <- most
				return
			}
		}
	}()
	return func() int64 {
		close(end)
		return <-result
	}
}

// highWater is 0 where there is no such file, or the process has ended.
func highWater(pid int) int64 {
	status, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return 0
	}
	_, rest, _ := bytes.Cut(status, []byte("VmHWM:"))
	number, _, _ := bytes.Cut(bytes.TrimSpace(rest), []byte(" "))
	kilobytes, err := strconv.ParseInt(string(number), 10, 64)
	if err != nil {
		return 0
	}
	return kilobytes << 10
}
