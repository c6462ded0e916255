package latchkey

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/google/uuid"
	"go.etcd.io/bbolt"

	"github.com/latchkeydb/latchkey/internal/cache"
	"github.com/latchkeydb/latchkey/internal/lastuse"
	"github.com/latchkeydb/latchkey/internal/record"
	"github.com/latchkeydb/latchkey/internal/tokenform"
)

// usesEngine is an engine that notes what is written to the table of last uses.
type usesEngine struct {
	Engine
	mu      sync.Mutex
	written [][]byte // the keys
	fail    error    // of writing to the table
	read    int      // records of keys, in write transactions
	before  func()   // called before the next write transaction
}

// count returns how many entries were written.
func (e *usesEngine) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.written)
}

// failWith sets the error of writing to the table.
func (e *usesEngine) failWith(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.fail = err
}

func (e *usesEngine) Update(ctx context.Context, fn func(EngineTx) error) error {
	if before := e.before; before != nil {
		e.before = nil
		before()
	}
	return e.Engine.Update(ctx, func(tx EngineTx) error { return fn(usesTx{tx, e}) })
}

type usesTx struct {
	EngineTx
	e *usesEngine
}

func (tx usesTx) Get(table string, key []byte) ([]byte, error) {
	if table == tableKeys {
		tx.e.read++
	}
	return tx.EngineTx.Get(table, key)
}

func (tx usesTx) Put(table string, key, value []byte) error {
	if table == tableLastUse {
		tx.e.mu.Lock()
		defer tx.e.mu.Unlock()
		if tx.e.fail != nil {
			return tx.e.fail
		}
		tx.e.written = append(tx.e.written, key)
	}
	return tx.EngineTx.Put(table, key, value)
}

// useClock is a clock that a test sets.
type useClock struct {
	mu sync.Mutex
	at time.Time
}

func newUseClock() *useClock { return &useClock{at: time.Date(2030, 1, 1, 12, 0, 30, 0, time.UTC)} }

func (c *useClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *useClock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

func (c *useClock) options(cacheSize int) *Options {
	return &Options{Cost: LightCost, CacheSize: cacheSize, Now: c.now, TestClock: true}
}

// minute is the minute that the clock is in.
func (c *useClock) minute() time.Time { return c.now().Truncate(time.Minute) }

func openUses(t testing.TB, opts *Options) (*Store, *usesEngine) {
	t.Helper()
	e := &usesEngine{Engine: EngineAt(t, filepath.Join(t.TempDir(), "keys.db"), nil)}
	s, err := OpenWith(e, opts)
	must(t, err)
	t.Cleanup(func() { closeStore(t, s) })
	return s, e
}

// wantUsed fails the test unless a server key was used last at a time.
func wantUsed(t testing.TB, s *Store, id uuid.UUID, want time.Time) {
	t.Helper()
	key, err := s.KeyByID(t.Context(), id)
	must(t, err)
	if !key.LastUsed.Equal(want) {
		t.Errorf("the key was used last at %s, want %s", key.LastUsed, want)
	}
}

func writeUses(t testing.TB, s *Store) {
	t.Helper()
	must(t, s.writeLastUses(t.Context()))
}

func TestALoginNotesTheMinuteAndWritesNothing(t *testing.T) {
	clock := newUseClock()
	s, e := openUses(t, clock.options(0))
	key, token := addServerKey(t, s, "door")
	wantUsed(t, s, key.ID, time.Time{})
	before := stats(t, s).Sequence
	wantLogin(t, s, token, key.ID)
	wantUsed(t, s, key.ID, clock.minute())
	clock.add(90 * time.Second)
	wantLogin(t, s, token, key.ID)
	wantUsed(t, s, key.ID, clock.minute())
	if got := stats(t, s).Sequence; got != before || len(e.written) != 0 {
		t.Errorf("the logins wrote %d commits", got-before)
	}
	used := clock.minute()
	must(t, s.DisableKey(t.Context(), ServerOwner, key.ID))
	clock.add(time.Hour)
	wantRefused(t, s, token, ErrKeyDisabled)
	wantRefused(t, s, token, ErrKeyDisabled) // by the cache
	wantUsed(t, s, key.ID, used)
}

func TestABatchIsWrittenInTheOrderOfKeysAndNothingTwice(t *testing.T) {
	clock := newUseClock()
	s, e := openUses(t, clock.options(8)) // half of the keys leave the cache
	var tokens []string
	var keys []Key
	for i := range 16 {
		key, token := addServerKey(t, s, fmt.Sprint(i))
		keys, tokens = append(keys, key), append(tokens, token)
	}
	for _, i := range []int{3, 9, 1, 15, 0, 2, 14, 4, 5, 13, 12, 6, 8, 7, 11, 10} {
		wantLogin(t, s, tokens[i], keys[i].ID)
	}
	used := clock.minute()
	clock.add(time.Hour)
	writeUses(t, s)
	if len(e.written) != len(keys) || !slices.IsSortedFunc(e.written, bytes.Compare) {
		t.Errorf("the batch wrote %x", e.written)
	}
	for _, key := range keys {
		wantUsed(t, s, key.ID, used)
	}
	before := stats(t, s).Commits
	writeUses(t, s)
	if got := stats(t, s).Commits; got != before || len(e.written) != len(keys) {
		t.Errorf("a second batch made %d commits", got-before)
	}
	wantLogin(t, s, tokens[10], keys[10].ID) // the cache has it
	writeUses(t, s)
	if id := keys[10].ID; len(e.written) != len(keys)+1 || !bytes.HasPrefix(e.written[len(keys)], id[:]) {
		t.Errorf("after one more login the batch wrote %x", e.written[len(keys):])
	}
	wantUsed(t, s, keys[10].ID, clock.minute())
	wantSound(t, s)
}

func TestABatchReadsTheKeysBeforeItHoldsUpOtherChanges(t *testing.T) {
	clock := newUseClock()
	s, e := openUses(t, clock.options(0))
	var tokens []string
	var keys []Key
	for i := range 3 {
		key, token := addServerKey(t, s, fmt.Sprint(i))
		keys, tokens = append(keys, key), append(tokens, token)
	}
	logIn := func() {
		for i, token := range tokens {
			wantLogin(t, s, token, keys[i].ID)
		}
	}
	logIn()
	e.read = 0
	writeUses(t, s)
	if e.read != 0 || len(e.written) != len(keys) {
		t.Errorf("the transaction of the batch read %d keys and wrote %d", e.read, len(e.written))
	}

	// What changes in between counts.
	clock.add(time.Hour)
	logIn()
	used := clock.minute()
	e.before = func() {
		must(t, s.DeleteKey(t.Context(), ServerOwner, keys[0].ID))
		_, _, err := s.RotateServerKey(t.Context(), keys[1].ID, Rotation{})
		must(t, err)
	}
	writeUses(t, s)
	wantUsed(t, s, keys[1].ID, used)
	wantUsed(t, s, keys[2].ID, used)
	must(t, s.View(t.Context(), func(tx *Tx) error {
		for i, want := range []int{0, 1, 1} {
			got := 0
			for _, err := range tx.tables().UsesOf(keys[i].ID) {
				must(t, err)
				got++
			}
			if got != want {
				t.Errorf("key %d has %d last uses, want %d", i, got, want)
			}
		}
		return nil
	}))
	wantSound(t, s)
}

func TestOfTheUsesOfAnOldAndANewTokenTheLatestCounts(t *testing.T) {
	clock := newUseClock()
	s, e := openUses(t, clock.options(0))
	for i := range 8 { // the IDs of the tokens are random, and so is their order
		key, old := addServerKey(t, s, fmt.Sprint(i))
		_, token, err := s.RotateServerKey(t.Context(), key.ID, Rotation{Overlap: time.Hour})
		must(t, err)
		wantLogin(t, s, token, key.ID)
		clock.add(5 * time.Minute)
		wantLogin(t, s, old, key.ID)
		used := clock.minute()
		_, _, err = s.RotateServerKey(t.Context(), key.ID, Rotation{})
		must(t, err)
		before := e.count()
		writeUses(t, s)
		if n := e.count() - before; n != 1 {
			t.Errorf("the batch wrote %d entries, want 1 of the token that is good", n)
		}
		s.cache.Clear()
		wantUsed(t, s, key.ID, used)
	}
}

func TestLastUsesAreCompleteWhateverTheCacheForgets(t *testing.T) {
	for name, forget := range map[string]func(s *Store, key Key) error{
		"all": func(s *Store, _ Key) error { s.cache.Clear(); return nil },
		"a changed key": func(s *Store, key Key) error {
			return s.RenameKey(context.Background(), key.Owner, key.ID, "gate")
		},
	} {
		t.Run(name, func(t *testing.T) {
			clock := newUseClock()
			s, _ := openUses(t, clock.options(0))
			key, token := addServerKey(t, s, "door")
			wantLogin(t, s, token, key.ID)
			must(t, forget(s, key))
			wantUsed(t, s, key.ID, clock.minute())
			writeUses(t, s)
			wantUsed(t, s, key.ID, clock.minute())
		})
	}
	t.Run("without a cache", func(t *testing.T) {
		clock := newUseClock()
		s, e := openUses(t, clock.options(-1))
		key, token := addServerKey(t, s, "door")
		wantLogin(t, s, token, key.ID)
		wantLogin(t, s, token, key.ID)
		wantUsed(t, s, key.ID, clock.minute())
		writeUses(t, s)
		if wantUsed(t, s, key.ID, clock.minute()); len(e.written) != 1 {
			t.Errorf("%d entries were written", len(e.written))
		}
	})
}

func TestCloseWritesTheLastUsesAndACrashLosesThem(t *testing.T) {
	clock := newUseClock()
	path := filepath.Join(t.TempDir(), "keys.db")
	s := openPath(t, path, clock.options(0))
	key, token := addServerKey(t, s, "door")
	used := clock.minute()
	wantLogin(t, s, token, key.ID)
	s = reopen(t, s, clock.options(0))
	wantUsed(t, s, key.ID, used)

	clock.add(time.Hour)
	wantLogin(t, s, token, key.ID)
	wantUsed(t, s, key.ID, clock.minute())
	must(t, s.engine.Close()) // as after a crash, Close cannot write
	closeStore(t, s)
	s = openPath(t, path, clock.options(0))
	wantUsed(t, s, key.ID, used)
	wantSound(t, s)

	never := clock.options(0)
	never.LastUseEvery = -1
	s = reopen(t, s, never)
	wantLogin(t, s, token, key.ID)
	wantUsed(t, s, key.ID, clock.minute())
	s = reopen(t, s, clock.options(0))
	wantUsed(t, s, key.ID, used)
}

func TestAReadOnlyStoreKnowsItsLastUsesAndWritesNone(t *testing.T) {
	clock := newUseClock()
	s := open(t, clock.options(0))
	key, token := addServerKey(t, s, "door")
	opts := clock.options(0)
	opts.ReadOnly, opts.LastUseEvery = true, time.Second
	s = reopen(t, s, opts)
	wantLogin(t, s, token, key.ID)
	wantUsed(t, s, key.ID, clock.minute())
	if s.lastUses.every != 0 {
		t.Error("a store that only reads would write last uses")
	}
	must(t, s.Health(t.Context()))
	s = reopen(t, s, clock.options(0))
	wantUsed(t, s, key.ID, time.Time{})
}

func TestABatchIsWrittenAtMostOnceInTheIntervalAndTriedAgainWhenItFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := func() time.Time { return time.Now().AddDate(30, 0, 0) } // a bubble begins in 2000
		s, e := openUses(t, &Options{Cost: LightCost, LastUseEvery: 10 * time.Minute, Now: now})
		key, token := addServerKey(t, s, "door")
		after := func(d time.Duration, want int) {
			t.Helper()
			time.Sleep(d)
			synctest.Wait()
			if got := e.count(); got != want {
				t.Errorf("%d entries were written, want %d", got, want)
			}
		}
		wantLogin(t, s, token, key.ID)
		after(9*time.Minute, 0)
		after(time.Minute, 1)
		wantLogin(t, s, token, key.ID)
		after(9*time.Minute, 1)
		e.failWith(syscall.ENOSPC)
		after(2*time.Minute, 1)
		err := s.Health(t.Context())
		if !errors.Is(err, ErrLastUseFailed) || !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("Health: got %v", err)
		}
		wantLogin(t, s, token, key.ID)
		e.failWith(nil)
		after(time.Minute+time.Second, 2)
		must(t, s.Health(t.Context()))
	})
}

func TestLastUsesAreNeverAfterTheStoresTime(t *testing.T) {
	clock := newUseClock()
	opts := &Options{Cost: LightCost, Now: clock.now}
	s, _ := openUses(t, opts)
	key, token := addServerKey(t, s, "door")
	clock.add(48 * time.Hour)
	s.Now()
	wantLogin(t, s, token, key.ID)
	writeUses(t, s)
	late := clock.minute()
	wantUsed(t, s, key.ID, late)
	clock.add(-48 * time.Hour)
	wantUsed(t, s, key.ID, late) // the store's time does not go back by itself
	must(t, s.ResetClock(t.Context()))
	wantUsed(t, s, key.ID, clock.minute())
	s.cache.Clear()
	wantLogin(t, s, token, key.ID)
	writeUses(t, s)
	clock.add(time.Hour)
	wantUsed(t, s, key.ID, clock.minute().Add(-time.Hour))
}

// usesOf returns the entries of a key in the table of last uses.
func usesOf(t testing.TB, s *Store, id uuid.UUID) (ids []lastuse.ID) {
	t.Helper()
	must(t, s.View(t.Context(), func(tx *Tx) error {
		for e, err := range tx.tables().UsesOf(id) {
			if err != nil {
				return err
			}
			ids = append(ids, lastuse.ID(e.Key))
		}
		return nil
	}))
	return ids
}

func TestARotatedKeyKeepsItsLastUseAndADeletedKeyLosesIt(t *testing.T) {
	clock := newUseClock()
	s, _ := openUses(t, clock.options(0))
	key, token := addServerKey(t, s, "door")
	other, otherToken := addServerKey(t, s, "gate")
	wantLogin(t, s, token, key.ID)
	wantLogin(t, s, otherToken, other.ID)
	used := clock.minute()
	writeUses(t, s)
	clock.add(time.Hour)
	_, second, err := s.RotateServerKey(t.Context(), key.ID, Rotation{})
	must(t, err)
	wantUsed(t, s, key.ID, used)
	current := storedKey(t, s, key.ID).Verifiers.All[0].ID
	if got := usesOf(t, s, key.ID); !slices.Equal(got, []lastuse.ID{lastuse.Join(key.ID, current)}) {
		t.Errorf("after the rotation the table has %x", got)
	}

	// The use of a token that ended before the batch.
	wantLogin(t, s, second, key.ID)
	used = clock.minute()
	_, third, err := s.RotateServerKey(t.Context(), key.ID, Rotation{})
	must(t, err)
	writeUses(t, s)
	clock.add(time.Hour)
	wantUsed(t, s, key.ID, used)
	current = storedKey(t, s, key.ID).Verifiers.All[0].ID
	if got := usesOf(t, s, key.ID); !slices.Equal(got, []lastuse.ID{lastuse.Join(key.ID, current)}) {
		t.Errorf("after the second rotation the table has %x", got)
	}

	wantLogin(t, s, third, key.ID)
	must(t, s.DeleteKey(t.Context(), ServerOwner, key.ID))
	writeUses(t, s)
	if got := usesOf(t, s, key.ID); len(got) != 0 {
		t.Errorf("the deleted key has %x", got)
	}
	if got := usesOf(t, s, other.ID); len(got) != 1 {
		t.Errorf("the other key has %x", got)
	}
	wantSound(t, s)
}

func TestEachTokenOfARotatedKeyHasItsLastUse(t *testing.T) {
	for _, cacheSize := range []int{0, -1} {
		clock := newUseClock()
		s, _ := openUses(t, clock.options(cacheSize))
		key, first := addServerKey(t, s, "door")
		var want []time.Time
		wantEach := func(when string) {
			t.Helper()
			got := []time.Time{}
			k, err := s.KeyByID(t.Context(), key.ID)
			must(t, err)
			for _, token := range k.Tokens {
				got = append(got, token.LastUsed)
			}
			if !slices.EqualFunc(got, want, time.Time.Equal) {
				t.Errorf("cache of %d, %s: the tokens were used last at %v, want %v", cacheSize, when, got, want)
			}
		}
		rotate := func() (token string) {
			t.Helper()
			clock.add(time.Hour)
			_, token, err := s.RotateServerKey(t.Context(), key.ID, Rotation{Overlap: 24 * time.Hour})
			must(t, err)
			return token
		}
		want = []time.Time{{}}
		wantEach("before the first login")
		wantLogin(t, s, first, key.ID)
		want = []time.Time{clock.minute()}
		wantEach("after a login")

		second := rotate()
		want = append(want, time.Time{})
		wantEach("after a rotation")
		wantLogin(t, s, second, key.ID)
		want[1] = clock.minute()
		wantEach("after a login with the new token")
		writeUses(t, s)
		wantEach("after a batch")

		// The first token ends by the second rotation. Nobody has used the third one.
		clock.add(time.Hour)
		wantLogin(t, s, first, key.ID)
		want = []time.Time{clock.minute(), {}}
		rotate()
		wantEach("after a second rotation")
		writeUses(t, s)
		wantEach("after a second rotation and a batch")

		// The second token ends by its date, before a batch has its last use.
		clock.add(time.Hour)
		wantLogin(t, s, second, key.ID)
		want[0] = clock.minute()
		clock.add(48 * time.Hour)
		wantEach("after the end of the second token")
		writeUses(t, s)
		wantEach("after the end of the second token and a batch")
		wantSound(t, s)
	}
}

func TestADamagedLastUseIsAnErrorAndDoesNotHoldAChangeUp(t *testing.T) {
	clock := newUseClock()
	s, _ := openUses(t, clock.options(0))
	key, token := addServerKey(t, s, "door")
	wantLogin(t, s, token, key.ID)
	writeUses(t, s)
	id := usesOf(t, s, key.ID)[0]
	tooLate := record.Seal(tableLastUse, id[:], record.EncodeLastUse(1<<32-1))
	for _, damage := range [][]byte{{}, []byte("damage"), record.Seal(tableHashes, id[:], record.EncodeLastUse(5)), tooLate} {
		plant(t, s, tableLastUse, id[:], damage)
		if _, err := s.KeyByID(t.Context(), key.ID); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%x: got error %v, want ErrCorrupt", damage, err)
		}
		must(t, s.DisableKey(t.Context(), ServerOwner, key.ID))
		must(t, s.EnableKey(t.Context(), ServerOwner, key.ID))
		wantLogin(t, s, token, key.ID)
	}
	clock.add(time.Hour)
	wantLogin(t, s, token, key.ID)
	writeUses(t, s) // over the damage
	wantUsed(t, s, key.ID, clock.minute())
	plant(t, s, tableLastUse, id[:], []byte("damage"))
	must(t, s.DeleteKey(t.Context(), ServerOwner, key.ID))
	wantSound(t, s)
}

// countWrites returns the number of bytes that bbolt writes to the file of a store from now on.
func countWrites(s *Store) *int64 {
	field := reflect.ValueOf(s.engine.(boltEngine).boltFile).Elem().FieldByName("db")
	db := *(**bbolt.DB)(unsafe.Pointer(field.UnsafeAddr()))
	field = reflect.ValueOf(db).Elem().FieldByName("ops").FieldByName("writeAt")
	at := (*func(b []byte, off int64) (int, error))(unsafe.Pointer(field.UnsafeAddr()))
	write, written := *at, new(int64)
	*at = func(b []byte, off int64) (int, error) {
		*written += int64(len(b))
		return write(b, off)
	}
	return written
}

func TestABatchOf100000KeysWritesAtMost6MB(t *testing.T) {
	AboutFile(t)
	n := 100_000
	if testing.Short() {
		n = 20_000
	}
	s := open(t, nil)
	var ids []lastuse.ID
	for chunk := range slices.Chunk(make([]struct{}, n), 10_000) {
		must(t, s.engine.Update(t.Context(), func(etx EngineTx) error {
			for range chunk {
				k := record.Key{ID: uuid.New(), Owner: ServerOwner, Created: s.Now()}
				var verifier record.VerifierID
				binary.BigEndian.PutUint64(verifier[:], uint64(len(ids)))
				k.Verifiers = k.Verifiers.Add(record.Verifier{ID: verifier, PHC: "x"})
				ids = append(ids, lastuse.Join(k.ID, verifier))
				if err := (&Tx{etx: etx, store: s}).putKey(&k); err != nil {
					return err
				}
			}
			return nil
		}))
	}
	var token tokenform.Token // no login presents one
	s.tokens.Load().Parse(s.tokens.Load().Make(uuid.New(), [tokenform.SecretSize]byte{}), &token)
	written := countWrites(s)
	for i, what := range []string{"first", "second"} {
		s.cache = cache.New(0, n, (*answer).holder)
		for _, id := range ids {
			e := cache.NewEntry(&token, answer{principal: Principal{KeyID: id.Key()}, verifier: id.Verifier()})
			e.Use(uint32(s.Now().Unix()/60) - 5 + uint32(i))
			s.cache.SetAside(e)
		}
		before, commits := *written, stats(t, s).Commits
		writeUses(t, s)
		commits = stats(t, s).Commits - commits
		wrote := *written - before
		t.Logf("the %s batch of %d keys wrote %d bytes in %d commits", what, n, wrote, commits)
		if wrote > 60*int64(n) {
			t.Errorf("the %s batch of %d keys wrote %d bytes, want at most 60 for each", what, n, wrote)
		}
		if most := uint64(n/lastUseChunk + 1); commits > most {
			t.Errorf("the %s batch took %d commits, want at most %d", what, commits, most)
		}
		if got := len(s.cache.Unwritten()); got != 0 {
			t.Errorf("%d uses are left", got)
		}
	}
}
