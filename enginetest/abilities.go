package enginetest

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"sync/atomic"

	"github.com/latchkeydb/latchkey"
)

// Laws about the abilities that an engine may have or lack. A law is skipped if the engine lacks
// the ability.
var abilityLaws = []law{
	{"a backup has the state of one moment", backupHasOneState},
	{"Compact keeps every entry and its sequence", compactKeepsEntries},
	{"CheckEngine finds nothing in a sound engine", checkFindsNothing},
	{"Commits counts the commits since the opening", commitsAreCounted},
	{"ViewLong sees one state", longViewSeesOneState},
	{"NextReadable returns nil for a sound table", nothingToSkip},
	{"RepairEngine of a sound engine repairs nothing", nothingToRepair},
}

// ability returns the engine as an A. It skips the law if the engine is no A.
func ability[A any](s *subject) A {
	s.Helper()
	a, ok := s.Engine.(A)
	if !ok {
		s.Skipf("the engine is no %v", reflect.TypeFor[A]())
	}
	return a
}

// filledTables is how many tables fill uses.
const filledTables = 3

func filledTable(i int) string { return fmt.Sprint("filled ", i%filledTables) }

func filledEntry(i int) latchkey.Entry {
	return latchkey.Entry{Key: fmt.Appendf(nil, "%04d", i), Value: bytes.Repeat([]byte{byte(i)}, i*i%5000)}
}

// fill puts 500 entries with values of many sizes into several tables, and deletes every fifth.
func (s *subject) fill() {
	s.Helper()
	s.inSteps(500, func(tx latchkey.EngineTx, i int) error {
		e := filledEntry(i)
		return tx.Put(filledTable(i), e.Key, e.Value)
	})
	s.inSteps(100, func(tx latchkey.EngineTx, i int) error {
		return tx.Delete(filledTable(5*i), filledEntry(5*i).Key)
	})
}

// wantFilled checks that the tables have exactly the entries that fill has left in them.
func (s *subject) wantFilled() {
	s.Helper()
	want := make(map[string][]latchkey.Entry)
	for i := range 500 {
		if i%5 != 0 {
			want[filledTable(i)] = append(want[filledTable(i)], filledEntry(i))
		}
	}
	s.view(func(tx latchkey.EngineTx) error {
		for table, entries := range want {
			n := 0
			for e, err := range tx.Scan(table, nil, nil) {
				if err != nil {
					return err
				}
				if n < len(entries) && (!bytes.Equal(e.Key, entries[n].Key) || !bytes.Equal(e.Value, entries[n].Value)) {
					return fmt.Errorf("entry %d of table %q has the key %q and %d bytes, want %q and %d",
						n, table, e.Key, len(e.Value), entries[n].Key, len(entries[n].Value))
				}
				n++
			}
			if n != len(entries) {
				return fmt.Errorf("table %q has %d entries, want %d", table, n, len(entries))
			}
		}
		return nil
	})
}

// backupHasOneState makes a backup while writers move amounts between tables. The backup must have
// the filled tables, and amounts with the sum that no transfer changes.
func backupHasOneState(s *subject) {
	e := ability[latchkey.EngineBackuper](s)
	s.room()
	s.fill()
	s.update(openAccounts)
	var done atomic.Bool
	var writing sync.WaitGroup
	for writer := range 4 {
		writing.Go(func() {
			for !done.Load() && !s.Failed() {
				s.transferMuch(writer)
			}
		})
	}
	var file bytes.Buffer
	err := e.WriteBackup(s.Context(), &file)
	done.Store(true)
	writing.Wait()
	if err != nil {
		s.Fatalf("WriteBackup: %v", err)
	}
	path := filepath.Join(s.TempDir(), "backup.db")
	if err := os.WriteFile(path, file.Bytes(), 0o600); err != nil {
		s.Fatal(err)
	}
	backup, err := latchkey.OpenBoltEngine(path, nil)
	if err != nil {
		s.Fatalf("open the backup: %v", err)
	}
	b := &subject{T: s.T, Engine: backup}
	b.wantFilled()
	b.view(func(tx latchkey.EngineTx) error {
		n, err := total(tx)
		if err == nil && n != sum {
			s.Errorf("the amounts in the backup have a sum of %d, want %d", n, sum)
		}
		return err
	})
	if err := backup.Close(); err != nil {
		s.Errorf("close the backup: %v", err)
	}
}

// compactKeepsEntries compacts the engine while many write to it.
func compactKeepsEntries(s *subject) {
	e := ability[latchkey.EngineCompacter](s)
	s.Track("t", filledTable(0))
	s.fill()
	sequenceOf := func(i int) (sequence uint64) {
		s.view(func(tx latchkey.EngineTx) (err error) {
			sequence, err = tx.SequenceOf(filledTable(i), filledEntry(i).Key)
			return err
		})
		return sequence
	}
	before := sequenceOf(3)
	results := s.amongWriters(func() {
		if err := e.Compact(s.Context()); err != nil {
			s.Errorf("Compact: %v", err)
		}
	})
	for range 2 {
		s.wantFilled()
		for key, err := range results {
			s.wantTruth("t", key, err)
		}
		if now := sequenceOf(3); now != before || now == 0 {
			s.Errorf("an entry was changed at sequence %d, and after Compact it is %d", before, now)
		}
		s.reopen(nil)
	}
}

// longViewSeesOneState reads all entries while others are written.
func longViewSeesOneState(s *subject) {
	e := ability[latchkey.EngineLongViewer](s)
	s.fill()
	err := e.ViewLong(s.Context(), func(tx latchkey.EngineTx) error {
		s.update(func(w latchkey.EngineTx) error { return w.Put("t", []byte("later"), []byte("1")) })
		if v, err := tx.Get("t", []byte("later")); v != nil || err != nil {
			s.Errorf("ViewLong sees %q of a later transaction: %v", v, err)
		}
		return nil
	})
	if err != nil {
		s.Errorf("ViewLong: %v", err)
	}
}

func checkFindsNothing(s *subject) {
	s.Track(filledTable(1))
	for _, do := range []struct {
		when string
		call func()
	}{
		{"when it is new", func() {}},
		{"after writes and deletions", s.fill},
		{"after reopening", func() { s.reopen(nil) }},
	} {
		do.call()
		for err := range ability[latchkey.EngineChecker](s).CheckEngine(s.Context()) {
			s.Errorf("CheckEngine %s: %v", do.when, err)
		}
	}
}

func commitsAreCounted(s *subject) {
	e := ability[latchkey.CommitCounter](s)
	for range 10 {
		before := e.Commits()
		s.put("t", "a", "1")
		if n := e.Commits(); n <= before {
			s.Errorf("Commits is %d after an Update, and was %d before it", n, before)
		}
	}
	before := e.Commits()
	s.want("t", "a=1")
	if n := e.Commits(); n != before {
		s.Errorf("Commits is %d after a View, and was %d before it", n, before)
	}
	s.reopen(nil)
	if n := ability[latchkey.CommitCounter](s).Commits(); n >= before {
		s.Errorf("Commits is %d after reopening, want only the commits since then", n)
	}
}

// nothingToSkip calls NextReadable in each kind of transaction, on an engine without damage.
func nothingToSkip(s *subject) {
	s.fill()
	able := true
	ask := func(tx latchkey.EngineTx) error {
		skipper, ok := tx.(latchkey.DamageSkipper)
		if !ok {
			able = false
			return nil
		}
		for _, table := range []string{filledTable(0), "never written"} {
			for _, from := range []string{"", "0000", "0100", "0250x", "9999"} {
				if next := skipper.NextReadable(table, []byte(from)); next != nil {
					s.Errorf("NextReadable(%q, %q): got %q, want nil", table, from, next)
				}
			}
		}
		return nil
	}
	s.view(ask)
	s.update(ask)
	if !able {
		s.Skipf("the engine's transactions are no %v", reflect.TypeFor[latchkey.DamageSkipper]())
	}
}

func nothingToRepair(s *subject) {
	s.Track(filledTable(0))
	s.fill()
	able := true
	repair := func(tx latchkey.EngineTx) error {
		repairer, ok := tx.(latchkey.EngineRepairer)
		if able = ok; !ok {
			return nil
		}
		n, stale, err := repairer.RepairEngine(s.Context())
		if n != 0 || len(stale) > 0 {
			s.Errorf("RepairEngine repaired %d findings, and found %d entries of an earlier state", n, len(stale))
		}
		return err
	}
	before, _ := s.commit()
	s.update(repair)
	if !able {
		s.Skipf("the engine's transactions are no %v", reflect.TypeFor[latchkey.EngineRepairer]())
	}
	s.wantError("RepairEngine in a View", s.View(s.Context(), repair), latchkey.ErrReadOnly)
	if now, _ := s.commit(); now != before {
		s.Errorf("RepairEngine of a sound engine made the commit %d", now)
	}
	s.wantFilled()
}
