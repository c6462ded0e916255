package latchkeytest_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/latchkeytest"
)

func TestAStoreIsClosedWithItsTest(t *testing.T) {
	var stores []*latchkey.Store
	for range 2 {
		t.Run("inner", func(t *testing.T) {
			s := latchkeytest.New(t)
			key, token, err := s.CreateServerKey(t.Context(), latchkey.KeySpec{Name: "a"})
			if err != nil {
				t.Fatal(err)
			}
			who, err := s.Login(t.Context(), token)
			if err != nil || who.KeyID != key.ID {
				t.Errorf("got %+v, %v", who, err)
			}
			stores = append(stores, s)
		})
	}
	for _, s := range stores {
		if _, err := s.Login(t.Context(), ""); !errors.Is(err, latchkey.ErrClosed) {
			t.Errorf("after its test, Login: %v", err)
		}
	}
	if stores[0].DomainID() == stores[1].DomainID() {
		t.Error("two stores have one domain")
	}
}

// whoami returns a handler as a program has one, which answers with the name of the caller's key.
func whoami(store *latchkey.Store) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		who, err := store.Login(r.Context(), token)
		if err != nil {
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		fmt.Fprintln(w, who.KeyName)
	})
}

func TestAHandlerKnowsTheKey(t *testing.T) {
	store := latchkeytest.New(t)
	_, token, err := store.CreateServerKey(t.Context(), latchkey.KeySpec{Name: "backup"})
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("Authorization", "Bearer "+token)
	w := httptest.NewRecorder()
	whoami(store).ServeHTTP(w, r)
	if got := w.Body.String(); got != "backup\n" {
		t.Errorf("got %q", got)
	}
}

func ExampleNew() {
	var t *testing.T // the test's own

	store := latchkeytest.New(t)
	key, token, err := store.CreateServerKey(t.Context(), latchkey.KeySpec{Name: "backup"})
	if err != nil {
		t.Fatal(err)
	}
	who, err := store.Login(t.Context(), token)
	if err != nil || who.KeyID != key.ID {
		t.Errorf("got %+v, %v", who, err)
	}
}

func TestKeysExpireInABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // whose clock begins in the year 2000
		s := latchkeytest.New(t)
		_, token, err := s.CreateServerKey(t.Context(), latchkey.KeySpec{Name: "a", Expires: time.Now().Add(time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Login(t.Context(), token); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Hour)
		if _, err := s.Login(t.Context(), token); !errors.Is(err, latchkey.ErrKeyExpired) {
			t.Errorf("got %v, want ErrKeyExpired", err)
		}
	})
}
