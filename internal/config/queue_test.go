package config_test

import (
	"testing"
	"time"

	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/config"
	"github.com/signfleet/signfleet/internal/queue"
)

// queueOptions are what flags turn into.
func queueOptions(t *testing.T, args ...string) (queue.Options, error) {
	t.Helper()
	flags := pflag.NewFlagSet("sign-worker", pflag.ContinueOnError)
	config.QueueFlags(flags)
	flags.String("config", "", "")
	require.NoError(t, flags.Parse(args))
	source, err := config.Read(flags, "no-such-program", "")
	require.NoError(t, err)
	var q config.Queue
	require.NoError(t, source.Into(&q))
	return q.Options()
}

func TestQueueOptionsAreTheFlags(t *testing.T) {
	t.Parallel()
	o, err := queueOptions(t)
	require.NoError(t, err)
	require.Equal(t, queue.Options{
		Partitions: 16, Replicas: 1, AckWait: 30 * time.Second,
		Retention: 30 * 24 * time.Hour, LedgerAge: 7 * 24 * time.Hour, DuplicateWindow: 10 * time.Minute,
		RequestBytes: 2 << 30, RecordBytes: 4 << 30, BucketBytes: 256 << 20,
	}, o)

	o, err = queueOptions(t, "--partitions=4", "--replicas=3", "--ack-wait=1m", "--retention=48h", "--ledger-age=24h",
		"--duplicate-window=1h", "--request-bytes=500MB", "--record-bytes=1.5 GiB", "--bucket-bytes=0")
	require.NoError(t, err)
	require.Equal(t, queue.Options{
		Partitions: 4, Replicas: 3, AckWait: time.Minute,
		Retention: 48 * time.Hour, LedgerAge: 24 * time.Hour, DuplicateWindow: time.Hour,
		RequestBytes: 500_000_000, RecordBytes: 3 << 29, BucketBytes: -1,
	}, o)
}

func TestSizesOfTheQueue(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{
		"1": 1, "1024": 1024, "10B": 10, "1kB": 1000, "1KiB": 1024, "3MB": 3_000_000, "3MiB": 3 << 20,
		"2GB": 2_000_000_000, "2GiB": 2 << 30, "1TB": 1e12, "1TiB": 1 << 40,
		"0": -1, "0B": -1, "unlimited": -1,
	} {
		o, err := queueOptions(t, "--request-bytes="+text)
		require.NoError(t, err, text)
		require.Equal(t, want, o.RequestBytes, text)
	}
	for _, text := range []string{"", "-1", "-1GiB", "GiB", "2 gigabytes", "2G", "0.5B", "NaN", "Inf", "9999999TiB", "1e400", "2GiBGiB"} {
		_, err := queueOptions(t, "--record-bytes="+text)
		require.ErrorContains(t, err, "record-bytes: ", text)
		require.ErrorContains(t, err, "write one as 2GiB or 500MB", text)
	}
}

func TestNothingOfTheQueueIsZero(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"partitions", "replicas", "ack-wait", "retention", "ledger-age", "duplicate-window"} {
		_, err := queueOptions(t, "--"+name+"=0")
		require.ErrorContains(t, err, name+": 0 is too little")
	}
}
