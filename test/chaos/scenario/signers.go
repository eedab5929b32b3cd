package scenario

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/signfleet/signfleet/test/chaos/accounting"
	"github.com/signfleet/signfleet/test/chaos/fleet"
	"github.com/signfleet/signfleet/test/peers"
)

// manySigners is how many keys sign one image at once.
const manySigners = 8

// signers has many keys sign one image at once: workers of one fleet, whose
// locks keep them apart, and submissions that share nothing, which read back
// what they write. Each key's signature must be there in the end.
func signers(ctx context.Context, r *run) error {
	f, err := fleet.Start(ctx, fleet.Options{
		Binaries: r.config.Binaries, Dir: r.report.Dir, Workers: manySigners, Jobs: 1, Keys: manySigners, AckWait: ackWait,
	})
	if err != nil {
		return err
	}
	sc := newScene(r, f)
	// Each key is asked about: one that is missing is what this is about.
	sc.config.Verify = 0
	err = sc.workersTogether(ctx)
	for _, format := range []string{"tag", "referrer"} {
		if err == nil {
			err = sc.submissionsTogether(ctx, format)
		}
	}
	if err == nil && r.config.Compare {
		err = sc.cosignTogether(ctx)
	}
	if err == nil {
		err = sc.dismiss(ctx)
	}
	return errors.Join(err, f.Close())
}

// oneImage pushes the image that all sign.
func (sc *scene) oneImage(ctx context.Context, path string) (fleet.Line, error) {
	pusher, err := peers.NewPusher(sc.Proxy().Host(), sc.Registry().Access())
	if err != nil {
		return fleet.Line{}, err
	}
	image, err := pusher.Index(ctx, path+":1.0", "linux/amd64", "linux/arm64")
	return fleet.Line{Text: image.Reference, Kind: fleet.KindIndex, Image: image}, err
}

// workersTogether submits one image in rounds of as many batches as there are
// workers, which any of them may take, until each has had one.
func (sc *scene) workersTogether(ctx context.Context) error {
	line, err := sc.oneImage(ctx, "signers/fleet")
	if err != nil {
		return err
	}
	sc.Faults().SetLatency(100 * time.Millisecond) // so that they meet
	signed := map[string]bool{}
	for round := 0; len(signed) < manySigners; round++ {
		if round == 20 {
			sc.complain("only %d of %d workers had one of %d requests", len(signed), manySigners, 20*manySigners)
			break
		}
		if err := sc.round(ctx, round, line, signed); err != nil {
			return err
		}
	}
	sc.Faults().Heal()
	if _, err := sc.audit(ctx, fleet.Key{}); err != nil {
		return err
	}
	sc.report.Lines = len(sc.submissions)
	sc.note("%d workers with %d keys: %d keys signed the image, in %d batches", manySigners, manySigners, len(signed), len(sc.submissions))
	return nil
}

// round submits as many batches at once as there are workers.
func (sc *scene) round(ctx context.Context, round int, line fleet.Line, signed map[string]bool) error {
	var batches []*fleet.Submission
	for i := range manySigners {
		s, err := sc.Prepare(fmt.Sprintf("signers-%d-%d", round, i), []fleet.Line{line})
		if err != nil {
			return err
		}
		if err := s.Start(ctx, sc.NATSURL()); err != nil {
			return err
		}
		batches = append(batches, s)
	}
	sc.submissions = append(sc.submissions, batches...)
	ctx, cancel := context.WithTimeout(ctx, calm)
	defer cancel()
	for _, s := range batches {
		if _, err := s.Wait(ctx); err != nil {
			return fmt.Errorf("batch %s: %w", s.Batch, err)
		}
		outcomes, err := accounting.Outcomes(ctx, sc.Fleet, s.Batch)
		if err != nil {
			return err
		}
		for _, o := range outcomes {
			for _, claim := range o.Digests {
				signed[claim.Key] = true
			}
		}
	}
	return nil
}

// submissionsTogether has submissions sign one image at once that know nothing
// of each other. In the format referrer they meet in the index of referrers.
func (sc *scene) submissionsTogether(ctx context.Context, format string) error {
	sc.did("signing at once as " + format)
	line, err := sc.oneImage(ctx, "signers/alone-"+format)
	if err != nil {
		return err
	}
	sc.Faults().SetLatency(10 * time.Millisecond)
	defer sc.Faults().Heal()
	var group errgroup.Group
	for i, key := range sc.Keys() {
		group.Go(func() error {
			code, output, err := sc.SubmitAlone(ctx, fmt.Sprintf("alone-%s-%d", format, i), line, key, "--confirm-writes", "always", "--format", format)
			if err == nil && code != 0 {
				err = fmt.Errorf("submission %d left with %d:\n%s", i, code, output)
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	left := 0
	for i, key := range sc.Keys() {
		if err := peers.CosignVerifyAll(ctx, sc.Registry().Access(), key.Public, []string{
			line.Text, line.Image.Child("linux/amd64"), line.Image.Child("linux/arm64"),
		}); err != nil {
			sc.complain("%s: key %d of submission alone-%s-%d: %v", accounting.LostSignature, i, format, i, err)
			continue
		}
		left++
	}
	sc.report.Verified += 3 * left
	sc.note("%d submissions with %d keys and no common server, --confirm-writes always, --format %s: %d signatures verify", manySigners, manySigners, format, left)
	return nil
}

// cosigners is how many sign with cosign alone, for a comparison.
const cosigners = 6

func (sc *scene) cosignTogether(ctx context.Context) error {
	line, err := sc.oneImage(ctx, "signers/cosign")
	if err != nil {
		return err
	}
	var pairs []peers.KeyPair
	for i := range cosigners {
		dir := filepath.Join(sc.report.Dir, fmt.Sprint("cosign-", i))
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		pair, err := peers.GenerateKey(ctx, dir, "passphrase")
		if err != nil {
			return err
		}
		pairs = append(pairs, pair)
	}
	var group errgroup.Group
	for _, pair := range pairs {
		group.Go(func() error { return peers.CosignSign(ctx, sc.Registry().Access(), line.Image.ByDigest(), pair) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	left := 0
	for _, pair := range pairs {
		if peers.CosignVerify(ctx, sc.Registry().Access(), line.Image.ByDigest(), pair.Public) == nil {
			left++
		}
	}
	sc.note("%d concurrent cosign sign with %d keys: %d signatures verify", cosigners, cosigners, left)
	return nil
}
