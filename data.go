package latchkey

import (
	"bytes"
	"fmt"
	"iter"
	"slices"
)

// Data is a named set of an application's own records, in the store's file and in the same transactions as users and
// keys: what belongs together is written together. The store gives them a checksum, backs them up and salvages them, and
// knows nothing else of them; they are not among the changes that replicas take. A Data ends with its [Tx], and like that
// must not be used by two goroutines at once.
type Data struct {
	tx     *Tx
	prefix []byte
	err    error
}

// The limits of [Data].
const (
	MaxDataName  = 64
	MaxDataKey   = 256      // bytes, at least one
	MaxDataValue = 32 << 10 // bytes
)

// Data returns the records under a name: 1 to [MaxDataName] lower-case ASCII letters, digits and hyphens. Under another
// name, every method returns [ErrInvalidData].
func (tx *Tx) Data(name string) *Data {
	d := &Data{tx: tx, prefix: append([]byte(name), 0)}
	for i := range len(name) {
		if c := name[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			d.err = fmt.Errorf("%w: the name %.80q", ErrInvalidData, name)
		}
	}
	if len(name) == 0 || len(name) > MaxDataName {
		d.err = fmt.Errorf("%w: a name of %d bytes", ErrInvalidData, len(name))
	}
	return d
}

// Get returns the value of key, not nil even when it is empty; or nil if there is none. It returns [ErrInvalidData] or an
// error of [Store.View].
func (d *Data) Get(key []byte) ([]byte, error) {
	k, err := d.key(key)
	if err != nil {
		return nil, err
	}
	record, err := d.tx.etx.Get(tableData, k)
	if err != nil || record == nil {
		return nil, err
	}
	return openRecord(tableData, k, record)
}

// Put sets the value of key. It returns [ErrInvalidData], [ErrReadOnly] in a View, or an error of [Store.Update].
func (d *Data) Put(key, value []byte) error {
	k, err := d.key(key)
	if err == nil && len(value) > MaxDataValue {
		err = fmt.Errorf("%w: a value of %d bytes", ErrInvalidData, len(value))
	}
	if err != nil {
		return err
	}
	return d.tx.etx.Put(tableData, k, sealRecord(tableData, k, value))
}

// Delete removes key, if it is there. Its errors are those of [Data.Put].
func (d *Data) Delete(key []byte) error {
	k, err := d.key(key)
	if err != nil {
		return err
	}
	return d.tx.etx.Delete(tableData, k)
}

// Scan yields the entries with from ≤ key < to, in the order of bytes. A nil from is the beginning, a nil to the end. It
// may be written to on the way: each step goes to the next greater key that there is at that moment. An error, one of
// [Data.Get], is the last element.
func (d *Data) Scan(from, to []byte) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		if d.err != nil {
			yield(Entry{}, d.err)
			return
		}
		low, high := append(bytes.Clone(d.prefix), from...), append(bytes.Clone(d.prefix), to...)
		if to == nil {
			high[len(high)-1]++ // the zero byte that ends the name
		}
		for e, err := range d.tx.etx.Scan(tableData, low, high) {
			if err == nil {
				e.Value, err = openRecord(tableData, e.Key, e.Value)
			}
			if err != nil {
				yield(Entry{}, err)
				return
			}
			e.Key = e.Key[len(d.prefix):]
			if !yield(e, nil) {
				return
			}
		}
	}
}

// key is the engine's key of a record.
func (d *Data) key(key []byte) ([]byte, error) {
	if d.err == nil && (len(key) == 0 || len(key) > MaxDataKey) {
		return nil, fmt.Errorf("%w: a key of %d bytes", ErrInvalidData, len(key))
	}
	return slices.Concat(d.prefix, key), d.err
}
