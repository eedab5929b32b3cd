package fleet

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/signfleet/signfleet/test/peers"
)

// Kind is what a line of the list stands for.
type Kind string

// The kinds there are.
const (
	KindImage      Kind = "image"      // one platform
	KindIndex      Kind = "index"      // two platforms that are signed, and one that is not
	KindChart      Kind = "chart"      // no image: to be passed over
	KindAbsent     Kind = "absent"     // not in the registry
	KindUnreadable Kind = "unreadable" // no reference
)

// Line is one line of an image list and what is behind it.
type Line struct {
	Text  string
	Kind  Kind
	Image peers.Image // without one for what is absent or unreadable
	// Foreign is true where somebody else's signature is on the image already.
	Foreign bool
}

// Digests are what a fleet has to sign of a line.
func (l Line) Digests() []string {
	switch l.Kind {
	case KindImage:
		return []string{l.Image.Digest}
	case KindIndex:
		digests := []string{l.Image.Digest}
		for _, child := range l.Image.Children {
			if child.Platform != unsignedPlatform {
				digests = append(digests, child.Digest)
			}
		}
		return digests
	case KindChart, KindAbsent, KindUnreadable:
	}
	return nil
}

// unsignedPlatform is one that a submission without flags leaves out.
const unsignedPlatform = "linux/s390x"

// foreigners is how many images carry somebody else's signature beforehand.
const foreigners = 3

// Push pushes images for a list of n lines, most of them of one platform, some
// indexes, and a few lines of every other kind; some images carry a signature
// that cosign made with a key of its own, which is returned. Repositories are
// below a path of the list's own, and named as they are behind the proxy.
func (f *Fleet) Push(ctx context.Context, random *rand.Rand, n int, path string) ([]Line, Key, error) {
	pusher, err := peers.NewPusher(f.registry.Host(), f.registry.Access())
	if err != nil {
		return nil, Key{}, err
	}
	all := make([]Line, n)
	for i := range all {
		all[i].Kind = kindOf(random, i)
	}
	random.Shuffle(n, func(i, j int) { all[i], all[j] = all[j], all[i] })
	group, pushing := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for i := range all {
		group.Go(func() error {
			return f.pushLine(pushing, pusher, &all[i], fmt.Sprintf("%s/app-%03d", path, i))
		})
	}
	if err := group.Wait(); err != nil {
		return nil, Key{}, err
	}
	foreign, err := f.signForeign(ctx, all)
	return all, foreign, err
}

// kindOf has every kind among the first lines, whose order is shuffled later.
func kindOf(random *rand.Rand, i int) Kind {
	switch {
	case i == 0:
		return KindUnreadable
	case i == 1:
		return KindChart
	case i < 4:
		return KindAbsent
	case i < 8 || random.IntN(8) == 0:
		return KindIndex
	}
	return KindImage
}

func (f *Fleet) pushLine(ctx context.Context, pusher *peers.Pusher, l *Line, repository string) error {
	var err error
	switch l.Kind {
	case KindImage:
		l.Image, err = pusher.Single(ctx, repository+":1.0", "linux/amd64")
	case KindIndex:
		l.Image, err = pusher.Index(ctx, repository+":1.0", "linux/amd64", "linux/arm64", unsignedPlatform)
	case KindChart:
		l.Image, err = pusher.Chart(ctx, repository+":1.0")
	case KindAbsent:
		l.Image.Reference = f.registry.Host() + "/" + repository + ":absent"
	case KindUnreadable:
		l.Image.Reference = "this is " + repository + ", or is it?"
	}
	l.Image.Reference = strings.Replace(l.Image.Reference, f.registry.Host(), f.proxy.Host(), 1)
	l.Text = l.Image.Reference
	return err
}

// signForeign has cosign sign the first few images.
func (f *Fleet) signForeign(ctx context.Context, all []Line) (Key, error) {
	pair, err := peers.GenerateKey(ctx, f.options.Dir, "foreign")
	if err != nil {
		return Key{}, err
	}
	var some []string
	for i := range all {
		if l := &all[i]; len(some) < foreigners && (l.Kind == KindImage || l.Kind == KindIndex) {
			some = append(some, l.Image.ByDigest())
			l.Foreign = true
		}
	}
	if err := peers.CosignSignAll(ctx, f.registry.Access(), some, pair); err != nil {
		return Key{}, err
	}
	return ReadKey(pair.Public)
}
