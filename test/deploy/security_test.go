package deploy_test

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/queue"
)

// TestMessageOfARoleWithoutPermissionIsRefusedByTheServer sends, as each role,
// what others may: well-formed, to streams that are there. Nothing of it is stored,
// and nothing that is there is gone.
func TestMessageOfARoleWithoutPermissionIsRefusedByTheServer(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	operator := s.conn(t, queue.RoleOperator)
	_, err := operator.Setup(t.Context())
	require.NoError(t, err)
	require.NoError(t, s.conn(t, queue.RoleWebhook).PublishEvent(t.Context(), "hook",
		queue.Request{Batch: "b", Seq: 1, Line: "r.example/a:1", Reference: "r.example/a:1"}.Sealed()))
	before := s.holds(t)
	require.EqualValues(t, 1, before["SIGN_REQUESTS"].messages)

	request := []byte(`{"version":1,"id":"i","gen":0,"batch":"b","seq":1,"line":"r.example/a:1","reference":"r.example/a:1","timeout":60,"submitted_at":"2026-01-02T03:04:05Z"}`)
	outcome := []byte(`{"version":1,"id":"i","gen":0,"batch":"b","seq":1,"line":"r.example/a:1","verdict":"signed"}`)
	for role, messages := range map[string]map[string][]byte{
		"submitter": {
			"sign.request.event.hook.b": request,
			"sign.outcome.b.i.0":        outcome, "sign.dead.b.i.0": outcome,
			"$KV.SIGN_LEDGER.b.i.0": outcome, "$KV.SIGN_LOCKS.l": outcome, "$KV.SIGN_WORKERS.w": outcome, "$KV.SIGN_CONTROL.lane.bulk": outcome,
			"$JS.API.CONSUMER.MSG.NEXT.SIGN_REQUESTS.event": []byte(`{"batch":1}`),
			"$JS.ACK.SIGN_REQUESTS.event.1.1.1.1.0":         []byte("+ACK"),
		},
		"webhook": {
			"sign.request.bulk.00.b": request,
			"sign.outcome.b.i.0":     outcome, "sign.dead.b.i.0": outcome,
			"$KV.SIGN_LEDGER.b.i.0": outcome, "$KV.SIGN_LOCKS.l": outcome, "$KV.SIGN_WORKERS.w": outcome, "$KV.SIGN_CONTROL.lane.event": outcome,
			"$JS.API.CONSUMER.MSG.NEXT.SIGN_REQUESTS.event": []byte(`{"batch":1}`),
		},
		"worker": {
			"sign.request.bulk.00.b": request, "sign.request.event.hook.b": request,
			"$KV.SIGN_BATCHES.b": outcome, "$KV.SIGN_CONTROL.host.h": outcome,
		},
	} {
		// What there is of streams, and what is taken out of them, is the operator's.
		maps.Copy(messages, map[string][]byte{
			"$JS.API.STREAM.PURGE.SIGN_REQUESTS":          []byte(`{}`),
			"$JS.API.STREAM.MSG.DELETE.SIGN_REQUESTS":     []byte(`{"seq":1}`),
			"$JS.API.STREAM.DELETE.SIGN_REQUESTS":         nil,
			"$JS.API.STREAM.CREATE.MORE":                  []byte(`{"name":"MORE","subjects":["more.>"],"storage":"memory"}`),
			"$JS.API.CONSUMER.DELETE.SIGN_REQUESTS.event": nil,
			"$JS.API.CONSUMER.CREATE.SIGN_REQUESTS.mine.sign.request.event.*.*": []byte(
				`{"stream_name":"SIGN_REQUESTS","config":{"durable_name":"mine","filter_subject":"sign.request.event.*.*","ack_policy":"explicit"}}`),
		})
		c := connect(t, s, role)
		for _, subject := range slices.Sorted(maps.Keys(messages)) {
			require.True(t, c.refusesMessage(subject, "_INBOX."+role+".answer", messages[subject]), "%s: %s", role, subject)
		}
	}
	require.Equal(t, before, s.holds(t))
}

// TestNobodyReadsTheAnswersOfAnotherRole listens wherever a role may not, while
// a worker is told its answers.
func TestNobodyReadsTheAnswersOfAnotherRole(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	operator := s.conn(t, queue.RoleOperator)
	_, err := operator.Setup(t.Context())
	require.NoError(t, err)
	heard := make(chan *nats.Msg, 64)
	for _, role := range []string{"submitter", "webhook"} {
		c := connect(t, s, role)
		for _, subject := range []string{">", "_INBOX.>", "_INBOX.*.>", "*.worker.>", "_INBOX.worker.>", "_INBOX.worker.*", "_R_.>"} {
			_, err := c.nc.ChanSubscribe(subject, heard)
			require.NoError(t, err)
			require.Contains(t, c.refusal(), subject)
		}
		_, err := c.nc.ChanQueueSubscribe("_INBOX.worker.>", "q", heard)
		require.NoError(t, err)
		require.Contains(t, c.refusal(), "_INBOX.worker.>")
	}
	worker := s.conn(t, queue.RoleWorker)
	require.NoError(t, worker.Ensure(t.Context()))
	r := queue.Request{Batch: "b", Seq: 1, Line: "r.example/a:1", Reference: "r.example/a:1"}.Sealed()
	require.NoError(t, worker.WriteLedger(t.Context(), r, queue.Entry{Attempts: 1, Reference: "r.example/a:1"}))
	_, known, err := worker.Ledger(t.Context(), r)
	require.NoError(t, err)
	require.True(t, known)
	require.Empty(t, heard)
}

// conn is a client of the project.
func (s server) conn(t *testing.T, role queue.Role) *queue.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := queue.Connect(ctx, queue.Options{URL: s.url(string(role)), Role: role, Unlimited: true})
	require.NoError(t, err)
	t.Cleanup(conn.Close)
	return conn
}

// held is what a stream has.
type held struct {
	messages, first uint64
	subjects        string
	consumers       int
}

// holds is what the streams of a server have.
func (s server) holds(t *testing.T) map[string]held {
	t.Helper()
	nc, err := nats.Connect(s.url("operator"))
	require.NoError(t, err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	streams := make(map[string]held)
	list := js.ListStreams(t.Context())
	for info := range list.Info() {
		streams[info.Config.Name] = held{
			messages: info.State.Msgs, first: info.State.FirstSeq,
			subjects: strings.Join(info.Config.Subjects, " "), consumers: info.State.Consumers,
		}
	}
	require.NoError(t, list.Err())
	require.Len(t, streams, 8)
	return streams
}

// refusesMessage reports whether the server refuses a message that asks for an answer.
func (c client) refusesMessage(subject, inbox string, data []byte) bool {
	c.t.Helper()
	answer, err := c.nc.SubscribeSync(inbox)
	require.NoError(c.t, err)
	defer answer.Unsubscribe() //nolint:errcheck // the connection ends with the test
	require.NoError(c.t, c.nc.PublishRequest(subject, inbox, data))
	require.NoError(c.t, c.nc.Publish(fence, nil))
	refused := c.firstRefusal("Publish", subject)
	pending, _, err := answer.Pending()
	require.NoError(c.t, err)
	require.Zero(c.t, pending)
	return refused
}
