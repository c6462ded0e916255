package latchkey

import (
	"errors"
	"testing"

	"github.com/latchkeydb/latchkey/internal/vector"
)

func TestAVerifierOutOfBoundsInTheFileIsDamageAndIsNeverHashed(t *testing.T) {
	var vectors struct {
		Matching []any
		Refused  []struct{ About, PHC string }
	}
	vector.Read(t, "verifiers.json", &vectors)
	s := open(t, nil)
	key, token := addServerKey(t, s, "laptop")
	before := stats(t, s).Hashes
	k := storedKey(t, s, key.ID)
	for _, v := range vectors.Refused {
		k.Verifiers.All[0].PHC = v.PHC
		plant(t, s, tableKeys, k.ID[:], sealedKey(k))
		if _, err := s.Login(t.Context(), token); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s (%s): got error %v, want ErrCorrupt", v.About, v.PHC, err)
		}
	}
	if n := stats(t, s).Hashes - before; n != 0 {
		t.Errorf("argon2 ran %d times, want 0", n)
	}
}
