package accounting_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/test/chaos/accounting"
	"github.com/signfleet/signfleet/test/chaos/fleet"
	"github.com/signfleet/signfleet/test/peers"
	"github.com/signfleet/signfleet/test/peers/build"
)

// binaries is where the commands are built, once, for all tests.
var binaries = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "chaos-bin-")
	if err != nil {
		return "", err
	}
	return dir, build.Own(context.Background(), dir, "./cmd/...")
})

func TestMain(m *testing.M) {
	code := m.Run()
	if dir, err := binaries(); err == nil {
		if err := os.RemoveAll(dir); err != nil {
			fmt.Fprintln(os.Stderr, "removing the binaries:", err)
		}
	}
	os.Exit(code)
}

// signed is a fleet that has signed one batch in peace and sleeps.
type signed struct {
	*fleet.Fleet
	t       *testing.T
	batch   *fleet.Submission
	foreign fleet.Key
	pusher  *peers.Pusher
}

func signInPeace(t *testing.T) *signed {
	t.Helper()
	dir, err := binaries()
	require.NoError(t, err)
	f, err := fleet.Start(t.Context(), fleet.Options{
		Binaries: dir, Dir: t.TempDir(), Workers: 2, Jobs: 2, Keys: 1, AckWait: 3 * time.Second,
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, f.Close()) })
	s := &signed{Fleet: f, t: t}
	lines, foreign, err := f.Push(t.Context(), rand.New(rand.NewPCG(1, 2)), 14, "peace")
	require.NoError(t, err)
	s.foreign = foreign
	s.batch, err = f.Prepare("peace", append(lines, lines[0]))
	require.NoError(t, err)
	require.NoError(t, s.batch.Start(t.Context(), f.NATSURL()))
	code, err := s.batch.Wait(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, code, s.batch.Output())
	for _, w := range f.Workers() {
		require.NoError(t, w.Terminate(t.Context(), time.Minute))
	}
	require.Empty(t, f.Mishaps())
	s.pusher, err = peers.NewPusher(f.Proxy().Host(), f.Registry().Access())
	require.NoError(t, err)
	return s
}

func (s *signed) books() *accounting.Books {
	s.t.Helper()
	b, err := accounting.Open(s.t.Context(), s.Fleet, s.foreign, []*fleet.Submission{s.batch})
	require.NoError(s.t, err)
	return b
}

// ended is the first outcome of a verdict whose line has no other.
func (s *signed) ended(verdict string) accounting.Outcome {
	s.t.Helper()
	outcomes, err := accounting.Outcomes(s.t.Context(), s.Fleet, s.batch.Batch)
	require.NoError(s.t, err)
	of := map[string]int{}
	for _, o := range outcomes {
		of[o.Line]++
	}
	i := slices.IndexFunc(outcomes, func(o accounting.Outcome) bool { return o.Verdict == verdict && of[o.Line] == 1 })
	require.GreaterOrEqual(s.t, i, 0)
	return outcomes[i]
}

func (s *signed) purge(stream, subject string) {
	s.t.Helper()
	opened, err := s.JetStream().Stream(s.t.Context(), stream)
	require.NoError(s.t, err)
	require.NoError(s.t, opened.Purge(s.t.Context(), jetstream.WithPurgeSubject(subject)))
}

func (s *signed) publish(subject string, message map[string]any) {
	s.t.Helper()
	data, err := json.Marshal(message)
	require.NoError(s.t, err)
	_, err = s.JetStream().Publish(s.t.Context(), subject, data)
	require.NoError(s.t, err)
}

// repeat stores an outcome again, with one of its fields changed.
func (s *signed) repeat(o accounting.Outcome, subject, field string, value any) {
	s.t.Helper()
	stored, err := s.Stored(s.t.Context(), "SIGN_OUTCOMES", o.Subject)
	require.NoError(s.t, err)
	require.Len(s.t, stored, 1)
	var fields map[string]any
	require.NoError(s.t, json.Unmarshal(stored[0].Data, &fields))
	fields[field] = value
	s.publish(subject, fields)
}

func (s *signed) lineOf(found func(fleet.Line) bool) fleet.Line {
	s.t.Helper()
	i := slices.IndexFunc(s.batch.Lines, found)
	require.GreaterOrEqual(s.t, i, 0)
	return s.batch.Lines[i]
}

// A ledger that nobody tampers with adds up, and each thing that is wrong with
// one is told: the damage is done one after the other, in the streams and the
// registry themselves.
func TestWhatDoesNotAddUpIsTold(t *testing.T) {
	t.Parallel()
	s := signInPeace(t)
	require.Empty(t, s.books().Check())
	verified, rejected := s.books().Verify(t.Context(), s.Fleet, 0)
	require.Empty(t, rejected)
	require.Greater(t, verified, 10)

	for _, damage := range []struct {
		name  string
		does  func()
		tells accounting.Kind
	}{
		{"a signature is lost", func() {
			line := s.lineOf(func(l fleet.Line) bool { return l.Kind == fleet.KindIndex && !l.Foreign })
			require.NoError(t, s.pusher.RemoveSignatures(t.Context(), line.Image, line.Image.Children[0].Digest))
		}, accounting.LostSignature},
		{"a signature of others is lost", func() {
			line := s.lineOf(func(l fleet.Line) bool { return l.Foreign })
			require.NoError(t, s.pusher.RemoveSignatures(t.Context(), line.Image, line.Image.Digest))
		}, accounting.LostSignature},
		{"an outcome is lost", func() {
			s.purge("SIGN_OUTCOMES", s.ended("signed").Subject)
		}, accounting.LostOutcome},
		{"an outcome has a generation that nobody asked for", func() {
			o := s.ended("signed")
			s.repeat(o, strings.TrimSuffix(o.Subject, ".0")+".1", "gen", 1)
		}, accounting.DoubleOutcome},
		{"a line has two outcomes under two ids", func() {
			o := s.ended("signed")
			s.repeat(o, strings.Replace(o.Subject, o.ID, "another", 1), "id", "another")
		}, accounting.DoubleOutcome},
		{"an outcome is of a line that is not on the list", func() {
			o := s.ended("skipped")
			s.purge("SIGN_OUTCOMES", o.Subject)
			s.publish(o.Subject, map[string]any{"batch": o.Batch, "id": o.ID, "gen": 0, "line": "nobody's", "verdict": "signed"})
		}, accounting.StrayOutcome},
		{"an image that is there is dead", func() {
			o := s.ended("signed")
			stored, err := s.Stored(t.Context(), "SIGN_OUTCOMES", o.Subject)
			require.NoError(t, err)
			var fields map[string]any
			require.NoError(t, json.Unmarshal(stored[0].Data, &fields))
			fields["verdict"], fields["class"] = "dead", "timeout"
			s.purge("SIGN_OUTCOMES", o.Subject)
			s.publish(o.Subject, fields)
		}, accounting.WrongOutcome},
		{"a dead letter is lost", func() {
			o := s.ended("dead")
			s.purge("SIGN_DEAD", strings.Replace(o.Subject, "sign.outcome.", "sign.dead.", 1))
		}, accounting.LostLetter},
		{"a dead letter is of nobody", func() {
			s.publish("sign.dead.peace.nobody.0", map[string]any{"class": "timeout"})
		}, accounting.StrayLetter},
		{"a request is left", func() {
			s.publish("sign.request.bulk.00.peace", map[string]any{})
		}, accounting.RequestLeft},
	} {
		before := count(s.books().Check(), damage.tells)
		damage.does()
		after := s.books().Check()
		require.Greater(t, count(after, damage.tells), before, "%s: %v", damage.name, after)
	}
	require.NotEmpty(t, s.books().Vanished, "what was written and removed is missed, whatever the outcomes say")
	require.Positive(t, count(s.books().Check(), accounting.WrongReport), "the submitter counted what is no longer there")
	_, rejected = s.books().Verify(t.Context(), s.Fleet, 0)
	require.NotEmpty(t, rejected, "cosign misses a signature too")
}

// What only the checker's own reading could get wrong, or a submitter's list.
func TestBooksThatAreCookedAreTold(t *testing.T) {
	t.Parallel()
	s := signInPeace(t)
	for name, cooked := range map[string]struct {
		cook  func(*accounting.Batch)
		tells accounting.Kind
	}{
		"a record stands twice":         {func(b *accounting.Batch) { b.Outcomes = append(b.Outcomes, b.Outcomes[0]) }, accounting.DoubleOutcome},
		"a failed line is missing":      {func(b *accounting.Batch) { b.Failed = b.Failed[1:] }, accounting.WrongList},
		"the failed list has no order":  {func(b *accounting.Batch) { slices.Reverse(b.Failed) }, accounting.WrongList},
		"the list from afar is short":   {func(b *accounting.Batch) { b.FailedAfar = b.FailedAfar[1:] }, accounting.WrongList},
		"a failed line stands twice":    {func(b *accounting.Batch) { b.Failed = append(b.Failed, b.Failed[0]) }, accounting.WrongList},
		"one too many is counted":       {func(b *accounting.Batch) { b.Printed.Signed++ }, accounting.WrongReport},
		"the exit code hides failures":  {func(b *accounting.Batch) { b.Exit = 0 }, accounting.WrongReport},
		"a digest is not told of":       {func(b *accounting.Batch) { mostDigests(b).Digests = mostDigests(b).Digests[1:] }, accounting.WrongOutcome},
		"an unknown key is claimed":     {func(b *accounting.Batch) { mostDigests(b).Digests[0].Key = "sha256:0" }, accounting.WrongOutcome},
		"an outcome is in another name": {func(b *accounting.Batch) { b.Outcomes[0].ID = "another" }, accounting.WrongOutcome},
	} {
		books := s.books()
		require.Empty(t, books.Check())
		cooked.cook(&books.Batches[0])
		require.Positive(t, count(books.Check(), cooked.tells), "%s: %v", name, books.Check())
	}
	// Signatures that no outcome tells of are missed too.
	silent := s.books()
	silent.Vanished = []string{"team/app:sha256-0.sig"}
	require.Equal(t, 1, count(silent.Check(), accounting.LostSignature))
	// A retry that was noted makes a second generation right.
	books := s.books()
	again := books.Batches[0].Outcomes[0]
	again.Gen, again.Subject = 1, strings.TrimSuffix(again.Subject, ".0")+".1"
	books.Batches[0].Outcomes = append(books.Batches[0].Outcomes, again)
	require.Positive(t, count(books.Check(), accounting.DoubleOutcome))
	books.Batches[0].Retried[again.ID] = 1
	require.Zero(t, count(books.Check(), accounting.DoubleOutcome))
}

func mostDigests(b *accounting.Batch) *accounting.Outcome {
	i := slices.IndexFunc(b.Outcomes, func(o accounting.Outcome) bool { return len(o.Digests) > 1 })
	return &b.Outcomes[i]
}

func count(all []accounting.Complaint, k accounting.Kind) int {
	n := 0
	for _, c := range all {
		if c.Kind == k {
			n++
		}
	}
	return n
}
