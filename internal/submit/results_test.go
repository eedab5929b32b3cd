package submit_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/submit"
)

func resultsOf(t *testing.T, b *submit.Batch) []submit.Result {
	t.Helper()
	var all []submit.Result
	require.NoError(t, b.Results(t.Context(), func(r submit.Result) error {
		all = append(all, r)
		return nil
	}))
	return all
}

func TestResults(t *testing.T) {
	t.Parallel()
	s := newService(t)
	index := queue.SignedDigest{Digest: "sha256:index", Key: "sha256:k", Format: "tag", Attachment: "sha256:a1"}
	child := queue.SignedDigest{Digest: "sha256:child", Platform: "linux/amd64", Key: "sha256:k", Format: "tag", Attachment: "sha256:a2"}
	indexAgain := index
	indexAgain.Already = true
	half := timesOut
	half.Digest, half.Digests = "sha256:index", []queue.SignedDigest{index}
	whole := signs
	whole.Digest, whole.Digests = "sha256:index", []queue.SignedDigest{indexAgain, child}
	serve(t, s.conn, everyOther(ends(half, whole), ends(whole)))
	submitted(t, s, "nightly", 2)
	b := s.find(t, "nightly")
	require.Equal(t, 1, retried(t, b, "").Requests)
	require.NoError(t, b.Wait(t.Context(), nil))

	rows := map[string][]submit.Result{}
	for _, r := range resultsOf(t, b) {
		require.Equal(t, "nightly", r.Batch)
		require.Equal(t, "sha256:index", r.Image)
		require.Equal(t, string(r.Line), r.Reference)
		rows[r.Reference] = append(rows[r.Reference], r)
	}
	require.Len(t, rows, 2)
	row := func(line string, d queue.SignedDigest) submit.Result {
		return submit.Result{
			Batch: "nightly", Line: queue.Text(line), Reference: line, Image: "sha256:index", Digest: d.Digest,
			Platform: d.Platform, Key: d.Key, Format: d.Format, Attachment: d.Attachment, Already: d.Already,
		}
	}
	require.Equal(t, []submit.Result{row("r.example/app:1", index), row("r.example/app:1", child)}, rows["r.example/app:1"], "each digest once, as it was when it was signed")
	require.Equal(t, []submit.Result{row("r.example/app:2", indexAgain), row("r.example/app:2", child)}, rows["r.example/app:2"])
}

// Signatures of one digest that differ in what they call it are two, also when
// they are told of again; those that are passed over are counted once.
func TestResultsOfSeveralIdentities(t *testing.T) {
	t.Parallel()
	s := newService(t)
	one := queue.SignedDigest{Digest: "sha256:d", Key: "sha256:k", Format: "tag", Attachment: "sha256:a", Identity: "docker.io/app:1", Hidden: true}
	two := one
	two.Identity = "r.example/app:1"
	three := two
	three.Format, three.Hidden = "referrer", false
	half := timesOut
	half.Digests = []queue.SignedDigest{one}
	whole := signs
	whole.Digests = []queue.SignedDigest{one, two, three}
	serve(t, s.conn, everyOther(ends(half, whole), ends(whole)))
	submitted(t, s, "nightly", 2)
	b := s.find(t, "nightly")
	require.Equal(t, 1, retried(t, b, "").Requests)
	require.NoError(t, b.Wait(t.Context(), nil))

	rows := map[string][]string{}
	for _, r := range resultsOf(t, b) {
		rows[r.Reference] = append(rows[r.Reference], fmt.Sprint(r.Format, " ", r.Identity, " ", r.Hidden))
	}
	want := []string{"tag docker.io/app:1 true", "tag r.example/app:1 true", "referrer r.example/app:1 false"}
	require.Equal(t, map[string][]string{"r.example/app:1": want, "r.example/app:2": want}, rows)
	require.Equal(t, 4, reportOf(t, b).Hidden)
	status, err := b.Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, 4, status.Hidden)
}

// The failed list from anywhere is the one that has the list at hand.
func TestFailedListFromAnywhere(t *testing.T) {
	t.Parallel()
	s := newService(t)
	serve(t, s.conn, func(r queue.Request) queue.Outcome {
		if strings.Contains(r.Reference, "two") {
			return isDenied
		}
		return endsBad(r)
	})
	o := optionsFor(writeList(t, "r.example/one:1", "not a reference!", "r.example/caf\xe9:1", "r.example/two:1 # why", "not a reference!"))
	o.Batch = "nightly"
	submission := open(t, s.conn, o)
	require.NoError(t, submission.Run(t.Context()))
	here, there := reportOf(t, submission), reportOf(t, s.find(t, "nightly"))
	require.Equal(t, []queue.Text{"not a reference!", "r.example/caf\xe9:1", "r.example/two:1 # why"}, linesOf(t, there), "exact to the byte")
	require.Equal(t, failuresOf(t, here), failuresOf(t, there))
	require.Equal(t, here.Tally, there.Tally)
	require.Equal(t, here.Listed, there.Listed)
}

// What somebody else put under the subjects of a batch is not counted.
func TestForgedOutcomesAreNotCounted(t *testing.T) {
	t.Parallel()
	s := newService(t)
	o := optionsFor(writeList(t, manyLines(2)...))
	o.Batch = "nightly"
	require.NoError(t, open(t, s.conn, o).Publish(t.Context()))
	for _, subject := range []string{"sign.outcome.nightly.someid.0", "sign.outcome.nightly.other.0"} {
		s.store(subject, []byte(`{"version": 1, "id": "other", "gen": 0, "batch": "weekly", "seq": 1, "line": "x", "verdict": "signed", "worker": "w", "attempts": 1,
			"submitted_at": "2026-01-01T00:00:00Z", "started_at": "2026-01-01T00:00:00Z", "finished_at": "2026-01-01T00:00:00Z"}`))
	}
	b := s.find(t, "nightly")
	status, err := b.Status(t.Context())
	require.NoError(t, err)
	require.Zero(t, status.Done())
	require.Equal(t, 2, status.Pending)
	report := reportOf(t, b)
	require.Equal(t, 2, report.NotDone)
	require.Zero(t, report.Listed, "nobody knows their lines")
	require.Empty(t, resultsOf(t, b))
}

func TestStatusNamesWhatIsTriedAgain(t *testing.T) {
	t.Parallel()
	s := newService(t)
	o := optionsFor(writeList(t, manyLines(4)...))
	o.Batch = "nightly"
	require.NoError(t, open(t, s.conn, o).Publish(t.Context()))
	lane := s.conn.BulkLane()
	var deliveries []*queue.Delivery
	for len(deliveries) < 4 {
		more, err := lane.Next(t.Context(), 4-len(deliveries))
		require.NoError(t, err)
		deliveries = append(deliveries, more...)
	}
	at := time.Now().UTC().Truncate(time.Second)
	for _, d := range deliveries {
		r := d.Request
		e := queue.Entry{Attempts: r.Seq, Class: "timeout", Error: "too slow", Reference: r.Reference, Worker: "stub", UpdatedAt: at}
		require.NoError(t, s.conn.WriteLedger(t.Context(), r, e))
		if r.Seq == 4 { // whose worker died before it cleared the ledger
			_, err := s.conn.Record(t.Context(), outcomeOf(r, queue.Signed))
			require.NoError(t, err)
			require.NoError(t, d.Done(t.Context()))
		}
	}
	status, err := s.find(t, "nightly").Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, 4, status.Total)
	require.Equal(t, 3, status.Pending)
	require.Equal(t, 3, status.Waiting)
	require.Equal(t, 3, status.RetryingTotal)
	require.Len(t, status.Retrying, 3)
	require.Equal(t, "r.example/app:3", status.Retrying[0].Reference, "the most attempts first")
	require.Equal(t, submit.Retrying{
		ID: status.Retrying[2].ID, Reference: "r.example/app:1", Attempts: 1, Class: "timeout", Error: "too slow", Worker: "stub", UpdatedAt: at,
	}, status.Retrying[2])
}
