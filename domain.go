package latchkey

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/google/uuid"
)

// formatVersion is the version of the store's format that this build writes, and the latest that it reads.
const formatVersion = 1

// domain is what all replicas of a store share, and this replica's ID. It is made once, with the store.
type domain struct {
	id      uuid.UUID
	replica uuid.UUID
	prefix  string

	// userSecret is what user IDs are derived from. It never changes: the same person must get the same ID everywhere.
	userSecret [32]byte
	// tagSecrets are what tags are made under. The first makes new ones; the others are good until they are retired.
	tagSecrets []tagSecret
}

type tagSecret struct {
	number uint64
	secret [16]byte
}

// The records of the table meta, beside "state".
var (
	keyFormat  = []byte("format")
	keyDomain  = []byte("domain")
	keyReplica = []byte("replica")
)

// openDomain reads the domain of the store in e, and begins a new store if e is empty.
func openDomain(ctx context.Context, e Engine, opts *Options, random *randomSource) (*domain, error) {
	d := &domain{}
	empty := false
	err := e.View(ctx, func(etx EngineTx) (err error) {
		empty, err = d.read(etx)
		return err
	})
	if err != nil || !empty {
		return d, err
	}
	if opts.readOnly() {
		return nil, fmt.Errorf("%w: there is no store in it yet", ErrReadOnly)
	}
	err = e.Update(ctx, func(etx EngineTx) error {
		if empty, err := d.read(etx); err != nil || !empty {
			return err
		}
		return d.create(etx, opts.tokenPrefix(), random)
	})
	return d, err
}

// read reads the domain, or reports that the engine is empty. The format comes first: nothing else of a later one can
// be relied upon.
func (d *domain) read(etx EngineTx) (empty bool, err error) {
	*d = domain{}
	version := uint64(0)
	empty, err = readMeta(etx, keyFormat, func(f field) error {
		if f.num == 1 {
			version = f.number
		}
		return nil
	})
	if err != nil {
		return false, err
	}
	if empty {
		return true, wantEmpty(etx)
	}
	switch version {
	case formatVersion:
	case 0:
		return false, fmt.Errorf("%w: the format has no version", ErrCorrupt)
	default:
		return false, fmt.Errorf("%w: version %d, and this build reads version %d", ErrNewerFormat, version, formatVersion)
	}
	var secret bool
	missing, err := readMeta(etx, keyDomain, func(f field) error {
		switch f.num {
		case 1:
			return decodeUUID(f.bytes, &d.id)
		case 2:
			secret = true
			return decodeSecret(f.bytes, d.userSecret[:])
		case 3:
			t, err := decodeTagSecret(f.bytes)
			d.tagSecrets = append(d.tagSecrets, t)
			return err
		case 4:
			d.prefix = string(f.bytes)
		}
		return nil
	})
	if err != nil {
		return false, err
	}
	alone, err := readMeta(etx, keyReplica, func(f field) error {
		if f.num == 1 {
			return decodeUUID(f.bytes, &d.replica)
		}
		return nil
	})
	whole := !missing && !alone && d.id != uuid.Nil && d.replica != uuid.Nil && secret && len(d.tagSecrets) > 0
	if err == nil && !(whole && validPrefix(d.prefix)) {
		err = fmt.Errorf("%w: the domain is incomplete", ErrCorrupt)
	}
	return false, err
}

// wantEmpty returns ErrCorrupt if there is anything in the engine: it is no new one then, but one whose format is lost.
func wantEmpty(etx EngineTx) error {
	for _, table := range []string{tableMeta, tableUsers, tableIdentities, tableKeys, tableNames, tableChanges, tableData} {
		for _, err := range etx.Scan(table, nil, nil) {
			return firstError(err, fmt.Errorf("%w: the record of the format is missing", ErrCorrupt))
		}
	}
	return nil
}

// readMeta calls fn with each field of a record in the table meta, or reports that there is no such record.
func readMeta(etx EngineTx, key []byte, fn func(field) error) (missing bool, err error) {
	record, err := etx.Get(tableMeta, key)
	if err != nil || record == nil {
		return record == nil, err
	}
	msg, err := openRecord(tableMeta, key, record)
	if err != nil {
		return false, err
	}
	var bad error
	_, err = readFields(msg, func(f field) bool {
		bad = firstError(bad, fn(f))
		return true
	})
	return false, firstError(err, bad)
}

// create makes the secrets of a new domain and writes the records of an empty store.
func (d *domain) create(etx EngineTx, prefix string, random *randomSource) error {
	*d = domain{prefix: prefix, tagSecrets: make([]tagSecret, 1)}
	d.id, d.replica = random.uuid(), random.uuid()
	random.fill(d.userSecret[:])
	random.fill(d.tagSecrets[0].secret[:])

	var format message
	format.number(1, formatVersion)
	for _, r := range []struct{ key, record []byte }{
		{keyFormat, sealRecord(tableMeta, keyFormat, format)},
		{keyDomain, sealRecord(tableMeta, keyDomain, d.encode())},
		{keyReplica, d.encodeReplica()},
		{keyState, (&storeState{}).encode()},
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
	return sealRecord(tableMeta, keyReplica, m)
}

func decodeTagSecret(b []byte) (t tagSecret, err error) {
	var bad error
	_, err = readFields(b, func(f field) bool {
		switch f.num {
		case 1:
			t.number = f.number
		case 2:
			bad = decodeSecret(f.bytes, t.secret[:])
		}
		return true
	})
	return t, firstError(err, bad)
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

// userID derives the ID of the user whose first identity is i, after so many deletions of users who began with it. It
// is of version 8 (RFC 9562): the first bits of an HMAC-SHA-256, so it tells nothing about the identity.
func (d *domain) userID(i Identity, deletions uint64) (id uuid.UUID) {
	mac := hmac.New(sha256.New, d.userSecret[:])
	mac.Write([]byte("latchkey user\x00"))
	mac.Write(i.key())
	mac.Write(binary.BigEndian.AppendUint64([]byte{0}, deletions))
	copy(id[:], mac.Sum(nil))
	id[6] = id[6]&0x0f | 0x80
	id[8] = id[8]&0x3f | 0x80
	return id
}
