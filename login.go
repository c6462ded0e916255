package latchkey

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/address"
	"github.com/latchkeydb/latchkey/internal/cache"
	"github.com/latchkeydb/latchkey/internal/clock"
	"github.com/latchkeydb/latchkey/internal/flight"
	"github.com/latchkeydb/latchkey/internal/merge"
	"github.com/latchkeydb/latchkey/internal/packed"
	"github.com/latchkeydb/latchkey/internal/phc"
	"github.com/latchkeydb/latchkey/internal/record"
	"github.com/latchkeydb/latchkey/internal/tokenform"
)

// A Principal is the holder of a key that has logged in.
type Principal struct {
	KeyID   uuid.UUID `json:"key_id"`
	KeyName string    `json:"key_name"`
	// Owner is the owner of the key: a user's ID, or [ServerOwner]. The methods that read, rename,
	// disable, enable and delete keys accept it.
	Owner uuid.UUID `json:"owner"`
	// UserID is the ID of the user that owns the key. For a server key it is [uuid.Nil], which owns
	// nothing and cannot be given a key.
	UserID    uuid.UUID `json:"user_id,omitzero"`
	ServerKey bool      `json:"server_key"` // no user owns the key
	// Identity is the first identity of the user, for log lines. A server key has none.
	Identity Identity `json:"identity,omitzero"`
	// Group is the group of the user or of the server key, or "".
	Group string `json:"group,omitempty"`
	// Scopes are the permissions of the key.
	Scopes Scopes `json:"scopes,omitzero"`
	// Expires is when the key stops logging in, to the second, in UTC. The zero time means never.
	Expires time.Time `json:"expires,omitzero"`
	// TokenID tells the tokens of a key apart, because a rotation can leave two good tokens.
	// TokenID can be logged. A program can end a session together with the token that opened the
	// session: the token is good while [Key].Tokens has its ID and its end has not come.
	TokenID string `json:"token_id"`

	metadata packed.Metadata
}

// Metadata returns the text that the key's metadata have under a name, or "". It reads nothing.
func (p Principal) Metadata(name string) string { return p.metadata.Get(name) }

// Login checks a token, and returns its principal. Call it for every request. The store remembers
// tokens that have logged in, see [Options].CacheSize. The login of such a token takes two short
// hashes, and neither the disk nor a lock. A token that this domain did not make takes less. Any
// other login reads the disk and takes an argon2 hash: the first login with a token, the first one
// after a change of its key, user or group, and a login with a token that the store has forgotten
// in favour of others. Login waits for that hash, as long as ctx lasts.
//
// The first login with a token that was made with [Rotation].UntilUsed also waits until the end of
// the old token is on disk. If the store cannot write, the login succeeds, this process refuses the
// old token from then on, and [Store.Health] says so.
//
// A login that begins after [Store.DisableKey], [Store.DeleteKey], [Store.DisableUser],
// [Store.DeleteUser] or [Store.DisableGroup] has returned does not succeed. A login that begins
// after [Store.SetExpiry], [Store.SetScopes], [Store.SetNetworks], [Store.SetMetadata],
// [Store.SetKeyGroup] or [Store.SetUserGroup] has returned is judged by the new value. A change
// that another process makes to an [EngineWatcher] counts within the bound of
// [EngineWatcher].Fresh.
//
// Login returns [ErrInvalidToken] for every string that is not a good token, without telling why.
// To a caller that has proven the secret, it returns the first of [ErrKeyDisabled],
// [ErrKeyExpired], [ErrUserDisabled], [ErrGroupDisabled] and [ErrNetworkNotAllowed] that applies.
// The last one means that the key has networks, so that the caller's address decides: see
// [Store.LoginFrom]. The other errors say nothing about the token: [ErrBusy], [ErrClosed],
// [ErrInTransaction], [ErrFileChanged], [ErrUnavailable], [ErrCorrupt], [ErrNewerFormat],
// [ErrCostTooHigh], an error of [Options].Gate, and ctx's error.
func (s *Store) Login(ctx context.Context, token string) (Principal, error) {
	return s.login(ctx, token, netip.Addr{})
}

// login is Login for a caller from an address. The zero address is in no network.
func (s *Store) login(ctx context.Context, token string, from netip.Addr) (Principal, error) {
	if s.closed.Load() {
		return Principal{}, ErrClosed
	}
	if s.gate != nil {
		if err := s.gate(); err != nil {
			return Principal{}, err
		}
	}
	if r := s.refused.Load(); r != nil {
		return Principal{}, r.err
	}
	known := s.follower == nil || s.follower.Known() // before anything that is remembered
	tokens := s.tokens.Load()
	var t tokenform.Token
	if !tokens.Parse(token, &t) {
		if s.foreign != nil {
			return s.loginForeign(ctx, token, from, known)
		}
		s.counters.Add(statMalformed, 1)
		return Principal{}, ErrInvalidToken
	}
	// Before everything that depends on which keys exist.
	if !tokens.Genuine(&t) {
		if err := s.genuineStill(ctx, tokens, t); err != nil {
			return Principal{}, err
		}
	}
	e := s.cache.Get(&t)
	if e != nil && known && !e.Answer.hasEnded(s.clock) {
		return s.answerCached(e, from)
	}
	s.counters.Add(statMisses, 1)
	id, secret, ok := t.Decode()
	if !ok {
		s.counters.Add(statUnknown, 1)
		return Principal{}, ErrInvalidToken
	}
	return s.loginCold(ctx, &presented{key: id, secret: secret, proven: provenBy(e)}, from)
}

// Inspect returns what [Store.LoginFrom] would return for a token, and leaves no trace. It is for a
// token that somebody has found. The token does not count as used, no old token ends, and nothing
// is cached or hashed anew. Of the counters in [Stats], only those of hashes change. Each call with
// a token of the store costs an argon2 hash.
//
// It returns the errors of [Store.LoginFrom], and [ErrInvalidToken] for every token of a key that
// was made elsewhere.
func (s *Store) Inspect(ctx context.Context, token string, from netip.Addr) (Principal, error) {
	err := s.canWait()
	if err == nil && s.gate != nil {
		err = s.gate()
	}
	if r := s.refused.Load(); err == nil && r != nil {
		err = r.err
	}
	var t tokenform.Token
	if tokens := s.tokens.Load(); err == nil && tokens.Parse(token, &t) && tokens.Genuine(&t) {
		if id, secret, ok := t.Decode(); ok {
			return s.loginCold(ctx, &presented{key: id, secret: secret, noTrace: true}, from)
		}
	}
	return Principal{}, cmp.Or(err, ErrInvalidToken)
}

// answerCached is the end of a login that the cache decides.
func (s *Store) answerCached(e *cache.Entry[answer], from netip.Addr) (Principal, error) {
	s.counters.Add(statHits, 1)
	if err := e.Answer.refusal(s.clock, from); err != nil {
		s.counters.Add(statRefused, 1)
		return Principal{}, err
	}
	e.Use(s.clock.Minute())
	return e.Answer.principal, nil
}

// presented is a token that waits for its proof. A foreign token is of one of the keys with a
// handle, and its secret is derived from it.
type presented struct {
	key    uuid.UUID
	secret [tokenform.SecretSize]byte
	handle record.Handle   // zero if the token is not foreign
	token  string          // a foreign token
	proven *storedVerifier // what the token was made from, if the cache knows; else nil

	noTrace bool // the login is an Inspect
}

// provenBy returns the verifier that an entry has proven, or nil. Even where the answer in an entry
// cannot be believed, its proof can, so that a login without the cache takes no hash again.
func provenBy(e *cache.Entry[answer]) *storedVerifier {
	if e == nil || e.Answer.digest == "" {
		return nil
	}
	return &storedVerifier{key: e.Answer.principal.KeyID, id: e.Answer.verifier, digest: e.Answer.digest}
}

// answer is what the store tells a caller that has proven the secret of a key.
type answer struct {
	principal Principal
	verifier  record.VerifierID // of the token
	digest    string            // of the verifier; empty unless other processes can write

	disabled  error // the refusal if the key is disabled; else nil
	expires   int64 // Unix seconds; 0 means never
	expired   error // the refusal from then on
	blocked   error // the refusal if the user or the group is disabled; else nil
	networks  []netip.Prefix
	elsewhere error // the refusal of callers outside the networks; nil without networks
	ends      int64 // when the token stops being good, in Unix seconds; 0 means never

	// replaced is the verifier that a login must retire before it succeeds. An answer that has
	// one is not remembered.
	replaced *record.Verifier
}

// holder returns whose answer it is.
func (a *answer) holder() cache.Holder {
	return cache.Holder{Key: a.principal.KeyID, Verifier: a.verifier, User: a.principal.UserID, Group: a.principal.Group}
}

// hasEnded reports whether the token has stopped being good, since a rotation.
func (a *answer) hasEnded(clock *clock.Kept) bool {
	return a.ends != 0 && clock.Unix() >= a.ends
}

// refusal returns the reason why a login from an address is refused, or nil.
func (a *answer) refusal(clock *clock.Kept, from netip.Addr) error {
	switch {
	case a.disabled != nil:
		return a.disabled
	case a.expires != 0 && clock.Unix() >= a.expires:
		return a.expired
	case a.blocked != nil:
		return a.blocked
	case a.elsewhere != nil && !address.In(a.networks, from):
		return a.elsewhere
	}
	return nil
}

// loginCold reads the verifier of the key, hashes the secret, and then reads everything that the
// answer depends on. So a key that is revoked while loginCold hashes is refused, and is not
// remembered.
func (s *Store) loginCold(ctx context.Context, p *presented, from netip.Addr) (Principal, error) {
	for {
		v, err := p.proven, error(nil)
		if p.proven = nil; v == nil {
			v, err = s.proveStored(ctx, p)
		}
		if err != nil {
			return Principal{}, wrapf(err, "login")
		}
		if v == nil {
			if !p.noTrace {
				s.counters.Add(statUnknown, 1)
			}
			return Principal{}, ErrInvalidToken
		}
		mark := s.cache.Mark()
		a, err := s.lookUp(ctx, v)
		if err == nil && a != nil && p.noTrace {
			return orZero(a.principal, a.refusal(s.clock, from))
		}
		remembered := a
		if err == nil && a != nil && a.replaced != nil && a.refusal(s.clock, from) == nil {
			if a, err = s.endReplaced(ctx, v, a.replaced, from); err == nil {
				mark = s.cache.Mark() // the end was a change of the key
				remembered, _ = s.lookUp(context.WithoutCancel(ctx), v)
			}
		}
		if err != nil {
			return Principal{}, wrapf(err, "login")
		}
		if a == nil { // the key or the verifier is gone meanwhile
			continue
		}
		t := tokenform.Untagged(v.key, p.secret)
		e, refusal := cache.NewEntry(&t, *cmp.Or(remembered, a)), a.refusal(s.clock, from)
		if refusal == nil {
			e.Use(s.clock.Minute())
		}
		if v.isForeign() {
			s.foreign.Note(p.handle, v.key)
		}
		if remembered != nil && remembered.replaced == nil {
			s.cache.Put(e, mark)
		} else {
			s.cache.SetAside(e)
		}
		if refusal != nil {
			s.counters.Add(statRefused, 1)
			return Principal{}, refusal
		}
		return a.principal, nil
	}
}

// storedVerifier is a verifier of a key, as the key's record has it, and the token to check.
type storedVerifier struct {
	key    uuid.UUID
	id     record.VerifierID
	phc    string // empty if the cache has proven the token
	digest string // of phc; empty unless the cache has proven the token
	own    string // of the same secret at the store's own cost; empty if there is none
	token  string // a foreign token; else empty
	among  int    // how many verifiers the foreign token may be of
	light  bool   // a verifier of the least cost is meant to stay

	noTrace bool // the login is an Inspect
}

func (v *storedVerifier) isForeign() bool { return v.token != "" }

// proveStored returns the good verifier that was made from a token, or nil.
func (s *Store) proveStored(ctx context.Context, p *presented) (*storedVerifier, error) {
	candidates, err := s.lookUpVerifiers(ctx, p)
	for _, v := range candidates { // mostly none or one
		proven, failed := s.prove(ctx, v, p.secret)
		if proven {
			return v, nil
		}
		err = cmp.Or(err, failed)
	}
	return nil, err
}

// lookUpVerifiers returns the good verifiers that can be of a token.
func (s *Store) lookUpVerifiers(ctx context.Context, p *presented) (found []*storedVerifier, err error) {
	hint := record.Hint(p.secret[:])
	found, err = read(ctx, s, func(tx *Tx) (found []*storedVerifier, err error) {
		keys := []uuid.UUID{p.key}
		if p.token != "" {
			keys, err = tx.keysWith(p.handle)
		}
		for _, key := range keys {
			k, err := tx.getKey(key)
			if err != nil {
				return nil, err
			}
			if k == nil {
				continue
			}
			for _, v := range k.Verifiers.Good(tx.now()) {
				if v.Handle != p.handle || p.token == "" && !v.ID.Matches(hint) {
					continue
				}
				own, err := tx.getHash(key, v.ID)
				if err != nil {
					return nil, err
				}
				if own.Hint == "" || own.Hint == string(hint[:]) {
					found = append(found, &storedVerifier{
						key: key, id: v.ID, phc: v.PHC, own: own.PHC, token: p.token, noTrace: p.noTrace, light: merge.IsReserved(k.Scopes.Value),
					})
				}
			}
		}
		return found, err
	})
	for _, v := range found {
		v.among = len(found)
	}
	return found, err
}

// lookUp returns the answer to the holder of the secret of a verifier. It returns nil if the key
// does not have the verifier any more.
func (s *Store) lookUp(ctx context.Context, v *storedVerifier) (*answer, error) {
	return read(ctx, s, func(tx *Tx) (*answer, error) { return tx.lookUp(v) })
}

func (tx *Tx) lookUp(v *storedVerifier) (*answer, error) {
	k, err := tx.getKey(v.key)
	if err != nil || k == nil || !hasVerifier(k, v, tx.now()) {
		return nil, err
	}
	used, replaced := k.Verifiers.Used(v.id)
	a := &answer{principal: Principal{
		KeyID: k.ID, KeyName: k.Name.Value, Owner: k.Owner, ServerKey: k.Owner == ServerOwner,
		Scopes: NewScopes(k.Scopes.Value...), Expires: k.Expires.Value, metadata: packed.PackMetadata(k.Metadata.Value),
		TokenID: tokenID(v.id),
	}, verifier: v.id, replaced: replaced}
	if tx.store.follower != nil { // this process may not have heard that the tag secret is retired
		if err := tx.checkTag(used); errors.Is(err, ErrInvalidMintedKey) {
			return nil, ErrInvalidToken
		} else if err != nil {
			return nil, err
		}
		a.digest = cmp.Or(v.digest, phc.Digest(v.phc))
	}
	if !used.End.IsZero() {
		a.ends = used.End.Unix()
	}
	if k.Flag.IsDisabled() {
		a.disabled = loginError(k.ID, ErrKeyDisabled)
	}
	if !k.Expires.Value.IsZero() {
		a.expires, a.expired = k.Expires.Value.Unix(), loginError(k.ID, ErrKeyExpired)
	}
	if len(k.Networks.Value) > 0 {
		a.networks, a.elsewhere = k.Networks.Value, loginError(k.ID, ErrNetworkNotAllowed)
	}
	if k.Owner == ServerOwner {
		a.principal.Group = k.Groups.Now()
	} else if err := tx.lookUpUser(k, a); err != nil {
		return nil, err
	}
	if err := tx.checkAside(k, a); err != nil {
		return nil, err
	}
	g, err := tx.Group(a.principal.Group)
	if err == nil && g.Disabled && a.blocked == nil {
		a.blocked = loginError(k.ID, ErrGroupDisabled)
	}
	return a, err
}

// lookUpUser adds to an answer what depends on the user that owns a key.
func (tx *Tx) lookUpUser(k *record.Key, a *answer) error {
	u, err := tx.getUser(k.Owner)
	if err != nil {
		return err
	}
	if u == nil {
		return tx.errNoOwner(k)
	}
	a.principal.UserID, a.principal.Group = k.Owner, u.Groups.Now()
	for _, i := range u.Linked() {
		if conflict, err := tx.isConflict(identityOf(i)); err != nil {
			return err
		} else if !conflict {
			a.principal.Identity = identityOf(i)
			break
		}
	}
	if u.Flag.IsDisabled() {
		a.blocked = loginError(k.ID, ErrUserDisabled)
	}
	return nil
}

// checkAside completes the name of a key in an answer. It returns ErrNewerFormat if a later version
// has written a record on which the answer depends.
func (tx *Tx) checkAside(k *record.Key, a *answer) (err error) {
	if !tx.isShared() {
		return nil
	}
	aside, err := tx.tables().IsAside(k.ID, k.Owner, a.principal.Group)
	if err == nil && aside {
		err = fmt.Errorf("%w: a later version has written key %s, its user or its group", ErrNewerFormat, k.ID)
	}
	if err == nil {
		a.principal.KeyName, err = tx.shownName(k)
	}
	return err
}

// errNoOwner returns the error for a key whose user does not exist. In a store that has or had
// replicas, the user may have been deleted elsewhere, or not have arrived yet. The deletion of a
// user can also be unfinished.
func (tx *Tx) errNoOwner(k *record.Key) error {
	if tx.isShared() || tx.store.isUnfinished() {
		return ErrInvalidToken
	}
	return errMissing("owner", k.Owner)
}

// hasVerifier reports whether a key has a verifier now, and whether the verifier is good.
func hasVerifier(k *record.Key, v *storedVerifier, now time.Time) bool {
	return slices.ContainsFunc(k.Verifiers.Good(now), func(has record.Verifier) bool {
		return has.ID == v.id && (has.PHC == v.phc || phc.Digest(has.PHC) == v.digest)
	})
}

func loginError(key uuid.UUID, err error) error {
	return fmt.Errorf("latchkey: login with key %s: %w", key, err)
}

// prove reports whether a verifier was made from a token with a secret. Callers that ask the same
// question at the same time share one hash.
//
// It returns ErrBusy, ErrCorrupt, ErrCostTooHigh, ErrClosed or ctx's error.
func (s *Store) prove(ctx context.Context, stored *storedVerifier, secret [tokenform.SecretSize]byte) (bool, error) {
	h := loginHash{storedVerifier: stored, secret: secret, hasher: s.hasher, flight: s.flight}
	text := cmp.Or(stored.own, stored.phc)
	if stored.isForeign() {
		h.hasher, h.flight = s.foreign.hasher, s.foreign.flight
	}
	var err error
	if stored.isForeign() && stored.own == "" {
		h.matches, h.cost, err = s.foreign.check(stored.token, text)
	} else {
		var v phc.Verifier
		v, err = parseVerifier(text)
		h.matches, h.cost = func() (bool, error) { return v.Matches(secret[:]), nil }, Cost(v.Cost)
	}
	if err != nil {
		return false, err
	}
	if h.cost == (Cost{}) || h.light && h.cost == Cost(phc.Least) {
		return h.matches() // which takes no time worth a queue, and need not be hashed anew
	}
	c, first := h.flight.Join(hashQuestion(stored.key, secret, text))
	if c == nil {
		s.counters.Add(statBusy, 1)
		return false, ErrBusy
	}
	if first {
		s.begin(c, &h)
		s.prefetch(ctx, stored)
	}
	return h.flight.Wait(ctx, c)
}

// loginHash is the hash that proves a token.
type loginHash struct {
	*storedVerifier
	secret  [tokenform.SecretSize]byte
	cost    Cost
	matches func() (bool, error) // hashes, and reports whether the verifier was made from the token

	// Where the hash waits. The hashes for foreign tokens wait apart from all others.
	hasher *hasher
	flight *flight.Group
}

// begin begins a hash in the background, because the hash goes on for other callers if the first
// one leaves. The hashes for a foreign key are spaced out, because a stranger may know its handle.
func (s *Store) begin(c *flight.Call, h *loginHash) {
	if h.isForeign() && !s.foreign.Take(h.key, time.Now(), time.Duration(h.among)*time.Second) {
		s.counters.Add(statBusy, 1)
		h.flight.Done(c, false, ErrBusy)
		return
	}
	started := s.goBackground(func() {
		ok, err := s.compare(c, h)
		h.flight.Done(c, ok, err)
	})
	if !started {
		h.flight.Done(c, false, ErrClosed)
	}
}

// hashQuestion tells the question whether a secret makes a verifier of a key from other questions.
func hashQuestion(key uuid.UUID, secret [tokenform.SecretSize]byte, phc string) flight.Key {
	return sha256.Sum256(slices.Concat(key[:], secret[:], []byte(phc)))
}

// prefetch reads the pages that lookUp will need after the hash, so that the disk delivers them
// while the hash runs.
func (s *Store) prefetch(ctx context.Context, v *storedVerifier) { _, _ = s.lookUp(ctx, v) }

// compare waits for a permit, hashes, and reports whether the verifier was made from the token. It
// hashes nothing if no caller waits for the result any more.
func (s *Store) compare(c *flight.Call, h *loginHash) (ok bool, err error) {
	if err := h.hasher.acquire(c.Context, hashLogin, h.cost); err != nil {
		return false, err
	}
	defer h.hasher.release(h.cost)
	if !h.flight.Begin(c) {
		return false, context.Canceled
	}
	s.counters.Add(statHashes, 1)
	if ok, err = h.matches(); !ok {
		return false, err
	}
	if h.isForeign() {
		s.foreign.Forget(h.key)
	}
	if h.cost != s.cost && !h.noTrace {
		s.hashAnew(h.storedVerifier, &h.secret)
	}
	return true, nil
}
