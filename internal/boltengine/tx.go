package boltengine

import (
	"bytes"
	"errors"
	"fmt"
	"iter"

	"go.etcd.io/bbolt"

	"github.com/latchkeydb/latchkey/internal/boltpage"
)

// A reader reads checked pages without bbolt. A member of a batch reads and writes through bbolt,
// after the pages that bbolt goes to were checked, and it can undo what it has written.

// Tx is the transaction of one reader, or of one member of a batch.
type Tx struct {
	tx       *bbolt.Tx
	tables   *boltpage.Tables
	mark     boltpage.Mark // of the last commit that the transaction sees
	batch    *batch        // nil for a reader
	long     *longReader   // nil for a writer, and for a reader that nobody interrupts
	ended    bool
	writes   int // how many there were; after a write, the cursor of a scan must seek again
	first    int // the place of the first of them among the writes of the batch
	runs     map[string]*run
	halfDone error // the error of a change that had begun to write
}

// Format prints nothing of what a transaction has read and written.
func (tx *Tx) Format(f fmt.State, _ rune) { fmt.Fprint(f, "bbolt transaction") }

// write sets an entry, or removes it if the value is nil. The key and the values do not change.
type write struct {
	table           string
	key, value, old []byte   // old is the value before the write, or nil
	tracked         bool     // the table is to be tracked
	dense           bool     // it is one of many in the order of their keys
	entries         *entries // set instead of an entry, for a repair
}

// entries are a number of entries that a table counts, and the number that it counted before.
type entries struct{ number, old uint64 }

// undo returns the write that undoes w.
func (w write) undo() write {
	u := write{table: w.table, key: w.key, value: w.old, old: w.value}
	if w.entries != nil {
		u.entries = &entries{w.entries.old, w.entries.number}
	}
	return u
}

// writes are the writes of a batch, in order. They are in chunks, because a slice that grows to
// thousands of writes would copy them several times.
type writes struct{ chunks [][]write } // all are full but the last

const chunkWrites = 256

func (ws *writes) len() int {
	last := len(ws.chunks) - 1
	if last < 0 {
		return 0
	}
	return last*chunkWrites + len(ws.chunks[last])
}

func (ws *writes) at(i int) write { return ws.chunks[i/chunkWrites][i%chunkWrites] }

func (ws *writes) add(w write) {
	if ws.len()%chunkWrites == 0 {
		var chunk []write // most batches have few writes
		if len(ws.chunks) > 0 {
			chunk = make([]write, 0, chunkWrites)
		}
		ws.chunks = append(ws.chunks, chunk)
	}
	last := &ws.chunks[len(ws.chunks)-1]
	*last = append(*last, w)
}

// apply makes the write in a transaction of bbolt.
func (w write) apply(tx *bbolt.Tx) error {
	b, err := tx.CreateBucketIfNotExists([]byte(w.table))
	if err != nil {
		return err
	}
	tally := boltpage.Tally(b.Sequence())
	if w.entries != nil {
		return b.SetSequence(uint64(boltpage.NewTally(w.entries.number, tally.Tracked())))
	}
	number := tally.Entries()
	switch {
	case w.old != nil && w.value == nil && number > 0:
		number--
	case w.old == nil && w.value != nil:
		number++
	}
	if now := boltpage.NewTally(number, tally.Tracked() || w.tracked); now != tally {
		if err := b.SetSequence(uint64(now)); err != nil {
			return err
		}
	}
	if w.value == nil {
		return b.Delete(w.key)
	}
	if w.dense {
		b.FillPercent = denseFill
	}
	return b.Put(w.key, w.value) // bbolt keeps the slice until it commits
}

// getRaw is Get without the tracking.
func (tx *Tx) getRaw(table string, key []byte) (value []byte, err error) {
	if tx.ended {
		return nil, ErrClosed
	}
	if tx.long != nil {
		if err := tx.long.enter(); err != nil {
			return nil, err
		}
		defer tx.long.leave()
	}
	err = readPages(func() error {
		leaf, _, err := tx.tables.Find(table, key)
		if err != nil {
			return err
		}
		if tx.hasChanged(table) {
			value = tx.getFromBbolt(table, key)
		} else if i, found := leaf.Search(key); found {
			value = append([]byte{}, leaf.Value(i)...) // not nil, even for an empty value
		}
		return nil
	})
	return value, err
}

// hasChanged reports whether the batch of a writer has changed a table. If not, the pages of the
// last commit have all of the table.
func (tx *Tx) hasChanged(table string) bool { return tx.batch != nil && tx.batch.changed[table] }

// getFromBbolt returns the value of key, or nil, for a writer. The way to key must have been
// checked.
func (tx *Tx) getFromBbolt(table string, key []byte) []byte {
	if b := tx.tx.Bucket([]byte(table)); b != nil {
		if v := b.Get(key); v != nil {
			return append([]byte{}, v...)
		}
	}
	return nil
}

// Entry is one key of a table with its value.
type Entry struct{ Key, Value []byte }

// copyEntry returns copies of a key and a value that are parts of a page. They are not nil.
func copyEntry(k, v []byte) Entry {
	return Entry{Key: append([]byte{}, k...), Value: append([]byte{}, v...)}
}

// Scan yields the entries with from ≤ key < to in order.
func (tx *Tx) scanRaw(table string, from, to []byte) iter.Seq2[Entry, error] {
	from, to = bytes.Clone(from), bytes.Clone(to) // the caller may change the slices
	return func(yield func(Entry, error) bool) {
		next := scanPages(func(key []byte) (boltpage.Node, []byte, error) { return tx.tables.Find(table, key) }, from)
		if tx.batch != nil {
			next = tx.scanBbolt(table, from)
		}
		for {
			entry, err := Entry{}, ErrClosed
			if !tx.ended {
				entry, err = tx.long.readNext(next)
			}
			if err != nil {
				yield(Entry{}, err)
				return
			}
			if entry.Key == nil || to != nil && bytes.Compare(entry.Key, to) >= 0 || !yield(entry, nil) {
				return
			}
		}
	}
}

// readNext calls next with its faults contained.
func readNext(next func() (Entry, error)) (entry Entry, err error) {
	err = readPages(func() (err error) {
		entry, err = next()
		return err
	})
	return entry, err
}

// scanPages returns a function that returns the next entry each time, beginning at the key from.
// After the last entry it returns an entry without a key. find returns the leaf of a key, and the
// first key after that leaf.
func scanPages(find func(key []byte) (leaf boltpage.Node, after []byte, err error), from []byte) (next func() (Entry, error)) {
	var leaf boltpage.Node
	i, more := 0, true
	return func() (Entry, error) {
		for i == leaf.Count() {
			if !more {
				return Entry{}, nil
			}
			at := from
			var err error
			if leaf, from, err = find(at); err != nil {
				return Entry{}, err
			}
			i, _ = leaf.Search(at)
			more = from != nil
		}
		i++
		return copyEntry(leaf.Key(i-1), leaf.Value(i-1)), nil
	}
}

// scanBbolt returns a function like that of scanPages, for a writer.
func (tx *Tx) scanBbolt(table string, from []byte) (next func() (Entry, error)) {
	var cursor *bbolt.Cursor
	var after []byte // the first key after the leaf of from; the next leaf was checked too
	writes := 0
	return func() (Entry, error) {
		if cursor == nil || after != nil && bytes.Compare(from, after) >= 0 {
			var err error
			if after, err = tx.tables.FindTwo(table, from); err != nil {
				return Entry{}, err
			}
		}
		var k, v []byte
		switch {
		case cursor == nil:
			b := tx.tx.Bucket([]byte(table))
			if b == nil {
				return Entry{}, nil
			}
			cursor = b.Cursor()
			k, v = cursor.Seek(from)
		case writes != tx.writes:
			if k, v = cursor.Seek(from); bytes.Equal(k, from) {
				k, v = cursor.Next()
			}
		default:
			k, v = cursor.Next()
		}
		if k == nil {
			return Entry{}, nil
		}
		from, writes = bytes.Clone(k), tx.writes
		return copyEntry(k, v), nil
	}
}

// Put sets the value of key.
func (tx *Tx) Put(table string, key, value []byte) error {
	if value == nil {
		value = []byte{}
	}
	if len(table) > boltpage.MaxKey || len(key) > boltpage.MaxKey || len(value) > boltpage.MaxValue {
		return fmt.Errorf("an entry of %d and %d bytes is too large", len(key), len(value))
	}
	return tx.change(table, key, value)
}

// Delete removes key, if it is there.
func (tx *Tx) Delete(table string, key []byte) error {
	return tx.change(table, key, nil)
}

// put sets key to value, or removes key if value is nil.
func (tx *Tx) put(table string, key, value []byte) error {
	old, err := tx.getOld(table, key)
	if err != nil || old == nil && value == nil {
		return err
	}
	return tx.replace(write{table: table, key: key, value: value, old: old})
}

// replace makes a write. Its old value is what getRaw has returned, or nil.
func (tx *Tx) replace(w write) error {
	if w.value == nil {
		// If the removal empties the leaf, bbolt goes on to the next leaf.
		err := readPages(func() error {
			_, err := tx.tables.FindTwo(w.table, w.key)
			return err
		})
		if err != nil {
			return err
		}
	}
	w.key, w.value = bytes.Clone(w.key), bytes.Clone(w.value)
	if w.value == nil {
		return tx.set(w)
	}
	r := tx.runOf(w.table)
	r.add(w.key)
	w.dense = r.length >= longRun
	if err := tx.set(w); err != nil || r.length%longRun != 0 || r.greatest != nil {
		return err
	}
	return tx.findGreatest(w.table, r)
}

// getOld is getRaw for a writer that is about to change key. It need not look for a key that is
// greater than all others in the table.
func (tx *Tx) getOld(table string, key []byte) ([]byte, error) {
	if r := tx.runs[table]; r != nil && r.greatest != nil && bytes.Compare(key, r.greatest) > 0 && !tx.ended {
		return nil, nil
	}
	return tx.getRaw(table, key)
}

// findGreatest sets the greatest key of a table if the run has written it.
func (tx *Tx) findGreatest(table string, r *run) error {
	for e, err := range tx.scanRaw(table, r.last, nil) {
		if err != nil {
			return err
		}
		if !bytes.Equal(e.Key, r.last) {
			return nil
		}
	}
	r.greatest = r.last
	return nil
}

// denseFill is how full bbolt makes the pages that it splits when many entries come in the order of
// their keys. By default it leaves half of a page for entries that come between others.
const denseFill = 0.95

// longRun is how many writes in the order of their keys are many. They fill about a page.
const longRun = 64

// run is the writes of a transaction to one table that came in the order of their keys.
type run struct {
	last   []byte
	length int
	// greatest is the greatest key that the table had since the transaction found it out, or nil.
	greatest []byte
}

func (tx *Tx) runOf(table string) *run {
	r := tx.runs[table]
	if r == nil {
		if r = new(run); tx.runs == nil {
			tx.runs = map[string]*run{}
		}
		tx.runs[table] = r
	}
	return r
}

// add adds a write.
func (r *run) add(key []byte) {
	if bytes.Compare(r.last, key) >= 0 {
		r.length = 0
	}
	r.length++
	r.last = key
	if r.greatest != nil && bytes.Compare(key, r.greatest) > 0 {
		r.greatest = key
	}
}

// setEntries sets the number of entries that a table counts.
func (tx *Tx) setEntries(table string, old, number uint64) error {
	return tx.set(write{table: table, entries: &entries{number, old}})
}

// set makes a write through bbolt. The batch notes it.
func (tx *Tx) set(w write) error {
	tx.writes++
	if w.value == nil && w.entries == nil {
		tx.batch.removed[w.table] = append(tx.batch.removed[w.table], w.key)
	}
	tx.batch.writes.add(w)
	tx.batch.changed[w.table] = true
	err := contain(func() error { return w.apply(tx.tx) })
	if err != nil && errors.Is(err, ErrCorrupt) {
		tx.batch.damage = err
	}
	return err
}

// undo restores what this member has changed, and leaves the writes of the other members.
func (tx *Tx) undo() {
	for i := tx.batch.writes.len() - 1; i >= tx.first; i-- {
		if err := tx.set(tx.batch.writes.at(i).undo()); err != nil && tx.batch.damage == nil {
			tx.batch.damage = err
		}
	}
}

// NextReadable returns the first key that can follow the next pages that cannot be read, or the
// next entry of an earlier state. It returns nil if there is no such key.
func (tx *Tx) NextReadable(table string, from []byte) (next []byte) {
	for e, err := range tx.scanRaw(table, from, nil) {
		if err != nil {
			break
		}
		if _, _, err := tx.split(table, e.Key, e.Value); err != nil {
			return append(e.Key, 0)
		}
		from = e.Key
	}
	return tx.nextReadablePage(table, from)
}

// nextReadablePage is NextReadable for pages alone.
func (tx *Tx) nextReadablePage(table string, from []byte) (next []byte) {
	if tx.long != nil {
		if tx.long.enter() != nil {
			return nil
		}
		defer tx.long.leave()
	}
	_ = contain(func() error {
		for {
			_, after, err := tx.tables.Find(table, from)
			if err != nil || after == nil {
				next = bytes.Clone(after)
				return nil
			}
			from = after
		}
	})
	return next
}
