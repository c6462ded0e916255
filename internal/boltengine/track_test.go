package boltengine

import (
	"encoding/binary"
	"fmt"
	"testing"
)

// rivals are two ways to keep track of a change of an entry: the engine's own, and tables that its
// caller writes besides, with a record of the last sequence and of counts.
var rivals = []struct {
	name    string
	tracked []string
	change  func(tx *Tx, key, value []byte) error
}{
	{"engine", []string{"t"}, func(tx *Tx, key, value []byte) error { return tx.Put("t", key, value) }},
	{"tables", nil, func(tx *Tx, key, value []byte) error {
		state, err := tx.Get("state", []byte("state"))
		if err != nil {
			return err
		}
		last := make([]byte, 8)
		copy(last, state)
		next := binary.BigEndian.AppendUint64(nil, binary.BigEndian.Uint64(last)+1)
		old, err := tx.Get("t", key)
		if err != nil {
			return err
		}
		if old != nil {
			if err := tx.Delete("changes", old[:8]); err != nil {
				return err
			}
		}
		if err := tx.Put("changes", next, append([]byte{1}, key...)); err != nil {
			return err
		}
		if err := tx.Put("t", key, append(next, value...)); err != nil {
			return err
		}
		return tx.Put("state", []byte("state"), append(next, make([]byte, 16)...))
	}},
}

// rivalKey returns a key of 16 bytes. Neighbours in number are not neighbours in the table.
func rivalKey(i int) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, uint64(i)*0x9e3779b97f4a7c15), uint64(i))
}

// openRival opens an engine with 10,000 entries of the size of a key's record.
func openRival(t testing.TB, tracked []string, change func(tx *Tx, key, value []byte) error) inside {
	t.Helper()
	e := openInside(t)
	e.Track(tracked...)
	for i := range 10 {
		must(t, e.Update(t.Context(), func(tx *Tx) error {
			for j := range 1000 {
				if err := change(tx, rivalKey(i*1000+j), make([]byte, 200)); err != nil {
					return err
				}
			}
			return nil
		}))
	}
	return e
}

// pagesOf makes a change, and returns how many pages its commit has written.
func (e inside) pagesOf(change func(tx *Tx) error) (pages int64) {
	e.t.Helper()
	must(e.t, e.Update(e.t.Context(), func(tx *Tx) error {
		tx.tx.OnCommit(func() {
			stats := tx.tx.Stats()
			pages = stats.GetWrite()
		})
		return change(tx)
	}))
	return pages
}

func TestAChangeOfATrackedTableWritesNoMorePagesThanTablesOfTheCallersWould(t *testing.T) {
	pages := map[string]int64{}
	for _, r := range rivals {
		e := openRival(t, r.tracked, r.change)
		for i := range 100 {
			pages[r.name] += e.pagesOf(func(tx *Tx) error { return r.change(tx, rivalKey(i*97), make([]byte, 200)) })
		}
	}
	t.Logf("pages of 100 changes: %v", pages)
	// How full a page happens to be makes a difference of some pages.
	if pages["engine"] > pages["tables"]+5 || pages["engine"] < 300 {
		t.Errorf("100 changes write %d pages, and %d with tables of the caller's", pages["engine"], pages["tables"])
	}
}

// BenchmarkTracking asks what it costs that the engine keeps track of changes, beside tables of its
// caller's that do the same.
func BenchmarkTracking(b *testing.B) {
	for _, r := range rivals {
		e := openRival(b, r.tracked, r.change)
		e.db.NoSync = true // what is measured is the work beside the syncs
		b.Run(fmt.Sprintf("change/by=%s", r.name), func(b *testing.B) {
			b.ReportAllocs()
			pages := int64(0)
			for i := 0; b.Loop(); i++ {
				pages += e.pagesOf(func(tx *Tx) error { return r.change(tx, rivalKey(i%10_000), make([]byte, 200)) })
			}
			b.ReportMetric(float64(pages)/float64(b.N), "pages/op")
		})
		b.Run(fmt.Sprintf("get/by=%s", r.name), func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				key := rivalKey(i % 10_000)
				must(b, e.View(b.Context(), func(tx *Tx) error {
					v, err := tx.Get("t", key)
					if err == nil && r.tracked == nil { // the check against an earlier state
						_, err = tx.Get("changes", v[:8])
					}
					return err
				}))
			}
		})
		must(b, e.Close())
	}
}
