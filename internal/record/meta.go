package record

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/pem"
	"fmt"

	"github.com/google/uuid"
)

// FormatVersion is the version of the store's format that this build writes, and the latest that it
// reads.
const FormatVersion = 1

// A Meta is what a store knows of its domain, and of itself in the domain. It is made with the
// store.
type Meta struct {
	Domain
	Tags    TagSecrets // one of them makes new tags
	Replica Replica
}

// GetMeta returns the message of the record that the table meta has under a key, or nil if there is
// none. get gets the sealed record.
//
// Errors: get's error, [ErrDamaged] or [ErrNewer].
func GetMeta(get func(key []byte) ([]byte, error), key string) ([]byte, error) {
	sealed, err := get([]byte(key))
	if err != nil || sealed == nil {
		return nil, err
	}
	return Open(TableMeta, []byte(key), sealed)
}

// ReadMeta reads the records of the table meta, which get gets. It returns nil if there is no
// record of the format.
//
// Errors: get's error, [ErrDamaged] or [ErrNewer].
func ReadMeta(get func(key []byte) ([]byte, error)) (*Meta, error) {
	format, err := GetMeta(get, MetaFormat)
	if err != nil || format == nil {
		return nil, err
	}
	// The format comes first, because this build knows nothing about the records of a later format.
	if err := checkFormat(format); err != nil {
		return nil, err
	}
	m := &Meta{}
	for _, part := range []struct {
		key    string
		decode func(message []byte) error
	}{
		{MetaDomain, func(b []byte) (err error) { m.Domain, err = DecodeDomain(b); return err }},
		{MetaTags, func(b []byte) (err error) { m.Tags, err = DecodeTagSecrets(b); return err }},
		{MetaReplica, func(b []byte) (err error) { m.Replica, err = DecodeReplica(b); return err }},
	} {
		message, err := GetMeta(get, part.key)
		if err == nil {
			err = part.decode(message)
		}
		if err != nil {
			return nil, err
		}
	}
	return m, m.Tags.check()
}

// ReadTagSecrets reads the record of the tag secrets, which get gets.
//
// Errors: get's error, [ErrDamaged] or [ErrNewer].
func ReadTagSecrets(get func(key []byte) ([]byte, error)) (TagSecrets, error) {
	message, err := GetMeta(get, MetaTags)
	if err != nil {
		return TagSecrets{}, err
	}
	s, err := DecodeTagSecrets(message)
	if err == nil {
		err = s.check()
	}
	return s, err
}

// ReadReplica reads the record of the replica, which get gets.
//
// Errors: get's error, [ErrDamaged] or [ErrNewer].
func ReadReplica(get func(key []byte) ([]byte, error)) (Replica, error) {
	message, err := GetMeta(get, MetaReplica)
	if err != nil {
		return Replica{}, err
	}
	return DecodeReplica(message)
}

// IsShared reports whether the record of the replica, which get gets, says that the domain has or
// had another store. If the record cannot be read, a store must keep what merging needs, too.
func IsShared(get func(key []byte) ([]byte, error)) bool {
	r, err := ReadReplica(get)
	return err != nil || r.Shared
}

// check returns ErrDamaged unless the domain can make tokens.
func (s TagSecrets) check() error {
	if _, signs := s.Signing(); !signs {
		return fmt.Errorf("%w: no tag secret is in use", ErrDamaged)
	}
	return nil
}

func checkFormat(message []byte) error {
	version := uint64(0)
	for f, err := range Fields(message) {
		if err != nil {
			return err
		}
		if f.Num == 1 {
			version = f.Number
		}
	}
	switch version {
	case FormatVersion:
		return nil
	case 0:
		return fmt.Errorf("%w: the format has no version", ErrDamaged)
	}
	return fmt.Errorf("%w: version %d, and this build reads version %d", ErrNewer, version, FormatVersion)
}

// Records returns the records of the table meta that are made with the store, by their keys.
func (m *Meta) Records() map[string][]byte {
	var format Message
	format.Number(1, FormatVersion)
	records := map[string][]byte{}
	for key, message := range map[string][]byte{
		MetaFormat: format, MetaDomain: m.Domain.Encode(), MetaTags: m.Tags.Encode(), MetaReplica: m.Replica.Encode(),
	} {
		records[key] = Seal(TableMeta, []byte(key), message)
	}
	return records
}

// pemDomain is the type of the PEM block (RFC 7468) that has the secrets of a domain.
const pemDomain = "LATCHKEY DOMAIN SECRETS"

// metaExport is the name under which the exported secrets are sealed. It is not in the table.
const metaExport = "export"

// Export returns the domain and its tag secrets as a text.
func (m *Meta) Export() []byte {
	var message Message
	message.Bytes(1, m.Domain.Encode())
	message.Bytes(2, m.Tags.Encode())
	return pem.EncodeToMemory(&pem.Block{
		Type:    pemDomain,
		Headers: map[string]string{"Domain": m.ID.String()},
		Bytes:   Seal(TableMeta, []byte(metaExport), message),
	})
}

// ParseExport reads the text that [Meta.Export] returned.
//
// Errors: [ErrDamaged] or [ErrNewer].
func ParseExport(text []byte) (*Meta, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != pemDomain {
		return nil, fmt.Errorf("%w: not the secrets of a domain", ErrDamaged)
	}
	message, err := Open(TableMeta, []byte(metaExport), block.Bytes)
	if err != nil {
		return nil, err
	}
	m, parts := &Meta{}, map[int][]byte{}
	for f, err := range Fields(message) {
		if err != nil {
			return nil, err
		}
		parts[f.Num] = f.Bytes
	}
	if m.Domain, err = DecodeDomain(parts[1]); err != nil {
		return nil, err
	}
	if m.Tags, err = DecodeTagSecrets(parts[2]); err != nil {
		return nil, err
	}
	return m, m.Tags.check()
}

// UserID derives the ID of the user whose first identity has an entry in the index of identities
// under a key. former is the number of earlier users that began with the identity. The ID has
// version 8 (RFC 9562): the first bits of an HMAC-SHA-256, so that it tells nothing about the
// identity.
func (d *Domain) UserID(identity []byte, former uint64) (id uuid.UUID) {
	mac := hmac.New(sha256.New, d.UserSecret[:])
	mac.Write([]byte("latchkey user\x00"))
	mac.Write(identity)
	mac.Write(binary.BigEndian.AppendUint64([]byte{0}, former))
	copy(id[:], mac.Sum(nil))
	id[6] = id[6]&0x0f | 0x80
	id[8] = id[8]&0x3f | 0x80
	return id
}
