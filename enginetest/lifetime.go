package enginetest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/latchkeydb/latchkey"
)

// Laws about the life of an engine: which data lasts, and what Close does.
var lifetimeLaws = []law{
	{"every commit is there after reopening", commitsLast},
	{"a read-only engine runs no Update", readOnlyEngine},
	{"after Close every call returns ErrClosed, and Close does nothing", closedEngine},
	{"Close waits for transactions under way", closeWaits},
	{"Close among writers loses nothing that was acknowledged", closeAmongWriters},
	{"a million small records", manyRecords},
}

func commitsLast(s *subject) {
	s.reopen(nil)
	s.want("t", "")
	s.put("t", "a", "1")
	s.put("t", "b", "1")
	s.reopen(nil)
	s.want("t", "a=1 b=1")
	s.write("t", "-a", "b=2")
	s.wantError("Update", s.Update(s.Context(), func(tx latchkey.EngineTx) error {
		if err := put(tx, "t", "c", "3"); err != nil {
			return err
		}
		return errFn
	}), errFn)
	s.reopen(nil)
	s.want("t", "b=2")
}

func readOnlyEngine(s *subject) {
	s.put("t", "a", "1")
	s.reopen(&latchkey.Options{ReadOnly: true})
	err := s.Update(s.Context(), func(latchkey.EngineTx) error {
		s.Error("fn ran")
		return nil
	})
	s.wantError("Update", err, latchkey.ErrReadOnly)
	s.view(func(tx latchkey.EngineTx) error {
		s.wantError("Put", put(tx, "t", "b", "2"), latchkey.ErrReadOnly)
		return nil
	})
	s.want("t", "a=1")
	s.reopen(nil)
	s.put("t", "b", "2")
	s.want("t", "a=1 b=2")
}

func closedEngine(s *subject) {
	s.put("t", "a", "1")
	for range 2 {
		if err := s.Close(); err != nil {
			s.Errorf("Close: %v", err)
		}
		fn := func(latchkey.EngineTx) error {
			s.Error("fn ran")
			return nil
		}
		s.wantError("View", s.View(s.Context(), fn), latchkey.ErrClosed)
		s.wantError("Update", s.Update(s.Context(), fn), latchkey.ErrClosed)
	}
}

// closeWaits closes the engine while a transaction is in progress, once for each kind of
// transaction.
func closeWaits(s *subject) {
	s.put("t", "a", "1")
	for _, tt := range []struct {
		name string
		run  func(fn func(tx latchkey.EngineTx) error) error
	}{
		{"View", func(fn func(tx latchkey.EngineTx) error) error { return s.View(s.Context(), fn) }},
		{"Update", func(fn func(tx latchkey.EngineTx) error) error { return s.Update(s.Context(), fn) }},
	} {
		var closed atomic.Bool
		var closing sync.WaitGroup
		err := tt.run(func(tx latchkey.EngineTx) error {
			closing.Go(func() {
				if err := s.Close(); err != nil {
					s.Errorf("Close: %v", err)
				}
				closed.Store(true)
			})
			// A Close that does not wait has time to return here. Close need not be quick.
			for range 1000 {
				runtime.Gosched()
				if v, err := get(tx, "t", "a"); err != nil || v != "1" {
					return fmt.Errorf("the value is %q, %v", v, err)
				}
			}
			if closed.Load() {
				s.Errorf("Close has returned while an %s is under way", tt.name)
			}
			return nil
		})
		if err != nil {
			s.Errorf("%s: %v", tt.name, err)
		}
		closing.Wait()
		s.start(nil)
	}
	s.want("t", "a=1")
}

// closeAmongWriters closes the engine while many write. Each Update returns nil and lasts, or
// returns ErrClosed and leaves nothing.
func closeAmongWriters(s *subject) {
	results := s.amongWriters(func() {
		if err := s.Close(); err != nil {
			s.Errorf("Close: %v", err)
		}
	})
	s.start(nil)
	for key, err := range results {
		if err != nil {
			s.wantError("Update", err, latchkey.ErrClosed)
		}
		s.wantTruth("t", key, err)
	}
}

// amongWriters calls fn while many goroutines write one key after another. It returns the error of
// each Update by its key. fn begins after each goroutine has made one Update, and each makes its
// last Update after fn has returned.
func (s *subject) amongWriters(fn func()) map[string]error {
	s.Helper()
	var group sync.WaitGroup
	var mu sync.Mutex
	var ended atomic.Bool
	results := make(map[string]error)
	begun := make(chan struct{}, writers)
	for i := range writers {
		group.Go(func() {
			for n, last := 0, false; !last; n++ {
				last = ended.Load()
				key := fmt.Sprintf("%02d %d", i, n)
				err := s.Update(s.Context(), func(tx latchkey.EngineTx) error { return put(tx, "t", key, ".") })
				mu.Lock()
				results[key] = err
				mu.Unlock()
				if n == 0 {
					begun <- struct{}{}
				}
			}
		})
	}
	for range writers {
		<-begun
	}
	fn()
	ended.Store(true)
	group.Wait()
	return results
}

// manyRecords writes many records in the order of their keys, in ten transactions, and reads them
// after reopening.
func manyRecords(s *subject) {
	records := uint64(1_000_000)
	if testing.Short() {
		records = 10_000
	}
	if s.maxWrites() < 1000 {
		records = min(records, 100_000) // each transaction costs as much as a large one
	}
	key := func(i uint64) []byte { return binary.BigEndian.AppendUint64(nil, i) }
	value := func(i uint64) []byte { return fmt.Appendf(nil, "value %d", i) }
	for first := uint64(0); first < records; first += records / 10 {
		s.inSteps(int(records/10), func(tx latchkey.EngineTx, i int) error {
			return tx.Put("t", key(first+uint64(i)), value(first+uint64(i)))
		})
	}
	s.reopen(nil)
	s.view(func(tx latchkey.EngineTx) error {
		i := uint64(0)
		for e, err := range tx.Scan("t", nil, nil) {
			if err != nil {
				return err
			}
			if !bytes.Equal(e.Key, key(i)) || !bytes.Equal(e.Value, value(i)) {
				return fmt.Errorf("entry %d is %x=%q", i, e.Key, e.Value)
			}
			i++
		}
		if i != records {
			return fmt.Errorf("the Scan ended before entry %d of %d", i, records)
		}
		for i := uint64(0); i < records; i += 997 {
			if v, err := tx.Get("t", key(i)); err != nil || !bytes.Equal(v, value(i)) {
				return fmt.Errorf("the value of entry %d is %q, %v", i, v, err)
			}
		}
		return nil
	})
}
