package deploy_test

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

// TestClusterOutlivesOneServer runs three servers with the one file of
// deploy/nats, and takes away the one that matters most. Whoever is at work goes
// on, and whoever starts before the others have agreed on a successor waits.
func TestClusterOutlivesOneServer(t *testing.T) {
	t.Parallel()
	members, urls := startCluster(t)
	f := newFleet(t, urls)
	first, second := f.push("team/app:1"), f.push("team/app:2")
	require.Contains(t, f.setup("--replicas", "3"), "stream SIGN_REQUESTS: made")
	worker := f.worker()
	f.run(0, "submitter", "sign-submit", "--file", f.list("one.txt", first))
	f.requireSigned(first)

	require.NoError(t, members[leaderOf(t, urls("operator"), "SIGN_REQUESTS")].Kill())
	submission := f.start("submitter", "sign-submit", "--file", f.list("two.txt", second))
	status := f.start("submitter", "sign-submit", "status")
	another := f.worker()
	require.Contains(t, f.setup("--replicas", "3"), "everything is set up as it should be")

	f.end(0, status)
	f.end(0, submission)
	f.requireSigned(second)
	f.drain(worker)
	f.drain(another)
}

// startCluster starts three servers with deploy/nats/cluster.conf as it is; only
// where they listen is the test's. It returns them by their names, and what a role
// connects to.
func startCluster(t *testing.T) (members map[string]natsProcess, urls func(role string) string) {
	t.Helper()
	const size = 3
	var addresses, routes []string
	for range size {
		address := freeAddress(t)
		addresses, routes = append(addresses, address), append(routes, "nats://"+address)
	}
	members = make(map[string]natsProcess)
	for i, address := range addresses {
		name := fmt.Sprintf("nats-%d", i+1)
		members[name] = launch(t, "cluster.conf", []string{
			"SIGNFLEET_NATS_NAME=" + name,
			"SIGNFLEET_NATS_ROUTES=[" + strings.Join(routes, ", ") + "]",
			"SIGNFLEET_ROUTE_PASSWORD=secret-of-servers",
		}, "--cluster_listen", "nats://"+address)
	}
	var servers []server
	for _, member := range members {
		servers = append(servers, member.ready(t))
	}
	return members, func(role string) string {
		all := make([]string, 0, size)
		for _, s := range servers {
			all = append(all, s.url(role))
		}
		return strings.Join(all, ",")
	}
}

// leaderOf returns the name of the member that leads a stream of three copies.
func leaderOf(t *testing.T, url, stream string) string {
	t.Helper()
	nc, err := nats.Connect(url)
	require.NoError(t, err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	s, err := js.Stream(t.Context(), stream)
	require.NoError(t, err)
	cluster := s.CachedInfo().Cluster
	require.Len(t, cluster.Replicas, 2)
	require.NotEmpty(t, cluster.Leader)
	return cluster.Leader
}

// freeAddress chooses a port below those that systems give to clients.
func freeAddress(t *testing.T) string {
	t.Helper()
	var config net.ListenConfig
	for range 100 {
		address := fmt.Sprintf("127.0.0.1:%d", 12000+rand.IntN(20000))
		listener, err := config.Listen(t.Context(), "tcp", address)
		if err == nil {
			require.NoError(t, listener.Close())
			return address
		}
	}
	require.Fail(t, "no free port")
	return ""
}
