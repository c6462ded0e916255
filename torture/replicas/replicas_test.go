package replicas_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/replica"
	"github.com/latchkeydb/latchkey/torture/internal/form"
)

// A hub and five edges run as processes, over TLS, while users and keys change everywhere. The
// processes are killed, and the network fails in every way that networks have. Then the network is
// good again, and after a while every store must have the same records, a revoked token must be
// good nowhere, and every other token everywhere. At all times, a token must stay revoked at an
// edge that has refused it.
func TestNothingRevokedLogsInOnceHubAndEdgesHaveSpoken(t *testing.T) {
	seed := form.NewSeed(t)
	w := newWorld(t, seed)
	for range form.Amount(4, 40) {
		w.trouble(form.Amount(100, 200))
		w.settle()
	}
	w.keyExpires()
	w.hubIsRestored()
	w.settle()
	for range form.Amount(0, 20) {
		w.trouble(100)
		w.settle()
		w.hubIsRestored()
		w.trouble(100)
		w.settle()
	}
	for _, p := range w.places() {
		p.mustDo(t, order{Do: "check"})
	}
	t.Logf("%d tokens, %d of them revoked; %d kills", len(w.tokens), w.revoked(), w.kills)
}

// A world is the hub, the edges, and what the test knows of their users and keys.
type world struct {
	t       *testing.T
	dir     string
	random  *rand.Rand
	hub     *place
	edges   []*place
	links   []*link       // of the edges
	address string        // of the hub
	offset  time.Duration // of all clocks

	users           []*user
	keys            []*key
	tokens          []*token
	names           int // given to users and keys so far
	kills, restores int
}

type user struct {
	id      uuid.UUID
	group   string
	revoked bool // disabled or deleted somewhere
	unsure  bool // perhaps revoked, by an order that was cut short
}

type key struct {
	id      uuid.UUID
	owner   *user
	revoked bool
	rotated bool // since the stores agreed
	// unsure says that the key may be revoked, because an order was cut short, or because the key
	// was disabled and enabled. Nobody can tell until the stores agree.
	unsure bool
}

func (k *key) isUnsure() bool  { return k.unsure || k.owner.unsure }
func (k *key) isRevoked() bool { return k.revoked || k.owner.revoked }

type token struct {
	text  string
	key   *key
	ended bool // by a rotation
	// good has the places where the token was good once. refused has those that know that the token
	// is revoked.
	good, refused map[*place]bool
}

func (x *token) isRevoked() bool { return x.ended || x.key.isRevoked() }

// The edges, by what they get and may push. The last one has a strict bound of staleness.
var policies = []replica.Policy{
	{Groups: []string{"*"}, Push: replica.PushAll},
	{Groups: []string{"*"}, Push: replica.PushAll},
	{Groups: []string{"*"}, Push: replica.PushRevocations},
	{Groups: []string{"*"}, Push: replica.PushNothing},
	{Groups: []string{"north"}, Push: replica.PushUse},
}

// gets reports whether a place gets the records of a group.
func (w *world) gets(p *place, group string) bool {
	i := slices.Index(w.edges, p)
	return i < 0 || policies[i].Groups[0] == "*" || policies[i].Groups[0] == group
}

// mayPush returns what a place may push. The hub may do everything.
func (w *world) mayPush(p *place) replica.Push {
	if i := slices.Index(w.edges, p); i >= 0 {
		return policies[i].Push
	}
	return replica.PushAll
}

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{t: t, dir: t.TempDir(), random: form.NewRandom(seed, 0)}
	certificate := filepath.Join(w.dir, "hub.pem")
	must(t, writeCertificate(certificate))
	w.hub = &place{name: "hub", open: order{Hub: true, Path: filepath.Join(w.dir, "hub.db"), Certificate: certificate}}
	t.Cleanup(func() {
		for _, p := range w.places() {
			p.kill()
			if t.Failed() && p.stderr.Len() > 0 {
				t.Logf("%s: %s", p.name, p.stderr.String())
			}
		}
		for _, k := range w.links {
			k.close()
		}
	})
	w.start(w.hub)
	for i := range 8 {
		w.createUser(w.hub, []string{"", "north"}[i%2])
	}
	for range 16 {
		w.createKey(w.hub)
	}
	for i := range policies {
		k, err := newLink(seed + uint64(i))
		must(t, err)
		k.lead(w.address)
		name := fmt.Sprintf("edge %d", i)
		e := &place{name: name, open: order{
			Path: filepath.Join(w.dir, fmt.Sprintf("edge%d.db", i)), URL: "https://" + k.address(), Name: name,
			Invitation: w.hub.mustDo(t, order{Do: "invite", Policy: &policies[i]}).Text,
			Strict:     i == len(policies)-1,
		}}
		w.edges, w.links = append(w.edges, e), append(w.links, k)
		w.start(e)
	}
	return w
}

func (w *world) places() []*place { return append([]*place{w.hub}, w.edges...) }

// start starts the process of a place.
func (w *world) start(p *place) {
	w.t.Helper()
	p.open.Offset = w.offset
	a := p.start(w.t)
	if a.Outcome != "ok" {
		w.t.Fatalf("%s does not open: %s\n%s", p.name, a.Outcome, p.stderr.String())
	}
	if p == w.hub {
		w.address = a.Text
		for _, k := range w.links {
			k.lead(w.address)
		}
	}
}

func (w *world) kill(p *place) {
	p.kill()
	w.kills++
}

func (w *world) revoked() (n int) {
	for _, x := range w.tokens {
		if x.isRevoked() {
			n++
		}
	}
	return n
}

func pick[T any](random *rand.Rand, list []T) T { return list[random.IntN(len(list))] }

// livingPlace returns a place whose process is alive.
func (w *world) livingPlace() *place {
	living := slices.DeleteFunc(w.places(), func(p *place) bool { return !p.alive() })
	if len(living) == 0 {
		w.start(w.hub)
		return w.hub
	}
	return pick(w.random, living)
}

// livingUser returns a user that is not revoked.
func (w *world) livingUser() *user {
	living := slices.DeleteFunc(slices.Clone(w.users), func(u *user) bool { return u.revoked || u.unsure })
	if len(living) == 0 {
		if !w.hub.alive() {
			w.start(w.hub)
		}
		return w.createUser(w.hub, "")
	}
	return pick(w.random, living)
}

func (w *world) name(what string) string {
	w.names++
	return fmt.Sprintf("%s-%d", what, w.names)
}

// order gives an order that changes something, and reports whether it was done. An edge refuses
// what its policy does not let it push, and what it has not got.
func (w *world) order(p *place, o order, least replica.Push) (a answer, done bool) {
	w.t.Helper()
	a = p.do(w.t, o)
	switch a.Outcome {
	case "ok":
		// Any edge may enable a key that is enabled, because that changes nothing.
		if w.mayPush(p) < least && o.Do != "enable key" {
			w.t.Fatalf("%s: %s: it was done, although the edge may only push %s", p.name, o.Do, w.mayPush(p))
		}
		return a, true
	case "not found", "too many keys":
	case "not permitted":
		if w.mayPush(p) >= least {
			w.t.Fatalf("%s: %s: not permitted, although the edge may push %s", p.name, o.Do, w.mayPush(p))
		}
	default:
		w.t.Fatalf("%s: %s: %s\n%s", p.name, o.Do, a.Outcome, p.stderr.String())
	}
	return a, false
}

func (w *world) createUser(p *place, group string) *user {
	a, done := w.order(p, order{Do: "create user", Name: w.name("user"), Group: group}, replica.PushAll)
	if !done {
		return nil
	}
	u := &user{id: a.ID, group: group}
	w.users = append(w.users, u)
	return u
}

func (w *world) createKey(p *place) {
	owner := w.livingUser()
	if a, done := w.order(p, order{Do: "create key", User: owner.id, Name: w.name("key")}, replica.PushAll); done {
		k := &key{id: a.ID, owner: owner}
		w.keys = append(w.keys, k)
		w.addToken(a.Token, k)
	}
}

func (w *world) addToken(text string, k *key) {
	w.tokens = append(w.tokens, &token{text: text, key: k, good: map[*place]bool{}, refused: map[*place]bool{}})
}

// tokensOf returns the tokens that a condition about their keys holds for.
func (w *world) tokensOf(which func(*key) bool) (all []*token) {
	for _, x := range w.tokens {
		if which(x.key) {
			all = append(all, x)
		}
	}
	return all
}

// refuse notes that tokens are revoked at a place, which must refuse them from now on.
func refuse(p *place, tokens []*token) {
	for _, x := range tokens {
		x.refused[p] = true
	}
}

func (w *world) revokeKey(p *place, do string) {
	least := replica.PushNothing // because a disabling holds at any edge
	if do == "delete key" {
		least = replica.PushAll
	}
	k := pick(w.random, w.keys)
	if _, done := w.order(p, order{Do: do, User: k.owner.id, Key: k.id}, least); done {
		k.revoked = true
		refuse(p, w.tokensOf(func(of *key) bool { return of == k }))
	}
}

func (w *world) revokeUser(p *place, do string) {
	least := replica.PushNothing
	if do == "delete user" {
		least = replica.PushAll
	}
	u := w.livingUser()
	if _, done := w.order(p, order{Do: do, User: u.id}, least); done {
		u.revoked = true
		refuse(p, w.tokensOf(func(of *key) bool { return of.owner == u }))
	}
}

// rotate rotates a key without overlap. If two places rotate a key before they hear of each other,
// it takes more than this test knows to tell which tokens end.
func (w *world) rotate(p *place) {
	k := pick(w.random, w.keys)
	if k.rotated {
		return
	}
	if a, done := w.order(p, order{Do: "rotate key", User: k.owner.id, Key: k.id}, replica.PushAll); done {
		k.rotated = true
		for _, x := range w.tokensOf(func(of *key) bool { return of == k }) {
			x.ended, x.refused[p] = true, true
		}
		w.addToken(a.Token, k)
	}
}

// swing disables or enables a key that nobody has revoked.
func (w *world) swing(p *place) {
	k := pick(w.random, w.keys)
	if k.isRevoked() {
		return
	}
	do, least := "disable key", replica.PushNothing
	if w.random.IntN(2) == 0 {
		do, least = "enable key", replica.PushAll
	}
	if _, done := w.order(p, order{Do: do, User: k.owner.id, Key: k.id}, least); done {
		k.unsure = true
	}
}

// cutShort kills a place while it disables a key.
func (w *world) cutShort(p *place) {
	k := pick(w.random, w.keys)
	k.unsure = true
	p.send(w.t, order{Do: "disable key", User: k.owner.id, Key: k.id})
	<-time.After(time.Duration(w.random.IntN(3_000)) * time.Microsecond)
	w.kill(p)
}

// login logs in with a token, and checks what must hold at all times.
func (w *world) login(p *place, x *token) (outcome string) {
	w.t.Helper()
	outcome = p.do(w.t, order{Do: "login", Token: x.text}).Outcome
	sure := !x.key.isUnsure()
	switch outcome {
	case "ok":
		if sure && x.refused[p] {
			w.t.Fatalf("%s: a token of key %s is good, although it is known there to be revoked", p.name, x.key.id)
		}
		x.good[p] = true
	case "invalid token", "disabled":
		if sure && x.good[p] && !x.isRevoked() {
			w.t.Fatalf("%s: a token of key %s was good, nobody has revoked it, and now it is refused: %s", p.name, x.key.id, outcome)
		}
		if x.isRevoked() && (x.good[p] || outcome == "disabled") {
			x.refused[p] = true
		}
	case "stale":
		if !p.open.Strict {
			w.t.Fatalf("%s: a login is stale, although any age will do", p.name)
		}
	default:
		w.t.Fatalf("%s: login: %s", p.name, outcome)
	}
	return outcome
}

// trouble lets all kinds of things happen.
func (w *world) trouble(steps int) {
	w.t.Helper()
	for range steps {
		p := w.livingPlace()
		switch n := w.random.IntN(100); {
		case n < 25:
			w.login(p, pick(w.random, w.tokens))
		case n < 48:
			w.createKey(p)
		case n < 53:
			w.createUser(p, "")
		case n < 58:
			w.revokeKey(p, "disable key")
		case n < 61:
			w.revokeKey(p, "delete key")
		case n < 62:
			w.revokeUser(p, pick(w.random, []string{"disable user", "delete user"}))
		case n < 68:
			w.rotate(p)
		case n < 75:
			w.swing(p)
		case n < 87:
			pick(w.random, w.links).set(linkState(w.random.IntN(int(linkStates))))
		case n < 90:
			w.kill(p)
		case n < 92:
			w.cutShort(p)
		case n < 98:
			if p := pick(w.random, w.places()); !p.alive() {
				w.start(p)
			}
		default:
			if p != w.hub {
				p.mustDo(w.t, order{Do: "follow"})
			}
		}
	}
}

// settle ends all trouble, waits until the stores agree, and checks every token everywhere.
func (w *world) settle() {
	w.t.Helper()
	for _, p := range w.places() {
		if !p.alive() {
			w.start(p)
		}
	}
	for i, e := range w.edges {
		w.links[i].set(linkOpen)
		e.mustDo(w.t, order{Do: "follow"}) // does not wait until the pause is over
	}
	w.waitFor("all stores to agree", w.disagreement)

	for _, x := range w.tokens {
		outcome := w.login(w.hub, x)
		if x.key.isUnsure() {
			if outcome != "ok" {
				x.ended = true
			}
			clear(x.good)
			clear(x.refused)
		} else if (outcome == "ok") == x.isRevoked() {
			w.t.Fatalf("hub: login: %s; revoked: %v", outcome, x.isRevoked())
		}
		for _, e := range w.edges {
			want := outcome
			if !w.gets(e, x.key.owner.group) {
				want = "invalid token"
			}
			if got := w.login(e, x); got != want {
				w.t.Fatalf("%s: a login of key %s: %s, but at the hub: %s", e.name, x.key.id, got, want)
			}
		}
	}
	// Keys and users whose state was unsure are left alone from now on.
	for _, k := range w.keys {
		k.rotated = false
	}
	w.keys = slices.DeleteFunc(w.keys, (*key).isUnsure)
	w.tokens = slices.DeleteFunc(w.tokens, func(x *token) bool { return x.key.isUnsure() })
	for len(w.keys) == 0 {
		w.createKey(w.hub)
	}
}

// waitFor asks for the reason why something has not happened yet, until there is none.
func (w *world) waitFor(what string, missing func() string) {
	w.t.Helper()
	began, pause := time.Now(), time.Millisecond
	for {
		why := missing()
		if why == "" {
			return
		}
		if time.Since(began) > patience {
			w.t.Fatalf("waited %v for %s: %s", patience, what, why)
		}
		<-time.After(pause)
		pause = min(2*pause, 100*time.Millisecond)
	}
}

// disagreement returns in what the stores differ, or "".
func (w *world) disagreement() string {
	for _, e := range w.edges {
		s := e.mustDo(w.t, order{Do: "status"}).Status
		if !s.Connected || s.Pending > 0 {
			return fmt.Sprintf("%s: connected: %v; pending: %d; the last failure: %s", e.name, s.Connected, s.Pending, s.Err)
		}
	}
	w.hub.mustDo(w.t, order{Do: "confirm"})
	hub := w.hub.mustDo(w.t, order{Do: "records"})
	for _, e := range w.edges {
		edge := e.mustDo(w.t, order{Do: "records"})
		names := maps.Clone(hub.Records)
		maps.Copy(names, edge.Records)
		for name := range names {
			if w.differ(e, name, hub, edge) {
				return fmt.Sprintf("%s has %q as %s, and the hub has %q", e.name, edge.Records[name], name, hub.Records[name])
			}
		}
	}
	return ""
}

// differ reports whether an edge has another record under a name than the hub wants the edge to
// have.
func (w *world) differ(e *place, name string, hub, edge answer) bool {
	has, want := edge.Records[name], hub.Records[name]
	switch {
	case w.gets(e, ""): // everything
		return has != want
	case strings.HasPrefix(name, "dead"): // an edge gets what is left of the records that it had
		return has != "" && has != want
	case w.gets(e, hub.Groups[name]):
		return has != want
	}
	return has != ""
}

// keyExpires cuts two edges off for longer than the keys last with which they authenticate
// themselves. One of the two has a strict bound. They are opened again before they reach the hub.
func (w *world) keyExpires() {
	w.t.Helper()
	strict := len(w.edges) - 1
	lenient := w.random.IntN(strict)
	issued := map[int]time.Time{}
	for _, i := range []int{lenient, strict} {
		w.links[i].set(linkCut)
		issued[i] = w.edges[i].mustDo(w.t, order{Do: "status"}).Status.KeyIssued
	}
	w.offset += time.Duration(95+w.random.IntN(20)) * 24 * time.Hour
	for _, p := range w.places() {
		p.mustDo(w.t, order{Do: "clock", Offset: w.offset})
	}
	w.revokeKey(w.hub, "disable key")
	w.revokeKey(w.edges[lenient], "disable key")
	w.waitFor("an edge to become stale", func() string {
		if got := w.login(w.edges[strict], pick(w.random, w.tokens)); got != "stale" {
			return "a login: " + got
		}
		return ""
	})
	for _, i := range []int{lenient, strict} {
		w.kill(w.edges[i])
		w.start(w.edges[i])
	}
	for _, x := range w.tokens {
		w.login(w.edges[lenient], x)
		if got := w.login(w.edges[strict], x); got != "stale" {
			w.t.Fatalf("%s: a login: %s, although the edge has heard nothing for months", w.edges[strict].name, got)
		}
	}
	w.settle()
	for i, before := range issued {
		if after := w.edges[i].mustDo(w.t, order{Do: "status"}).Status.KeyIssued; !after.After(before) {
			w.t.Fatalf("%s: its key is of %v, as before the key expired", w.edges[i].name, after)
		}
	}
}

// hubIsRestored restores the hub from a backup that is older than some revocations. Only one edge
// has heard of them.
func (w *world) hubIsRestored() {
	w.t.Helper()
	w.restores++
	file := filepath.Join(w.dir, fmt.Sprintf("backup-%d", w.restores))
	w.hub.mustDo(w.t, order{Do: "backup", File: file})
	witness := w.edges[w.random.IntN(len(w.edges)-1)]
	for i, k := range w.links {
		if w.edges[i] != witness {
			k.set(linkCut)
		}
	}
	before := len(w.keys)
	w.createKey(w.hub)
	for _, k := range w.keys[before:] {
		k.unsure = true // the hub loses the key, unless the witness may push it
	}
	w.revokeKey(w.hub, "disable key")
	w.revokeKey(w.hub, "delete key")
	w.revokeUser(w.hub, "disable user")
	w.revokeUser(w.hub, "delete user")
	w.waitFor("an edge to hear of a revocation", func() string {
		for _, x := range w.tokens {
			if x.refused[w.hub] && w.login(witness, x) == "ok" {
				return "a login with a revoked token is good"
			}
		}
		return ""
	})
	w.kill(w.hub)
	backup, err := os.Open(file)
	must(w.t, err)
	defer backup.Close()
	w.hub.open.Path = filepath.Join(w.dir, fmt.Sprintf("hub-%d.db", w.restores))
	must(w.t, latchkey.Restore(w.t.Context(), backup, w.hub.open.Path))
	for _, x := range w.tokens {
		delete(x.refused, w.hub)
		delete(x.good, w.hub)
	}
	w.start(w.hub)
}
