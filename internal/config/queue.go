package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/signfleet/signfleet/internal/queue"
)

// Queue are the settings of how the streams of a fleet are laid out: by setup,
// and by a worker where they are missing.
type Queue struct {
	Partitions      int           `mapstructure:"partitions"`
	Replicas        int           `mapstructure:"replicas"`
	AckWait         time.Duration `mapstructure:"ack-wait"`
	Retention       time.Duration `mapstructure:"retention"`
	LedgerAge       time.Duration `mapstructure:"ledger-age"`
	DuplicateWindow time.Duration `mapstructure:"duplicate-window"`
	RequestBytes    string        `mapstructure:"request-bytes"`
	RecordBytes     string        `mapstructure:"record-bytes"`
	BucketBytes     string        `mapstructure:"bucket-bytes"`
}

// QueueFlags defines the flags of Queue.
func QueueFlags(flags *pflag.FlagSet) {
	flags.Int("partitions", 16, "queues of the bulk lane, 1 to 100: so many batches share the fleet evenly")
	flags.Int("replicas", 1, "servers of a NATS cluster that have a copy of each stream, 1 to 5")
	flags.Duration("ack-wait", 30*time.Second, "a request goes to another worker when its own was not heard of for so long")
	flags.Duration("retention", 720*time.Hour, "how long outcomes, dead letters and batches are kept")
	flags.Duration("ledger-age", 168*time.Hour, "how long the attempts at a request that was not heard of again are kept")
	flags.Duration("duplicate-window", 10*time.Minute, "within what time a request published twice is stored once")
	flags.String("request-bytes", "2GiB", "`size` reserved on the disk of the NATS server for requests, as 500MB or 2GiB; 0 is no limit")
	flags.String("record-bytes", "4GiB", "`size` reserved there for outcomes, and as much again for dead letters")
	flags.String("bucket-bytes", "256MiB", "`size` reserved there for each of the five buckets; the ledger has that of requests if it is more")
}

// Options are those of the queue that the settings decide.
func (q Queue) Options() (queue.Options, error) {
	o := queue.Options{
		Partitions: q.Partitions, Replicas: q.Replicas, AckWait: q.AckWait,
		Retention: q.Retention, LedgerAge: q.LedgerAge, DuplicateWindow: q.DuplicateWindow,
	}
	// The room takes zero for its default: here zero has been said.
	for _, s := range []struct {
		name string
		zero bool
	}{
		{"partitions", q.Partitions == 0}, {"replicas", q.Replicas == 0}, {"ack-wait", q.AckWait == 0},
		{"retention", q.Retention == 0}, {"ledger-age", q.LedgerAge == 0}, {"duplicate-window", q.DuplicateWindow == 0},
	} {
		if s.zero {
			return o, fmt.Errorf("%s: 0 is too little", s.name)
		}
	}
	for _, s := range []struct {
		name, size string
		bytes      *int64
	}{
		{"request-bytes", q.RequestBytes, &o.RequestBytes},
		{"record-bytes", q.RecordBytes, &o.RecordBytes},
		{"bucket-bytes", q.BucketBytes, &o.BucketBytes},
	} {
		bytes, err := parseSize(s.size)
		if err != nil {
			return o, fmt.Errorf("%s: %w", s.name, err)
		}
		if *s.bytes = bytes; bytes == 0 {
			*s.bytes = -1 // no limit, in the words of the room
		}
	}
	return o, nil
}

// units of sizes; one stands before those that it ends with.
var units = []struct {
	name  string
	bytes float64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
	{"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12},
	{"B", 1}, {"", 1},
}

// parseSize reads a number of bytes; 0 is no limit.
func parseSize(text string) (int64, error) {
	if text == "unlimited" {
		return 0, nil
	}
	for _, unit := range units {
		number, ok := strings.CutSuffix(text, unit.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		bytes := n * unit.bytes
		if err == nil && (n == 0 || bytes >= 1 && bytes < math.MaxInt64) {
			return int64(bytes), nil
		}
		break
	}
	return 0, fmt.Errorf("%q is not a size: write one as 2GiB or 500MB, or 0 for no limit", text)
}
