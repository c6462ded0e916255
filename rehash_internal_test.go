package latchkey

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/rehash"
	"github.com/latchkeydb/latchkey/internal/tokenform"
)

// oldCost is the cost of keys that were made before the store was opened with LightCost.
var oldCost = Cost{Memory: 128, Passes: 1, Lanes: 1}

// openWithOldKey opens a store with LightCost. It has a server key that was hashed at oldCost.
func openWithOldKey(t testing.TB) (*Store, Key, string) {
	t.Helper()
	s := open(t, &Options{Cost: oldCost})
	key, token := addServerKey(t, s, "laptop")
	return reopen(t, s, nil), key, token
}

// loginAndRehash logs in, and waits for the hash in the background.
func loginAndRehash(t testing.TB, s *Store, token string, id uuid.UUID) {
	t.Helper()
	wantLogin(t, s, token, id)
	s.background.Wait()
}

func wantCost(t testing.TB, s *Store, id uuid.UUID, want Cost) {
	t.Helper()
	phc := ownHashOf(t, s, id)
	if phc == "" {
		phc = verifierOf(t, s, id)
	}
	v, err := parseVerifier(phc)
	if err != nil {
		t.Fatal(err)
	}
	if Cost(v.Cost) != want {
		t.Errorf("the key is hashed at %+v, want %+v", v.Cost, want)
	}
}

func TestAKeyOfAnotherCostIsHashedAnewInTheCommitOfTheNextWrite(t *testing.T) {
	s, key, token := openWithOldKey(t)
	loginAndRehash(t, s, token, key.ID)
	st := stats(t, s)
	if st.Hashes != 2 {
		t.Errorf("argon2 ran %d times, want 2: for the login and for the new verifier", st.Hashes)
	}

	addUser(t, s, "ada")
	wantCost(t, s, key.ID, LightCost)
	after := stats(t, s)
	if after.Commits != st.Commits+1 || after.Rehashed != 1 {
		t.Errorf("%d commits and %d verifiers brought to the cost, want 1 and 1", after.Commits-st.Commits, after.Rehashed)
	}
	addUser(t, s, "grace")
	if again := stats(t, s); again.Commits != after.Commits+1 || again.Rehashed != 1 {
		t.Errorf("the write after it made %d commits and brought %d to the cost, want 1 and 0",
			again.Commits-after.Commits, again.Rehashed-1)
	}
	wantSound(t, s)

	s = reopen(t, s, nil)
	loginAndRehash(t, s, token, key.ID)
	wantHashes(t, s, 0, 1)
}

func TestALoginWritesNothing(t *testing.T) {
	s, key, token := openWithOldKey(t)
	before := stats(t, s)
	loginAndRehash(t, s, token, key.ID)
	after := stats(t, s)
	if after.Sequence != before.Sequence || after.Commits != before.Commits {
		t.Errorf("the sequence moved by %d, with %d commits; want 0 and 0", after.Sequence-before.Sequence, after.Commits-before.Commits)
	}
	wantCost(t, s, key.ID, oldCost)
}

func TestAVerifierThatChangedMeanwhileIsNotOverwritten(t *testing.T) {
	s, key, token := openWithOldKey(t)
	loginAndRehash(t, s, token, key.ID)
	other := newVerifier(make([]byte, tokenform.SecretSize), oldCost)
	plantVerifier(t, s, key.ID, other.String())
	addUser(t, s, "ada")
	if got := verifierOf(t, s, key.ID); got != other.String() {
		t.Errorf("got %s, want %s", got, other.String())
	}
	if st := stats(t, s); st.Rehashed != 0 {
		t.Errorf("%d verifiers count as brought to the cost, want 0", st.Rehashed)
	}
}

func TestAKeyDeletedMeanwhileGetsNoVerifier(t *testing.T) {
	s, key, token := openWithOldKey(t)
	loginAndRehash(t, s, token, key.ID)
	if err := s.DeleteKey(t.Context(), ServerOwner, key.ID); err != nil {
		t.Fatal(err)
	}
	addUser(t, s, "ada")
	if got := verifierOf(t, s, key.ID) + ownHashOf(t, s, key.ID); got != "" {
		t.Errorf("the deleted key has the verifier %s", got)
	}
	if st := stats(t, s); st.Rehashed != 0 {
		t.Errorf("%d verifiers count as brought to the cost, want 0", st.Rehashed)
	}
	wantSound(t, s)
}

func TestAFailedWriteLeavesTheNewVerifierForTheNext(t *testing.T) {
	s, key, token := openWithOldKey(t)
	loginAndRehash(t, s, token, key.ID)
	refused := errors.New("refused")
	err := s.Update(t.Context(), func(tx *Tx) error {
		if _, err := tx.CreateUser(UserSpec{Identity: Identity{ProviderLocalUserpass, "ada"}}); err != nil {
			return err
		}
		return refused
	})
	if !errors.Is(err, refused) {
		t.Fatal(err)
	}
	wantCost(t, s, key.ID, oldCost)
	addUser(t, s, "ada")
	wantCost(t, s, key.ID, LightCost)
}

func TestACommitThatFailsLeavesTheNewVerifierForTheNext(t *testing.T) {
	s, key, token := openWithOldKey(t)
	loginAndRehash(t, s, token, key.ID)
	bolt := s.engine
	lost := errors.New("lost")
	s.engine = failingCommits{bolt, lost}
	if _, err := s.CreateUser(t.Context(), UserSpec{Identity: Identity{ProviderLocalUserpass, "ada"}}); !errors.Is(err, lost) {
		t.Fatal(err)
	}
	s.engine = bolt
	wantCost(t, s, key.ID, oldCost)
	addUser(t, s, "ada")
	wantCost(t, s, key.ID, LightCost)
}

// failingCommits is an engine whose commits fail after their functions have succeeded.
type failingCommits struct {
	Engine
	err error
}

func (e failingCommits) Update(ctx context.Context, fn func(EngineTx) error) error {
	return e.Engine.Update(ctx, func(etx EngineTx) error {
		if err := fn(etx); err != nil {
			return err
		}
		return e.err
	})
}

func TestASecretThatIsNotTheKeysGetsNoVerifier(t *testing.T) {
	s, key, _ := openWithOldKey(t)
	// Only a holder of the tag secret can make this token. It is hashed, because the ID of the
	// verifier begins like the hash of the secret.
	wrong := [tokenform.SecretSize]byte{1}
	plantHint(t, s, key.ID, wrong[:])
	wantRefused(t, s, s.tokens.Load().Make(key.ID, wrong), ErrInvalidToken)
	s.background.Wait()
	addUser(t, s, "ada")
	wantCost(t, s, key.ID, oldCost)
	wantHashes(t, s, 0, 1)
}

func TestAnEarlierHashDoesNotReplaceALaterOne(t *testing.T) {
	r := rehash.New()
	id := rehash.ID{Key: uuid.New()}
	early, late := rehash.Hash{ID: id, Old: "one", New: "two"}, rehash.Hash{ID: id, Old: "three"}
	r.Begin(rehash.Hash{ID: id, Old: early.Old})
	r.Begin(late) // as after a change of the verifier
	r.End(early)
	if all := r.Ready(); len(all) != 0 {
		t.Errorf("%v can be written, want what the later hash will give", all)
	}
	late.New = "four"
	r.End(late)
	r.Done([]rehash.Hash{early})
	if all := r.Ready(); len(all) != 1 || all[0] != late {
		t.Errorf("%v can be written, want %v", all, late)
	}
}

func TestAWriteDuringTheHashLeavesTheNewVerifierForTheNext(t *testing.T) {
	s, key, _ := openWithOldKey(t)
	v := storedVerifierOf(t, s, key.ID)
	h := rehash.Hash{ID: rehash.ID{Key: v.key, Verifier: v.id}, Old: v.phc}
	if !s.rehashes.Begin(h) {
		t.Fatal("the hash does not begin")
	}
	addUser(t, s, "ada")
	wantCost(t, s, key.ID, oldCost)

	anew := newVerifier(make([]byte, tokenform.SecretSize), LightCost)
	h.New = anew.String()
	s.rehashes.End(h)
	addUser(t, s, "grace")
	wantCost(t, s, key.ID, LightCost)
}

func TestAReadOnlyStoreHashesNothingAnew(t *testing.T) {
	s, key, token := openWithOldKey(t)
	s = reopen(t, s, &Options{Cost: LightCost, ReadOnly: true})
	loginAndRehash(t, s, token, key.ID)
	wantHashes(t, s, 0, 1)
	if n := len(s.rehashes.Ready()); n != 0 {
		t.Errorf("%d new verifiers wait for a write that cannot come", n)
	}
}

func TestVerifiersThatWaitForAWriteAreBounded(t *testing.T) {
	s, key, token := openWithOldKey(t)
	for range rehash.Max {
		s.rehashes.Begin(rehash.Hash{ID: rehash.ID{Key: uuid.New()}, Old: "old", New: "new"})
	}
	loginAndRehash(t, s, token, key.ID)
	wantHashes(t, s, 0, 1)
	if n := len(s.rehashes.Ready()); n != rehash.Max {
		t.Errorf("%d verifiers wait, want %d", n, rehash.Max)
	}
	addUser(t, s, "ada") // makes room
	s.cache.Clear()
	loginAndRehash(t, s, token, key.ID)
	for n := 0; len(s.rehashes.Ready()) > 0; n++ { // once for each transaction that they need
		addUser(t, s, fmt.Sprint("grace ", n))
	}
	wantCost(t, s, key.ID, LightCost)
}

func TestAKeyIsHashedAnewOnASingleProcessor(t *testing.T) {
	s, key, token := openWithOldKey(t)
	s.hasher.Slots = 1
	loginAndRehash(t, s, token, key.ID)
	addUser(t, s, "ada")
	wantCost(t, s, key.ID, LightCost)
	wantIdle(t, s.hasher)
}

func TestAKeyIsHashedAnewWhenHashMemoryHasRoomForOneHash(t *testing.T) {
	s, key, token := openWithOldKey(t)
	s = reopen(t, s, &Options{Cost: LightCost, HashMemory: oldCost.bytes()})
	loginAndRehash(t, s, token, key.ID)
	addUser(t, s, "ada")
	wantCost(t, s, key.ID, LightCost)
}

func TestAVerifierThatWaitsForAWriteIsNotHashedAgain(t *testing.T) {
	s, key, token := openWithOldKey(t)
	loginAndRehash(t, s, token, key.ID)
	before := stats(t, s).Hashes
	s.cache.Clear()
	loginAndRehash(t, s, token, key.ID)
	wantHashes(t, s, before, 1)
}

func TestCloseDoesNotWaitForAPermitToHashAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, key, token := openWithOldKey(t)
		secret := secretOf(t, s, token)
		giveBack := takePermits(t, s)
		s.hashAnew(storedVerifierOf(t, s, key.ID), &secret)
		synctest.Wait()
		if n := s.hasher.Waiting(); n != 1 {
			t.Fatalf("%d hashes wait, want 1", n)
		}
		closeStore(t, s) // this deadlocks if Close waits for the permit
		giveBack()
		wantIdle(t, s.hasher)
	})
}

func TestADamagedKeyThatWaitsForItsVerifierDoesNotStopOtherWrites(t *testing.T) {
	for _, tt := range []struct {
		name string
		// damage damages the record, and returns the damaged bytes.
		damage func(t *testing.T, s *Store, id uuid.UUID) []byte
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
			addUser(t, s, "ada")
			if got := recordOf(t, s, key.ID); !bytes.Equal(got, damage) {
				t.Errorf("the record is %x, want it as it was found, %x", got, damage)
			}
		})
	}
}
