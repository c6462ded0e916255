package boltengine

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/latchkeydb/latchkey/internal/boltpage"
)

// openTracked opens an engine with the tracked table "t". Its entries a, b and c were changed by
// the commits 4, 2 and 3.
func openTracked(t testing.TB) inside {
	t.Helper()
	e := openInside(t)
	e.Track("t")
	for _, key := range []string{"a", "b", "c", "a"} {
		must(t, e.set(key, key))
	}
	return e
}

// at returns the place of the first change of a commit.
func at(sequence uint64) boltpage.Place { return boltpage.NewPlace(sequence, 0) }

// plant makes a commit that the engine knows nothing of, except that it is the last.
func (e inside) plant(fn func(tx *bbolt.Tx) error) {
	e.t.Helper()
	must(e.t, e.db.Update(func(tx *bbolt.Tx) error {
		if err := fn(tx); err != nil {
			return err
		}
		return setMarker(tx)
	}))
	mark, err := boltpage.ReadMark(e.file)
	must(e.t, err)
	e.lastCommit.Store(&knownCommit{e.db, int(mark.Commit), mark})
}

// plantEntry sets a raw value of the table "t".
func (e inside) plantEntry(key string, raw []byte) {
	e.t.Helper()
	e.plant(func(tx *bbolt.Tx) error { return tx.Bucket([]byte("t")).Put([]byte(key), raw) })
}

// numberingFindings returns what CheckEngine yields, and fails the test for a finding that is no
// ErrNumbering.
func (e inside) numberingFindings() (findings []string) {
	e.t.Helper()
	for finding := range e.CheckEngine(e.t.Context()) {
		findings = append(findings, finding.Error())
		if !errors.Is(finding, ErrNumbering) || !errors.Is(finding, ErrCorrupt) {
			e.t.Errorf("CheckEngine: got %v, want an ErrNumbering", finding)
		}
	}
	return findings
}

// repair repairs the numbering in an Update, and returns what was repaired.
func (e inside) repair() (repaired int, stale []TrackedChange) {
	e.t.Helper()
	must(e.t, e.Update(e.t.Context(), func(tx *Tx) (err error) {
		repaired, stale, err = tx.RepairEngine(e.t.Context())
		return err
	}))
	return repaired, stale
}

// wantCorrupt fails the test unless every way to read or write an entry of "t" is an ErrCorrupt.
func (e inside) wantCorrupt(key string) {
	e.t.Helper()
	for name, do := range map[string]func(tx *Tx) error{
		"Get":        func(tx *Tx) error { _, err := tx.Get("t", []byte(key)); return err },
		"SequenceOf": func(tx *Tx) error { _, err := tx.SequenceOf("t", []byte(key)); return err },
		"Scan": func(tx *Tx) error {
			for _, err := range tx.Scan("t", []byte(key), nil) {
				return err
			}
			return nil
		},
		"Put":    func(tx *Tx) error { return tx.Put("t", []byte(key), []byte("2")) },
		"Delete": func(tx *Tx) error { return tx.Delete("t", []byte(key)) },
	} {
		if err := e.Update(e.t.Context(), do); !errors.Is(err, ErrCorrupt) {
			e.t.Errorf("%s of %s in an Update: got %v, want ErrCorrupt", name, key, err)
		}
		if name == "Put" || name == "Delete" {
			continue
		}
		if err := e.View(e.t.Context(), do); !errors.Is(err, ErrCorrupt) {
			e.t.Errorf("%s of %s in a View: got %v, want ErrCorrupt", name, key, err)
		}
	}
}

// value returns the value of an entry of "t".
func (e inside) value(key string) (value string, err error) {
	err = e.View(e.t.Context(), func(tx *Tx) error {
		v, err := tx.Get("t", []byte(key))
		value = string(v)
		return err
	})
	return value, err
}

func TestAnEntryOfAnEarlierStateIsNeitherReadNorWritten(t *testing.T) {
	e := openTracked(t)
	e.plantEntry("a", boltpage.JoinTracked(at(1), []byte("earlier")))
	before, _, err := e.Commit(t.Context())
	must(t, err)
	e.wantCorrupt("a")
	if now, _, _ := e.Commit(t.Context()); now != before {
		t.Errorf("after refused writes the last commit is %d, want %d", now, before)
	}
	if v, err := e.value("b"); err != nil || v != "b" {
		t.Errorf("another entry: got %q, %v", v, err)
	}
	must(t, e.View(t.Context(), func(tx *Tx) error {
		if next := tx.NextReadable("t", nil); string(next) != "a\x00" {
			t.Errorf("NextReadable: got %q, want the key after a", next)
		}
		if next := tx.NextReadable("t", []byte("a\x00")); next != nil {
			t.Errorf("NextReadable behind it: got %q, want nil", next)
		}
		return nil
	}))
}

// An old version of a page has right checks, and its keys are where they belong. Only the change
// index gives it away, whether the page is of the table or of the index.
func TestAPageThatFellBackToAnEarlierStateIsNotBelieved(t *testing.T) {
	for _, table := range []string{"numbers", boltpage.Changes} {
		e := openInside(t)
		e.Track("numbers")
		e.db.NoSync = true
		put := func(i int) {
			must(t, e.Update(t.Context(), func(tx *Tx) error {
				return tx.Put("numbers", []byte(number(i)), make([]byte, 150))
			}))
		}
		for i := range 300 {
			put(i)
		}
		pageOf := func(i int) uint64 {
			if table == "numbers" {
				return e.leafWith(table, number(i))
			}
			var sequence uint64
			must(t, e.View(t.Context(), func(tx *Tx) (err error) {
				sequence, err = tx.SequenceOf("numbers", []byte(number(i)))
				return err
			}))
			return e.leafWith(table, string(at(sequence).Key()))
		}
		// Neither the first nor the last entry of its page, so that the page keeps its place.
		i := 150
		for pageOf(i-1) != pageOf(i) || pageOf(i) != pageOf(i+1) {
			i++
		}
		before := pageOf(i)
		earlier := e.page(before)
		put(i)
		now := pageOf(i - 1)
		if now == before {
			t.Fatalf("page %d was written over", now)
		}
		e.spoil(now, 8, earlier[8:]...)
		get := func(i int) error {
			return e.View(t.Context(), func(tx *Tx) error {
				_, err := tx.Get("numbers", []byte(number(i)))
				return err
			})
		}
		if err := get(i); table == "numbers" && !errors.Is(err, ErrCorrupt) {
			t.Errorf("an entry of an earlier page: got %v, want ErrCorrupt", err)
		}
		must(t, get(i-1))
		must(t, get(i+1))
		findings := e.numberingFindings()
		if len(findings) == 0 {
			t.Errorf("CheckEngine finds nothing wrong with an earlier page of %s", table)
		}
		_, stale := e.repair()
		if wrong := e.numberingFindings(); len(wrong) > 0 {
			t.Errorf("after the repair: %q", wrong)
		}
		if table == "numbers" && (len(stale) != 1 || string(stale[0].Key) != number(i) || stale[0].Sequence != 301) {
			t.Errorf("stale: got %v, want the entry %d with sequence 301", stale, i)
		}
		must(t, get(i))
	}
}

func TestAnEarlierRootIsNotReadByAnOpenEngine(t *testing.T) {
	e := openTracked(t)
	meta := func() boltpage.Meta {
		m, _ := boltpage.ReadMeta(e.file)
		return m
	}
	earlier := e.page(meta().Root)
	must(t, e.set("a", "later"))
	e.spoil(meta().Root, 8, earlier[8:]...)
	if v, err := e.value("b"); !errors.Is(err, ErrCorrupt) {
		t.Errorf("got %q, %v, want ErrCorrupt", v, err)
	}
}

func TestADamagedPageOfTheChangeIndexIsAnError(t *testing.T) {
	e := openInside(t)
	e.Track("t")
	e.db.NoSync = true
	for i := range 1000 {
		must(t, e.set(number(i), "."))
	}
	e.spoil(e.leafWith(boltpage.Changes, string(at(150).Key())), pageHeader+elementSize, make([]byte, elementSize)...)
	e.wantCorrupt(number(149))
	must(t, e.set(number(999), "2"))
	if v, err := e.value(number(0)); err != nil || v != "." {
		t.Errorf("an entry that another page of the index has: got %q, %v", v, err)
	}
	// The entries of the damaged page are compared with nothing.
	pages := 0
	for finding := range e.CheckEngine(t.Context()) {
		if errors.Is(finding, ErrNumbering) {
			t.Errorf("CheckEngine: got %v", finding)
		}
		pages++
	}
	if pages == 0 {
		t.Error("CheckEngine finds nothing")
	}
	err := e.Update(t.Context(), func(tx *Tx) error { _, _, err := tx.RepairEngine(t.Context()); return err })
	if !errors.Is(err, ErrCorrupt) {
		t.Errorf("RepairEngine: got %v, want ErrCorrupt", err)
	}
}

func TestTheNumberingIsCheckedAndRepaired(t *testing.T) {
	index := func(tx *bbolt.Tx) *bbolt.Bucket { return tx.Bucket([]byte(boltpage.Changes)) }
	table := func(tx *bbolt.Tx) *bbolt.Bucket { return tx.Bucket([]byte("t")) }
	list := func(tx *bbolt.Tx, sequence uint64, table, key string) error {
		b := index(tx)
		if err := b.SetSequence(b.Sequence() + 1); err != nil {
			return err
		}
		return b.Put(boltpage.NewPlace(sequence, 1).Key(), boltpage.ChangedEntry(table, []byte(key)))
	}
	for _, tt := range []struct {
		name   string
		spoil  func(tx *bbolt.Tx) error
		finds  string // at the beginning of the only finding
		stale  string
		repair bool
	}{
		{"nothing is wrong", func(tx *bbolt.Tx) error { return nil }, "", "", false},
		{"an entry is not listed", func(tx *bbolt.Tx) error {
			b := index(tx)
			return errors.Join(b.SetSequence(2), b.Delete(at(2).Key()))
		}, "the entry 62 of table t is not in the change index at 2.0", "", true},
		{"an entry is of an earlier state", func(tx *bbolt.Tx) error {
			return table(tx).Put([]byte("a"), boltpage.JoinTracked(at(1), []byte("a")))
		}, "the entry 61 of table t is of an earlier state", "a at 4", true},
		{"another entry is listed in the place of an entry", func(tx *bbolt.Tx) error {
			return index(tx).Put(at(2).Key(), boltpage.ChangedEntry("t", []byte("c")))
		}, "the entry 62 of table t is not in the change index at 2.0", "", true},
		{"an entry is listed at a later sequence, too", func(tx *bbolt.Tx) error { return list(tx, 4, "t", "b") },
			"the entry 62 of table t is of an earlier state", "b at 4", true},
		{"an entry is listed at an earlier sequence, too", func(tx *bbolt.Tx) error { return list(tx, 1, "t", "a") },
			"the change index has the entry 61 of table t at 1.1, and the entry has 4.0", "", true},
		{"an entry has a sequence that is not there yet", func(tx *bbolt.Tx) error {
			b := index(tx)
			return errors.Join(table(tx).Put([]byte("b"), boltpage.JoinTracked(at(9), []byte("b"))),
				b.Delete(at(2).Key()), b.Put(at(9).Key(), boltpage.ChangedEntry("t", []byte("b"))))
		}, "the entry 62 of table t has 9.0, and the last commit is 4", "", true},
		{"an entry is listed that is not there", func(tx *bbolt.Tx) error { return list(tx, 3, "t", "d") },
			"the change index has the entry 64 of table t, which is not there", "", true},
		{"an entry of a table is listed that is not tracked", func(tx *bbolt.Tx) error { return list(tx, 3, "u", "a") },
			"the change index has the entry 61 of table u, which is not there", "", true},
		{"the index has a value of another form", func(tx *bbolt.Tx) error {
			b := index(tx)
			return errors.Join(b.SetSequence(4), b.Put(at(5).Key(), nil))
		}, "the change index has the entry 0000000005000000", "", true},
		{"the index has a key of another form", func(tx *bbolt.Tx) error {
			b := index(tx)
			return errors.Join(b.SetSequence(4), b.Put([]byte("key"), nil))
		}, "the change index has the entry 6b6579", "", true},
		{"a table counts wrongly", func(tx *bbolt.Tx) error {
			return table(tx).SetSequence(uint64(boltpage.NewTally(7, true)))
		}, "table t counts 7 entries, and has 3", "", true},
		{"the index counts wrongly", func(tx *bbolt.Tx) error { return index(tx).SetSequence(7) },
			"table latchkey.changes counts 7 entries, and has 3", "", true},
		{"a table that is not tracked counts wrongly", func(tx *bbolt.Tx) error {
			return tx.Bucket([]byte("u")).SetSequence(0)
		}, "table u counts 0 entries, and has 1", "", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := openTracked(t)
			e.plant(func(tx *bbolt.Tx) error {
				b, err := tx.CreateBucket([]byte("u"))
				return errors.Join(err, b.SetSequence(1), b.Put([]byte("a"), []byte("1")))
			})
			e.plant(tt.spoil)
			findings := e.numberingFindings()
			if tt.finds == "" && len(findings) > 0 || tt.finds != "" && !slices.ContainsFunc(findings, func(f string) bool {
				return strings.HasPrefix(f, "store is damaged: "+tt.finds)
			}) {
				t.Errorf("CheckEngine: got %q, want %q", findings, tt.finds)
			}
			// A wrong value shows twice, because the index has an entry, too.
			if len(findings) > 2 {
				t.Errorf("CheckEngine: got %q, want one finding", findings)
			}
			errRefused := errors.New("refused")
			err := e.Update(t.Context(), func(tx *Tx) error {
				if _, _, err := tx.RepairEngine(t.Context()); err != nil {
					return err
				}
				return errRefused
			})
			if again := e.numberingFindings(); !errors.Is(err, errRefused) || !slices.Equal(again, findings) {
				t.Errorf("after a repair that was refused (%v): got %q, want %q", err, again, findings)
			}
			before, _, err := e.Commit(t.Context())
			must(t, err)
			repaired, stale := e.repair()
			if repaired != len(findings) {
				t.Errorf("repaired %d findings, want %d", repaired, len(findings))
			}
			var was []string
			for _, s := range stale {
				was = append(was, fmt.Sprintf("%s at %d", s.Key, s.Sequence))
			}
			if got := strings.Join(was, " "); got != tt.stale {
				t.Errorf("stale: got %q, want %q", got, tt.stale)
			}
			if again := e.numberingFindings(); len(again) > 0 {
				t.Errorf("after the repair: %q", again)
			}
			now, _, err := e.Commit(t.Context())
			must(t, err)
			if tt.repair != (now > before) {
				t.Errorf("the repair went from commit %d to %d", before, now)
			}
			e.want("a=a b=b c=c")
			e.reopen().want("a=a b=b c=c")
		})
	}
}

func TestAnEntryWithoutAPlaceIsDamageThatNoRepairMends(t *testing.T) {
	e := openTracked(t)
	e.plantEntry("b", []byte("short"))
	e.wantCorrupt("b")
	for range 2 {
		var findings []error
		for finding := range e.CheckEngine(t.Context()) {
			findings = append(findings, finding)
		}
		if len(findings) != 1 || !errors.Is(findings[0], ErrCorrupt) || errors.Is(findings[0], ErrNumbering) {
			t.Errorf("CheckEngine: got %v, want an ErrCorrupt", findings)
		}
		if repaired, _ := e.repair(); repaired != 0 {
			t.Errorf("repaired %d findings", repaired)
		}
	}
}

func TestARepairThatIsRefusedLeavesNothingInTheCommitOfOthers(t *testing.T) {
	e := openTracked(t)
	e.plant(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("t")).SetSequence(uint64(boltpage.NewTally(9, true)))
	})
	e.plantEntry("a", boltpage.JoinTracked(at(1), []byte("a")))
	before := e.numberingFindings()
	e.wantCommits(1, func() {
		e.together(e.mustSet("b", "2"), func() {
			errRefused := errors.New("refused")
			err := e.Update(t.Context(), func(tx *Tx) error {
				repaired, _, err := tx.RepairEngine(t.Context())
				if repaired != len(before) {
					t.Errorf("repaired %d findings, want %d", repaired, len(before))
				}
				return errors.Join(err, errRefused)
			})
			if !errors.Is(err, errRefused) {
				t.Errorf("Update: got %v", err)
			}
		}, e.mustSet("c", "2"))
	})
	if after := e.numberingFindings(); !slices.Equal(after, before) {
		t.Errorf("got %q, want %q", after, before)
	}
}

func TestARepairWhileACompactionCopiesIsInTheNewFile(t *testing.T) {
	e := openTracked(t)
	e.plant(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("t")).SetSequence(uint64(boltpage.NewTally(9, true)))
	})
	e.plantEntry("a", boltpage.JoinTracked(at(1), []byte("a")))
	must(t, e.compactWhile(t.Context(), func() { e.repair() }))
	if findings := e.reopen().numberingFindings(); len(findings) > 0 {
		t.Errorf("after the compaction: %q", findings)
	}
}

func TestOnlyAnUpdateRepairs(t *testing.T) {
	e := openTracked(t)
	var ended *Tx
	must(t, e.View(t.Context(), func(tx *Tx) error {
		ended = tx
		if _, _, err := tx.RepairEngine(t.Context()); !errors.Is(err, ErrReadOnly) {
			t.Errorf("in a View: got %v, want ErrReadOnly", err)
		}
		return nil
	}))
	if _, _, err := ended.RepairEngine(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("after its end: got %v, want ErrClosed", err)
	}
}

func TestCheckEngineCanBeLeftAmongFindingsOfTheNumbering(t *testing.T) {
	e := openTracked(t)
	e.plant(func(tx *bbolt.Tx) error { return tx.DeleteBucket([]byte(boltpage.Changes)) })
	if n := len(e.numberingFindings()); n != 3 {
		t.Errorf("got %d findings, want one for each entry", n)
	}
	n := 0
	for range e.CheckEngine(t.Context()) {
		n++
		must(t, e.set("other", fmt.Sprint(n))) // the loop may call the engine
		break
	}
	if n != 1 {
		t.Errorf("got %d findings after leaving the loop", n)
	}
}

func TestACompactionAndABackupKeepTheNumbering(t *testing.T) {
	e := openTracked(t)
	numbering := func(e inside) string {
		var s strings.Builder
		must(t, e.View(t.Context(), func(tx *Tx) error {
			for c, err := range tx.Changes(0) {
				if err != nil {
					return err
				}
				fmt.Fprintf(&s, "%s/%s at %d, ", c.Table, c.Key, c.Sequence)
			}
			n, err := tx.Count("t")
			fmt.Fprintf(&s, "%d entries at %d", n, tx.Sequence())
			return err
		}))
		sequence, random, err := e.Commit(t.Context())
		must(t, err)
		fmt.Fprintf(&s, ", last %d, %x", sequence, random)
		return s.String()
	}
	before := numbering(e)
	first, err := boltpage.ReadMark(e.file)
	must(t, err)
	must(t, e.Compact(t.Context()))
	if after := numbering(e); after != before {
		t.Errorf("after a compaction: got %s, want %s", after, before)
	}
	if mark, err := boltpage.ReadMark(e.file); err != nil || mark.File == first.File {
		t.Errorf("the new file has the random number of the old one, %x (%v)", mark.File, err)
	}
	during := ""
	must(t, e.compactWhile(t.Context(), func() {
		must(t, e.set("d", "1"))
		must(t, e.set("b", "2"))
		must(t, e.Update(t.Context(), func(tx *Tx) error { return tx.Delete("t", []byte("c")) }))
		during = numbering(e)
	}))
	if after := numbering(e); after != during {
		t.Errorf("after changes during a compaction: got %s, want %s", after, during)
	}
	e = e.reopen()
	if after := numbering(e); after != during {
		t.Errorf("after reopening: got %s, want %s", after, during)
	}

	var file bytes.Buffer
	must(t, e.WriteBackup(t.Context(), &file))
	path := e.path + ".backup"
	must(t, os.WriteFile(path, file.Bytes(), 0o600))
	if backup := numbering(openInsideFile(t, path)); backup != during {
		t.Errorf("the backup has %s, want %s", backup, during)
	}
}

// The removal of an entry from the change index is the first of two writes.
func TestAChangeThatFailsHalfWayFailsItsUpdate(t *testing.T) {
	e := openInside(t)
	e.Track("numbers")
	e.db.NoSync = true
	for i := range 100 {
		must(t, e.Update(t.Context(), func(tx *Tx) error {
			return tx.Put("numbers", []byte(number(i)), make([]byte, 150))
		}))
	}
	last := 50 // of a leaf
	for leaf := e.leafWith("numbers", number(last)); e.leafWith("numbers", number(last+1)) == leaf; {
		last++
	}
	e.spoil(e.leafWith("numbers", number(last+1)), pageHeader+elementSize, make([]byte, elementSize)...)
	deleted := false
	err := e.Update(t.Context(), func(tx *Tx) error {
		err := tx.Delete("numbers", []byte(number(last)))
		deleted = err == nil
		return nil // as if nothing had happened
	})
	if deleted || !errors.Is(err, ErrCorrupt) {
		t.Errorf("got %v, want ErrCorrupt", err)
	}
	must(t, e.View(t.Context(), func(tx *Tx) error {
		v, err := tx.Get("numbers", []byte(number(last)))
		if err == nil && len(v) != 150 {
			t.Errorf("the entry has %d bytes", len(v))
		}
		return err
	}))
}

func TestATableMustBeTrackedBeforeItsFirstEntry(t *testing.T) {
	e := openInside(t)
	must(t, e.set("a", "1"))
	e.Track("t", strings.Repeat("n", boltpage.MaxTrackedName+1), "", "zero\x00")
	if err := e.set("b", "1"); err == nil {
		t.Error("an entry was put into a table with entries from before it was tracked")
	}
	for _, table := range []string{strings.Repeat("n", boltpage.MaxTrackedName+1), "zero\x00"} {
		err := e.Update(t.Context(), func(tx *Tx) error { return tx.Put(table, []byte("a"), nil) })
		if err == nil {
			t.Errorf("table %q is tracked", table)
		}
	}
	must(t, e.Update(t.Context(), func(tx *Tx) error { return tx.Delete("t", []byte("a")) }))
	must(t, e.set("b", "1")) // the table was empty
	e = e.reopen()
	must(t, e.View(t.Context(), func(tx *Tx) error {
		if n, err := tx.SequenceOf("t", []byte("b")); err != nil || n != 3 {
			t.Errorf("SequenceOf: got %d, %v, want 3", n, err)
		}
		return nil
	}))
	must(t, e.set("b", "2")) // the file says that the table is tracked
	must(t, e.View(t.Context(), func(tx *Tx) error {
		if n, err := tx.SequenceOf("t", []byte("b")); err != nil || n != 4 {
			t.Errorf("SequenceOf: got %d, %v, want 4", n, err)
		}
		return nil
	}))
}

func TestMembersOfOneCommitShareItsSequence(t *testing.T) {
	e := openTracked(t)
	errRefused := errors.New("refused")
	refused := func() {
		err := e.Update(t.Context(), func(tx *Tx) error {
			return errors.Join(tx.Put("t", []byte("a"), []byte("refused")), tx.Delete("t", []byte("c")), tx.Put("t", []byte("z"), nil), errRefused)
		})
		if !errors.Is(err, errRefused) {
			t.Errorf("Update: got %v", err)
		}
	}
	e.wantCommits(1, func() {
		e.together(e.mustSet("d", "1"), refused, e.mustSet("a", "2"), refused, e.mustSet("a", "3"), refused)
	})
	e.want("a=3 b=b c=c d=1")
	must(t, e.View(t.Context(), func(tx *Tx) error {
		var got []string
		for c, err := range tx.Changes(0) {
			if err != nil {
				return err
			}
			got = append(got, fmt.Sprintf("%s at %d", c.Key, c.Sequence))
		}
		if got, want := strings.Join(got, ", "), "b at 2, c at 3, a at 5, d at 5"; got != want {
			t.Errorf("Changes: got %s, want %s", got, want)
		}
		return nil
	}))
	e.reopen()
}

func TestAChangeIndexOfAnotherFormIsAnError(t *testing.T) {
	e := openTracked(t)
	e.plant(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte(boltpage.Changes)).Put(at(9).Key(), nil)
	})
	err := e.View(t.Context(), func(tx *Tx) error {
		for _, err := range tx.Changes(4) {
			return err
		}
		return nil
	})
	if !errors.Is(err, ErrCorrupt) {
		t.Errorf("Changes: got %v, want ErrCorrupt", err)
	}
}

func TestMoreChangesThanACommitCanNumberAreRefused(t *testing.T) {
	e := openTracked(t)
	for _, key := range []string{"a", "new"} {
		err := e.Update(t.Context(), func(tx *Tx) error {
			if err := tx.Put("t", []byte("b"), []byte("changed")); err != nil {
				return err
			}
			tx.batch.changes = boltpage.MaxNumber + 1
			err := tx.Put("t", []byte(key), []byte("changed"))
			if key == "a" { // the change has begun to write, so the Update fails all the same
				return nil
			}
			return err
		})
		if !errors.Is(err, ErrTransactionTooLarge) {
			t.Errorf("%s: got %v, want ErrTransactionTooLarge", key, err)
		}
	}
	e.want("a=a b=b c=c")
	must(t, e.Update(t.Context(), func(tx *Tx) error {
		tx.batch.changes = boltpage.MaxNumber
		return tx.Put("t", []byte("a"), []byte("last"))
	}))
	e.want("a=last b=b c=c")
	e.reopen()
}

func TestAFileWithoutMoreNumbersForCommitsIsNotWritten(t *testing.T) {
	e := openTracked(t)
	e.plant(func(tx *bbolt.Tx) error {
		_, err := writeMark(tx, boltpage.MaxSequence-1, [8]byte{})
		return err
	})
	must(t, e.set("a", "last"))
	for range 2 {
		if err := e.set("b", "changed"); err == nil {
			t.Error("a commit got a number that there is not")
		}
	}
	e.want("a=last b=b c=c")
	if now, _, err := e.Commit(t.Context()); err != nil || now != boltpage.MaxSequence {
		t.Errorf("Commit: got %d, %v", now, err)
	}
	must(t, e.View(t.Context(), func(tx *Tx) error {
		var last string
		for c, err := range tx.Changes(boltpage.MaxSequence - 1) {
			if err != nil {
				return err
			}
			last += string(c.Key)
		}
		for range tx.Changes(boltpage.MaxSequence) {
			last += " and more"
		}
		if last != "a" {
			t.Errorf("the last changes are of %q, want a", last)
		}
		return nil
	}))
	e.reopen()
}
