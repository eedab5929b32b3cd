package worker

import (
	"context"
	"sync"
	"time"
)

// answerAge is how old an answer may be: it bounds how long a cancelled batch
// or a paused registry goes on.
const answerAge = time.Second

// maxAnswers bounds the keys remembered at once.
const maxAnswers = 1024

// answers remembers what the queue said, so that it is asked once a second and
// key and not once an image.
type answers[T any] struct {
	ask func(ctx context.Context, key string) (T, error)

	mu    sync.Mutex
	known map[string]answer[T]
}

type answer[T any] struct {
	value  T
	asked  time.Time // when it was asked for
	asking time.Time // when it was last asked for again
}

func newAnswers[T any](ask func(ctx context.Context, key string) (T, error)) *answers[T] {
	return &answers[T]{ask: ask, known: make(map[string]answer[T])}
}

// of returns the answer for a key. With an error, which only the caller who
// asked gets, comes the last one there was, or else nothing.
func (a *answers[T]) of(ctx context.Context, key string) (T, error) {
	now := time.Now()
	a.mu.Lock()
	last, ok := a.known[key]
	age := now.Sub(last.asked)
	if ok && (age < answerAge || age < 2*answerAge && now.Sub(last.asking) < answerAge) {
		a.mu.Unlock()
		return last.value, nil // others go on while somebody asks again
	}
	if ok {
		last.asking = now
		a.remember(key, last)
	}
	a.mu.Unlock()

	call, cancel := context.WithTimeout(ctx, callPatience)
	defer cancel()
	value, err := a.ask(call, key)
	a.mu.Lock()
	defer a.mu.Unlock()
	if last, ok = a.known[key]; ok && last.asked.After(now) {
		return last.value, err // a later question was answered before
	}
	if err != nil {
		value = last.value
	}
	a.remember(key, answer[T]{value: value, asked: now})
	return value, err
}

// remember needs mu.
func (a *answers[T]) remember(key string, value answer[T]) {
	if _, ok := a.known[key]; !ok && len(a.known) >= maxAnswers {
		clear(a.known)
	}
	a.known[key] = value
}
