package latchkey_test

import (
	"encoding/json"
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

func TestAnExpiryDateMustLieAhead(t *testing.T) {
	c := newClock()
	opts := light()
	opts.Now, opts.TestClock = c.now, true
	s := openWith(t, opts)
	ada := addUser(t, s, "ada")
	wantNoKey(t, s, ada, latchkey.KeySpec{Name: "this very second", Expires: c.now()}, latchkey.ErrInvalidExpiry)
	c.advance(250 * time.Millisecond)
	for _, tt := range []struct {
		name  string
		ahead time.Duration
		want  error
	}{
		{"a year ago", -365 * 24 * time.Hour, latchkey.ErrInvalidExpiry},
		{"a nanosecond ago", -1, latchkey.ErrInvalidExpiry},
		{"now", 0, latchkey.ErrInvalidExpiry},
		{"later in the second that has begun, to which it is rounded", 700 * time.Millisecond, latchkey.ErrInvalidExpiry},
		{"the next second", 750 * time.Millisecond, nil},
		{"in 250 years", 250 * 365 * 24 * time.Hour, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := latchkey.KeySpec{Name: tt.name, Expires: c.now().Add(tt.ahead)}
			if tt.want != nil {
				wantNoKey(t, s, ada, n, tt.want)
				return
			}
			_, _, err := s.CreateKey(t.Context(), ada, n)
			must(t, err)
		})
	}
	wantNoKey(t, s, ada, latchkey.KeySpec{Name: "the year 1", Expires: time.Time{}.Add(1)}, latchkey.ErrInvalidExpiry)
}

func TestAnExpiryDateIsAtMostTheLastSecondThatJSONCanHold(t *testing.T) {
	s := open(t)
	last := time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
	key, _, err := s.CreateServerKey(t.Context(), latchkey.KeySpec{Name: "the last second", Expires: last})
	must(t, err)
	if _, err := json.Marshal(key); err != nil {
		t.Error(err)
	}
	for _, later := range []time.Time{last.Add(time.Second), time.Unix(1<<62, 0)} {
		wantNoKey(t, s, latchkey.ServerOwner, latchkey.KeySpec{Name: "later", Expires: later}, latchkey.ErrInvalidExpiry)
	}
}

func TestAKeyExpiresWhenItsSecondBegins(t *testing.T) {
	for name, cacheSize := range map[string]int{"cached": 0, "not cached": -1} {
		t.Run(name, func(t *testing.T) {
			c := newClock()
			opts := light()
			opts.Now, opts.TestClock, opts.CacheSize = c.now, true, cacheSize
			s := openWith(t, opts)
			ada := addUser(t, s, "ada")
			expires := c.now().Add(time.Hour)
			key, token, err := s.CreateKey(t.Context(), ada, latchkey.KeySpec{Name: "visitor", Expires: expires})
			must(t, err)
			forever, foreverToken := addKey(t, s, ada, "resident")

			wantLogin(t, s, token, key.ID)
			c.set(expires.Add(-1))
			wantLogin(t, s, token, key.ID)
			c.set(expires)
			wantRefused(t, s, token, latchkey.ErrKeyExpired)
			c.set(expires.AddDate(100, 0, 0))
			wantRefused(t, s, token, latchkey.ErrKeyExpired)
			wantLogin(t, s, foreverToken, forever.ID)

			// The key still exists, and only the clock decides whether it logs in.
			if got := keyOf(t, s, ada, key.ID); !reflect.DeepEqual(got, key) {
				t.Errorf("got %+v, want %+v", got, key)
			}
			must(t, s.RenameKey(t.Context(), ada, key.ID, "former visitor"))
			must(t, s.DisableKey(t.Context(), ada, key.ID))
			wantRefused(t, s, token, latchkey.ErrKeyDisabled)
			must(t, s.EnableKey(t.Context(), ada, key.ID))
			wantRefused(t, s, token, latchkey.ErrKeyExpired)
			c.set(expires.Add(-1))
			wantLogin(t, s, token, key.ID)
			must(t, s.DeleteKey(t.Context(), ada, key.ID))
		})
	}
}
