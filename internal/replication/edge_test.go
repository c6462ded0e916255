package replication

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/access"
	"github.com/latchkeydb/latchkey/internal/merge"
	"github.com/latchkeydb/latchkey/internal/record"
)

func TestAnEdgeTakesWhatTheHubHas(t *testing.T) {
	hub := openSource(t)
	ada := addUser(t, hub.Store, "ada", "north")
	key, token := addKey(t, hub.Store, ada, "laptop")
	d := openDevice(t, hub.Store)
	d.receive(hub.welcome(allOfIt))
	d.receive(hub.records()...)
	wantLogin(t, d.Store, token, nil)
	must(t, hub.DisableKey(t.Context(), ada, key))
	d.receive(hub.records()...)
	wantLogin(t, d.Store, token, latchkey.ErrKeyDisabled)
	must(t, hub.DeleteUser(t.Context(), ada))
	d.receive(hub.records()...)
	wantLogin(t, d.Store, token, latchkey.ErrInvalidToken)
	wantSame(t, hub.Store, d.Store)

	d.restart()
	if h := d.Hello(); !sameCursor(h.Cursor, hub.at) || h.Policy != 1 || h.Replica != d.ReplicaID() || !slices.Equal(h.Formats, []uint64{Format}) {
		t.Errorf("after a restart the edge says %+v", h)
	}
	wantWords(t, d.pushes()) // nothing was changed here
}

func sameCursor(a, b Cursor) bool { return bytes.Equal(encodeCursor(a), encodeCursor(b)) }

func TestACursorNeverStandsBeyondWhatHasCome(t *testing.T) {
	hub := openSource(t)
	for i := range atOnce { // so that the Mark is in a second transaction
		addUser(t, hub.Store, "user"+string(rune('a'+i%26))+strings.Repeat("x", i/26), "")
	}
	messages := hub.records()
	for _, commit := range []bool{false, true} {
		for after := range 3 {
			d := openDevice(t, hub.Store)
			d.receive(hub.welcome(allOfIt))
			d.faulty.left, d.faulty.commit = after, commit
			err := d.Receive(t.Context(), messages, now)
			d.restart()
			has := len(contents(t, d.Store)) == len(contents(t, hub.Store))
			if at := d.Hello().Cursor; sameCursor(at, hub.at) && !has {
				t.Errorf("fault %d: the cursor is %+v, and records are missing", after, at)
			}
			if after < 2 && !errors.Is(err, errFault) || after == 2 && err != nil {
				t.Errorf("fault %d: %v", after, err)
			}
			d.receive(messages...)
			wantSame(t, hub.Store, d.Store)
		}
	}
}

func TestARecordOfAnotherDomainEndsTheStream(t *testing.T) {
	hub, other := openSource(t), openSource(t)
	addUser(t, other.Store, "ada", "")
	d := openDevice(t, hub.Store)
	if err := d.Receive(t.Context(), other.records(), now); !errors.Is(err, ErrMessage) {
		t.Errorf("Receive: %v, want ErrMessage", err)
	}
	if len(contents(t, d.Store)) > 0 {
		t.Error("the record was taken")
	}
}

func TestARecordThatCannotBeMergedHoldsUpNoOther(t *testing.T) {
	hub := openSource(t)
	ada, bob := addUser(t, hub.Store, "ada", ""), addUser(t, hub.Store, "bob", "")
	d := openDevice(t, hub.Store)
	d.receive(hub.records()...)
	must(t, hub.DisableUser(t.Context(), ada))
	must(t, hub.DisableUser(t.Context(), bob))
	messages := hub.records()
	messages = slices.Insert(messages, 1, Message(Record{Copy: record.Copy{
		Domain: hub.DomainID(), Table: record.TableGroups, Key: []byte("*"), Sealed: record.Seal(record.TableGroups, []byte("*"), nil),
	}}))
	d.receive(messages...)
	wantSame(t, hub.Store, d.Store)
	s, err := d.Status(t.Context())
	must(t, err)
	if !errors.Is(s.Skipped, merge.ErrInvalid) || !sameCursor(s.Cursor, hub.at) {
		t.Errorf("the status is %+v", s)
	}
}

func TestForgottenRecordsLeaveNothing(t *testing.T) {
	hub := openSource(t)
	ada := addUser(t, hub.Store, "ada", "north")
	key, token := addKey(t, hub.Store, ada, "laptop")
	must(t, hub.DisableKey(t.Context(), ada, key))
	must(t, hub.EnableKey(t.Context(), ada, key))
	d := openDevice(t, hub.Store)
	d.receive(hub.records()...)
	wantLogin(t, d.Store, token, nil)
	d.receive(Forget{record.TableUsers, ada[:]})
	wantLogin(t, d.Store, token, latchkey.ErrInvalidToken)
	if left := contents(t, d.Store); len(left) > 0 {
		t.Errorf("%d records are left", len(left))
	}
	must(t, access.Of(d.Store).View(t.Context(), func(tables *merge.Tables) error {
		return scanLocal(tables, edgeSigned, func(key, _ []byte) error {
			t.Errorf("a signed copy is left: %x", key)
			return nil
		})
	}))
	d.receive(hub.records()...) // forgetting can be undone
	wantLogin(t, d.Store, token, nil)
}

func TestAReplacedRecordIsTheHubs(t *testing.T) {
	hub := openSource(t)
	ada := addUser(t, hub.Store, "ada", "")
	d := openDevice(t, hub.Store)
	d.receive(hub.welcome(withPush(PushNothing)))
	d.receive(hub.records()...)
	must(t, d.DisableUser(t.Context(), ada))
	replace := Replace{Copy: *copyOf(t, hub.Store, record.TableUsers, ada[:])}

	d.receive(replace) // which was sent before the hub heard of the disabling
	if u, err := d.User(t.Context(), ada); err != nil || !u.Disabled {
		t.Errorf("the disabling that the hub does not know is gone: %v", err)
	}
	wantWords(t, d.pushes(), "claim users")
	d.receive(replace)
	if u, err := d.User(t.Context(), ada); err != nil || u.Disabled {
		t.Errorf("the record was not replaced: %v", err)
	}
	wantSame(t, hub.Store, d.Store)
	d.receive(Replace{Copy: record.Copy{Table: record.TableUsers, Key: ada[:]}})
	if _, err := d.User(t.Context(), ada); !errors.Is(err, latchkey.ErrUserNotFound) {
		t.Errorf("replaced by nothing: %v", err)
	}
}

func TestAReplacedRecordHasTheRevocationThatTheHubHasYetToGet(t *testing.T) {
	hub := openSource(t)
	ada := addUser(t, hub.Store, "ada", "")
	former := *copyOf(t, hub.Store, record.TableUsers, ada[:])
	must(t, hub.DisableUser(t.Context(), ada))
	for name, replace := range map[string]Replace{"by a former version": {Copy: former}, "by nothing": {Copy: record.Copy{Table: record.TableUsers, Key: ada[:]}}} {
		t.Run(name, func(t *testing.T) {
			d := openDevice(t, hub.Store)
			d.receive(hub.welcome(withPush(PushNothing)))
			d.receive(hub.records()...)
			restored := hub.welcome(withPush(PushNothing))
			restored.How, restored.At.Era = CompareFirst, uuid.UUID{2}
			d.receive(restored, replace)
			if u, err := d.User(t.Context(), ada); len(replace.Copy.Sealed) > 0 && (err != nil || !u.Disabled) {
				t.Errorf("the disabling is gone: %v", err)
			}
			wantWords(t, d.pushes(), "signed users")
		})
	}
}

func TestAReplacedRecordThatIsPendingHasTheHubsRevocation(t *testing.T) {
	hub := openSource(t)
	user := addUser(t, hub.Store, "ada", "")
	key, _ := addKey(t, hub.Store, user, "laptop")
	_, token, err := hub.RotateKey(t.Context(), user, key, latchkey.Rotation{Overlap: time.Hour, UntilUsed: true})
	must(t, err)
	d := openDevice(t, hub.Store)
	d.receive(hub.welcome(withPush(PushUse)))
	d.receive(hub.records()...)
	wantLogin(t, hub.Store, token, nil)
	must(t, hub.DisableKey(t.Context(), user, key))
	replace := Replace(hub.signed(*copyOf(t, hub.Store, record.TableKeys, key[:])))

	wantLogin(t, d.Store, token, nil) // while the hub's version is on its way
	d.receive(replace)
	wantLogin(t, d.Store, token, latchkey.ErrKeyDisabled)
	wantWords(t, d.pushes(), "record keys") // which is no news to the hub, so no answer comes
	wantSame(t, hub.Store, d.Store)
}

func TestTheHubsTimeIsAnOffset(t *testing.T) {
	hub := openSource(t)
	d := openDevice(t, hub.Store)
	ahead := now.Add(50 * time.Hour)
	w := hub.welcome(allOfIt)
	w.Time = ahead
	d.receive(w)
	d.receive(Beat{Time: ahead})
	calls := d.faulty.calls
	for range 100 {
		d.receive(Beat{Time: ahead})
	}
	if n := d.faulty.calls - calls; n > 0 {
		t.Errorf("100 beats were written %d times", n)
	}
	if d.Offset() != 50*time.Hour || !d.LastWord().Equal(now) {
		t.Errorf("offset %s, last word %s", d.Offset(), d.LastWord())
	}
	later := now.Add(keepWord)
	must(t, d.Receive(t.Context(), []Message{Beat{Time: ahead.Add(keepWord)}}, later))
	d.restart()
	if d.Offset() != 50*time.Hour || !d.LastWord().Equal(later) {
		t.Errorf("after a restart: offset %s, last word %s", d.Offset(), d.LastWord())
	}
	must(t, d.Receive(t.Context(), []Message{Beat{Time: ahead.Add(-200 * time.Hour)}}, later))
	d.restart()
	if want := -150*time.Hour - keepWord; d.Offset() != want {
		t.Errorf("the offset is %s, want %s", d.Offset(), want)
	}
}

func TestAnEdgeResetsItsClockWhenTheHubHas(t *testing.T) {
	hub := openSource(t)
	d := openDevice(t, hub.Store)
	resets := func() uint64 {
		stats, err := d.Stats(t.Context())
		must(t, err)
		return stats.ClockResets
	}
	d.receive(hub.welcome(allOfIt))
	first := resets()
	if first != 1 {
		t.Errorf("%d resets at the first word, want 1", first)
	}
	d.receive(Beat{Time: now}, Beat{Time: now, Resets: 1}, Beat{Time: now, Resets: 1})
	d.restart()
	d.receive(Beat{Time: now, Resets: 1})
	if n := resets() - first; n != 1 {
		t.Errorf("%d resets, want 1", n)
	}
}

func TestTagSecretsComeFromTheHub(t *testing.T) {
	hub := openSource(t)
	d := openDevice(t, hub.Store)
	before := d.Hello().Tags
	number, err := hub.AddTagSecret(t.Context())
	must(t, err)
	d.receive(Secrets{hub.DomainSecrets().Export()})
	must(t, hub.UseTagSecret(t.Context(), number))
	d.receive(Secrets{hub.DomainSecrets().Export()})
	if after := d.Hello().Tags; bytes.Equal(after, before) || len(after) != sizeTags {
		t.Errorf("the edge says %x", after)
	}
	d.receive(hub.welcome(allOfIt))
	ada := addUser(t, hub.Store, "ada", "")
	_, token := addKey(t, hub.Store, ada, "laptop")
	d.receive(hub.records()...)
	wantLogin(t, d.Store, token, nil)
	want, err := OpenEdge(t.Context(), access.Of(hub.Store))
	must(t, err)
	if !bytes.Equal(want.Hello().Tags, d.Hello().Tags) {
		t.Error("hub and edge do not say the same of their tag secrets")
	}
}

func TestAnEdgeGoesOnWithAHubThatHasLostATagSecret(t *testing.T) {
	hub := openSource(t)
	restored := openStore(t, &latchkey.Options{Domain: hub.DomainSecrets()}) // a backup of now
	d := openDevice(t, hub.Store)
	use := func(s *latchkey.Store) {
		number, err := s.AddTagSecret(t.Context())
		must(t, err)
		must(t, s.UseTagSecret(t.Context(), number))
	}
	use(hub.Store)
	d.receive(Secrets{hub.DomainSecrets().Export()})
	use(restored) // another secret with the same number
	d.receive(Secrets{restored.DomainSecrets().Export()})
	if got, want := d.DomainSecrets().Export(), restored.DomainSecrets().Export(); !bytes.Equal(got, want) {
		t.Error("hub and edge have different secrets")
	}
}

func TestACloneIsShown(t *testing.T) {
	hub := openSource(t)
	d := openDevice(t, hub.Store)
	d.receive(Cloned{}, NextPin{make([]byte, sizePin)})
	if s, err := d.Status(t.Context()); err != nil || !s.Cloned || len(s.NextPin) != sizePin {
		t.Errorf("the status is %+v, %v", s, err)
	}
}

// copying returns a first copy of what a store has, in messages of one page each.
func (h *source) copying() (pages [][]Message) {
	h.t.Helper()
	must(h.t, access.Of(h.Store).View(h.t.Context(), func(t *merge.Tables) error {
		h.at.At = merge.Position{Sequence: t.Sequence()}
		at := h.at
		for i, table := range merge.CopiedTables() {
			for after := []byte(nil); ; {
				p, err := t.CopyTable(table, after, 400, func(string, []byte, []byte) (bool, error) { return true, nil })
				if err != nil {
					return err
				}
				var page []Message
				for _, e := range p.Entries {
					page = append(page, Entry{Table: table, Key: e.Key, Value: e.Value})
				}
				at.Copying, at.CopyKey = table, p.Last
				if after = p.Last; after == nil {
					at.Copying = ""
					if i+1 < len(merge.CopiedTables()) {
						at.Copying = merge.CopiedTables()[i+1]
					}
				}
				pages = append(pages, append(page, Mark{at}))
				if after == nil {
					break
				}
			}
		}
		return nil
	}))
	return pages
}

func (h *source) copyWelcome() Welcome {
	w := h.welcome(allOfIt)
	w.How, w.At.At, w.At.Copying = FirstCopy, h.at.At, merge.CopiedTables()[0]
	return w
}

// inhabited is a source with users, keys and tombstones.
func inhabited(t testing.TB) (h *source, ada uuid.UUID, token string) {
	t.Helper()
	h = openSource(t)
	ada = addUser(t, h.Store, "ada", "north")
	key, token := addKey(t, h.Store, ada, "laptop")
	must(t, h.DisableKey(t.Context(), ada, key))
	must(t, h.EnableKey(t.Context(), ada, key))
	for _, name := range []string{"bob", "carol", "dave"} {
		user := addUser(t, h.Store, name, "south")
		addKey(t, h.Store, user, "phone")
		addKey(t, h.Store, user, "tablet")
	}
	must(t, h.DeleteUser(t.Context(), addUser(t, h.Store, "erin", "")))
	must(t, h.DisableGroup(t.Context(), "south"))
	return h, ada, token
}

func TestAFirstCopyBringsTables(t *testing.T) {
	hub, _, token := inhabited(t)
	d := openDevice(t, hub.Store)
	pages := hub.copying()
	d.receive(hub.copyWelcome())
	for _, page := range pages {
		d.receive(page...)
	}
	wantSame(t, hub.Store, d.Store)
	wantLogin(t, d.Store, token, nil)
	if s, err := d.Status(t.Context()); err != nil || s.Copying || !sameCursor(s.Cursor, hub.at) {
		t.Errorf("the status is %+v, %v", s, err)
	}
}

func TestAFirstCopyGoesOnWhereItWasCut(t *testing.T) {
	hub, _, token := inhabited(t)
	pages := hub.copying()
	for cut := range len(pages) {
		for _, commit := range []bool{false, true} {
			d := openDevice(t, hub.Store)
			d.receive(hub.copyWelcome())
			for _, page := range pages[:cut] {
				d.receive(page...)
				must(t, d.writeCopied(t.Context(), nil)) // as when there are many more
			}
			d.faulty.left, d.faulty.commit = 0, commit
			_ = d.Receive(t.Context(), pages[cut], now)
			_ = d.writeCopied(t.Context(), nil)
			d.restart()

			w := hub.copyWelcome()
			w.At = d.Hello().Cursor
			if w.At.Copying == "" { // the last page was on disk
				wantSame(t, hub.Store, d.Store)
				continue
			}
			d.receive(w)
			for _, page := range pages {
				d.receive(behind(page, w.At)...)
			}
			wantSame(t, hub.Store, d.Store)
			wantLogin(t, d.Store, token, nil)
		}
	}
}

// behind returns the part of a page of a first copy behind a cursor.
func behind(page []Message, at Cursor) (left []Message) {
	place := func(table string, key []byte) string {
		i := slices.Index(merge.CopiedTables(), table)
		return string(rune('a'+i)) + string(key)
	}
	for _, m := range page {
		switch m := m.(type) {
		case Entry:
			if place(m.Table, m.Key) <= place(at.Copying, at.CopyKey) && (m.Table != at.Copying || at.CopyKey != nil) {
				continue
			}
			left = append(left, m)
		case Mark:
			if m.At.Copying != "" && place(m.At.Copying, m.At.CopyKey) < place(at.Copying, at.CopyKey) {
				continue
			}
			left = append(left, m)
		}
	}
	return left
}

func TestAFirstCopyIntoAStoreWithRecordsMerges(t *testing.T) {
	hub, ada, token := inhabited(t)
	d := openDevice(t, hub.Store)
	var ofAda []Message
	for _, c := range hub.copies() {
		if bytes.Equal(c.Key, ada[:]) {
			ofAda = append(ofAda, Record{Copy: c})
		}
	}
	d.receive(hub.welcome(withPush(PushNothing)))
	d.receive(ofAda...)
	must(t, d.DisableUser(t.Context(), ada))
	pages := hub.copying()
	d.receive(hub.copyWelcome())
	for _, page := range pages {
		d.receive(page...)
	}
	if u, err := d.User(t.Context(), ada); err != nil || !u.Disabled {
		t.Errorf("the disabling that was made here is gone: %v", err)
	}
	wantLogin(t, d.Store, token, latchkey.ErrUserDisabled)
}

func TestAChangeInTheMiddleOfAFirstCopyIsNotLost(t *testing.T) {
	hub, _, token := inhabited(t)
	d := openDevice(t, hub.Store)
	pages := hub.copying()
	d.receive(hub.copyWelcome())
	err := error(nil)
	for _, page := range pages {
		if err = d.Receive(t.Context(), page, now); err != nil {
			break
		}
		if m, ok := page[len(page)-1].(Mark); ok && m.At.Copying == record.TableIdentities {
			must(t, d.writeCopied(t.Context(), nil))
			addUser(t, d.Store, "frank", "west")
		}
	}
	if err == nil {
		t.Fatal("the entries were written over what was made here")
	}
	w := hub.copyWelcome()
	w.At = d.Hello().Cursor
	if w.At.Copying != merge.CopiedTables()[0] || w.At.CopyKey != nil {
		t.Fatalf("the copy goes on at %+v", w.At)
	}
	d.restart()
	d.receive(w)
	for _, page := range pages {
		d.receive(page...)
	}
	wantLogin(t, d.Store, token, nil)
	if len(contents(t, d.Store)) != len(contents(t, hub.Store))+3 {
		t.Errorf("the edge has %d records, and the hub %d", len(contents(t, d.Store)), len(contents(t, hub.Store)))
	}
	wantWords(t, d.pushes(), "record users")
}

func TestAnIdentityThatWasGoneDuringAFirstCopyIsFound(t *testing.T) {
	hub := openSource(t)
	ada := addUser(t, hub.Store, "ada", "")
	other := latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: "ada2"}
	_, err := hub.LinkIdentity(t.Context(), ada, other)
	must(t, err)
	d := openDevice(t, hub.Store)
	before := hub.copying()
	_, err = hub.UnlinkIdentity(t.Context(), ada, other)
	must(t, err)
	after := hub.copying()
	_, err = hub.LinkIdentity(t.Context(), ada, other)
	must(t, err)

	d.receive(hub.copyWelcome())
	indexes := false
	for i := range before {
		page := before[i]
		if indexes {
			page = after[i]
		}
		d.receive(page...)
		if m, ok := page[len(page)-1].(Mark); ok && m.At.Copying == record.TableIdentities {
			indexes = true
		}
	}
	d.receive(hub.records()...)
	wantSame(t, hub.Store, d.Store)
}

func TestAnEdgeThatMustCompareInsteadOfCopyingHasItsIndexes(t *testing.T) {
	hub, _, token := inhabited(t)
	d := openDevice(t, hub.Store)
	d.receive(hub.copyWelcome())
	for _, page := range hub.copying() {
		if m, ok := page[len(page)-1].(Mark); ok && m.At.Copying == record.TableIdentities {
			d.receive(page...)
			break
		}
		d.receive(page...)
	}
	must(t, d.writeCopied(t.Context(), nil))
	// The records are merged from now on, but the stream has reached none of them.
	if err := d.copyAgain(t.Context(), merge.ErrInvalid); err == nil {
		t.Error("the stream goes on")
	}
	w := hub.welcome(allOfIt)
	w.How = CompareFirst
	d.receive(w)
	wantSame(t, hub.Store, d.Store)
	wantLogin(t, d.Store, token, nil)
}
