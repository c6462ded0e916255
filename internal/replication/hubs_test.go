package replication_test

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/access"
	"github.com/latchkeydb/latchkey/internal/memory"
	"github.com/latchkeydb/latchkey/internal/merge"
	"github.com/latchkeydb/latchkey/internal/record"
	"github.com/latchkeydb/latchkey/internal/replication"
)

// A body is what several engines have in common, as engines of several processes do.
type body struct {
	now atomic.Pointer[latchkey.Engine]
}

func newBody() *body {
	b := &body{}
	b.restore(memory.NewEngine())
	return b
}

// copy returns what the engines have now, and restore makes them have it again.
func (b *body) copy() latchkey.Engine     { return memory.CopyEngine(*b.now.Load()) }
func (b *body) restore(e latchkey.Engine) { b.now.Store(&e) }

// A partner is one of several engines with one body. It is never fresh, so its store reads at each
// login.
type partner struct {
	*body
	tables []string
}

func (p *partner) engine() latchkey.Engine {
	e := *p.now.Load()
	e.Track(p.tables...)
	return e
}

func (p *partner) Track(tables ...string)                       { p.tables = tables }
func (p *partner) Watch(func([]latchkey.TrackedChange))         {}
func (p *partner) Fresh() bool                                  { return false }
func (p *partner) Close() error                                 { return nil }
func (p *partner) Wait(ctx context.Context, after uint64) error { return p.engine().Wait(ctx, after) }

func (p *partner) View(ctx context.Context, fn func(latchkey.EngineTx) error) error {
	return p.engine().View(ctx, fn)
}

func (p *partner) Update(ctx context.Context, fn func(latchkey.EngineTx) error) error {
	return p.engine().Update(ctx, fn)
}

func (p *partner) Commit(ctx context.Context) (sequence uint64, random [8]byte, err error) {
	return p.engine().Commit(ctx)
}

// A pair is two hubs of one store, in two processes.
type pair struct {
	*body
	a, b *world
}

func newPair(t *testing.T, o replication.HubOptions) *pair {
	t.Helper()
	p := &pair{body: newBody()}
	p.a = openWorld(t, &partner{body: p.body}, o)
	p.b = openWorld(t, &partner{body: p.body}, o)
	return p
}

// at makes an edge speak with a hub from now on.
func (e *till) at(w *world) *till {
	e.w = w
	return e
}

func (e *till) wantHow(want replication.How) {
	e.t.Helper()
	if e.hello(); e.how != want {
		e.t.Fatalf("the edge gets a stream of kind %d, want %d", e.how, want)
	}
	if want != replication.CompareFirst {
		e.drain()
	}
}

func TestAnEdgeThatJoinedAtOneHubConnectsToAnother(t *testing.T) {
	p := newPair(t, replication.HubOptions{})
	ada := p.a.user("ada", "north")
	e := p.a.join(replication.PushRevocations, "north").at(p.b)
	e.wantHow(replication.FirstCopy)
	e.wantLike(usersAt(ada))
	key := p.a.key(ada.ID, "laptop")
	e.drain() // the stream at b has what was written through a
	e.wantLike(usersAt(ada), keysAt(key))
	must(t, e.DisableUser(t.Context(), ada.ID))
	if why := e.at(p.a).push(replication.PushRequest{Records: []record.Copy{e.copy(record.TableUsers, ada.ID[:])}}); why != "" {
		t.Error(why)
	}
}

func TestACursorOfOneHubFitsAtAnother(t *testing.T) {
	p := newPair(t, replication.HubOptions{})
	e := p.a.join(replication.PushNothing, "*")
	e.sync()
	// The hub b was opened long ago, and serves its first edge now.
	for _, name := range []string{"ada", "bob", "eve"} {
		p.a.user(name, "")
		e.drain()
	}
	e.at(p.b).wantHow(replication.Resume)
	p.b.user("fay", "")
	e.at(p.a).wantHow(replication.Resume)
	era := e.cursor.Era
	for range 3 {
		for _, w := range []*world{p.b, p.a} {
			w.user(uuid.NewString(), "")
			e.at(w).wantHow(replication.Resume)
			if e.cursor.Era != era {
				t.Error("the hubs do not go on with one era")
			}
		}
	}
	e.wantLike(slices.Collect(keysOf(p.a.has(liveTables...)))...)
}

func keysOf(m map[string]string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func TestAnEraThatAnotherHubHasEndedCostsAComparisonAtMost(t *testing.T) {
	for name, change := range map[string]func(*replication.Cursor){
		"a cursor as it is": func(*replication.Cursor) {},
		"ahead":             func(c *replication.Cursor) { c.Ahead = true },
		"with a push":       func(c *replication.Cursor) { c.Taken = c.At.Sequence + 3 },
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, replication.HubOptions{})
			e := p.a.join(replication.PushNothing, "*")
			e.sync()
			had := e.cursor
			other := p.b.join(replication.PushNothing, "*")
			other.sync()
			user := p.a.user("ada", "")
			other.drain()
			e.cursor = had
			change(&e.cursor)
			e.hello()
			if fits := e.how == replication.Resume; fits != (name == "a cursor as it is") {
				t.Errorf("the stream is of kind %d", e.how)
			}
			e.sync()
			e.wantLike(usersAt(user))
		})
	}
}

func TestAPushUnderAnEraThatAnotherHubHasEndedIsNotTaken(t *testing.T) {
	p := newPair(t, replication.HubOptions{})
	ada := p.a.user("ada", "")
	e := p.a.join(replication.PushAll, "*")
	e.sync()
	p.b.join(replication.PushNothing, "*").sync()
	must(t, e.DisableUser(t.Context(), ada.ID))
	push := func() string {
		return e.push(replication.PushRequest{Records: []record.Copy{e.copy(record.TableUsers, ada.ID[:])}})
	}
	if why := push(); why == "" {
		t.Error("the hub takes it")
	}
	e.sync()
	if why := push(); why != "" {
		t.Error(why)
	}
}

func TestAPolicyThatOneHubSetsHoldsAtAnother(t *testing.T) {
	p := newPair(t, replication.HubOptions{})
	north, south := p.a.user("ada", "north"), p.a.user("bob", "south")
	e := p.a.join(replication.PushAll, "north", "south").at(p.b)
	e.sync()
	e.wantLike(usersAt(north), usersAt(south))

	must(t, p.a.hub.SetPolicy(t.Context(), e.id, []string{"north", "south"}, replication.PushNothing))
	must(t, e.DisableUser(t.Context(), north.ID))
	if why := e.push(replication.PushRequest{Records: []record.Copy{e.copy(record.TableUsers, north.ID[:])}}); why == "" {
		t.Error("a push under the former policy is taken")
	}
	if e.drain(); e.policy.Push != replication.PushNothing {
		t.Errorf("the stream goes on with the policy %+v", e.policy)
	}

	must(t, p.a.hub.SetPolicy(t.Context(), e.id, []string{"north"}, replication.PushNothing))
	late := p.a.user("late", "south")
	if b := e.next(1000); !b.End || len(e.policy.Groups) != 1 {
		t.Errorf("the stream goes on with %+v, and the policy is %+v", b, e.policy)
	}
	e.sync()
	if e.heardOf(late.ID[:]) || len(e.has(record.TableUsers)) != 1 {
		t.Error("the edge has records of a group that it lost")
	}
}

// A dawdler is a store that calls something when a transaction that reads is over, before its
// reader knows.
type dawdler struct {
	access.Store
	after func()
}

func (d *dawdler) View(ctx context.Context, fn func(*merge.Tables) error) error {
	err := d.Store.View(ctx, fn)
	if after := d.after; after != nil {
		d.after = nil
		after()
	}
	return err
}

func TestAPolicyStaysWhenAnEarlierTransactionIsSlow(t *testing.T) {
	w := newWorld(t, replication.HubOptions{})
	d := &dawdler{Store: w.below()}
	var err error
	w.hub, err = replication.OpenHub(t.Context(), d, replication.HubOptions{Random: rand.Reader})
	must(t, err)
	e := w.join(replication.PushNothing, "*")
	e.sync()
	d.after = func() { must(t, w.hub.SetPolicy(t.Context(), e.id, []string{"*"}, replication.PushAll)) }
	e.push(replication.PushRequest{})
	if e.drain(); e.policy.Push != replication.PushAll {
		t.Errorf("the edge has the policy %+v", e.policy)
	}
}

func TestAnEdgeThatOneHubDropsIsUnknownAtAnother(t *testing.T) {
	p := newPair(t, replication.HubOptions{})
	e := p.a.join(replication.PushAll, "*").at(p.b)
	e.sync()
	p.a.user("ada", "")
	e.drain()
	must(t, p.a.hub.DropEdge(t.Context(), e.id))
	if _, err := e.feed.Next(t.Context(), 1000); !errors.Is(err, replication.ErrReplaced) {
		t.Errorf("the stream: %v, want ErrReplaced", err)
	}
	select {
	case <-e.feed.Done():
	default:
		t.Error("the stream has not ended")
	}
	if _, err := p.b.hub.Push(t.Context(), e.id, replication.PushRequest{}, day0); !errors.Is(err, replication.ErrUnknownEdge) {
		t.Errorf("a push: %v, want ErrUnknownEdge", err)
	}
	must(t, p.b.hub.Save(t.Context(), day0))
	p.a.open()
	if all, err := p.a.hub.Edges(t.Context(), day0); err != nil || len(all) != 0 {
		t.Errorf("the edge has come back: %+v, %v", all, err)
	}
}

func TestAClaimThatOneHubHasAndAnotherDecides(t *testing.T) {
	for name, confirm := range map[string]bool{"confirmed": true, "refused": false} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, replication.HubOptions{})
			ada := p.a.user("ada", "north")
			e := p.a.join(replication.PushNothing, "north").at(p.b)
			e.sync()
			must(t, e.DisableUser(t.Context(), ada.ID))
			if why := e.push(replication.PushRequest{Claims: []record.Copy{e.copy(record.TableUsers, ada.ID[:])}}); why != "" {
				t.Fatal(why)
			}
			claims, err := p.a.hub.Claims(t.Context())
			must(t, err)
			if len(claims) != 1 {
				t.Fatalf("the other hub has the claims %+v", claims)
			}
			if confirm {
				must(t, p.a.hub.ConfirmClaim(t.Context(), claims[0].Number))
			} else {
				must(t, p.a.hub.RefuseClaim(t.Context(), claims[0].Number))
			}
			e.got = nil
			e.next(1000) // by the stream at b
			if !slices.ContainsFunc(e.got, isReplace) {
				t.Errorf("the stream brings %T", e.got)
			}
			e.wantLike(usersAt(ada))

			// The stream is at b, and the acknowledgement comes to a.
			e.at(p.a).push(replication.PushRequest{})
			if n := p.notes(); n != 0 {
				t.Errorf("%d records wait to be replaced after that", n)
			}
			e.got = nil
			if e.at(p.b).wantHow(replication.Resume); slices.ContainsFunc(e.got, isReplace) {
				t.Error("the edge has to replace the record again")
			}
		})
	}
}

func isReplace(m replication.Message) bool { _, is := m.(replication.Replace); return is }

// notes returns how many records wait to be replaced.
func (p *pair) notes() (n int) {
	for at := range p.a.has(record.TableReplica) {
		if len(at) > 20 && at[8:20] == "hub/replace/" {
			n++
		}
	}
	return n
}

// refuse lets an edge of a disable a user, and b refuse the edge's claim.
func (p *pair) refuse(t *testing.T) (ada latchkey.User, e *till) {
	t.Helper()
	ada = p.a.user("ada", "north")
	e = p.a.join(replication.PushNothing, "north")
	e.sync()
	must(t, e.DisableUser(t.Context(), ada.ID))
	e.push(replication.PushRequest{Claims: []record.Copy{e.copy(record.TableUsers, ada.ID[:])}})
	claims, err := p.a.hub.Claims(t.Context())
	must(t, err)
	must(t, p.b.hub.RefuseClaim(t.Context(), claims[0].Number))
	return ada, e
}

func TestARecordIsReplacedBeforeItsNewsCount(t *testing.T) {
	p := newPair(t, replication.HubOptions{})
	ada, e := p.refuse(t)
	// The message that replaces the record is lost with the stream at a. The edge comes to b, and
	// acknowledges what came there, at both hubs.
	lost, err := e.feed.Next(t.Context(), 1000)
	must(t, err)
	if !slices.ContainsFunc(lost.Messages, isReplace) {
		t.Fatal("the stream at a does not replace the record")
	}
	e.at(p.b).hello()
	e.at(p.a).push(replication.PushRequest{})
	if n := p.notes(); n != 1 {
		t.Errorf("%d records wait to be replaced, want 1", n)
	}
	e.at(p.b).next(1000)
	e.push(replication.PushRequest{})
	e.wantLike(usersAt(ada))
	if n := p.notes(); n != 0 {
		t.Errorf("%d records wait to be replaced in the end", n)
	}
}

func TestAnEdgeThatComparesStillHasToReplace(t *testing.T) {
	p := newPair(t, replication.HubOptions{})
	_, e := p.refuse(t)
	e.cursor.Policy = 0
	e.wantHow(replication.CompareFirst)
	e.compare(nil)
	e.got = nil
	if e.at(p.b).wantHow(replication.Resume); !slices.ContainsFunc(e.got, isReplace) {
		t.Error("the comparison has swallowed what the edge has to replace")
	}
}

func TestWhatOneHubSavesOverwritesNothingNewer(t *testing.T) {
	p := newPair(t, replication.HubOptions{})
	m := &meddler{Store: p.a.below()}
	var err error
	p.a.hub, err = replication.OpenHub(t.Context(), m, replication.HubOptions{Random: rand.Reader})
	must(t, err)
	e := p.a.join(replication.PushNothing, "*")
	e.sync()
	p.a.now = day0.Add(time.Hour)
	e.push(replication.PushRequest{})

	p.b.user("ada", "")
	p.b.now = day0.Add(2 * time.Hour)
	var want replication.EdgeStatus
	m.before = func() { // after a has read what b has written
		e.at(p.b).wantHow(replication.Resume)
		must(t, p.b.hub.Save(t.Context(), p.b.now))
		want = e.status()
	}
	must(t, p.a.hub.Save(t.Context(), p.a.now))
	for _, w := range []*world{p.a, p.b} {
		w.open() // what is in the store
		got := e.at(w).status()
		if got.Cursor.At != e.cursor.At || got.Confirmed != want.Confirmed || !got.Seen.Equal(day0.Add(2*time.Hour)) {
			t.Errorf("the store has %+v, want %+v", got, want)
		}
	}
}

func TestRefusalsOfSeveralHubsAddUp(t *testing.T) {
	p := newPair(t, replication.HubOptions{})
	ada := p.a.user("ada", "")
	e := p.a.join(replication.PushNothing, "*")
	e.sync()
	p.b.join(replication.PushNothing, "*").sync()
	e.sync()
	must(t, e.EnableUser(t.Context(), ada.ID))
	must(t, e.DisableUser(t.Context(), ada.ID))
	r := replication.PushRequest{Records: []record.Copy{e.copy(record.TableUsers, ada.ID[:])}}
	for range 3 {
		for _, w := range []*world{p.a, p.b} {
			if e.at(w).push(r) == "" {
				t.Fatal("the push was taken")
			}
		}
	}
	for _, w := range []*world{p.a, p.b, p.a} {
		must(t, w.hub.Save(t.Context(), w.now))
	}
	p.a.open()
	if got := e.at(p.a).status(); got.Refusals != 6 || got.Refusal == "" {
		t.Errorf("the store has %d refusals, %q; want 6", got.Refusals, got.Refusal)
	}
}

func TestWhatAnEdgeHasLostDoesNotCountAtAnyHub(t *testing.T) {
	p := newPair(t, replication.HubOptions{})
	e := p.a.join(replication.PushNothing, "*")
	e.sync()
	backup := e.cursor
	p.a.user("ada", "")
	e.drain()
	full := e.status().Confirmed
	e.cursor = backup // as the device has it again
	e.at(p.b).hello()
	must(t, p.a.hub.Save(t.Context(), p.a.now))
	for _, w := range []*world{p.a, p.b} {
		if have, all, err := w.hub.Confirmed(t.Context(), full); have != 0 || all != 1 || err != nil {
			t.Errorf("%d of %d edges have confirmed it, %v; want none of 1", have, all, err)
		}
	}
	e.drain()
	must(t, p.b.hub.Save(t.Context(), p.b.now))
	if have, _, err := p.a.hub.Confirmed(t.Context(), full); have != 1 || err != nil {
		t.Errorf("%d edges have confirmed it in the end, %v", have, err)
	}
}

func TestPruningCountsTheEdgesOfAllHubs(t *testing.T) {
	p := newPair(t, replication.HubOptions{KeepTombstones: 10 * day, DropAfter: 1000 * day})
	ada := p.a.user("ada", "north")
	here, there := p.a.join(replication.PushNothing, "north"), p.b.join(replication.PushNothing, "north")
	here.sync()
	key := p.a.key(ada.ID, "a")
	here.drain()
	there.sync()
	there.feed.Close()
	must(t, p.b.hub.Save(t.Context(), p.b.now))
	must(t, p.a.DeleteKey(t.Context(), ada.ID, key.ID))
	here.drain()
	if n := p.a.pass(30); n != 0 {
		t.Fatalf("%d tombstones went although an edge of the other hub has not passed them", n)
	}
	p.b.now = p.a.now
	there.sync()
	here.drain()
	must(t, p.b.hub.Save(t.Context(), p.b.now))
	if n := p.a.prune(); n != 1 {
		t.Fatalf("%d tombstones went, want 1", n)
	}
	there.drain()
	if n := len(there.has(record.TableDeadKeys)); n != 0 {
		t.Errorf("the edge of the other hub still has %d tombstones", n)
	}
	// The note goes when the edges of both hubs have heard of it.
	p.b.user("bob", "north")
	here.drain()
	p.a.pass(1)
	pruned := func() (n int) {
		for at := range p.a.has(record.TableReplica) {
			if len(at) > 19 && at[8:19] == "hub/pruned/" {
				n++
			}
		}
		return n
	}
	if n := pruned(); n != 1 {
		t.Errorf("there are %d notes before the other hub has written what its edge has heard, want 1", n)
	}
	there.drain()
	must(t, p.b.hub.Save(t.Context(), p.b.now))
	p.a.prune()
	if n := pruned(); n != 0 {
		t.Errorf("there are %d notes in the end", n)
	}
}

func TestAStreamThatIsBehindWhatAnotherHubPrunesEnds(t *testing.T) {
	p := newPair(t, replication.HubOptions{KeepTombstones: 10 * day, DropAfter: 20 * day})
	ada := p.a.user("ada", "")
	key := p.a.key(ada.ID, "a")
	p.a.prune()
	e := p.a.join(replication.PushNothing, "*").at(p.b)
	e.sync()
	must(t, p.a.DeleteKey(t.Context(), ada.ID, key.ID))
	p.a.prune()
	p.b.now = p.a.now.Add(40 * day)
	must(t, p.b.hub.Save(t.Context(), p.b.now))
	// To a, the edge was silent for too long. Its stream at b is there all the same.
	p.a.pass(25)
	if n := p.a.pass(25); n == 0 && len(p.a.has(record.TableDeadKeys)) != 0 {
		t.Fatal("nothing was pruned")
	}
	if b := e.next(1000); !b.End {
		t.Errorf("the stream goes on with %+v", b)
	}
	e.sync()
	e.wantLike(usersAt(ada))
}

func TestAHubTellsWhichEdgesFollowAtAnother(t *testing.T) {
	p := newPair(t, replication.HubOptions{})
	e := p.a.join(replication.PushNothing, "*").at(p.b)
	e.sync()
	follows := func(want bool) {
		t.Helper()
		if got := e.at(p.a).status().Streaming; got != want {
			t.Errorf("the edge follows: %v, want %v", got, want)
		}
	}
	follows(true)
	p.a.now = p.a.now.Add(16 * time.Minute) // the other process has died
	follows(false)
	p.b.now = p.a.now
	must(t, p.b.hub.Save(t.Context(), p.b.now))
	follows(true)
	e.feed.Close()
	must(t, p.b.hub.Save(t.Context(), p.b.now))
	follows(false)
}

func TestTheSumsOfAHubFollowWhatAnotherWrites(t *testing.T) {
	p := newPair(t, replication.HubOptions{KeepTombstones: 10 * day})
	ada, bob := p.a.user("ada", "north"), p.a.user("bob", "north")
	e := p.a.join(replication.PushNothing, "north")
	e.sync()
	compared := func(want bool) {
		t.Helper()
		for _, w := range []*world{p.a, p.b} {
			e.at(w).compare(nil)
			if got := e.status().Matched; got != want {
				t.Errorf("hub and edge match: %v, want %v", got, want)
			}
			want = true // the comparison has mended it
		}
	}
	compared(true)
	must(t, p.b.DisableUser(t.Context(), ada.ID))
	compared(false)
	must(t, p.b.SetUserGroup(t.Context(), bob.ID, "south"))
	compared(false)
	e.wantLike(usersAt(ada))
	// A record that went with its tombstone, between two comparisons.
	anonymous, err := p.b.CreateUser(t.Context(), latchkey.UserSpec{Identity: latchkey.Identity{Provider: latchkey.ProviderAnonymous}, Group: "north"})
	must(t, err)
	compared(false)
	must(t, p.b.DeleteUser(t.Context(), anonymous.ID))
	e.sync()
	must(t, p.a.hub.Save(t.Context(), p.a.now))
	p.b.prune()
	if p.b.pass(30); len(p.b.has(record.TableDeadUsers)) != 0 {
		t.Fatal("the tombstone was not pruned")
	}
	e.at(p.a).sync()
	compared(true)
}

func TestTheSecretOfHubsIsDrawnOnce(t *testing.T) {
	p := newPair(t, replication.HubOptions{})
	ada := p.a.user("ada", "")
	must(t, p.a.DisableUser(t.Context(), ada.ID))
	tills := make(chan *till, 2)
	for _, w := range []*world{p.a, p.b} {
		k := w.serverKey("edge "+uuid.NewString(), "", "latchkey:replica")
		go func() {
			err := w.hub.AddEdge(context.Background(), k.ID, "till", replication.Policy{Groups: []string{"*"}}, day0)
			if err != nil {
				t.Error(err)
			}
			tills <- &till{w: w, id: k.ID, me: uuid.New(), signed: map[string]replication.Record{}}
		}()
	}
	var macs []string
	for range 2 {
		e := <-tills
		e.site = openSite(t, memory.NewEngine(), p.a.DomainSecrets())
		must(t, e.below().Share(t.Context()))
		e.sync()
		macs = append(macs, string(e.signed[usersAt(ada)].MAC))
	}
	if macs[0] == "" || macs[0] != macs[1] {
		t.Errorf("the hubs sign with %x and %x", macs[0], macs[1])
	}
}

func TestAnEdgeThatGoesFromHubToHubIsNoClone(t *testing.T) {
	p := newPair(t, replication.HubOptions{})
	e := p.a.join(replication.PushNothing, "*")
	e.sync()
	var instances []uuid.UUID // the latest first
	hello := func(w *world, hello replication.Hello) *replication.Feed {
		t.Helper()
		hello.Formats, hello.Replica, hello.Cursor = []uint64{1}, e.ReplicaID(), e.cursor
		f, err := w.hub.Hello(t.Context(), e.id, hello, day0)
		must(t, err)
		return f
	}
	// The device restarts each time, and its stream at the last hub stays open.
	for i, w := range []*world{p.a, p.b, p.b, p.a, p.b} {
		next := replication.Hello{Instance: uuid.New()}
		if len(instances) > 0 {
			next.Before, next.Earlier = instances[0], slices.Clone(instances[1:])
		}
		instances = slices.Insert(instances, 0, next.Instance)
		for range 2 {
			if f := hello(w, next); f.Cloned && i > 0 { // e was another one
				t.Errorf("step %d: the hub takes the device for a clone", i)
			}
		}
	}
	// Another device that was copied at the second step is one.
	clone := replication.Hello{Instance: uuid.New(), Before: instances[3], Earlier: instances[4:]}
	if f := hello(p.a, clone); !f.Cloned {
		t.Error("the hub does not see a clone")
	}
}

func TestAnEngineThatGoesBackBeginsAnEra(t *testing.T) {
	p := newPair(t, replication.HubOptions{})
	ada := p.a.user("ada", "")
	here, there := p.a.join(replication.PushAll, "*"), p.b.join(replication.PushAll, "*")
	here.sync()
	there.sync()
	backup := p.copy()
	must(t, p.a.DisableUser(t.Context(), ada.ID))
	lost := p.a.user("lost", "")
	here.drain()
	there.drain()
	was := there.cursor.Era
	p.restore(backup)
	bob := p.b.user("bob", "")
	for _, e := range []*till{here, there} {
		if _, err := e.feed.Next(t.Context(), 1000); !errors.Is(err, replication.ErrReplaced) {
			t.Errorf("the stream: %v, want ErrReplaced", err)
		}
		e.wantHow(replication.CompareFirst)
		wanted := e.compare(nil)
		if e == here && len(wanted) == 0 {
			t.Error("the hub wants nothing of what it has lost")
		}
		for _, i := range wanted {
			e.push(replication.PushRequest{Records: []record.Copy{e.copy(i.Table, i.Key)}})
		}
		e.wantHow(replication.Resume)
	}
	if here.sync(); here.cursor.Era == was || here.cursor.Era != there.cursor.Era {
		t.Errorf("the eras are %s, %s and %s before", here.cursor.Era, there.cursor.Era, was)
	}
	there.sync()
	for _, e := range []*till{here, there} {
		e.wantLike(usersAt(ada), usersAt(bob), usersAt(lost))
	}
	if u, err := p.b.User(t.Context(), ada.ID); err != nil || !u.Disabled {
		t.Errorf("the user is %+v, %v; want it disabled", u, err)
	}
	here.at(p.b).wantHow(replication.Resume)
}

// No process knows that the engine was restored: all have ended, and begin again after it has more
// commits than before. An edge that may have got what is lost has to compare.
func TestARestorationThatNobodyHasNoticedCostsAComparison(t *testing.T) {
	p := newPair(t, replication.HubOptions{})
	p.a.user("ada", "")
	early, late := p.a.join(replication.PushNothing, "*"), p.a.join(replication.PushNothing, "*")
	early.sync()
	late.sync()
	must(t, p.a.hub.Save(t.Context(), p.a.now))
	backup := p.copy()
	p.a.user("lost", "")
	late.drain()
	p.restore(backup)
	next := openWorld(t, &partner{body: p.body}, replication.HubOptions{})
	var made []uuid.UUID
	for range 10 {
		made = append(made, next.user(uuid.NewString(), "").ID)
	}
	for range 2 { // two processes, one after the other
		next.open()
		next.join(replication.PushNothing, "*").sync()
		must(t, next.hub.Save(t.Context(), next.now))
	}
	if late.cursor.At.Sequence >= next.sequence() {
		t.Fatal("the sequence shows that the engine was restored")
	}
	early.at(next).wantHow(replication.Resume) // it has nothing that is lost
	late.at(next).wantHow(replication.CompareFirst)
	for _, e := range []*till{early, late} {
		e.sync()
		if n := len(e.has(record.TableUsers)); n != 1+len(made) {
			t.Errorf("the edge has %d users, want %d", n, 1+len(made))
		}
		e.wantHow(replication.Resume)
	}
}

// Another process has drawn another replica ID. A hub knows that as soon as it reads anything, also
// if its store has not heard of it yet.
func TestAnotherReplicaIDOfASharedStoreEndsStreams(t *testing.T) {
	p := newPair(t, replication.HubOptions{})
	ada := p.a.user("ada", "")
	e := p.a.join(replication.PushNothing, "*")
	e.sync()
	id := uuid.New()
	must(t, p.b.below().Update(t.Context(), func(tx *merge.Tables) error {
		return tx.BeginRestored(id, record.Replica{ID: p.b.ReplicaID()})
	}))
	if _, err := e.feed.Next(t.Context(), 1000); !errors.Is(err, replication.ErrReplaced) {
		t.Errorf("the stream: %v, want ErrReplaced", err)
	}
	e.wantHow(replication.CompareFirst)
	e.sync()
	if e.cursor.Incarnation != id {
		t.Errorf("the cursor has the incarnation %s, want %s", e.cursor.Incarnation, id)
	}
	e.wantHow(replication.Resume)
	e.wantLike(usersAt(ada))
}

func TestACursorOfWhatAnEngineHasLostDoesNotFit(t *testing.T) {
	p := newPair(t, replication.HubOptions{})
	e, away := p.a.join(replication.PushNothing, "*"), p.a.join(replication.PushNothing, "*")
	e.sync()
	away.sync()
	backup := p.copy()
	p.a.user("lost", "")
	away.drain()
	p.a.user("lost, too", "")
	p.a.user("the same", "")
	e.drain()
	p.restore(backup)
	ada := p.a.user("ada", "") // under the number of what the edge has
	p.a.user("bob", "")
	away.wantHow(replication.CompareFirst)
	away.sync()
	if away.has(record.TableUsers)[usersAt(ada)] == "" {
		t.Error("the edge lacks a user")
	}
}

func TestAHubKnowsWhichChangesAnEdgeOfAnotherHasMade(t *testing.T) {
	p := newPair(t, replication.HubOptions{})
	ada := p.a.user("ada", "")
	key := p.a.key(ada.ID, "laptop")
	p.b.join(replication.PushNothing, "*").sync()
	e := p.a.join(replication.PushNothing, "*")
	e.sync()
	must(t, e.RenameKey(t.Context(), ada.ID, key.ID, "phone"))
	if why := e.at(p.b).push(replication.PushRequest{Claims: []record.Copy{e.copy(record.TableKeys, key.ID[:])}}); why != "" {
		t.Fatal(why)
	}
	claims, err := p.b.hub.Claims(t.Context())
	must(t, err)
	if len(claims) != 1 {
		t.Errorf("there are the claims %+v, want that of the edge", claims)
	}
}

func TestAHubThatIsAloneWritesNothingForOthers(t *testing.T) {
	w := newWorld(t, replication.HubOptions{})
	e := w.join(replication.PushNothing, "*")
	e.sync()
	must(t, w.hub.Save(t.Context(), w.now))
	before := w.sequence()
	for range 3 {
		w.now = w.now.Add(time.Minute)
		e.hello()
		e.drain()
	}
	if n := w.sequence() - before; n != 0 {
		t.Errorf("an edge that connects makes %d commits", n)
	}
	before = w.sequence()
	must(t, w.hub.Save(t.Context(), w.now))
	must(t, w.hub.Save(t.Context(), w.now))
	if n := w.sequence() - before; n != 1 {
		t.Errorf("two times of Save make %d commits, want that of the edge", n)
	}
	before = w.sequence()
	w.open()
	if e.hello(); w.sequence()-before != 1 {
		t.Errorf("an edge that connects after a restart makes %d commits, want that of the era", w.sequence()-before)
	}
}
