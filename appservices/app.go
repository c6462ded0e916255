package appservices

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"slices"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"golang.org/x/time/rate"

	"github.com/latchkeydb/latchkey"
)

// An app has what the handler needs to serve one store: the store, and the IDs that are derived
// from the store's domain.
type app struct {
	h       *Handler
	store   *latchkey.Store
	domain  uuid.UUID
	id      string // only links show this internal ID
	groupID string
	wireID  string // the ID of the domain, which the service called domain_id
	keysID  string // the ID of the provider api-key
	signing atomic.Pointer[signingKey]
	asking  rate.Sometimes // askForSigningKey
	ages    ageClock
}

// nilDomain derives the IDs for requests that belong to no app.
var nilDomain uuid.UUID

const (
	maxApps  = 100
	maxAppID = 64
)

// validAppID reports whether id has the form of an app ID. App IDs and key names have the same
// alphabet.
func validAppID(id string) bool {
	return len(id) <= maxAppID && latchkey.CheckAppServicesName(id) == nil
}

// app returns the app that a client names by appID. It opens the app if the app is new.
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
	// Even if the client leaves now, the handler must remember the store that OpenApp opens.
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
		asking: rate.Sometimes{Interval: time.Second},
	}
	if err := a.loadSigningKey(ctx); err != nil {
		return nil, err
	}
	if err := a.startAges(ctx); err != nil {
		return nil, err
	}
	if err := a.dropDecoys(ctx); err != nil {
		h.log.WarnContext(ctx, "the costs of passwords that nobody has any more were not forgotten", "error", err)
	}
	return a, nil
}

// The first byte of a record's key says what the record is:
//
//	s                     the key that signs tokens, as [signingKey] says
//	a ‖ SHA-256           an account, by the hash of its address
//	p ‖ SHA-256           what a provider told of a user, by the hash of the identity: JSON
//	k ‖ key ID            the place of a used key among its user's identities: one byte
//	e ‖ expiry ‖ session  a session that ended before it expired (8 bytes, 12 bytes)
//	f                     which ended sessions have no record any more, because they expired: JSON
//	c                     verifiers of passwords that tell the costs of all others: JSON
//	l                     what the clock said, as [clockRecord] says
//	n ‖ time ‖ user       an anonymous user (8 bytes of Unix seconds, 16 bytes)
//	r ‖ time ‖ SHA-256    an account that was not confirmed, by the hash of its address
//	t ‖ token             a token that was mailed, by its ID
//
// Addresses are hashed because the longest addresses do not fit into a key of the table.
var (
	keySigning     = []byte("s")
	keyAccounts    = []byte("a")
	keyDecoys      = []byte("c")
	keyClock       = []byte("l")
	keyAnonymous   = []byte("n")
	keyUnconfirmed = []byte("r")
	keyEnded       = []byte("e")
	keyForgotten   = []byte("f")
	keyMailed      = []byte("t")
)

func data(tx *latchkey.Tx) *latchkey.AppTable { return tx.AppTable("appservices") }

func accountKey(email string) []byte {
	sum := sha256.Sum256([]byte(email))
	return append(bytes.Clone(keyAccounts), sum[:]...)
}

func profileKey(i latchkey.Identity) []byte {
	sum := sha256.Sum256([]byte(string(i.Provider) + "\x00" + i.Subject))
	return append([]byte("p"), sum[:]...)
}

func usedKey(id uuid.UUID) []byte { return append([]byte("k"), id[:]...) }

// getJSON reads a record into v, and reports whether the record exists.
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

// prune deletes the first two records whose keys are at least from and less than to. A caller that
// calls prune for each record that it adds deletes more records than it adds. prune returns the key
// of the last deleted record, or nil.
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
