package replication_test

import (
	"fmt"
	"testing"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/lastuse"
	"github.com/latchkeydb/latchkey/internal/memory"
	"github.com/latchkeydb/latchkey/internal/record"
	"github.com/latchkeydb/latchkey/internal/replication"
)

// openCrowded opens a hub on a bounded engine, and an edge. A user has twenty keys.
func openCrowded(t *testing.T, push replication.Push) (w *world, e *till, ada latchkey.User, keys []latchkey.Key, restored func()) {
	t.Helper()
	engine := memory.NewEngine()
	w = openWorld(t, memory.Bound(engine, 100), replication.HubOptions{})
	ada = w.user("ada", "north")
	for i := range 20 {
		keys = append(keys, w.key(ada.ID, fmt.Sprint(i)))
	}
	e = w.join(push, "north")
	e.sync()
	backup := memory.CopyEngine(engine)
	restored = func() {
		t.Helper()
		e.w = openWorld(t, memory.Bound(backup, 100), replication.HubOptions{})
		e.hello()
	}
	return w, e, ada, keys, restored
}

func TestWhatBearsAMACComesInSeveralTransactions(t *testing.T) {
	w, e, ada, keys, restored := openCrowded(t, replication.PushNothing)
	for _, k := range keys {
		must(t, w.DisableKey(t.Context(), ada.ID, k.ID))
	}
	e.drain()
	restored()
	var r replication.PushRequest
	for _, k := range keys {
		r.Signed = append(r.Signed, e.signed[keysAt(k)])
	}
	if why := e.push(r); why != "" {
		t.Fatal(why)
	}
	for _, k := range keys {
		if k, err := e.w.Key(t.Context(), ada.ID, k.ID); err != nil || !k.Disabled {
			t.Errorf("key %s: %v, disabled %v", k.Name, err, k.Disabled)
		}
	}
}

func TestADeletedUserTakesManyKeysAlong(t *testing.T) {
	for _, how := range []string{"record", "signed", "claim"} {
		t.Run(how, func(t *testing.T) {
			w, e, ada, _, restored := openCrowded(t, replication.PushAll)
			var r replication.PushRequest
			if how == "signed" {
				must(t, w.DeleteUser(t.Context(), ada.ID))
				e.drain()
				restored()
				r.Signed = []replication.Record{e.signed[at(record.TableDeadUsers, ada.ID)]}
			} else {
				must(t, e.DeleteUser(t.Context(), ada.ID))
				r.Records = []record.Copy{e.copy(record.TableDeadUsers, ada.ID[:])}
			}
			if how == "claim" {
				r.Records, r.Claims = nil, r.Records
			}
			if why := e.push(r); why != "" {
				t.Fatal(why)
			}
			if how == "claim" {
				claims, err := e.w.hub.Claims(t.Context())
				must(t, err)
				must(t, e.w.hub.ConfirmClaim(t.Context(), claims[0].Number))
			}
			if n := len(e.w.has(record.TableKeys)); n != 0 {
				t.Errorf("%d keys are left", n)
			}
			if n := len(e.w.has(record.TableDeadKeys)); n != 20 {
				t.Errorf("%d keys left tombstones, want 20", n)
			}
		})
	}
}

func TestAPushThatIsTooLargeForOneTransactionIsRefused(t *testing.T) {
	w, e, _, _, _ := openCrowded(t, replication.PushAll)
	var keys []latchkey.Key
	for i := range 100 {
		keys = append(keys, w.serverKey(fmt.Sprint("server ", i), "north"))
	}
	e.drain()
	var all []record.Copy
	for _, k := range keys {
		must(t, e.DisableKey(t.Context(), latchkey.ServerOwner, k.ID))
		all = append(all, e.copy(record.TableKeys, k.ID[:]))
	}
	if e.push(replication.PushRequest{Records: all}) == "" {
		t.Error("the push was taken")
	}
	for _, c := range all[:10] {
		if k, err := w.Key(t.Context(), latchkey.ServerOwner, [16]byte(c.Key)); err != nil || k.Disabled {
			t.Errorf("a part of it was taken: %v, disabled %v", err, k.Disabled)
		}
		if why := e.push(replication.PushRequest{Records: []record.Copy{c}}); why != "" {
			t.Errorf("one record: %s", why)
		}
	}
}

func TestUsesComeInSeveralTransactions(t *testing.T) {
	w, e, _, _, _ := openCrowded(t, replication.PushUse)
	var r replication.PushRequest
	var keys []latchkey.Key
	for i := range 120 {
		k := w.serverKey(fmt.Sprint("server ", i), "north")
		c := w.copy(record.TableKeys, k.ID[:])
		stored, err := record.Unseal(c.Table, c.Key, c.Sealed, record.DecodeKey)
		must(t, err)
		id := lastuse.Join(k.ID, stored.Verifiers.All[0].ID)
		r.Uses = append(r.Uses, record.Copy{Domain: c.Domain, Table: record.TableLastUse, Key: id[:],
			Sealed: record.Seal(record.TableLastUse, id[:], record.EncodeLastUse(uint32(day0.Unix()/60)))})
		keys = append(keys, k)
	}
	if why := e.push(r); why != "" {
		t.Fatal(why)
	}
	for _, k := range keys {
		if k, err := w.Key(t.Context(), latchkey.ServerOwner, k.ID); err != nil || k.LastUsed.IsZero() {
			t.Errorf("key %s: %v, last used %v", k.Name, err, k.LastUsed)
		}
	}
}
