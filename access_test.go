package latchkey_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/access"
	"github.com/latchkeydb/latchkey/internal/memory"
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
	edge, err := memory.Open(opts)
	must(t, err)
	checkAtEnd(t, edge)
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
