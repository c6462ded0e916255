package replica

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/latchkeydb/latchkey"
)

// A word is when the hub last said that the edge has everything. It decides about the logins of a
// strict edge.
type word struct {
	bound time.Duration // of Strict; 0 for BestEffort
	stale atomic.Bool   // what the gate of the store reads

	mu sync.Mutex // guards the fields below
	// known reports whether the hub has ever spoken. behind reports that it has not spoken since
	// the edge was opened, with a clock that is behind the time that the file remembers.
	known, behind bool
	// age is how old the word was at a moment, by both clocks: the wall clock of the device, and
	// the monotonic clock.
	age    time.Duration
	device time.Time
	at     time.Time

	kept    keptWord
	written time.Time // by the monotonic clock
}

// A keptWord is what the file has of a word.
type keptWord struct {
	// Time is the store's time of the word, or earlier.
	Time time.Time `json:"time,omitzero"`
}

// edgeTable is the application table of the edge's store. It shows that the store is an edge.
const edgeTable = "latchkey-edge"

var keyWord = []byte("word")

// isEdge reports whether a store has joined a hub.
func isEdge(ctx context.Context, s *latchkey.Store) (is bool, err error) {
	err = s.View(ctx, func(tx *latchkey.Tx) error {
		b, err := tx.AppTable(edgeTable).Get(keyWord)
		is = b != nil
		return err
	})
	return is, err
}

// maxLead is how far the store's time can be ahead of the clock at the start, when the clocks of
// hub and edge differ a little. The lead counts as if it had passed.
const maxLead = time.Minute

// open reads the word that the file has. If there is none, open writes that the store is an edge.
func (w *word) open(ctx context.Context, s *latchkey.Store, device time.Time) error {
	var b []byte
	err := s.View(ctx, func(tx *latchkey.Tx) (err error) {
		b, err = tx.AppTable(edgeTable).Get(keyWord)
		return err
	})
	if err == nil && b == nil {
		err = w.write(ctx, s)
	}
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if b != nil {
		if err := json.Unmarshal(b, &w.kept); err != nil {
			return fmt.Errorf("%w: the time of the hub's last word: %w", latchkey.ErrCorrupt, err)
		}
	}
	now := s.Now()
	lead := max(now.Sub(device), w.kept.Time.Sub(device), 0)
	w.known = !w.kept.Time.IsZero()
	w.behind = lead > maxLead
	w.age = max(now.Sub(w.kept.Time), 0) + lead
	w.device, w.at = device, time.Now()
	w.judge(device)
	return nil
}

// judge sets what the gate reads. The caller holds mu.
func (w *word) judge(device time.Time) {
	if w.bound > 0 {
		w.stale.Store(!w.known || w.behind || w.ageAt(device) > w.bound)
	}
}

// ageAt returns how old the word is. The greater of what both clocks say counts, because the
// monotonic clock may stand still while the device sleeps, and somebody may set back the other one.
func (w *word) ageAt(device time.Time) time.Duration {
	return w.age + max(time.Since(w.at), device.Sub(w.device))
}

// look judges by the clocks of now.
func (w *word) look(device time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.judge(device)
}

// hear notes that the hub has spoken, at a time of the store, by the wall clock of the device, and
// by the monotonic clock. It reports whether the word should be written.
func (w *word) hear(now, device, at time.Time) (write bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.kept.Time = now
	w.known, w.behind, w.age, w.device, w.at = true, false, 0, device, at
	w.judge(device)
	every := time.Hour
	if w.bound > 0 {
		every = w.bound / 4 // a restart makes the edge stale so much sooner
	}
	return w.written.IsZero() || time.Since(w.written) >= every
}

// write writes the word to the file.
func (w *word) write(ctx context.Context, s *latchkey.Store) error {
	w.mu.Lock()
	kept := w.kept
	w.mu.Unlock()
	b, err := json.Marshal(kept)
	if err == nil {
		err = s.Update(ctx, func(tx *latchkey.Tx) error { return tx.AppTable(edgeTable).Put(keyWord, b) })
	}
	if err == nil {
		w.mu.Lock()
		w.written = time.Now()
		w.mu.Unlock()
	}
	return err
}

// last returns when the hub spoke last, by the clock of the device, and how long ago that is.
func (w *word) last(device time.Time) (at time.Time, age time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.known {
		return time.Time{}, 0
	}
	age = w.ageAt(device)
	return device.Add(-age), age
}

// lookEvery is how often an edge looks at the clocks.
const lookEvery = time.Second

// keep looks at the clocks until the edge is closed.
func (e *Edge) keep() {
	if e.word.bound == 0 {
		return
	}
	ticks := time.NewTicker(lookEvery)
	defer ticks.Stop()
	for {
		select {
		case <-ticks.C:
			e.word.look(e.clock.device())
		case <-e.closed:
			return
		}
	}
}
