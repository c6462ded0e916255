package bench

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"go.etcd.io/bbolt"

	"github.com/latchkeydb/latchkey"
)

// UnderWrites measures cached logins while another goroutine writes without pause. It writes at the
// light cost, so that it spends its time on writing and not on hashing. The target applies to the
// slowest login in a hundred. So every login is timed by itself, because a mean, even of a few
// logins, would hide a slow one.
var UnderWrites = Group{
	Name:   "writes",
	Title:  "How slow is one cached login in a hundred while another goroutine creates and disables keys without pause?",
	Time:   300 * time.Millisecond,
	Rounds: 11,
	Open: func(e *Env) ([]Case, error) {
		s, err := e.openNew()
		if err != nil {
			return nil, err
		}
		tokens := make([]string, 64)
		for i := range tokens {
			if _, tokens[i], err = s.CreateServerKey(context.Background(), latchkey.KeySpec{Name: fmt.Sprint(i)}); err != nil {
				return nil, err
			}
			if err := login(s, tokens[i]); err != nil {
				return nil, err
			}
		}
		w := &writer{store: s}
		batch, err := e.openBatch()
		if err != nil {
			return nil, err
		}
		return []Case{
			{Name: "login/quiet", Unit: "p99-ns", Body: func(b *testing.B) error { return latencies(b, s, tokens) }},
			{
				Name: "login/writing", Unit: "p99-ns", Ratios: []Ratio{{To: "login/quiet", Max: 3}},
				Body: func(b *testing.B) error {
					stop := w.start()
					start := w.writes.Load()
					err := latencies(b, s, tokens)
					b.ReportMetric(float64(w.writes.Load()-start)/b.Elapsed().Seconds(), "writes/s")
					return errors.Join(err, stop())
				},
			},
			{
				Name: "login/batch", Unit: "p99-ns", Ratios: []Ratio{{To: "login/quiet", Max: 3}},
				Body: batch.measure,
			},
		}, nil
	},
}

// batchedStore is a store that writes the last uses of many keys each few seconds.
type batchedStore struct {
	*fullStore
	tokens []string
}

// openBatch opens a new store with many keys, all of which are in the cache.
func (e *Env) openBatch() (*batchedStore, error) {
	n := e.largest(100_000)
	f, err := e.openFull(&latchkey.Options{Cost: quickCost, CacheSize: n})
	if err != nil {
		return nil, err
	}
	ctx := context.Background()
	minted, tokens, err := f.MintKeys(ctx, n, nil)
	if err != nil {
		return nil, err
	}
	err = f.Update(ctx, func(tx *latchkey.Tx) error {
		for i, m := range minted {
			if _, err := tx.InsertServerKey(latchkey.KeySpec{Name: fmt.Sprint(i)}, m); err != nil {
				return err
			}
		}
		return nil
	})
	b := &batchedStore{f, tokens}
	return b, errors.Join(err, b.useAll())
}

// useAll logs in with all keys.
func (s *batchedStore) useAll() error {
	for _, token := range s.tokens {
		if err := login(s.Store, token); err != nil {
			return err
		}
	}
	return nil
}

// measure times logins from the beginning of a batch on.
func (s *batchedStore) measure(b *testing.B) error {
	if err := s.useAll(); err != nil {
		return err
	}
	commits := func() uint64 {
		st, err := s.Stats(context.Background())
		if err != nil {
			b.Fatal(err)
		}
		return st.Commits
	}
	start := commits()
	for began := time.Now(); commits() == start; time.Sleep(time.Millisecond) {
		if time.Since(began) > time.Minute {
			return errors.New("no batch of last uses came within a minute")
		}
	}
	start = commits()
	err := latencies(b, s.Store, s.tokens[:64])
	b.ReportMetric(float64(commits()-start)/b.Elapsed().Seconds(), "commits/s")
	return err
}

// latencies times each login. It subtracts the cost of reading the clock, which is a large part of
// the time.
func latencies(b *testing.B, s *latchkey.Store, tokens []string) error {
	ctx := context.Background()
	base := time.Now()
	clock := newHistogram()
	for range 10_000 {
		start := time.Since(base)
		record(clock, time.Since(base)-start)
	}
	clockCost := clock.ValueAtPercentile(50)

	hist := newHistogram()
	i := 0
	for b.Loop() {
		start := time.Since(base)
		_, err := s.Login(ctx, tokens[i])
		record(hist, time.Since(base)-start)
		if err != nil {
			return err
		}
		if i++; i == len(tokens) {
			i = 0
		}
	}
	for _, p := range []struct {
		percentile float64
		unit       string
	}{{50, "p50-ns"}, {99, "p99-ns"}, {99.9, "p99.9-ns"}, {100, "max-ns"}} {
		b.ReportMetric(float64(max(0, hist.ValueAtPercentile(p.percentile)-clockCost)), p.unit)
	}
	return nil
}

const longest = 10 * time.Second // the longest time that a histogram can hold

func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(1, int64(longest), 3) }

func record(h *hdrhistogram.Histogram, d time.Duration) {
	_ = h.RecordValue(int64(min(d, longest))) // a longer time is its only error
}

// writer creates and disables server keys as fast as the disk allows.
type writer struct {
	store  *latchkey.Store
	writes atomic.Int64
}

// start starts the writer, and returns when it has written once. stop ends the writer and waits for
// its end.
func (w *writer) start() (stop func() error) {
	done := make(chan struct{})
	began := make(chan struct{})
	var once sync.Once
	var wg sync.WaitGroup
	var err error
	wg.Go(func() {
		defer once.Do(func() { close(began) })
		for err == nil {
			select {
			case <-done:
				return
			default:
			}
			err = w.write()
			once.Do(func() { close(began) })
		}
	})
	<-began
	return func() error {
		close(done)
		wg.Wait()
		return err
	}
}

func (w *writer) write() error {
	ctx := context.Background()
	name := fmt.Sprintf("written-%d", w.writes.Load())
	key, _, err := w.store.CreateServerKey(ctx, latchkey.KeySpec{Name: name})
	if err != nil {
		return err
	}
	w.writes.Add(2)
	return w.store.DisableKey(ctx, latchkey.ServerOwner, key.ID)
}

// SharedCommits measures how much a write costs beyond bbolt's own commit, for one writer and for
// many.
var SharedCommits = Group{
	Name:   "commits",
	Title:  "Does a lone writer wait, and do many writers share their syncs?",
	Time:   250 * time.Millisecond,
	Rounds: 11,
	Open: func(e *Env) ([]Case, error) {
		bare, err := e.openBareBolt()
		if err != nil {
			return nil, err
		}
		alone, err := e.openNew()
		if err != nil {
			return nil, err
		}
		crowded, err := e.openNew()
		if err != nil {
			return nil, err
		}
		inserter, creators := &keyMaker{store: alone}, &keyMaker{store: crowded}
		return []Case{
			{Name: "bbolt/update", Body: bare.measure(bare.db.Update)},
			{Name: "bbolt/batch", Body: bare.measure(bare.db.Batch), Ratios: []Ratio{{To: "bbolt/update"}}},
			// The rules that an insertion checks take a few microseconds. Waiting for another
			// writer would take milliseconds.
			{Name: "insert/goroutines=1", Body: inserter.insert, Ratios: []Ratio{{To: "bbolt/update", Max: 1.25}}},
			{Name: "create/goroutines=1", Unit: "syncs/key", Body: creators.create(1)},
			{Name: "create/goroutines=64", Unit: "syncs/key", Body: creators.create(64), Max: 1.0 / 8},
		}, nil
	},
}

// bareBolt writes the entries of one inserted key, with bbolt alone.
type bareBolt struct {
	db *bbolt.DB
	n  uint64
}

var bareBuckets = []string{"keys", "names", "changes"}

func (e *Env) openBareBolt() (*bareBolt, error) {
	dir, err := e.tempDir()
	if err != nil {
		return nil, err
	}
	// The settings that affect a commit are the same as the store's.
	db, err := bbolt.Open(filepath.Join(dir, "bare.db"), 0o600, &bbolt.Options{
		PageSize: 4096, FreelistType: bbolt.FreelistMapType, NoStatistics: true,
	})
	if err != nil {
		return nil, err
	}
	db.AllocSize = 128 << 10 // by how much the file grows at a time, with a sync of its own
	e.onClose(db.Close)
	return &bareBolt{db: db}, db.Update(func(tx *bbolt.Tx) error {
		for _, name := range append(bareBuckets, "mark") {
			if _, err := tx.CreateBucket([]byte(name)); err != nil {
				return err
			}
		}
		return nil
	})
}

// measure times one write after another. The write uses bbolt's Update, or bbolt's Batch, which
// waits for other writes to share a commit with.
func (w *bareBolt) measure(write func(func(*bbolt.Tx) error) error) func(b *testing.B) error {
	return func(b *testing.B) error {
		b.ReportAllocs()
		for b.Loop() {
			if err := write(w.put); err != nil {
				return err
			}
		}
		return nil
	}
}

// put writes entries of the same sizes as the store's, under keys that grow as those of the store
// do: the key, its name, the change, the number of entries of each bucket, and the mark of the
// commit.
func (w *bareBolt) put(tx *bbolt.Tx) error {
	w.n++
	id := binary.BigEndian.AppendUint64(nil, w.n)
	keyID := append(id, make([]byte, 8)...)
	name := append(bytes.Repeat([]byte{0xff}, 16), fmt.Sprintf("device-%08d\x00%s", w.n, keyID)...)
	for i, entry := range []struct{ key, value []byte }{
		{keyID, make([]byte, 189)},
		{name, nil},
		{id, []byte("keys\x00" + string(keyID))},
	} {
		b := tx.Bucket([]byte(bareBuckets[i]))
		if err := errors.Join(b.SetSequence(w.n), b.Put(entry.key, entry.value)); err != nil {
			return err
		}
	}
	mark := tx.Bucket([]byte("mark"))
	return errors.Join(mark.SetSequence(w.n), mark.Put([]byte("random"), id), mark.Put([]byte("sequence"), id))
}

// keyMaker makes server keys, each with a name of its own.
type keyMaker struct {
	store *latchkey.Store
	names atomic.Int64
}

func (m *keyMaker) newKey() latchkey.KeySpec {
	return latchkey.KeySpec{Name: fmt.Sprintf("device-%08d", m.names.Add(1))}
}

// insert times the insertion of minted keys, which is a write without a hash.
func (m *keyMaker) insert(b *testing.B) error {
	ctx := context.Background()
	var minted []latchkey.MintedKey
	b.ReportAllocs()
	for b.Loop() {
		if len(minted) == 0 {
			b.StopTimer()
			var err error
			if minted, _, err = m.store.MintKeys(ctx, 64, nil); err != nil {
				return err
			}
			b.StartTimer()
		}
		next := minted[0]
		minted = minted[1:]
		err := m.store.Update(ctx, func(tx *latchkey.Tx) error {
			_, err := tx.InsertServerKey(m.newKey(), next)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// create makes goroutines create keys, and counts bbolt's syncs. Each commit has two.
func (m *keyMaker) create(goroutines int) func(b *testing.B) error {
	return func(b *testing.B) error {
		ctx := context.Background()
		before, err := m.store.Stats(ctx)
		if err != nil {
			return err
		}
		b.ReportAllocs()
		err = together(b, goroutines, func(_, n int) error {
			for range n {
				if _, _, err := m.store.CreateServerKey(ctx, m.newKey()); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		after, err := m.store.Stats(ctx)
		b.ReportMetric(2*float64(after.Commits-before.Commits)/float64(b.N), "syncs/key")
		return err
	}
}
