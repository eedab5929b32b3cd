package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/signfleet/signfleet/cmd/internal/program"
	"github.com/signfleet/signfleet/cmd/internal/station"
	"github.com/signfleet/signfleet/internal/queue"
	"github.com/signfleet/signfleet/internal/submit"
	"github.com/signfleet/signfleet/internal/worker"
)

// bench is where this process signs: keys, and how much at once.
type bench struct {
	*station.Station
	limits worker.Options
}

// signAgain signs in this process what failed.
func (r *retrySettings) signAgain(ctx context.Context, ids []string, std streams) error {
	st, limits, err := stationHere(ctx, r.Signing, r.source, nil, r.asking.log, std)
	if err != nil {
		return err
	}
	defer st.Close()
	answer := askedAgain{Retried: []submit.Retried{}}
	if r.All {
		err = r.signAllAgain(ctx, bench{st, limits}, &answer, std)
	} else {
		err = r.signOneAgain(ctx, bench{st, limits}, ids[0], &answer, std)
	}
	if r.asking.Output == outputJSON && err == nil {
		err = printJSON(std.out, answer)
	}
	if ctx.Err() != nil {
		say(std.err, "what is done is remembered: the same command goes on where this one stopped\n")
		return interruption(std, unlessInterrupted(ctx, err))
	}
	if err != nil {
		return err
	}
	if slices.ContainsFunc(answer.Reports, func(e ending) bool { return e.Failed > 0 }) {
		for _, end := range answer.Reports {
			r.asking.tellOfList(std, end.Batch)
		}
		return errFailures
	}
	return nil
}

func (r *retrySettings) signOneAgain(ctx context.Context, b bench, id string, answer *askedAgain, std streams) error {
	where, err := r.asking.placeOf(ctx, id)
	if err != nil {
		return err
	}
	defer where.close()
	return r.signIn(ctx, where, b, id, answer, std)
}

// signAllAgain leaves out what cannot be signed with these keys and settings.
func (r *retrySettings) signAllAgain(ctx context.Context, b bench, answer *askedAgain, std streams) error {
	_, dirs, err := r.asking.dirs()
	if err != nil {
		return err
	}
	answer.Unread, err = eachDir(ctx, dirs, func(where *place) error {
		ids, err := retriable(ctx, where.conn, std)
		if err != nil {
			return err
		}
		for _, id := range ids {
			err := r.signIn(ctx, where, b, id, answer, std)
			if refused := new(otherBatchError); errors.As(err, &refused) {
				say(std.err, "left out: %v\n", err)
				continue
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	printUnread(std.err, answer.Unread)
	return err
}

// otherBatchError says why a batch cannot be retried here.
type otherBatchError struct{ reason string }

func (e *otherBatchError) Error() string { return e.reason }

// signIn signs what failed of one batch, to its end.
func (r *retrySettings) signIn(ctx context.Context, where *place, b bench, id string, answer *askedAgain, std streams) error {
	batch, err := submit.Find(ctx, where.conn, id)
	if err != nil {
		return r.asking.explain(ctx, id, err)
	}
	record, err := where.conn.Batch(ctx, id)
	if err != nil {
		return interruptedOr(ctx, err)
	}
	if err := r.checkSame(record, b); err != nil {
		return err
	}
	if err := unmarkFinished(where.dir); err != nil {
		return err
	}
	w, err := workerHere(b.Station, where.conn, where.dir, b.limits)
	if err != nil {
		return err
	}
	retried, err := batch.Retry(ctx, r.Class)
	if err != nil {
		return r.asking.explain(ctx, id, err)
	}
	if record.Finished && r.All && !something(retried) {
		return closeDir(ctx, where)
	}
	answer.Retried = append(answer.Retried, retried)
	printRetried(std.err, retried)
	progress := newProgress(std.err)
	err = work(ctx, w, func(ctx context.Context) error { return batch.Wait(ctx, progress.show) }, std)
	progress.end()
	if err != nil || ctx.Err() != nil {
		return r.asking.explain(ctx, id, err)
	}
	return r.reportAgain(ctx, batch, where, answer, std)
}

// checkSame refuses a batch whose signatures would be others than those that
// were asked for, and one whose list was not read to its end.
func (r *retrySettings) checkSame(record queue.Batch, b bench) error {
	id, options := record.ID, record.Options
	if !record.Published {
		return &otherBatchError{fmt.Sprintf("batch %s was not submitted to its end: run the command that submitted it again", id)}
	}
	keys, format, signing, err := signedWith(b.Station, r.Signing)
	if err != nil {
		return program.UsageError{Err: err}
	}
	var reason string
	switch {
	case !slices.Equal(options.Keys, keys):
		reason = fmt.Sprintf("is signed with other keys than those of --sigstore-key (%s): give those of the batch (%s)", strings.Join(keys, ", "), strings.Join(options.Keys, ", "))
	case options.Format != format:
		reason = fmt.Sprintf("is signed with --format %s: give the same", options.Format)
	case !options.Signing.Equal(signing):
		reason = otherFlags(signingFlags(options.Signing), signingFlags(signing))
	default:
		return nil
	}
	return program.UsageError{Err: &otherBatchError{fmt.Sprintf("batch %s %s", id, reason)}}
}

// otherFlags says what to give in place of the flags that were given.
func otherFlags(asked, given []string) string {
	missing := slices.DeleteFunc(slices.Clone(asked), func(flag string) bool { return slices.Contains(given, flag) })
	if len(missing) > 0 {
		return "is signed with " + shellWords(missing) + ": give the same"
	}
	more := slices.DeleteFunc(slices.Clone(given), func(flag string) bool { return slices.Contains(asked, flag) })
	return "is signed without " + shellWords(more) + ": leave that out"
}

// reportAgain notes how a retried batch has ended, and closes it.
func (r *retrySettings) reportAgain(ctx context.Context, batch *submit.Batch, where *place, answer *askedAgain, std streams) error {
	report, err := batch.Report(ctx)
	if err != nil {
		return r.asking.explain(ctx, batch.ID(), err)
	}
	defer report.Close() //nolint:errcheck // a file without a name, and at its end
	end := ended(report)
	answer.Reports = append(answer.Reports, end)
	if r.asking.Output == outputText {
		if err := printReport(std.out, outputText, end); err != nil {
			return err
		}
	}
	if err := batch.Finish(ctx); err != nil {
		return r.asking.explain(ctx, batch.ID(), err)
	}
	return closeDir(ctx, where)
}

// closeDir notes that all batches of a directory have had their report, if so.
func closeDir(ctx context.Context, where *place) error {
	if left, err := submit.Unfinished(ctx, where.conn); err != nil || left != "" {
		return interruptedOr(ctx, err)
	}
	return markFinished(where.dir)
}
