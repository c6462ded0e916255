package replica

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/google/uuid"
)

// An invitation is a text: a prefix with its version, and base64url of
//
//	secret   32 bytes, random
//	domain   16 bytes, the ID of the hub's domain
//	pin      32 bytes, or none: the SHA-256 of the hub's SubjectPublicKeyInfo (RFC 5280)
//	check    4 bytes, the beginning of the SHA-256 of the text's prefix and all of the above
//
// The hub keeps the SHA-256 of the secret.
const invitationPrefix = "lkinvite1_"

const (
	invitationSecret = 32
	pinSize          = sha256.Size
	invitationCheck  = 4
)

type invitation struct {
	secret [invitationSecret]byte
	domain uuid.UUID
	pin    []byte // may be nil
}

func (i invitation) String() string {
	b := append(i.secret[:], i.domain[:]...)
	b = append(b, i.pin...)
	return invitationPrefix + base64.RawURLEncoding.EncodeToString(append(b, i.check(b)...))
}

func (i invitation) check(b []byte) []byte {
	sum := sha256.Sum256(append([]byte(invitationPrefix), b...))
	return sum[:invitationCheck]
}

// hash returns what the hub keeps of an invitation.
func (i invitation) hash() [sha256.Size]byte { return sha256.Sum256(i.secret[:]) }

// parseInvitation reads the text of an invitation. It ignores blanks and line ends around and
// within the text, which a mail program may have added.
//
// Errors: [ErrInvitation].
func parseInvitation(text string) (i invitation, err error) {
	encoded, ok := strings.CutPrefix(strings.Join(strings.Fields(text), ""), invitationPrefix)
	b, decodeErr := base64.RawURLEncoding.Strict().DecodeString(encoded)
	n := len(b) - invitationCheck
	rest := n - invitationSecret - len(i.domain)
	if !ok || decodeErr != nil || rest != 0 && rest != pinSize {
		return i, fmt.Errorf("%w: the text is not a whole invitation", ErrInvitation)
	}
	copy(i.secret[:], b)
	copy(i.domain[:], b[invitationSecret:])
	if rest > 0 {
		i.pin = b[n-rest : n : n]
	}
	if !bytes.Equal(i.check(b[:n:n]), b[n:]) {
		return i, fmt.Errorf("%w: the text was changed or cut", ErrInvitation)
	}
	return i, nil
}
