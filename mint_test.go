package latchkey_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
)

func TestAMintedKeyIsInsertedOnce(t *testing.T) {
	s, stranger := open(t), open(t)
	ada := addUser(t, s, "ada")
	insert := func(m latchkey.MintedKey, name string) error {
		return s.Update(t.Context(), func(tx *latchkey.Tx) error {
			_, err := tx.InsertKey(ada, latchkey.KeySpec{Name: name}, m)
			return err
		})
	}
	theirs, _, err := stranger.MintKey(t.Context())
	must(t, err)
	used, usedToken, err := s.MintKey(t.Context())
	must(t, err)
	must(t, insert(used, "used"))

	wantNoChange(t, s, func() {
		wantError(t, insert(latchkey.MintedKey{}, "empty"), latchkey.ErrInvalidMintedKey)
		wantError(t, insert(theirs, "another domain's"), latchkey.ErrInvalidMintedKey)
		wantError(t, insert(used, "used twice"), latchkey.ErrInvalidMintedKey)
	})
	twice, _, err := s.MintKey(t.Context())
	must(t, err)
	wantNoChange(t, s, func() {
		err := s.Update(t.Context(), func(tx *latchkey.Tx) error {
			if _, err := tx.InsertKey(ada, latchkey.KeySpec{Name: "once"}, twice); err != nil {
				return err
			}
			_, err := tx.InsertServerKey(latchkey.KeySpec{Name: "twice"}, twice)
			return err
		})
		wantError(t, err, latchkey.ErrInvalidMintedKey)
	})

	keys, err := s.Keys(t.Context(), ada)
	must(t, err)
	if len(keys) != 1 {
		t.Fatalf("ada has %d keys, want 1", len(keys))
	}
	wantLogin(t, s, usedToken, keys[0].ID)
}

func TestAMintedKeyWhoseTransactionFailedCanBeInsertedAgain(t *testing.T) {
	s := open(t)
	ada := addUser(t, s, "ada")
	minted, token, err := s.MintKey(t.Context())
	must(t, err)
	wantRefused(t, s, token, latchkey.ErrInvalidToken)
	failed := errors.New("the function fails")
	var first, second latchkey.Key
	insert := func(key *latchkey.Key, result error) error {
		return s.Update(t.Context(), func(tx *latchkey.Tx) (err error) {
			*key, err = tx.InsertKey(ada, latchkey.KeySpec{Name: "laptop"}, minted)
			must(t, err)
			return result
		})
	}
	wantError(t, insert(&first, failed), failed)
	wantRefused(t, s, token, latchkey.ErrInvalidToken)
	must(t, insert(&second, nil))
	wantLogin(t, s, token, second.ID)
	if !reflect.DeepEqual(first, second) {
		t.Errorf("got %+v, and at first %+v", second, first)
	}
}

func TestMintKeysMintsAsManyAsAskedFor(t *testing.T) {
	s := open(t)
	for _, n := range []int{-1, 0, 1, 9} {
		calls := 0
		minted, tokens, err := s.MintKeys(t.Context(), n, func(done, total int) {
			calls++
			if done != calls || total != n {
				t.Errorf("progress %d of %d, want %d of %d", done, total, calls, n)
			}
		})
		must(t, err)
		if want := max(n, 0); len(minted) != want || len(tokens) != want || calls != want {
			t.Errorf("MintKeys(%d): %d keys, %d tokens, %d reports", n, len(minted), len(tokens), calls)
		}
		must(t, s.Update(t.Context(), func(tx *latchkey.Tx) error {
			for i, m := range minted {
				if _, err := tx.InsertServerKey(latchkey.KeySpec{Name: fmt.Sprint(n, " ", i)}, m); err != nil {
					return err
				}
			}
			return nil
		}))
		for _, token := range tokens {
			_, err := s.Login(t.Context(), token)
			must(t, err)
		}
	}
}

func TestAMintedKeyGoesThroughItsText(t *testing.T) {
	s := open(t)
	minted, token, err := s.MintKey(t.Context())
	must(t, err)
	text := minted.Export()
	all := secrets{}
	all.addToken(t, "the minted key", token)
	all.wantSilent(t, "the text of a minted key", text)
	read, err := latchkey.ParseMintedKey(text)
	must(t, err)
	var key latchkey.Key
	must(t, s.Update(t.Context(), func(tx *latchkey.Tx) (err error) {
		key, err = tx.InsertServerKey(latchkey.KeySpec{Name: "job"}, read)
		return err
	}))
	wantLogin(t, s, token, key.ID)
	if ms := key.Created.UnixMilli(); key.ID != minted.ID() || ms>>16 != int64(binary.BigEndian.Uint32(key.ID[:4])) {
		t.Errorf("got key %+v, minted as %s", key, minted)
	}
}

func TestADamagedTextOfAMintedKeyIsRefused(t *testing.T) {
	text := mint(t, open(t)).Export()
	parts := strings.SplitN(text, "/", 4)
	version4, late := parts[1][:14]+"4"+parts[1][15:], "ffffffff-ffff-7"+parts[1][15:]
	for _, bad := range []string{
		"", "/", "///", text + " ", " " + text, text[:len(text)-1], text + "A", strings.ToUpper(text), strings.Join(parts[1:], "/"),
		strings.Join([]string{parts[0], version4, parts[2], parts[3]}, "/"),
		strings.Join([]string{parts[0], late, parts[2], parts[3]}, "/"),
		strings.Join([]string{parts[0], parts[1], parts[2] + "00", parts[3]}, "/"),
		strings.Join([]string{parts[0], parts[1], parts[2], strings.Replace(parts[3], "m=64", "m=2000000", 1)}, "/"),
	} {
		_, err := latchkey.ParseMintedKey(bad)
		wantError(t, err, latchkey.ErrInvalidMintedKey)
	}
	if (latchkey.MintedKey{}).Export() != "" || (latchkey.MintedKey{}).ID() != uuid.Nil {
		t.Error("an empty minted key has a text or an ID")
	}
}

func FuzzParseMintedKey(f *testing.F) {
	f.Add(mint(f, open(f)).Export())
	f.Add(mintOld("digest", "old-1").Export())
	f.Fuzz(func(t *testing.T, text string) {
		if m, err := latchkey.ParseMintedKey(text); err == nil && m.Export() != text {
			t.Errorf("%q became %q", text, m.Export())
		}
	})
}
