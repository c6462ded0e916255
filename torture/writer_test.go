package torture_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/torture/internal/form"
)

// This program is the one that is killed. It has several writers, which change their own data
// without pause. Before each call to the store, a writer writes to the journal what its holdings
// will be after the change. After the call has returned, it writes them again.

func init() { programs["writers"] = runWriters }

// assignment is the program's standard input.
type assignment struct {
	Path   string      `json:"path"`
	Seed   uint64      `json:"seed"`
	Round  int         `json:"round"`
	Before []*holdings `json:"before"` // of each writer
}

// entry is a line of the journal, which the program writes to its standard output.
type entry struct {
	Writer int       `json:"writer"`
	After  *holdings `json:"after"`
	Done   bool      `json:"done"` // whether the call has returned
	Wrong  string    `json:"wrong,omitempty"`
}

func runWriters() error {
	var a assignment
	if err := json.NewDecoder(os.Stdin).Decode(&a); err != nil {
		return err
	}
	// The cost changes, so that logins hash keys anew and later writes take the new verifiers
	// along.
	cost := light
	if a.Round%2 == 1 {
		cost = dearer
	}
	s, err := latchkey.Open(a.Path, &latchkey.Options{Cost: cost, CacheSize: 8})
	if err != nil {
		return err
	}
	var all sync.WaitGroup
	out := &journal{enc: json.NewEncoder(os.Stdout)}
	for i, held := range a.Before {
		w := &writer{number: i, store: s, held: held, out: out, random: form.NewRandom(a.Seed, a.Round*len(a.Before)+i)}
		all.Go(w.run)
	}
	all.Wait() // never returns, because the writers do not end
	return nil
}

// journal writes entries as whole lines.
type journal struct {
	mu  sync.Mutex
	enc *json.Encoder
}

func (j *journal) write(e entry) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.enc.Encode(e); err != nil {
		os.Exit(1) // the test no longer reads the journal
	}
}

type writer struct {
	number int
	store  *latchkey.Store
	held   *holdings
	out    *journal
	random *rand.Rand
}

func writerPrefix(number int) string { return fmt.Sprintf("w%d-", number) }

// change makes one change. run makes the calls, and adds the IDs and tokens that they return to
// next.
func (w *writer) change(next *holdings, run func(ctx context.Context) error) {
	w.out.write(entry{Writer: w.number, After: next})
	if err := run(context.Background()); err != nil {
		w.out.write(entry{Writer: w.number, Wrong: err.Error()})
		return
	}
	w.held = next
	w.out.write(entry{Writer: w.number, After: next, Done: true})
}

func (w *writer) run() {
	for {
		next := w.held.clone()
		subjects := slices.Sorted(maps.Keys(next.Users))
		switch n := w.random.IntN(100); {
		case len(subjects) == 0 || n < 8 && len(subjects) < 4:
			w.createUser(next)
		case n < 14:
			w.together(next)
		case n < 18:
			w.givenUp(next)
		case n < 21:
			w.link(next, pick(w.random, subjects))
		case n < 27:
			w.setUserDisabled(next, pick(w.random, subjects))
		case n < 30:
			w.deleteUser(next, pick(w.random, subjects))
		case n < 31:
			w.compact()
		case n < 32:
			w.backup()
		case n < 33:
			w.repair()
		case n < 38:
			w.keepData(next)
		default:
			w.changeKeys(next, pick(w.random, append(subjects, "")))
		}
	}
}

func (w *writer) changeKeys(next *holdings, subject string) {
	keys, owner := next.keys(subject)
	names := slices.Sorted(maps.Keys(keys))
	if len(names) == 0 {
		w.createKey(next, keys, owner)
		return
	}
	name := pick(w.random, names)
	switch n := w.random.IntN(100); {
	case n < 25 && len(names) < 8:
		w.createKey(next, keys, owner)
	case n < 32 && len(names) < 6:
		w.createKeys(next, keys, owner)
	case n < 50:
		w.rename(next, keys, owner, name)
	case n < 75:
		w.setKeyDisabled(next, keys, owner, name)
	case n < 95:
		w.deleteKey(next, keys, owner, name)
	default:
		w.logIn()
	}
}

// newName returns a name that the writer has not used before.
func (w *writer) newName() string { return writerPrefix(w.number) + uuid.NewString() }

func (w *writer) createUser(next *holdings) {
	subject := w.newName()
	u := &holder{Keys: make(keysHeld)}
	next.Users[subject] = u
	w.change(next, func(ctx context.Context) error {
		user, err := w.store.CreateUser(ctx, latchkey.UserSpec{Identity: email(subject)})
		u.ID = user.ID
		return err
	})
}

// link gives a user another identity, or takes one from a user who has two others.
func (w *writer) link(next *holdings, subject string) {
	u, linked := next.Users[subject], w.newName()
	if len(u.Linked) == 2 {
		linked, u.Linked = u.Linked[0], u.Linked[1:]
		w.change(next, func(ctx context.Context) error {
			_, err := w.store.UnlinkIdentity(ctx, u.ID, email(linked))
			return err
		})
		return
	}
	u.Linked = append(u.Linked, linked)
	w.change(next, func(ctx context.Context) error {
		_, err := w.store.LinkIdentity(ctx, u.ID, email(linked))
		return err
	})
}

func (w *writer) setUserDisabled(next *holdings, subject string) {
	u := next.Users[subject]
	u.Disabled = !u.Disabled
	w.change(next, func(ctx context.Context) error {
		if u.Disabled {
			return w.store.DisableUser(ctx, u.ID)
		}
		return w.store.EnableUser(ctx, u.ID)
	})
}

func (w *writer) deleteUser(next *holdings, subject string) {
	u := next.Users[subject]
	for name := range u.Keys {
		next.lose(u.Keys, name)
	}
	delete(next.Users, subject)
	w.change(next, func(ctx context.Context) error { return w.store.DeleteUser(ctx, u.ID) })
}

func (w *writer) createKey(next *holdings, keys keysHeld, owner uuid.UUID) {
	name := w.newName()
	keys[name] = keyHeld{}
	w.change(next, func(ctx context.Context) error {
		key, token, err := createKey(ctx, w.store, owner, latchkey.KeySpec{Name: name})
		keys[name] = keyHeld{ID: key.ID, Token: token}
		return err
	})
}

// createKey makes a key of owner, which is a user or ServerOwner.
func createKey(ctx context.Context, s *latchkey.Store, owner uuid.UUID, n latchkey.KeySpec) (latchkey.Key, string, error) {
	if owner == latchkey.ServerOwner {
		return s.CreateServerKey(ctx, n)
	}
	return s.CreateKey(ctx, owner, n)
}

// createKeys makes several keys of owner, which is a user or ServerOwner, in one transaction.
func createKeys(ctx context.Context, s *latchkey.Store, owner uuid.UUID, specs []latchkey.KeySpec) (keys []latchkey.Key, tokens []string, err error) {
	if owner != latchkey.ServerOwner {
		var requests []latchkey.KeyRequest
		for _, n := range specs {
			requests = append(requests, latchkey.KeyRequest{Owner: owner, KeySpec: n})
		}
		return s.CreateKeys(ctx, requests, nil)
	}
	minted, tokens, err := s.MintKeys(ctx, len(specs), nil)
	if err != nil {
		return nil, nil, err
	}
	err = s.Update(ctx, func(tx *latchkey.Tx) error {
		keys = nil
		for i, n := range specs {
			key, err := tx.InsertServerKey(n, minted[i])
			if err != nil {
				return err
			}
			keys = append(keys, key)
		}
		return nil
	})
	return keys, tokens, err
}

func (w *writer) createKeys(next *holdings, keys keysHeld, owner uuid.UUID) {
	var specs []latchkey.KeySpec
	for range 3 {
		name := w.newName()
		keys[name] = keyHeld{}
		specs = append(specs, latchkey.KeySpec{Name: name})
	}
	w.change(next, func(ctx context.Context) error {
		made, tokens, err := createKeys(ctx, w.store, owner, specs)
		for i, key := range made {
			keys[key.Name] = keyHeld{ID: key.ID, Token: tokens[i]}
		}
		return err
	})
}

func (w *writer) rename(next *holdings, keys keysHeld, owner uuid.UUID, name string) {
	k, to := keys[name], w.newName()
	delete(keys, name)
	keys[to] = k
	w.change(next, func(ctx context.Context) error { return w.store.RenameKey(ctx, owner, k.ID, to) })
}

func (w *writer) setKeyDisabled(next *holdings, keys keysHeld, owner uuid.UUID, name string) {
	k := keys[name]
	k.Disabled = !k.Disabled
	keys[name] = k
	w.change(next, func(ctx context.Context) error {
		if k.Disabled {
			return w.store.DisableKey(ctx, owner, k.ID)
		}
		return w.store.EnableKey(ctx, owner, k.ID)
	})
}

func (w *writer) deleteKey(next *holdings, keys keysHeld, owner uuid.UUID, name string) {
	id := keys[name].ID
	next.lose(keys, name)
	w.change(next, func(ctx context.Context) error { return w.store.DeleteKey(ctx, owner, id) })
}

// keepData puts, changes and deletes data in one transaction.
func (w *writer) keepData(next *holdings) {
	gone := slices.Sorted(maps.Keys(next.Data))
	gone = gone[:max(0, len(gone)-8)]
	put := map[string]string{w.newName(): strings.Repeat(".", w.random.IntN(5000))}
	for key := range next.Data {
		put[key] = next.Data[key] + "!"
	}
	maps.Copy(next.Data, put)
	for _, key := range gone {
		delete(next.Data, key)
	}
	w.change(next, func(ctx context.Context) error {
		return w.store.Update(ctx, func(tx *latchkey.Tx) error {
			data := tx.AppTable(dataName)
			for key, value := range put {
				if err := data.Put([]byte(key), []byte(value)); err != nil {
					return err
				}
			}
			for _, key := range gone {
				if err := data.Delete([]byte(key)); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// together makes a user with two keys, disables one of the keys, and deletes the first server key,
// all in one transaction. The tokens are known before the transaction.
func (w *writer) together(next *holdings) {
	minted, tokens, err := w.store.MintKeys(context.Background(), 2, nil)
	if err != nil {
		w.out.write(entry{Writer: w.number, Wrong: err.Error()})
		return
	}
	subject, names := w.newName(), []string{w.newName(), w.newName()}
	u := &holder{Keys: keysHeld{names[0]: {Token: tokens[0]}, names[1]: {Token: tokens[1], Disabled: true}}}
	next.Users[subject] = u
	gone := uuid.Nil
	for _, name := range slices.Sorted(maps.Keys(next.Server))[:min(1, len(next.Server))] {
		gone = next.Server[name].ID
		next.lose(next.Server, name)
	}
	w.change(next, func(ctx context.Context) error {
		return w.store.Update(ctx, func(tx *latchkey.Tx) error {
			user, err := tx.CreateUser(latchkey.UserSpec{Identity: email(subject)})
			if err != nil {
				return err
			}
			u.ID = user.ID
			for i, name := range names {
				key, err := tx.InsertKey(user.ID, latchkey.KeySpec{Name: name}, minted[i])
				if err != nil {
					return err
				}
				u.Keys[name] = keyHeld{ID: key.ID, Disabled: i == 1, Token: tokens[i]}
			}
			if err := tx.DisableKey(user.ID, u.Keys[names[1]].ID); err != nil || gone == uuid.Nil {
				return err
			}
			return tx.DeleteKey(latchkey.ServerOwner, gone)
		})
	})
}

// givenUp deletes all users in a transaction that then fails. So nothing may change.
func (w *writer) givenUp(next *holdings) {
	w.change(next, func(ctx context.Context) error {
		err := w.store.Update(ctx, func(tx *latchkey.Tx) error {
			for _, u := range next.Users {
				if err := tx.DeleteUser(u.ID); err != nil {
					return err
				}
			}
			return errEndBadly
		})
		if errors.Is(err, errEndBadly) {
			return nil
		}
		return fmt.Errorf("an Update that fails returned %v", err)
	})
}

func (w *writer) logIn() {
	for _, wrong := range w.held.checkLogins(context.Background(), w.store) {
		w.out.write(entry{Writer: w.number, Wrong: wrong})
	}
}

func (w *writer) compact() {
	if err := w.store.Compact(context.Background()); !mayEnd(err) {
		w.out.write(entry{Writer: w.number, Wrong: err.Error()})
	}
}

func (w *writer) repair() {
	if repaired, err := w.store.Repair(context.Background()); !mayEnd(err) || repaired > 0 {
		w.out.write(entry{Writer: w.number, Wrong: fmt.Sprintf("%d findings repaired, error %v", repaired, err)})
	}
}

func (w *writer) backup() {
	if err := w.store.Backup(context.Background(), io.Discard); !mayEnd(err) {
		w.out.write(entry{Writer: w.number, Wrong: err.Error()})
	}
}
