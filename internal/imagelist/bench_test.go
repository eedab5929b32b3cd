package imagelist_test

import (
	"io"
	"strings"
	"testing"

	"github.com/signfleet/signfleet/internal/imagelist"
)

// BenchmarkRead reads one line of a list of any length.
func BenchmarkRead(b *testing.B) {
	b.ReportAllocs()
	line := "registry.example.com:5000/team/app/server:1.22.3\n"
	b.SetBytes(int64(len(line)))
	list := &repeated{line: line}
	n := 0
	for l, err := range imagelist.Read(list, imagelist.Options{Registry: "r.io"}) {
		if err != nil || l.Err != nil {
			b.Fatal(err, l.Err)
		}
		if n++; n >= b.N {
			break
		}
	}
}

// repeated is a list of one line, repeated for ever.
type repeated struct {
	line string
	rest *strings.Reader
}

func (r *repeated) Read(p []byte) (int, error) {
	if r.rest == nil || r.rest.Len() == 0 {
		r.rest = strings.NewReader(r.line)
	}
	n, err := r.rest.Read(p)
	if err == io.EOF {
		err = nil
	}
	return n, err
}
