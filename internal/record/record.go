// Package record has the records of a store: what is known of users, keys and groups, the bytes
// that the records are stored as, and how two versions of one record merge.
//
// Any record may be replicated, so how its fields merge is part of its design. Merging two versions
// of a record needs no clock. It is commutative, associative and idempotent, so replicas agree
// whatever order they hear of changes in. docs/formats.md has a paragraph for each rule.
//
// Merging is also total: it refuses two versions only if they name different owners. Every list in
// a record has a bound. A list that grows beyond its bound loses its oldest entries, and a floor in
// the record says which entries are gone. A floor only grows, so the order of merging does not
// matter. A record within the bounds is smaller than [MaxSize], unless it has more than some
// kilobytes of fields that this build does not know.
//
// All types are plain values. A function that returns a record returns one that shares nothing with
// its arguments.
package record

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/google/uuid"
)

// Version is the version of records that this build writes, and the only version that it reads.
const Version = 2

// MaxSize is how many bytes a sealed record can have. It is the size of the values that every
// engine takes.
const MaxSize = 64 << 10

// The bounds of fields, in bytes unless a comment says otherwise. The calls of a store refuse what
// is beyond them, so a record with more is damaged, or somebody made it up.
const (
	MaxName         = 256 // of a key
	MaxSubject      = 256 // of an identity
	MaxProvider     = 32  // of an identity
	MaxGroup        = 128 // of a group's name
	MaxScope        = 128 // of one scope
	MaxScopes       = 64  // scopes
	MaxNetworks     = 16  // networks
	MaxMetadata     = 64  // entries
	MaxMetadataSize = 4096
	MaxPHC          = 256 // of a verifier
)

// The errors of decoding and merging.
var (
	// ErrDamaged is returned for bytes that are no record.
	ErrDamaged = errors.New("damaged record")
	// ErrNewer is returned for a record of a later version.
	ErrNewer = errors.New("record of a later version")
	// ErrDifferentOwner is returned when two records of one key name different owners.
	ErrDifferentOwner = errors.New("two records of one key name different owners")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(table string, key, body []byte) uint32 {
	sum := crc32.Checksum([]byte(table), castagnoli)
	sum = crc32.Update(sum, castagnoli, key)
	return crc32.Update(sum, castagnoli, body)
}

// Seal returns the bytes that a table keeps under a key: the version, the message, and a CRC-32C
// (RFC 9260, appendix A) of the table's name, the key, and all before it. The checksum shows that a
// record is damaged, or that it was found under another key.
func Seal(table string, key, message []byte) []byte { return SealAs(Version, table, key, message) }

// SealAs is Seal as a build with another version does it.
func SealAs(version byte, table string, key, message []byte) []byte {
	body := append([]byte{version}, message...)
	return binary.BigEndian.AppendUint32(body, checksum(table, key, body))
}

// Open returns the message of sealed bytes.
//
// Errors: [ErrDamaged] if the checksum is wrong, or if the record has a version that only builds
// before the first release have written; [ErrNewer].
func Open(table string, key, sealed []byte) (message []byte, err error) {
	n := len(sealed) - 4
	if n < 1 || binary.BigEndian.Uint32(sealed[n:]) != checksum(table, key, sealed[:n]) {
		return nil, fmt.Errorf("%w: bad checksum of %s/%x", ErrDamaged, table, key)
	}
	switch v := sealed[0]; {
	case v > Version:
		return nil, fmt.Errorf("%w: %s/%x has version %d", ErrNewer, table, key, v)
	case v < Version:
		return nil, fmt.Errorf("%w: %s/%x has version %d", ErrDamaged, table, key, v)
	}
	return sealed[1:n], nil
}

// Unseal decodes the record that a table has under an ID.
//
// Errors: those of [Open] and of decode.
func Unseal[T any](table string, key, sealed []byte, decode func(uuid.UUID, []byte) (T, error)) (*T, error) {
	id, err := DecodeID(key)
	if err != nil {
		return nil, fmt.Errorf("table %s: %w", table, err)
	}
	message, err := Open(table, key, sealed)
	if err != nil {
		return nil, err
	}
	r, err := decode(id, message)
	if err != nil {
		return nil, fmt.Errorf("table %s, record of %s: %w", table, id, err)
	}
	return &r, nil
}

// tooMany returns ErrDamaged if there are more of something than a record can have.
func tooMany(what string, n, most int) error {
	if n > most {
		return fmt.Errorf("%w: %d %s are more than %d", ErrDamaged, n, what, most)
	}
	return nil
}

// decodeString reads a text of at most so many bytes.
func decodeString(what string, b []byte, most int) (string, error) {
	if len(b) > most {
		return "", fmt.Errorf("%w: a %s of %d bytes is longer than %d", ErrDamaged, what, len(b), most)
	}
	return string(b), nil
}
