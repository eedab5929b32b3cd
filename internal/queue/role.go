package queue

import (
	"context"
	"errors"

	"github.com/nats-io/nats.go"
)

// Role is the part that a process has in a fleet. A server that knows roles
// gives each its own permissions, and its own prefix for the inboxes of answers,
// so that none reads what another is told.
type Role string

// The roles there are.
const (
	RoleSubmitter Role = "submitter" // publishes requests of the bulk lane, reads records
	RoleWebhook   Role = "webhook"   // publishes requests of the event lane
	RoleWorker    Role = "worker"    // consumes requests, writes records
	RoleOperator  Role = "operator"  // sets up streams, pauses lanes and hosts
)

// inboxPrefix is how the inboxes of a role begin.
func (r Role) inboxPrefix() string {
	if r == "" {
		return "_INBOX"
	}
	return "_INBOX." + string(r)
}

func (r Role) known() bool {
	switch r {
	case "", RoleSubmitter, RoleWebhook, RoleWorker, RoleOperator:
		return true
	}
	return false
}

// checkInbox refuses the credentials of another role: the server would tell this
// connection no answers, and all it asks would end by its patience alone.
func checkInbox(ctx context.Context, nc *nats.Conn, role Role) error {
	ctx, cancel := ask(ctx)
	defer cancel()
	sub, err := nc.SubscribeSync(nc.NewInbox())
	if err != nil {
		return err
	}
	defer sub.Unsubscribe() //nolint:errcheck // its only failure is a connection that is gone
	// A refusal comes before the answer to the flush.
	if err := nc.FlushWithContext(ctx); err != nil {
		return err
	}
	if errors.Is(nc.LastError(), nats.ErrPermissionViolation) {
		return &DeniedError{Subject: role.inboxPrefix() + ".>"}
	}
	return nil
}
