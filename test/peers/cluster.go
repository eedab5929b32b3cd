package peers

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
)

// clusterPlace is where a nats-server stands in its cluster.
type clusterPlace struct {
	name    string
	address string   // for the other servers
	routes  []string // to all servers
}

// NATSCluster is some nats-servers that share their streams.
type NATSCluster struct {
	servers []*NATS
}

// StartNATSCluster starts a cluster of three servers and waits until it can
// make streams. Close it.
func StartNATSCluster(ctx context.Context, o NATSOptions) (*NATSCluster, error) {
	var err error
	for range 3 { // somebody else may take a port between its choice and its use
		var c *NATSCluster
		if c, err = newCluster(ctx, o); err != nil {
			return nil, err
		}
		if err = c.start(ctx); err == nil {
			return c, nil
		}
		err = errors.Join(err, c.Close())
	}
	return nil, err
}

func newCluster(ctx context.Context, o NATSOptions) (*NATSCluster, error) {
	const size = 3
	c := &NATSCluster{}
	var routes []string
	for range size {
		address, err := freeAddress(ctx)
		if err != nil {
			return nil, errors.Join(err, c.Close())
		}
		routes = append(routes, "nats://"+address)
	}
	for i, route := range routes {
		server, err := newNATS(o)
		if err != nil {
			return nil, errors.Join(err, c.Close())
		}
		server.cluster = &clusterPlace{
			name: "n" + strconv.Itoa(i+1), address: strings.TrimPrefix(route, "nats://"), routes: routes,
		}
		c.servers = append(c.servers, server)
	}
	return c, nil
}

// freeAddress chooses a port below those that systems give to clients: it is to
// be free again after a restart.
func freeAddress(ctx context.Context) (string, error) {
	var config net.ListenConfig
	var err error
	for range 100 {
		address := "127.0.0.1:" + strconv.Itoa(12000+rand.IntN(20000))
		var listener net.Listener
		if listener, err = config.Listen(ctx, "tcp", address); err == nil {
			return address, listener.Close()
		}
	}
	return "", fmt.Errorf("no free port: %w", err)
}

// start starts all servers at once: none is ready without the others.
func (c *NATSCluster) start(ctx context.Context) error {
	var starts errgroup.Group
	for _, server := range c.servers {
		starts.Go(func() error { return server.Start(ctx) })
	}
	if err := starts.Wait(); err != nil {
		return err
	}
	return c.ask(ctx, "elect a leader", func(ctx context.Context, js jetstream.JetStream) error {
		_, err := js.AccountInfo(ctx)
		return err
	})
}

// URL returns what clients connect to: all servers.
func (c *NATSCluster) URL() string {
	urls := make([]string, len(c.servers))
	for i, server := range c.servers {
		urls[i] = server.URL()
	}
	return strings.Join(urls, ",")
}

// Servers are the members.
func (c *NATSCluster) Servers() []*NATS { return c.servers }

// Logs returns the last output of the processes.
func (c *NATSCluster) Logs() string {
	var all strings.Builder
	for _, server := range c.servers {
		fmt.Fprintf(&all, "%s:\n%s\n", server.cluster.name, server.Logs())
	}
	return all.String()
}

// Leader returns the member that leads a stream.
func (c *NATSCluster) Leader(ctx context.Context, stream string) (*NATS, error) {
	var leader *NATS
	err := c.ask(ctx, "find the leader of "+stream, func(ctx context.Context, js jetstream.JetStream) error {
		s, err := js.Stream(ctx, stream)
		if err != nil {
			return err
		}
		info := s.CachedInfo().Cluster
		if info == nil || info.Leader == "" {
			return errors.New("there is none")
		}
		for _, server := range c.servers {
			if server.cluster.name == info.Leader {
				leader = server
				return nil
			}
		}
		return fmt.Errorf("it is %s, which is not of this cluster", info.Leader)
	})
	return leader, err
}

// AwaitCurrent waits until all replicas of all streams have all that is stored.
func (c *NATSCluster) AwaitCurrent(ctx context.Context) error {
	return c.ask(ctx, "catch up", func(ctx context.Context, js jetstream.JetStream) error {
		streams := js.ListStreams(ctx)
		for info := range streams.Info() {
			if info.Cluster == nil || info.Cluster.Leader == "" {
				return fmt.Errorf("%s has no leader", info.Config.Name)
			}
			for _, replica := range info.Cluster.Replicas {
				if replica.Offline || !replica.Current {
					return fmt.Errorf("%s of %s is behind", replica.Name, info.Config.Name)
				}
			}
		}
		return streams.Err()
	})
}

// Close ends the processes and removes the stores.
func (c *NATSCluster) Close() error {
	errs := make([]error, 0, len(c.servers))
	for _, server := range c.servers {
		errs = append(errs, server.Close())
	}
	return errors.Join(errs...)
}

// ask repeats a question until it is answered, for up to a minute.
func (c *NATSCluster) ask(ctx context.Context, what string, question func(context.Context, jetstream.JetStream) error) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	conn, err := nats.Connect(c.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond), nats.RetryOnFailedConnect(true))
	if err != nil {
		return err
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		return err
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		try, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := question(try, js)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("the cluster does not %s: %w\n%s", what, err, c.Logs())
		}
	}
}
