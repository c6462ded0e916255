package latchkey

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/counters"
	"github.com/latchkeydb/latchkey/internal/flight"
	"github.com/latchkeydb/latchkey/internal/foreign"
	"github.com/latchkeydb/latchkey/internal/mint"
	"github.com/latchkeydb/latchkey/internal/record"
	"github.com/latchkeydb/latchkey/internal/tokenform"
)

// A Foreign knows the tokens of foreign keys, which were made elsewhere and are in the store now.
// Package keyimport has one. A Foreign is safe for concurrent use.
type Foreign interface {
	// Handles returns the handles of the keys that a token may belong to. For a string that has the
	// form of no foreign token it returns none. Handles computes at most one hash for each form
	// that the string has. The store calls Handles only with strings that are not in the form of
	// its own tokens.
	Handles(token string) []ForeignHandle

	// Memory returns how many bytes Verify takes for a verifier, or 0 if Verify takes no longer
	// than a short hash.
	//
	// It returns an error that wraps [ErrCorrupt] if the verifier cannot be read, or if checking a
	// token against it costs too much.
	Memory(verifier string) (int64, error)

	// Verify reports whether a verifier was made from a token. It can be slow.
	//
	// It returns the errors of Memory.
	Verify(token, verifier string) (bool, error)
}

// A ForeignHandle is 16 bytes by which the store finds a foreign key: a part of a hash of its
// token, or of a hash of a part of its token. Up to 8 keys of a store can have the same handle. The
// zero ForeignHandle stands for no handle.
type ForeignHandle [16]byte

// MintForeign returns a foreign key, for example for [Tx.EnsureKey]. The store finds the key by
// handle, and asks [Options].Foreign whether a token is the one that verifier was made from.
// created is when the key was made, or the zero time for the time at which it is inserted.
//
// A foreign key belongs to no domain. Its ID is derived from the handle and the verifier. So a key
// that is moved twice is one key, and a key that was deleted stays deleted.
func MintForeign(handle ForeignHandle, verifier string, created time.Time) MintedKey {
	return MintedKey{conceal(mint.Foreign(record.Handle(handle), verifier, created))}
}

// foreignKeys has what a store needs to log in holders of foreign keys.
type foreignKeys struct {
	Foreign
	foreign.Filter
	foreign.Pace
	*foreign.Recent

	// The hashes for foreign tokens wait here, so that no other login waits for them.
	flight *flight.Group
	hasher *hasher
}

// foreignQueue is how many hashes for foreign tokens can be in progress or wait. They run one after
// another.
const foreignQueue = 64

// newForeignKeys returns nil without Options.Foreign.
func newForeignKeys(opts *Options, c *counters.Set) *foreignKeys {
	if opts == nil || opts.Foreign == nil {
		return nil
	}
	f := &foreignKeys{
		Foreign: opts.Foreign, Recent: foreign.NewRecent(opts.cacheSize()),
		flight: flight.New(foreignQueue), hasher: newHasher(opts.hashMemory(), foreignQueue, c),
	}
	f.hasher.Slots = 1
	return f
}

// learnHandles adds the handles of all keys to the filter.
func (s *Store) learnHandles(ctx context.Context) error {
	if s.foreign == nil {
		return nil
	}
	return s.View(ctx, func(tx *Tx) error { return s.foreign.Learn(tx.tables()) })
}

// loginForeign is login for a string that is not in the form of the store's own tokens. Answers to
// foreign tokens are in the cache under the IDs of their keys, as other answers are.
func (s *Store) loginForeign(ctx context.Context, token string, from netip.Addr, believed bool) (Principal, error) {
	known := false
	var handles []ForeignHandle
	if !s.foreign.IsEmpty() {
		handles = s.foreign.Handles(token)
	}
	for _, h := range handles {
		handle := record.Handle(h)
		if !s.foreign.Has(handle) {
			continue
		}
		known = true
		secret := foreign.Secret(token)
		var proven *storedVerifier
		if id, found := s.foreign.Key(handle); found {
			t := tokenform.Untagged(id, secret)
			e := s.cache.Get(&t)
			if e != nil && believed && !e.Answer.hasEnded(s.clock) {
				return s.answerCached(e, from)
			}
			proven = provenBy(e)
		}
		s.counters.Add(statMisses, 1)
		who, err := s.loginCold(ctx, &presented{secret: secret, handle: handle, token: token, proven: proven}, from)
		if !errors.Is(err, ErrInvalidToken) {
			return who, err
		}
	}
	if !known {
		s.counters.Add(statMalformed, 1)
	}
	return Principal{}, ErrInvalidToken
}

// checkVerifier returns ErrCorrupt if a verifier cannot be read. Without Options.Foreign, nobody
// can read a foreign one.
func (s *Store) checkVerifier(v record.Verifier) (err error) {
	switch {
	case v.Handle == record.Handle{}:
		_, err = parseVerifier(v.PHC)
	case s.foreign != nil:
		_, err = s.foreign.Memory(v.PHC)
	}
	return err
}

// check returns what checks a token against a foreign verifier, and the memory that this takes.
//
// It returns ErrCorrupt.
func (f *foreignKeys) check(token, verifier string) (matches func() (bool, error), cost Cost, err error) {
	bytes, err := f.Memory(verifier)
	if bytes > 0 {
		cost.Memory = uint32(min((bytes+1023)>>10, math.MaxUint32))
	}
	return func() (bool, error) { return f.Verify(token, verifier) }, cost, err
}

// keysWith returns the IDs of the keys with a handle, at most maxSameHandle of them.
func (tx *Tx) keysWith(h record.Handle) (ids []uuid.UUID, err error) {
	for e, err := range tx.etx.Scan(tableHandles, h[:], record.HandleKey(h, uuid.Max)) {
		if err != nil {
			return nil, err
		}
		if _, id, err := record.SplitHandleKey(e.Key); err == nil && len(ids) < maxSameHandle {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// maxSameHandle bounds the hashes that a string can cost, because it may be the token of any key
// with its handle.
const maxSameHandle = 8

// insertHandle writes the entry of a new foreign key in the index of handles. The filter learns the
// handle before the commit can be seen.
//
// It returns ErrInvalidMintedKey.
func (tx *Tx) insertHandle(h record.Handle, id uuid.UUID) error {
	same, err := tx.keysWith(h)
	if err == nil && len(same) == maxSameHandle {
		err = fmt.Errorf("%w: %d keys have its handle already", ErrInvalidMintedKey, maxSameHandle)
	}
	if err != nil {
		return err
	}
	if tx.store.foreign != nil {
		tx.store.foreign.Add(h)
	}
	return tx.put(tableHandles, record.HandleKey(h, id), nil)
}
