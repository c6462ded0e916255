package latchkey

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io/fs"

	"github.com/google/uuid"
)

// formatVersion is the version of the store's format that this build writes, and the latest that it
// reads.
const formatVersion = 1

// domain is what the replicas of a store have in common, and the ID of this replica. It is made
// with the store, once.
type domain struct {
	id      uuid.UUID
	replica uuid.UUID
	prefix  string

	// userSecret is the secret from which user IDs are derived. It never changes, because the same
	// person must get the same ID in every replica.
	userSecret [32]byte
	// tagSecrets are the secrets for tags. The first one makes new tags. The others are accepted
	// until they are retired.
	tagSecrets []tagSecret
}

type tagSecret struct {
	number uint64
	secret [16]byte
}

// Keys of the table meta, besides metaState.
var (
	metaFormat  = []byte("format")
	metaDomain  = []byte("domain")
	metaReplica = []byte("replica")
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
		d = newDomain(opts.tokenPrefix(), random)
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
	for _, table := range []string{tableMeta, tableUsers, tableIdentities, tableKeys, tableNames, tableChanges, tableData} {
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
	shared, err := getMessage(get, metaDomain)
	if err != nil {
		return nil, err
	}
	own, err := getMessage(get, metaReplica)
	if err != nil {
		return nil, err
	}
	d := &domain{}
	if err := d.decode(shared); err != nil {
		return nil, err
	}
	return d, d.decodeReplica(own)
}

// getMessage returns the message of a record in the table meta, or nil if there is no such record.
func getMessage(get func(key []byte) ([]byte, error), key []byte) ([]byte, error) {
	record, err := get(key)
	if err != nil || record == nil {
		return nil, err
	}
	return openRecord(tableMeta, key, record)
}

func checkFormat(msg []byte) error {
	version := uint64(0)
	for f, err := range fields(msg) {
		if err != nil {
			return err
		}
		if f.num == 1 {
			version = f.number
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

// decode reads what the replicas have in common.
func (d *domain) decode(msg []byte) error {
	hasSecret := false
	for f, err := range fields(msg) {
		if err != nil {
			return err
		}
		switch f.num {
		case 1:
			d.id, err = decodeUUID(f.bytes)
		case 2:
			hasSecret = true
			err = decodeSecret(f.bytes, d.userSecret[:])
		case 3:
			var t tagSecret
			t, err = decodeTagSecret(f.bytes)
			d.tagSecrets = append(d.tagSecrets, t)
		case 4:
			d.prefix = string(f.bytes)
		}
		if err != nil {
			return err
		}
	}
	if d.id == uuid.Nil || !hasSecret || len(d.tagSecrets) == 0 || !validPrefix(d.prefix) {
		return errIncompleteDomain
	}
	return nil
}

// decodeReplica reads the replica's ID.
func (d *domain) decodeReplica(msg []byte) error {
	for f, err := range fields(msg) {
		if err == nil && f.num == 1 {
			d.replica, err = decodeUUID(f.bytes)
		}
		if err != nil {
			return err
		}
	}
	if d.replica == uuid.Nil {
		return errIncompleteDomain
	}
	return nil
}

var errIncompleteDomain = fmt.Errorf("%w: the domain is incomplete", ErrCorrupt)

// newDomain makes the secrets of a new domain.
func newDomain(prefix string, random *randomSource) *domain {
	d := &domain{prefix: prefix, tagSecrets: make([]tagSecret, 1)}
	d.id, d.replica = random.uuid(), random.uuid()
	random.fill(d.userSecret[:])
	random.fill(d.tagSecrets[0].secret[:])
	return d
}

// create writes the records of an empty store.
func (d *domain) create(etx EngineTx) error {
	var format message
	format.number(1, formatVersion)
	for _, r := range []struct{ key, record []byte }{
		{metaFormat, sealRecord(tableMeta, metaFormat, format)},
		{metaDomain, sealRecord(tableMeta, metaDomain, d.encode())},
		{metaReplica, d.encodeReplica()},
		{metaState, (&storeState{}).encode()},
	} {
		if err := etx.Put(tableMeta, r.key, r.record); err != nil {
			return err
		}
	}
	return nil
}

func (d *domain) encode() []byte {
	var m message
	m.bytes(1, d.id[:])
	m.bytes(2, d.userSecret[:])
	for _, t := range d.tagSecrets {
		var tm message
		tm.number(1, t.number)
		tm.bytes(2, t.secret[:])
		m.bytes(3, tm)
	}
	m.bytes(4, []byte(d.prefix))
	return m
}

// encodeReplica makes the record of the replica's ID.
func (d *domain) encodeReplica() []byte {
	var m message
	m.bytes(1, d.replica[:])
	return sealRecord(tableMeta, metaReplica, m)
}

func decodeTagSecret(msg []byte) (t tagSecret, err error) {
	for f, err := range fields(msg) {
		if err != nil {
			return t, err
		}
		switch f.num {
		case 1:
			t.number = f.number
		case 2:
			err = decodeSecret(f.bytes, t.secret[:])
		}
		if err != nil {
			return t, err
		}
	}
	return t, nil
}

func decodeSecret(b, secret []byte) error {
	if len(b) != len(secret) {
		return fmt.Errorf("%w: a secret of %d bytes", ErrCorrupt, len(b))
	}
	copy(secret, b)
	return nil
}

func (d *domain) tokenFormat() *tokenFormat {
	f := &tokenFormat{prefix: d.prefix + "_"}
	for _, t := range d.tagSecrets {
		f.tags = append(f.tags, newTagKey(t.secret))
	}
	return f
}

// userID derives the ID of the user whose first identity is i. former is the number of users who
// began with i before. The ID has version 8 (RFC 9562): the first bits of an HMAC-SHA-256, so that
// it tells nothing about the identity.
func (d *domain) userID(i Identity, former uint64) (id uuid.UUID) {
	mac := hmac.New(sha256.New, d.userSecret[:])
	mac.Write([]byte("latchkey user\x00"))
	mac.Write(i.indexKey())
	mac.Write(binary.BigEndian.AppendUint64([]byte{0}, former))
	copy(id[:], mac.Sum(nil))
	id[6] = id[6]&0x0f | 0x80
	id[8] = id[8]&0x3f | 0x80
	return id
}
