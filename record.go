package latchkey

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"iter"
	"time"

	"github.com/google/uuid"
)

// A record is the value of an entry in a table: one byte of version, a message in the wire format
// of Protocol Buffers, and a CRC-32C over the name of the table, the key of the entry, and the
// bytes before the checksum. So a record that was damaged, or that was moved to another key, is
// detected. docs/formats.md has the fields and test vectors.
//
// If this version does not know a field of a user, an identity, a key or the state, it keeps the
// field and writes it back, so that an older build does not lose data of a newer one.

// recordVersion is the version of the records that this build writes, and the latest that it reads.
const recordVersion = 1

// The tables of a store.
const (
	tableMeta       = "meta"       // "format", "domain", "replica", "state" → record
	tableUsers      = "users"      // user ID → userRecord
	tableIdentities = "identities" // provider 0 subject → user ID
	tableKeys       = "keys"       // key ID → keyRecord
	tableNames      = "names"      // owner, name, 0, key ID → an empty value
	tableChanges    = "changes"    // sequence → kind, ID
	tableData       = "data"       // name 0 key → bytes of an application, as a record
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func recordChecksum(table string, key, record []byte) uint32 {
	sum := crc32.Checksum([]byte(table), castagnoli)
	sum = crc32.Update(sum, castagnoli, key)
	return crc32.Update(sum, castagnoli, record)
}

// sealRecord makes a record from a message.
func sealRecord(table string, key, message []byte) []byte {
	record := append([]byte{recordVersion}, message...)
	return binary.BigEndian.AppendUint32(record, recordChecksum(table, key, record))
}

// openRecord returns the message in a record.
//
// It returns ErrCorrupt or ErrNewerFormat.
func openRecord(table string, key, record []byte) ([]byte, error) {
	body := len(record) - 4
	if body < 1 || binary.BigEndian.Uint32(record[body:]) != recordChecksum(table, key, record[:body]) {
		return nil, fmt.Errorf("%w: bad checksum of %s/%x", ErrCorrupt, table, key)
	}
	if record[0] != recordVersion {
		return nil, fmt.Errorf("%w: %s/%x has version %d", ErrNewerFormat, table, key, record[0])
	}
	return record[1:body], nil
}

// Wire types of Protocol Buffers. Records use wireVarint and wireBytes. The other types can only
// occur in fields of a later version.
const (
	wireVarint  = 0
	wireBytes   = 2
	wireFixed64 = 1
	wireFixed32 = 5
)

// message collects the fields of a message. Like proto3 it omits zero values.
type message []byte

func (m *message) number(field int, v uint64) {
	if v != 0 {
		*m = binary.AppendUvarint(*m, uint64(field)<<3|wireVarint)
		*m = binary.AppendUvarint(*m, v)
	}
}

func (m *message) flag(field int, v bool) {
	if v {
		m.number(field, 1)
	}
}

func (m *message) bytes(field int, v []byte) {
	if len(v) != 0 {
		*m = binary.AppendUvarint(*m, uint64(field)<<3|wireBytes)
		*m = binary.AppendUvarint(*m, uint64(len(v)))
		*m = append(*m, v...)
	}
}

// field is one field of a message. It has a number or bytes, and the raw bytes of the whole field.
type field struct {
	num    int
	number uint64
	bytes  []byte
	raw    []byte
}

// fields yields the fields of a message in order. An error is yielded once, as the last element.
func fields(msg []byte) iter.Seq2[field, error] {
	return func(yield func(field, error) bool) {
		for rest := msg; len(rest) > 0; {
			f, err := firstField(rest)
			if !yield(f, err) || err != nil {
				return
			}
			rest = rest[len(f.raw):]
		}
	}
}

// firstField returns the first field of msg.
func firstField(msg []byte) (f field, err error) {
	tag, n := binary.Uvarint(msg)
	if n <= 0 || tag>>3 == 0 || tag>>3 > 1<<29-1 {
		return field{}, fmt.Errorf("%w: bad field tag", ErrCorrupt)
	}
	f.num = int(tag >> 3)
	size := 0
	switch tag & 7 {
	case wireVarint:
		if f.number, size = binary.Uvarint(msg[n:]); size <= 0 {
			return field{}, fmt.Errorf("%w: bad number in field %d", ErrCorrupt, f.num)
		}
	case wireBytes:
		length, m := binary.Uvarint(msg[n:])
		if m <= 0 || length > uint64(len(msg)-n-m) {
			return field{}, fmt.Errorf("%w: bad length of field %d", ErrCorrupt, f.num)
		}
		size = m + int(length)
		f.bytes = msg[n+m : n+size]
	case wireFixed64:
		size = 8
	case wireFixed32:
		size = 4
	default:
		return field{}, fmt.Errorf("%w: bad wire type in field %d", ErrCorrupt, f.num)
	}
	if size > len(msg)-n {
		return field{}, fmt.Errorf("%w: field %d is cut short", ErrCorrupt, f.num)
	}
	f.raw = msg[:n+size]
	return f, nil
}

// A stamp orders the writes to a field in all replicas of a domain, first by a Lamport counter and
// then by replica. The counter is the sequence of the write in its own store, which is never less
// than any counter that the store has seen.
type stamp struct {
	counter uint64
	replica uuid.UUID
}

func (s stamp) encode() []byte {
	var m message
	m.number(1, s.counter)
	m.bytes(2, s.replica[:])
	return m
}

func decodeStamp(msg []byte) (s stamp, err error) {
	for f, err := range fields(msg) {
		if err != nil {
			return s, err
		}
		switch f.num {
		case 1:
			s.counter = f.number
		case 2:
			s.replica, err = decodeUUID(f.bytes)
		}
		if err != nil {
			return s, err
		}
	}
	return s, nil
}

// userRecord is a record in the table of users.
type userRecord struct {
	id         uuid.UUID // the table's key
	created    time.Time // to the millisecond
	made       stamp
	identities []identityRecord // in the order of linking
	disabledFlag
	deleted  bool // a tombstone, which keeps made and sequence only
	sequence uint64
	unknown  []byte
}

// disabledFlag says whether a record is disabled, and how often it has been.
type disabledFlag struct {
	disablings uint64
	disabled   bool
}

// set disables or enables the record, and reports whether the flag has changed. Enabling an enabled
// record changes nothing.
func (f *disabledFlag) set(disable bool) (changed bool) {
	changed = disable || f.disabled
	f.disabled = disable
	if disable {
		f.disablings++
	}
	return changed
}

type identityRecord struct {
	Identity
	linked  stamp
	unknown []byte
}

func (u *userRecord) encode() []byte {
	var m message
	m.number(1, u.sequence)
	m.bytes(2, u.made.encode())
	m.number(3, uint64(max(0, u.created.UnixMilli())))
	for _, i := range u.identities {
		var im message
		im.bytes(1, []byte(i.Provider))
		im.bytes(2, []byte(i.Subject))
		im.bytes(3, i.linked.encode())
		m.bytes(4, append(im, i.unknown...))
	}
	m.number(5, u.disablings)
	m.flag(6, u.disabled)
	m.flag(7, u.deleted)
	return sealRecord(tableUsers, u.id[:], append(m, u.unknown...))
}

func decodeUser(id uuid.UUID, record []byte) (userRecord, error) {
	u := userRecord{id: id, created: time.UnixMilli(0).UTC()}
	msg, err := openRecord(tableUsers, id[:], record)
	if err != nil {
		return u, err
	}
	return u, wrapRecord(u.decode(msg), "user", id)
}

// decodeUserEntry decodes an entry in the table of users.
func decodeUserEntry(e Entry) (userRecord, error) {
	id, err := decodeUUID(e.Key)
	if err != nil {
		return userRecord{}, err
	}
	return decodeUser(id, e.Value)
}

func (u *userRecord) decode(msg []byte) error {
	for f, err := range fields(msg) {
		if err != nil {
			return err
		}
		switch f.num {
		case 1:
			u.sequence = f.number
		case 2:
			u.made, err = decodeStamp(f.bytes)
		case 3:
			u.created, err = decodeTime(f.number, time.Millisecond)
		case 4:
			var i identityRecord
			i, err = decodeIdentity(f.bytes)
			u.identities = append(u.identities, i)
		case 5:
			u.disablings = f.number
		case 6:
			u.disabled = f.number != 0
		case 7:
			u.deleted = f.number != 0
		default:
			u.unknown = append(u.unknown, f.raw...)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func decodeIdentity(msg []byte) (i identityRecord, err error) {
	for f, err := range fields(msg) {
		if err != nil {
			return i, err
		}
		switch f.num {
		case 1:
			i.Provider = Provider(f.bytes)
		case 2:
			i.Subject = string(f.bytes)
		case 3:
			i.linked, err = decodeStamp(f.bytes)
		default:
			i.unknown = append(i.unknown, f.raw...)
		}
		if err != nil {
			return i, err
		}
	}
	return i, nil
}

// keyRecord is a record in the table of keys.
type keyRecord struct {
	id       uuid.UUID // the table's key
	owner    uuid.UUID // a user, or ServerOwner
	created  time.Time // to the millisecond
	made     stamp
	name     string
	named    stamp
	verifier string // a PHC string
	hashed   stamp
	expires  time.Time // to the second; the zero time means never
	disabledFlag
	deleted  bool // a tombstone, which keeps owner, made and sequence only
	sequence uint64
	unknown  []byte
}

func (k *keyRecord) encode() []byte {
	var m message
	m.number(1, k.sequence)
	m.bytes(2, k.made.encode())
	m.number(3, uint64(max(0, k.created.UnixMilli())))
	m.bytes(4, k.owner[:])
	m.bytes(5, []byte(k.name))
	if k.named != k.made {
		m.bytes(6, k.named.encode())
	}
	m.bytes(7, []byte(k.verifier))
	if k.hashed != k.made {
		m.bytes(8, k.hashed.encode())
	}
	if !k.expires.IsZero() {
		m.number(9, uint64(k.expires.Unix()))
	}
	m.number(10, k.disablings)
	m.flag(11, k.disabled)
	m.flag(12, k.deleted)
	return sealRecord(tableKeys, k.id[:], append(m, k.unknown...))
}

func decodeKey(id uuid.UUID, record []byte) (keyRecord, error) {
	k := keyRecord{id: id, created: time.UnixMilli(0).UTC()}
	msg, err := openRecord(tableKeys, id[:], record)
	if err != nil {
		return k, err
	}
	return k, wrapRecord(k.decode(msg), "key", id)
}

func (k *keyRecord) decode(msg []byte) error {
	// A message without these stamps means that they equal made.
	named, hashed := false, false
	for f, err := range fields(msg) {
		if err != nil {
			return err
		}
		switch f.num {
		case 1:
			k.sequence = f.number
		case 2:
			k.made, err = decodeStamp(f.bytes)
		case 3:
			k.created, err = decodeTime(f.number, time.Millisecond)
		case 4:
			k.owner, err = decodeUUID(f.bytes)
		case 5:
			k.name = string(f.bytes)
		case 6:
			named = true
			k.named, err = decodeStamp(f.bytes)
		case 7:
			k.verifier = string(f.bytes)
		case 8:
			hashed = true
			k.hashed, err = decodeStamp(f.bytes)
		case 9:
			if f.number != 0 {
				k.expires, err = decodeTime(f.number, time.Second)
			}
		case 10:
			k.disablings = f.number
		case 11:
			k.disabled = f.number != 0
		case 12:
			k.deleted = f.number != 0
		default:
			k.unknown = append(k.unknown, f.raw...)
		}
		if err != nil {
			return err
		}
	}
	if !named {
		k.named = k.made
	}
	if !hashed {
		k.hashed = k.made
	}
	return nil
}

// lastTime is the last second that RFC 3339, and so JSON, can express.
var lastTime = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)

// decodeTime returns the time n units after the beginning of 1970.
func decodeTime(n uint64, unit time.Duration) (time.Time, error) {
	perSecond := uint64(time.Second / unit)
	if n/perSecond > uint64(lastTime.Unix()) {
		return time.Time{}, fmt.Errorf("%w: a time after the year 9999", ErrCorrupt)
	}
	return time.Unix(int64(n/perSecond), int64(n%perSecond)*int64(unit)).UTC(), nil
}

func decodeUUID(b []byte) (id uuid.UUID, err error) {
	if len(b) != len(id) {
		return uuid.UUID{}, fmt.Errorf("%w: an ID of %d bytes", ErrCorrupt, len(b))
	}
	return uuid.UUID(b), nil
}

func wrapRecord(err error, kind string, id uuid.UUID) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("record of %s %s: %w", kind, id, err)
}
