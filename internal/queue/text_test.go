package queue_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/queue"
)

func TestLinesTravelByteByByte(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"r.example/a:1": `"r.example/a:1"`,
		"":              `""`,
		"{\"bytes\":1}": `"{\"bytes\":1}"`,
		"\xff\xfe":      `{"bytes":"//4="}`,
		"bild\xe4r":     `{"bytes":"YmlsZORy"}`,
	} {
		data, err := json.Marshal(queue.Text(line))
		require.NoError(t, err)
		require.Equal(t, want, string(data))
		var back queue.Text
		require.NoError(t, json.Unmarshal(data, &back))
		require.Equal(t, line, string(back))
	}
	var bad queue.Text
	require.Error(t, json.Unmarshal([]byte(`{"bytes":7}`), &bad))
}

func TestALineThatIsNoTextReachesTheFailedList(t *testing.T) {
	t.Parallel()
	_, conn := newQueue(t, queue.Options{})
	r := queue.Request{Batch: "b", Seq: 1, Line: "\xffx", Problem: "no text"}.Sealed()
	p := conn.Publisher(0)
	require.NoError(t, p.Publish(within(t), r))
	require.NoError(t, p.Flush(within(t)))
	d := one(t, conn.BulkLane())
	require.NoError(t, d.Err)
	require.Equal(t, r.Line, d.Request.Line)
	_, err := conn.Record(within(t), queue.Outcome{Batch: "b", ID: r.ID, Line: d.Request.Line, Verdict: queue.Dead})
	require.NoError(t, err)
	require.NoError(t, conn.Bury(within(t), queue.DeadLetter{Request: d.Request}))
	require.NoError(t, conn.Outcomes(within(t), "b", func(o queue.Outcome) error {
		require.Equal(t, r.Line, o.Line)
		return nil
	}))
	letters := 0
	require.NoError(t, conn.DeadLetters(within(t), "b", func(l queue.DeadLetter) error {
		letters++
		require.Equal(t, r.Line, l.Request.Line)
		return nil
	}))
	require.Equal(t, 1, letters)
}
