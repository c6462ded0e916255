package latchkey

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"strings"

	"golang.org/x/crypto/argon2"
)

// A Cost is what it takes to compute one argon2id hash (RFC 9106). The zero Cost stands for [DefaultCost].
type Cost struct {
	Memory uint32 // KiB, from 8 × Lanes to 1,048,576
	Passes uint32 // over the memory, from 1 to 64
	Lanes  uint8  // computed in parallel, from 1 to 16
}

// Named costs. A token's secret has 256 random bits and cannot be guessed at any cost, so the cost is not what keeps a
// stolen file safe; it is there for those whose rules ask for a slow hash. docs/decisions has the argument and figures.
var (
	// DefaultCost is one of the settings that the OWASP Password Storage Cheat Sheet lists as equal for argon2id, and
	// the one that lets a device of 64 MB hash two at once.
	DefaultCost = Cost{Memory: 7 << 10, Passes: 5, Lanes: 1}
	// LightCost is for small devices and tests: 64 KiB, one pass. NIST SP 800-63B asks for no slow hash at all where a
	// secret has 112 random bits or more.
	LightCost = Cost{Memory: 64, Passes: 1, Lanes: 1}
)

// Bounds on what is read from a file, before argon2 sees it: argon2 allocates what it is told, and panics on zero.
const (
	maxCostMemory = 1 << 20 // KiB
	maxCostPasses = 64
	maxCostLanes  = 16
	saltSize      = 16 // RFC 9106 recommends it
	hashSize      = 32
)

func (c Cost) valid() bool {
	return c.Lanes >= 1 && c.Lanes <= maxCostLanes && c.Passes >= 1 && c.Passes <= maxCostPasses &&
		c.Memory >= 8*uint32(c.Lanes) && c.Memory <= maxCostMemory
}

func (c Cost) bytes() int64 { return int64(c.Memory) << 10 }

// verifier is what is kept for a secret, a PHC string taken apart:
// $argon2id$v=19$m=7168,t=5,p=1$<salt>$<hash>, both in base64 without padding
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

// parseVerifier reads a PHC string. It accepts just what String writes, with a cost within bounds; else ErrCorrupt.
func parseVerifier(phc string) (v verifier, err error) {
	parts := strings.Split(phc, "$")
	if len(parts) != 6 || len(parts[3]) > 40 || len(parts[4]) > 64 || len(parts[5]) > 64 {
		return v, fmt.Errorf("%w: a verifier that is no PHC string", ErrCorrupt)
	}
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &v.cost.Memory, &v.cost.Passes, &v.cost.Lanes); err != nil {
		return v, fmt.Errorf("%w: a verifier without a cost", ErrCorrupt)
	}
	salt, _ := phcBase64.DecodeString(parts[4])
	hash, _ := phcBase64.DecodeString(parts[5])
	copy(v.salt[:], salt)
	copy(v.hash[:], hash)
	if !v.cost.valid() || v.String() != phc {
		return v, fmt.Errorf("%w: a verifier out of bounds", ErrCorrupt)
	}
	return v, nil
}

// newVerifier hashes a new secret under a new salt.
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

// matches reports, in constant time, whether secret is the one that the verifier was made from.
func (v *verifier) matches(secret []byte) bool {
	hash := v.compute(secret)
	return subtle.ConstantTimeCompare(hash[:], v.hash[:]) == 1
}
