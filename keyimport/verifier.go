package keyimport

import (
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
)

// The bounds of what a verifier may cost. A verifier that was made with more is refused.
const (
	maxBcryptCost   = 14      // 2^14 rounds, about a second
	maxArgon2Memory = 1 << 20 // KiB
	maxArgon2Work   = 1 << 21 // KiB in all passes, some seconds
	maxArgon2Passes = 64
	maxArgon2Lanes  = 16
	maxVerifier     = 256 // bytes of text
)

// A verifier is what another system keeps of a token, in the form that a store keeps:
//
//	$sha256$<64 hexadecimal digits>
//	$sha512$<128 hexadecimal digits>
//	$2b$<cost>$<salt and hash>, or $2a$ or $2y$
//	$argon2id$v=19$m=<KiB>,t=<passes>,p=<lanes>$<salt>$<hash>
type verifier struct {
	hash   Hash
	digest []byte // of a digest, and of argon2id

	bcrypt []byte // the whole text

	salt    []byte
	m, t, p uint32
}

// memory returns how many bytes a check takes at most, or 0 for a digest.
func (v *verifier) memory() int64 {
	const few = 64 << 10
	switch v.hash {
	case Argon2id:
		return int64(v.m)<<10 + few
	case Bcrypt:
		return few
	}
	return 0
}

// matches reports whether the verifier was made from a token.
func (v *verifier) matches(token string) bool {
	var sum []byte
	switch v.hash {
	case SHA256:
		s := sha256.Sum256([]byte(token))
		sum = s[:]
	case SHA512:
		s := sha512.Sum512([]byte(token))
		sum = s[:]
	case Bcrypt:
		return bcrypt.CompareHashAndPassword(v.bcrypt, []byte(token)) == nil
	case Argon2id:
		sum = argon2.IDKey([]byte(token), v.salt, v.t, v.m, uint8(v.p), uint32(len(v.digest)))
	}
	return subtle.ConstantTimeCompare(sum, v.digest) == 1
}

// parseVerifier reads a verifier. The text of its errors has nothing of the verifier.
func parseVerifier(text string) (v verifier, err error) {
	if len(text) > maxVerifier {
		return v, fmt.Errorf("%w: it has %d characters", ErrInvalidVerifier, len(text))
	}
	kind, rest, _ := strings.Cut(strings.TrimPrefix(text, "$"), "$")
	if !strings.HasPrefix(text, "$") {
		return v, fmt.Errorf("%w: it begins with no $", ErrInvalidVerifier)
	}
	switch kind {
	case "sha256":
		return parseDigest(SHA256, rest, sha256.Size)
	case "sha512":
		return parseDigest(SHA512, rest, sha512.Size)
	case "2a", "2b", "2y":
		return parseBcrypt(text)
	case "argon2id":
		return parseArgon2id(rest)
	}
	return v, fmt.Errorf("%w: it is neither SHA-256, SHA-512, bcrypt nor argon2id", ErrInvalidVerifier)
}

func parseDigest(hash Hash, digits string, size int) (v verifier, err error) {
	v = verifier{hash: hash, digest: make([]byte, size)}
	if len(digits) != hex.EncodedLen(size) || strings.ToLower(digits) != digits {
		return v, fmt.Errorf("%w: a digest of %s has %d hexadecimal digits", ErrInvalidVerifier, hash, hex.EncodedLen(size))
	}
	if _, err := hex.Decode(v.digest, []byte(digits)); err != nil {
		return v, fmt.Errorf("%w: a digest has a character that is no hexadecimal digit", ErrInvalidVerifier)
	}
	return v, nil
}

// bcryptLength is the length of "$2b$", two digits of cost, "$", 22 characters of salt and 31 of
// hash.
const bcryptLength = 60

func parseBcrypt(text string) (v verifier, err error) {
	noDigit := func(r rune) bool {
		return (r < '.' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
	}
	cost, err := bcrypt.Cost([]byte(text))
	if err != nil || len(text) != bcryptLength || text[6] != '$' || strings.ContainsFunc(text[7:], noDigit) {
		return v, fmt.Errorf("%w: it begins as one of bcrypt, and is none", ErrInvalidVerifier)
	}
	if cost > maxBcryptCost {
		return v, fmt.Errorf("%w: the cost of bcrypt is %d, and %d is the most", ErrInvalidVerifier, cost, maxBcryptCost)
	}
	return verifier{hash: Bcrypt, bcrypt: []byte(text)}, nil
}

func parseArgon2id(text string) (v verifier, err error) {
	invalid := func(reason string) (verifier, error) {
		return verifier{}, fmt.Errorf("%w: argon2id: %s", ErrInvalidVerifier, reason)
	}
	parts := strings.Split(text, "$")
	if len(parts) != 4 || parts[0] != "v=19" {
		return invalid("it is not v=19, costs, salt and hash")
	}
	v.hash = Argon2id
	costs := strings.Split(parts[1], ",")
	if len(costs) != 3 {
		return invalid("the costs are not m, t and p")
	}
	for i, cost := range []struct {
		name        string
		least, most uint32
		to          *uint32
	}{{"m=", 8, maxArgon2Memory, &v.m}, {"t=", 1, maxArgon2Passes, &v.t}, {"p=", 1, maxArgon2Lanes, &v.p}} {
		digits, found := strings.CutPrefix(costs[i], cost.name)
		n, err := strconv.ParseUint(digits, 10, 32)
		if !found || err != nil || uint32(n) < cost.least || uint32(n) > cost.most {
			return invalid("the cost " + cost.name + " is out of bounds")
		}
		*cost.to = uint32(n)
	}
	if uint64(v.m)*uint64(v.t) > maxArgon2Work {
		return invalid(fmt.Sprintf("m × t is more than %d", maxArgon2Work))
	}
	if v.m < 8*v.p {
		return invalid("there are less than 8 KiB for each lane")
	}
	encoding := base64.RawStdEncoding.Strict()
	var saltErr, hashErr error
	v.salt, saltErr = encoding.DecodeString(parts[2])
	v.digest, hashErr = encoding.DecodeString(parts[3])
	if saltErr != nil || hashErr != nil || strings.ContainsAny(text, "\r\n") {
		return invalid("salt or hash are not in base64 without padding")
	}
	if len(v.salt) < 8 || len(v.salt) > 64 || len(v.digest) < 16 || len(v.digest) > 64 {
		return invalid("the salt is not 8 to 64 bytes, or the hash is not 16 to 64")
	}
	return v, nil
}
