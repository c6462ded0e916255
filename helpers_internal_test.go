package latchkey

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/boltengine"
	"github.com/latchkeydb/latchkey/internal/boltpage"
	"github.com/latchkeydb/latchkey/internal/record"
	"github.com/latchkeydb/latchkey/internal/tokenform"
)

// Helpers of the tests inside the package, which look into a store, plant records, or hook into it.
// The tests outside have helpers_test.go.

// must fails the test for any error.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newSeed returns the seed of a random test: LATCHKEY_SEED, or a new seed. A test that fails says
// how to replay the run.
func newSeed(t testing.TB) uint64 {
	seed, err := strconv.ParseUint(os.Getenv("LATCHKEY_SEED"), 10, 64)
	if err != nil {
		seed = rand.Uint64()
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("again: LATCHKEY_SEED=%d go test -run '^%s$'", seed, t.Name())
		}
	})
	return seed
}

// open opens a store in a new file, and closes it when the test ends. Nil options mean LightCost.
func open(t testing.TB, opts *Options) *Store {
	t.Helper()
	return openPath(t, filepath.Join(t.TempDir(), "keys.db"), opts)
}

// openPath is open for the file at path.
func openPath(t testing.TB, path string, opts *Options) *Store {
	t.Helper()
	if opts == nil {
		opts = &Options{Cost: LightCost}
	}
	s, err := TryOpen(t, path, opts)
	must(t, err)
	paths.Store(s, path)
	t.Cleanup(func() { closeStore(t, s); paths.Delete(s) })
	return s
}

// paths has the path of each store that openPath has opened.
var paths sync.Map

// reopen closes a store and opens its file again.
func reopen(t testing.TB, s *Store, opts *Options) *Store {
	t.Helper()
	closeStore(t, s)
	return openPath(t, pathOf(s), opts)
}

// pathOf returns the path that the store was opened at, which is that of its file on bbolt alone.
func pathOf(s *Store) string {
	path, _ := paths.Load(s)
	return path.(string)
}

// smallMap is the size of the map of a file after smallMaps.
const smallMap = 1 << 20

// smallMaps makes the first map of every file that the test opens small.
func smallMaps(t testing.TB) {
	AboutFile(t)
	before := boltengine.MapSize
	boltengine.MapSize = smallMap
	t.Cleanup(func() { boltengine.MapSize = before })
}

// outgrowMap writes so much that a small map is too small. Because the map must grow, the engine
// interrupts its long readers.
func outgrowMap(s *Store) error {
	return s.engine.Update(context.Background(), func(etx EngineTx) error {
		for i := range byte(2 * smallMap / MaxEngineValue) {
			if err := etx.Put("large", []byte{i}, make([]byte, MaxEngineValue)); err != nil {
				return err
			}
		}
		return nil
	})
}

func closeStore(t testing.TB, s *Store) {
	t.Helper()
	must(t, s.Close())
}

// wantSound fails the test if Check finds anything.
func wantSound(t testing.TB, s *Store) {
	t.Helper()
	for finding := range s.Check(t.Context()) {
		t.Errorf("Check: %v", finding)
	}
}

func stats(t testing.TB, s *Store) Stats {
	t.Helper()
	st, err := s.Stats(t.Context())
	must(t, err)
	return st
}

// email is the identity that addUser gives.
func email(subject string) Identity { return Identity{ProviderLocalUserpass, subject} }

// addUser makes a user known by subject.
func addUser(t testing.TB, s *Store, subject string) User {
	t.Helper()
	user, err := s.CreateUser(t.Context(), UserSpec{Identity: email(subject)})
	must(t, err)
	return user
}

// addKey makes a key of a user.
func addKey(t testing.TB, s *Store, user uuid.UUID, name string) (Key, string) {
	t.Helper()
	key, token, err := s.CreateKey(t.Context(), user, KeySpec{Name: name})
	must(t, err)
	return key, token
}

func addServerKey(t testing.TB, s *Store, name string) (Key, string) {
	t.Helper()
	key, token, err := s.CreateServerKey(t.Context(), KeySpec{Name: name})
	must(t, err)
	return key, token
}

// wantLogin fails the test unless token logs in as the key with an ID.
func wantLogin(t testing.TB, s *Store, token string, id uuid.UUID) {
	t.Helper()
	if who, err := s.Login(t.Context(), token); err != nil || who.KeyID != id {
		t.Fatalf("login: got %s, %v, want %s", who.KeyID, err, id)
	}
}

// wantRefused fails the test unless token is refused with want.
func wantRefused(t testing.TB, s *Store, token string, want error) {
	t.Helper()
	if _, err := s.Login(t.Context(), token); !errors.Is(err, want) {
		t.Errorf("login: got error %v, want %v", err, want)
	}
}

// loginAside begins a login in a goroutine of its own. Its error comes on the channel.
func loginAside(ctx context.Context, s *Store, token string) <-chan error {
	outcome := make(chan error, 1)
	go func() {
		_, err := s.Login(ctx, token)
		outcome <- err
	}()
	return outcome
}

// wantOutcome fails the test unless a login has ended, with want.
func wantOutcome(t testing.TB, outcome <-chan error, want error) {
	t.Helper()
	select {
	case err := <-outcome:
		if !errors.Is(err, want) {
			t.Errorf("login: got error %v, want %v", err, want)
		}
	default:
		t.Errorf("the login still waits, want %v", want)
	}
}

// wantWaiting fails the test if a login has ended.
func wantWaiting(t testing.TB, outcome <-chan error) {
	t.Helper()
	select {
	case err := <-outcome:
		t.Fatalf("login: got error %v, want it to wait", err)
	default:
	}
}

// units is a cost of n times LightCost's memory.
func units(n uint32) Cost { return Cost{Memory: n * LightCost.Memory, Passes: 1, Lanes: 1} }

func mustAcquire(t testing.TB, h *hasher, cost Cost) {
	t.Helper()
	must(t, h.acquire(t.Context(), hashLogin, cost))
}

// takePermits takes all permits to hash, so that every hash waits until giveBack is called.
func takePermits(t testing.TB, s *Store) (giveBack func()) {
	t.Helper()
	smallest := Cost{Memory: 8, Passes: 1, Lanes: 1}
	for range s.hasher.Slots {
		mustAcquire(t, s.hasher, smallest)
	}
	return func() {
		for range s.hasher.Slots {
			s.hasher.release(smallest)
		}
	}
}

// wantIdle fails the test unless all permits are back and nobody waits.
func wantIdle(t testing.TB, h *hasher) {
	t.Helper()
	if !h.Idle() {
		t.Errorf("%d permits are out, and %d callers wait; want none", h.Running(), h.Waiting())
	}
}

// wantHashes fails the test unless argon2 ran n times since the count before.
func wantHashes(t testing.TB, s *Store, before, n uint64) {
	t.Helper()
	if got := stats(t, s).Hashes - before; got != n {
		t.Errorf("argon2 ran %d times, want %d", got, n)
	}
}

// secretOf returns the secret in a token.
func secretOf(t testing.TB, s *Store, token string) [tokenform.SecretSize]byte {
	t.Helper()
	var parsed tokenform.Token
	if !s.tokens.Load().Parse(token, &parsed) {
		t.Fatal("it is no token")
	}
	_, secret, _ := parsed.Decode()
	return secret
}

// storedUser returns the record of a user as the engine has it.
func storedUser(t testing.TB, s *Store, id uuid.UUID) record.User {
	t.Helper()
	return *stored(t, s, func(tx *Tx) (*record.User, error) { return tx.getUser(id) })
}

// storedKey returns the record of a key as the engine has it.
func storedKey(t testing.TB, s *Store, id uuid.UUID) record.Key {
	t.Helper()
	return *stored(t, s, func(tx *Tx) (*record.Key, error) { return tx.getKey(id) })
}

// stored returns what get reads in a transaction, or a zero value if it finds nothing.
func stored[T any](t testing.TB, s *Store, get func(tx *Tx) (*T, error)) (value *T) {
	t.Helper()
	must(t, s.View(context.Background(), func(tx *Tx) (err error) {
		value, err = get(tx)
		return err
	}))
	if value == nil {
		value = new(T)
	}
	return value
}

// userTombstone returns the tombstone of a user.
func userTombstone(t testing.TB, s *Store, id uuid.UUID) record.UserTombstone {
	t.Helper()
	return *stored(t, s, func(tx *Tx) (*record.UserTombstone, error) {
		return getRecord(tx, tableDeadUsers, id, record.DecodeUserTombstone)
	})
}

// keyTombstone returns the tombstone of a key.
func keyTombstone(t testing.TB, s *Store, id uuid.UUID) record.KeyTombstone {
	t.Helper()
	return *stored(t, s, func(tx *Tx) (*record.KeyTombstone, error) {
		return getRecord(tx, tableDeadKeys, id, record.DecodeKeyTombstone)
	})
}

// storedVerifierOf returns the verifier of a key that has one.
func storedVerifierOf(t testing.TB, s *Store, id uuid.UUID) *storedVerifier {
	t.Helper()
	v := storedKey(t, s, id).Verifiers.All[0]
	return &storedVerifier{key: id, id: v.ID, phc: v.PHC, own: ownHashOf(t, s, id)}
}

// verifierOf returns the verifier in the record of a key that has one, or "".
func verifierOf(t testing.TB, s *Store, id uuid.UUID) string {
	t.Helper()
	for _, v := range storedKey(t, s, id).Verifiers.All {
		return v.PHC
	}
	return ""
}

// ownHashOf returns the hash of a key's secret at the store's own cost, or "".
func ownHashOf(t testing.TB, s *Store, id uuid.UUID) string {
	t.Helper()
	return *stored(t, s, func(tx *Tx) (*string, error) {
		for e, err := range tx.etx.Scan(tableHashes, id[:], nil) {
			if err != nil {
				return nil, err
			}
			if !bytes.HasPrefix(e.Key, id[:]) { // not by a bound, because verifiers' IDs are random
				break
			}
			own, err := decodeHash(e.Key, e.Value)
			return &own.PHC, err
		}
		return nil, nil
	})
}

// sealedKey returns the record of a key in its table.
func sealedKey(k record.Key) []byte { return record.Seal(tableKeys, k.ID[:], k.Encode()) }

// sealedUser returns the record of a user in its table.
func sealedUser(u record.User) []byte { return record.Seal(tableUsers, u.ID[:], u.Encode()) }

// recordOf returns the bytes of a key's record.
func recordOf(t testing.TB, s *Store, id uuid.UUID) (record []byte) {
	t.Helper()
	must(t, s.View(t.Context(), func(tx *Tx) (err error) {
		record, err = tx.etx.Get(tableKeys, id[:])
		return err
	}))
	return record
}

// plant writes an entry past everything that keeps the store consistent.
func plant(t testing.TB, s *Store, table string, key, value []byte) {
	t.Helper()
	must(t, s.engine.Update(t.Context(), func(etx EngineTx) error { return etx.Put(table, key, value) }))
}

// plantVerifier replaces a key's verifier by phc. The cache forgets the key.
func plantVerifier(t testing.TB, s *Store, id uuid.UUID, phc string) {
	t.Helper()
	changeVerifier(t, s, id, func(v *record.Verifier) { v.PHC = phc })
}

// plantHint gives a key's verifier an ID that fits a secret.
func plantHint(t testing.TB, s *Store, id uuid.UUID, secret []byte) {
	t.Helper()
	changeVerifier(t, s, id, func(v *record.Verifier) { v.ID = record.NewVerifierID(secret, s.random.Fill) })
}

// changeVerifier changes the verifier of a key that has one. The cache forgets the key.
func changeVerifier(t testing.TB, s *Store, id uuid.UUID, change func(v *record.Verifier)) {
	t.Helper()
	must(t, s.Update(t.Context(), func(tx *Tx) error {
		k, err := tx.getKey(id)
		if err != nil {
			return err
		}
		change(&k.Verifiers.All[0])
		tx.forgetKey(id)
		return tx.putKey(k)
	}))
}

// addWideKey makes a user and a key. Their records are so long that their tables have a page of
// their own, and so short that the page has room for others.
func addWideKey(t testing.TB, s *Store, name string) (Key, string) {
	t.Helper()
	wide := map[string]string{"wide": strings.Repeat("x", 1000)}
	user, err := s.CreateUser(t.Context(), UserSpec{Identity: email(name), Metadata: wide})
	must(t, err)
	key, token, err := s.CreateKey(t.Context(), user.ID, KeySpec{Name: name, Metadata: wide})
	must(t, err)
	return key, token
}

// reopenWithOldPages makes a change of a store, and opens the store again with old versions of the
// pages of some tables. Each table has an entry under an ID, before the change and after it, which
// tells the page.
func reopenWithOldPages(t testing.TB, s *Store, entries map[string]uuid.UUID, change func(s *Store)) *Store {
	t.Helper()
	AboutFile(t)
	path := pathOf(s)
	closeStore(t, s)
	before, err := os.ReadFile(path)
	must(t, err)
	s = openPath(t, path, nil)
	change(s)
	closeStore(t, s)
	file, err := os.ReadFile(path)
	must(t, err)
	for table, id := range entries {
		has := func(k, v []byte) bool { return bytes.Equal(k, id[:]) && isTracked(table, k, v) }
		now, old := leafThat(t, file, has)*boltpage.PageSize, leafThat(t, before, has)*boltpage.PageSize
		const number = 8 // the page's own number
		copy(file[now+number:now+boltpage.PageSize], before[old+number:])
	}
	must(t, os.WriteFile(path, file, 0o600))
	return openPath(t, path, nil)
}

// isTracked reports whether an entry is a record of a tracked table.
func isTracked(table string, k, v []byte) bool {
	_, sealed, ok := boltpage.SplitTracked(v)
	_, err := openRecord(table, k, sealed)
	return ok && err == nil
}

// leafThat returns the leaf page in use of a bbolt file that has a certain entry.
func leafThat(t testing.TB, file []byte, has func(k, v []byte) bool) (page uint64) {
	t.Helper()
	pages := boltpage.NewPages(bytes.NewReader(file), uint64(len(file)/boltpage.PageSize))
	live, _, _ := pages.Live()
	found := 0
	for id := uint64(2); id < pages.Count(); {
		leaf, size, _ := pages.Leaf(id)
		boltpage.EachEntry(leaf, func(k, v []byte) {
			if live(id) && has(k, v) {
				page = id
				found++
			}
		})
		id += size
	}
	if found != 1 {
		t.Fatalf("%d entries in pages in use are the one, want one", found)
	}
	return page
}

// dump returns every entry of every table.
func dump(t testing.TB, s *Store) (entries []string) {
	t.Helper()
	must(t, s.engine.View(t.Context(), func(etx EngineTx) error {
		for _, table := range allTables {
			for e, err := range etx.Scan(table, nil, nil) {
				if err != nil {
					return err
				}
				entries = append(entries, fmt.Sprintf("%s/%x: %x", table, e.Key, e.Value))
			}
		}
		return nil
	}))
	return entries
}

// inhabited is a store with one of everything, for tests that put something wrong into it.
type inhabited struct {
	*Store
	t *testing.T

	ada, bob record.User          // ada has two identities and a key, and bob is in a group
	gone     record.UserTombstone // once a user
	laptop   record.Key           // of ada
	backup   record.Key           // a server key in the same group as bob
	lost     record.KeyTombstone  // once ada's

	laptopToken string
}

// openInhabited opens a copy of a store that is made once, because most of the time would go into
// its commits.
func openInhabited(t *testing.T) *inhabited {
	t.Helper()
	originalOnce.Do(func() { makeOriginal(t) })
	path := filepath.Join(t.TempDir(), "keys.db")
	e := EngineAt(t, path, nil)
	e.Track(trackedTables...)
	must(t, e.Update(t.Context(), func(etx EngineTx) error {
		for table, entries := range original.tables {
			for _, entry := range entries {
				if err := etx.Put(table, entry.Key, entry.Value); err != nil {
					return err
				}
			}
		}
		return nil
	}))
	must(t, e.Close())
	s := openPath(t, path, nil)
	return &inhabited{
		Store: s, t: t,
		ada: storedUser(t, s, original.ada), bob: storedUser(t, s, original.bob), gone: userTombstone(t, s, original.gone),
		laptop: storedKey(t, s, original.laptop), backup: storedKey(t, s, original.backup), lost: keyTombstone(t, s, original.lost),
		laptopToken: original.laptopToken,
	}
}

var (
	originalOnce sync.Once
	original     struct {
		tables                               map[string][]Entry
		ada, bob, gone, laptop, backup, lost uuid.UUID
		laptopToken                          string
	}
)

func makeOriginal(t *testing.T) {
	s := open(t, nil)
	ada, gone := addUser(t, s, "ada"), addUser(t, s, "gone")
	bob, err := s.CreateUser(t.Context(), UserSpec{Identity: email("bob"), Group: "plant"})
	must(t, err)
	_, err = s.LinkIdentity(t.Context(), ada.ID, Identity{ProviderCustomToken, "lovelace"})
	must(t, err)
	laptop, token := addKey(t, s, ada.ID, "laptop")
	lost, _ := addKey(t, s, ada.ID, "lost")
	backup, _, err := s.CreateServerKey(t.Context(), KeySpec{Name: "backup", Group: "plant"})
	must(t, err)
	must(t, s.DeleteKey(t.Context(), ada.ID, lost.ID))
	must(t, s.DeleteUser(t.Context(), gone.ID))
	original.ada, original.bob, original.gone = ada.ID, bob.ID, gone.ID
	original.laptop, original.lost, original.backup, original.laptopToken = laptop.ID, lost.ID, backup.ID, token
	original.tables = map[string][]Entry{}
	must(t, s.engine.View(t.Context(), func(etx EngineTx) error {
		for _, table := range allTables {
			for entry, err := range etx.Scan(table, nil, nil) {
				if err != nil {
					return err
				}
				original.tables[table] = append(original.tables[table], entry)
			}
		}
		return nil
	}))
}

func (h *inhabited) put(table string, key, value []byte) { plant(h.t, h.Store, table, key, value) }
func (h *inhabited) putUser(u record.User)               { h.put(tableUsers, u.ID[:], sealedUser(u)) }
func (h *inhabited) putKey(k record.Key)                 { h.put(tableKeys, k.ID[:], sealedKey(k)) }

func (h *inhabited) remove(table string, key []byte) {
	must(h.t, h.engine.Update(h.t.Context(), func(etx EngineTx) error { return etx.Delete(table, key) }))
}

// spoil changes a bit in the middle of a value.
func (h *inhabited) spoil(table string, key []byte) {
	must(h.t, h.engine.Update(h.t.Context(), func(etx EngineTx) error {
		value, err := etx.Get(table, key)
		if err != nil {
			return err
		}
		if value == nil {
			return errors.New("there is nothing to spoil")
		}
		value[len(value)/2] ^= 4
		return etx.Put(table, key, value)
	}))
}

func (h *inhabited) findings() (findings []error) {
	for finding := range h.Check(h.t.Context()) {
		findings = append(findings, finding)
	}
	return findings
}
