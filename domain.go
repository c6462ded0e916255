package latchkey

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"

	"github.com/latchkeydb/latchkey/internal/random"
	"github.com/latchkeydb/latchkey/internal/record"
	"github.com/latchkeydb/latchkey/internal/tokenform"
	"github.com/latchkeydb/latchkey/internal/unburied"
)

// Keys of the table meta.
var (
	metaTags      = []byte(record.MetaTags)
	metaReplica   = []byte(record.MetaReplica)
	metaMigration = []byte(record.MetaMigration)
)

// openDomain returns the domain of the store in e, and begins a new store if e is empty.
func openDomain(ctx context.Context, e Engine, opts *Options, random *random.Source) (d *record.Meta, err error) {
	err = e.View(ctx, func(etx EngineTx) (err error) {
		d, err = loadDomain(etx)
		return err
	})
	if err != nil || d != nil {
		return d, err
	}
	if opts.readOnly() {
		return nil, fmt.Errorf("%w: there is no store in it yet", ErrReadOnly)
	}
	if opts.mustExist() {
		return nil, fmt.Errorf("%w: there is no store in it yet", fs.ErrNotExist)
	}
	err = e.Update(ctx, func(etx EngineTx) (err error) {
		if d, err = loadDomain(etx); err != nil || d != nil {
			return err
		}
		d = newDomain(opts, random)
		if _, shared := e.(EngineWatcher); shared {
			err = etx.Put(tableMeta, []byte(record.MetaBuried), unburied.All)
		}
		return cmp.Or(err, createDomain(etx, d))
	})
	return d, err
}

// loadDomain returns the domain of the store in an engine, or nil if the engine is empty.
func loadDomain(etx EngineTx) (*record.Meta, error) {
	d, err := readDomain(metaRecords(etx))
	if err == nil && d == nil {
		err = wantEmpty(etx)
	}
	return d, err
}

// wantEmpty returns ErrCorrupt if an engine without a record of the format has any other entry.
// Then the engine is not new, but has a store whose format is lost. It returns ErrUnfinished if the
// format is still to come.
func wantEmpty(etx EngineTx) error {
	if mark, err := etx.Get(tableMeta, metaMigration); err != nil || mark != nil {
		return cmp.Or(err, ErrUnfinished)
	}
	for _, table := range allTables {
		for _, err := range etx.Scan(table, nil, nil) {
			if err != nil {
				return err
			}
			return errNoFormat
		}
	}
	return nil
}

var errNoFormat = fmt.Errorf("%w: the record of the format is missing", ErrCorrupt)

// metaRecords returns a function that gets records of the table meta.
func metaRecords(etx EngineTx) func(key []byte) ([]byte, error) {
	return func(key []byte) ([]byte, error) { return etx.Get(tableMeta, key) }
}

// readDomain makes a domain from the records that get returns. It returns nil if there is no record
// of the format.
func readDomain(get func(key []byte) ([]byte, error)) (*record.Meta, error) {
	d, err := record.ReadMeta(get)
	if err == nil && d != nil && !tokenform.ValidPrefix(d.Prefix) {
		err = fmt.Errorf("%w: the domain is incomplete", ErrCorrupt)
	}
	if err != nil {
		return nil, recordError(err)
	}
	return d, nil
}

// newDomain returns the domain of a new store: the one of opts, or a new domain with new secrets.
func newDomain(opts *Options, random *random.Source) *record.Meta {
	if given := opts.domain(); given != nil {
		return &record.Meta{Domain: given.Domain, Tags: given.Tags, Replica: record.Replica{ID: random.UUID(), Shared: true}}
	}
	d := &record.Meta{Domain: record.Domain{Prefix: opts.tokenPrefix()}}
	d.ID, d.Replica.ID = random.UUID(), random.UUID()
	random.Fill(d.UserSecret[:])
	var tag [16]byte
	random.Fill(tag[:])
	d.Tags = record.FirstTagSecret(tag)
	return d
}

// createDomain writes the records of an empty store.
func createDomain(etx EngineTx, d *record.Meta) error {
	for key, sealed := range d.Records() {
		if err := etx.Put(tableMeta, []byte(key), sealed); err != nil {
			return err
		}
	}
	return nil
}
