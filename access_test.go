package latchkey_test

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/access"
	"github.com/latchkeydb/latchkey/internal/merge"
	"github.com/latchkeydb/latchkey/internal/record"
)

// below runs fn in a write transaction of the tables of a store.
func below(t testing.TB, s *latchkey.Store, fn func(tables *merge.Tables) error) {
	t.Helper()
	must(t, access.Of(s).Update(t.Context(), fn))
}

// sealed returns the record of a user or key.
func sealed(t testing.TB, s *latchkey.Store, table string, id uuid.UUID) (c record.Copy) {
	t.Helper()
	must(t, access.Of(s).View(t.Context(), func(tables *merge.Tables) error {
		value, err := tables.Get(table, id[:])
		c = record.Copy{Domain: s.DomainID(), Table: table, Key: id[:], Sealed: value}
		return err
	}))
	return c
}

func TestAForgottenUserIsRefusedAtOnceAndCanComeBack(t *testing.T) {
	hub := open(t)
	ada := addUser(t, hub, "ada")
	key, token := addKey(t, hub, ada, "laptop")
	server, serverToken, err := hub.CreateServerKey(t.Context(), latchkey.KeySpec{Name: "backup", Group: "home"})
	must(t, err)
	var actions []string
	opts := light()
	opts.OnChange = func(tx *latchkey.Tx, c latchkey.Change) error {
		for _, a := range c.Actions {
			actions = append(actions, string(a))
		}
		return nil
	}
	edge := replicaOf(t, hub, opts)
	send(t, hub, edge)
	wantLogin(t, edge, token, key.ID)
	wantLogin(t, edge, serverToken, server.ID)
	actions = nil

	below(t, edge, func(tables *merge.Tables) error {
		return errors.Join(tables.Forget(record.TableUsers, ada[:]), tables.Forget(record.TableKeys, server.ID[:]))
	})
	wantRefused(t, edge, token, latchkey.ErrInvalidToken)
	wantRefused(t, edge, serverToken, latchkey.ErrInvalidToken)
	if want := []string{"key.forgotten", "user.forgotten", "key.forgotten"}; !slices.Equal(actions, want) {
		t.Errorf("the hook was told %q, want %q", actions, want)
	}
	if left := exported(t, edge); left != "" {
		t.Errorf("the edge gives others %s", left)
	}

	send(t, hub, edge)
	wantLogin(t, edge, token, key.ID)
	wantLogin(t, edge, serverToken, server.ID)
	wantAgree(t, hub, edge)
}

func TestAReplacedRecordIsInEffectAtOnce(t *testing.T) {
	hub := open(t)
	ada := addUser(t, hub, "ada")
	key, token := addKey(t, hub, ada, "laptop")
	edge := replicaOf(t, hub, nil)
	send(t, hub, edge)
	was := sealed(t, hub, record.TableKeys, key.ID)

	must(t, edge.DisableKey(t.Context(), ada, key.ID))
	wantRefused(t, edge, token, latchkey.ErrKeyDisabled)
	below(t, edge, func(tables *merge.Tables) error { return tables.Replace(was) })
	wantLogin(t, edge, token, key.ID)

	must(t, hub.DisableKey(t.Context(), ada, key.ID))
	below(t, edge, func(tables *merge.Tables) error { return tables.Replace(sealed(t, hub, record.TableKeys, key.ID)) })
	wantRefused(t, edge, token, latchkey.ErrKeyDisabled)

	must(t, edge.DeleteUser(t.Context(), ada))
	wantRefused(t, edge, token, latchkey.ErrInvalidToken)
	below(t, edge, func(tables *merge.Tables) error {
		return errors.Join(tables.Replace(sealed(t, hub, record.TableUsers, ada)), tables.Replace(was))
	})
	wantLogin(t, edge, token, key.ID)
}

func TestAFirstCopyMakesAStoreThatAgrees(t *testing.T) {
	hub := open(t)
	var tokens []string
	for i := range 20 {
		user := addUser(t, hub, fmt.Sprint("user", i))
		_, token := addKey(t, hub, user, "laptop")
		tokens = append(tokens, token)
		must(t, hub.SetUserGroup(t.Context(), user, "home"))
		if i == 7 {
			must(t, hub.DeleteUser(t.Context(), user))
		}
	}
	admin, adminToken, err := hub.CreateServerKey(t.Context(), latchkey.KeySpec{Name: "admin", Group: "home", Scopes: latchkey.NewScopes("latchkey:admin")})
	must(t, err)
	must(t, hub.DisableGroup(t.Context(), "attic"))
	recordsOf(t, hub) // so that the hub knows of another store

	opts := light()
	opts.Domain = hub.DomainSecrets()
	called := false
	opts.OnChange = func(tx *latchkey.Tx, c latchkey.Change) error { called = true; return nil }
	edge := openWith(t, opts)
	for _, table := range merge.CopiedTables() {
		for after := []byte(nil); ; {
			var p merge.Page
			must(t, access.Of(hub).View(t.Context(), func(tables *merge.Tables) (err error) {
				p, err = tables.CopyTable(table, after, 1000, func(string, []byte, []byte) (bool, error) { return true, nil })
				return err
			}))
			below(t, edge, func(tables *merge.Tables) error { return tables.PutEntries(table, p.Entries) })
			if after = p.Last; after == nil {
				break
			}
		}
	}
	for i, token := range tokens {
		if i == 7 {
			wantRefused(t, edge, token, latchkey.ErrInvalidToken)
			continue
		}
		_, err := edge.Login(t.Context(), token)
		must(t, err)
	}
	wantLogin(t, hub, adminToken, admin.ID)
	wantRefused(t, edge, adminToken, latchkey.ErrInvalidToken)
	if called {
		t.Error("the hook was called for the first copy")
	}
	if in, there := exported(t, hub), exported(t, edge); in != there {
		t.Errorf("the stores disagree:\n%s\n\n%s", in, there)
	}
}

// isShared reports whether a store knows that its domain has several stores.
func isShared(t testing.TB, s *latchkey.Store) (shared bool) {
	t.Helper()
	must(t, access.Of(s).View(t.Context(), func(tables *merge.Tables) error {
		shared = record.IsShared(func(key []byte) ([]byte, error) { return tables.Get(record.TableMeta, key) })
		return nil
	}))
	return shared
}

func TestSalvageKeepsWhatReplicationNeeds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	s := openFile(t, path, light())
	ada := addUser(t, s, "ada")
	key, token := addKey(t, s, ada, "laptop")
	other, otherToken := addKey(t, s, ada, "phone")
	entries := []record.Copy{
		{Table: record.TableReplica, Key: []byte("secret"), Sealed: record.Seal(record.TableReplica, []byte("secret"), []byte("of the hub"))},
		{Table: record.TableLater, Key: merge.LaterKey(record.TableKeys, key.ID[:]), Sealed: record.SealAs(record.Version+1, record.TableKeys, key.ID[:], []byte("unreadable"))},
	}
	below(t, s, func(tables *merge.Tables) error {
		for _, e := range entries {
			must(t, tables.Put(e.Table, e.Key, e.Sealed))
		}
		return nil
	})
	if isShared(t, s) {
		t.Error("a store that is alone knows of others, so this test shows nothing")
	}
	closeStore(t, s)

	report, salvaged := salvage(t, path)
	if want := (latchkey.SalvageReport{Users: 1, Keys: 2}); report != want {
		t.Errorf("got %+v, want %+v", report, want)
	}
	if !isShared(t, salvaged) {
		t.Error("the salvaged store forgets what merging with an older copy needs")
	}
	for _, e := range entries {
		must(t, access.Of(salvaged).View(t.Context(), func(tables *merge.Tables) error {
			got, err := tables.Get(e.Table, e.Key)
			if !bytes.Equal(got, e.Sealed) {
				t.Errorf("table %s has %x, want %x", e.Table, got, e.Sealed)
			}
			return err
		}))
	}
	wantRefused(t, salvaged, token, latchkey.ErrNewerFormat)
	wantLogin(t, salvaged, otherToken, other.ID)
}

func TestCheckFindsADamagedEntryOfReplication(t *testing.T) {
	s := openUnchecked(t, newEngine(t))
	below(t, s, func(tables *merge.Tables) error {
		return tables.Put(record.TableReplica, []byte("secret"), []byte("damage"))
	})
	var findings []error
	for finding := range s.Check(t.Context()) {
		findings = append(findings, finding)
	}
	if len(findings) != 1 || !errors.Is(findings[0], latchkey.ErrCorrupt) {
		t.Errorf("Check finds %v", findings)
	}
	closeStore(t, s)
}

func TestTagSecretsAndResetsFromElsewhereAreMarkedAsMerged(t *testing.T) {
	hub := open(t)
	merged := map[latchkey.Action]bool{}
	opts := light()
	opts.OnChange = func(tx *latchkey.Tx, c latchkey.Change) error {
		for _, a := range c.Actions {
			merged[a] = access.Tables(tx).Merging
		}
		return nil
	}
	edge := replicaOf(t, hub, opts)
	number, err := hub.AddTagSecret(t.Context())
	must(t, err)
	must(t, access.Of(edge).TakeTagSecrets(t.Context(), hub.DomainSecrets().Export()))
	must(t, access.Of(edge).ResetClock(t.Context()))
	if !merged[latchkey.ActionTagSecretAdded] || !merged[latchkey.ActionClockReset] {
		t.Errorf("the hook was told %v", merged)
	}
	must(t, edge.UseTagSecret(t.Context(), number))
	if merged[latchkey.ActionTagSecretUsed] {
		t.Error("a step that was taken here is marked, too")
	}
}

func TestAClockBeforeTheReleaseHoldsUpNoEdge(t *testing.T) {
	opts := light()
	opts.Now = func() time.Time { return time.Unix(0, 0) }
	edge := replicaOf(t, open(t), opts)
	must(t, access.Of(edge).ResetClock(t.Context()))
	if err := edge.ResetClock(t.Context()); !errors.Is(err, latchkey.ErrClockBehind) {
		t.Errorf("ResetClock: %v, want ErrClockBehind", err)
	}
}
