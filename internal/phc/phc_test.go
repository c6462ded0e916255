package phc

import (
	"bytes"
	"testing"

	"github.com/latchkeydb/latchkey/internal/vector"
)

type verifierVectors struct {
	Matching []struct {
		Secret, Salt, Hash vector.Hex
		Memory, Passes     uint32
		Lanes              uint8
		PHC                string
	}
	Refused []struct{ About, PHC string }
}

func TestDigestTellsVerifiersApart(t *testing.T) {
	texts := []string{"", "$argon2id$v=19$m=64,t=1,p=1$a", "$argon2id$v=19$m=64,t=1,p=1$b"}
	for i, a := range texts {
		for j, b := range texts {
			if (Digest(a) == Digest(b)) != (i == j) {
				t.Errorf("the digests of %q and %q are equal: %t", a, b, i != j)
			}
		}
	}
}

func TestVerifiersAreMadeAndReadAsTheVectorsSay(t *testing.T) {
	var vectors verifierVectors
	vector.Read(t, "verifiers.json", &vectors)
	for _, v := range vectors.Matching {
		t.Run(v.PHC, func(t *testing.T) {
			secret := [32]byte(v.Secret)
			want := Verifier{Cost: Cost{v.Memory, v.Passes, v.Lanes}, Salt: [saltSize]byte(v.Salt)}
			want.Hash = want.compute(secret[:])
			if !bytes.Equal(want.Hash[:], v.Hash) {
				t.Errorf("hash: got %x, want %x", want.Hash, v.Hash)
			}
			if got := want.String(); got != v.PHC {
				t.Errorf("String: got %s", got)
			}
			got, err := Parse(v.PHC)
			if err != nil || got != want {
				t.Fatalf("parse: got %+v, %v, want %+v", got, err, want)
			}
			if !got.Matches(secret[:]) {
				t.Error("the secret does not match")
			}
			secret[31] ^= 1
			if got.Matches(secret[:]) {
				t.Error("a secret with another last bit matches")
			}
		})
	}
	for _, v := range vectors.Refused {
		t.Run("refused/"+v.About+"/"+v.PHC, func(t *testing.T) {
			if got, err := Parse(v.PHC); err == nil {
				t.Errorf("it was read as %+v", got)
			}
		})
	}
}

func TestCostsAreReadUpToTheirBounds(t *testing.T) {
	for _, cost := range []Cost{{8, 1, 1}, {maxMemory, maxPasses, maxLanes}, {8 * maxLanes, 1, maxLanes}} {
		v := Verifier{Cost: cost}
		if got, err := Parse(v.String()); err != nil || got != v {
			t.Errorf("%+v: got %+v, %v", cost, got, err)
		}
	}
}

func TestEveryVerifierHasASaltOfItsOwn(t *testing.T) {
	secret := make([]byte, 32)
	a, b := New(secret, Cost{64, 1, 1}), New(secret, Cost{64, 1, 1})
	if a.Salt == b.Salt || a.Hash == b.Hash {
		t.Error("two verifiers of one secret are alike")
	}
}

func FuzzParseVerifier(f *testing.F) {
	var vectors verifierVectors
	vector.Read(f, "verifiers.json", &vectors)
	for _, v := range vectors.Matching {
		f.Add(v.PHC)
	}
	for _, v := range vectors.Refused {
		f.Add(v.PHC)
	}
	f.Fuzz(func(t *testing.T, phc string) {
		v, err := Parse(phc)
		if err != nil {
			return
		}
		if v.String() != phc {
			t.Errorf("%q was read, and is spelled %q", phc, v.String())
		}
		c := v.Cost
		if c.Lanes < 1 || c.Lanes > 16 || c.Passes < 1 || c.Passes > 64 || c.Memory < 8*uint32(c.Lanes) || c.Memory > 1<<20 {
			t.Errorf("%q was read with the cost %+v", phc, c)
		}
	})
}
