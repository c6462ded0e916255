package etcd

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/latchkeydb/latchkey"
)

// mirrorTx is a transaction that reads the mirror.
type mirrorTx struct {
	tx       latchkey.EngineTx
	m        *mirror
	sequence uint64
}

// check returns the error of a method. Damage of the file is no damage of the store.
func (t *mirrorTx) check(err error) error {
	if errors.Is(err, latchkey.ErrCorrupt) {
		t.m.damaged()
		return fmt.Errorf("%w: the mirror is damaged, and is made anew: %v", latchkey.ErrInterrupted, err)
	}
	return err
}

func (t *mirrorTx) Get(table string, key []byte) ([]byte, error) {
	v, err := t.tx.Get(mirrorEntries+table, key)
	return v, t.check(err)
}

func (t *mirrorTx) Scan(table string, from, to []byte) iter.Seq2[latchkey.Entry, error] {
	entries := t.tx.Scan(mirrorEntries+table, from, to)
	return func(yield func(latchkey.Entry, error) bool) {
		for entry, err := range entries {
			if !yield(entry, t.check(err)) {
				return
			}
		}
	}
}

func (t *mirrorTx) Put(table string, key, value []byte) error { return t.tx.Put(table, key, value) }

func (t *mirrorTx) Delete(table string, key []byte) error { return t.tx.Delete(table, key) }

func (t *mirrorTx) Sequence() uint64 { return t.sequence }

func (t *mirrorTx) SequenceOf(table string, key []byte) (uint64, error) {
	b, err := t.tx.Get(mirrorRevisions+table, key)
	if err != nil || b == nil {
		return 0, t.check(err)
	}
	if len(b) != 8 {
		return 0, t.check(latchkey.ErrCorrupt)
	}
	return binary.BigEndian.Uint64(b), nil
}

func (t *mirrorTx) Count(table string) (uint64, error) {
	n, err := t.tx.Count(mirrorEntries + table)
	return n, t.check(err)
}

func (t *mirrorTx) Changes(since uint64) iter.Seq2[latchkey.TrackedChange, error] {
	return func(yield func(latchkey.TrackedChange, error) bool) {
		if since+1 == 0 {
			return
		}
		var changes []latchkey.TrackedChange // of one revision
		for entry, err := range t.tx.Scan(mirrorIndex, binary.BigEndian.AppendUint64(nil, since+1), nil) {
			table, key, ok := strings.Cut(string(entry.Value), "\x00")
			if err == nil && (len(entry.Key) < 8 || !ok) {
				err = latchkey.ErrCorrupt
			}
			if err != nil {
				yield(latchkey.TrackedChange{}, t.check(err))
				return
			}
			c := latchkey.TrackedChange{Sequence: binary.BigEndian.Uint64(entry.Key), Table: table, Key: []byte(key)}
			if len(changes) > 0 && changes[0].Sequence != c.Sequence {
				if !yieldSorted(changes, yield) {
					return
				}
				changes = changes[:0]
			}
			changes = append(changes, c)
		}
		yieldSorted(changes, yield)
	}
}

// yieldSorted yields changes of one revision in the order of their tables and keys. It reports
// false if the caller wants no more.
func yieldSorted(changes []latchkey.TrackedChange, yield func(latchkey.TrackedChange, error) bool) bool {
	slices.SortFunc(changes, func(a, b latchkey.TrackedChange) int {
		return cmp.Or(cmp.Compare(a.Table, b.Table), bytes.Compare(a.Key, b.Key))
	})
	for _, c := range changes {
		if !yield(c, nil) {
			return false
		}
	}
	return true
}
