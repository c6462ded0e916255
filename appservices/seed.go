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
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
)

// A Seed is what a double holds from the start. seed.schema.json, beside this file, describes its JSON.
type Seed struct {
	// Value, if it is not empty, makes all IDs and tokens the same in every run, so that they can be written down in
	// fixtures. It is for whoever opens the store: see [Deterministic].
	Value SeedValue `json:"seed,omitempty"`

	Users      []SeedUser `json:"users,omitempty"`
	ServerKeys []SeedKey  `json:"server_keys,omitempty"`
}

// A SeedUser is a user: with an e-mail address and a password, with other identities, with both, or anonymous.
type SeedUser struct {
	Email    string `json:"email,omitempty"`    // 1 to 128 characters; it counts as confirmed
	Password string `json:"password,omitempty"` // 6 to 128 characters; there is one if there is an Email

	// Identities are those of other providers than local-userpass, anon-user and api-key, in the order of linking.
	Identities []latchkey.Identity `json:"identities,omitempty"`

	Anonymous bool      `json:"anonymous,omitempty"`
	Disabled  bool      `json:"disabled,omitempty"`
	Keys      []SeedKey `json:"keys,omitempty"`
}

// A SeedKey is a user's key, or a server key.
type SeedKey struct {
	Name     string `json:"name"` // as [latchkey.CheckAppServicesName] takes them
	Disabled bool   `json:"disabled,omitempty"`
}

// A SeedValue is what chance is drawn from. In JSON it is a string or a number.
type SeedValue string

// UnmarshalJSON reads a string, or a number as it is written.
func (v *SeedValue) UnmarshalJSON(data []byte) error {
	var s string
	var n json.Number
	if json.Unmarshal(data, &s) != nil {
		if json.Unmarshal(data, &n) != nil {
			return errors.New("the seed is neither a string nor a number")
		}
		s = n.String()
	}
	*v = SeedValue(s)
	return nil
}

// ParseSeed reads a seed's JSON. It returns [ErrInvalidSeed], also for a field that it does not know.
func ParseSeed(data []byte) (s Seed, err error) {
	if err := decodeStrictly(data, &s); err != nil {
		return Seed{}, fmt.Errorf("%w: %w", ErrInvalidSeed, err)
	}
	return s, s.validate()
}

// HasKeys tells whether the seed makes any tokens.
func (s *Seed) HasKeys() bool { return s.countKeys() > 0 }

func (s *Seed) countKeys() int {
	n := len(s.ServerKeys)
	for _, u := range s.Users {
		n += len(u.Keys)
	}
	return n
}

func (s *Seed) validate() error {
	for i, u := range s.Users {
		if err := u.validate(); err != nil {
			return fmt.Errorf("%w: users[%d]: %w", ErrInvalidSeed, i, err)
		}
	}
	if err := validateKeys(s.ServerKeys); err != nil {
		return fmt.Errorf("%w: server_%w", ErrInvalidSeed, err)
	}
	return nil
}

func (u *SeedUser) validate() error {
	for i, identity := range u.Identities {
		switch identity.Provider {
		case latchkey.ProviderAnonymous, latchkey.ProviderLocalUserpass, latchkey.ProviderAPIKey:
			return fmt.Errorf("identities[%d]: the provider %s has a field of its own", i, identity.Provider)
		}
	}
	known := u.Email != "" || len(u.Identities) > 0
	switch {
	case u.Anonymous && (known || len(u.Keys) > 0):
		return errors.New("an anonymous user has no e-mail address, no identities and no keys")
	case !u.Anonymous && !known:
		return errors.New("there is nothing to know the user by: give email, identities, or anonymous")
	case u.Email == "" && u.Password != "":
		return errors.New("the password has no e-mail address")
	case utf8.RuneCountInString(u.Email) > maxEmail:
		return errEmail
	}
	if u.Email != "" {
		if err := checkPassword(u.Password); err != nil {
			return err
		}
	}
	return validateKeys(u.Keys)
}

func validateKeys(keys []SeedKey) error {
	for i, k := range keys {
		if err := latchkey.CheckAppServicesName(k.Name); err != nil {
			return fmt.Errorf("keys[%d]: %w", i, err)
		}
	}
	return nil
}

// Seeded is what was made of a [Seed], in its order. Its JSON is for programs under test: it has what the client API calls
// things by, and the tokens. It prints without them.
type Seeded struct {
	AppID      string       `json:"app_id,omitempty"`
	Users      []SeededUser `json:"users"`
	ServerKeys []SeededKey  `json:"server_keys"`
}

// SeededUser is a user that was made of a [SeedUser].
type SeededUser struct {
	ID    string        `json:"id"` // on the wire
	Email string        `json:"email,omitempty"`
	Keys  []SeededKey   `json:"keys"`
	User  latchkey.User `json:"-"` // as the store has it
}

// SeededKey is a key that was made of a [SeedKey].
type SeededKey struct {
	ID    string       `json:"id"` // on the wire
	Name  string       `json:"name"`
	Token string       `json:"token"` // what the SDKs call the key's value
	Key   latchkey.Key `json:"-"`     // as the store has it
}

// Format keeps the token out of whatever prints a SeededKey.
func (k SeededKey) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "key %s (%s)", k.Name, k.ID) }

// IsEmpty reports whether an app has no users, no e-mail addresses that have registered, and no server keys: whether a
// seed would be the first thing in it. appID may be empty if all app IDs are names of one app. It returns [ErrNoApp], or
// an error of [latchkey.Store.View].
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
			if acc.User == uuid.Nil { // of another the user was deleted, and the address is free
				return nil
			}
		}
		keys, err := tx.Keys(latchkey.ServerOwner)
		empty = len(keys) == 0
		return err
	})
	return empty, err
}

// named is the app of an ID, or the only one if the ID is empty.
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

// Seed makes users and keys in an app's store, all or none. appID may be empty if all app IDs are names of one app. What
// it makes has the time of the store's clock, and, if the store draws from [Deterministic], the same IDs and tokens in
// every run: if nothing else was made before, and the clock stands at [SeedTime].
//
// It returns [ErrInvalidSeed], [ErrNoApp], or an error of [latchkey.Store.CreateUser] or [latchkey.Store.CreateKey], such as
// [latchkey.ErrIdentityTaken] for who is there already.
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

// hashPasswords makes the verifiers of users' passwords, on as many processors as there are.
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

// planting makes a seed's users and keys in one transaction, of keys that were minted before.
type planting struct {
	tx     *latchkey.Tx
	minted []latchkey.MintedKey
	tokens []string
}

func (p *planting) user(u SeedUser, verifier string) (made SeededUser, err error) {
	identities := slices.Clone(u.Identities)
	if u.Anonymous {
		identities = []latchkey.Identity{{Provider: latchkey.ProviderAnonymous}}
	}
	if u.Email != "" {
		acc, err := findAccount(p.tx, u.Email)
		if err != nil {
			return made, err
		}
		if acc != nil {
			return made, latchkey.ErrIdentityTaken // also if nobody has logged in with it yet
		}
		identities = slices.Insert(identities, 0, latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: u.Email})
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
		acc := &account{Email: u.Email, Verifier: verifier, Confirmed: true, User: user.ID}
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

// SeedTime is when the users and keys of a seed with a value are made.
var SeedTime = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// Deterministic returns what a new store and its handler draw chance from, as [latchkey.Options].InsecureRand and
// [Options].InsecureRand, so that they draw the same in every run. Both must be made by a clock that stands at [SeedTime]; when
// the seed is in, the clock may run. Whoever knows the value can make every token, so it is for tests alone, and for a
// store that was opened before it would repeat what is there.
func Deterministic(value SeedValue) (store, handler io.Reader) {
	return chance("store", value), chance("handler", value)
}

// chance is a stream of ChaCha8 under a key that is derived from a value, for one of its users.
func chance(user string, value SeedValue) io.Reader {
	return rand.NewChaCha8(sha256.Sum256([]byte("latchkey seed\x00" + user + "\x00" + string(value))))
}
