package salvage

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/boltengine"
	"github.com/latchkeydb/latchkey/internal/record"
)

// writeAtOnce is the number of records in one transaction of the new store.
const writeAtOnce = 10_000

// Write makes the file of a new store at path, in a domain, with what was found.
func Write(ctx context.Context, path string, d *record.Meta, found Found) error {
	if err := boltengine.Init(path); err != nil {
		return err
	}
	e, err := boltengine.Open(path, boltengine.Options{})
	if err != nil {
		return err
	}
	e.Track(tracked...)
	err = write(ctx, e, d, found)
	return errors.Join(err, e.Close())
}

// NewReplica gives a new replica ID to the store in a file that no other program knows. A copy that
// goes on from an earlier state must not be mistaken for the store that went on from there. The two
// can merge, so the copy keeps what merging needs.
func NewReplica(ctx context.Context, path string) error {
	e, err := boltengine.Open(path, boltengine.Options{})
	if err != nil {
		return err
	}
	r, key := record.Replica{ID: uuid.New(), Shared: true}, []byte(record.MetaReplica)
	err = e.Update(ctx, func(tx *boltengine.Tx) error {
		return tx.Put(record.TableMeta, key, record.Seal(record.TableMeta, key, r.Encode()))
	})
	return errors.Join(err, e.Close())
}

func write(ctx context.Context, e *boltengine.Engine, d *record.Meta, found Found) error {
	err := e.Update(ctx, func(tx *boltengine.Tx) error {
		meta := d.Records()
		if !found.Clock.Time.IsZero() {
			meta[record.MetaClock] = record.Seal(record.TableMeta, []byte(record.MetaClock), found.Clock.Encode())
		}
		for key, sealed := range meta {
			if err := tx.Put(record.TableMeta, []byte(key), sealed); err != nil {
				return err
			}
		}
		return nil
	})
	for batch := range slices.Chunk(found.Records, writeAtOnce) {
		if err != nil {
			return err
		}
		err = e.Update(ctx, func(tx *boltengine.Tx) error {
			for _, r := range batch {
				if err := found.put(tx, r); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return err
}

// put writes a record and its entries in the indexes.
func (found Found) put(tx *boltengine.Tx, r Record) error {
	if r.Sealed != nil {
		return tx.Put(r.Table, r.Key, r.Sealed)
	}
	id, _ := uuid.FromBytes(r.Key)
	var index []record.IndexEntry
	switch r.Table {
	case record.TableUsers:
		index = found.Users[id].Index()
	case record.TableKeys:
		index = found.Keys[id].Index()
	}
	for _, e := range index {
		if err := tx.Put(e.Table, e.Key, e.Value); err != nil {
			return err
		}
	}
	sealed := record.Seal(r.Table, r.Key, r.Message)
	if len(sealed) > record.MaxSize {
		return fmt.Errorf("the record %s/%x has %d bytes, and the most is %d", r.Table, r.Key, len(sealed), record.MaxSize)
	}
	return tx.Put(r.Table, r.Key, sealed)
}
