package queue_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/queue"
)

func natsMsg(subject, data string, header map[string]string) *nats.Msg {
	msg := nats.NewMsg(subject)
	msg.Data = []byte(data)
	for key, value := range header {
		msg.Header.Set(key, value)
	}
	return msg
}

// limit lets a stream take n messages and no more.
func limit(t testing.TB, js jetstream.JetStream, stream string, n int64) {
	t.Helper()
	s, err := js.Stream(within(t), stream)
	require.NoError(t, err)
	config := s.CachedInfo().Config
	config.MaxMsgs = n
	_, err = js.UpdateStream(within(t), config)
	require.NoError(t, err)
}

// forge makes the server publish what it holds under one subject under another.
func forge(t testing.TB, srv *server.Server, stream, from, to string) {
	t.Helper()
	nc, js := raw(t, srv)
	before := stored(t, js, stream)
	require.NoError(t, nc.PublishRequest("$JS.API.DIRECT.GET."+stream+"."+from, to, nil))
	eventually(t, func() bool { return stored(t, js, stream) > before }, "not forged")
}

func outcome(r queue.Request, v queue.Verdict) queue.Outcome {
	return queue.Outcome{
		ID: r.ID, Gen: r.Gen, Batch: r.Batch, Seq: r.Seq, Line: r.Line, Reference: r.Reference, Verdict: v, Worker: "w-1", Attempts: 2,
		Digest:      "sha256:00",
		Digests:     []queue.SignedDigest{{Digest: "sha256:00", Platform: "index", Key: "sha256:11", Format: "tag", Attachment: "sha256:22", Already: true}},
		SubmittedAt: r.SubmittedAt, StartedAt: r.SubmittedAt.Add(time.Second), FinishedAt: r.SubmittedAt.Add(2 * time.Second),
	}
}

func TestOneOutcomeForEachGeneration(t *testing.T) {
	t.Parallel()
	_, conn := newQueue(t, queue.Options{})
	r := request("b", 1)
	_, err := conn.Outcome(within(t), "b", r.ID, 0)
	require.ErrorIs(t, err, queue.ErrNone)

	first, err := conn.Record(within(t), outcome(r, queue.Signed))
	require.NoError(t, err)
	want := outcome(r, queue.Signed)
	want.Version = 1
	require.Equal(t, want, first)

	other := outcome(r, queue.Dead)
	other.Class, other.Error, other.Worker = "timeout", "too slow", "w-2"
	second, err := conn.Record(within(t), other)
	require.NoError(t, err)
	require.Equal(t, want, second)
	read, err := conn.Outcome(within(t), "b", r.ID, 0)
	require.NoError(t, err)
	require.Equal(t, want, read)

	r.Gen = 1
	third, err := conn.Record(within(t), outcome(r, queue.Skipped))
	require.NoError(t, err)
	require.Equal(t, queue.Skipped, third.Verdict)
}

func TestAFullOutcomeStreamIsNotADuplicate(t *testing.T) {
	t.Parallel()
	srv, conn := newQueue(t, queue.Options{})
	_, js := raw(t, srv)
	limit(t, js, "SIGN_OUTCOMES", 1)
	limit(t, js, "SIGN_DEAD", 1)
	r, late := request("b", 1), request("b", 2)

	_, err := conn.Record(within(t), outcome(r, queue.Signed))
	require.NoError(t, err)
	_, err = conn.Record(within(t), outcome(late, queue.Signed))
	require.ErrorIs(t, err, queue.ErrFull)
	stored, err := conn.Record(within(t), outcome(r, queue.Dead))
	require.NoError(t, err)
	require.Equal(t, queue.Signed, stored.Verdict)

	require.NoError(t, conn.Bury(within(t), queue.DeadLetter{Request: r}))
	require.ErrorIs(t, conn.Bury(within(t), queue.DeadLetter{Request: late}), queue.ErrFull)
	require.NoError(t, conn.Bury(within(t), queue.DeadLetter{Request: r}))
}

func TestBuryingAgainChangesNothing(t *testing.T) {
	t.Parallel()
	_, conn := newQueue(t, queue.Options{})
	r := request("b", 1)
	_, err := conn.DeadLetter(within(t), "b", r.ID, 0)
	require.ErrorIs(t, err, queue.ErrNone)
	letter := queue.DeadLetter{Request: r, Class: "denied", Error: "403", Attempts: 1, Worker: "w", DiedAt: r.SubmittedAt}
	require.NoError(t, conn.Bury(within(t), letter))
	again := letter
	again.Class = "internal"
	require.NoError(t, conn.Bury(within(t), again))
	got, err := conn.DeadLetter(within(t), "b", r.ID, 0)
	require.NoError(t, err)
	letter.Version = 1
	require.Equal(t, letter, got)
}

func TestForgedRecordsAreRefused(t *testing.T) {
	t.Parallel()
	srv, conn := newQueue(t, queue.Options{})
	r, victim := request("b", 1), request("b", 2)
	_, err := conn.Record(within(t), outcome(r, queue.Signed))
	require.NoError(t, err)
	require.NoError(t, conn.Bury(within(t), queue.DeadLetter{Request: r}))

	forge(t, srv, "SIGN_OUTCOMES", "sign.outcome.b."+r.ID+".0", "sign.outcome.b."+victim.ID+".0")
	_, err = conn.Outcome(within(t), "b", victim.ID, 0)
	require.ErrorIs(t, err, queue.ErrForged)
	_, err = conn.Record(within(t), outcome(victim, queue.Signed))
	require.ErrorIs(t, err, queue.ErrForged)

	forge(t, srv, "SIGN_DEAD", "sign.dead.b."+r.ID+".0", "sign.dead.b."+victim.ID+".0")
	_, err = conn.DeadLetter(within(t), "b", victim.ID, 0)
	require.ErrorIs(t, err, queue.ErrForged)

	// Without the server's headers, but somebody else's record all the same.
	third := request("b", 3)
	_, js := raw(t, srv)
	own, err := js.Stream(within(t), "SIGN_OUTCOMES")
	require.NoError(t, err)
	msg, err := own.GetLastMsgForSubject(within(t), "sign.outcome.b."+r.ID+".0")
	require.NoError(t, err)
	_, err = js.Publish(within(t), "sign.outcome.b."+third.ID+".0", msg.Data)
	require.NoError(t, err)
	_, err = conn.Outcome(within(t), "b", third.ID, 0)
	require.ErrorIs(t, err, queue.ErrForged)
	fourth := request("b", 4)
	_, err = js.Publish(within(t), "sign.outcome.b."+fourth.ID+".0", []byte(`{"version":9}`))
	require.NoError(t, err)
	var later *queue.VersionError
	_, err = conn.Outcome(within(t), "b", fourth.ID, 0)
	require.ErrorAs(t, err, &later)
}

func TestARecordThatCannotBeReadIsThereAllTheSame(t *testing.T) {
	t.Parallel()
	srv, conn := newQueue(t, queue.Options{})
	_, js := raw(t, srv)
	genuine := request("b", 1)
	_, err := conn.Record(within(t), outcome(genuine, queue.Signed))
	require.NoError(t, err)
	require.NoError(t, conn.Bury(within(t), queue.DeadLetter{Request: genuine}))
	require.NoError(t, conn.WriteLedger(within(t), genuine, queue.Entry{Attempts: 1}))

	var later *queue.VersionError
	put := func(data string) func(t *testing.T, stream, prefix, id string) {
		return func(t *testing.T, _, prefix, id string) {
			_, err := js.Publish(within(t), prefix+id+".0", []byte(data))
			require.NoError(t, err)
		}
	}
	for what, c := range map[string]struct {
		store func(t *testing.T, stream, prefix, id string)
		is    func(error) bool
	}{
		"nonsense":      {put("nonsense"), func(error) bool { return true }},
		"later version": {put(`{"version":9,"wonder":1}`), func(err error) bool { return errors.As(err, &later) }},
		"forged": {func(t *testing.T, stream, prefix, id string) {
			forge(t, srv, stream, prefix+genuine.ID+".0", prefix+id+".0")
		}, func(err error) bool { return errors.Is(err, queue.ErrForged) }},
	} {
		r := queue.Request{Batch: "b", ID: strings.ReplaceAll(what, " ", "-")}
		c.store(t, "SIGN_OUTCOMES", "sign.outcome.b.", r.ID)
		c.store(t, "SIGN_DEAD", "sign.dead.b.", r.ID)
		c.store(t, "KV_SIGN_LEDGER", "$KV.SIGN_LEDGER.b.", r.ID)
		_, outcomeErr := conn.Outcome(within(t), "b", r.ID, 0)
		_, recordErr := conn.Record(within(t), outcome(r, queue.Signed))
		_, letterErr := conn.DeadLetter(within(t), "b", r.ID, 0)
		_, _, ledgerErr := conn.Ledger(within(t), r)
		for _, err := range []error{outcomeErr, recordErr, letterErr, ledgerErr} {
			require.ErrorIs(t, err, queue.ErrUnreadable, what)
			require.True(t, c.is(err), "%s: %v", what, err)
		}
		require.NoError(t, conn.Bury(within(t), queue.DeadLetter{Request: r}), what)
		require.NoError(t, conn.WriteLedger(within(t), r, queue.Entry{Attempts: 1}), what)
		_, ok, err := conn.Ledger(within(t), r)
		require.NoError(t, err)
		require.True(t, ok)
	}
}

func TestARecordLargerThanTheServerTakes(t *testing.T) {
	t.Parallel()
	srv, conn := newQueue(t, queue.Options{})
	_, js := raw(t, srv)
	r := request("b", 1)
	tooLarge := func(size int) {
		text := strings.Repeat("x", size)
		o := outcome(r, queue.Dead)
		o.Error = text
		_, err := conn.Record(within(t), o)
		require.ErrorIs(t, err, queue.ErrTooLarge)
		require.ErrorIs(t, conn.Bury(within(t), queue.DeadLetter{Request: r, Error: text}), queue.ErrTooLarge)
		require.ErrorIs(t, conn.WriteLedger(within(t), r, queue.Entry{Error: text}), queue.ErrTooLarge)
		_, err = conn.Outcome(within(t), "b", r.ID, 0)
		require.ErrorIs(t, err, queue.ErrNone)
	}
	tooLarge(2 << 20) // the server's max_payload: not even sent
	for _, name := range []string{"SIGN_OUTCOMES", "SIGN_DEAD", "KV_SIGN_LEDGER"} {
		limitSize(t, js, name, 4<<10)
	}
	tooLarge(8 << 10) // the server's answer
}

// limitSize lets a stream take messages of up to size bytes and no larger ones.
func limitSize(t testing.TB, js jetstream.JetStream, stream string, size int32) {
	t.Helper()
	s, err := js.Stream(within(t), stream)
	require.NoError(t, err)
	config := s.CachedInfo().Config
	config.MaxMsgSize = size
	_, err = js.UpdateStream(within(t), config)
	require.NoError(t, err)
}

func TestVerdictsThatFail(t *testing.T) {
	t.Parallel()
	for verdict, failed := range map[queue.Verdict]bool{
		queue.Signed: false, queue.AlreadySigned: false, queue.Skipped: false, queue.Dead: true, queue.Cancelled: true,
	} {
		require.Equal(t, failed, verdict.Failed())
	}
}
