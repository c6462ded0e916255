// Package follow keeps what a store remembers true while other processes write to its data.
package follow

import (
	"bytes"
	"context"
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/cache"
	"github.com/latchkeydb/latchkey/internal/merge"
	"github.com/latchkeydb/latchkey/internal/record"
)

// A Memory is what a store remembers. Changed forgets a part of it at once. Reread leaves to the
// store what has to be read.
type Memory struct {
	Answers interface {
		Drop(cache.Stale)
		Clear() // all of them
	}
	Learn  func(record.Handle) // hears of a handle that there may be now
	Shared func() bool         // reports whether the domain has or had another store

	// Restores tells that the engine was restored from an earlier state. It is nil if the engine
	// does not notice that. Renew begins a new incarnation then.
	Restores interface {
		Restored() (times uint64)
		Renewed(times uint64)
	}
	Renew func(ctx context.Context) error

	// Reread reads again what n says. One goroutine calls Renew and Reread.
	Reread func(ctx context.Context, n News) error
}

// News are what has to be read again after changes.
type News struct {
	All        bool     // everything may have changed
	Restored   bool     // a new incarnation could not be begun
	Meta       bool     // the domain, the replica or the tag secrets
	Clock      bool     // the remembered time
	Identities [][]byte // keys of the index, in a domain with several stores
	Names      [][]byte // the same
}

func (n *News) none() bool {
	return !n.All && !n.Restored && !n.Meta && !n.Clock && len(n.Identities) == 0 && len(n.Names) == 0
}

func (n *News) add(more News) {
	n.All, n.Restored, n.Meta, n.Clock = n.All || more.All, n.Restored || more.Restored, n.Meta || more.Meta, n.Clock || more.Clock
	n.Identities, n.Names = append(n.Identities, more.Identities...), append(n.Names, more.Names...)
}

// A Follower hears of the changes that all processes make.
type Follower struct {
	memory Memory
	fresh  func() bool
	poke   chan struct{}

	// behind is set while logins cannot go by the tag secrets in memory, or while a reading fails.
	behind atomic.Bool

	mu   sync.Mutex
	news News // not read again yet
}

// New returns a follower that updates m. fresh reports whether Changed has been called for
// everything that is older than a bound.
func New(m Memory, fresh func() bool) *Follower {
	return &Follower{memory: m, fresh: fresh, poke: make(chan struct{}, 1)}
}

// Known reports whether the memory may be believed. It takes no lock.
func (f *Follower) Known() bool { return f.fresh() && !f.behind.Load() }

// Lost is called when anything may have changed.
func (f *Follower) Lost() {
	f.note(News{All: true})
	f.memory.Answers.Clear()
}

// Entries yields, for Changed, the table and the key that of returns for each change.
func Entries[C any](changes []C, of func(C) (table string, key []byte)) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		for _, c := range changes {
			if !yield(of(c)) {
				return
			}
		}
	}
}

// Changed is called with the entries that a commit has written or deleted, each as a table and a
// key. It waits for nothing.
func (f *Follower) Changed(changes iter.Seq2[string, []byte]) {
	var stale cache.Stale
	var news News
	shared := f.memory.Shared()
	for table, key := range changes {
		if table == record.TableLater {
			// An answer does not count while a later version has written a record that it needs.
			of, at, _ := bytes.Cut(key, []byte{0})
			table, key = string(of), at
		}
		switch table {
		case record.TableKeys, record.TableDeadKeys:
			if id, err := uuid.FromBytes(key); err == nil {
				stale.Keys = append(stale.Keys, id)
			}
		case record.TableUsers, record.TableDeadUsers:
			if id, err := uuid.FromBytes(key); err == nil {
				stale.Users = append(stale.Users, id)
			}
		case record.TableGroups:
			stale.Groups = append(stale.Groups, string(key))
		case record.TableHandles:
			if h, _, err := record.SplitHandleKey(key); err == nil {
				f.memory.Learn(h)
			}
		case record.TableIdentities:
			if shared {
				news.Identities = append(news.Identities, key)
			}
		case record.TableNames:
			if shared {
				news.Names = append(news.Names, key)
			}
		case record.TableMeta:
			switch string(key) {
			case record.MetaBuried: // of which a store remembers nothing
			case record.MetaClock:
				news.Clock = true
			default:
				news.Meta = true
			}
		}
	}
	f.note(news)
	f.memory.Answers.Drop(stale)
}

// note leaves news to Run.
func (f *Follower) note(n News) {
	if n.none() {
		return
	}
	f.mu.Lock()
	f.news.add(n)
	if n.All || n.Meta {
		f.behind.Store(true)
	}
	f.mu.Unlock()
	f.Poke()
}

// Poke makes Run try again what it could not read again.
func (f *Follower) Poke() {
	select {
	case f.poke <- struct{}{}:
	default:
	}
}

// retryAfter is how long Run waits after a reading that has failed.
const retryAfter = time.Second

// Run reads the news until ctx ends.
func (f *Follower) Run(ctx context.Context) {
	retry := time.NewTimer(retryAfter)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.poke:
		case <-retry.C:
		}
		if !f.reread(ctx) {
			retry.Reset(retryAfter)
		}
	}
}

// reread reads the news once, and reports whether that has succeeded.
func (f *Follower) reread(ctx context.Context) bool {
	f.mu.Lock()
	news := f.news
	f.news = News{}
	f.mu.Unlock()
	if news.none() {
		return true
	}
	// Without a new incarnation, for which there may be no space, logins are right all the same.
	renewed := f.renew(ctx) == nil
	news.Restored = false
	err := f.memory.Reread(ctx, news)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		f.news.add(news)
	}
	f.news.Restored = f.news.Restored || !renewed
	f.behind.Store(err != nil || f.news.All || f.news.Meta)
	return err == nil && renewed
}

// renew begins a new incarnation if the engine was restored.
func (f *Follower) renew(ctx context.Context) error {
	if f.memory.Restores == nil {
		return nil
	}
	times := f.memory.Restores.Restored()
	if times == 0 {
		return nil
	}
	err := f.memory.Renew(ctx)
	if err == nil {
		f.memory.Restores.Renewed(times)
	}
	return err
}

// Others returns the keys and users whose answers depend on the index entries in the news. In a
// domain with several stores, a key is shown under another name if another key of its owner has the
// name, and an identity of several users belongs to none of them.
func (n News) Others(t *merge.Tables) (stale cache.Stale, err error) {
	for _, key := range n.Identities {
		value, err := t.Get(record.TableIdentities, key)
		if err != nil {
			return stale, err
		}
		stale.Users = append(stale.Users, record.Holders(value)...)
	}
	for _, key := range n.Names {
		name, id, err := record.SplitNameKey(key)
		if err != nil {
			continue // which Check finds
		}
		others, err := t.Named(uuid.UUID(key[:len(id)]), name, id)
		if err != nil {
			return stale, err
		}
		stale.Keys = append(stale.Keys, others...)
	}
	return stale, nil
}
