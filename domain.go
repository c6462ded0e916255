package latchkey

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io/fs"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/record"
	"github.com/latchkeydb/latchkey/internal/tokenform"
)

// formatVersion is the version of the store's format that this build writes, and the latest that it
// reads.
const formatVersion = 1

// domain is what the stores of a domain have in common, and what this store is among them. It is
// made with the store, once.
type domain struct {
	record.Domain
	tags    record.TagSecrets // there is one that makes new tags
	replica record.Replica
}

// Keys of the table meta.
var (
	metaFormat  = []byte(record.MetaFormat)
	metaDomain  = []byte(record.MetaDomain)
	metaTags    = []byte(record.MetaTags)
	metaReplica = []byte(record.MetaReplica)

	metaExport = []byte("export") // not in the table; see DomainSecrets.Export
)

// openDomain returns the domain of the store in e, and begins a new store if e is empty.
func openDomain(ctx context.Context, e Engine, opts *Options, random *randomSource) (d *domain, err error) {
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
		return d.create(etx)
	})
	return d, err
}

// loadDomain returns the domain of the store in an engine, or nil if the engine is empty.
func loadDomain(etx EngineTx) (*domain, error) {
	d, err := readDomain(metaRecords(etx))
	if err == nil && d == nil {
		err = wantEmpty(etx)
	}
	return d, err
}

// wantEmpty returns ErrCorrupt if an engine without a record of the format has any other entry.
// Then the engine is not new, but has a store whose format is lost.
func wantEmpty(etx EngineTx) error {
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
func readDomain(get func(key []byte) ([]byte, error)) (*domain, error) {
	format, err := getMessage(get, metaFormat)
	if err != nil || format == nil {
		return nil, err
	}
	// The format comes first, because this build knows nothing about the records of a later format.
	if err := checkFormat(format); err != nil {
		return nil, err
	}
	d := &domain{}
	for _, part := range []struct {
		key    []byte
		decode func(message []byte) error
	}{
		{metaDomain, func(m []byte) (err error) { d.Domain, err = record.DecodeDomain(m); return err }},
		{metaTags, func(m []byte) (err error) { d.tags, err = record.DecodeTagSecrets(m); return err }},
		{metaReplica, func(m []byte) (err error) { d.replica, err = record.DecodeReplica(m); return err }},
	} {
		message, err := getMessage(get, part.key)
		if err == nil {
			err = recordError(part.decode(message))
		}
		if err != nil {
			return nil, err
		}
	}
	if err := d.checkComplete(); err != nil {
		return nil, err
	}
	return d, nil
}

// checkComplete returns ErrCorrupt unless the domain can make tokens.
func (d *domain) checkComplete() error {
	if _, signs := d.tags.Signing(); !signs || !tokenform.ValidPrefix(d.Prefix) {
		return fmt.Errorf("%w: the domain is incomplete", ErrCorrupt)
	}
	return nil
}

// getMessage returns the message of a record in the table meta, or nil if there is no such record.
func getMessage(get func(key []byte) ([]byte, error), key []byte) ([]byte, error) {
	sealed, err := get(key)
	if err != nil || sealed == nil {
		return nil, err
	}
	return openRecord(tableMeta, key, sealed)
}

func checkFormat(message []byte) error {
	version := uint64(0)
	for f, err := range record.Fields(message) {
		if err != nil {
			return recordError(err)
		}
		if f.Num == 1 {
			version = f.Number
		}
	}
	switch version {
	case formatVersion:
		return nil
	case 0:
		return fmt.Errorf("%w: the format has no version", ErrCorrupt)
	}
	return fmt.Errorf("%w: version %d, and this build reads version %d", ErrNewerFormat, version, formatVersion)
}

// newDomain returns the domain of a new store: the one of opts, or a new domain with new secrets.
func newDomain(opts *Options, random *randomSource) *domain {
	if given := opts.domain(); given != nil {
		return &domain{Domain: given.Domain, tags: given.tags, replica: record.Replica{ID: random.uuid()}}
	}
	d := &domain{Domain: record.Domain{Prefix: opts.tokenPrefix()}}
	d.ID, d.replica.ID = random.uuid(), random.uuid()
	random.fill(d.UserSecret[:])
	var tag [16]byte
	random.fill(tag[:])
	d.tags = d.tags.Add(tag).Set(0, record.TagUsed)
	return d
}

// create writes the records of an empty store.
func (d *domain) create(etx EngineTx) error {
	for key, sealed := range d.records() {
		if err := etx.Put(tableMeta, []byte(key), sealed); err != nil {
			return err
		}
	}
	return nil
}

// records returns the records of the table meta, by their keys.
func (d *domain) records() map[string][]byte {
	var format record.Message
	format.Number(1, formatVersion)
	records := map[string][]byte{}
	for _, r := range []struct{ key, message []byte }{
		{metaFormat, format},
		{metaDomain, d.Encode()},
		{metaTags, d.tags.Encode()},
		{metaReplica, d.replica.Encode()},
	} {
		records[string(r.key)] = record.Seal(tableMeta, r.key, r.message)
	}
	return records
}

// tokenForm returns the form of the domain's tokens.
func (d *domain) tokenForm() *tokenform.Form {
	signing, _ := d.tags.Signing()
	var others [][16]byte
	for _, t := range d.tags.Accepted() {
		if t.Number != signing.Number {
			others = append(others, t.Secret)
		}
	}
	return tokenform.New(d.Prefix, signing.Secret, others...)
}

// userID derives the ID of the user whose first identity is i. former is the number of users who
// began with i before. The ID has version 8 (RFC 9562): the first bits of an HMAC-SHA-256, so that
// it tells nothing about the identity.
func (d *domain) userID(i Identity, former uint64) (id uuid.UUID) {
	mac := hmac.New(sha256.New, d.UserSecret[:])
	mac.Write([]byte("latchkey user\x00"))
	mac.Write(i.indexKey())
	mac.Write(binary.BigEndian.AppendUint64([]byte{0}, former))
	copy(id[:], mac.Sum(nil))
	id[6] = id[6]&0x0f | 0x80
	id[8] = id[8]&0x3f | 0x80
	return id
}
