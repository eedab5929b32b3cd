package queue_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"
	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/queue/queuetest"
)

// served starts a server with a configuration, at a port if that is not 0.
func served(t *testing.T, port int, config string) *server.Server {
	t.Helper()
	return queuetest.StartServerWith(t, func(o *server.Options) {
		if config != "" {
			require.NoError(t, o.ProcessConfigString(config))
		}
		if port != 0 {
			o.Port = port
		}
	})
}

// again ends a server and starts one with another configuration in its place.
func again(t *testing.T, srv *server.Server, config string) *server.Server {
	t.Helper()
	port := portOf(srv)
	srv.Shutdown()
	srv.WaitForShutdown()
	return served(t, port, config)
}

func portOf(srv *server.Server) int {
	return srv.Addr().(*net.TCPAddr).Port //nolint:forcetypeassert // a test may panic
}

// written is a file with a content.
func written(t *testing.T, name, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(file, []byte(content), 0o600))
	return file
}

func rewrite(t *testing.T, file, content string) {
	t.Helper()
	require.NoError(t, os.WriteFile(file, []byte(content), 0o600))
}

// user is a new user of nkeys.
func user(t *testing.T) (public, seed string) {
	t.Helper()
	return keyOf(t, nkeys.CreateUser)
}

func keyOf(t *testing.T, create func() (nkeys.KeyPair, error)) (public, seed string) {
	t.Helper()
	key, err := create()
	require.NoError(t, err)
	public, err = key.PublicKey()
	require.NoError(t, err)
	secret, err := key.Seed()
	require.NoError(t, err)
	return public, string(secret)
}

// tenant is an account of a server whose users come with credentials, signed by
// the account.
type tenant struct {
	account nkeys.KeyPair
	config  string // of the server
}

func newTenant(t *testing.T) *tenant {
	t.Helper()
	operator, err := nkeys.CreateOperator()
	require.NoError(t, err)
	account, err := nkeys.CreateAccount()
	require.NoError(t, err)
	operatorID, err := operator.PublicKey()
	require.NoError(t, err)
	operatorJWT, err := jwt.NewOperatorClaims(operatorID).Encode(operator)
	require.NoError(t, err)
	// JetStream wants an account of the server's own beside it.
	system, err := nkeys.CreateAccount()
	require.NoError(t, err)
	var ids, tokens []string
	for _, key := range []nkeys.KeyPair{account, system} {
		id, err := key.PublicKey()
		require.NoError(t, err)
		claims := jwt.NewAccountClaims(id)
		if len(ids) == 0 {
			claims.Limits.JetStreamLimits = jwt.JetStreamLimits{MemoryStorage: -1, DiskStorage: -1}
		}
		token, err := claims.Encode(operator)
		require.NoError(t, err)
		ids, tokens = append(ids, id), append(tokens, token)
	}
	return &tenant{account: account, config: fmt.Sprintf("operator: %q\nsystem_account: %s\nresolver: MEMORY\nresolver_preload: { %s: %q, %s: %q }\n",
		operatorJWT, ids[1], ids[0], tokens[0], ids[1], tokens[1])}
}

// creds are those of a new user, who is one for so long.
func (a *tenant) creds(t *testing.T, life time.Duration) (text, seed string) {
	t.Helper()
	public, seed := user(t)
	claims := jwt.NewUserClaims(public)
	claims.Expires = time.Now().Add(life).Unix()
	token, err := claims.Encode(a.account)
	require.NoError(t, err)
	config, err := jwt.FormatUserConfig(token, []byte(seed))
	require.NoError(t, err)
	return string(config), seed
}

// With each way to be a user one is who one says, and with none one is nobody.
func TestServerKnowsItsUsers(t *testing.T) {
	t.Parallel()
	account := newTenant(t)
	creds, _ := account.creds(t, time.Hour)
	public, seed := user(t)
	file := func(content string) string { return written(t, "secret", content) }
	for name, c := range map[string]struct {
		config string
		o      queue.Options
	}{
		"creds":                     {account.config, queue.Options{Creds: file(creds)}},
		"nkey":                      {"authorization { users: [ { nkey: " + public + " } ] }", queue.Options{NKey: file(seed + "\n")}},
		"nkey with a comment":       {"authorization { users: [ { nkey: " + public + " } ] }", queue.Options{NKey: file("# of the worker\n" + seed)}},
		"user and password":         {"authorization { user: worker, password: 'pass words' }", queue.Options{User: "worker", PasswordFile: file("pass words\n")}},
		"password with a line end":  {"authorization { user: worker, password: 'p4ss' }", queue.Options{User: "worker", PasswordFile: file("p4ss\r\n")}},
		"a password with URL signs": {`authorization { user: worker, password: "p/@:%?#" }`, queue.Options{User: "worker", PasswordFile: file("p/@:%?#")}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := served(t, 0, c.config)
			conn := connect(t, srv, c.o)
			publish(t, conn, 0, "b", 1)
			require.NoError(t, one(t, conn.BulkLane()).Done(within(t)))
			_, err := queue.Connect(within(t), queue.Options{URL: srv.ClientURL()})
			require.ErrorContains(t, err, "give the user of this role: with nats-creds, nats-nkey, or nats-user and nats-password-file, or in nats-url")
		})
	}
}

// A user whom the server does not know is told what to look at, and nothing that
// is secret.
func TestRefusalsHaveRemediesAndNoSecrets(t *testing.T) {
	t.Parallel()
	account := newTenant(t)
	strangers, strangersSeed := newTenant(t).creds(t, time.Hour)
	expired, expiredSeed := account.creds(t, -time.Hour)
	public, seed := user(t)
	other, _ := user(t)
	file := func(content string) string { return written(t, "secret", content) }
	nkeyConfig := "authorization { users: [ { nkey: " + other + " } ] }"
	const passwordConfig = "authorization { user: worker, password: right }"
	nkey, password, lost := file(seed), file("s3cret"), file(strangers)
	for name, c := range map[string]struct {
		config string
		o      queue.Options
		secret string
		says   []string
	}{
		"creds of another operator": {account.config, queue.Options{Creds: lost}, strangersSeed, []string{lost, "nats-creds", "neither expired nor revoked"}},
		"expired creds":             {account.config, queue.Options{Creds: file(expired)}, expiredSeed, []string{"nats-creds", "neither expired nor revoked"}},
		"an unknown nkey":           {nkeyConfig, queue.Options{NKey: nkey}, seed, []string{nkey, "nats-nkey", "give the server a user with nkey " + public}},
		"a wrong password":          {passwordConfig, queue.Options{User: "worker", PasswordFile: password}, "s3cret", []string{password, "nats-user", "the user worker", "holds his password"}},
		"a wrong password in a URL": {passwordConfig, queue.Options{URL: "worker:s3cret@"}, "s3cret", []string{"nats-url", "%2F"}},
		"a token":                   {passwordConfig, queue.Options{URL: "s3cret@"}, "s3cret", []string{"nats-url"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := served(t, 0, c.config)
			c.o.URL = "nats://" + c.o.URL + srv.Addr().String()
			_, err := queue.Connect(within(t), c.o)
			require.Error(t, err)
			for _, says := range c.says {
				require.ErrorContains(t, err, says)
			}
			require.NotContains(t, err.Error(), c.secret)
		})
	}
}

// A file that cannot be used is named, with its option, and not what is in it. Not
// even a server that would take it is told.
func TestFilesOfTheConnectionAreNamed(t *testing.T) {
	t.Parallel()
	_, seed := user(t)
	_, account := keyOf(t, nkeys.CreateAccount)
	creds, _ := newTenant(t).creds(t, time.Hour)
	authority := queuetest.NewAuthority(t, "authority")
	cert, key := authority.Issue(t, "client")
	_, otherKey := authority.Issue(t, "other")
	file := func(content string) string { return written(t, "secret", content) }
	nowhere := filepath.Join(t.TempDir(), "nowhere")
	for _, c := range []struct {
		option, file, why string
		o                 func(file string) queue.Options
	}{
		{"nats-creds", nowhere, "no such file", func(f string) queue.Options { return queue.Options{Creds: f} }},
		{"nats-creds", file(""), "no credentials", func(f string) queue.Options { return queue.Options{Creds: f} }},
		{"nats-creds", file(seed), "no credentials", func(f string) queue.Options { return queue.Options{Creds: f} }},
		{"nats-creds", file(seed + "." + seed), "no credentials", func(f string) queue.Options { return queue.Options{Creds: f} }},
		{"nats-creds", key, "no credentials", func(f string) queue.Options { return queue.Options{Creds: f} }},
		{"nats-nkey", nowhere, "no such file", func(f string) queue.Options { return queue.Options{NKey: f} }},
		{"nats-nkey", file(""), "no seed", func(f string) queue.Options { return queue.Options{NKey: f} }},
		{"nats-nkey", file(seed[:20]), "no seed", func(f string) queue.Options { return queue.Options{NKey: f} }},
		{"nats-nkey", file(account), "of an account or an operator", func(f string) queue.Options { return queue.Options{NKey: f} }},
		{"nats-password-file", nowhere, "no such file", func(f string) queue.Options { return queue.Options{User: "worker", PasswordFile: f} }},
		{"nats-password-file", file("\n"), "no password", func(f string) queue.Options { return queue.Options{User: "worker", PasswordFile: f} }},
		{"nats-ca", nowhere, "no such file", func(f string) queue.Options { return queue.Options{CA: f} }},
		{"nats-ca", file(creds), "no certificate", func(f string) queue.Options { return queue.Options{CA: f} }},
		{"nats-cert", nowhere, "no such file", func(f string) queue.Options { return queue.Options{Cert: f, Key: key} }},
		{"nats-key", nowhere, "no such file", func(f string) queue.Options { return queue.Options{Cert: cert, Key: f} }},
		{"nats-cert", cert, "nats-key " + otherKey, func(f string) queue.Options { return queue.Options{Cert: f, Key: otherKey} }},
		{"nats-cert", file(seed), "nats-key " + key, func(f string) queue.Options { return queue.Options{Cert: f, Key: key} }},
	} {
		srv := queuetest.StartServer(t) // one that takes everybody
		o := c.o(c.file)
		o.URL = srv.ClientURL()
		_, err := queue.Connect(within(t), o)
		bad := new(queue.FileError)
		require.ErrorAs(t, err, &bad, c.option)
		require.Equal(t, c.option, bad.Option)
		require.Equal(t, c.file, bad.File)
		require.ErrorContains(t, err, c.option+": "+c.file+": ")
		require.ErrorContains(t, err, c.why)
		for _, secret := range []string{seed, seed[:20], account, "BEGIN", "PRIVATE"} {
			require.NotContains(t, err.Error(), secret)
		}
	}

	// A JWT whose seed is missing is found out by the server's first question.
	token, _, _ := strings.Cut(creds, "************************")
	o := queue.Options{URL: served(t, 0, newTenant(t).config).ClientURL(), Creds: file(token)}
	_, err := queue.Connect(within(t), o)
	bad := new(queue.FileError)
	require.ErrorAs(t, err, &bad)
	require.Equal(t, "nats-creds", bad.Option)
}

func TestOneUserIsGivenAndWhole(t *testing.T) {
	t.Parallel()
	const url = "nats://127.0.0.1:1"
	for says, o := range map[string]queue.Options{
		"nats-creds and nats-nkey do not go together":            {Creds: "c", NKey: "n"},
		"nats-creds and nats-user do not go together":            {Creds: "c", User: "u", PasswordFile: "p"},
		"nats-nkey and nats-user do not go together":             {NKey: "n", User: "u", PasswordFile: "p"},
		"nats-user and the user in nats-url do not go together":  {URL: "nats://a:b@127.0.0.1:1", User: "u", PasswordFile: "p"},
		"nats-creds and the user in nats-url do not go together": {URL: "nats://127.0.0.1:1, a:b@127.0.0.1:2", Creds: "c"},
		"nats-nkey and the user in nats-url do not go together":  {URL: "token@127.0.0.1", NKey: "n"},
		"nats-user: his password is missing":                     {User: "u"},
		"nats-password-file: whose password it holds":            {PasswordFile: "p"},
		"nats-cert: the private key":                             {Cert: "c"},
		"nats-key: the certificate":                              {Key: "k"},
	} {
		if o.URL == "" {
			o.URL = url
		}
		require.ErrorContains(t, o.Validate(), says)
		require.NotContains(t, o.Validate().Error(), "a:b")
	}
	for _, o := range []queue.Options{
		{Creds: "c", CA: "a"}, {NKey: "n", Cert: "c", Key: "k"}, {User: "u", PasswordFile: "p", CA: "a", Cert: "c", Key: "k"},
		{URL: "nats://a:b@127.0.0.1:1", CA: "a"},
	} {
		if o.URL == "" {
			o.URL = url
		}
		require.NoError(t, o.Validate())
	}
}

// The accounts of a server are apart: two fleets in two of them, with the same
// names, do not meet.
func TestFleetsOfTwoAccountsDoNotMeet(t *testing.T) {
	t.Parallel()
	srv := served(t, 0, `accounts {
		ONE { jetstream: enabled, users: [ { user: one, password: p1 } ] }
		TWO { jetstream: enabled, users: [ { user: two, password: p2 } ] }
	}`)
	requireApart(t,
		connect(t, srv, queue.Options{User: "one", PasswordFile: written(t, "one", "p1")}),
		connect(t, srv, queue.Options{User: "two", PasswordFile: written(t, "two", "p2")}))
}

// told collects what is said of a connection.
type told struct {
	mu   sync.Mutex
	text []string
}

// in fills those options that tell of the connection.
func (w *told) in(o queue.Options) queue.Options {
	o.OnDisconnect = func(err error) { w.say("lost: " + err.Error()) }
	o.OnReconnect = func(string) { w.say("connected again") }
	return o
}

func (w *told) say(text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text = append(w.text, text)
}

func (w *told) count(text string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, line := range w.text {
		n += strings.Count(line, text)
	}
	return n
}

// A password, credentials and certificates may be others by the time that a lost
// connection is made again; what keeps it from that is told, once.
func TestRotatedFilesCount(t *testing.T) {
	t.Parallel()
	authority, next := queuetest.NewAuthority(t, "first"), queuetest.NewAuthority(t, "next")
	cert, key := authority.Issue(t, "client")
	nextCert, nextKey := next.Issue(t, "client")
	account, nextAccount := newTenant(t), newTenant(t)
	creds, _ := account.creds(t, time.Hour)
	nextCreds, nextSeed := nextAccount.creds(t, time.Hour)
	password, credsFile := written(t, "password", "p1"), written(t, "creds", creds)
	files := map[string]string{}
	for name, source := range map[string]string{"ca": authority.File, "cert": cert, "key": key} {
		files[name] = written(t, name, contentOf(t, source))
	}
	for name, c := range map[string]struct {
		config, next string
		o            queue.Options
		rotate       func()
		says         string // of what is in the way until the files are others; "" where nothing tells
		secret       string
	}{
		"password": {
			"authorization { user: worker, password: p1 }", "authorization { user: worker, password: s3cret }",
			queue.Options{User: "worker", PasswordFile: password},
			func() { rewrite(t, password, "s3cret\n") }, password + " (nats-password-file) holds his password", "s3cret",
		},
		"creds": {
			account.config, nextAccount.config, queue.Options{Creds: credsFile},
			func() { rewrite(t, credsFile, nextCreds) }, "see that the credentials in " + credsFile, nextSeed,
		},
		"certificates": {
			tlsConfig(t, authority), tlsConfig(t, next), queue.Options{CA: files["ca"], Cert: files["cert"], Key: files["key"]},
			func() {
				for name, source := range map[string]string{"ca": next.File, "cert": nextCert, "key": nextKey} {
					rewrite(t, files[name], contentOf(t, source))
				}
			}, "", "PRIVATE",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := served(t, 0, c.config)
			w := &told{}
			conn := connect(t, srv, w.in(c.o))
			srv = again(t, srv, c.next)
			if c.says != "" {
				eventually(t, func() bool { return w.count(c.says) > 0 }, "nothing is told")
			}
			require.Zero(t, w.count("connected again"))
			c.rotate()
			eventually(t, func() bool { return w.count("connected again") == 1 }, "no connection with the new files")
			_, err := conn.Setup(within(t)) // the new server has a store of its own
			require.NoError(t, err)
			if c.says != "" {
				require.Equal(t, 1, w.count(c.says), "the same is told again and again")
			}
			require.Zero(t, w.count(c.secret))
			conn.Close()
			srv.Shutdown()
		})
	}
}

// A file that is gone when a connection is lost is named, and read when it is back.
func TestFileThatIsGoneIsTold(t *testing.T) {
	t.Parallel()
	public, seed := user(t)
	_, other := user(t)
	authority := queuetest.NewAuthority(t, "authority")
	for name, c := range map[string]struct {
		config, content string
		o               func(file string) queue.Options
		bad, says       string
	}{
		"password": {
			"authorization { user: worker, password: p1 }", "p1",
			func(f string) queue.Options { return queue.Options{User: "worker", PasswordFile: f} }, "", "no password",
		},
		"nkey of another": {
			"authorization { users: [ { nkey: " + public + " } ] }", seed,
			func(f string) queue.Options { return queue.Options{NKey: f} }, other, "it holds the seed of another user than " + public,
		},
		"authorities": {
			tlsConfig(t, authority), contentOf(t, authority.File),
			func(f string) queue.Options {
				cert, key := authority.Issue(t, "client")
				return queue.Options{CA: f, Cert: cert, Key: key}
			}, "rubbish", "no certificate",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := written(t, "file", c.content)
			srv := served(t, 0, c.config)
			w := &told{}
			connect(t, srv, w.in(c.o(file)))
			require.Zero(t, w.count("lost"))
			rewrite(t, file, c.bad)
			again(t, srv, c.config)
			eventually(t, func() bool { return w.count(c.says) > 0 }, "nothing is told")
			require.Zero(t, w.count(seed)+w.count(other))
			rewrite(t, file, c.content)
			eventually(t, func() bool { return w.count("connected again") == 1 }, "no connection again")
			require.Equal(t, 1, w.count(c.says))
		})
	}
}

func contentOf(t *testing.T, file string) string {
	t.Helper()
	content, err := os.ReadFile(file)
	require.NoError(t, err)
	return string(content)
}
