package latchkey

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/record"
)

// This file has keys that come from a configuration: the text of a minted key, and the calls that
// bring a key in line with its entry.

// ID returns the ID that the key will have, or [uuid.Nil] if m is empty.
func (m MintedKey) ID() uuid.UUID {
	if m.m == nil {
		return uuid.Nil
	}
	return m.m().id
}

// Export returns the minted key as a text for a configuration: the IDs of the domain and of the
// key, the number of the tag secret of the token unless it is 0, and the stored verifier. Nobody
// can log in with the text. A reader of the text can test guesses of the secret, but the secret of
// a key that was not made elsewhere has too many random bits to be guessed. If m is empty, so is
// the text.
func (m MintedKey) Export() string {
	if m.m == nil {
		return ""
	}
	k := m.m()
	if k.isForeign() {
		return fmt.Sprintf("%s/%x/%d/%s", foreignText, k.verifier.Handle[:], milliseconds(k.created), k.verifier.PHC)
	}
	tag := ""
	if k.verifier.Tag > 0 {
		tag = fmt.Sprintf(".%d", k.verifier.Tag)
	}
	id := k.id.String()
	if k.id.Version() != 7 { // a foreign key since its rotation, whose ID does not have the time
		id += fmt.Sprintf("@%d", milliseconds(k.created))
	}
	return fmt.Sprintf("%s/%s/%x%s/%s", k.domain, id, k.verifier.ID[:], tag, k.verifier.PHC)
}

// foreignText begins the text of a foreign key, in place of a domain.
const foreignText = "foreign"

// milliseconds returns a time in Unix milliseconds, or 0 for the zero time.
func milliseconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// ParseMintedKey reads the text that [MintedKey.Export] returned.
//
// It returns [ErrInvalidMintedKey].
func ParseMintedKey(text string) (MintedKey, error) {
	parts := strings.SplitN(text, "/", 4)
	if len(parts) != 4 {
		return MintedKey{}, wrapf(fmt.Errorf("%w: the text is not one of Export", ErrInvalidMintedKey), "parse minted key")
	}
	minted, ok := MintedKey{}, false
	if parts[0] == foreignText {
		minted, ok = parseForeign(parts)
	} else {
		minted, ok = parseMinted(parts)
	}
	// The comparison catches what the calls above let pass.
	if !ok || minted.Export() != text {
		return MintedKey{}, wrapf(fmt.Errorf("%w: the text is damaged", ErrInvalidMintedKey), "parse minted key")
	}
	return minted, nil
}

func parseMinted(parts []string) (minted MintedKey, ok bool) {
	var m mintedKey
	m.domain, _ = uuid.Parse(parts[0])
	key, ms, _ := strings.Cut(parts[1], "@")
	m.id, _ = uuid.Parse(key)
	verifier, tag, _ := strings.Cut(parts[2], ".")
	id, _ := hex.DecodeString(verifier)
	m.verifier.Tag, _ = strconv.ParseUint(tag, 10, 64)
	copy(m.verifier.ID[:], id)
	m.verifier.PHC = parts[3]
	created, _ := strconv.ParseInt(ms, 10, 64)
	if m.id.Version() == 7 {
		created = int64(binary.BigEndian.Uint64(m.id[:]) >> 16)
	}
	m.created = time.UnixMilli(created).UTC()
	_, err := parseVerifier(m.verifier.PHC)
	ok = err == nil && m.id.Variant() == uuid.RFC4122 && (m.id.Version() == 7 || m.id.Version() == 8)
	return MintedKey{conceal(m)}, ok && created >= 0 && !m.created.After(record.LastTime)
}

// parseForeign does not read the verifier, because only [Options].Foreign can.
func parseForeign(parts []string) (minted MintedKey, ok bool) {
	var handle ForeignHandle
	b, _ := hex.DecodeString(parts[1])
	copy(handle[:], b)
	ms, _ := strconv.ParseInt(parts[2], 10, 64)
	var created time.Time
	if ms != 0 {
		created = time.UnixMilli(ms).UTC()
	}
	return MintForeign(handle, parts[3], created), handle != ForeignHandle{} && ms >= 0 && !created.After(record.LastTime)
}

// ExportKey returns an existing key as a [MintedKey], for another store of the domain, or for any
// store if the key was made elsewhere. It has the newest good token of the key. With backups, it is
// the only way to take stored verifiers out of a store, by [MintedKey.Export].
//
// It returns [ErrKeyNotFound]; [ErrInvalidRotation] if no token of the key is good; or an error of
// [Store.View].
func (s *Store) ExportKey(ctx context.Context, id uuid.UUID) (MintedKey, error) {
	m, err := read(ctx, s, func(tx *Tx) (MintedKey, error) { return tx.ExportKey(id) })
	return m, wrapf(err, "export key %s", id)
}

// ExportKey is [Store.ExportKey] in a transaction.
func (tx *Tx) ExportKey(id uuid.UUID) (MintedKey, error) {
	k, err := tx.getKey(id)
	if err != nil {
		return MintedKey{}, err
	}
	if k == nil {
		return MintedKey{}, ErrKeyNotFound
	}
	v, err := tx.currentVerifier(k)
	if err != nil {
		return MintedKey{}, err
	}
	if v.Handle != (record.Handle{}) {
		return MintForeign(ForeignHandle(v.Handle), v.PHC, k.Created), nil
	}
	m := mintedKey{id: id, domain: tx.store.domain.ID, created: k.Created, verifier: record.Verifier{ID: v.ID, PHC: v.PHC, Tag: v.Tag}}
	return MintedKey{conceal(m)}, nil
}

// EnsureKey makes the key of a user that was minted, unless the key exists already, and gives the
// key everything in n: its name, expiry date, scopes, networks and metadata. It returns the key,
// and reports whether anything has changed. So a program can call it at each start, with what its
// configuration says.
//
// A key that was disabled stays disabled. A key that was rotated keeps its new token. A key that
// has expired, and does not get a later date, keeps its name, because it may have made way.
//
// It returns [ErrKeyDeleted] if the key was deleted; [ErrInvalidMintedKey] if minted is empty or of
// another domain, or if the key has another owner or was made with another secret; or the errors of
// [Store.CreateKey] but [ErrBusy].
func (s *Store) EnsureKey(ctx context.Context, user uuid.UUID, n KeySpec, minted MintedKey) (key Key, changed bool, err error) {
	err = s.Update(ctx, func(tx *Tx) (err error) {
		key, changed, err = tx.EnsureKey(user, n, minted)
		return err
	})
	key, err = orZero(key, wrapf(err, "ensure key %s of %s", minted.ID(), ownerText(user)))
	return key, changed && err == nil, err
}

// EnsureKey is [Store.EnsureKey] in a transaction.
func (tx *Tx) EnsureKey(user uuid.UUID, n KeySpec, minted MintedKey) (key Key, changed bool, err error) {
	if user == ServerOwner {
		return Key{}, false, ErrUserNotFound
	}
	return tx.ensureKey(user, n, minted)
}

// EnsureServerKey is [Store.EnsureKey] for a server key, whose group it sets, too.
//
// It returns the errors of [Store.EnsureKey] that are not about users.
func (s *Store) EnsureServerKey(ctx context.Context, n KeySpec, minted MintedKey) (key Key, changed bool, err error) {
	err = s.Update(ctx, func(tx *Tx) (err error) {
		key, changed, err = tx.EnsureServerKey(n, minted)
		return err
	})
	key, err = orZero(key, wrapf(err, "ensure server key %s", minted.ID()))
	return key, changed && err == nil, err
}

// EnsureServerKey is [Store.EnsureServerKey] in a transaction.
func (tx *Tx) EnsureServerKey(n KeySpec, minted MintedKey) (key Key, changed bool, err error) {
	return tx.ensureKey(ServerOwner, n, minted)
}

func (tx *Tx) ensureKey(owner uuid.UUID, n KeySpec, minted MintedKey) (key Key, changed bool, err error) {
	var m mintedKey
	if minted.m != nil {
		m = minted.m()
	}
	if !m.isFor(tx.store.domain.ID) {
		return Key{}, false, fmt.Errorf("%w: it is empty or of another domain, or its verifier is too long", ErrInvalidMintedKey)
	}
	k, err := tx.getKey(m.id)
	if err != nil {
		return Key{}, false, err
	}
	if k == nil {
		deleted, err := tx.has(tableDeadKeys, m.id[:])
		if err == nil && deleted {
			err = ErrKeyDeleted
		}
		if err == nil {
			key, err = tx.insertKey(owner, n, minted)
		}
		return key, err == nil, err
	}
	if k.Owner != owner {
		return Key{}, false, fmt.Errorf("%w: the key has another owner", ErrInvalidMintedKey)
	}
	for _, v := range k.Verifiers.All {
		// The first verifier may be gone since a rotation.
		if v.Generation == 0 && (v.ID != m.verifier.ID || !v.Retired && v.PHC != m.verifier.PHC) {
			return Key{}, false, fmt.Errorf("%w: the key was made with another secret", ErrInvalidMintedKey)
		}
	}
	if err := checkSpec(owner, n); err != nil {
		return Key{}, false, err
	}
	err = tx.changeKey(owner, m.id, func(k *record.Key, at record.Stamp) (_ bool, err error) {
		set := func(c bool, e error) { changed, err = changed || c, cmp.Or(err, e) }
		set(tx.setExpiry(k, n.Expires, at))
		if err == nil && !k.ExpiredAt(tx.now()) {
			set(tx.rename(k, n.Name, at))
		}
		networks, e := normalNetworks(n.Networks)
		set(setRegister(&k.Networks, networks, slices.Equal(networks, k.Networks.Value), at), e)
		set(setRegister(&k.Scopes, n.Scopes.All(), slices.Equal(n.Scopes.All(), k.Scopes.Value), at), nil)
		set(setRegister(&k.Metadata, record.Metadata(n.Metadata), maps.Equal(n.Metadata, k.Metadata.Value), at), nil)
		if err == nil {
			set(tx.setGroup(&k.Groups, k.ID, n.Group, at))
		}
		return changed, err
	})
	if err == nil {
		key, err = tx.KeyByID(m.id)
	}
	if err != nil {
		return Key{}, false, err
	}
	return key, changed, nil
}
