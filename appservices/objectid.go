package appservices

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
)

// objectIDSize is the size of an ObjectId in bytes. On the wire an ObjectId has two lower-case
// hexadecimal digits for each byte.
const objectIDSize = 12

// UserObjectID returns the ID of a user on the wire.
func UserObjectID(u latchkey.User) string { return projectID(u.Created, u.ID) }

// KeyObjectID returns the ID of a key on the wire.
func KeyObjectID(k latchkey.Key) string { return projectID(k.Created, k.ID) }

// projectID returns an ObjectId for a record of the store. It begins with the creation time in
// seconds, as every ObjectId does. The other eight bytes are the last half of the UUID, because
// that half is random. The first half is a time.
func projectID(created time.Time, id uuid.UUID) string {
	b := binary.BigEndian.AppendUint32(make([]byte, 0, objectIDSize), uint32(created.Unix()))
	return hexID(append(b, id[8:]...))
}

// hexID returns an ID in the form that it has on the wire.
func hexID(b []byte) string { return string(hex.AppendEncode(make([]byte, 0, 2*objectIDSize), b)) }

// deriveID returns an ID that depends only on the domain and the labels.
func deriveID(domain uuid.UUID, labels ...string) string {
	return hexID(deriveBytes(domain, labels...)[:objectIDSize])
}

func deriveBytes(domain uuid.UUID, labels ...string) []byte {
	h := sha256.New()
	h.Write(domain[:])
	for _, label := range labels {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(label))))
		h.Write([]byte(label))
	}
	return h.Sum(nil)
}

// anonymousID returns the identity of an anonymous user: an ID, a hyphen, and 24 lower-case
// letters.
func anonymousID(domain uuid.UUID, subject string) string {
	letters := deriveBytes(domain, "letters", subject)[:24]
	for i := range letters {
		letters[i] = 'a' + letters[i]%26
	}
	return deriveID(domain, string(latchkey.ProviderAnonymous), subject) + "-" + string(letters)
}

// validHexID reports whether s is the given number of bytes in lower-case hexadecimal digits.
func validHexID(s string, bytes int) bool {
	if len(s) != 2*bytes {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
