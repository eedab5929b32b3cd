package worker

import "time"

// silence is how long a registry that images are at has not answered one of
// them to its end. Registries that hang cost slots long before they cost
// attempts: all silent ones together may hold half of a lane, so that others
// always find a slot. Half stays with them even when nobody else has work: a
// worker cannot know that without a free slot to ask with, and a registry that
// answers nobody does not answer more of them.
//
// Who uses it sees to it that nobody else does.
type silence struct {
	since   time.Time     // of the first image that no answer followed; zero when there is none
	slowest time.Duration // image of late that was answered
}

// enter notes an image that begins.
func (s *silence) enter(now time.Time) {
	if s.since.IsZero() {
		s.since = now
	}
}

// answer notes an image that came to its end after some time, whatever the
// registry said. others are the images that are still there.
func (s *silence) answer(now time.Time, took time.Duration, others int) {
	s.slowest = max(took, s.slowest*3/4)
	s.since = time.Time{}
	if others > 0 {
		s.since = now
	}
}

// end forgets the silence when the last image left that could have broken it.
func (s *silence) end() { s.since = time.Time{} }

// lasts is for how long the registry has been silent beyond its time, zero when
// it is not. Where images take long as a rule, so does this.
func (s *silence) lasts(now time.Time, slowAfter time.Duration) time.Duration {
	if s.since.IsZero() {
		return 0
	}
	return max(0, now.Sub(s.since)-max(slowAfter, 2*s.slowest))
}
