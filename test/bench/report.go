package main

import (
	"encoding/json"
	"os"
	"runtime"
	"strings"
	"time"
)

// report is all that was measured.
type report struct {
	Machine machine   `json:"machine"`
	Engines *Engines  `json:"engines,omitempty"`
	Growth  *Growth   `json:"growth,omitempty"`
	Scale   *Scale    `json:"scale,omitempty"`
	Queue   []Figure  `json:"queue,omitempty"`
	Began   time.Time `json:"began"`
	Took    float64   `json:"took_s"`
}

// machine is what the figures depend on.
type machine struct {
	CPUs       int    `json:"cpus"`
	System     string `json:"system"`
	Go         string `json:"go"`
	LoadBefore string `json:"load_before,omitempty"` // of the last minute, where it is known
	LoadAfter  string `json:"load_after,omitempty"`
}

func newReport() *report {
	return &report{
		Machine: machine{CPUs: runtime.NumCPU(), System: runtime.GOOS + "/" + runtime.GOARCH, Go: runtime.Version(), LoadBefore: load()},
		Began:   time.Now().UTC().Round(time.Second),
	}
}

func (r *report) end() {
	r.Machine.LoadAfter = load()
	r.Took = time.Since(r.Began).Seconds()
}

// write writes the report as JSON.
func (r *report) write(path string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o600)
}

// load is how many processes ran or wanted to in the last minute: what else the
// machine does is in every figure.
func load() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return ""
	}
	minute, _, _ := strings.Cut(string(text), " ")
	return minute
}
