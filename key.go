package latchkey

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/names"
	"github.com/latchkeydb/latchkey/internal/record"
	"github.com/latchkeydb/latchkey/internal/sorted"
)

// ServerOwner is the owner of server keys, which belong to no user and let a service log in as
// itself. ServerOwner is not the ID of a user.
var ServerOwner = uuid.Max

// A Key is everything that the store tells about a key: all but its secret and its verifier.
type Key struct {
	ID    uuid.UUID `json:"id"`
	Owner uuid.UUID `json:"owner"` // a user's ID, or [ServerOwner]
	Name  string    `json:"name"`  // unique among its owner's keys
	// Created is when the key was minted, by the store's clock, or the time that was given to
	// [MintForeign]. It is to the millisecond, in UTC.
	Created  time.Time `json:"created"`
	Expires  time.Time `json:"expires,omitzero"` // to the second, in UTC; the zero time means never
	Disabled bool      `json:"disabled"`         // a disabled key does not log in
	// Disablings is the number of times that the key was disabled. It never falls. See
	// [User].Disablings.
	Disablings uint64 `json:"-"`
	// Scopes are what the key permits.
	Scopes Scopes `json:"scopes,omitzero"`
	// Networks are where the key may be used from. Without any, it may be used from everywhere.
	Networks []netip.Prefix    `json:"networks,omitempty"`
	Metadata map[string]string `json:"metadata,omitempty"`
	Group    string            `json:"group,omitempty"` // of a server key
	// Tokens are the newest token of the key and, after a rotation with an overlap, the old token
	// before it. The old token is good until it ends, and is listed until the next rotation, or
	// until [Rotation].UntilUsed ends it. A token whose tag secret is retired is not listed, so
	// Tokens can be empty.
	Tokens []KeyToken `json:"-"`
	// LastUsed is when a token of the key was last used for a login that succeeded, to the minute,
	// in UTC. The zero time means that no use is known. See [Options].LastUseEvery.
	LastUsed time.Time `json:"last_used,omitzero"`
}

// KeySpec describes a key to be made.
type KeySpec struct {
	// Name is 1 to 256 bytes of UTF-8 without control characters. It must not begin or end with
	// white space or with an invisible character, such as U+00A0, U+200B or U+FEFF, and something
	// in it must be visible. It must not have the form of an ID: a UUID, or 24 hexadecimal digits.
	// [Options].AppServicesNames has other rules. Names are compared byte by byte: the store
	// neither folds case nor normalises Unicode.
	//
	// The name must be free. An expired key makes way: it is renamed in the same transaction. Its
	// new name is its name, cut to 247 bytes at the end of a character, and "~" with the last 8
	// digits of its ID; with AppServicesNames, "-" in place of "~".
	Name string
	// Expires is when the key stops logging in, by the store's clock, rounded down to the second.
	// The zero time means never.
	Expires time.Time
	// Scopes are what the key permits. See [NewScopes] for the rules. A key without scopes logs in
	// and is permitted nothing.
	Scopes Scopes
	// Networks are where the key may be used from, at most [MaxNetworks]. Without any, the key may
	// be used from everywhere. The bits behind the prefix of a network are set to zero. An IPv4
	// network that is written as an IPv6 network becomes an IPv4 network, so its prefix must have
	// 96 bits or more.
	Networks []netip.Prefix
	// Metadata are the program's own texts on the key, by name: at most [MaxMetadata] of them, with
	// [MaxMetadataSize] bytes in all names and values together. Names and values are UTF-8. A name
	// has 1 to 256 bytes and no control characters.
	Metadata map[string]string
	// Group is the tenant, site or project that a server key belongs to, or "". It has at most
	// [MaxGroup] bytes of UTF-8 without control characters, does not begin or end with white space
	// or with an invisible character, and has something visible in it. It is not "*". The key of a
	// user belongs to the group of the user, and has no group of its own.
	Group string
}

// KeyRequest is a KeySpec and the owner of the key.
type KeyRequest struct {
	Owner uuid.UUID // a user's ID
	KeySpec
}

// CreateKey makes a key of a user, and returns the key and its token. The token cannot be seen
// again, because the store keeps nothing from which it could be found. A request that breaks a rule
// is refused before anything is hashed. CreateKey waits for a permit to hash, as long as ctx lasts.
//
// It returns [ErrUserNotFound], also for [ServerOwner]; [ErrAnonymousUser]; [ErrInvalidName];
// [ErrKeyNameTaken]; [ErrTooManyKeys]; [ErrInvalidExpiry]; [ErrInvalidScope]; [ErrInvalidNetwork];
// [ErrInvalidMetadata]; [ErrInvalidGroup] if n has a group; [ErrBusy]; or an error of
// [Store.Update].
func (s *Store) CreateKey(ctx context.Context, user uuid.UUID, n KeySpec) (Key, string, error) {
	if user == ServerOwner {
		return Key{}, "", wrapf(ErrUserNotFound, "create key %s of %s", names.Quote(n.Name), ownerText(user))
	}
	return s.createKey(ctx, user, n)
}

// CreateServerKey makes a key that no user owns, and returns the key and its token, as
// [Store.CreateKey] does.
//
// It returns [ErrInvalidName], [ErrKeyNameTaken], [ErrInvalidExpiry], [ErrInvalidScope],
// [ErrInvalidNetwork], [ErrInvalidMetadata], [ErrInvalidGroup], [ErrBusy], or an error of
// [Store.Update].
func (s *Store) CreateServerKey(ctx context.Context, n KeySpec) (Key, string, error) {
	return s.createKey(ctx, ServerOwner, n)
}

func (s *Store) createKey(ctx context.Context, owner uuid.UUID, n KeySpec) (Key, string, error) {
	keys, tokens, err := s.createKeys(ctx, []KeyRequest{{owner, n}}, nil)
	if err != nil {
		return Key{}, "", wrapf(err, "create key %s of %s", names.Quote(n.Name), ownerText(owner))
	}
	return keys[0], tokens[0], nil
}

// CreateKeys makes all of the requested keys in one transaction, or none of them. It returns the
// keys and their tokens in the order of the requests. Before the transaction begins, CreateKeys
// hashes on as many processors as [Options].HashMemory allows. If progress is not nil, CreateKeys
// calls progress after each hash, in the goroutine of the caller, with the number of hashes done
// and the number of all hashes. Hashing waits for progress to return.
//
// It returns the errors of [Store.CreateKey]. If there are several requests, the text has the
// number of the request, counted from 0.
func (s *Store) CreateKeys(ctx context.Context, requests []KeyRequest, progress func(done, total int)) ([]Key, []string, error) {
	for i, r := range requests {
		if r.Owner == ServerOwner {
			return nil, nil, wrapf(requestError(ErrUserNotFound, i, len(requests)), "create %d keys", len(requests))
		}
	}
	keys, tokens, err := s.createKeys(ctx, requests, progress)
	return keys, tokens, wrapf(err, "create %d keys", len(requests))
}

func (s *Store) createKeys(ctx context.Context, requests []KeyRequest, progress func(done, total int)) ([]Key, []string, error) {
	err := s.View(ctx, func(tx *Tx) error {
		type ownersName struct {
			owner uuid.UUID
			name  string
		}
		taken, before := map[ownersName]bool{}, map[uuid.UUID]int{}
		for i, r := range requests {
			_, err := tx.checkNewKey(r.Owner, r.KeySpec, before[r.Owner])
			named := ownersName{r.Owner, r.Name}
			if err == nil && taken[named] {
				err = nameTaken(r.Name)
			}
			if err != nil {
				return requestError(err, i, len(requests))
			}
			taken[named] = true
			before[r.Owner]++
		}
		return nil
	})
	if err == nil && s.readOnly {
		err = ErrReadOnly
	}
	if err != nil {
		return nil, nil, err
	}
	minted, tokens, err := s.mintKeys(ctx, s.draw(len(requests)), progress)
	if err != nil {
		return nil, nil, err
	}
	var keys []Key
	err = s.Update(ctx, func(tx *Tx) error {
		keys = make([]Key, 0, len(requests))
		for i, r := range requests {
			key, err := tx.insertKey(r.Owner, r.KeySpec, minted[i])
			if err != nil {
				return requestError(err, i, len(requests))
			}
			keys = append(keys, key)
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	return keys, tokens, nil
}

// ownerText names an owner in an error.
func ownerText(owner uuid.UUID) string {
	if owner == ServerOwner {
		return "the server"
	}
	return "user " + owner.String()
}

func requestError(err error, i, total int) error {
	if total == 1 {
		return err
	}
	return fmt.Errorf("request %d: %w", i, err)
}

// InsertKey turns a minted key into a key of a user.
//
// It returns [ErrInvalidMintedKey], or the errors of [Store.CreateKey].
func (tx *Tx) InsertKey(user uuid.UUID, n KeySpec, minted MintedKey) (Key, error) {
	if user == ServerOwner {
		return Key{}, ErrUserNotFound
	}
	return tx.insertKey(user, n, minted)
}

// InsertServerKey turns a minted key into a server key.
//
// It returns [ErrInvalidMintedKey], or the errors of [Store.CreateServerKey].
func (tx *Tx) InsertServerKey(n KeySpec, minted MintedKey) (Key, error) {
	return tx.insertKey(ServerOwner, n, minted)
}

func (tx *Tx) insertKey(owner uuid.UUID, n KeySpec, minted MintedKey) (key Key, err error) {
	defer tx.wholeSince(tx.writes, &err)
	if minted.m == nil {
		return Key{}, ErrInvalidMintedKey
	}
	m := minted.m()
	if !m.IsFor(tx.store.domain.ID) || m.Replaces != (record.VerifierID{}) {
		return Key{}, ErrInvalidMintedKey
	}
	if err := tx.checkTag(m.Verifier); err != nil {
		return Key{}, err
	}
	if m.Created.IsZero() {
		m.Created = tx.now()
	}
	expired, err := tx.checkNewKey(owner, n, 0)
	if err != nil {
		return Key{}, err
	}
	used, err := tx.isUsed(tableKeys, tableDeadKeys, m.ID)
	if err != nil {
		return Key{}, err
	}
	if used {
		return Key{}, ErrInvalidMintedKey
	}
	expires, err := tx.newExpiry(n.Expires)
	if err != nil {
		return Key{}, err
	}
	networks, err := normalNetworks(n.Networks)
	if err != nil {
		return Key{}, err
	}
	if err := tx.giveWay(expired); err != nil {
		return Key{}, err
	}
	if err := tx.put(tableNames, record.NameKey(owner, n.Name, m.ID), nil); err != nil {
		return Key{}, err
	}
	k := &record.Key{ID: m.ID, Owner: owner, Created: m.Created, Foreign: m.FromElsewhere() || m.Outside}
	at := k.Next(tx.store.ReplicaID())
	k.Verifiers = k.Verifiers.Add(m.Verifier)
	if m.IsForeign() {
		if err := tx.insertHandle(m.Verifier.Handle, k.ID); err != nil {
			return Key{}, err
		}
	}
	k.Name = registerOf(n.Name, false, at)
	k.Expires = registerOf(expires, expires.IsZero(), at)
	k.Scopes = registerOf(n.Scopes.All(), n.Scopes.IsZero(), at)
	k.Networks = registerOf(networks, len(networks) == 0, at)
	k.Metadata = registerOf(record.Metadata(maps.Clone(n.Metadata)), len(n.Metadata) == 0, at)
	if _, err := tx.setGroup(&k.Groups, k.ID, n.Group, at); err != nil {
		return Key{}, err
	}
	tx.keyCounts.Made(owner)
	if err := tx.putKey(k); err != nil {
		return Key{}, err
	}
	return tx.toUnusedKey(k)
}

// checkNewKey returns an error if owner cannot have one more key with the name and expiry date in
// n. others is the number of keys that will be made for owner before this one. If an expired key
// has the name, checkNewKey returns its record, for giveWay.
func (tx *Tx) checkNewKey(owner uuid.UUID, n KeySpec, others int) (expired []*record.Key, err error) {
	if err := tx.checkName(n.Name); err != nil {
		return nil, err
	}
	if _, err := tx.newExpiry(n.Expires); err != nil {
		return nil, err
	}
	if err := checkSpec(owner, n); err != nil {
		return nil, err
	}
	if owner != ServerOwner {
		u, err := tx.liveUser(owner)
		if err != nil {
			return nil, err
		}
		if u.IsAnonymous() {
			return nil, ErrAnonymousUser
		}
	}
	expired, err = tx.checkNameFree(owner, n.Name, uuid.Nil)
	if err != nil || owner == ServerOwner {
		return expired, err
	}
	return expired, tx.checkLimit(owner, others)
}

// checkSpec returns an error if a key of owner cannot have the scopes, networks, metadata or group
// in n.
func checkSpec(owner uuid.UUID, n KeySpec) error {
	if err := n.Scopes.validate(); err != nil {
		return err
	}
	if _, err := normalNetworks(n.Networks); err != nil {
		return err
	}
	if err := checkMetadata(n.Metadata); err != nil {
		return err
	}
	if owner != ServerOwner && n.Group != "" {
		return fmt.Errorf("%w: the key of a user has the group of the user", ErrInvalidGroup)
	}
	return checkGroup(n.Group)
}

func (tx *Tx) checkLimit(owner uuid.UUID, others int) error {
	limit := tx.store.maxKeys
	if limit < 0 {
		return nil
	}
	n, err := tx.keyCounts.All(owner, tx.keysOf(owner))
	if err != nil || n+others < limit {
		return err
	}
	expired, err := tx.keyCounts.Expired(owner, tx.keyRecordsOf(owner), tx.now())
	if err == nil && n-expired+others >= limit {
		err = fmt.Errorf("%w: the limit is %d", ErrTooManyKeys, limit)
	}
	return err
}

// indexedKey returns the record of a key that the index of names has for owner, or ErrCorrupt. It
// returns nil for a key whose deletion is not finished.
func (tx *Tx) indexedKey(owner, id uuid.UUID) (*record.Key, error) {
	k, err := tx.getKey(id)
	if err == nil && k == nil && tx.store.isUnfinished() {
		return nil, nil
	}
	if err == nil && (k == nil || k.Owner != owner) {
		err = errMissing("key", id)
	}
	return k, err
}

// Key returns the key of owner with an ID.
//
// It returns [ErrKeyNotFound] if owner has no such key, even if another owner has it, or an error
// of [Store.View].
func (s *Store) Key(ctx context.Context, owner, id uuid.UUID) (Key, error) {
	key, err := read(ctx, s, func(tx *Tx) (Key, error) { return tx.Key(owner, id) })
	return key, wrapf(err, "key %s", id)
}

// Key is [Store.Key] in a transaction.
func (tx *Tx) Key(owner, id uuid.UUID) (Key, error) {
	k, err := tx.liveKey(owner, id)
	if err != nil {
		return Key{}, err
	}
	return tx.toKey(k)
}

// liveKey returns the record of a key that belongs to owner, or ErrKeyNotFound.
func (tx *Tx) liveKey(owner, id uuid.UUID) (*record.Key, error) {
	k, err := tx.getKey(id)
	if err != nil {
		return nil, err
	}
	if k == nil || k.Owner != owner {
		return nil, ErrKeyNotFound
	}
	return k, nil
}

// Keys returns all keys of owner, a user or [ServerOwner], in the order of their creation. If there
// are none, the slice is empty and not nil.
//
// It returns [ErrUserNotFound], or an error of [Store.View].
func (s *Store) Keys(ctx context.Context, owner uuid.UUID) ([]Key, error) {
	keys, err := read(ctx, s, func(tx *Tx) ([]Key, error) { return tx.Keys(owner) })
	return keys, wrapf(err, "keys of %s", ownerText(owner))
}

// Keys is [Store.Keys] in a transaction.
func (tx *Tx) Keys(owner uuid.UUID) ([]Key, error) {
	if owner != ServerOwner {
		if _, err := tx.liveUser(owner); err != nil {
			return nil, err
		}
	}
	var records []*record.Key
	for k, err := range tx.keyRecordsOf(owner) {
		if err != nil {
			return nil, err
		}
		records = append(records, k)
	}
	sorted.Func(records, func(a, b *record.Key) int {
		return cmp.Or(a.Created.Compare(b.Created), compareIDs(a.ID, b.ID))
	})
	keys := make([]Key, len(records))
	for i, k := range records {
		key, err := tx.toKey(k)
		if err != nil {
			return nil, err
		}
		keys[i] = key
	}
	return keys, nil
}

// keysOf yields the IDs of owner's keys, in the order of their names.
func (tx *Tx) keysOf(owner uuid.UUID) iter.Seq2[uuid.UUID, error] {
	return func(yield func(uuid.UUID, error) bool) {
		// No byte of a name is 0xff, because names are UTF-8.
		for e, err := range tx.etx.Scan(tableNames, owner[:], append(owner[:], 0xff)) {
			var id uuid.UUID
			if err == nil {
				_, id, err = record.SplitNameKey(e.Key)
			}
			if !yield(id, recordError(err)) || err != nil {
				return
			}
		}
	}
}

// keyRecordsOf yields the records of owner's keys, in the order of their names.
func (tx *Tx) keyRecordsOf(owner uuid.UUID) iter.Seq2[*record.Key, error] {
	return func(yield func(*record.Key, error) bool) {
		for id, err := range tx.keysOf(owner) {
			var k *record.Key
			if err == nil {
				k, err = tx.indexedKey(owner, id)
			}
			if err == nil && k == nil {
				continue
			}
			if !yield(k, err) || err != nil {
				return
			}
		}
	}
}

// EnableKey lets a disabled key of owner log in again. Enabling an enabled key changes nothing.
//
// It returns [ErrKeyNotFound] if owner has no such key, even if another owner has it, or an error
// of [Store.Update].
func (s *Store) EnableKey(ctx context.Context, owner, id uuid.UUID) error {
	err := s.Update(ctx, func(tx *Tx) error { return tx.EnableKey(owner, id) })
	return wrapf(err, "enable key %s", id)
}

// EnableKey is [Store.EnableKey] in a transaction.
func (tx *Tx) EnableKey(owner, id uuid.UUID) error { return tx.setKeyDisabled(owner, id, false) }

// DisableKey stops a key of owner from logging in, until it is enabled. Disabling a disabled key
// changes nothing that a login can see. When DisableKey returns nil, the change is on disk, and no
// login with the key that begins afterwards succeeds. An engine that is full returns [ErrNoSpace],
// and the key stays enabled. [Store.DeleteKey] works all the same.
//
// It returns [ErrKeyNotFound] if owner has no such key, even if another owner has it, or an error
// of [Store.Update].
func (s *Store) DisableKey(ctx context.Context, owner, id uuid.UUID) error {
	err := s.Update(ctx, func(tx *Tx) error { return tx.DisableKey(owner, id) })
	return wrapf(err, "disable key %s", id)
}

// DisableKey is [Store.DisableKey] in a transaction.
func (tx *Tx) DisableKey(owner, id uuid.UUID) error { return tx.setKeyDisabled(owner, id, true) }

func (tx *Tx) setKeyDisabled(owner, id uuid.UUID, disable bool) error {
	return tx.changeKey(owner, id, func(k *record.Key, _ record.Stamp) (bool, error) {
		return tx.setDisabled(&k.Flag, disable), nil
	})
}

// DeleteKey deletes a key of owner, for good. Only its ID and owner are kept, and its name can be
// used again. When DeleteKey returns nil, the change is on disk, and no login with the key that
// begins afterwards succeeds. Old bytes may remain in free pages of the file until the pages are
// used again or [Store.Compact] runs.
//
// An engine that several processes share can be full. There DeleteKey only deletes the key, and the
// rest follows when there is space: what other stores of the domain need to know, the freeing of
// the name, and the call of [Options].OnChange.
//
// It returns [ErrKeyNotFound] if owner has no such key, even if another owner has it, or an error
// of [Store.Update].
func (s *Store) DeleteKey(ctx context.Context, owner, id uuid.UUID) error {
	err := s.Update(ctx, func(tx *Tx) error { return tx.DeleteKey(owner, id) })
	if errors.Is(err, ErrNoSpace) && s.unburied != nil {
		err = recordError(s.unburied.Key(ctx, id, ErrKeyNotFound))
	}
	return wrapf(err, "delete key %s", id)
}

// DeleteKey is [Store.DeleteKey] in a transaction.
func (tx *Tx) DeleteKey(owner, id uuid.UUID) (err error) {
	defer tx.wholeSince(tx.writes, &err)
	k, err := tx.liveKey(owner, id)
	if err != nil {
		return err
	}
	if err := tx.deleteEntries(id, k.Index()); err != nil {
		return err
	}
	if err := tx.tables().EndVerifiers(k, record.Verifiers{}); err != nil {
		return err
	}
	tx.keyCounts.Deleted(k, tx.now())
	tx.forgetKey(id)
	if err := tx.delete(tableKeys, id[:]); err != nil {
		return err
	}
	return tx.putRecord(tableDeadKeys, id[:], k.Tombstone().Encode())
}

// toKey returns what callers may know of a key.
func (tx *Tx) toKey(k *record.Key) (key Key, err error) {
	if key, err = tx.toUnusedKey(k); err == nil {
		err = tx.addLastUses(&key, k)
	}
	if err == nil {
		key.Name, err = tx.shownName(k)
	}
	return orZero(key, err)
}

// toUnusedKey returns a key without its last uses.
func (tx *Tx) toUnusedKey(k *record.Key) (key Key, err error) {
	var tokens []KeyToken
	secrets := tx.store.tokens.Load().Secrets
	if f := tx.store.follower; f != nil && !f.Known() { // another process may have retired a secret
		secrets, err = tx.tagSecrets()
	}
	for _, v := range k.Verifiers.Good(time.Time{}) {
		if !v.Tagged() || secrets.Accepts(v.Tag) {
			tokens = append(tokens, KeyToken{ID: tokenID(v.ID), Ends: v.End, TagSecret: v.Tag, Foreign: !v.Tagged()})
		}
	}
	return Key{
		ID: k.ID, Owner: k.Owner, Name: k.Name.Value, Created: k.Created, Expires: k.Expires.Value,
		Disabled: k.Flag.IsDisabled(), Disablings: k.Flag.Disablings(),
		Scopes: NewScopes(k.Scopes.Value...), Networks: k.Networks.Value, Metadata: k.Metadata.Value, Group: k.Groups.Now(),
		Tokens: tokens,
	}, err
}
