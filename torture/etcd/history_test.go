package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/torture/internal/form"
)

// Several stores use one cluster, while a test makes faults. Callers create, disable, enable and
// delete users and keys, and log in. The answers of all calls, with the times when each call began
// and ended, make histories, one for each key. porcupine looks for an order of the calls that
// respects these times and explains all answers.
//
// The outcome of a write is unknown after ErrCommitUnknown. Such a write may take effect at any
// time after its beginning, or never. After every other error, a write must have no effect.
//
// Half of the users have a home, which is the only store that their calls use. No login of a home
// may succeed after a revocation has returned. Every store uses the other users. There, a login may
// be answered by what was true at its beginning or up to the bound before it: the store may not
// have heard of a later change. But the store that has revoked a token refuses it at once, which
// is looked at separately.

// bound is how long the engine may believe that it knows all changes.
const bound = 2 * time.Second

// unknown is the outcome of a call if nobody knows it.
const unknown = "unknown"

// A call is one request to a store.
type call struct {
	method string
	store  int // the number of the store, or the number of stores for a fresh one
}

// A recorder makes the calls of the histories.
type recorder struct {
	t      testing.TB
	stores []*latchkey.Store
	began  time.Time
	names  atomic.Int64
	// pause is the longest time between two calls of a caller. Without a pause, a test that waits
	// for a fault makes very long histories.
	pause time.Duration

	changes, logins []atomic.Int64 // that succeeded, by store
	unsure          atomic.Int64   // writes with an unknown outcome

	mu      sync.Mutex
	users   []*user // in use
	retired []*user

	stop    func() // ends the callers, and waits for them
	callers sync.WaitGroup

	report func(format string, args ...any) // gets what judge finds
	dir    string                           // of pictures of histories
}

// A user has the histories of its keys.
type user struct {
	id   uuid.UUID
	home int // the only store that uses it, or -1

	mu      sync.Mutex // also guards the histories of the keys
	history            // of calls for the user
	keys    []*key     // in use
	retired []*key
}

type key struct {
	owner *user
	id    uuid.UUID
	token string
	history
}

// A history is the calls for one user or key.
type history struct {
	calls  []porcupine.Operation
	unsure int // the number of calls whose outcome is unknown
	limit  int // the number of calls after which the user or key is not used any more
}

// Users and keys get successors after some calls, because long histories with many unknown outcomes
// take long to judge.
const (
	mostCalls   = 80 // of a key; half as many of a user
	mostUnsure  = 3
	atTheEnd    = 15 // calls for a key that is deleted
	usersAtOnce = 3  // that a store may use
	keysAtOnce  = 3  // of a user
)

// callTime bounds each call.
const callTime = 4 * time.Second

// worn reports whether a user or key is used up.
func (h *history) worn() bool { return h.unsure >= mostUnsure || len(h.calls) >= h.limit }

// add adds a call, unless it says nothing.
func (h *history) add(op porcupine.Operation) {
	if op.Output == nil {
		return
	}
	if op.Output == unknown {
		h.unsure++
	}
	h.calls = append(h.calls, op)
}

// conclude lets only some more calls follow.
func (h *history) conclude() { h.limit = min(h.limit, len(h.calls)+atTheEnd) }

func newRecorder(t testing.TB, stores ...*latchkey.Store) *recorder {
	n := len(stores) + 1 // the last one is fresh at the end
	return &recorder{
		t: t, stores: stores, began: time.Now(), report: t.Errorf, dir: os.TempDir(),
		changes: make([]atomic.Int64, n), logins: make([]atomic.Int64, n),
	}
}

// start starts callers for each store. They call until stop.
func (r *recorder) start(seed uint64, callers int) {
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = func() {
		cancel()
		r.callers.Wait()
	}
	r.t.Cleanup(r.stop)
	for i := range r.stores {
		for j := range callers {
			r.callers.Go(func() {
				random := form.NewRandom(seed, i*callers+j)
				for ctx.Err() == nil {
					r.callSomething(random, i)
					if r.pause > 0 {
						<-time.After(time.Duration(random.Int64N(int64(r.pause))))
					}
				}
			})
		}
	}
}

// now returns the time since the beginning, by the monotonic clock.
func (r *recorder) now() int64 { return time.Since(r.began).Nanoseconds() }

// callSomething makes a random call of a store. More than half of the calls are logins.
func (r *recorder) callSomething(random *rand.Rand, store int) {
	u := r.chooseUser(random, store)
	if u == nil {
		r.createUser(store, []int{-1, store}[random.IntN(2)])
		return
	}
	k := u.chooseKey(random)
	if k == nil {
		r.createKey(store, u)
		return
	}
	s := r.stores[store]
	switch n := random.IntN(100); {
	case n < 62:
		r.logIn(store, k)
	case n < 68:
		r.read(store, k)
	case n < 78:
		r.changeKey(store, k, "DisableKey", s.DisableKey)
	case n < 90:
		r.changeKey(store, k, "EnableKey", s.EnableKey)
	case n < 93:
		r.changeKey(store, k, "DeleteKey", s.DeleteKey)
	case n < 96:
		r.changeUser(store, u, "DisableUser", s.DisableUser)
	case n < 99:
		r.changeUser(store, u, "EnableUser", s.EnableUser)
	case random.IntN(4) == 0:
		r.changeUser(store, u, "DeleteUser", s.DeleteUser)
	}
}

// chooseUser returns a user that a store may use, or nil if there are few.
func (r *recorder) chooseUser(random *rand.Rand, store int) *user {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.users = slices.DeleteFunc(r.users, func(u *user) bool {
		u.mu.Lock()
		defer u.mu.Unlock()
		if u.worn() {
			r.retired = append(r.retired, u)
		}
		return u.worn()
	})
	var mine []*user
	for _, u := range r.users {
		if u.home < 0 || u.home == store {
			mine = append(mine, u)
		}
	}
	if len(mine) < usersAtOnce {
		return nil
	}
	return mine[random.IntN(len(mine))]
}

// chooseKey returns a key of a user, or nil if there are few.
func (u *user) chooseKey(random *rand.Rand) *key {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.keys = slices.DeleteFunc(u.keys, func(k *key) bool {
		if k.worn() {
			u.retired = append(u.retired, k)
		}
		return k.worn()
	})
	if len(u.keys) < keysAtOnce {
		return nil
	}
	return u.keys[random.IntN(len(u.keys))]
}

// do makes a call, and returns the operation that records it, and the error of the call.
func (r *recorder) do(c call, fn func(ctx context.Context) error) (porcupine.Operation, error) {
	ctx, cancel := context.WithTimeout(context.Background(), callTime)
	defer cancel()
	began := r.now()
	err := fn(ctx)
	op := porcupine.Operation{ClientId: c.store, Input: c, Call: began, Output: r.outcome(c, err), Return: r.now()}
	if op.Output == unknown {
		op.Return = math.MaxInt64
		r.unsure.Add(1)
	}
	return op, err
}

// Outcomes that say what a key was, by their errors.
var outcomes = []struct {
	err  error
	name string
}{
	{latchkey.ErrInvalidToken, "gone"},
	{latchkey.ErrKeyNotFound, "gone"},
	{latchkey.ErrUserNotFound, "gone"},
	{latchkey.ErrKeyDisabled, "key disabled"},
	{latchkey.ErrUserDisabled, "user disabled"},
}

// failures are errors of calls that say nothing about a key. Only after ErrCommitUnknown can a
// write have taken effect.
var failures = []error{
	latchkey.ErrCommitUnknown, latchkey.ErrUnavailable, latchkey.ErrInterrupted, latchkey.ErrNoSpace,
	latchkey.ErrBusy, context.DeadlineExceeded,
}

// outcome returns the outcome of a call, or nil if the call says nothing.
func (r *recorder) outcome(c call, err error) any {
	if err == nil {
		return "ok"
	}
	is := func(target error) bool { return errors.Is(err, target) }
	for _, o := range outcomes {
		if is(o.err) {
			return o.name
		}
	}
	if !slices.ContainsFunc(failures, is) {
		r.t.Errorf("%s at store %d: %v", c.method, c.store, err)
	}
	// DeleteUser takes several steps, of which some can have taken effect.
	if is(latchkey.ErrCommitUnknown) || c.method == "DeleteUser" {
		return unknown
	}
	return nil
}

func (r *recorder) createUser(store, home int) {
	ctx, cancel := context.WithTimeout(context.Background(), callTime)
	defer cancel()
	c := call{"CreateUser", store}
	u, err := r.stores[store].CreateUser(ctx, latchkey.UserSpec{Identity: latchkey.Identity{
		Provider: latchkey.ProviderLocalUserpass, Subject: uuid.NewString(),
	}})
	if r.outcome(c, err) != "ok" {
		return
	}
	r.changes[store].Add(1)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.users = append(r.users, &user{id: u.ID, home: home, history: history{limit: mostCalls / 2}})
}

func (r *recorder) createKey(store int, u *user) {
	var made *key
	op, _ := r.do(call{"CreateKey", store}, func(ctx context.Context) error {
		k, token, err := r.stores[store].CreateKey(ctx, u.id, latchkey.KeySpec{Name: fmt.Sprint("key-", r.names.Add(1))})
		made = &key{owner: u, id: k.ID, token: token, history: history{limit: mostCalls}}
		return err
	})
	u.mu.Lock()
	defer u.mu.Unlock()
	if op.Output == "gone" { // as the user is
		u.limit = 0
		return
	}
	if op.Output == "ok" {
		made.add(op)
		u.keys = append(u.keys, made)
		r.changes[store].Add(1)
	}
}

// record adds a call to the history of a key.
func (r *recorder) record(k *key, op porcupine.Operation) {
	k.owner.mu.Lock()
	defer k.owner.mu.Unlock()
	k.add(op)
	if op.Input.(call).method == "DeleteKey" && op.Output == "ok" {
		k.conclude()
	}
}

func (r *recorder) logIn(store int, k *key) (outcome any) {
	op, _ := r.do(call{"Login", store}, func(ctx context.Context) error {
		who, err := r.stores[store].Login(ctx, k.token)
		if err == nil && (who.KeyID != k.id || who.UserID != k.owner.id) {
			r.t.Errorf("the token of the key %s logs in as %+v", k.id, who)
		}
		return err
	})
	r.record(k, op)
	if op.Output == "ok" {
		r.logins[store].Add(1)
	}
	return op.Output
}

func (r *recorder) read(store int, k *key) (outcome any) {
	op, _ := r.do(call{"Key", store}, func(ctx context.Context) error {
		found, err := r.stores[store].Key(ctx, k.owner.id, k.id)
		if err == nil && found.Disabled {
			return latchkey.ErrKeyDisabled
		}
		return err
	})
	r.record(k, op)
	return op.Output
}

func (r *recorder) changeKey(store int, k *key, method string, change func(ctx context.Context, owner, id uuid.UUID) error) {
	op, err := r.do(call{method, store}, func(ctx context.Context) error { return change(ctx, k.owner.id, k.id) })
	r.record(k, op)
	if err == nil {
		r.changes[store].Add(1)
	}
}

func (r *recorder) changeUser(store int, u *user, method string, change func(ctx context.Context, id uuid.UUID) error) {
	op, err := r.do(call{method, store}, func(ctx context.Context) error { return change(ctx, u.id) })
	u.mu.Lock()
	defer u.mu.Unlock()
	u.add(op)
	if err != nil {
		return
	}
	r.changes[store].Add(1)
	if method == "DeleteUser" {
		for _, k := range u.keys {
			k.conclude()
		}
	}
}

// await waits until each of these stores has made more changes and logins, whatever the others do.
func (r *recorder) await(stores ...int) {
	r.t.Helper()
	type progress struct{ changes, logins int64 }
	want := map[int]progress{}
	for _, i := range stores {
		want[i] = progress{r.changes[i].Load() + 10, r.logins[i].Load() + 10}
	}
	eventually(r.t, fmt.Sprint("calls of the stores ", stores), func(context.Context) bool {
		for i, w := range want {
			if r.changes[i].Load() < w.changes || r.logins[i].Load() < w.logins {
				return false
			}
		}
		return true
	})
}

// outlast waits until the bound is over.
func (r *recorder) outlast() {
	began := time.Now()
	eventually(r.t, "the end of the bound", func(context.Context) bool { return time.Since(began) > bound+bound/4 })
}

// finish ends the callers. When the bound is over, so that everything must be known everywhere, it
// judges all histories.
func (r *recorder) finish(fresh *latchkey.Store) {
	r.t.Helper()
	r.stop()
	r.outlast()
	r.readAndJudge(fresh)
}

// readAndJudge lets every store log in with all keys, and a fresh store also read the keys. Then it
// judges all histories.
func (r *recorder) readAndJudge(fresh *latchkey.Store) {
	r.t.Helper()
	var keys []*key
	for _, u := range append(r.retired, r.users...) {
		keys = append(keys, append(u.keys, u.retired...)...)
	}
	r.stores = append(r.stores, fresh)
	limit := time.Now().Add(patience)
	insist := func(what func(store int, k *key) (outcome any), store int, k *key) {
		for what(store, k) == nil {
			if time.Now().After(limit) {
				r.t.Errorf("store %d does not answer", store)
				return
			}
		}
	}
	var reading sync.WaitGroup
	for i := range r.stores {
		reading.Go(func() {
			for _, k := range keys {
				insist(r.logIn, i, k)
				if i == len(r.stores)-1 {
					insist(r.read, i, k)
				}
			}
		})
	}
	reading.Wait()
	r.judge(keys)
}
