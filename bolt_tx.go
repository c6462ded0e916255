package latchkey

import (
	"bytes"
	"errors"
	"fmt"
	"iter"

	"go.etcd.io/bbolt"

	"github.com/latchkeydb/latchkey/internal/boltpage"
)

// What a transaction of the engine on bbolt does: a reader goes by checked pages alone; a member of a batch goes by bbolt,
// after the pages on its way were checked, and can undo what it has written.

// boltTx is one member of a batch, or one reader.
type boltTx struct {
	tx     *bbolt.Tx
	tables *boltpage.Tables
	batch  *boltBatch // nil for a reader
	ended  bool
	writes int // counts, so that a scan knows when its cursor has lost its place
	undos  []boltUndo
}

// Format keeps what a transaction has read and written out of whatever prints it.
func (tx *boltTx) Format(f fmt.State, _ rune) { fmt.Fprint(f, "bbolt transaction") }

// boltUndo is what an entry was before a member of a batch changed it.
type boltUndo struct {
	table      string
	key, value []byte
}

func (tx *boltTx) Get(table string, key []byte) (value []byte, err error) {
	if tx.ended {
		return nil, ErrClosed
	}
	err = readPages(func() error {
		leaf, _, err := tx.tables.Find(table, key)
		if err != nil {
			return err
		}
		if tx.batch != nil {
			value = tx.getFromBolt(table, key)
		} else if i, found := leaf.Search(key); found {
			value = append([]byte{}, leaf.Value(i)...) // never nil
		}
		return nil
	})
	return value, err
}

// getFromBolt is Get for who writes, after the way to the key was checked.
func (tx *boltTx) getFromBolt(table string, key []byte) []byte {
	if b := tx.tx.Bucket([]byte(table)); b != nil {
		if v := b.Get(key); v != nil {
			return append([]byte{}, v...)
		}
	}
	return nil
}

// copyEntry copies what is bbolt's. It makes nothing nil.
func copyEntry(k, v []byte) Entry {
	return Entry{Key: append([]byte{}, k...), Value: append([]byte{}, v...)}
}

func (tx *boltTx) Scan(table string, from, to []byte) iter.Seq2[Entry, error] {
	from, to = bytes.Clone(from), bytes.Clone(to) // the caller may change what it gave
	return func(yield func(Entry, error) bool) {
		next := scanPages(func(key []byte) (boltpage.Node, []byte, error) { return tx.tables.Find(table, key) }, from)
		if tx.batch != nil {
			next = tx.scanBolt(table, from)
		}
		for {
			entry, err := Entry{}, ErrClosed
			if !tx.ended {
				entry, err = readNext(next)
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

// scanPages returns a function that returns one entry after another of the leaves that find finds, from a key on. After the
// last entry it returns an entry without a key.
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

// scanBolt is scanPages for a writer.
func (tx *boltTx) scanBolt(table string, from []byte) (next func() (Entry, error)) {
	var cursor *bbolt.Cursor
	var after []byte // the leaf that from is in; the next was checked too
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

func (tx *boltTx) Put(table string, key, value []byte) error {
	if value == nil {
		value = []byte{}
	}
	if len(table) > MaxEngineKey || len(key) > MaxEngineKey || len(value) > MaxEngineValue {
		return fmt.Errorf("an entry of %d and %d bytes is too large", len(key), len(value))
	}
	return tx.write(table, key, value)
}

func (tx *boltTx) Delete(table string, key []byte) error {
	return tx.write(table, key, nil)
}

// write sets key to value, or removes it when value is nil, and remembers what was there.
func (tx *boltTx) write(table string, key, value []byte) error {
	if tx.ended {
		return ErrClosed
	}
	if tx.batch == nil {
		return ErrReadOnly
	}
	old, err := tx.Get(table, key)
	if err != nil {
		return err
	}
	if old == nil && value == nil {
		return nil
	}
	if value == nil {
		// From a leaf that was emptied bbolt goes on to the next.
		err := readPages(func() error {
			_, err := tx.tables.FindTwo(table, key)
			return err
		})
		if err != nil {
			return err
		}
	}
	key = bytes.Clone(key)
	tx.undos = append(tx.undos, boltUndo{table, key, old})
	return tx.set(table, key, value)
}

func (tx *boltTx) set(table string, key, value []byte) error {
	tx.writes++
	err := contain(func() error {
		b, err := tx.tx.CreateBucketIfNotExists([]byte(table))
		if err != nil {
			return err
		}
		if value == nil {
			tx.batch.removed[table] = append(tx.batch.removed[table], key)
			return b.Delete(key)
		}
		return b.Put(key, bytes.Clone(value)) // bbolt keeps the slice until it commits
	})
	if err != nil && errors.Is(err, ErrCorrupt) {
		tx.batch.damage = err
	}
	return err
}

// undo takes back what this member wrote and leaves the batch to the others.
func (tx *boltTx) undo() {
	for i := len(tx.undos) - 1; i >= 0; i-- {
		b := tx.undos[i]
		if err := tx.set(b.table, b.key, b.value); err != nil && tx.batch.damage == nil {
			tx.batch.damage = err
		}
	}
}

// NextReadable returns the first key that the pages behind the next unreadable one can have, or nil. [Store.Check] calls it.
func (tx *boltTx) NextReadable(table string, from []byte) (next []byte) {
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
