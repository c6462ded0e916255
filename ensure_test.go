package latchkey_test

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
)

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
	version4, late := uuid.New().String(), "ffffffff-ffff-7"+parts[1][15:]
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
	f.Fuzz(func(t *testing.T, text string) {
		if m, err := latchkey.ParseMintedKey(text); err == nil && m.Export() != text {
			t.Errorf("%q became %q", text, m.Export())
		}
	})
}
