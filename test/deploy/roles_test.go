package deploy_test

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
)

// fence is a subject that no role may publish to.
const fence = "fence"

// operatorsOwn is what the operator alone may do: to lay out streams and consumers,
// to take away what is in them, and to pause.
var operatorsOwn = layingOut()

func layingOut() []string {
	subjects := []string{
		"$KV.SIGN_CONTROL.lane.bulk", "$KV.SIGN_CONTROL.lane.event", "$KV.SIGN_CONTROL.host.h",
		"$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST", "$JS.API.STREAM.TEMPLATE.CREATE.t", "$JS.API.ACCOUNT.PURGE.SIGNFLEET",
		"$JS.API.CONSUMER.CREATE.SIGN_REQUESTS", "$JS.API.CONSUMER.CREATE.SIGN_REQUESTS.c", "$JS.API.CONSUMER.CREATE.SIGN_REQUESTS.c.sign.request.event.>",
		"$JS.API.CONSUMER.DURABLE.CREATE.SIGN_REQUESTS.event", "$JS.API.CONSUMER.DELETE.SIGN_REQUESTS.event", "$JS.API.CONSUMER.PAUSE.SIGN_REQUESTS.event",
		"$JS.API.CONSUMER.UNPIN.SIGN_REQUESTS.event", "$JS.API.CONSUMER.LEADER.STEPDOWN.SIGN_REQUESTS.event",
		"$JS.API.DIRECT.GET.SIGN_REQUESTS", "$JS.API.STREAM.MSG.GET.SIGN_REQUESTS", "$JS.API.META.LEADER.STEPDOWN",
		"$SYS.REQ.SERVER.PING", "$SYS.REQ.ACCOUNT.SIGNFLEET.CONNZ",
	}
	for _, stream := range []string{
		"SIGN_REQUESTS", "SIGN_OUTCOMES", "SIGN_DEAD", "KV_SIGN_BATCHES", "KV_SIGN_LEDGER", "KV_SIGN_LOCKS", "KV_SIGN_WORKERS", "KV_SIGN_CONTROL", "ELSE",
	} {
		for _, what := range []string{
			"CREATE", "UPDATE", "DELETE", "PURGE", "MSG.DELETE", "SNAPSHOT", "RESTORE", "LEADER.STEPDOWN", "PEER.REMOVE",
		} {
			subjects = append(subjects, "$JS.API.STREAM."+what+"."+stream)
		}
	}
	return subjects
}

// TestRolesMayNoMore tries, role by role, what others may.
func TestRolesMayNoMore(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	for role, subjects := range map[string][]string{
		"submitter": {
			"sign.request.event.hook.b",                                                                                // the webhook's
			"sign.request.bulk.00",                                                                                     // no batch
			"sign.outcome.b.i.0", "sign.dead.b.i.0", "$KV.SIGN_LEDGER.b.i.0", "$KV.SIGN_LOCKS.l", "$KV.SIGN_WORKERS.w", // the worker's
			"$KV.SIGN_CONTROL.lane.bulk", // the operator's
			"$JS.API.STREAM.CREATE.SIGN_REQUESTS", "$JS.API.STREAM.UPDATE.SIGN_OUTCOMES",
			"$JS.API.STREAM.DELETE.SIGN_OUTCOMES", "$JS.API.STREAM.PURGE.SIGN_REQUESTS", "$JS.API.STREAM.PURGE.KV_SIGN_BATCHES",
			"$JS.API.STREAM.MSG.DELETE.SIGN_OUTCOMES", "$JS.API.STREAM.SNAPSHOT.SIGN_OUTCOMES", "$JS.API.STREAM.NAMES",
			// Requests are the workers' alone to take.
			"$JS.API.CONSUMER.CREATE.SIGN_REQUESTS.c.sign.request.bulk.00.*", "$JS.API.CONSUMER.CREATE.SIGN_OUTCOMES",
			"$JS.API.CONSUMER.DURABLE.CREATE.SIGN_OUTCOMES.c",
			"$JS.API.CONSUMER.MSG.NEXT.SIGN_REQUESTS.bulk-00", "$JS.API.CONSUMER.DELETE.SIGN_REQUESTS.bulk-00",
			"$JS.API.DIRECT.GET.SIGN_REQUESTS.sign.request.bulk.00.b", "$JS.ACK.SIGN_REQUESTS.bulk-00.1.1.1.1.0",
			"_INBOX.worker.x", "_INBOX.submitter.x",
		},
		"webhook": {
			"sign.request.bulk.00.b", // the submitter's
			"sign.outcome.b.i.0", "sign.dead.b.i.0", "$KV.SIGN_LEDGER.b.i.0", "$KV.SIGN_LOCKS.l", "$KV.SIGN_WORKERS.w",
			"$KV.SIGN_CONTROL.lane.event",
			"$JS.API.STREAM.CREATE.SIGN_REQUESTS", "$JS.API.STREAM.PURGE.SIGN_REQUESTS",
			"$JS.API.CONSUMER.CREATE.SIGN_OUTCOMES.c.sign.outcome.>", "$JS.API.CONSUMER.MSG.NEXT.SIGN_REQUESTS.event",
			"$JS.API.DIRECT.GET.SIGN_OUTCOMES.sign.outcome.b.i.0",
			"_INBOX.submitter.x",
		},
		"worker": {
			"sign.request.bulk.00.b", "sign.request.event.hook.b", "$KV.SIGN_BATCHES.b", // the submitter's and the webhook's
			"$KV.SIGN_CONTROL.lane.bulk",
			"sign.outcome.b.i", "sign.outcome.b.i.0.1", // no outcome of a request
			"$JS.API.STREAM.CREATE.SIGN_REQUESTS", "$JS.API.STREAM.UPDATE.SIGN_REQUESTS", "$JS.API.STREAM.DELETE.SIGN_REQUESTS",
			"$JS.API.STREAM.PURGE.SIGN_REQUESTS", "$JS.API.STREAM.MSG.DELETE.SIGN_OUTCOMES", "$JS.API.STREAM.PURGE.KV_SIGN_LOCKS",
			"$JS.API.CONSUMER.CREATE.SIGN_REQUESTS.bulk-16.sign.request.bulk.16.*", "$JS.API.CONSUMER.DELETE.SIGN_REQUESTS.bulk-00",
			"$JS.API.CONSUMER.CREATE.SIGN_OUTCOMES.c.sign.outcome.>",
			"_INBOX.submitter.x",
		},
		"operator": {"elsewhere", "_INBOX.submitter.x"},
	} {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			c := connect(t, s, role)
			if role != "operator" {
				subjects = append(subjects, operatorsOwn...)
			}
			for _, subject := range subjects {
				require.True(t, c.refusesPublish(subject), subject)
			}
			for _, subject := range []string{">", "sign.>", "sign.outcome.>", "$KV.>", "$JS.API.>", "$JS.ACK.>"} {
				require.True(t, c.refusesSubscribe(subject), subject)
			}
			require.Equal(t, role != "operator", c.refusesSubscribe("_INBOX.>"))
			for _, other := range roles {
				// Whoever does another role's work with the operator's credentials is
				// told its answers.
				own := other == role || role == "operator"
				require.Equal(t, !own, c.refusesSubscribe("_INBOX."+other+".>"), other)
			}
		})
	}
}

func TestServerKnowsItsClients(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	for name, url := range map[string]string{
		"nobody":             "nats://" + s.address,
		"no password":        "nats://worker:@" + s.address,
		"another's password": "nats://operator:" + passwordOf("worker") + "@" + s.address,
		"hash as password":   "nats://worker:%242a%2404@" + s.address,
	} {
		_, err := nats.Connect(url)
		require.ErrorIs(t, err, nats.ErrAuthorization, name)
	}
}

// client is a client who knows nothing of the project, and is told what the
// server refuses him.
type client struct {
	t       *testing.T
	nc      *nats.Conn
	refused chan string
}

func connect(t *testing.T, s server, role string) client {
	t.Helper()
	refused := make(chan string, 64)
	nc, err := nats.Connect(s.url(role), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		refused <- err.Error()
	}))
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	return client{t, nc, refused}
}

// refusesPublish reports whether the server refuses a message. It says nothing of
// one that it takes: the fence behind it is refused in any case.
func (c client) refusesPublish(subject string) bool {
	c.t.Helper()
	require.NoError(c.t, c.nc.Publish(subject, nil))
	require.NoError(c.t, c.nc.Publish(fence, nil))
	return c.firstRefusal("Publish", subject)
}

func (c client) refusesSubscribe(subject string) bool {
	c.t.Helper()
	sub, err := c.nc.SubscribeSync(subject)
	require.NoError(c.t, err)
	require.NoError(c.t, c.nc.Publish(fence, nil))
	refused := c.firstRefusal("Subscription", subject)
	require.NoError(c.t, sub.Unsubscribe())
	return refused
}

func (c client) firstRefusal(what, subject string) bool {
	c.t.Helper()
	require.NoError(c.t, c.nc.Flush())
	first := c.refusal()
	if strings.Contains(first, fence) {
		return false
	}
	require.Contains(c.t, strings.ToLower(first), strings.ToLower(what+` to "`+subject+`"`))
	require.Contains(c.t, c.refusal(), fence)
	return true
}

func (c client) refusal() string {
	c.t.Helper()
	select {
	case text := <-c.refused:
		return text
	case <-time.After(patience):
		require.Fail(c.t, "the server refused nothing")
		return ""
	}
}
