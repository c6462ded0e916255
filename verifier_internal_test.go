package latchkey

import (
	"bytes"
	"errors"
	"testing"

	"github.com/latchkeydb/latchkey/internal/tokenform"
)

type verifierVectors struct {
	Matching []struct {
		Secret, Salt, Hash hexBytes
		Memory, Passes     uint32
		Lanes              uint8
		PHC                string
	}
	Refused []struct{ About, PHC string }
}

func TestVerifiersAreMadeAndReadAsTheVectorsSay(t *testing.T) {
	var vectors verifierVectors
	readVectors(t, "verifiers.json", &vectors)
	for _, v := range vectors.Matching {
		t.Run(v.PHC, func(t *testing.T) {
			secret := [tokenform.SecretSize]byte(v.Secret)
			want := verifier{cost: Cost{v.Memory, v.Passes, v.Lanes}, salt: [saltSize]byte(v.Salt)}
			want.hash = want.compute(secret[:])
			if !bytes.Equal(want.hash[:], v.Hash) {
				t.Errorf("hash: got %x, want %x", want.hash, v.Hash)
			}
			if got := want.String(); got != v.PHC {
				t.Errorf("String: got %s", got)
			}
			got, err := parseVerifier(v.PHC)
			if err != nil || got != want {
				t.Fatalf("parse: got %+v, %v, want %+v", got, err, want)
			}
			if !got.matches(secret[:]) {
				t.Error("the secret does not match")
			}
			secret[tokenform.SecretSize-1] ^= 1
			if got.matches(secret[:]) {
				t.Error("a secret with another last bit matches")
			}
		})
	}
	for _, v := range vectors.Refused {
		t.Run("refused/"+v.About+"/"+v.PHC, func(t *testing.T) {
			if _, err := parseVerifier(v.PHC); !errors.Is(err, ErrCorrupt) {
				t.Errorf("got error %v, want ErrCorrupt", err)
			}
		})
	}
}

func TestCostsAreReadUpToTheirBounds(t *testing.T) {
	for _, cost := range []Cost{{8, 1, 1}, {maxCostMemory, maxCostPasses, maxCostLanes}, {8 * maxCostLanes, 1, maxCostLanes}} {
		v := verifier{cost: cost}
		if got, err := parseVerifier(v.String()); err != nil || got != v {
			t.Errorf("%+v: got %+v, %v", cost, got, err)
		}
	}
}

func TestEveryVerifierHasASaltOfItsOwn(t *testing.T) {
	secret := make([]byte, tokenform.SecretSize)
	a, b := newVerifier(secret, LightCost), newVerifier(secret, LightCost)
	if a.salt == b.salt || a.hash == b.hash {
		t.Error("two verifiers of one secret are alike")
	}
}

func TestAVerifierOutOfBoundsInTheFileIsDamageAndIsNeverHashed(t *testing.T) {
	var vectors verifierVectors
	readVectors(t, "verifiers.json", &vectors)
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

func FuzzParseVerifier(f *testing.F) {
	var vectors verifierVectors
	readVectors(f, "verifiers.json", &vectors)
	for _, v := range vectors.Matching {
		f.Add(v.PHC)
	}
	for _, v := range vectors.Refused {
		f.Add(v.PHC)
	}
	f.Fuzz(func(t *testing.T, phc string) {
		v, err := parseVerifier(phc)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("%q: got error %v, want ErrCorrupt", phc, err)
			}
			return
		}
		if v.String() != phc {
			t.Errorf("%q was read, and is spelled %q", phc, v.String())
		}
		c := v.cost
		if c.Lanes < 1 || c.Lanes > 16 || c.Passes < 1 || c.Passes > 64 || c.Memory < 8*uint32(c.Lanes) || c.Memory > 1<<20 {
			t.Errorf("%q was read with the cost %+v", phc, c)
		}
	})
}
