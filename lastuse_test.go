package latchkey_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
)

func TestKeysThatHaveNotBeenUsedSinceATimeAreFound(t *testing.T) {
	now := time.Date(2030, 1, 1, 12, 0, 30, 0, time.UTC)
	s := openWith(t, &latchkey.Options{Cost: latchkey.LightCost, Now: func() time.Time { return now }, TestClock: true})
	server := latchkey.ServerOwner
	used, usedToken := addKey(t, s, server, "used")
	once, onceToken := addKey(t, s, addUser(t, s, "ada"), "once")
	addKey(t, s, server, "never")
	wantLogin(t, s, onceToken, once.ID)
	now = now.Add(48 * time.Hour)
	wantLogin(t, s, usedToken, used.ID)
	addKey(t, s, server, "new")
	day := now.Add(-24 * time.Hour)
	wantNames(t, s.UnusedSince(t.Context(), day), "once", "never")
	wantNames(t, s.AllKeys(t.Context(), latchkey.KeyFilter{Owner: server, UnusedSince: day}, uuid.Nil), "never")
	must(t, s.View(t.Context(), func(tx *latchkey.Tx) error {
		wantNames(t, tx.UnusedSince(day), "once", "never")
		return nil
	}))
	wantNames(t, s.UnusedSince(t.Context(), time.Time{})) // and not all keys
	// The use of a minute counts until the minute is over.
	wantNames(t, s.UnusedSince(t.Context(), now), "once", "never")
	wantNames(t, s.UnusedSince(t.Context(), now.Add(time.Minute)), "once", "never", "used", "new")
}

func TestSalvageKeepsLastUses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	s := openFile(t, path, light())
	key, token := addKey(t, s, latchkey.ServerOwner, "door")
	gone, goneToken := addKey(t, s, latchkey.ServerOwner, "gone")
	wantLogin(t, s, token, key.ID)
	wantLogin(t, s, goneToken, gone.ID)
	want, err := s.KeyByID(t.Context(), key.ID)
	must(t, err)
	closeStore(t, s)
	s = openFile(t, path, light())
	must(t, s.DeleteKey(t.Context(), latchkey.ServerOwner, gone.ID))
	closeStore(t, s)
	_, out := salvage(t, path)
	if got, err := out.KeyByID(t.Context(), key.ID); err != nil || want.LastUsed.IsZero() || !got.LastUsed.Equal(want.LastUsed) {
		t.Errorf("the key was used last at %s, %v, want %s", got.LastUsed, err, want.LastUsed)
	}
}
