package latchkey_test

import (
	"reflect"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
)

func TestAnExpiryDateCanBeChanged(t *testing.T) {
	s, c := openWithClock(t, light())
	for name, owner := range map[string]uuid.UUID{"user": addUser(t, s, "ada"), "server": latchkey.ServerOwner} {
		t.Run(name, func(t *testing.T) {
			key, token := addKey(t, s, owner, "laptop")
			set := func(expires, want time.Time) {
				t.Helper()
				must(t, s.SetExpiry(t.Context(), owner, key.ID, expires))
				key.Expires = want
				if got := keyOf(t, s, owner, key.ID); !reflect.DeepEqual(got, key) {
					t.Errorf("the key is %+v, want %+v", got, key)
				}
				if who, err := s.Login(t.Context(), token); err != nil || who.Expires != want {
					t.Errorf("logged in until %s, %v, want %s", who.Expires, err, want)
				}
			}
			east := time.FixedZone("east", 3*60*60)
			hence := c.now().Add(time.Hour)
			set(hence.Add(time.Second-1).In(east), hence)
			c.set(hence)
			wantRefused(t, s, token, latchkey.ErrKeyExpired)
			set(hence.Add(time.Hour), hence.Add(time.Hour))
			set(hence.Add(time.Minute), hence.Add(time.Minute))
			c.set(hence.Add(time.Minute))
			wantRefused(t, s, token, latchkey.ErrKeyExpired)
			set(time.Time{}, time.Time{})
			c.advance(1000 * time.Hour)
			wantLogin(t, s, token, key.ID)
		})
	}
}

func TestAnExpiryDateThatIsSetMustLieAhead(t *testing.T) {
	s, c := openWithClock(t, light())
	ada := addUser(t, s, "ada")
	key, token := addExpiring(t, s, ada, "laptop")
	never, _ := addKey(t, s, ada, "never")
	c.advance(250 * time.Millisecond)
	for _, tt := range []struct {
		name    string
		expires time.Time
	}{
		{"a nanosecond ago", c.now().Add(-1)},
		{"now", c.now()},
		{"later in the second that has begun", c.now().Add(700 * time.Millisecond)},
		{"after the year 9999", time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)},
		{"the year 1", time.Time{}.Add(1)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			wantNoChange(t, s, func() {
				wantError(t, s.SetExpiry(t.Context(), ada, key.ID, tt.expires), latchkey.ErrInvalidExpiry)
				wantError(t, s.SetExpiry(t.Context(), ada, never.ID, tt.expires), latchkey.ErrInvalidExpiry)
			})
		})
	}
	must(t, s.SetExpiry(t.Context(), ada, key.ID, c.now().Add(750*time.Millisecond)))
	wantLogin(t, s, token, key.ID)

	// A call that is repeated succeeds, although the date has passed meanwhile.
	date := c.now().Add(750 * time.Millisecond)
	c.advance(time.Hour)
	wantNoChange(t, s, func() { must(t, s.SetExpiry(t.Context(), ada, key.ID, date)) })
	wantRefused(t, s, token, latchkey.ErrKeyExpired)
}

func TestAnExpiredKeyIsRevivedWithinTheLimitOnly(t *testing.T) {
	opts := light()
	opts.MaxKeysPerUser = 2
	s, c := openWithClock(t, opts)
	ada := addUser(t, s, "ada")
	old, _ := addExpiring(t, s, ada, "old")
	older, _ := addExpiring(t, s, ada, "older")
	c.advance(time.Hour)
	first, _ := addKey(t, s, ada, "first")
	second, _ := addKey(t, s, ada, "second")
	never := time.Time{}
	for _, expires := range []time.Time{never, c.now().Add(time.Hour)} {
		wantNoChange(t, s, func() { wantError(t, s.SetExpiry(t.Context(), ada, old.ID, expires), latchkey.ErrTooManyKeys) })
	}
	// The date of a key that has not expired can be changed.
	must(t, s.SetExpiry(t.Context(), ada, second.ID, c.now().Add(time.Hour)))

	minted, _, err := s.MintKeys(t.Context(), 2, nil)
	must(t, err)
	must(t, s.Update(t.Context(), func(tx *latchkey.Tx) error {
		insert := func(name string, i int, want error) {
			t.Helper()
			_, err := tx.InsertKey(ada, latchkey.KeySpec{Name: name}, minted[i])
			wantError(t, err, want)
		}
		insert("third", 0, latchkey.ErrTooManyKeys) // counts the keys
		must(t, tx.DeleteKey(ada, first.ID))
		must(t, tx.SetExpiry(ada, old.ID, never))
		insert("third", 0, latchkey.ErrTooManyKeys)
		wantError(t, tx.SetExpiry(ada, older.ID, never), latchkey.ErrTooManyKeys)
		must(t, tx.DeleteKey(ada, old.ID))
		insert("third", 0, nil)
		insert("fourth", 1, latchkey.ErrTooManyKeys)
		must(t, tx.DeleteKey(ada, second.ID))
		must(t, tx.SetExpiry(ada, older.ID, c.now().Add(time.Hour)))
		insert("fourth", 1, latchkey.ErrTooManyKeys)
		return nil
	}))
}

func TestServerKeysAndKeysWithoutALimitAreAllRevived(t *testing.T) {
	for owner, limit := range map[string]int{"server": 1, "ada": -1} {
		t.Run(owner, func(t *testing.T) {
			opts := light()
			opts.MaxKeysPerUser = limit
			s, c := openWithClock(t, opts)
			id := latchkey.ServerOwner
			if owner == "ada" {
				id = addUser(t, s, "ada")
			}
			key, token := addExpiring(t, s, id, "old")
			c.advance(time.Hour)
			addNumberedKeys(t, s, id, 0, 21)
			must(t, s.SetExpiry(t.Context(), id, key.ID, time.Time{}))
			wantLogin(t, s, token, key.ID)
		})
	}
}

func TestARevivedKeyKeepsTheNameThatItGotWhenItMadeWay(t *testing.T) {
	s, c := openWithClock(t, light())
	ada := addUser(t, s, "ada")
	old, token := addExpiring(t, s, ada, "laptop")
	c.advance(time.Hour)
	heir, _ := addKey(t, s, ada, "laptop")
	must(t, s.SetExpiry(t.Context(), ada, old.ID, time.Time{}))
	who, err := s.Login(t.Context(), token)
	id := old.ID.String()
	if want := "laptop~" + id[len(id)-8:]; err != nil || who.KeyName != want {
		t.Errorf("logged in as %q, %v, want %q", who.KeyName, err, want)
	}
	// A key that is good again makes no way.
	wantError(t, s.RenameKey(t.Context(), ada, heir.ID, who.KeyName), latchkey.ErrKeyNameTaken)
	must(t, s.RenameKey(t.Context(), ada, heir.ID, "desktop"))
	must(t, s.RenameKey(t.Context(), ada, old.ID, "laptop"))
}
