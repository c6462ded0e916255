package latchkey

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"testing/synctest"

	"github.com/google/uuid"
)

// openInside opens a store in a new file, for tests that look into it or damage it. Nil options are those of LightCost.
func openInside(t testing.TB, opts *Options) *Store {
	t.Helper()
	return openInsideFile(t, filepath.Join(t.TempDir(), "keys.db"), opts)
}

func openInsideFile(t testing.TB, path string, opts *Options) *Store {
	t.Helper()
	if opts == nil {
		opts = &Options{Cost: LightCost}
	}
	s, err := Open(path, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeInside(t, s) })
	return s
}

// reopenInside closes a store and opens its file again.
func reopenInside(t testing.TB, s *Store, opts *Options) *Store {
	t.Helper()
	closeInside(t, s)
	return openInsideFile(t, s.engine.(*boltEngine).path, opts)
}

func closeInside(t testing.TB, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func addServerKey(t testing.TB, s *Store, name string) (Key, string) {
	t.Helper()
	key, token, err := s.CreateServerKey(t.Context(), KeySpec{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	return key, token
}

func wantLoginInside(t testing.TB, s *Store, token string, id uuid.UUID) {
	t.Helper()
	if who, err := s.Login(t.Context(), token); err != nil || who.KeyID != id {
		t.Fatalf("login: got %s, %v, want %s", who.KeyID, err, id)
	}
}

func statsInside(t testing.TB, s *Store) Stats {
	t.Helper()
	st, err := s.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// wantHashes fails the test unless argon2 ran n times since the count before.
func wantHashes(t testing.TB, s *Store, before, n uint64) {
	t.Helper()
	if got := statsInside(t, s).Hashes - before; got != n {
		t.Errorf("argon2 ran %d times, want %d", got, n)
	}
}

// verifierOf is what the file has for a key.
func verifierOf(t testing.TB, s *Store, id uuid.UUID) (phc string) {
	t.Helper()
	err := s.View(t.Context(), func(tx *Tx) error {
		k, err := tx.getKey(id)
		if k != nil {
			phc = k.verifier
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return phc
}

// takePermits takes all permits to hash, so that no login gets past the line until they are given back.
func takePermits(t testing.TB, s *Store) (giveBack func()) {
	t.Helper()
	smallest := Cost{Memory: 8, Passes: 1, Lanes: 1}
	for range s.hasher.slots {
		mustAcquire(t, s.hasher, smallest)
	}
	return func() {
		for range s.hasher.slots {
			s.hasher.release(smallest)
		}
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

func TestLoginsOfOneColdKeyShareOneHash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openInside(t, nil)
		_, token := addServerKey(t, s, "laptop")
		before := statsInside(t, s).Hashes

		giveBack := takePermits(t, s)
		var outcomes []<-chan error
		for range 50 {
			outcomes = append(outcomes, loginAside(t.Context(), s, token))
		}
		synctest.Wait()
		if n := s.hasher.waiting(); n != 1 {
			t.Errorf("%d hashes wait for 50 logins, want 1", n)
		}
		giveBack()
		synctest.Wait()
		for _, o := range outcomes {
			wantOutcome(t, o, nil)
		}
		wantHashes(t, s, before, 1)
	})
}

func TestACallerWhoLeavesLeavesAtOnceAndTheHashGoesOnForTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openInside(t, nil)
		_, token := addServerKey(t, s, "laptop")
		before := statsInside(t, s).Hashes
		giveBack := takePermits(t, s)

		ctx, leave := context.WithCancel(t.Context())
		first := loginAside(ctx, s, token)
		synctest.Wait()
		second := loginAside(t.Context(), s, token)
		synctest.Wait()
		leave()
		synctest.Wait()
		wantOutcome(t, first, context.Canceled)
		wantWaiting(t, second)
		third := loginAside(t.Context(), s, token)
		synctest.Wait()

		giveBack()
		synctest.Wait()
		wantOutcome(t, second, nil)
		wantOutcome(t, third, nil)
		wantHashes(t, s, before, 1)
		wantIdle(t, s.hasher)
	})
}

func TestAHashThatHasBegunIsJoinedByWhoComesAfterItsCallersLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openInside(t, nil)
		key, token := addServerKey(t, s, "laptop")
		before := statsInside(t, s).Hashes

		// The test is the hash: it begins, and ends when the test says so.
		f, first := s.flights.board(key.ID, secretOf(t, s, token), verifierOf(t, s, key.ID))
		if !first || !s.flights.begin(f) {
			t.Fatal("the hash does not begin")
		}
		ctx, leave := context.WithCancel(t.Context())
		left := loginAside(ctx, s, token)
		synctest.Wait()
		wantWaiting(t, left)
		leave()
		s.flights.leave(f)
		synctest.Wait()
		wantOutcome(t, left, context.Canceled)

		later := loginAside(t.Context(), s, token)
		synctest.Wait()
		wantWaiting(t, later)
		f.ok = true
		s.flights.land(f)
		synctest.Wait()
		wantOutcome(t, later, nil)
		wantHashes(t, s, before, 0)
	})
}

func TestNothingIsHashedWhenEverybodyHasLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openInside(t, nil)
		_, token := addServerKey(t, s, "laptop")
		before := statsInside(t, s).Hashes
		giveBack := takePermits(t, s)

		ctx, leave := context.WithCancel(t.Context())
		outcomes := []<-chan error{loginAside(ctx, s, token), loginAside(ctx, s, token), loginAside(ctx, s, token)}
		synctest.Wait()
		leave()
		synctest.Wait()
		for _, o := range outcomes {
			wantOutcome(t, o, context.Canceled)
		}
		if n := s.hasher.waiting(); n != 0 {
			t.Errorf("%d hashes still wait, want 0", n)
		}
		giveBack()
		synctest.Wait()
		wantHashes(t, s, before, 0)
		wantIdle(t, s.hasher)
	})
}

func TestNothingIsHashedWhenEverybodyLeavesAsThePermitComes(t *testing.T) {
	s := openInside(t, nil)
	key, token := addServerKey(t, s, "laptop")
	before := statsInside(t, s).Hashes
	secret := secretOf(t, s, token)
	phc := verifierOf(t, s, key.ID)
	v, err := parseVerifier(phc)
	if err != nil {
		t.Fatal(err)
	}
	f, _ := s.flights.board(key.ID, secret, phc)
	f.aboard = 0 // as leave has it, which comes too late to keep the permit from being given
	if ok, err := s.fly(f, key.ID, &secret, &v, phc); ok || !errors.Is(err, context.Canceled) {
		t.Errorf("got %t, %v, want false, Canceled", ok, err)
	}
	s.flights.land(f)
	wantHashes(t, s, before, 0)
	wantIdle(t, s.hasher)
}

func TestALoginWhoseContextEndedReadsAndHashesNothing(t *testing.T) {
	s := openInside(t, nil)
	_, token := addServerKey(t, s, "laptop")
	before := statsInside(t, s).Hashes
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Login(ctx, token); !errors.Is(err, context.Canceled) {
		t.Errorf("got error %v, want Canceled", err)
	}
	wantHashes(t, s, before, 0)
}

func TestMoreLoginsThanTheQueueHoldsAreBusyAndTheOthersGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openInside(t, &Options{Cost: LightCost, HashQueue: 2})
		_, one := addServerKey(t, s, "one")
		_, two := addServerKey(t, s, "two")
		_, three := addServerKey(t, s, "three")
		giveBack := takePermits(t, s)

		first, second := loginAside(t.Context(), s, one), loginAside(t.Context(), s, two)
		synctest.Wait()
		third := loginAside(t.Context(), s, three)
		again := loginAside(t.Context(), s, one) // takes no room of its own
		synctest.Wait()
		wantOutcome(t, third, ErrBusy)
		wantWaiting(t, first)
		wantWaiting(t, second)
		wantWaiting(t, again)

		giveBack()
		synctest.Wait()
		wantOutcome(t, first, nil)
		wantOutcome(t, second, nil)
		wantOutcome(t, again, nil)
		if _, err := s.Login(t.Context(), three); err != nil {
			t.Errorf("the busy one, tried again: got error %v", err)
		}
		if st := statsInside(t, s); st.Busy != 1 {
			t.Errorf("%d logins were busy, want 1", st.Busy)
		}
	})
}

func TestTheRoomOfLoginsThatLeftIsFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openInside(t, &Options{Cost: LightCost, HashQueue: 1})
		_, one := addServerKey(t, s, "one")
		_, two := addServerKey(t, s, "two")
		giveBack := takePermits(t, s)

		ctx, leave := context.WithCancel(t.Context())
		loginAside(ctx, s, one)
		synctest.Wait()
		leave()
		synctest.Wait()
		second := loginAside(t.Context(), s, two)
		synctest.Wait()
		wantWaiting(t, second)
		giveBack()
		synctest.Wait()
		wantOutcome(t, second, nil)
	})
}

// revocations are the ways to end a key's logins, and what they get afterwards.
var revocations = []struct {
	name   string
	revoke func(ctx context.Context, s *Store, owner, id uuid.UUID) error
	want   error
}{
	{"DisableKey", func(ctx context.Context, s *Store, owner, id uuid.UUID) error { return s.DisableKey(ctx, owner, id) }, ErrKeyDisabled},
	{"DeleteKey", func(ctx context.Context, s *Store, owner, id uuid.UUID) error { return s.DeleteKey(ctx, owner, id) }, ErrInvalidToken},
	{"DisableUser", func(ctx context.Context, s *Store, owner, _ uuid.UUID) error { return s.DisableUser(ctx, owner) }, ErrUserDisabled},
	{"DeleteUser", func(ctx context.Context, s *Store, owner, _ uuid.UUID) error { return s.DeleteUser(ctx, owner) }, ErrInvalidToken},
}

func TestAKeyRevokedDuringTheHashIsRefused(t *testing.T) {
	for _, tt := range revocations {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := openInside(t, nil)
				user, err := s.CreateUser(t.Context(), UserSpec{Identity{ProviderLocalUserpass, "ada"}})
				if err != nil {
					t.Fatal(err)
				}
				key, token, err := s.CreateKey(t.Context(), user.ID, KeySpec{Name: "laptop"})
				if err != nil {
					t.Fatal(err)
				}

				f, _ := s.flights.board(key.ID, secretOf(t, s, token), verifierOf(t, s, key.ID))
				s.flights.begin(f)
				outcome := loginAside(t.Context(), s, token)
				synctest.Wait()
				wantWaiting(t, outcome)

				if err := tt.revoke(t.Context(), s, user.ID, key.ID); err != nil {
					t.Fatal(err)
				}
				f.ok = true
				s.flights.land(f)
				synctest.Wait()
				wantOutcome(t, outcome, tt.want)
				for range 3 {
					wantOutcomeOf(t, s, token, tt.want)
				}
			})
		})
	}
}

// secretOf returns the secret in a token.
func secretOf(t testing.TB, s *Store, token string) [secretSize]byte {
	t.Helper()
	var parsed parsedToken
	if !s.tokens.parse(token, &parsed) {
		t.Fatal("it is no token")
	}
	_, secret, _ := parsed.decode()
	return secret
}

func TestAKeyThatTheIndexHasLostIsRevokedWithItsUser(t *testing.T) {
	for _, tt := range revocations[2:] {
		for _, cached := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/cached=%t", tt.name, cached), func(t *testing.T) {
				s := openInside(t, nil)
				user, err := s.CreateUser(t.Context(), UserSpec{Identity{ProviderLocalUserpass, "ada"}})
				if err != nil {
					t.Fatal(err)
				}
				key, token, err := s.CreateKey(t.Context(), user.ID, KeySpec{Name: "laptop"})
				if err != nil {
					t.Fatal(err)
				}
				if cached {
					wantLoginInside(t, s, token, key.ID)
				}
				err = s.Update(t.Context(), func(tx *Tx) error {
					return tx.etx.Delete(tableNames, nameKey(user.ID, "laptop", key.ID))
				})
				if err != nil {
					t.Fatal(err)
				}
				if err := tt.revoke(t.Context(), s, user.ID, key.ID); err != nil {
					t.Fatal(err)
				}
				if who, err := s.Login(t.Context(), token); err == nil {
					t.Errorf("%s logged in", who.KeyID)
				}
			})
		}
	}
}

func TestAKeyWhoseRecordIsOfAnEarlierStateDoesNotLogIn(t *testing.T) {
	h := openInhabited(t)
	wantLoginInside(t, h.Store, h.laptopToken, h.laptop.id)
	mustInside(t, h.DisableKey(t.Context(), h.ada.id, h.laptop.id))
	h.putKey(h.laptop)
	for range 2 {
		wantOutcomeOf(t, h.Store, h.laptopToken, ErrCorrupt)
	}
}

// wantOutcomeOf logs in, and fails the test unless that ends with want.
func wantOutcomeOf(t testing.TB, s *Store, token string, want error) {
	t.Helper()
	if _, err := s.Login(t.Context(), token); !errors.Is(err, want) {
		t.Errorf("login: got error %v, want %v", err, want)
	}
}

func TestAVerifierThatChangesDuringTheHashIsProvenAnew(t *testing.T) {
	for _, tt := range []struct {
		name       string
		sameSecret bool
		want       error
	}{
		{"hashed anew from the same secret", true, nil},
		{"of another secret", false, ErrInvalidToken},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := openInside(t, nil)
				key, token := addServerKey(t, s, "laptop")
				before := statsInside(t, s).Hashes
				giveBack := takePermits(t, s)
				outcome := loginAside(t.Context(), s, token)
				synctest.Wait()

				secret := secretOf(t, s, token)
				if !tt.sameSecret {
					secret[0] ^= 1
				}
				v := newVerifier(secret[:], LightCost)
				plantVerifier(t, s, key.ID, v.String())
				giveBack()
				synctest.Wait()
				wantOutcome(t, outcome, tt.want)
				wantHashes(t, s, before, 2)
			})
		})
	}
}

func TestALoginJoinsNoHashForAnotherVerifierThanItRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openInside(t, nil)
		key, token := addServerKey(t, s, "laptop")
		f, _ := s.flights.board(key.ID, secretOf(t, s, token), verifierOf(t, s, key.ID))
		s.flights.begin(f)

		other := newVerifier(make([]byte, secretSize), LightCost)
		plantVerifier(t, s, key.ID, other.String())
		outcome := loginAside(t.Context(), s, token)
		synctest.Wait()
		f.ok = true // as the verifier was
		s.flights.land(f)
		synctest.Wait()
		wantOutcome(t, outcome, ErrInvalidToken)
	})
}

func TestLoginsUseNoMoreMemoryThanHashMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openInside(t, &Options{Cost: LightCost, HashMemory: units(4).bytes()})
		s.hasher.slots = 100
		var tokens []string
		for i := range 20 {
			_, token := addServerKey(t, s, fmt.Sprint(i))
			tokens = append(tokens, token)
		}
		mustAcquire(t, s.hasher, units(2))
		var outcomes []<-chan error
		for _, token := range tokens {
			outcomes = append(outcomes, loginAside(t.Context(), s, token))
		}
		synctest.Wait()
		if n := s.hasher.waiting(); n != 20 {
			t.Errorf("%d hashes wait, want 20", n)
		}
		s.hasher.release(units(2))
		synctest.Wait()
		for _, o := range outcomes {
			wantOutcome(t, o, nil)
		}
		if st := statsInside(t, s); st.HashPeak != units(2).bytes() {
			t.Errorf("the peak is %d bytes, want %d", st.HashPeak, units(2).bytes())
		}
		wantIdle(t, s.hasher)
	})
}

func TestCloseWaitsForHashesThatRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openInside(t, nil)
		hash := make(chan struct{})
		if !s.goBackground(func() { <-hash }) {
			t.Fatal("the store is open, and takes no work")
		}
		closed := make(chan error, 1)
		go func() { closed <- s.Close() }()
		synctest.Wait()
		select {
		case <-closed:
			t.Fatal("Close did not wait")
		default:
		}
		if s.goBackground(func() {}) {
			t.Error("the store takes work while it closes")
		}
		close(hash)
		synctest.Wait()
		if err := <-closed; err != nil {
			t.Error(err)
		}
	})
}

func TestALoginThatWaitsForItsHashWhenTheStoreClosesIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openInside(t, nil)
		_, token := addServerKey(t, s, "laptop")
		giveBack := takePermits(t, s)
		outcome := loginAside(t.Context(), s, token)
		synctest.Wait()
		closed := make(chan error, 1)
		go func() { closed <- s.Close() }()
		synctest.Wait()
		giveBack()
		synctest.Wait()
		wantOutcome(t, outcome, ErrClosed)
		if err := <-closed; err != nil {
			t.Error(err)
		}
		wantIdle(t, s.hasher)
	})
}

// oldCost is what the keys of the tests below were hashed at before the store was opened with LightCost.
var oldCost = Cost{Memory: 128, Passes: 1, Lanes: 1}

// openWithOldKey opens a store at LightCost that has a server key hashed at oldCost.
func openWithOldKey(t testing.TB) (*Store, Key, string) {
	t.Helper()
	s := openInside(t, &Options{Cost: oldCost})
	key, token := addServerKey(t, s, "laptop")
	return reopenInside(t, s, nil), key, token
}

// loginAndRehash logs in, and waits for the hash that goes on in the background.
func loginAndRehash(t testing.TB, s *Store, token string, id uuid.UUID) {
	t.Helper()
	wantLoginInside(t, s, token, id)
	s.background.Wait()
}

// write is a write that has nothing to do with any key.
func write(t testing.TB, s *Store, subject string) {
	t.Helper()
	if _, err := s.CreateUser(t.Context(), UserSpec{Identity{ProviderLocalUserpass, subject}}); err != nil {
		t.Fatal(err)
	}
}

func wantCost(t testing.TB, s *Store, id uuid.UUID, want Cost) {
	t.Helper()
	v, err := parseVerifier(verifierOf(t, s, id))
	if err != nil {
		t.Fatal(err)
	}
	if v.cost != want {
		t.Errorf("the key is hashed at %+v, want %+v", v.cost, want)
	}
}

func wantSound(t testing.TB, s *Store) {
	t.Helper()
	for finding := range s.Check(t.Context()) {
		t.Errorf("Check: %v", finding)
	}
}

func TestAKeyOfAnotherCostIsHashedAnewInTheCommitOfTheNextWrite(t *testing.T) {
	s, key, token := openWithOldKey(t)
	loginAndRehash(t, s, token, key.ID)
	st := statsInside(t, s)
	if st.Hashes != 2 {
		t.Errorf("argon2 ran %d times, want 2: for the login and for the new verifier", st.Hashes)
	}

	write(t, s, "ada")
	wantCost(t, s, key.ID, LightCost)
	after := statsInside(t, s)
	if after.Commits != st.Commits+1 || after.Rehashed != 1 {
		t.Errorf("%d commits and %d verifiers brought to the cost, want 1 and 1", after.Commits-st.Commits, after.Rehashed)
	}
	write(t, s, "grace")
	if again := statsInside(t, s); again.Sequence != after.Sequence+1 || again.Rehashed != 1 {
		t.Errorf("the write after it moved the sequence by %d and brought %d to the cost, want 1 and 0",
			again.Sequence-after.Sequence, again.Rehashed-1)
	}
	wantSound(t, s)

	s = reopenInside(t, s, nil)
	loginAndRehash(t, s, token, key.ID)
	wantHashes(t, s, 0, 1)
}

func TestALoginWritesNothing(t *testing.T) {
	s, key, token := openWithOldKey(t)
	before := statsInside(t, s)
	loginAndRehash(t, s, token, key.ID)
	after := statsInside(t, s)
	if after.Sequence != before.Sequence || after.Commits != before.Commits {
		t.Errorf("the sequence moved by %d, with %d commits; want 0 and 0", after.Sequence-before.Sequence, after.Commits-before.Commits)
	}
	wantCost(t, s, key.ID, oldCost)
}

func TestAVerifierThatChangedMeanwhileIsNotOverwritten(t *testing.T) {
	s, key, token := openWithOldKey(t)
	loginAndRehash(t, s, token, key.ID)
	other := newVerifier(make([]byte, secretSize), oldCost)
	plantVerifier(t, s, key.ID, other.String())
	write(t, s, "ada")
	if got := verifierOf(t, s, key.ID); got != other.String() {
		t.Errorf("got %s, want %s", got, other.String())
	}
	if st := statsInside(t, s); st.Rehashed != 0 {
		t.Errorf("%d verifiers count as brought to the cost, want 0", st.Rehashed)
	}
}

func TestAKeyDeletedMeanwhileGetsNoVerifier(t *testing.T) {
	s, key, token := openWithOldKey(t)
	loginAndRehash(t, s, token, key.ID)
	if err := s.DeleteKey(t.Context(), ServerOwner, key.ID); err != nil {
		t.Fatal(err)
	}
	write(t, s, "ada")
	if got := verifierOf(t, s, key.ID); got != "" {
		t.Errorf("the tombstone has the verifier %s", got)
	}
	if st := statsInside(t, s); st.Rehashed != 0 {
		t.Errorf("%d verifiers count as brought to the cost, want 0", st.Rehashed)
	}
	wantSound(t, s)
}

func TestAFailedWriteLeavesTheNewVerifierForTheNext(t *testing.T) {
	s, key, token := openWithOldKey(t)
	loginAndRehash(t, s, token, key.ID)
	refused := errors.New("refused")
	err := s.Update(t.Context(), func(tx *Tx) error {
		if _, err := tx.CreateUser(UserSpec{Identity{ProviderLocalUserpass, "ada"}}); err != nil {
			return err
		}
		return refused
	})
	if !errors.Is(err, refused) {
		t.Fatal(err)
	}
	wantCost(t, s, key.ID, oldCost)
	write(t, s, "ada")
	wantCost(t, s, key.ID, LightCost)
}

func TestACommitThatFailsLeavesTheNewVerifierForTheNext(t *testing.T) {
	s, key, token := openWithOldKey(t)
	loginAndRehash(t, s, token, key.ID)
	bolt := s.engine
	lost := errors.New("lost")
	s.engine = failingCommits{bolt, lost}
	if _, err := s.CreateUser(t.Context(), UserSpec{Identity{ProviderLocalUserpass, "ada"}}); !errors.Is(err, lost) {
		t.Fatal(err)
	}
	s.engine = bolt
	wantCost(t, s, key.ID, oldCost)
	write(t, s, "ada")
	wantCost(t, s, key.ID, LightCost)
}

// failingCommits is an engine whose commits fail when their functions have succeeded.
type failingCommits struct {
	Engine
	err error
}

func (e failingCommits) Update(ctx context.Context, fn func(EngineTx) error) error {
	return e.Engine.Update(ctx, func(etx EngineTx) error { return firstError(fn(etx), e.err) })
}

func TestASecretThatIsNotTheKeysGetsNoVerifier(t *testing.T) {
	s, key, _ := openWithOldKey(t)
	wrong := s.tokens.format(key.ID, [secretSize]byte{1}) // only who has the tag secret can make it
	wantOutcomeOf(t, s, wrong, ErrInvalidToken)
	s.background.Wait()
	write(t, s, "ada")
	wantCost(t, s, key.ID, oldCost)
	wantHashes(t, s, 0, 1)
}

func TestALaterVerifierKeepsItsPlace(t *testing.T) {
	r := newRehashes()
	id := uuid.New()
	early, late := rehash{id: id, old: "one", new: "two"}, rehash{id: id, old: "three"}
	r.begin(rehash{id: id, old: early.old})
	r.begin(late) // the verifier has changed
	r.end(early)
	if all := r.all(); len(all) != 0 {
		t.Errorf("%v can be written, want what the later hash will give", all)
	}
	late.new = "four"
	r.end(late)
	r.done([]rehash{early})
	if all := r.all(); len(all) != 1 || all[0] != late {
		t.Errorf("%v can be written, want %v", all, late)
	}
}

func TestAWriteDuringTheHashLeavesTheNewVerifierForTheNext(t *testing.T) {
	s, key, _ := openWithOldKey(t)
	h := rehash{id: key.ID, old: verifierOf(t, s, key.ID)}
	if !s.rehashes.begin(h) {
		t.Fatal("the hash does not begin")
	}
	write(t, s, "ada")
	wantCost(t, s, key.ID, oldCost)

	v := newVerifier(make([]byte, secretSize), LightCost)
	h.new = v.String()
	s.rehashes.end(h)
	write(t, s, "grace")
	wantCost(t, s, key.ID, LightCost)
}

func TestAReadOnlyStoreHashesNothingAnew(t *testing.T) {
	s, key, token := openWithOldKey(t)
	s = reopenInside(t, s, &Options{Cost: LightCost, ReadOnly: true})
	loginAndRehash(t, s, token, key.ID)
	wantHashes(t, s, 0, 1)
	if n := len(s.rehashes.all()); n != 0 {
		t.Errorf("%d new verifiers wait for a write that cannot come", n)
	}
}

func TestVerifiersThatWaitForAWriteAreBounded(t *testing.T) {
	s, key, token := openWithOldKey(t)
	for range maxRehashes {
		s.rehashes.begin(rehash{id: uuid.New(), old: "old", new: "new"})
	}
	loginAndRehash(t, s, token, key.ID)
	wantHashes(t, s, 0, 1)
	if n := len(s.rehashes.all()); n != maxRehashes {
		t.Errorf("%d verifiers wait, want %d", n, maxRehashes)
	}
	write(t, s, "ada") // makes room
	s.cache.clear()
	loginAndRehash(t, s, token, key.ID)
	write(t, s, "grace")
	wantCost(t, s, key.ID, LightCost)
}

func TestAKeyIsHashedAnewOnASingleProcessor(t *testing.T) {
	s, key, token := openWithOldKey(t)
	s.hasher.slots = 1
	loginAndRehash(t, s, token, key.ID)
	write(t, s, "ada")
	wantCost(t, s, key.ID, LightCost)
	wantIdle(t, s.hasher)
}

func TestAKeyIsHashedAnewWhereMemoryIsEnoughForOneHash(t *testing.T) {
	s, key, token := openWithOldKey(t)
	s = reopenInside(t, s, &Options{Cost: LightCost, HashMemory: oldCost.bytes()})
	loginAndRehash(t, s, token, key.ID)
	write(t, s, "ada")
	wantCost(t, s, key.ID, LightCost)
}

func TestAVerifierThatWaitsForAWriteIsNotHashedAgain(t *testing.T) {
	s, key, token := openWithOldKey(t)
	loginAndRehash(t, s, token, key.ID)
	before := statsInside(t, s).Hashes
	s.cache.clear()
	loginAndRehash(t, s, token, key.ID)
	wantHashes(t, s, before, 1)
}

func TestCloseDoesNotWaitForAPermitToHashAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, key, token := openWithOldKey(t)
		secret := secretOf(t, s, token)
		giveBack := takePermits(t, s)
		s.rehash(key.ID, &secret, verifierOf(t, s, key.ID))
		synctest.Wait()
		if n := s.hasher.waiting(); n != 1 {
			t.Fatalf("%d hashes wait, want 1", n)
		}
		closeInside(t, s) // or it deadlocks
		giveBack()
		wantIdle(t, s.hasher)
	})
}

func TestADamagedKeyThatWaitsForItsVerifierDoesNotStopOtherWrites(t *testing.T) {
	for _, tt := range []struct {
		name   string
		damage func(t *testing.T, s *Store, id uuid.UUID) []byte // what is found in the place of the record
	}{
		{"of no checksum", func(*testing.T, *Store, uuid.UUID) []byte { return []byte("damage") }},
		{"of an earlier state", func(t *testing.T, s *Store, id uuid.UUID) []byte {
			record := recordOf(t, s, id)
			if err := s.RenameKey(t.Context(), ServerOwner, id, "desktop"); err != nil {
				t.Fatal(err)
			}
			return record
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, key, token := openWithOldKey(t)
			damage := tt.damage(t, s, key.ID)
			loginAndRehash(t, s, token, key.ID)
			err := s.Update(t.Context(), func(tx *Tx) error { return tx.etx.Put(tableKeys, key.ID[:], damage) })
			if err != nil {
				t.Fatal(err)
			}
			write(t, s, "ada")
			if got := recordOf(t, s, key.ID); !bytes.Equal(got, damage) {
				t.Errorf("the record is %x, want it as it was found, %x", got, damage)
			}
		})
	}
}

// recordOf is a key's record as the engine has it.
func recordOf(t testing.TB, s *Store, id uuid.UUID) (record []byte) {
	t.Helper()
	err := s.View(t.Context(), func(tx *Tx) (err error) {
		record, err = tx.etx.Get(tableKeys, id[:])
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return record
}
