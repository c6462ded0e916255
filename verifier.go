package latchkey

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"strings"

	"golang.org/x/crypto/argon2"
)

// A Cost says how much work one argon2id hash takes (RFC 9106). The zero Cost stands for
// [DefaultCost].
type Cost struct {
	Memory uint32 // in KiB, from 8 × Lanes to 1,048,576
	Passes uint32 // over the memory, from 1 to 64
	Lanes  uint8  // that can run in parallel, from 1 to 16
}

// These are the named costs. No cost makes it possible to guess a token's secret, which has 256
// random bits, so at any of them a stolen file gives no token away. A slow hash is for programs
// whose rules demand one. docs/decisions has the argument and the figures.
var (
	// DefaultCost is one of the settings for argon2id that the OWASP Password Storage Cheat Sheet
	// lists as equally good. Among them it is the one that lets a device with 64 MB compute two
	// hashes at once.
	DefaultCost = Cost{Memory: 7 << 10, Passes: 5, Lanes: 1}
	// LightCost is for small devices and tests: 64 KiB and one pass. NIST SP 800-63B demands no
	// slow hash if a secret has 112 random bits or more.
	LightCost = Cost{Memory: 64, Passes: 1, Lanes: 1}
)

// These bound a cost that is read from a file before argon2 sees it, because argon2 allocates what
// it is told to, and panics on zero passes.
const (
	maxCostMemory = 1 << 20 // in KiB
	maxCostPasses = 64
	maxCostLanes  = 16
	saltSize      = 16 // as RFC 9106 recommends
	hashSize      = 32
)

func (c Cost) valid() bool {
	return c.Lanes >= 1 && c.Lanes <= maxCostLanes && c.Passes >= 1 && c.Passes <= maxCostPasses &&
		c.Memory >= 8*uint32(c.Lanes) && c.Memory <= maxCostMemory
}

func (c Cost) bytes() int64 { return int64(c.Memory) << 10 }

// verifier is the stored verifier of a secret, a PHC string taken apart:
// $argon2id$v=19$m=7168,t=5,p=1$<salt>$<hash>. Salt and hash are in base64 without padding
// (https://github.com/P-H-C/phc-string-format/blob/master/phc-sf-spec.md).
type verifier struct {
	cost Cost
	salt [saltSize]byte
	hash [hashSize]byte
}

var phcBase64 = base64.RawStdEncoding.Strict()

func (v *verifier) String() string {
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, v.cost.Memory, v.cost.Passes, v.cost.Lanes,
		phcBase64.EncodeToString(v.salt[:]), phcBase64.EncodeToString(v.hash[:]))
}

// parseVerifier parses a PHC string. It accepts only a string that String would write, with a cost
// within bounds, and returns ErrCorrupt for any other. The comparison with String catches
// everything that Sscanf, DecodeString and copy let pass.
func parseVerifier(phc string) (v verifier, err error) {
	parts := strings.Split(phc, "$")
	if len(parts) != 6 || len(parts[3]) > 40 || len(parts[4]) > 64 || len(parts[5]) > 64 {
		return v, fmt.Errorf("%w: a verifier is no PHC string", ErrCorrupt)
	}
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &v.cost.Memory, &v.cost.Passes, &v.cost.Lanes); err != nil {
		return v, fmt.Errorf("%w: a verifier has no cost", ErrCorrupt)
	}
	salt, _ := phcBase64.DecodeString(parts[4])
	hash, _ := phcBase64.DecodeString(parts[5])
	copy(v.salt[:], salt)
	copy(v.hash[:], hash)
	if !v.cost.valid() || v.String() != phc {
		return v, fmt.Errorf("%w: a verifier is not written as this package writes it, or has a cost out of range", ErrCorrupt)
	}
	return v, nil
}

// newVerifier hashes a new secret with a new salt.
func newVerifier(secret []byte, cost Cost) verifier {
	v := verifier{cost: cost}
	rand.Read(v.salt[:])
	v.hash = v.compute(secret)
	return v
}

func (v *verifier) compute(secret []byte) (hash [hashSize]byte) {
	copy(hash[:], argon2.IDKey(secret, v.salt[:], v.cost.Passes, v.cost.Memory, v.cost.Lanes, hashSize))
	return hash
}

// matches reports, in constant time, whether the verifier was made from secret.
func (v *verifier) matches(secret []byte) bool {
	hash := v.compute(secret)
	return subtle.ConstantTimeCompare(hash[:], v.hash[:]) == 1
}
