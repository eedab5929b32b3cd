package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/signfleet/signfleet/test/peers/build"
)

// signer is a program, or a loop around one, that signs the images of a task.
type signer interface {
	name() string
	// sample is how many of so many images are enough to know what one costs.
	sample(images int) int
	sign(ctx context.Context, b *bed, t task) (usage, error)
}

// The names of signers, as flags and reports have them.
const (
	nameOurs   = "sign-submit"
	nameCosign = "cosign"
	nameHangar = "hangar"
	nameFloor  = "floor"
	nameDirect = "floor-direct"
)

// ours is sign-submit alone, with its embedded queue: the whole process.
type ours struct {
	hostRequests int // 0: enough for all jobs, and at least the program's default
}

func (ours) name() string          { return nameOurs }
func (ours) sample(images int) int { return images }

// sign lifts the bound on requests to one host where it would bind: it is there
// to spare registries, and the others have none.
func (s ours) sign(ctx context.Context, b *bed, t task) (usage, error) {
	list, err := t.list(b.relay.Host())
	if err != nil {
		return usage{}, err
	}
	return runToEnd(command(ctx, t.home, filepath.Join(b.programs, "sign-submit"),
		"--file", list, "--failed", filepath.Join(t.home, "failed.txt"), "--state-dir", filepath.Join(t.home, "state"),
		"--sigstore-key", b.key.Private, "--sigstore-passphrase-file", b.passfile,
		"--jobs", strconv.Itoa(t.jobs), "--host-requests", strconv.Itoa(s.atOnce(t.jobs)),
		"--tls-verify=false", "--insecure-policy"))
}

// atOnce is how many requests to one host may be under way.
func (s ours) atOnce(jobs int) int {
	if s.hostRequests > 0 {
		return s.hostRequests
	}
	return max(16, 3*jobs)
}

// cosign is a loop of "cosign sign", one digest a call, so many calls at a time.
type cosign struct {
	images int // that are signed of those there are, and no fewer than jobs
}

func (cosign) name() string            { return nameCosign }
func (c cosign) sample(images int) int { return min(images, c.images) }

func (c cosign) sign(ctx context.Context, b *bed, t task) (usage, error) {
	path, err := build.Pinned(ctx, "cosign")
	if err != nil {
		return usage{}, err
	}
	var mu sync.Mutex
	var total usage
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(t.jobs)
	began := time.Now()
	for _, image := range t.images {
		for _, reference := range image.ByDigest(b.relay.Host()) {
			group.Go(func() error {
				run := command(ctx, t.home, path, "sign", "--key", b.key.Private, "--yes", "--allow-http-registry",
					"--use-signing-config=false", "--tlog-upload=false", "--new-bundle-format=false", reference)
				run.Env = append(run.Env, "COSIGN_PASSWORD="+b.key.Passphrase, "TUF_ROOT="+filepath.Join(t.home, "tuf"))
				used, err := runToEnd(run)
				mu.Lock()
				defer mu.Unlock()
				total = total.with(used)
				return err
			})
		}
	}
	err = group.Wait()
	total.wall = time.Since(began)
	return total, err
}

// hangar is "hangar sign" of Hangar 1.8 and later, where it is installed.
type hangar struct {
	path string
}

func (hangar) name() string          { return nameHangar }
func (hangar) sample(images int) int { return images }

// maxHangarJobs is how many jobs Hangar takes; more it takes for one.
const maxHangarJobs = 20

func (h hangar) sign(ctx context.Context, b *bed, t task) (usage, error) {
	list, err := t.list(b.relay.Host())
	if err != nil {
		return usage{}, err
	}
	failed := filepath.Join(t.home, "failed.txt")
	used, err := runToEnd(command(ctx, t.home, h.path, "sign", "--file", list, "--failed", failed,
		"--key", b.key.Private, "--passphrase-file", b.passfile, "--auto-yes", "--tlog-upload=false",
		"--jobs", strconv.Itoa(min(t.jobs, maxHangarJobs)), "--arch", "amd64,arm64", "--os", "linux",
		"--tls-verify=false", "--skip-login", "--insecure-policy"))
	if err != nil {
		return usage{}, err
	}
	if lines, err := os.ReadFile(failed); err == nil && len(lines) > 0 {
		return usage{}, fmt.Errorf("hangar could not sign:\n%s", lines)
	}
	return used, nil
}

// bare is the floor, as a process of its own: this program, started once more.
type bare struct {
	direct bool // past the relay, to see what that costs
}

func (f bare) name() string {
	if f.direct {
		return nameDirect
	}
	return nameFloor
}

func (bare) sample(images int) int { return images }

func (f bare) sign(ctx context.Context, b *bed, t task) (usage, error) {
	host := b.relay.Host()
	if f.direct {
		host = b.registry.Host()
	}
	list, err := t.list(host)
	if err != nil {
		return usage{}, err
	}
	self, err := os.Executable()
	if err != nil {
		return usage{}, err
	}
	return runToEnd(command(ctx, t.home, self, floorCommand, "-list", list, "-key", b.plainKey, "-jobs", strconv.Itoa(t.jobs)))
}

// chosenSigners turns names into signers. One that is not installed is left out
// where the machine decides, and said so.
func chosenSigners(names []string, o engineOptions) (all []signer, absent []string, err error) {
	for _, name := range names {
		switch name {
		case "ours", nameOurs:
			all = append(all, ours{hostRequests: o.HostRequests})
		case nameCosign:
			all = append(all, cosign{images: o.CosignImages})
		case nameHangar:
			path, err := exec.LookPath("hangar")
			if err != nil {
				absent = append(absent, name)
				continue
			}
			all = append(all, hangar{path: path})
		case nameFloor:
			all = append(all, bare{})
		case nameDirect:
			all = append(all, bare{direct: true})
		default:
			return nil, nil, fmt.Errorf("no signer is called %q: there are ours, %s, %s, %s and %s", name, nameCosign, nameHangar, nameFloor, nameDirect)
		}
	}
	return all, absent, nil
}
