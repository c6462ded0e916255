package record

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/sorted"
)

// ServerOwner is the owner of keys that belong to no user.
var ServerOwner = uuid.Max

// A Key is what a table keeps of an API key.
type Key struct {
	ID        uuid.UUID // the table's key
	Owner     uuid.UUID // never changes
	Created   time.Time // to the millisecond; of two versions the earlier wins
	Name      Register[string]
	Verifiers Verifiers
	Expires   Register[time.Time]      // to the second; the zero time is never
	Scopes    Register[[]string]       // in order, each once
	Networks  Register[[]netip.Prefix] // as they were given
	Metadata  Register[Metadata]
	Groups    Groups
	Flag      Flag
	// Foreign says that the key came from outside the store, so that its token may come again. The
	// tombstone of such a key stays for good.
	Foreign bool
	Unknown Unknown
}

// Next returns the stamp of the next write to the record by a replica.
func (k Key) Next(replica uuid.UUID) Stamp { return next(replica, k.stamps()) }

func (k Key) stamps() []Stamp {
	return append(k.Groups.stamps(), k.Name.Stamp, k.Expires.Stamp, k.Scopes.Stamp, k.Networks.Stamp, k.Metadata.Stamp)
}

// ExpiredAt reports whether the expiry date of the key has passed at a moment.
func (k Key) ExpiredAt(now time.Time) bool {
	return !k.Expires.Value.IsZero() && !now.Before(k.Expires.Value)
}

// Merge returns what two versions of one key merge to.
//
// Errors: [ErrDifferentOwner].
func (k Key) Merge(other Key) (Key, error) {
	if k.Owner != other.Owner {
		return Key{}, fmt.Errorf("%w: key %s", ErrDifferentOwner, k.ID)
	}
	merged := Key{
		ID: k.ID, Owner: k.Owner,
		Created:   earlierCreation(k.Created, other.Created),
		Name:      k.Name.merge(other.Name, encodeString),
		Verifiers: k.Verifiers.merge(other.Verifiers),
		Expires:   k.Expires.merge(other.Expires, encodeExpiry),
		Scopes:    k.Scopes.merge(other.Scopes, encodeScopes),
		Networks:  k.Networks.merge(other.Networks, encodeNetworks),
		Metadata:  k.Metadata.merge(other.Metadata, encodeMetadata),
		Groups:    k.Groups.merge(other.Groups),
		Flag:      k.Flag.merge(other.Flag),
		Foreign:   k.Foreign || other.Foreign,
		Unknown:   k.Unknown.merge(other.Unknown),
	}
	// A register has the value of one of the two versions.
	merged.Scopes.Value = slices.Clone(merged.Scopes.Value)
	merged.Networks.Value = slices.Clone(merged.Networks.Value)
	merged.Metadata.Value = merged.Metadata.Value.clone()
	return merged, nil
}

func earlierCreation(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// The functions below return the encodings by which values with equal stamps are compared.

func encodeString(s string) []byte { return []byte(s) }

func encodeExpiry(t time.Time) []byte {
	var m Message
	m.Number(fieldValue, encodeSeconds(t))
	return m
}

func encodeScopes(scopes []string) []byte {
	var m Message
	scopeFields(&m, scopes)
	return m
}

func scopeFields(m *Message, scopes []string) {
	for _, s := range scopes {
		m.element(fieldValue, []byte(s))
	}
}

func encodeNetworks(networks []netip.Prefix) []byte {
	var m Message
	networkFields(&m, networks)
	return m
}

// networkFields writes each network as its address (4 or 16 bytes) and the length of the prefix (1
// byte).
func networkFields(m *Message, networks []netip.Prefix) {
	for _, n := range networks {
		m.element(fieldValue, append(n.Addr().AsSlice(), byte(n.Bits())))
	}
}

func decodeNetwork(b []byte) (n netip.Prefix, err error) {
	if len(b) > 0 {
		addr, ok := netip.AddrFromSlice(b[:len(b)-1])
		if n = netip.PrefixFrom(addr, int(b[len(b)-1])); ok && n.IsValid() {
			return n, nil
		}
	}
	return n, fmt.Errorf("%w: a network of %d bytes", ErrDamaged, len(b))
}

// The fields of a key's message.
const (
	keyCreated   = 1
	keyOwner     = 2
	keyReplicas  = 3
	keyFlag      = 4
	keyName      = 5
	keyVerifiers = 6
	keyExpires   = 7
	keyScopes    = 8
	keyNetworks  = 9
	keyMetadata  = 10
	keyGroups    = 11
	keyForeign   = 12
)

// Encode returns the key's message. The ID is the table's key.
func (k Key) Encode() []byte {
	t := newReplicaTable(k.stamps())
	var m Message
	m.Number(keyCreated, encodeMilliseconds(k.Created))
	m.Bytes(keyOwner, k.Owner[:])
	t.fields(&m, keyReplicas)
	m.Bytes(keyFlag, k.Flag.encode())
	m.Bytes(keyName, encodeText(k.Name, t))
	m.Bytes(keyVerifiers, k.Verifiers.encode())
	m.Bytes(keyExpires, encodeRegister(k.Expires, t, func(m *Message) { m.Number(fieldValue, encodeSeconds(k.Expires.Value)) }))
	m.Bytes(keyScopes, encodeRegister(k.Scopes, t, func(m *Message) { scopeFields(m, k.Scopes.Value) }))
	m.Bytes(keyNetworks, encodeRegister(k.Networks, t, func(m *Message) { networkFields(m, k.Networks.Value) }))
	m.Bytes(keyMetadata, encodeMetadataRegister(k.Metadata, t))
	k.Groups.fields(&m, keyGroups, t)
	m.Bool(keyForeign, k.Foreign)
	return append(m, k.Unknown.sorted()...)
}

// DecodeKey reads a key's message.
//
// Errors: [ErrDamaged].
func DecodeKey(id uuid.UUID, message []byte) (k Key, err error) {
	k.ID = id
	k.Created = time.UnixMilli(0).UTC()
	t, err := decodeReplicas(message, keyReplicas)
	if err != nil {
		return k, err
	}
	owned := false
	for f, err := range Fields(message) {
		if err != nil {
			return k, err
		}
		switch f.Num {
		case keyCreated:
			k.Created, err = decodeMilliseconds(f.Number)
		case keyOwner:
			owned = true
			k.Owner, err = DecodeID(f.Bytes)
		case keyReplicas: // in t already
		case keyFlag:
			k.Flag, err = decodeFlag(f.Bytes)
		case keyName:
			k.Name, err = decodeText("name", f.Bytes, t, MaxName)
		case keyVerifiers:
			k.Verifiers, err = decodeVerifiers(f.Bytes)
		case keyExpires:
			k.Expires, err = decodeExpires(f.Bytes, t)
		case keyScopes:
			k.Scopes, err = decodeScopes(f.Bytes, t)
		case keyNetworks:
			k.Networks, err = decodeNetworks(f.Bytes, t)
		case keyMetadata:
			k.Metadata, err = decodeMetadata(f.Bytes, t)
		case keyGroups:
			err = k.Groups.add(f.Bytes, t)
		case keyForeign:
			k.Foreign = f.Number != 0
		default:
			k.Unknown.add(f)
		}
		if err != nil {
			return k, err
		}
	}
	if !owned {
		return k, fmt.Errorf("%w: a key without an owner", ErrDamaged)
	}
	k.Groups, k.Unknown = k.Groups.merge(nil), k.Unknown.sorted()
	return k, nil
}

// DecodeNameEntry returns the key of the entry in the index of names of the key with a message,
// without a look at the rest of the message.
//
// Errors: [ErrDamaged].
func DecodeNameEntry(id uuid.UUID, message []byte) (entry []byte, err error) {
	var owner, name []byte
	for f, err := range Fields(message) {
		if err != nil {
			return nil, err
		}
		switch f.Num {
		case keyOwner:
			owner = f.Bytes
		case keyName:
			for v, err := range Fields(f.Bytes) {
				if err != nil {
					return nil, err
				}
				if v.Num == fieldValue {
					name = v.Bytes
				}
			}
		}
	}
	return slices.Concat(owner, name, []byte{0}, id[:]), nil
}

// IsFreshKey reports whether the key with a message surely was never disabled, was in one group at
// most, and has one token at most, which was not ended. IsFreshKey looks at nothing else, and
// reports false if it finds damage.
func IsFreshKey(message []byte) bool {
	groups := 0
	for f, err := range Fields(message) {
		if err != nil {
			return false
		}
		switch f.Num {
		case keyFlag:
			return false
		case keyGroups:
			if groups++; groups > 1 {
				return false
			}
		case keyVerifiers:
			if !areFresh(f.Bytes) {
				return false
			}
		}
	}
	return true
}

func decodeExpires(b []byte, t replicaTable) (Register[time.Time], error) {
	return decodeRegister(b, t, func(value *time.Time, f Field) (err error) {
		*value, err = decodeSeconds(f.Number)
		return err
	})
}

func decodeScopes(b []byte, t replicaTable) (Register[[]string], error) {
	r, err := decodeRegister(b, t, func(scopes *[]string, f Field) error {
		scope, err := decodeString("scope", f.Bytes, MaxScope)
		*scopes = append(*scopes, scope)
		return err
	})
	if err != nil {
		return r, err
	}
	sorted.Func(r.Value, strings.Compare)
	r.Value = slices.Compact(r.Value)
	return r, tooMany("scopes", len(r.Value), MaxScopes)
}

func decodeNetworks(b []byte, t replicaTable) (Register[[]netip.Prefix], error) {
	r, err := decodeRegister(b, t, func(networks *[]netip.Prefix, f Field) error {
		n, err := decodeNetwork(f.Bytes)
		*networks = append(*networks, n)
		return err
	})
	if err != nil {
		return r, err
	}
	return r, tooMany("networks", len(r.Value), MaxNetworks)
}
