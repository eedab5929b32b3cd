package deploy_test

import (
	"crypto/tls"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/queue/queuetest"
)

// withTLS is what deploy/nats/tls.conf says to do to have it.
func withTLS(t *testing.T) (dir string) {
	t.Helper()
	return changed(t, "server.conf", func(text string) string { return text + "\ninclude \"tls.conf\"\n" })
}

// TestCertificatesOnBothSides runs a fleet with deploy/nats/tls.conf.
func TestCertificatesOnBothSides(t *testing.T) {
	t.Parallel()
	servers, clients := queuetest.NewAuthority(t, "servers"), queuetest.NewAuthority(t, "clients")
	s := launchIn(t, withTLS(t), "server.conf", tlsEnv(t, servers, clients)).ready(t)
	cert, key := clients.Issue(t, "client")

	// A certificate alone is nobody, and a user without one does not get in.
	_, err := nats.Connect(s.url("worker"), nats.RootCAs(servers.File))
	require.Error(t, err)
	strangersCert, strangersKey := servers.Issue(t, "stranger")
	_, err = nats.Connect(s.url("worker"), nats.RootCAs(servers.File), nats.ClientCert(strangersCert, strangersKey))
	require.Error(t, err)
	_, err = nats.Connect(s.url("worker"), nats.Secure(&tls.Config{InsecureSkipVerify: true}))
	require.Error(t, err)
	_, err = nats.Connect("nats://"+s.address, nats.RootCAs(servers.File), nats.ClientCert(cert, key))
	require.ErrorIs(t, err, nats.ErrAuthorization)

	f := newFleet(t, func(string) string { return "tls://" + s.address })
	f.more = func(role string) []string {
		return []string{
			"SIGNFLEET_NATS_USER=" + role, "SIGNFLEET_NATS_PASSWORD_FILE=" + f.list(role+".txt", passwordOf(role)),
			"SIGNFLEET_NATS_CA=" + servers.File, "SIGNFLEET_NATS_CERT=" + cert, "SIGNFLEET_NATS_KEY=" + key,
		}
	}
	requireWorks(t, f, "SIGN")
	require.Contains(t, f.run(1, "submitter", "sign-submit", "batches", "--nats-ca", clients.File), "the server's certificate is of no authority in "+clients.File)
}

func tlsEnv(t *testing.T, servers, clients *queuetest.Authority) []string {
	t.Helper()
	cert, key := servers.Issue(t, "server")
	return []string{"SIGNFLEET_SERVER_CERT=" + cert, "SIGNFLEET_SERVER_KEY=" + key, "SIGNFLEET_CLIENT_CA=" + clients.File}
}

// TestUsersWithNKeys runs a fleet whose users have nkeys in the place of passwords,
// as deploy/nats/roles.conf says.
func TestUsersWithNKeys(t *testing.T) {
	t.Parallel()
	publics, seeds := make(map[string]string), make(map[string]string)
	for _, role := range roles {
		key, err := nkeys.CreateUser()
		require.NoError(t, err)
		publics[role], err = key.PublicKey()
		require.NoError(t, err)
		seed, err := key.Seed()
		require.NoError(t, err)
		seeds[role] = string(seed)
	}
	dir := changed(t, "roles.conf", func(text string) string {
		for _, role := range roles {
			had := "user: " + role + "\n        password: $SIGNFLEET_" + strings.ToUpper(role) + "_PASSWORD\n"
			require.Contains(t, text, had)
			text = strings.Replace(text, had, "nkey: "+publics[role]+"\n", 1)
		}
		return text
	})
	s := launchIn(t, dir, "server.conf", nil).ready(t)
	_, err := nats.Connect(s.url("worker"))
	require.ErrorIs(t, err, nats.ErrAuthorization)

	f := newFleet(t, func(string) string { return "nats://" + s.address })
	f.more = func(role string) []string { return []string{"SIGNFLEET_NATS_NKEY=" + f.list(role+".nk", seeds[role])} }
	requireWorks(t, f, "SIGN")
	require.Contains(t, f.run(1, "worker", "sign-worker", "setup"), "needs the credentials of the operator")
	for _, output := range f.outputs() {
		for _, seed := range seeds {
			require.NotContains(t, output, seed)
		}
	}
}
