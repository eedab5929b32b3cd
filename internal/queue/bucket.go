package queue

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// bucket is a key-value bucket, by its name. The client's own KeyValue asks for
// the stream before its first use, cannot give a key a new life when it is
// changed, and hides the headers by which a forged value is known.
type bucket struct {
	conn *Conn
	name string
}

// value is what a bucket has under a key.
type value struct {
	data []byte
	// revision is that of the last change, also when this took the key away.
	revision uint64
}

// errKeyExists says that a key is there already.
var errKeyExists = errors.New("the key exists")

func (c *Conn) bucket(name string) bucket { return bucket{conn: c, name: name} }

func (b bucket) stream() string { return "KV_" + b.name }

func (b bucket) subject(key string) string { return "$KV." + b.name + "." + key }

// get reads a key. With ErrNone comes the revision of its removal, if there is a
// mark of it.
func (b bucket) get(ctx context.Context, key string) (value, error) {
	if err := checkKey(key); err != nil {
		return value{}, err
	}
	msg, err := b.conn.last(ctx, b.stream(), b.subject(key))
	if err != nil {
		return value{}, err
	}
	revision, err := strconv.ParseUint(msg.Header.Get(jetstream.SequenceHeader), 10, 64)
	if err != nil {
		return value{}, fmt.Errorf("read %s: revision: %w", b.subject(key), err)
	}
	if isMark(msg.Header) {
		return value{revision: revision}, ErrNone
	}
	return value{data: msg.Data, revision: revision}, nil
}

// isMark reports whether a message is the mark of a removed key: a client's, or
// the server's own at the end of a life.
func isMark(h nats.Header) bool {
	return h.Get("KV-Operation") != "" || h.Get(jetstream.MarkerReasonHeader) != ""
}

// put stores a key, whatever is there.
func (b bucket) put(ctx context.Context, key string, data []byte) error {
	_, err := b.publish(ctx, key, data, nil)
	return err
}

// create stores a key that is not there, or returns errKeyExists. The key ends
// after its life, unless that is zero.
func (b bucket) create(ctx context.Context, key string, data []byte, life time.Duration) (revision uint64, err error) {
	revision, err = b.update(ctx, key, data, life, 0)
	if !isWrongSequence(err) {
		return revision, err
	}
	// It is there, or the mark of its removal is.
	mark, readErr := b.get(ctx, key)
	switch {
	case readErr == nil || errors.Is(readErr, ErrUnreadable):
		return 0, errKeyExists
	case !errors.Is(readErr, ErrNone):
		return 0, readErr
	}
	revision, err = b.update(ctx, key, data, life, mark.revision)
	if isWrongSequence(err) {
		return 0, errKeyExists
	}
	return revision, err
}

// update stores a key whose last revision is known, with a new life.
func (b bucket) update(ctx context.Context, key string, data []byte, life time.Duration, revision uint64) (uint64, error) {
	header := nats.Header{}
	header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(revision, 10))
	if life > 0 {
		header.Set(jetstream.MsgTTLHeader, life.String())
	}
	return b.publish(ctx, key, data, header)
}

// purge takes a key away; with a revision only if that is its last one. The mark
// of it goes after a while: those of all images ever signed would fill the bucket.
func (b bucket) purge(ctx context.Context, key string, revision uint64) error {
	header := nats.Header{}
	header.Set("KV-Operation", "PURGE")
	header.Set(jetstream.MsgRollup, jetstream.MsgRollupSubject)
	if age := b.markAge(); age > 0 {
		header.Set(jetstream.MsgTTLHeader, age.String())
	}
	if revision > 0 {
		header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(revision, 10))
	}
	_, err := b.publish(ctx, key, nil, header)
	return err
}

// markAge is how long the mark of a removed key stays; zero is for ever. A server
// that is killed finds keys again on its disk whose marks are gone already: so
// a lock's outlives the lock, and a pause that came back would hold for ever.
func (b bucket) markAge() time.Duration {
	switch b.name {
	case b.conn.names.locks:
		return b.conn.options.LockTTL + time.Second
	case b.conn.names.control:
		return 0
	}
	return markerAge
}

func (b bucket) publish(ctx context.Context, key string, data []byte, header nats.Header) (revision uint64, err error) {
	if err := checkKey(key); err != nil {
		return 0, err
	}
	ctx, done := b.conn.command(ctx, answerPatience, b.subject(key))
	defer done()
	ack, err := b.conn.js.PublishMsg(ctx, &nats.Msg{Subject: b.subject(key), Data: data, Header: header})
	if err != nil {
		return 0, b.conn.explain(ctx, b.stream(), "", refused(ctx, err))
	}
	return ack.Sequence, nil
}

// checkKey refuses what would be another subject, or many.
func checkKey(key string) error {
	for token := range strings.SplitSeq(key, ".") {
		if !ValidName(token) {
			return fmt.Errorf("%q is not a key", key)
		}
	}
	return nil
}

// isWrongSequence reports whether a write found another revision than it
// expected. Replicated streams have a code of their own for it.
func isWrongSequence(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && (api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence ||
		api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant)
}
