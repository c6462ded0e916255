package replication

import (
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/access"
	"github.com/latchkeydb/latchkey/internal/merge"
	"github.com/latchkeydb/latchkey/internal/record"
)

func TestTheStateOfAnEdgeReadsBackAsItWasWritten(t *testing.T) {
	at := Cursor{Incarnation: uuid.UUID{1}, Era: uuid.UUID{2}, At: merge.Position{Sequence: 3}, Policy: 4, Copying: record.TableKeys, CopyKey: []byte{5}}
	for _, s := range []state{
		{},
		{
			id: uuid.UUID{6}, cursor: at, policy: allOfIt, offset: -7 * time.Hour, word: now, resets: 8, merging: true, reindex: true,
			compare: true, bring: true, brought: []byte{9}, used: 10, self: uuid.UUID{12},
		},
		{offset: 11 * time.Millisecond, bring: true},
	} {
		if got, err := decodeState(s.encode()); err != nil || !reflect.DeepEqual(got, s) {
			t.Errorf("%+v reads back as\n%+v, %v", s, got, err)
		}
	}
}

func TestACopyHasEverythingOfAHubButNumbersOfCommits(t *testing.T) {
	id := uuid.UUID{1}
	k := edgeRecord{
		id: id, name: "till", policy: Policy{Groups: []string{"north"}, Push: PushAll, Version: 1}, groupsAt: 2, joined: now, seen: now, build: "3",
		cursor: Cursor{Incarnation: uuid.UUID{4}, At: merge.Position{Sequence: 5}}, confirmed: 6, heard: 7, dropped: true, cloned: now, compared: now,
		matched: true, refusals: 8, refusal: "9", refused: now, replica: uuid.UUID{10}, visits: 11, stream: uuid.UUID{12},
	}
	s := hubState{claims: 1, eras: 2, floor: 3, floorTime: now, news: 4, random: [8]byte{5}}
	renumbered := func(key []byte, m record.Message) []byte {
		t.Helper()
		sealed, err := record.Renumbered(key, record.Seal(record.TableReplica, key, m))
		must(t, err)
		message, err := record.Open(record.TableReplica, key, sealed)
		must(t, err)
		return message
	}
	gotEdge, err := decodeEdge(id[:], renumbered(edgeKey(id), k.encode()))
	must(t, err)
	if k.cursor, k.confirmed, k.heard, k.stream = (Cursor{}), 0, 0, uuid.Nil; !reflect.DeepEqual(gotEdge, k) {
		t.Errorf("got the edge %+v, want %+v", gotEdge, k)
	}
	gotState, err := decodeHubState(renumbered([]byte(localState), s.encode()))
	must(t, err)
	if s.floor = 0; gotState != s {
		t.Errorf("got the state %+v, want %+v", gotState, s)
	}
}

func TestAnEdgeThatWasSalvagedCompares(t *testing.T) {
	for name, lost := range map[string]bool{"salvaged": true, "not salvaged": false} {
		c := newCenter(t, allOfIt)
		populate(t, c, nil)
		d := openDevice(t, c.Store)
		d.mustSync(c)
		user := userID(t, d.Store, "user0")
		must(t, d.faulty.Update(t.Context(), func(tables *merge.Tables) error {
			s := d.now()
			if lost {
				s.self = uuid.UUID{1} // the store had another replica ID then
			}
			if err := putLocal(tables, []byte(edgeState), s.encode()); err != nil {
				return err
			}
			return tables.Forget(record.TableUsers, user[:])
		}))
		d.restart()
		d.mustSync(c)
		if _, err := d.User(t.Context(), user); (err == nil) != lost {
			t.Errorf("%s: the user that was lost: %v", name, err)
		}
	}
}

func TestAnEdgeKnowsThatItsDomainHasSeveralStores(t *testing.T) {
	d := openDevice(t, openSource(t).Store)
	must(t, access.Of(d.Store).View(t.Context(), func(tables *merge.Tables) error {
		if !record.IsShared(func(key []byte) ([]byte, error) { return tables.Get(record.TableMeta, key) }) {
			t.Error("it does not")
		}
		return nil
	}))
}

func TestAnEdgeListsTheRangesThatDiffer(t *testing.T) {
	hub := openSource(t)
	ada, bob := addUser(t, hub.Store, "ada", ""), addUser(t, hub.Store, "bob", "")
	must(t, hub.DeleteUser(t.Context(), bob))
	d := openDevice(t, hub.Store)
	d.receive(hub.welcome(allOfIt))
	d.receive(hub.records()...)
	must(t, d.DisableUser(t.Context(), ada))
	users := func(id uuid.UUID) Summary {
		return Summary{Table: record.TableUsers, Range: RangeOf(record.TableUsers, id[:])}
	}
	if users(ada) == users(bob) {
		t.Skip("the two users are in one range, which happens once in 256 runs")
	}

	asked, err := d.Compare(t.Context())
	must(t, err)
	if len(asked.Summaries) != 1 || asked.Summaries[0].Count != 1 || asked.Summaries[0].Range != users(ada).Range {
		t.Fatalf("the sums are %+v", asked.Summaries)
	}
	asked.Summaries[0].Count = listedAtOnce + 1 // so that the next range is for another request
	mark := hub.at
	mark.At.Sequence++
	next, err := d.Compared(t.Context(), asked, CompareReply{Differ: []Summary{users(ada), users(bob)}, Messages: []Message{Mark{mark}}}, now)
	must(t, err)
	want := func(id uuid.UUID, table string, own bool) {
		t.Helper()
		if next == nil || len(next.Listed) != 1 || next.Listed[0] != users(id) || len(next.Items) != 1 ||
			next.Items[0].Table != table || next.Items[0].Own != own || !next.Items[0].Signed {
			t.Fatalf("the edge lists %+v", next)
		}
	}
	want(ada, record.TableUsers, true)
	forget := []Message{Forget{record.TableUsers, make([]byte, 16)}}
	next, err = d.Compared(t.Context(), *next, CompareReply{Messages: forget, More: true}, now)
	must(t, err)
	want(ada, record.TableUsers, true) // again
	next, err = d.Compared(t.Context(), *next, CompareReply{}, now)
	must(t, err)
	want(bob, record.TableDeadUsers, false)
	if sameCursor(d.Hello().Cursor, mark) {
		t.Error("the cursor has moved before the comparison is over")
	}
	if _, err := d.Compared(t.Context(), *next, CompareReply{Messages: []Message{Mark{mark}}}, now); !errors.Is(err, ErrMessage) {
		t.Errorf("a Mark in a later reply: %v, want ErrMessage", err)
	}
	next, err = d.Compared(t.Context(), *next, CompareReply{}, now)
	must(t, err)
	if next != nil || !sameCursor(d.Hello().Cursor, mark) {
		t.Errorf("then it asks %+v, and its cursor is %+v", next, d.Hello().Cursor)
	}
	if _, err := d.Compared(t.Context(), CompareRequest{}, CompareReply{Refused: "another policy"}, now); !errors.Is(err, ErrAgain) {
		t.Errorf("refused: %v, want ErrAgain", err)
	}
}

func TestWhatIsNoBodyIsRefused(t *testing.T) {
	mark := Mark{Cursor{At: merge.Position{Sequence: 1}}}
	forget := Forget{record.TableUsers, make([]byte, 16)}
	for name, tt := range map[string]struct {
		body []byte
		want error
	}{
		"nothing":                          {nil, ErrMessage},
		"format 0":                         {[]byte{0}, ErrMessage},
		"a later format":                   {[]byte{Format + 1}, ErrNewer},
		"too many bytes":                   {append([]byte{Format}, make([]byte, MaxBody)...), ErrMessage},
		"a Mark among other messages":      {CompareReply{Messages: []Message{forget, mark}}.Encode(), ErrMessage},
		"a message that only streams have": {CompareReply{Messages: []Message{Cloned{}}}.Encode(), ErrMessage},
	} {
		if _, err := DecodeCompareReply(tt.body); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
}
