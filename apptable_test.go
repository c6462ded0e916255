package latchkey_test

import (
	"bytes"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/latchkeydb/latchkey"
)

func TestDataIsKeptUnderItsNameAlone(t *testing.T) {
	s := open(t)
	put(t, s, "notes", "ada", "met on Monday")
	put(t, s, "notes-2", "ada", "met on Tuesday")
	for name, want := range map[string]string{"notes": "met on Monday", "notes-2": "met on Tuesday", "note": "", "notes-": ""} {
		if got := get(t, s, name, "ada"); string(got) != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

func TestDataIsReadBackAsItWasWritten(t *testing.T) {
	s := open(t)
	for _, value := range [][]byte{{}, {0}, bytes.Repeat([]byte{0xff}, latchkey.MaxAppValue)} {
		for _, key := range [][]byte{{0}, {0xff}, bytes.Repeat([]byte{7}, latchkey.MaxAppKey)} {
			must(t, s.Update(t.Context(), func(tx *latchkey.Tx) error { return tx.AppTable("notes").Put(key, value) }))
			got := get(t, s, "notes", string(key))
			if got == nil || !bytes.Equal(got, value) {
				t.Errorf("%d bytes under %x: got %d bytes, nil %t", len(value), key[0], len(got), got == nil)
			}
		}
	}
}

func TestDataIsWrittenWithTheTransactionOrNotAtAll(t *testing.T) {
	s := open(t)
	stop := errors.New("stop")
	err := s.Update(t.Context(), func(tx *latchkey.Tx) error {
		must(t, tx.AppTable("notes").Put([]byte("ada"), []byte("met")))
		_, err := tx.CreateUser(latchkey.UserSpec{Identity: email("ada")})
		must(t, err)
		return stop
	})
	wantError(t, err, stop)
	if got := get(t, s, "notes", "ada"); got != nil {
		t.Errorf("got %q", got)
	}
}

func TestDeletedDataIsGone(t *testing.T) {
	s := open(t)
	put(t, s, "notes", "ada", "met")
	for range 2 { // a missing record can be deleted, too
		must(t, s.Update(t.Context(), func(tx *latchkey.Tx) error { return tx.AppTable("notes").Delete([]byte("ada")) }))
		if got := get(t, s, "notes", "ada"); got != nil {
			t.Errorf("got %q", got)
		}
	}
}

func TestDataIsScannedInOrderWithinBounds(t *testing.T) {
	s := open(t)
	for _, key := range []string{"b", "a", "c", "\xff"} {
		put(t, s, "notes", key, "of "+key)
	}
	put(t, s, "note", "x", "of another name")
	put(t, s, "notes-2", "y", "of another name")
	for _, tt := range []struct {
		from, to []byte
		want     []string
	}{
		{nil, nil, []string{"a", "b", "c", "\xff"}},
		{[]byte("b"), nil, []string{"b", "c", "\xff"}},
		{[]byte("b"), []byte("c"), []string{"b"}},
		{nil, []byte("b"), []string{"a"}},
		{nil, []byte{}, nil},
	} {
		var got []string
		must(t, s.View(t.Context(), func(tx *latchkey.Tx) error {
			for e, err := range tx.AppTable("notes").Scan(tt.from, tt.to) {
				must(t, err)
				if string(e.Value) != "of "+string(e.Key) {
					t.Errorf("%q has %q", e.Key, e.Value)
				}
				got = append(got, string(e.Key))
			}
			return nil
		}))
		if !slices.Equal(got, tt.want) {
			t.Errorf("from %q to %q: got %q, want %q", tt.from, tt.to, got, tt.want)
		}
	}
}

func TestDataOutOfItsLimitsIsRefused(t *testing.T) {
	s := open(t)
	long := strings.Repeat("x", latchkey.MaxAppValue+1)
	for _, tt := range []struct{ name, key, value string }{
		{"", "k", ""}, {"Notes", "k", ""}, {"notes\x00", "k", ""}, {"no_tes", "k", ""}, {"notés", "k", ""},
		{long[:latchkey.MaxAppName+1], "k", ""}, {"notes", "", ""}, {"notes", long[:latchkey.MaxAppKey+1], ""}, {"notes", "k", long},
	} {
		err := s.Update(t.Context(), func(tx *latchkey.Tx) error {
			return tx.AppTable(tt.name).Put([]byte(tt.key), []byte(tt.value))
		})
		if !errors.Is(err, latchkey.ErrInvalidData) {
			t.Errorf("%.20q, %.20q, %d bytes: got %v", tt.name, tt.key, len(tt.value), err)
		}
	}
	must(t, s.View(t.Context(), func(tx *latchkey.Tx) error {
		for _, err := range tx.AppTable("Notes").Scan(nil, nil) {
			wantError(t, err, latchkey.ErrInvalidData)
		}
		_, err := tx.AppTable("Notes").Get([]byte("k"))
		wantError(t, err, latchkey.ErrInvalidData)
		wantError(t, tx.AppTable("Notes").Delete([]byte("k")), latchkey.ErrInvalidData)
		return nil
	}))
}

func TestDataIsBackedUpAndSalvaged(t *testing.T) {
	latchkey.AboutFile(t)
	s := open(t)
	put(t, s, "notes", "ada", "met")
	dir := t.TempDir()
	var backup bytes.Buffer
	must(t, s.Backup(t.Context(), &backup))
	restored := filepath.Join(dir, "restored.db")
	must(t, latchkey.Restore(t.Context(), &backup, restored))
	salvaged := filepath.Join(dir, "salvaged.db")
	report, err := latchkey.Salvage(t.Context(), restored, salvaged)
	must(t, err)
	if report.Data != 1 {
		t.Errorf("salvaged %d records of applications, want 1", report.Data)
	}
	for _, path := range []string{restored, salvaged} {
		if got := get(t, openFile(t, path, light()), "notes", "ada"); string(got) != "met" {
			t.Errorf("%s: got %q", filepath.Base(path), got)
		}
	}
}

func put(t testing.TB, s *latchkey.Store, name, key, value string) {
	t.Helper()
	must(t, s.Update(t.Context(), func(tx *latchkey.Tx) error { return tx.AppTable(name).Put([]byte(key), []byte(value)) }))
}

func get(t testing.TB, s *latchkey.Store, name, key string) (value []byte) {
	t.Helper()
	must(t, s.View(t.Context(), func(tx *latchkey.Tx) (err error) {
		value, err = tx.AppTable(name).Get([]byte(key))
		return err
	}))
	return value
}
