package replication_test

import (
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/memory"
	"github.com/latchkeydb/latchkey/internal/merge"
	"github.com/latchkeydb/latchkey/internal/record"
	"github.com/latchkeydb/latchkey/internal/replication"
)

func TestAnEdgeGetsTheRecordsOfItsGroupsAndNoOthers(t *testing.T) {
	for _, first := range []bool{true, false} {
		w := newWorld(t, replication.HubOptions{})
		var e *till
		if !first { // everything comes as changes
			e = w.join(replication.PushNothing, "north")
			e.sync()
		}
		ada, bob, eve := w.user("ada", "north"), w.user("bob", "south"), w.user("eve", "")
		adas, bobs, eves := w.key(ada.ID, "a"), w.key(bob.ID, "b"), w.key(eve.ID, "e")
		till, other, none := w.serverKey("till", "north"), w.serverKey("other", "south"), w.serverKey("none", "")
		reserved := w.serverKey("reserved", "north", "latchkey:admin")
		must(t, w.DisableGroup(t.Context(), "north"))
		must(t, w.DisableGroup(t.Context(), "south"))
		gone, lost := w.key(bob.ID, "gone"), w.key(ada.ID, "lost")
		must(t, w.DeleteKey(t.Context(), bob.ID, gone.ID))
		must(t, w.DeleteKey(t.Context(), ada.ID, lost.ID))
		if first {
			e = w.join(replication.PushNothing, "north")
		}
		e.sync()
		e.wantLike(usersAt(ada), keysAt(adas), keysAt(till), record.TableGroups+"/north")
		for _, id := range [][]byte{bob.ID[:], eve.ID[:], bobs.ID[:], eves.ID[:], other.ID[:], none.ID[:], gone.ID[:], reserved.ID[:], []byte("south")} {
			if e.heardOf(id) {
				t.Errorf("first copy %v: the edge has heard of %x", first, id)
			}
		}
		if e.has(record.TableDeadKeys)[at(record.TableDeadKeys, lost.ID)] == "" {
			t.Errorf("first copy %v: the edge has not got the tombstone of a key", first)
		}
		all := w.join(replication.PushNothing, "*")
		all.sync()
		all.wantLike(usersAt(ada), usersAt(bob), usersAt(eve), keysAt(adas), keysAt(bobs), keysAt(eves),
			keysAt(till), keysAt(other), keysAt(none), record.TableGroups+"/north", record.TableGroups+"/south")
		if all.heardOf(reserved.ID[:]) {
			t.Errorf("first copy %v: a key with reserved scopes travels", first)
		}
	}
}

func TestARecordThatMovesIsForgottenAndComesBack(t *testing.T) {
	w := newWorld(t, replication.HubOptions{})
	north, south, both := w.join(replication.PushNothing, "north"), w.join(replication.PushNothing, "south"), w.join(replication.PushNothing, "north", "south")
	east := w.join(replication.PushNothing, "east")
	edges := []*till{north, south, both, east}
	for _, e := range edges {
		e.sync()
	}
	ada, server := w.user("ada", "north"), w.serverKey("till", "north")
	laptop := w.key(ada.ID, "laptop")
	all := []string{usersAt(ada), keysAt(laptop), keysAt(server)}
	want := func(step string, has ...*till) {
		t.Helper()
		for _, e := range edges {
			e.drain()
			if slices.Contains(has, e) {
				e.wantLike(all...)
			} else {
				e.wantLike()
			}
			if t.Failed() {
				t.Fatal(step)
			}
		}
	}
	move := func(group string) {
		must(t, w.SetUserGroup(t.Context(), ada.ID, group))
		must(t, w.SetKeyGroup(t.Context(), server.ID, group))
	}
	want("made", north, both)
	move("south")
	want("moved", south, both)
	move("north")
	want("moved back", north, both)
	// While it is elsewhere, the edge hears nothing of it.
	move("south")
	want("moved again", south, both)
	north.got = nil
	must(t, w.DisableKey(t.Context(), ada.ID, laptop.ID))
	phone := w.key(ada.ID, "phone")
	all = append(all, keysAt(phone))
	want("changed elsewhere", south, both)
	for _, id := range [][]byte{laptop.ID[:], phone.ID[:]} {
		if north.heardOf(id) {
			t.Error("an edge hears of the keys of a user that has left it")
		}
	}
	move("north")
	want("and back, with all keys", north, both)
	move("")
	want("in no group")
	move("east")
	want("in a group of the first time", east)
	for _, e := range []*till{north, south} {
		if !e.heardOf(ada.ID[:]) {
			t.Error("an edge that had the user has not heard of it")
		}
	}
	must(t, w.DeleteUser(t.Context(), ada.ID))
	must(t, w.DeleteKey(t.Context(), latchkey.ServerOwner, server.ID))
	all = nil
	want("deleted")
	for _, e := range edges {
		if e.has(record.TableDeadUsers)[at(record.TableDeadUsers, ada.ID)] == "" || e.has(record.TableDeadKeys)[at(record.TableDeadKeys, server.ID)] == "" {
			t.Error("an edge that was in a former group has no tombstone")
		}
	}
	west := w.join(replication.PushNothing, "west")
	west.sync()
	if west.heardOf(ada.ID[:]) || west.heardOf(server.ID[:]) {
		t.Error("an edge that never had a record hears of its deletion")
	}
}

func TestAFirstCopyGoesOnWhereItWasCut(t *testing.T) {
	w := newWorld(t, replication.HubOptions{})
	var want []string
	for i := range 20 {
		u := w.user(string(rune('a'+i)), "north")
		k := w.key(u.ID, "k")
		want = append(want, usersAt(u), keysAt(k))
		if i%5 == 0 {
			must(t, w.DisableKey(t.Context(), u.ID, k.ID))
		}
	}
	e := w.join(replication.PushNothing, "north")
	for i := 0; e.cursor.Incarnation == uuid.Nil || e.cursor.Copying != ""; i++ {
		e.hello()
		if e.how != replication.FirstCopy {
			t.Fatalf("after %d parts of the copy the hub says %d", i, e.how)
		}
		e.next(300)
		if i == 3 { // something changes behind the copy and before it
			must(t, w.DeleteUser(t.Context(), uuid.UUID([]byte(want[0])[len("users/"):])))
			want = want[2:]
			u := w.user("late", "north")
			want = append(want, usersAt(u))
		}
		e.feed.Close()
		if i > 1000 {
			t.Fatal("the copy does not end")
		}
	}
	e.sync()
	e.wantLike(want...)
	n := 0
	for at := range e.signed {
		if e.has(record.TrackedTables()...)[at] != "" {
			n++
		}
	}
	if n < 4 {
		t.Errorf("the first copy has brought %d MACs", n)
	}
}

func TestTheCursorsOfCopiesOfAHubAreOfNoUseToEachOther(t *testing.T) {
	engine := memory.NewEngine()
	w := openWorld(t, engine, replication.HubOptions{})
	e := w.join(replication.PushNothing, "*")
	e.sync()
	w.user("before", "")
	e.drain()
	backup := memory.CopyEngine(engine)
	restart := memory.CopyEngine(engine)
	w.user("after", "")
	e.drain()
	// The same file, opened again: the changes go on.
	again := openWorld(t, memory.CopyEngine(engine), replication.HubOptions{})
	again.user("later", "")
	e.w = again
	if e.hello(); e.how != replication.Resume {
		t.Errorf("after a restart of the hub the edge gets %d", e.how)
	}
	e.drain()
	e.wantLike(slices.Sorted(maps.Keys(again.has(liveTables...)))...)
	// A copy from before, which has as many commits by now.
	forked := openWorld(t, backup, replication.HubOptions{})
	for i := range 20 {
		forked.user(string(rune('a'+i)), "")
	}
	e.w = forked
	if e.hello(); e.how != replication.CompareFirst {
		t.Errorf("at another copy of the hub the edge gets %d", e.how)
	}
	if b := e.next(1000); !b.End || len(b.Messages) > 0 {
		t.Errorf("an edge that has to compare gets %+v", b)
	}
	// A copy that has fewer commits than the cursor says, with an era that it knows.
	short := openWorld(t, restart, replication.HubOptions{})
	e.w = short
	if e.hello(); e.how != replication.CompareFirst {
		t.Errorf("at a hub without the commit the edge gets %d", e.how)
	}
}

func TestAnEraGoesAfterAThousandOpenings(t *testing.T) {
	engine := memory.NewEngine()
	w := openWorld(t, engine, replication.HubOptions{})
	e := w.join(replication.PushNothing, "*")
	e.sync()
	for range 1000 {
		w.open()
		_, err := w.hub.Push(t.Context(), e.id, replication.PushRequest{}, w.now)
		must(t, err)
	}
	w.open()
	if e.hello(); e.how != replication.CompareFirst {
		t.Errorf("the edge gets %d", e.how)
	}
	n := 0
	must(t, w.below().View(t.Context(), func(t *merge.Tables) error {
		for range t.Scan(record.TableReplica, []byte("hub/era/"), []byte("hub/era0")) {
			n++
		}
		return nil
	}))
	if n > 1000 {
		t.Errorf("there are %d eras", n)
	}
}

func TestOpeningAHubWritesNothing(t *testing.T) {
	w := newWorld(t, replication.HubOptions{})
	e := w.join(replication.PushNothing, "*")
	before := w.sequence()
	w.open()
	if got := w.sequence(); got != before {
		t.Errorf("opening a hub makes %d commits", got-before)
	}
	if _, err := w.hub.Edges(t.Context(), w.now); err != nil {
		t.Error(err)
	}
	e.sync()
	before = w.sequence()
	for range 5 {
		e.push(replication.PushRequest{})
		w.now = w.now.Add(time.Minute)
	}
	if got := w.sequence(); got != before {
		t.Errorf("five acknowledgements make %d commits", got-before)
	}
	must(t, w.hub.Save(t.Context(), w.now))
	if got := w.sequence(); got == before {
		t.Error("Save writes nothing")
	}
	status := e.status()
	w.open()
	if got := e.status(); got.Cursor.At != status.Cursor.At || !got.Seen.Equal(status.Seen) || got.Build != "test" || got.Confirmed != status.Confirmed {
		t.Errorf("after a restart the hub knows %+v, want %+v", got, status)
	}
}

// sequence returns the last commit of the store.
func (s *site) sequence() (n uint64) {
	must(s.t, s.below().View(s.t.Context(), func(t *merge.Tables) error { n = t.Sequence(); return nil }))
	return n
}

func TestAChangeIsReadOnceForAllEdgesOfAPolicy(t *testing.T) {
	w := newWorld(t, replication.HubOptions{})
	var edges []*till
	for range 5 {
		e := w.join(replication.PushNothing, "north")
		edges = append(edges, e)
	}
	for _, e := range edges {
		e.sync()
	}
	for _, e := range edges { // all come to the same position
		e.drain()
	}
	other := w.join(replication.PushNothing, "south")
	other.sync()
	for _, e := range edges {
		e.drain()
	}
	w.user("ada", "north")
	var first *replication.Batch
	encoded := 0
	for _, e := range edges {
		b := e.next(2000)
		if first == nil {
			first = b
		}
		if &b.Messages[0] != &first.Messages[0] {
			t.Error("an edge gets messages of its own")
		}
		b.Encoded(func([]replication.Message) []byte { encoded++; return []byte{1} })
	}
	if encoded != 1 {
		t.Errorf("the batch was encoded %d times", encoded)
	}
	if len(first.Messages) != 2 {
		t.Errorf("the batch has %d messages", len(first.Messages))
	}
	if b := other.next(2000); len(b.Messages) > 0 || b.More {
		t.Errorf("an edge of another group gets %+v", b)
	}
}

func TestASharedBatchHidesNoLaterCommit(t *testing.T) {
	w := newWorld(t, replication.HubOptions{})
	quick, slow := w.join(replication.PushNothing, "north"), w.join(replication.PushNothing, "north")
	for _, e := range []*till{quick, slow, quick, slow} {
		e.sync()
	}
	first := w.user("ada", "north")
	quick.next(2000)
	second := w.user("bob", "north")
	slow.drain()
	slow.wantLike(usersAt(first), usersAt(second))
}

func TestAFeedThatIsToldOfCommitsGetsThemAll(t *testing.T) {
	w := newWorld(t, replication.HubOptions{})
	quick, slow := w.join(replication.PushNothing, "north"), w.join(replication.PushNothing, "north")
	for _, e := range []*till{quick, slow, quick, slow} {
		e.sync()
	}
	quick.feed.Told, slow.feed.Told = true, true
	first := w.user("ada", "north")
	made := quick.next(2000).At
	second := w.user("bob", "north")
	if b := slow.next(2000); b.More || b.At != made {
		t.Errorf("the feed looks for later commits: %v, %d", b.More, b.At)
	}
	slow.wantLike(usersAt(first))
	slow.drain()
	slow.wantLike(usersAt(first), usersAt(second))
}

func TestAnEdgeWhoseGroupsChangeCompares(t *testing.T) {
	w := newWorld(t, replication.HubOptions{})
	ada, eve := w.user("ada", "north"), w.user("eve", "south")
	adas, eves := w.key(ada.ID, "a"), w.key(eve.ID, "e")
	e := w.join(replication.PushNothing, "north")
	e.sync()
	for _, tt := range []struct {
		groups []string
		want   []string
	}{
		{[]string{"south", "north", "north"}, []string{usersAt(ada), keysAt(adas), usersAt(eve), keysAt(eves)}},
		{[]string{"south"}, []string{usersAt(eve), keysAt(eves)}},
		{[]string{"*"}, []string{usersAt(ada), keysAt(adas), usersAt(eve), keysAt(eves)}},
		{[]string{"north"}, []string{usersAt(ada), keysAt(adas)}},
	} {
		must(t, w.hub.SetPolicy(t.Context(), e.id, tt.groups, replication.PushNothing))
		b := e.next(1000)
		if p, ok := b.Messages[0].(replication.NewPolicy); !ok || !b.End || !slices.Contains(p.Policy.Groups, tt.groups[0]) {
			t.Fatalf("the edge gets %+v", b)
		}
		e.feed.Close()
		e.sync()
		e.wantLike(tt.want...)
	}
	// The same with an edge that is away meanwhile.
	e.feed.Close()
	must(t, w.hub.SetPolicy(t.Context(), e.id, []string{"south"}, replication.PushNothing))
	e.sync()
	e.wantLike(usersAt(eve), keysAt(eves))
	for _, groups := range [][]string{nil, {}, {"*", "a"}, {""}, {"a\x00b"}} {
		if err := w.hub.SetPolicy(t.Context(), e.id, groups, replication.PushNothing); !errors.Is(err, replication.ErrPolicy) {
			t.Errorf("a policy with the groups %q: %v", groups, err)
		}
	}
	if err := w.hub.SetPolicy(t.Context(), e.id, []string{"a"}, replication.PushAll+1); !errors.Is(err, replication.ErrPolicy) {
		t.Errorf("a push that there is not: %v", err)
	}
}

func TestTwoDevicesWithOneCredentialAreSeen(t *testing.T) {
	w := newWorld(t, replication.HubOptions{})
	e := w.join(replication.PushNothing, "*")
	e.sync()
	old := e.feed
	if again := e.hello(); again.Cloned {
		t.Error("an edge that connects again is no clone")
	}
	select {
	case <-old.Done():
	default:
		t.Error("the older stream goes on")
	}
	if _, err := old.Next(t.Context(), 10); !errors.Is(err, replication.ErrReplaced) {
		t.Errorf("the older stream gives %v", err)
	}
	e.feed.Close()
	e.me = uuid.New()
	if again := e.hello(); again.Cloned || !e.status().Cloned.IsZero() {
		t.Error("an edge that was restarted is no clone")
	}
	e.me = uuid.New()
	if again := e.hello(); !again.Cloned || !e.status().Cloned.Equal(w.now) {
		t.Error("a clone is not seen")
	}
}

func TestADroppedEdgeIsUnknown(t *testing.T) {
	w := newWorld(t, replication.HubOptions{})
	e := w.join(replication.PushAll, "*")
	e.sync()
	must(t, w.hub.DropEdge(t.Context(), e.id))
	if _, err := e.feed.Next(t.Context(), 10); !errors.Is(err, replication.ErrReplaced) {
		t.Errorf("its stream gives %v", err)
	}
	for range 2 {
		_, err := w.hub.Hello(t.Context(), e.id, replication.Hello{Formats: []uint64{1}}, w.now)
		if !errors.Is(err, replication.ErrUnknownEdge) {
			t.Errorf("Hello gives %v", err)
		}
		if _, err := w.hub.Push(t.Context(), e.id, replication.PushRequest{}, w.now); !errors.Is(err, replication.ErrUnknownEdge) {
			t.Errorf("Push gives %v", err)
		}
		if _, err := w.hub.Compare(t.Context(), e.id, replication.CompareRequest{}); !errors.Is(err, replication.ErrUnknownEdge) {
			t.Errorf("Compare gives %v", err)
		}
		if err := w.hub.DropEdge(t.Context(), e.id); !errors.Is(err, replication.ErrUnknownEdge) {
			t.Errorf("DropEdge gives %v", err)
		}
		w.open()
	}
}

func TestAnEdgeOfALaterFormatIsRefused(t *testing.T) {
	w := newWorld(t, replication.HubOptions{})
	e := w.join(replication.PushAll, "*")
	for _, formats := range [][]uint64{nil, {2}, {7, 8}} {
		if _, err := w.hub.Hello(t.Context(), e.id, replication.Hello{Formats: formats}, w.now); !errors.Is(err, replication.ErrFormat) {
			t.Errorf("formats %d: %v", formats, err)
		}
	}
	if _, err := w.hub.Hello(t.Context(), e.id, replication.Hello{Formats: []uint64{2, 1}}, w.now); err != nil {
		t.Error(err)
	}
}

func TestTheHubKnowsWhoHasConfirmedARevocation(t *testing.T) {
	w := newWorld(t, replication.HubOptions{})
	north, south := w.join(replication.PushNothing, "north"), w.join(replication.PushNothing, "south")
	ada := w.user("ada", "north")
	north.sync()
	south.sync()
	must(t, w.DisableUser(t.Context(), ada.ID))
	at := w.sequence()
	check := func(step string, want int) {
		t.Helper()
		have, all, err := w.hub.Confirmed(t.Context(), at)
		if err != nil || have != want || all != 2 {
			t.Errorf("%s: %d of %d have confirmed, %v; want %d", step, have, all, err, want)
		}
	}
	check("at once", 0)
	north.next(1000)
	check("sent", 0)
	north.push(replication.PushRequest{})
	check("acknowledged", 1)
	// The other one has nothing to acknowledge.
	south.next(1000)
	check("nothing to send", 2)
	// An edge that was restored from a backup does not have it any more.
	north.feed.Close()
	north.cursor.At.Sequence = at - 1
	north.hello()
	check("restored", 1)
	north.drain()
	check("again", 2)
}

func TestTagSecretsComeWithTheStream(t *testing.T) {
	w := newWorld(t, replication.HubOptions{})
	e := w.join(replication.PushNothing, "north")
	e.sync()
	secrets := func() (n int) {
		for _, m := range e.got {
			if s, ok := m.(replication.Secrets); ok {
				n++
				if got, err := latchkey.ParseDomainSecrets(s.Export); err != nil || got.ID() != w.DomainID() {
					t.Errorf("the secrets are %v, %v", got, err)
				}
			}
		}
		e.got = nil
		return n
	}
	if n := secrets(); n != 1 {
		t.Errorf("the edge, which said nothing of its secrets, has got them %d times", n)
	}
	w.user("ada", "north")
	e.drain()
	if n := secrets(); n != 0 {
		t.Errorf("the edge has got the secrets again %d times", n)
	}
	if _, err := w.AddTagSecret(t.Context()); err != nil {
		t.Fatal(err)
	}
	e.drain()
	if n := secrets(); n != 1 {
		t.Errorf("the edge has got new secrets %d times", n)
	}
}

func TestABatchIsBounded(t *testing.T) {
	w := newWorld(t, replication.HubOptions{})
	e := w.join(replication.PushNothing, "north")
	e.sync()
	var want []string
	must(t, w.Update(t.Context(), func(tx *latchkey.Tx) error { // one commit
		for i := range 300 {
			u, err := tx.CreateUser(latchkey.UserSpec{Identity: latchkey.Identity{Provider: latchkey.ProviderCustomToken, Subject: string(rune('a'+i%26)) + string(rune('a'+i/26))}, Group: "north"})
			if err != nil {
				return err
			}
			want = append(want, usersAt(u))
		}
		return nil
	}))
	batches := 0
	for {
		b := e.next(1000)
		batches++
		if len(b.Messages) > 12 {
			t.Errorf("a batch has %d messages", len(b.Messages))
		}
		if batches%7 == 0 { // cut, in the middle of a commit
			e.feed.Close()
			if e.hello(); e.how != replication.Resume {
				t.Fatalf("the edge gets %d", e.how)
			}
			continue
		}
		if !b.More {
			break
		}
	}
	if batches < 30 {
		t.Errorf("there are %d batches", batches)
	}
	e.wantLike(want...)
}
