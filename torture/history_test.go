package torture_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/torture/internal/form"
)

// Many goroutines log in with a few keys of a few people. At the same time they create, disable,
// enable, rename and delete these keys and users, and change the networks and scopes of the keys.
// Now and then a goroutine gives up a call or compacts the file. The answers of all calls, with the
// times when each call began and ended, make a history. porcupine looks for an order of the calls
// that respects these times and explains all answers. No such order exists if a login still
// succeeds after the return of a call that knew the key to be revoked.

// Each person in a history keeps one identity. After the deletion of its user, the person gets
// another user. Nothing that happens to one person depends on another, so each person's history is
// judged alone.
const (
	people        = 2
	callers       = 8
	callsByCaller = 60
)

var keyNames = []string{"laptop", "phone", "watch", "backup"}

// A call is one request to the store. Users and keys have numbers from 1, in the order in which
// callers got to know them, separately for each person.
type call struct {
	method    string
	person    int
	user, key int
	token     int // of the key, from 1
	name      string
}

// An answer is the result of a call.
type answer struct {
	outcome  string
	made     int // number of the new user, key or token
	name     string
	scopes   string
	disabled bool
}

// recorder makes the calls of one history.
type recorder struct {
	t         *testing.T
	store     *latchkey.Store
	login     loginFunc
	people    [people]person
	clock     atomic.Int64 // counts the beginnings and ends of calls
	impatient bool         // whether some calls are cancelled on the way

	mu      sync.Mutex
	history []porcupine.Operation
}

type loginFunc func(ctx context.Context, token string) (latchkey.Principal, error)

// person has the users and keys that callers know of one person, and can ask about.
type person struct {
	mu    sync.Mutex
	users []uuid.UUID
	keys  []issuedKey
}

type issuedKey struct {
	owner uuid.UUID
	id    uuid.UUID
	token string

	rotated []string // the tokens that rotations have made
}

// tokenWith returns a token by its number.
func (k issuedKey) tokenWith(number int) string {
	if number == 1 {
		return k.token
	}
	return k.rotated[number-2]
}

// recordHistory makes two people with three keys each, and then starts all callers.
func recordHistory(t *testing.T, s *latchkey.Store, login loginFunc, seed uint64, round int) []porcupine.Operation {
	t.Helper()
	r := &recorder{t: t, store: s, login: login}
	for who := range people {
		r.createUser(0, who)
		for _, name := range keyNames[:3] {
			r.createKey(0, who, 1, name)
		}
	}
	r.impatient = true
	var all sync.WaitGroup
	for caller := range callers {
		all.Go(func() {
			random := form.NewRandom(seed, round*callers+caller)
			for range callsByCaller {
				r.callSomething(caller, random)
			}
		})
	}
	all.Wait()
	return r.history
}

// callSomething makes a random call. More than half of the calls are logins.
func (r *recorder) callSomething(caller int, random *rand.Rand) {
	who := random.IntN(people)
	p := &r.people[who]
	user, key := p.choose(random)
	name := pick(random, keyNames)
	switch n := random.IntN(100); {
	case n < 53:
		k := r.people[who].issued(key)
		all := 1 + len(k.rotated)
		r.logIn(caller, who, key, max(1, all-random.IntN(3)))
	case n < 55:
		r.rotate(caller, call{method: "RotateKey", person: who, key: key, name: pick(random, []string{"", "overlap", "until used"})})
	case n < 58:
		where := pick(random, []string{"", "away"})
		r.changeKey(caller, call{method: "SetNetworks", person: who, key: key, name: where}, r.moveTo(where))
	case n < 60:
		scopes := pick(random, []string{"", "files:read"})
		r.changeKey(caller, call{method: "SetScopes", person: who, key: key, name: scopes}, r.permit(scopes))
	case n < 64:
		r.key(caller, who, key)
	case n < 66:
		r.user(caller, who, user)
	case n < 72:
		r.changeKey(caller, call{method: "DisableKey", person: who, key: key}, r.store.DisableKey)
	case n < 78:
		r.changeKey(caller, call{method: "EnableKey", person: who, key: key}, r.store.EnableKey)
	case n < 81:
		r.changeKey(caller, call{method: "DeleteKey", person: who, key: key}, r.store.DeleteKey)
	case n < 84:
		r.changeKey(caller, call{method: "RenameKey", person: who, key: key, name: name}, r.renameTo(name))
	case n < 87:
		r.changeUser(caller, call{method: "DisableUser", person: who, user: user}, r.store.DisableUser)
	case n < 91:
		r.changeUser(caller, call{method: "EnableUser", person: who, user: user}, r.store.EnableUser)
	case n < 92:
		r.changeUser(caller, call{method: "DeleteUser", person: who, user: user}, r.store.DeleteUser)
	case n < 94:
		r.createUser(caller, who)
	case n < 95:
		// A compaction must not show in the history, so the history leaves it out. A restless
		// engine cannot compact.
		if err := r.store.Compact(r.t.Context()); !mayEnd(err) && !errors.Is(err, errors.ErrUnsupported) {
			r.t.Error(err)
		}
	default:
		r.createKey(caller, who, user, name)
	}
}

// choose returns a user and a key. It prefers the newest, because most of the others are deleted.
func (p *person) choose(random *rand.Rand) (user, key int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	newest := func(n int) int { return n - random.IntN(1+random.IntN(min(n, 4))) }
	return newest(len(p.users)), newest(len(p.keys))
}

func (p *person) userID(number int) uuid.UUID {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.users[number-1]
}

func (p *person) issued(number int) issuedKey {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.keys[number-1]
}

// do makes a call and records it.
func (r *recorder) do(caller int, c call, fn func(ctx context.Context) answer) {
	ctx, cancel := context.WithCancel(r.t.Context())
	defer cancel()
	began := r.clock.Add(1)
	if r.impatient && rand.IntN(20) == 0 {
		go func() {
			yieldAWhile()
			cancel()
		}()
	}
	a := fn(ctx)
	op := porcupine.Operation{ClientId: caller, Input: c, Call: began, Output: a, Return: r.clock.Add(1)}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.history = append(r.history, op)
}

func (r *recorder) logIn(caller, who, key, token int) {
	k := r.people[who].issued(key)
	r.do(caller, call{method: "Login", person: who, key: key, token: token}, func(ctx context.Context) answer {
		principal, err := r.login(ctx, k.tokenWith(token))
		if err == nil && (principal.KeyID != k.id || principal.UserID != k.owner) {
			return answer{outcome: fmt.Sprintf("logged in as %+v", principal)}
		}
		return answer{outcome: outcome(err), name: principal.KeyName, scopes: principal.Scopes.String()}
	})
}

func (r *recorder) rotate(caller int, c call) {
	p := &r.people[c.person]
	k := p.issued(c.key)
	rotation := latchkey.Rotation{UntilUsed: c.name == "until used"}
	if c.name != "" {
		rotation.Overlap = time.Hour
	}
	r.do(caller, c, func(ctx context.Context) answer {
		_, token, err := r.store.RotateKey(ctx, k.owner, k.id, rotation)
		if err != nil {
			return answer{outcome: outcome(err)}
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		known := &p.keys[c.key-1]
		known.rotated = append(known.rotated, token)
		return answer{outcome: "ok", made: 1 + len(known.rotated)}
	})
}

func (r *recorder) key(caller, who, key int) {
	k := r.people[who].issued(key)
	r.do(caller, call{method: "Key", person: who, key: key}, func(ctx context.Context) answer {
		found, err := r.store.Key(ctx, k.owner, k.id)
		return answer{outcome: outcome(err), name: found.Name, scopes: found.Scopes.String(), disabled: found.Disabled}
	})
}

func (r *recorder) user(caller, who, user int) {
	id := r.people[who].userID(user)
	r.do(caller, call{method: "User", person: who, user: user}, func(ctx context.Context) answer {
		found, err := r.store.User(ctx, id)
		return answer{outcome: outcome(err), disabled: found.Disabled}
	})
}

func (r *recorder) changeKey(caller int, c call, change func(ctx context.Context, owner, id uuid.UUID) error) {
	k := r.people[c.person].issued(c.key)
	r.do(caller, c, func(ctx context.Context) answer { return answer{outcome: outcome(change(ctx, k.owner, k.id))} })
}

func (r *recorder) renameTo(name string) func(ctx context.Context, owner, id uuid.UUID) error {
	return func(ctx context.Context, owner, id uuid.UUID) error { return r.store.RenameKey(ctx, owner, id, name) }
}

// moveTo gives a key no networks, or one network if where is "away". The callers give no address,
// so they are in no network.
func (r *recorder) moveTo(where string) func(ctx context.Context, owner, id uuid.UUID) error {
	var networks []netip.Prefix
	if where == "away" {
		networks = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	}
	return func(ctx context.Context, owner, id uuid.UUID) error {
		return r.store.SetNetworks(ctx, owner, id, networks)
	}
}

func (r *recorder) permit(scopes string) func(ctx context.Context, owner, id uuid.UUID) error {
	return func(ctx context.Context, owner, id uuid.UUID) error {
		return r.store.SetScopes(ctx, owner, id, latchkey.NewScopes(strings.Fields(scopes)...))
	}
}

func (r *recorder) changeUser(caller int, c call, change func(ctx context.Context, id uuid.UUID) error) {
	id := r.people[c.person].userID(c.user)
	r.do(caller, c, func(ctx context.Context) answer { return answer{outcome: outcome(change(ctx, id))} })
}

func (r *recorder) createUser(caller, who int) {
	p := &r.people[who]
	r.do(caller, call{method: "CreateUser", person: who}, func(ctx context.Context) answer {
		user, err := r.store.CreateUser(ctx, latchkey.UserSpec{Identity: email(fmt.Sprint("person-", who))})
		if err != nil {
			return answer{outcome: outcome(err)}
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		if slices.Contains(p.users, user.ID) {
			return answer{outcome: "made a user that existed before"}
		}
		p.users = append(p.users, user.ID)
		return answer{outcome: "ok", made: len(p.users)}
	})
}

func (r *recorder) createKey(caller, who, user int, name string) {
	p := &r.people[who]
	owner := p.userID(user)
	r.do(caller, call{method: "CreateKey", person: who, user: user, name: name}, func(ctx context.Context) answer {
		key, token, err := createKey(ctx, r.store, owner, latchkey.KeySpec{Name: name})
		if err != nil {
			return answer{outcome: outcome(err)}
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.keys = append(p.keys, issuedKey{owner: owner, id: key.ID, token: token})
		return answer{outcome: "ok", made: len(p.keys)}
	})
}

// personState is the state of one person by the rules: the user at the moment, and the keys.
type personState struct {
	user     int // 0 for none
	disabled bool
	keys     []keyState // by number; number 0 is no key
}

type keyState struct {
	alive    bool
	disabled bool
	away     bool // it has a network
	name     string
	scopes   string

	token     int // the number of the newest token
	old       int // the number of the one before it, while that is good; else 0
	untilUsed bool
}

// key returns the state of a key. A key that was never made counts as dead.
func (s personState) key(number int) keyState {
	if number >= len(s.keys) {
		return keyState{}
	}
	return s.keys[number]
}

// withKey returns the state in which the key with a number is k.
func (s personState) withKey(number int, k keyState) personState {
	keys := make([]keyState, max(len(s.keys), number+1))
	copy(keys, s.keys)
	keys[number] = k
	s.keys = keys
	return s
}

func (s personState) nameTaken(name string) bool {
	return slices.ContainsFunc(s.keys, func(k keyState) bool { return k.alive && k.name == name })
}

// next returns the answer that the rules give to a call, and the state after the call.
func (s personState) next(c call, made int) (answer, personState) {
	ok := answer{outcome: "ok"}
	k := s.key(c.key)
	switch c.method {
	case "CreateUser":
		if s.user != 0 {
			return answer{outcome: "ErrIdentityTaken"}, s
		}
		s.user, s.disabled, ok.made = made, false, made
		return ok, s
	case "CreateKey", "User", "DisableUser", "EnableUser", "DeleteUser":
		if c.user != s.user {
			return answer{outcome: "ErrUserNotFound"}, s
		}
	case "Login":
		switch {
		case !k.alive || c.token != k.token && c.token != k.old:
			return answer{outcome: "ErrInvalidToken"}, s
		case k.disabled:
			return answer{outcome: "ErrKeyDisabled"}, s
		case s.disabled:
			return answer{outcome: "ErrUserDisabled"}, s
		case k.away:
			return answer{outcome: "ErrNetworkNotAllowed"}, s
		}
		ok.name, ok.scopes = k.name, k.scopes
		if k.untilUsed && c.token == k.token && k.old != 0 {
			k.old = 0
			return ok, s.withKey(c.key, k)
		}
		return ok, s
	default:
		if !k.alive {
			return answer{outcome: "ErrKeyNotFound"}, s
		}
	}

	switch c.method {
	case "User":
		ok.disabled = s.disabled
		return ok, s
	case "DisableUser", "EnableUser":
		s.disabled = c.method == "DisableUser"
		return ok, s
	case "DeleteUser":
		return ok, personState{keys: make([]keyState, len(s.keys))}
	case "CreateKey":
		if s.nameTaken(c.name) {
			return answer{outcome: "ErrKeyNameTaken"}, s
		}
		ok.made = made
		return ok, s.withKey(made, keyState{alive: true, name: c.name, token: 1})
	case "RotateKey":
		k.old, k.untilUsed = 0, c.name == "until used"
		if c.name != "" {
			k.old = k.token
		}
		k.token, ok.made = made, made
		return ok, s.withKey(c.key, k)
	case "Key":
		ok.name, ok.scopes, ok.disabled = k.name, k.scopes, k.disabled
		return ok, s
	case "DisableKey", "EnableKey":
		k.disabled = c.method == "DisableKey"
		return ok, s.withKey(c.key, k)
	case "SetNetworks":
		k.away = c.name == "away"
		return ok, s.withKey(c.key, k)
	case "SetScopes":
		k.scopes = c.name
		return ok, s.withKey(c.key, k)
	case "DeleteKey":
		return ok, s.withKey(c.key, keyState{})
	case "RenameKey":
		if k.name != c.name && s.nameTaken(c.name) {
			return answer{outcome: "ErrKeyNameTaken"}, s
		}
		k.name = c.name
		return ok, s.withKey(c.key, k)
	}
	panic("no rule for " + c.method)
}

var revocationModel = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		parts := make([][]porcupine.Operation, people)
		for _, op := range history {
			who := op.Input.(call).person
			parts[who] = append(parts[who], op)
		}
		return parts
	},
	Init: func() any { return personState{} },
	Step: func(state, input, output any) (bool, any) {
		got := output.(answer)
		if got.outcome == "canceled" || got.outcome == "ErrBusy" && slices.Contains([]string{"Login", "CreateKey", "RotateKey"}, input.(call).method) {
			return true, state // such a call has changed nothing
		}
		want, next := state.(personState).next(input.(call), got.made)
		return got == want, next
	},
	Equal: func(a, b any) bool {
		x, y := a.(personState), b.(personState)
		return x.user == y.user && x.disabled == y.disabled && slices.Equal(x.keys, y.keys)
	},
	DescribeOperation: func(input, output any) string {
		c, a := input.(call), output.(answer)
		return fmt.Sprintf("%s(user %d, key %d, token %d, %q) → %+v", c.method, c.user, c.key, c.token, c.name, a)
	},
	DescribeState: func(state any) string {
		s := state.(personState)
		lines := []string{fmt.Sprintf("user %d, disabled: %t", s.user, s.disabled)}
		for number, k := range s.keys {
			if k.alive {
				lines = append(lines, fmt.Sprintf("key %d %q %q, disabled: %t, away: %t, tokens %d and %d, until used: %t",
					number, k.name, k.scopes, k.disabled, k.away, k.token, k.old, k.untilUsed))
			}
		}
		return strings.Join(lines, "; ")
	},
}

// judge looks for an order that explains a history. If there is none, it writes porcupine's picture
// of the history into dir.
func judge(t *testing.T, history []porcupine.Operation, dir string) (porcupine.CheckResult, string) {
	t.Helper()
	result, info := porcupine.CheckOperationsVerbose(revocationModel, history, 2*time.Minute)
	if result == porcupine.Ok {
		return result, ""
	}
	page, err := os.CreateTemp(dir, "latchkey-history-*.html")
	must(t, err)
	defer page.Close()
	must(t, porcupine.Visualize(revocationModel, info, page))
	return result, page.Name()
}
