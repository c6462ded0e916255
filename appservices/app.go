package appservices

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"slices"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
)

// An app is what the handler knows of an app beside its name: the store, and what is derived from the store's domain.
type app struct {
	h       *Handler
	store   *latchkey.Store
	domain  uuid.UUID
	id      string // the internal one, which only links show
	groupID string
	wireID  string // the domain's, which the service called domain_id
	keysID  string // of keys as a provider
	key     []byte // signs tokens
}

// nilDomain is for IDs of what belongs to no app.
var nilDomain uuid.UUID

const (
	maxApps  = 100
	maxAppID = 64
	keySize  = 32
)

// validAppID reports whether an app can have an ID. IDs have the alphabet of keys' names.
func validAppID(id string) bool {
	return len(id) <= maxAppID && latchkey.CheckAppServicesName(id) == nil
}

// app returns the app that a client means by an ID, and opens it if it is new.
func (h *Handler) app(ctx context.Context, appID string) (*app, error) {
	switch {
	case len(h.opts.AppIDs) > 0 && !slices.Contains(h.opts.AppIDs, appID):
		return nil, errNoApp(appID)
	case !validAppID(appID):
		return nil, errNoApp(appID)
	case h.opts.OpenApp == nil:
		return h.only, nil
	}
	h.mu.RLock()
	a := h.apps[appID]
	h.mu.RUnlock()
	if a != nil {
		return a, nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if a := h.apps[appID]; a != nil {
		return a, nil
	}
	if len(h.apps) >= maxApps {
		return nil, errTooManyApps
	}
	// A client that leaves now must not leave behind a store that is open, and that nobody remembers.
	ctx = context.WithoutCancel(ctx)
	store, err := h.opts.OpenApp(ctx, appID)
	if err != nil {
		return nil, err
	}
	a, err = h.openApp(ctx, store)
	if err != nil {
		return nil, err
	}
	h.apps[appID] = a
	return a, nil
}

func (h *Handler) openApp(ctx context.Context, store *latchkey.Store) (*app, error) {
	domain := store.DomainID()
	a := &app{
		h: h, store: store, domain: domain,
		id: deriveID(domain, "app"), groupID: deriveID(domain, "group"), wireID: deriveID(domain, "domain"),
		keysID: providerID(domain, latchkey.ProviderAPIKey),
	}
	return a, a.loadKey(ctx)
}

// loadKey reads the key that signs tokens, or makes it. It is the replica's own: a salvaged store, which may have lost that
// a session was ended, is another replica and signs with another.
func (a *app) loadKey(ctx context.Context) error {
	replica := a.store.ReplicaID()
	name := append(append([]byte(nil), keySigning...), replica[:]...)
	err := a.store.View(ctx, func(tx *latchkey.Tx) (err error) {
		a.key, err = data(tx).Get(name)
		return err
	})
	if err != nil || a.key != nil {
		return err
	}
	fresh := a.h.random(keySize)
	return a.store.Update(ctx, func(tx *latchkey.Tx) (err error) {
		if a.key, err = data(tx).Get(name); err != nil || a.key != nil {
			return err
		}
		a.key = fresh
		return data(tx).Put(name, fresh)
	})
}

// What the store keeps for this package, by the first byte of the key:
//
//	s ‖ replica  the key that signs tokens
//	a ‖ SHA-256  an account, under the hash of its address
//	p ‖ SHA-256  what a provider told of a user, under the hash of the identity: a JSON object
//	k ‖ key ID   a key was used as an identity: JSON, how many others the user had when it was first used
//	e ‖ expiry ‖ session  a session that was ended before it expired (8 bytes, 12 bytes)
//	f            of which ended sessions there is no record any more, since they have expired: JSON
//	t ‖ token    a token that was mailed, under its ID
//
// Addresses are hashed because a key of this kind has no room for the longest.
var (
	keySigning   = []byte("s")
	keyEnded     = []byte("e")
	keyForgotten = []byte("f")
	keyMailed    = []byte("t")
)

func data(tx *latchkey.Tx) *latchkey.AppTable { return tx.AppTable("appservices") }

func accountKey(email string) []byte {
	sum := sha256.Sum256([]byte(email))
	return append([]byte("a"), sum[:]...)
}

func profileKey(i latchkey.Identity) []byte {
	sum := sha256.Sum256([]byte(string(i.Provider) + "\x00" + i.Subject))
	return append([]byte("p"), sum[:]...)
}

func usedKey(id uuid.UUID) []byte { return append([]byte("k"), id[:]...) }

// getJSON reads a record into v, and reports whether there is one.
func getJSON(tx *latchkey.Tx, key []byte, v any) (found bool, err error) {
	b, err := data(tx).Get(key)
	if err != nil || b == nil {
		return false, err
	}
	return true, json.Unmarshal(b, v)
}

func putJSON(tx *latchkey.Tx, key []byte, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return data(tx).Put(key, b)
}

// prune deletes what begins with from and is below to, a few records at a time: whoever writes one more takes two away.
// It returns the key of the last that it deleted, or nil.
func prune(tx *latchkey.Tx, from, to []byte) (last []byte, err error) {
	n := 0
	for e, err := range data(tx).Scan(from, to) {
		if err != nil {
			return nil, err
		}
		last = bytes.Clone(e.Key)
		if err := data(tx).Delete(last); err != nil {
			return nil, err
		}
		if n++; n == 2 {
			break
		}
	}
	return last, nil
}
