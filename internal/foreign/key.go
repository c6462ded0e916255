package foreign

import (
	"crypto/sha256"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/record"
)

// IDs returns the IDs that a foreign key and its verifier have in every store. They are derived
// from the handle and the verifier, so a key that is imported twice is one key, and a key that was
// deleted is known by its ID.
func IDs(h record.Handle, verifier string) (key uuid.UUID, id record.VerifierID) {
	sum := hash("latchkey foreign key\x00", string(h[:])+verifier)
	copy(key[:], sum[:])
	key[6] = key[6]&0x0f | 8<<4 // version 8 of RFC 9562
	key[8] = key[8]&0x3f | 0x80
	copy(id[:], sum[len(key):])
	return key, id
}

// Secret returns what the token of a foreign key has in place of a secret. It is no digest that
// another system may have stored, so nobody can make it without the token.
func Secret(token string) [32]byte { return hash("latchkey foreign token\x00", token) }

// hash hashes a text under a label. It allocates nothing for a text of the length of a token.
func hash(label, text string) [32]byte {
	var buffer [512]byte
	return sha256.Sum256(append(append(buffer[:0], label...), text...))
}
