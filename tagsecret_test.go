package latchkey_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
)

// addTagSecret adds a tag secret, which must get a number.
func addTagSecret(t testing.TB, s *latchkey.Store, want uint64) {
	t.Helper()
	number, err := s.AddTagSecret(t.Context())
	if must(t, err); number != want {
		t.Fatalf("the new tag secret has the number %d, want %d", number, want)
	}
}

// useNewTagSecret adds tag secret 1 and uses it.
func useNewTagSecret(t testing.TB, s *latchkey.Store) {
	t.Helper()
	addTagSecret(t, s, 1)
	must(t, s.UseTagSecret(t.Context(), 1))
}

// tagSecrets returns the states of the tag secrets, by number.
func tagSecrets(t testing.TB, s *latchkey.Store) string {
	t.Helper()
	all, err := s.TagSecrets(t.Context())
	must(t, err)
	var states []string
	for i, secret := range all {
		if secret.Number != uint64(i) {
			t.Errorf("tag secret %d has the number %d", i, secret.Number)
		}
		states = append(states, string(secret.State))
	}
	return strings.Join(states, " ")
}

func wantTagSecrets(t testing.TB, s *latchkey.Store, want string) {
	t.Helper()
	if got := tagSecrets(t, s); got != want {
		t.Errorf("the tag secrets are %s, want %s", got, want)
	}
}

// wantTaggedBefore fails the test unless just these keys need a rotation before the tag secrets
// with lower numbers are retired.
func wantTaggedBefore(t testing.TB, s *latchkey.Store, number uint64, want ...string) {
	t.Helper()
	var got []string
	for k, err := range s.AllKeys(t.Context(), latchkey.KeyFilter{TagSecretBefore: number}, uuid.Nil) {
		must(t, err)
		got = append(got, k.Name)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("under secrets before %d: %q, want %q", number, got, want)
	}
}

func TestATagSecretIsReplacedStepByStepWithoutATokenThatFailsInBetween(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	s := openAt(t, path, light())
	user := addUser(t, s, "ada")
	old, oldToken := addKey(t, s, user, "old")
	rotated, rotatedToken := addKey(t, s, user, "rotated")
	wantTagSecrets(t, s, "used")
	tokens := map[string]uuid.UUID{oldToken: old.ID, rotatedToken: rotated.ID}
	// As a crash between two steps leaves the store.
	reopen := func() {
		t.Helper()
		for token, id := range tokens { // and from the cache
			wantLogin(t, s, token, id)
			wantLogin(t, s, token, id)
		}
		closeStore(t, s)
		s = openAt(t, path, light())
		for token, id := range tokens {
			wantLogin(t, s, token, id)
		}
	}

	addTagSecret(t, s, 1)
	wantTagSecrets(t, s, "used accepted")
	still, stillToken := addKey(t, s, user, "still")
	tokens[stillToken] = still.ID
	reopen()
	wantTagSecrets(t, s, "used accepted")
	wantTaggedBefore(t, s, 1, "old", "rotated", "still")

	must(t, s.UseTagSecret(t.Context(), 1))
	must(t, s.UseTagSecret(t.Context(), 1))
	wantTagSecrets(t, s, "accepted used")
	fresh, freshToken := addKey(t, s, user, "fresh")
	tokens[freshToken] = fresh.ID
	reopen()
	wantTagSecrets(t, s, "accepted used")
	wantTaggedBefore(t, s, 1, "old", "rotated", "still")

	newToken := rotate(t, s, rotated, latchkey.Rotation{Overlap: time.Hour})
	tokens[newToken] = rotated.ID
	reopen()
	wantTaggedBefore(t, s, 1, "old", "still")
	if got := keyOf(t, s, user, rotated.ID).Tokens; len(got) != 2 || got[0].TagSecret != 0 || got[1].TagSecret != 1 {
		t.Errorf("the tokens of the rotated key are %+v", got)
	}

	for range 2 {
		must(t, s.RetireTagSecret(t.Context(), 0))
		wantTagSecrets(t, s, "retired used")
		for range 2 {
			for _, token := range []string{oldToken, stillToken, rotatedToken} {
				wantRefused(t, s, token, latchkey.ErrInvalidToken)
			}
			wantLogin(t, s, freshToken, fresh.ID)
			wantLogin(t, s, newToken, rotated.ID)
		}
		wantTaggedBefore(t, s, 1, "old", "still")
		if got := keyOf(t, s, user, rotated.ID).Tokens; len(got) != 1 || got[0].TagSecret != 1 {
			t.Errorf("the tokens of the rotated key are %+v", got)
		}
		if got := keyOf(t, s, user, old.ID).Tokens; len(got) != 0 {
			t.Errorf("the tokens of the old key are %+v", got)
		}
		closeStore(t, s)
		s = openAt(t, path, light())
	}
	wantLogin(t, s, rotate(t, s, old, latchkey.Rotation{}), old.ID)
	wantTaggedBefore(t, s, 1, "still")
}

func TestTagSecretsTellWhenTheyChanged(t *testing.T) {
	now := newClock()
	opts := light()
	opts.Now, opts.TestClock = now.now, true
	s := openWith(t, opts)
	start := now.now()
	for _, step := range []func(){
		func() { addTagSecret(t, s, 1) },
		func() { must(t, s.UseTagSecret(t.Context(), 1)) },
		func() { must(t, s.RetireTagSecret(t.Context(), 0)) },
	} {
		now.advance(time.Hour)
		step()
	}
	now.advance(time.Hour)
	must(t, s.UseTagSecret(t.Context(), 1))
	must(t, s.RetireTagSecret(t.Context(), 0))
	got, err := s.TagSecrets(t.Context())
	must(t, err)
	want := []latchkey.TagSecret{
		{Number: 0, State: latchkey.TagSecretRetired, Changed: start.Add(3 * time.Hour)},
		{Number: 1, State: latchkey.TagSecretUsed, Changed: start.Add(2 * time.Hour)},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestAStepThatWouldRefuseGoodTokensIsNotTaken(t *testing.T) {
	s := open(t)
	refuse := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, latchkey.ErrInvalidTagSecret) {
			t.Errorf("%s: got %v, want ErrInvalidTagSecret", what, err)
		}
	}
	refuse("retiring the one in use", s.RetireTagSecret(t.Context(), 0))
	refuse("using none", s.UseTagSecret(t.Context(), 1))
	refuse("retiring none", s.RetireTagSecret(t.Context(), 1))
	for number := range uint64(3) {
		addTagSecret(t, s, number+1)
	}
	number, err := s.AddTagSecret(t.Context())
	if refuse("a fifth", err); number != 0 {
		t.Errorf("the fifth has the number %d", number)
	}
	must(t, s.UseTagSecret(t.Context(), 2))
	refuse("using an older one", s.UseTagSecret(t.Context(), 1))
	refuse("using the former one", s.UseTagSecret(t.Context(), 0))
	must(t, s.RetireTagSecret(t.Context(), 1))
	refuse("using a retired one", s.UseTagSecret(t.Context(), 1))
	wantTagSecrets(t, s, "accepted retired used accepted")
	refuse("taking nothing", s.TakeTagSecrets(t.Context(), latchkey.DomainSecrets{}))
	refuse("taking another domain's", s.TakeTagSecrets(t.Context(), open(t).DomainSecrets()))
	wantTagSecrets(t, s, "accepted retired used accepted")
}

func TestTheStoresOfADomainFollowTheStepsOfOneOfThem(t *testing.T) {
	a := open(t)
	b := openOfDomain(t, a)
	follow := func() {
		t.Helper()
		secrets, err := latchkey.ParseDomainSecrets(a.DomainSecrets().Export())
		must(t, err)
		must(t, b.TakeTagSecrets(t.Context(), secrets))
		if got, want := tagSecrets(t, b), tagSecrets(t, a); got != want {
			t.Errorf("the tag secrets are %s, want %s", got, want)
		}
	}
	// share makes a key in a, and inserts it into b, too.
	share := func(name string) (uuid.UUID, string, error) {
		minted, token, err := a.MintKey(t.Context())
		must(t, err)
		return minted.ID(), token, b.Update(t.Context(), func(tx *latchkey.Tx) error {
			again, err := latchkey.ParseMintedKey(minted.Export())
			must(t, err)
			_, err = tx.InsertServerKey(latchkey.KeySpec{Name: name}, again)
			return err
		})
	}
	oldID, oldToken, err := share("old")
	must(t, err)
	addTagSecret(t, a, 1)
	follow()
	must(t, a.UseTagSecret(t.Context(), 1))
	newID, newToken, err := share("new") // while b still makes tokens under the old secret
	must(t, err)
	wantLogin(t, b, newToken, newID)
	wantLogin(t, b, oldToken, oldID)
	follow()
	_, token := addKey(t, b, latchkey.ServerOwner, "own")
	must(t, a.RetireTagSecret(t.Context(), 0))
	wantLogin(t, b, oldToken, oldID)
	follow()
	wantRefused(t, b, oldToken, latchkey.ErrInvalidToken)
	wantLogin(t, b, newToken, newID)
	if _, err := b.Login(t.Context(), token); err != nil {
		t.Errorf("a token that b made under the new secret: %v", err)
	}

	// A store that has missed a step takes no keys whose tokens it would refuse.
	addTagSecret(t, a, 2)
	must(t, a.UseTagSecret(t.Context(), 2))
	_, _, err = share("early")
	wantError(t, err, latchkey.ErrInvalidMintedKey)
	follow()
	third, thirdToken, err := share("in time")
	must(t, err)
	wantLogin(t, b, thirdToken, third)

	c := openOfDomain(t, a) // a new store begins with all of them
	wantTagSecrets(t, c, "retired accepted used")
}

func TestAKeyThatWasMintedUnderARetiredTagSecretIsNotInserted(t *testing.T) {
	s := open(t)
	key, _ := addKey(t, s, latchkey.ServerOwner, "doorbell")
	minted, rotation := mint(t, s), mintToken(t, s, key)
	useNewTagSecret(t, s)
	must(t, s.RetireTagSecret(t.Context(), 0))
	wantError(t, s.Update(t.Context(), func(tx *latchkey.Tx) error {
		_, err := tx.InsertServerKey(latchkey.KeySpec{Name: "late"}, minted)
		return err
	}), latchkey.ErrInvalidMintedKey)
	_, _, err := s.EnsureServerKey(t.Context(), latchkey.KeySpec{Name: "late"}, minted)
	wantError(t, err, latchkey.ErrInvalidMintedKey)
	wantError(t, s.Update(t.Context(), func(tx *latchkey.Tx) error {
		_, err := tx.RotateServerKey(key.ID, latchkey.Rotation{}, rotation)
		return err
	}), latchkey.ErrInvalidMintedKey)
}

func TestAnExportedKeyHasTheTagSecretOfItsToken(t *testing.T) {
	s := open(t)
	useNewTagSecret(t, s)
	key, token := addKey(t, s, latchkey.ServerOwner, "doorbell")
	must(t, s.RetireTagSecret(t.Context(), 0))
	minted, err := s.ExportKey(t.Context(), key.ID)
	must(t, err)
	other := openWith(t, &latchkey.Options{Cost: latchkey.LightCost, Domain: s.DomainSecrets()})
	moved, _, err := other.EnsureServerKey(t.Context(), latchkey.KeySpec{Name: "doorbell"}, minted)
	must(t, err)
	if len(moved.Tokens) != 1 || moved.Tokens[0].TagSecret != 1 {
		t.Errorf("the tokens are %+v", moved.Tokens)
	}
	wantLogin(t, other, token, key.ID)

	addTagSecret(t, s, 2)
	must(t, s.UseTagSecret(t.Context(), 2))
	must(t, s.RetireTagSecret(t.Context(), 1))
	_, err = s.ExportKey(t.Context(), key.ID)
	wantError(t, err, latchkey.ErrInvalidRotation)
}

func TestTheTokenThatAForeignKeyCameWithOutlivesTheTagSecrets(t *testing.T) {
	s, _ := openForeign(t)
	useNewTagSecret(t, s)
	first := addOldServerKey(t, s, "digest", "old-1")
	must(t, s.RetireTagSecret(t.Context(), 0))
	second := addOldServerKey(t, s, "digest", "old-2")
	for token, id := range map[string]uuid.UUID{"old-1": first.ID, "old-2": second.ID} {
		wantLogin(t, s, token, id)
		if got := keyOf(t, s, latchkey.ServerOwner, id).Tokens; len(got) != 1 || !got[0].Foreign {
			t.Errorf("the tokens of %s are %+v", token, got)
		}
	}
	wantTaggedBefore(t, s, 2)
	wantLogin(t, s, rotate(t, s, first, latchkey.Rotation{}), first.ID)
	wantTaggedBefore(t, s, 2, "old-1")
}

func TestTheTextOfAMintedKeyHasTheNumberOfItsTagSecret(t *testing.T) {
	s := open(t)
	useNewTagSecret(t, s)
	text := mint(t, s).Export()
	parts := strings.SplitN(text, "/", 4)
	if len(parts[2]) != 18 || !strings.HasSuffix(parts[2], ".1") {
		t.Errorf("the third part is %q", parts[2])
	}
	for _, tag := range []string{".0", ".01", ".+1", ".", ".x", ".1.1", ".99999999999999999999"} {
		parts[2] = parts[2][:16] + tag
		_, err := latchkey.ParseMintedKey(strings.Join(parts, "/"))
		wantError(t, err, latchkey.ErrInvalidMintedKey)
	}
}

func TestATokenOfARetiredTagSecretIsRefusedAsSoonAsTheRetirementCanBeSeen(t *testing.T) {
	for _, when := range []string{"before it begins", "before it commits", "before it returns"} {
		t.Run(when, func(t *testing.T) {
			e := &commitEngine{Engine: newEngine(t)}
			s := openEngine(t, e, light())
			old, oldToken := addKey(t, s, latchkey.ServerOwner, "old")
			useNewTagSecret(t, s)
			fresh, freshToken := addKey(t, s, latchkey.ServerOwner, "fresh")
			wantLogin(t, s, oldToken, old.ID)
			hashes := stats(t, s).Hashes
			seen := false
			meanwhile := func() {
				seen = true
				wantLogin(t, s, freshToken, fresh.ID)
				wantRefused(t, s, changeLast(freshToken), latchkey.ErrInvalidToken)
				wantRefused(t, s, changeLast(oldToken), latchkey.ErrInvalidToken)
				if when == "before it returns" {
					wantRefused(t, s, oldToken, latchkey.ErrInvalidToken)
				} else {
					wantLogin(t, s, oldToken, old.ID)
				}
			}
			switch when {
			case "before it begins":
				e.beforeUpdate = meanwhile
			case "before it commits":
				e.beforeCommit = meanwhile
			case "before it returns":
				e.afterCommit = meanwhile
			}
			must(t, s.RetireTagSecret(t.Context(), 0))
			e.beforeUpdate, e.beforeCommit, e.afterCommit = nil, nil, nil
			if !seen {
				t.Fatal("no login meanwhile")
			}
			wantRefused(t, s, oldToken, latchkey.ErrInvalidToken)
			wantLogin(t, s, freshToken, fresh.ID)
			if n := stats(t, s).Hashes - hashes; n != 1 {
				t.Errorf("argon2 ran %d times, want 1", n)
			}
		})
	}
}

func TestALoginDuringARetirementTellsWhyItCannotLook(t *testing.T) {
	e := &commitEngine{Engine: newEngine(t)}
	s := openEngine(t, e, light())
	_, token := addKey(t, s, latchkey.ServerOwner, "old")
	useNewTagSecret(t, s)
	e.beforeCommit = func() {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := s.Login(ctx, token)
		wantError(t, err, context.Canceled)
	}
	must(t, s.RetireTagSecret(t.Context(), 0))
}

func TestAStepWhoseCommitFailsIsNotTaken(t *testing.T) {
	e := &commitEngine{Engine: newEngine(t)}
	s := openEngine(t, e, light())
	old, oldToken := addKey(t, s, latchkey.ServerOwner, "old")
	addTagSecret(t, s, 1)
	lost := errors.New("lost")
	fail := func(step func() error) {
		t.Helper()
		e.lost, e.verdict = true, lost
		wantError(t, step(), lost)
		e.lost, e.verdict = false, nil
	}
	fail(func() error { return s.UseTagSecret(t.Context(), 1) })
	wantTagSecrets(t, s, "used accepted")
	still, stillToken := addKey(t, s, latchkey.ServerOwner, "still")
	if still.Tokens[0].TagSecret != 0 {
		t.Error("a new token is under the secret whose use was not written")
	}
	must(t, s.UseTagSecret(t.Context(), 1))
	fail(func() error { return s.RetireTagSecret(t.Context(), 0) })
	wantLogin(t, s, oldToken, old.ID)
	wantLogin(t, s, stillToken, still.ID)
}

func TestARetirementThatMayHaveFailedHoldsIfItCanBeSeen(t *testing.T) {
	for _, seen := range []bool{false, true} {
		t.Run(fmt.Sprint("seen=", seen), func(t *testing.T) {
			e := &commitEngine{Engine: newEngine(t)}
			s := openEngine(t, e, light())
			old, token := addKey(t, s, latchkey.ServerOwner, "old")
			useNewTagSecret(t, s)
			e.lost, e.verdict = !seen, latchkey.ErrCommitUnknown
			wantError(t, s.RetireTagSecret(t.Context(), 0), latchkey.ErrCommitUnknown)
			if seen {
				wantRefused(t, s, token, latchkey.ErrInvalidToken)
			} else {
				wantLogin(t, s, token, old.ID)
			}
		})
	}
}

func TestAFailedStepLeavesLoginsAsTheyWere(t *testing.T) {
	var cs changeList
	s := openWithHook(t, cs.hook)
	old, token := addKey(t, s, latchkey.ServerOwner, "old")
	useNewTagSecret(t, s)
	cs.fail = errors.New("no")
	wantError(t, s.RetireTagSecret(t.Context(), 0), cs.fail)
	wantLogin(t, s, token, old.ID)
	wantTagSecrets(t, s, "accepted used")
}

func TestLoginsUnderTwoTagSecretsAllocateNothing(t *testing.T) {
	s := open(t)
	old, oldToken := addKey(t, s, latchkey.ServerOwner, "old")
	useNewTagSecret(t, s)
	fresh, freshToken := addKey(t, s, latchkey.ServerOwner, "fresh")
	wantLogin(t, s, oldToken, old.ID)
	wantLogin(t, s, freshToken, fresh.ID)
	ctx := t.Context()
	for name, token := range map[string]string{"old": oldToken, "new": freshToken, "forged": changeLast(oldToken)} {
		if n := testing.AllocsPerRun(1000, func() { _, _ = s.Login(ctx, token) }); n != 0 {
			t.Errorf("%s: %v allocations, want 0", name, n)
		}
	}
}

func TestTheHookHearsOfEachStepOfATagSecret(t *testing.T) {
	var cs changeList
	s := openWithHook(t, cs.hook)
	addTagSecret(t, s, 1)
	must(t, s.UseTagSecret(t.Context(), 1))
	must(t, s.UseTagSecret(t.Context(), 1))
	must(t, s.RetireTagSecret(t.Context(), 0))
	must(t, s.RetireTagSecret(t.Context(), 0))
	none := uuid.Nil.String()
	wantChanges(t, &cs, none+" [tag-secret.added] 1", none+" [tag-secret.used] 1", none+" [tag-secret.retired] 0")
}

func TestAStoreForReadingFollowsTheTagSecretsOfItsFile(t *testing.T) {
	needsOpenFiles(t)
	synctest.Test(t, func(t *testing.T) {
		e := newEdge(t)
		defer e.close()
		old, oldToken := addKey(t, e.centre, e.ada, "old")
		useNewTagSecret(t, e.centre)
		fresh, freshToken := addKey(t, e.centre, e.ada, "fresh")
		replace(t, e.path, e.backup())
		e.look()
		wantLogin(t, e.store, oldToken, old.ID)
		wantLogin(t, e.store, freshToken, fresh.ID)
		must(t, e.centre.RetireTagSecret(t.Context(), 0))
		replace(t, e.path, e.backup())
		e.look()
		wantRefused(t, e.store, oldToken, latchkey.ErrInvalidToken)
		wantLogin(t, e.store, freshToken, fresh.ID)
		for finding := range e.store.Check(t.Context()) {
			t.Error(finding)
		}
	})
}

func TestARestoredOrSalvagedStoreHasTheTagSecretsOfTheCopy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	s := openFile(t, path, light())
	_, oldToken := addKey(t, s, latchkey.ServerOwner, "old")
	useNewTagSecret(t, s)
	fresh, freshToken := addKey(t, s, latchkey.ServerOwner, "fresh")
	must(t, s.RetireTagSecret(t.Context(), 0))
	backup := &strings.Builder{}
	must(t, s.Backup(t.Context(), backup))
	closeStore(t, s)
	restored, salvaged := path+".restored", path+".salvaged"
	must(t, latchkey.Restore(t.Context(), strings.NewReader(backup.String()), restored))
	_, err := latchkey.Salvage(t.Context(), path, salvaged)
	must(t, err)
	for _, path := range []string{restored, salvaged} {
		s := openFile(t, path, light())
		wantTagSecrets(t, s, "retired used")
		wantLogin(t, s, freshToken, fresh.ID)
		wantRefused(t, s, oldToken, latchkey.ErrInvalidToken)
	}
}
