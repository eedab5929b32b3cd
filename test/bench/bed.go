package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/signfleet/signfleet/test/bench/relay"
	"github.com/signfleet/signfleet/test/bench/seed"
	"github.com/signfleet/signfleet/test/peers"
	"github.com/signfleet/signfleet/test/peers/build"
)

// bed is what the measured signers share: a registry, the relay before it, one
// key and the programs.
type bed struct {
	dir      string
	programs string // directory of sign-submit and sign-worker
	registry *peers.Registry
	relay    *relay.Relay
	key      peers.KeyPair // encrypted
	passfile string
	plainKey string // the same key, PKCS#8
	seeded   int    // how often images were pushed
}

// tmpfs is where Linux keeps files in memory.
const tmpfs = "/dev/shm"

// storages are where the registry may have its files.
func storages() map[string]string { return map[string]string{"disk": "", "tmpfs": tmpfs} }

// prepare starts what is shared. programs is a directory of built programs, or
// empty for those of this checkout.
func prepare(ctx context.Context, storage, programs string) (*bed, error) {
	dir, err := os.MkdirTemp("", "bench-")
	if err != nil {
		return nil, err
	}
	b := &bed{dir: dir, programs: programs}
	if err := b.start(ctx, storage); err != nil {
		return nil, errors.Join(err, b.close())
	}
	return b, nil
}

func (b *bed) start(ctx context.Context, storage string) (err error) {
	if b.programs == "" {
		b.programs = filepath.Join(b.dir, "bin")
		if err := build.Own(ctx, b.programs, "./cmd/..."); err != nil {
			return err
		}
	}
	if b.programs, err = filepath.Abs(b.programs); err != nil {
		return err
	}
	if err := b.makeKey(ctx); err != nil {
		return err
	}
	if b.registry, err = peers.StartRegistry(ctx, peers.RegistryOptions{Under: storages()[storage]}); err != nil {
		return err
	}
	b.relay, err = relay.Start(ctx, b.registry.Host())
	return err
}

// makeKey makes one key in two files: encrypted, as signers want it, and not,
// for the floor.
func (b *bed) makeKey(ctx context.Context) error {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return err
	}
	b.plainKey = filepath.Join(b.dir, "plain.pem")
	if err := os.WriteFile(b.plainKey, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		return err
	}
	if b.key, err = peers.ImportKey(ctx, b.dir, b.plainKey, "not a secret"); err != nil {
		return err
	}
	b.passfile = filepath.Join(b.dir, "passphrase")
	return os.WriteFile(b.passfile, []byte(b.key.Passphrase), 0o600)
}

func (b *bed) close() error {
	var err error
	if b.relay != nil {
		err = b.relay.Close()
	}
	if b.registry != nil {
		err = errors.Join(err, b.registry.Close())
	}
	return errors.Join(err, os.RemoveAll(b.dir))
}

// task is some images to sign, and how.
type task struct {
	images []seed.Image
	jobs   int
	delay  time.Duration
	home   string // a directory of the run's own
}

// fresh makes images that nobody has signed, in repositories of their own.
func (b *bed) fresh(ctx context.Context, images, repositories, jobs int, delay time.Duration) (task, error) {
	b.seeded++
	pushed, err := seed.Push(ctx, seed.Options{
		Host: b.registry.Host(), Prefix: fmt.Sprintf("run-%04d", b.seeded), Images: images, Repositories: repositories,
	})
	if err != nil {
		return task{}, fmt.Errorf("seeding the registry: %w", err)
	}
	home := filepath.Join(b.dir, fmt.Sprintf("run-%04d", b.seeded))
	return task{images: pushed, jobs: jobs, delay: delay, home: home}, os.Mkdir(home, 0o700)
}

// list writes the task's images as an image list.
func (t task) list(host string) (path string, err error) {
	path = filepath.Join(t.home, "images.txt")
	f, err := os.Create(path)
	if err != nil {
		return "", err
	}
	for _, image := range t.images {
		if _, err := fmt.Fprintln(f, image.Reference(host)); err != nil {
			return "", errors.Join(err, f.Close())
		}
	}
	return path, f.Close()
}
