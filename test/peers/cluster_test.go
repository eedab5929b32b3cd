package peers_test

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/test/peers"
)

func TestClusterKeepsItsStreamsWithoutTheirLeader(t *testing.T) {
	t.Parallel()
	cluster, err := peers.StartNATSCluster(t.Context(), peers.NATSOptions{SyncInterval: "1s", MaxFileStore: 1 << 30})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, cluster.Close()) })
	put := func(ctx context.Context, js jetstream.JetStream) {
		_, err := js.Publish(ctx, "kept.one", []byte("1"), jetstream.WithRetryAttempts(100))
		require.NoError(t, err)
	}
	withJetStream(t, cluster.URL(), func(ctx context.Context, js jetstream.JetStream) {
		_, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "KEPT", Subjects: []string{"kept.>"}, Replicas: 3})
		require.NoError(t, err)
		put(ctx, js)
	})
	first, err := cluster.Leader(t.Context(), "KEPT")
	require.NoError(t, err)

	require.NoError(t, first.Kill())
	require.False(t, first.Running())
	second, err := cluster.Leader(t.Context(), "KEPT")
	require.NoError(t, err)
	require.NotSame(t, first, second)
	withJetStream(t, second.URL(), put)

	require.NoError(t, first.Start(t.Context()))
	require.NoError(t, cluster.AwaitCurrent(t.Context()))
	withJetStream(t, first.URL(), func(ctx context.Context, js jetstream.JetStream) {
		stream, err := js.Stream(ctx, "KEPT")
		require.NoError(t, err)
		require.EqualValues(t, 2, stream.CachedInfo().State.Msgs)
	})
}

func TestTCPProxyCutsAndStalls(t *testing.T) {
	t.Parallel()
	server, err := peers.StartNATS(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Close()) })
	proxy, err := peers.StartTCPProxy(t.Context(), server.Address())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, proxy.Close()) })
	lost, back := make(chan struct{}, 1), make(chan struct{}, 1)
	conn, err := nats.Connect("nats://"+proxy.Address(), nats.MaxReconnects(-1), nats.ReconnectWait(nats.DefaultReconnectWait/100),
		nats.DisconnectErrHandler(func(*nats.Conn, error) { lost <- struct{}{} }),
		nats.ReconnectHandler(func(*nats.Conn) { back <- struct{}{} }))
	require.NoError(t, err)
	t.Cleanup(conn.Close)
	require.NoError(t, conn.Flush())

	require.Equal(t, 1, proxy.Cut())
	<-lost
	<-back
	require.NoError(t, conn.Flush())

	proxy.StallAfter(100)
	require.NoError(t, conn.Publish("any", make([]byte, 200)))
	<-proxy.Stalled()
	require.ErrorIs(t, conn.FlushTimeout(50*time.Millisecond), nats.ErrTimeout)
	proxy.Resume()
	require.NoError(t, conn.Flush())

	// A stalled link can be cut, and then nothing comes back while the proxy refuses.
	proxy.Stall()
	proxy.Refuse(true)
	proxy.Cut()
	<-lost
	refused, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", proxy.Address())
	require.NoError(t, err)
	_, err = refused.Read(make([]byte, 1))
	require.Error(t, err)
	require.NoError(t, refused.Close())
	proxy.Refuse(false)
	proxy.Resume()
	<-back
	require.NoError(t, conn.Flush())
}
