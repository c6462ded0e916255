package latchkey

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
)

// A Principal is who a login turned out to be.
type Principal struct {
	KeyID   uuid.UUID `json:"key_id"`
	KeyName string    `json:"key_name"`
	// Owner is the key's owner: a user's ID, or [ServerOwner]. The methods that read, rename, disable, enable and delete keys
	// accept it.
	Owner uuid.UUID `json:"owner"`
	// UserID is the key's owner. For a server key it is [uuid.Nil], which owns nothing and can be given no keys.
	UserID    uuid.UUID `json:"user_id,omitzero"`
	ServerKey bool      `json:"server_key"` // the key is a server key
}

// Login decides whether a token is good, and whose it is. It is meant to be called for every request: a key that has
// logged in before costs two short hashes and neither disk nor lock; a token that this domain did not make costs less.
// Only the first login of a key costs an argon2 hash, for which it may wait; ctx bounds that wait.
//
// A login that begins after [Store.DisableKey], [Store.DeleteKey], [Store.DisableUser] or [Store.DeleteUser] has returned
// does not succeed.
//
// It returns [ErrInvalidToken] for whatever is not a good token, without telling why; and to a holder who has proven the
// secret, [ErrKeyDisabled], [ErrKeyExpired] or [ErrUserDisabled], the first that applies. Other errors decide nothing
// about the token: [ErrBusy], [ErrClosed], [ErrCorrupt], [ErrNewerFormat], [ErrCostTooHigh], ctx's error.
func (s *Store) Login(ctx context.Context, token string) (Principal, error) {
	if s.closed.Load() {
		return Principal{}, ErrClosed
	}
	var t parsedToken
	if !s.tokens.parse(token, &t) {
		s.counters.add(statMalformed, 1)
		return Principal{}, ErrInvalidToken
	}
	// Before anything that depends on which keys there are.
	if !s.tokens.genuine(&t) {
		s.counters.add(statForged, 1)
		return Principal{}, ErrInvalidToken
	}
	if e := s.cache.get(t.key()); e != nil && e.matches(&t) {
		s.counters.add(statHits, 1)
		if err := e.refusal(s.clock); err != nil {
			s.counters.add(statRefused, 1)
			return Principal{}, err
		}
		return e.principal, nil
	}
	s.counters.add(statMisses, 1)
	return s.loginCold(ctx, t) // by value: here t stays off the heap
}

// answer is what the store says about a key to whoever proves its secret.
type answer struct {
	principal Principal
	verifier  string
	disabled  error // what the holder is told if the key is disabled; else nil
	expires   time.Time
	expired   error // what the holder is told once that has passed
	suspended error // what the holder is told if the user is disabled; else nil
}

// loginCold reads the key's verifier, hashes, and then reads all that there is to know: what was revoked while it hashed is
// refused, and not remembered.
func (s *Store) loginCold(ctx context.Context, t parsedToken) (Principal, error) {
	id, secret, ok := t.decode()
	if !ok {
		s.counters.add(statUnknown, 1)
		return Principal{}, ErrInvalidToken
	}
	for {
		phc, found, err := s.lookUpVerifier(ctx, id)
		if err != nil {
			return Principal{}, wrapf(err, "login")
		}
		proven := false
		if found {
			if proven, err = s.prove(ctx, id, secret, phc); err != nil {
				return Principal{}, wrapf(err, "login")
			}
		}
		if !proven {
			s.counters.add(statUnknown, 1)
			return Principal{}, ErrInvalidToken
		}
		mark := s.cache.mark(id)
		a, err := s.lookUp(ctx, id)
		if err != nil {
			return Principal{}, wrapf(err, "login")
		}
		if a == nil || a.verifier != phc { // it was deleted or hashed anew meanwhile
			continue
		}
		e := newCacheEntry(&t, a)
		s.cache.put(e, mark)
		if err := e.refusal(s.clock); err != nil {
			s.counters.add(statRefused, 1)
			return Principal{}, err
		}
		return e.principal, nil
	}
}

// lookUpVerifier reads a key's verifier. It does not find that of a key that was deleted.
func (s *Store) lookUpVerifier(ctx context.Context, id uuid.UUID) (phc string, found bool, err error) {
	err = s.View(ctx, func(tx *Tx) error {
		k, err := tx.getKey(id)
		if err == nil && k != nil && !k.deleted {
			phc, found = k.verifier, true
		}
		return err
	})
	return phc, found, err
}

// lookUp reads a key and its owner, or returns nil if there is no such key any more.
func (s *Store) lookUp(ctx context.Context, id uuid.UUID) (a *answer, err error) {
	err = s.View(ctx, func(tx *Tx) error {
		k, err := tx.getKey(id)
		if err != nil || k == nil || k.deleted {
			return err
		}
		a = &answer{
			principal: Principal{KeyID: id, KeyName: k.name, Owner: k.owner, ServerKey: k.owner == ServerOwner},
			verifier:  k.verifier,
			expires:   k.expires,
		}
		if !k.expires.IsZero() {
			a.expired = fmt.Errorf("latchkey: login with key %s: %w", id, ErrKeyExpired)
		}
		if k.disabled {
			a.disabled = fmt.Errorf("latchkey: login with key %s: %w", id, ErrKeyDisabled)
		}
		if err := tx.checkLatest(keyKind, id, k.sequence); err != nil {
			return err
		}
		if k.owner == ServerOwner {
			return nil
		}
		a.principal.UserID = k.owner
		u, err := tx.getUser(k.owner)
		if err != nil {
			return err
		}
		if u == nil || u.deleted {
			return errMissing("owner", k.owner)
		}
		if u.disabled {
			a.suspended = fmt.Errorf("latchkey: login with key %s: %w", id, ErrUserDisabled)
		}
		return tx.checkLatest(userKind, u.id, u.sequence)
	})
	if err != nil {
		return nil, err
	}
	return a, nil
}

// prove computes the argon2 hash of a key's secret, once for all callers who present the same one at the same time.
func (s *Store) prove(ctx context.Context, id uuid.UUID, secret [secretSize]byte, phc string) (bool, error) {
	v, err := parseVerifier(phc)
	if err != nil {
		return false, err
	}
	f, first := s.flights.board(id, secret, phc)
	if f == nil {
		s.counters.add(statBusy, 1)
		return false, ErrBusy
	}
	if first {
		// The hash goes on when its caller leaves, since others may wait for it too.
		started := s.goBackground(func() {
			f.ok, f.err = s.fly(f, id, &secret, &v, phc)
			s.flights.land(f)
		})
		if !started {
			f.err = ErrClosed
			s.flights.land(f)
		}
		// Only to have the disk bring, while the hash runs, the pages that are read after it.
		_, _ = s.lookUp(ctx, id)
	}
	select {
	case <-f.landed:
		return f.ok, f.err
	case <-ctx.Done():
		s.flights.leave(f)
		return false, ctx.Err()
	}
}

// fly waits for a permit and hashes, unless nobody waits for the answer by then.
func (s *Store) fly(f *flight, id uuid.UUID, secret *[secretSize]byte, v *verifier, phc string) (ok bool, err error) {
	if err := s.hasher.acquire(f.ctx, v.cost); err != nil {
		return false, err
	}
	if begun := s.flights.begin(f); begun {
		s.counters.add(statHashes, 1)
		ok = v.matches(secret[:])
	} else {
		err = context.Canceled
	}
	s.hasher.release(v.cost)
	if ok && v.cost != s.cost {
		s.rehash(id, secret, phc)
	}
	return ok, err
}

// flights are the hashes of logins that wait or run now. They are bounded, and one token has one at most.
type flights struct {
	limit int

	mu  sync.Mutex
	all map[[sha256.Size]byte]*flight
}

type flight struct {
	key    [sha256.Size]byte
	ctx    context.Context // ends when all callers have left
	cancel context.CancelFunc
	aboard int           // callers
	begun  bool          // the hash runs
	landed chan struct{} // closed when ok and err are known
	ok     bool
	err    error
}

func newFlights(limit int) *flights {
	return &flights{limit: limit, all: make(map[[sha256.Size]byte]*flight)}
}

// board joins the flight of a key, secret and verifier, or starts one, or returns nil if there are too many.
func (fs *flights) board(id uuid.UUID, secret [secretSize]byte, phc string) (f *flight, first bool) {
	key := sha256.Sum256(slices.Concat(id[:], secret[:], []byte(phc)))
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f := fs.all[key]; f != nil {
		f.aboard++
		return f, false
	}
	if len(fs.all) >= fs.limit {
		return nil, false
	}
	f = &flight{key: key, aboard: 1, landed: make(chan struct{})}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	fs.all[key] = f
	return f, true
}

// begin reports whether a flight that has its permit is still wanted. From then on it stays on the list until it lands,
// so that who comes back joins it.
func (fs *flights) begin(f *flight) bool {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f.begun = f.aboard > 0
	return f.begun
}

// leave counts a caller off. When nobody is left, a flight that still waits for its permit is called off.
func (fs *flights) leave(f *flight) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f.aboard--; f.aboard == 0 && !f.begun {
		f.cancel()
		fs.removeLocked(f)
	}
}

func (fs *flights) land(f *flight) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f.cancel()
	fs.removeLocked(f)
	close(f.landed)
}

// removeLocked takes f off the list; another flight of the same token may be there by now.
func (fs *flights) removeLocked(f *flight) {
	if fs.all[f.key] == f {
		delete(fs.all, f.key)
	}
}

// rehash is a verifier at the store's cost that the next write will put in the place of an old one.
type rehash struct {
	id       uuid.UUID
	old, new string
}

// rehashes wait for a write that happens anyway: a login never costs one.
type rehashes struct {
	mu      sync.Mutex
	pending map[uuid.UUID]rehash // an empty new is still being computed
}

// maxRehashes bounds how many wait; a key that finds no room is hashed anew after another cold login.
const maxRehashes = 256

func newRehashes() *rehashes { return &rehashes{pending: make(map[uuid.UUID]rehash)} }

// rehash computes a verifier at the store's cost. The login that proved the secret does not wait for it.
func (s *Store) rehash(id uuid.UUID, secret *[secretSize]byte, old string) {
	h := rehash{id: id, old: old}
	if s.readOnly || !s.rehashes.begin(h) {
		return
	}
	s.goBackground(func() {
		v, err := s.hasher.hash(context.Background(), secret[:], s.cost) // Close ends the wait
		if err == nil {
			h.new = v.String()
		}
		s.rehashes.end(h)
	})
}

// begin takes a place for a verifier that is to be computed, unless all are taken, or it has one already.
func (r *rehashes) begin(h rehash) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if have, ok := r.pending[h.id]; ok && have.old == h.old || len(r.pending) >= maxRehashes {
		return false
	}
	r.pending[h.id] = h
	return true
}

// end puts the verifier in its place, or gives the place back if there is none.
func (r *rehashes) end(h rehash) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pending[h.id].old != h.old {
		return // a later verifier took it
	}
	if h.new == "" {
		delete(r.pending, h.id)
	} else {
		r.pending[h.id] = h
	}
}

// all returns the verifiers that can be written.
func (r *rehashes) all() (all []rehash) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, h := range r.pending {
		if h.new != "" {
			all = append(all, h)
		}
	}
	return all
}

// done forgets what was written.
func (r *rehashes) done(written []rehash) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, h := range written {
		if r.pending[h.id] == h {
			delete(r.pending, h.id)
		}
	}
}

// applyRehashes writes what waits, where the verifier is still the one that was proven.
func (tx *Tx) applyRehashes() error {
	pending := tx.store.rehashes.all()
	tx.pending = conceal(pending)
	for _, h := range pending {
		k, err := tx.getKey(h.id)
		if err == nil && k != nil {
			err = tx.checkLatest(keyKind, h.id, k.sequence)
		}
		if errors.Is(err, ErrCorrupt) {
			continue // not a reason to refuse somebody else's change
		}
		if err != nil {
			return err
		}
		if k == nil || k.deleted || k.verifier != h.old {
			continue
		}
		k.verifier = h.new
		if err := tx.putKey(k, func(now stamp) { k.hashed = now }); err != nil {
			return err
		}
		tx.rehashed++
	}
	return nil
}
