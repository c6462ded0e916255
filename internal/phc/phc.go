// Package phc has the stored verifiers of secrets, which are argon2id hashes as PHC strings.
package phc

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/crypto/argon2"
)

// A Cost says how much work one argon2id hash takes (RFC 9106).
type Cost struct {
	Memory uint32 // in KiB
	Passes uint32
	Lanes  uint8
}

// These bound a cost that is read from a file before argon2 sees it, because argon2 allocates what
// it is told to, and panics on zero passes.
const (
	maxMemory = 1 << 20 // in KiB
	maxPasses = 64
	maxLanes  = 16
	saltSize  = 16 // as RFC 9106 recommends
	hashSize  = 32
)

// Least is the least cost that there is. A hash takes some ten microseconds.
var Least = Cost{Memory: 8, Passes: 1, Lanes: 1}

// Valid reports whether a cost is within the bounds.
func (c Cost) Valid() bool {
	return c.Lanes >= 1 && c.Lanes <= maxLanes && c.Passes >= 1 && c.Passes <= maxPasses &&
		c.Memory >= 8*uint32(c.Lanes) && c.Memory <= maxMemory
}

// A Verifier is the stored verifier of a secret, a PHC string taken apart:
// $argon2id$v=19$m=7168,t=5,p=1$<salt>$<hash>. Salt and hash are in base64 without padding
// (https://github.com/P-H-C/phc-string-format/blob/master/phc-sf-spec.md).
type Verifier struct {
	Cost Cost
	Salt [saltSize]byte
	Hash [hashSize]byte
}

var encoding = base64.RawStdEncoding.Strict()

// New hashes a new secret with a new salt.
func New(secret []byte, cost Cost) Verifier {
	v := Verifier{Cost: cost}
	rand.Read(v.Salt[:])
	v.Hash = v.compute(secret)
	return v
}

// String returns the PHC string.
func (v *Verifier) String() string {
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, v.Cost.Memory, v.Cost.Passes, v.Cost.Lanes,
		encoding.EncodeToString(v.Salt[:]), encoding.EncodeToString(v.Hash[:]))
}

// Parse parses a PHC string. It accepts only a string that String would write, with a cost within
// bounds. The comparison with String catches everything that cost, DecodeString and copy let pass.
func Parse(phc string) (v Verifier, err error) {
	parts := strings.Split(phc, "$")
	if len(parts) != 6 || len(parts[3]) > 40 || len(parts[4]) > 64 || len(parts[5]) > 64 {
		return v, errors.New("a verifier is no PHC string")
	}
	if v.Cost, err = cost(parts[3]); err != nil {
		return v, errors.New("a verifier has no cost")
	}
	salt, _ := encoding.DecodeString(parts[4])
	hash, _ := encoding.DecodeString(parts[5])
	copy(v.Salt[:], salt)
	copy(v.Hash[:], hash)
	if !v.Cost.Valid() || v.String() != phc {
		return v, errors.New("a verifier is not written as this package writes it, or has a cost out of range")
	}
	return v, nil
}

// cost reads the three numbers of a text such as m=7168,t=5,p=1, and ignores the rest of the text.
// Package fmt could scan the text, but its scanner would make a program larger by 70 kB.
func cost(s string) (c Cost, err error) {
	numbers := strings.FieldsFunc(s, func(r rune) bool { return r < '0' || r > '9' })
	if len(numbers) != 3 {
		return c, strconv.ErrSyntax
	}
	memory, err := strconv.ParseUint(numbers[0], 10, 32)
	passes, err2 := strconv.ParseUint(numbers[1], 10, 32)
	lanes, err3 := strconv.ParseUint(numbers[2], 10, 8)
	return Cost{Memory: uint32(memory), Passes: uint32(passes), Lanes: uint8(lanes)}, cmp.Or(err, err2, err3)
}

func (v *Verifier) compute(secret []byte) (hash [hashSize]byte) {
	copy(hash[:], argon2.IDKey(secret, v.Salt[:], v.Cost.Passes, v.Cost.Memory, v.Cost.Lanes, hashSize))
	return hash
}

// Matches reports, in constant time, whether the verifier was made from secret.
func (v *Verifier) Matches(secret []byte) bool {
	hash := v.compute(secret)
	return subtle.ConstantTimeCompare(hash[:], v.Hash[:]) == 1
}

// Digest returns 32 bytes that tell a PHC string from all others. What must not keep a verifier can
// keep its digest.
func Digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return string(sum[:])
}
