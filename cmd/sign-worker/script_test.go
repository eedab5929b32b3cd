package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/queue/queuetest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"sign-worker": main})
}

// TestScripts runs the promises of the command line, one file each. One with a
// file needs-nats has a NATS server of its own, at $NATS; one with needs-roles has
// one that knows roles, at $OPERATOR, $WORKER and $SUBMITTER, and for nobody at $NATS.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup:               setUpScript,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"ask":   ask,
			"exits": exits,
		},
	})
}

// asker sends a message to the NATS server of a script.
type asker func(subject string, data []byte)

type askerKey struct{}

func setUpScript(env *testscript.Env) error {
	t, ok := env.T().(testing.TB)
	if !ok {
		return errors.New("scripts run in go test only")
	}
	env.Setenv("HOME", env.Cd)
	key, err := plainKey()
	if err != nil {
		return err
	}
	shipped, err := os.ReadFile("../../configs/sign-worker.yaml")
	if err != nil {
		return err
	}
	if hasFile(env, "needs-nats") {
		nats := queuetest.StartServer(t)
		env.Values[askerKey{}] = asker(func(subject string, data []byte) { queuetest.Publish(t, nats, subject, data) })
		env.Setenv("NATS", nats.ClientURL())
	}
	if hasFile(env, "needs-roles") {
		url := queuetest.StartServerWithRoles(t, "../../deploy/nats/roles.conf")
		env.Setenv("NATS", url(""))
		env.Setenv("OPERATOR", url(queue.RoleOperator))
		env.Setenv("WORKER", url(queue.RoleWorker))
		env.Setenv("SUBMITTER", url(queue.RoleSubmitter))
	}
	return errors.Join(
		os.WriteFile(filepath.Join(env.Cd, "plain.key"), key, 0o600),
		os.WriteFile(filepath.Join(env.Cd, "shipped.yaml"), shipped, 0o600))
}

func hasFile(env *testscript.Env, name string) bool {
	_, err := os.Stat(filepath.Join(env.Cd, name))
	return err == nil
}

// ask asks the NATS server as somebody who is no client of the queue: ask SUBJECT FILE.
func ask(ts *testscript.TestScript, _ bool, args []string) {
	send, ok := ts.Value(askerKey{}).(asker)
	if !ok {
		ts.Fatalf("the script has no file needs-nats")
	}
	send(args[0], []byte(ts.ReadFile(args[1])))
}

// exits runs a program and checks its exit status: exits 2 sign-worker ...
func exits(ts *testscript.TestScript, _ bool, args []string) {
	got := 0
	err := ts.Exec(args[1], args[2:]...)
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if strconv.Itoa(got) != args[0] {
		ts.Fatalf("exit status %d, want %s", got, args[0])
	}
}

// plainKey is a new private key without a passphrase.
func plainKey() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}
