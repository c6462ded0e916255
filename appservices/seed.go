package appservices

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
)

// A Seed is the initial content of a double. The file seed.schema.json in this directory describes
// its JSON.
type Seed struct {
	// Value makes all IDs and tokens the same in every run, so that fixtures can contain them. If
	// it is empty, they differ. Handler.Seed does not use Value: pass it to [Deterministic] when
	// you open the store.
	Value SeedValue `json:"seed,omitempty"`

	Users      []SeedUser `json:"users,omitempty"`
	ServerKeys []SeedKey  `json:"server_keys,omitempty"`
}

// A SeedUser is a user with an e-mail address and a password, with other identities, or with both.
// An anonymous user has neither.
type SeedUser struct {
	Email    string `json:"email,omitempty"`    // 1 to 128 characters; already confirmed
	Password string `json:"password,omitempty"` // 6 to 128 characters; required with Email

	// Identities are identities of other providers than local-userpass, anon-user and api-key, in
	// the order of linking.
	Identities []latchkey.Identity `json:"identities,omitempty"`

	Anonymous bool      `json:"anonymous,omitempty"`
	Disabled  bool      `json:"disabled,omitempty"`
	Keys      []SeedKey `json:"keys,omitempty"`
}

// A SeedKey is a user's key or a server key.
type SeedKey struct {
	Name     string `json:"name"` // as [latchkey.CheckAppServicesName] demands
	Disabled bool   `json:"disabled,omitempty"`
}

// A SeedValue determines all random bytes that a double uses. In JSON it is a string or a number.
type SeedValue string

// UnmarshalJSON reads a string or a number. A number counts as it is written.
func (v *SeedValue) UnmarshalJSON(data []byte) error {
	var s string
	var n json.Number
	if json.Unmarshal(data, &s) != nil {
		if json.Unmarshal(data, &n) != nil {
			return errors.New("the seed must be a string or a number")
		}
		s = n.String()
	}
	*v = SeedValue(s)
	return nil
}

// ParseSeed reads the JSON of a seed.
//
// Errors: [ErrInvalidSeed], also for an unknown field.
func ParseSeed(data []byte) (s Seed, err error) {
	if err := decodeStrictly(data, &s); err != nil {
		return Seed{}, fmt.Errorf("%w: %w", ErrInvalidSeed, err)
	}
	return s, s.validate()
}

// HasKeys reports whether the seed contains keys, so that seeding gives tokens.
func (s *Seed) HasKeys() bool { return s.countKeys() > 0 }

func (s *Seed) countKeys() int {
	n := len(s.ServerKeys)
	for _, u := range s.Users {
		n += len(u.Keys)
	}
	return n
}

func (s *Seed) validate() error {
	owners := map[latchkey.Identity]int{} // the users' indexes
	for i, u := range s.Users {
		if err := u.validate(); err != nil {
			return fmt.Errorf("%w: users[%d]: %w", ErrInvalidSeed, i, err)
		}
		for _, identity := range u.known() {
			if first, taken := owners[identity]; taken && first != i {
				return fmt.Errorf("%w: users[%d]: %w: %s is users[%d]", ErrInvalidSeed, i, latchkey.ErrIdentityTaken, identity.Subject, first)
			}
			owners[identity] = i
		}
	}
	if err := validateKeys(s.ServerKeys); err != nil {
		return fmt.Errorf("%w: server_%w", ErrInvalidSeed, err)
	}
	return nil
}

// known returns the identities of u, other than an anonymous one.
func (u *SeedUser) known() []latchkey.Identity {
	if u.Email == "" {
		return u.Identities
	}
	email := latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: u.Email}
	return append([]latchkey.Identity{email}, u.Identities...)
}

func (u *SeedUser) validate() error {
	for i, identity := range u.Identities {
		switch identity.Provider {
		case latchkey.ProviderAnonymous, latchkey.ProviderLocalUserpass, latchkey.ProviderAPIKey:
			return fmt.Errorf("identities[%d]: the provider %s cannot be used here: give email, anonymous or keys", i, identity.Provider)
		}
	}
	known := len(u.known()) > 0
	length := utf8.RuneCountInString(u.Password)
	switch {
	case u.Anonymous && (known || len(u.Keys) > 0):
		return errors.New("an anonymous user has no e-mail address, no identities and no keys")
	case !u.Anonymous && !known:
		return errors.New("the user has no identity: give email, identities, or anonymous")
	case u.Email == "" && u.Password != "":
		return errors.New("a password needs an e-mail address")
	case utf8.RuneCountInString(u.Email) > maxEmail:
		return fmt.Errorf("email has more than %d characters", maxEmail)
	case u.Email != "" && u.Password == "":
		return errors.New("an e-mail address needs a password")
	case u.Email != "" && (length < minPassword || length > maxPassword):
		return fmt.Errorf("password must have %d to %d characters", minPassword, maxPassword)
	}
	return validateKeys(u.Keys)
}

func validateKeys(keys []SeedKey) error {
	named := map[string]int{}
	for i, k := range keys {
		if err := latchkey.CheckAppServicesName(k.Name); err != nil {
			return fmt.Errorf("keys[%d]: %w", i, err)
		}
		if first, taken := named[k.Name]; taken {
			return fmt.Errorf("keys[%d]: %w: %s is keys[%d]", i, latchkey.ErrKeyNameTaken, k.Name, first)
		}
		named[k.Name] = i
	}
	return nil
}

// Seeded is the result of seeding, in the order of the [Seed]. Only TokensJSON writes the tokens:
// printing a Seeded shows none, and neither does its other JSON.
type Seeded struct {
	AppID      string       `json:"app_id,omitempty"`
	Users      []SeededUser `json:"users"`
	ServerKeys []SeededKey  `json:"server_keys"`
}

// A SeededUser is a user that was made from a [SeedUser].
type SeededUser struct {
	ID    string        `json:"id"` // on the wire
	Email string        `json:"email,omitempty"`
	Keys  []SeededKey   `json:"keys"`
	User  latchkey.User `json:"-"` // as it is in the store
}

// A SeededKey is a key that was made from a [SeedKey].
type SeededKey struct {
	ID    string       `json:"id"` // on the wire
	Name  string       `json:"name"`
	Token string       `json:"-"` // the SDKs call it the key's value
	Key   latchkey.Key `json:"-"` // as it is in the store
}

// TokensJSON returns the IDs of the client API and the tokens as JSON, for the programs under test.
func (s Seeded) TokensJSON() ([]byte, error) {
	type key struct {
		SeededKey
		Token string `json:"token"`
	}
	type user struct {
		SeededUser
		Keys []key `json:"keys"`
	}
	withTokens := func(keys []SeededKey) []key {
		all := make([]key, len(keys))
		for i, k := range keys {
			all[i] = key{k, k.Token}
		}
		return all
	}
	doc := struct {
		AppID      string `json:"app_id,omitempty"`
		Users      []user `json:"users"`
		ServerKeys []key  `json:"server_keys"`
	}{AppID: s.AppID, Users: make([]user, len(s.Users)), ServerKeys: withTokens(s.ServerKeys)}
	for i, u := range s.Users {
		doc.Users[i] = user{u, withTokens(u.Keys)}
	}
	return json.MarshalIndent(doc, "", "  ")
}

// IsEmpty reports whether an app has no users, no registered e-mail addresses, and no server keys.
// appID may be empty if all app IDs are names of one app.
//
// Errors: [ErrNoApp], and the errors of [latchkey.Store.View].
func (h *Handler) IsEmpty(ctx context.Context, appID string) (bool, error) {
	empty, err := h.isEmpty(ctx, appID)
	if err != nil {
		return false, fmt.Errorf("appservices: %w", err)
	}
	return empty, nil
}

func (h *Handler) isEmpty(ctx context.Context, appID string) (empty bool, err error) {
	a, err := h.named(ctx, appID)
	if err != nil {
		return false, err
	}
	err = a.store.View(ctx, func(tx *latchkey.Tx) error {
		empty = false
		for _, err := range tx.Users(uuid.Nil) {
			return err
		}
		for e, err := range data(tx).Scan([]byte("a"), []byte("b")) { // accounts
			if err != nil {
				return err
			}
			var acc account
			if err := json.Unmarshal(e.Value, &acc); err != nil {
				return err
			}
			// An account with a user's ID does not count here: tx has no users, so the user was
			// deleted, and the address is free.
			if acc.User == uuid.Nil {
				return nil
			}
		}
		keys, err := tx.Keys(latchkey.ServerOwner)
		empty = len(keys) == 0
		return err
	})
	return empty, err
}

// named returns the app with an ID. If the ID is empty, named returns the only app.
func (h *Handler) named(ctx context.Context, appID string) (*app, error) {
	if appID == "" && h.only != nil {
		return h.only, nil
	}
	a, err := h.app(ctx, appID)
	var e *refusal
	if errors.As(err, &e) && e.status == http.StatusNotFound {
		return nil, fmt.Errorf("%w: %.100q", ErrNoApp, appID)
	}
	return a, err
}

// Seed makes the users and keys of a seed in an app's store, in one transaction. appID may be empty
// if all app IDs are names of one app. The users and keys get the time of the store's clock.
//
// The IDs and tokens are the same in every run if the store draws from [Deterministic], nothing
// else was made before, and the clock stands at [SeedTime].
//
// Errors: [ErrInvalidSeed], [ErrNoApp], and the errors of [latchkey.Store.CreateUser] and
// [latchkey.Store.CreateKey], such as [latchkey.ErrIdentityTaken] for a user that exists already.
func (h *Handler) Seed(ctx context.Context, appID string, seed Seed) (Seeded, error) {
	seeded, err := h.seed(ctx, appID, &seed)
	if err != nil {
		return Seeded{}, fmt.Errorf("appservices: seed: %w", err)
	}
	return seeded, nil
}

func (h *Handler) seed(ctx context.Context, appID string, seed *Seed) (seeded Seeded, err error) {
	if err := seed.validate(); err != nil {
		return Seeded{}, err
	}
	a, err := h.named(ctx, appID)
	if err != nil {
		return Seeded{}, err
	}
	verifiers, err := a.hashPasswords(ctx, seed.Users)
	if err != nil {
		return Seeded{}, err
	}
	minted, tokens, err := a.store.MintKeys(ctx, seed.countKeys(), nil)
	if err != nil {
		return Seeded{}, err
	}
	err = a.store.Update(ctx, func(tx *latchkey.Tx) error {
		p := &planting{tx: tx, minted: minted, tokens: tokens}
		seeded = Seeded{AppID: appID, Users: make([]SeededUser, len(seed.Users))}
		for i, u := range seed.Users {
			if seeded.Users[i], err = p.user(u, verifiers[i]); err != nil {
				return fmt.Errorf("users[%d]: %w", i, err)
			}
		}
		seeded.ServerKeys, err = p.keys(latchkey.ServerOwner, seed.ServerKeys)
		if err != nil {
			return fmt.Errorf("server_%w", err)
		}
		return nil
	})
	return seeded, err
}

// hashPasswords returns the verifiers of the users' passwords. It uses all processors.
func (a *app) hashPasswords(ctx context.Context, users []SeedUser) ([]string, error) {
	verifiers, errs := make([]string, len(users)), make([]error, len(users))
	var next atomic.Int64
	work := func() {
		for i := int(next.Add(1)) - 1; i < len(users); i = int(next.Add(1)) - 1 {
			if users[i].Email != "" {
				verifiers[i], errs[i] = a.store.HashPassword(ctx, users[i].Password)
			}
		}
	}
	var workers sync.WaitGroup
	for range min(len(users), runtime.GOMAXPROCS(0)) {
		workers.Go(work)
	}
	workers.Wait()
	return verifiers, errors.Join(errs...)
}

// A planting makes the users and keys of a seed in one transaction, from keys that were minted
// before.
type planting struct {
	tx     *latchkey.Tx
	minted []latchkey.MintedKey
	tokens []string
}

func (p *planting) user(u SeedUser, verifier string) (made SeededUser, err error) {
	identities := u.known()
	if u.Anonymous {
		identities = []latchkey.Identity{{Provider: latchkey.ProviderAnonymous}}
	}
	if u.Email != "" {
		acc, err := findAccount(p.tx, u.Email)
		if err != nil {
			return made, err
		}
		if acc != nil {
			// The address is taken even before the first login with it.
			return made, fmt.Errorf("%w: %s", latchkey.ErrIdentityTaken, u.Email)
		}
	}
	user, err := p.tx.CreateUser(latchkey.UserSpec{Identity: identities[0]})
	if err != nil {
		return made, err
	}
	for _, identity := range identities[1:] {
		if _, err := p.tx.LinkIdentity(user.ID, identity); err != nil {
			return made, err
		}
	}
	if u.Email != "" {
		acc := &account{Email: u.Email, Confirmed: true, User: user.ID}
		acc.setPassword(verifier)
		if err := acc.put(p.tx); err != nil {
			return made, err
		}
	}
	made = SeededUser{ID: UserObjectID(user), Email: u.Email}
	if made.Keys, err = p.keys(user.ID, u.Keys); err != nil {
		return made, err
	}
	if u.Disabled {
		if err := p.tx.DisableUser(user.ID); err != nil {
			return made, err
		}
	}
	made.User, err = p.tx.User(user.ID)
	return made, err
}

func (p *planting) key(owner uuid.UUID, k SeedKey, minted latchkey.MintedKey) (latchkey.Key, error) {
	key, err := p.insert(owner, latchkey.KeySpec{Name: k.Name}, minted)
	if err != nil || !k.Disabled {
		return key, err
	}
	if err := p.tx.DisableKey(owner, key.ID); err != nil {
		return key, err
	}
	return p.tx.Key(owner, key.ID)
}

func (p *planting) insert(owner uuid.UUID, n latchkey.KeySpec, minted latchkey.MintedKey) (latchkey.Key, error) {
	if owner == latchkey.ServerOwner {
		return p.tx.InsertServerKey(n, minted)
	}
	return p.tx.InsertKey(owner, n, minted)
}

func (p *planting) keys(owner uuid.UUID, keys []SeedKey) ([]SeededKey, error) {
	made := make([]SeededKey, len(keys))
	for i, k := range keys {
		key, err := p.key(owner, k, p.minted[0])
		if err != nil {
			return nil, fmt.Errorf("keys[%d]: %w", i, err)
		}
		made[i] = SeededKey{ID: KeyObjectID(key), Name: key.Name, Token: p.tokens[0], Key: key}
		p.minted, p.tokens = p.minted[1:], p.tokens[1:]
	}
	return made, nil
}

// SeedTime is the time when the users and keys of a seed with a value are made.
var SeedTime = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// Deterministic returns the sources of random bytes for a new store and its handler, as
// [latchkey.Options].InsecureRand and [Options].InsecureRand. The sources give the same bytes in
// every run. Make both the store and the handler with a clock that stands at [SeedTime], and the
// store with [latchkey.Options].TestClock. The clock may run after the seed was made.
//
// Use Deterministic only in tests, because the value is enough to make every token. Use it only for
// a new store: in a store that was opened before, it would repeat IDs.
func Deterministic(value SeedValue) (store, handler io.Reader) {
	return chance("store", value), chance("handler", value)
}

// chance returns a stream of ChaCha8. Its key is derived from the value and the name of the user of
// the stream.
func chance(user string, value SeedValue) io.Reader {
	return rand.NewChaCha8(sha256.Sum256([]byte("latchkey seed\x00" + user + "\x00" + string(value))))
}
