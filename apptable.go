package latchkey

import (
	"bytes"
	"fmt"
	"iter"
	"slices"

	"github.com/latchkeydb/latchkey/internal/record"
)

// AppTable is a named table of an application's own records. They are in the store's file, and take
// part in the same transactions as users and keys, so that data that belongs together is written
// together. The store gives each record a checksum, backs the records up and salvages them, and
// knows nothing else about them. Replicas do not get them.
//
// An AppTable is valid as long as its [Tx], and must not be used by two goroutines at once.
type AppTable struct {
	tx     *Tx
	prefix []byte
	err    error
}

// The limits of [AppTable].
const (
	MaxAppName  = 64       // bytes; the least is one byte
	MaxAppKey   = 256      // bytes; the least is one byte
	MaxAppValue = 32 << 10 // bytes
)

// AppTable returns the table with a name. A name has 1 to [MaxAppName] lower-case ASCII letters,
// digits and hyphens. With any other name, every method of the table returns [ErrInvalidData].
func (tx *Tx) AppTable(name string) *AppTable {
	if t := tx.appTable; t != nil && string(t.prefix[:len(t.prefix)-1]) == name {
		return t
	}
	t := &AppTable{tx: tx, prefix: append([]byte(name), 0)}
	tx.appTable = t
	for i := range len(name) {
		if c := name[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			t.err = fmt.Errorf("%w: the name %.80q has more than lower-case ASCII letters, digits and hyphens", ErrInvalidData, name)
		}
	}
	if len(name) == 0 || len(name) > MaxAppName {
		t.err = fmt.Errorf("%w: a name of %d bytes; it can have 1 to %d", ErrInvalidData, len(name), MaxAppName)
	}
	return t
}

// Get returns the value of key, or nil if there is none. An empty value is not nil.
//
// It returns [ErrInvalidData], or an error of [Store.View].
func (t *AppTable) Get(key []byte) ([]byte, error) {
	k, err := t.engineKey(key)
	if err != nil {
		return nil, err
	}
	record, err := t.tx.etx.Get(tableData, k)
	if err != nil || record == nil {
		return nil, err
	}
	return openRecord(tableData, k, record)
}

// Put sets the value of key.
//
// It returns [ErrInvalidData], [ErrReadOnly] in a View, or an error of [Store.Update].
func (t *AppTable) Put(key, value []byte) error {
	k, err := t.engineKey(key)
	if err == nil && len(value) > MaxAppValue {
		err = fmt.Errorf("%w: a value of %d bytes; it can have up to %d", ErrInvalidData, len(value), MaxAppValue)
	}
	if err != nil {
		return err
	}
	t.tx.appWrites++
	return t.tx.etx.Put(tableData, k, record.Seal(tableData, k, value))
}

// Delete removes key, if it is there.
//
// It returns the errors of [AppTable.Put].
func (t *AppTable) Delete(key []byte) error {
	k, err := t.engineKey(key)
	if err != nil {
		return err
	}
	t.tx.appWrites++
	return t.tx.etx.Delete(tableData, k)
}

// Scan yields the entries with from ≤ key < to, in the order of their keys, compared as bytes. A
// nil from means the beginning of the table, a nil to means its end. The body of the loop may write
// to the table: each step goes to the next greater key that there is at that moment.
//
// An error, one of [AppTable.Get], is yielded once, as the last element.
func (t *AppTable) Scan(from, to []byte) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		if t.err != nil {
			yield(Entry{}, t.err)
			return
		}
		low, high := append(bytes.Clone(t.prefix), from...), append(bytes.Clone(t.prefix), to...)
		if to == nil {
			high[len(high)-1]++ // the zero byte after the name
		}
		for e, err := range t.tx.etx.Scan(tableData, low, high) {
			if err == nil {
				e.Value, err = openRecord(tableData, e.Key, e.Value)
			}
			if err != nil {
				yield(Entry{}, err)
				return
			}
			e.Key = e.Key[len(t.prefix):]
			if !yield(e, nil) {
				return
			}
		}
	}
}

// engineKey returns the key that the engine has for a record.
func (t *AppTable) engineKey(key []byte) ([]byte, error) {
	if t.err == nil && (len(key) == 0 || len(key) > MaxAppKey) {
		return nil, fmt.Errorf("%w: a key of %d bytes; it can have 1 to %d", ErrInvalidData, len(key), MaxAppKey)
	}
	return slices.Concat(t.prefix, key), t.err
}
