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
// seconds, as every ObjectId does. In the hosted service three of the other eight bytes were a
// counter, so IDs sorted by creation. A UUID of version 7 sorts by creation, too: its milliseconds
// and its counter take 22 bits here, and the end of the UUID, which is random, takes the other 42.
// Any other UUID gives its last eight bytes.
func projectID(created time.Time, id uuid.UUID) string {
	rest := binary.BigEndian.Uint64(id[8:])
	if id.Version() == 7 {
		ms := binary.BigEndian.Uint64(append([]byte{0, 0}, id[:6]...))
		counter := uint64(binary.BigEndian.Uint16(id[6:]) & 0x0fff)
		created = time.UnixMilli(int64(ms))
		rest = (ms%1000)<<54 | counter<<42 | rest&(1<<42-1)
	}
	b := binary.BigEndian.AppendUint32(make([]byte, 0, objectIDSize), uint32(created.Unix()))
	return hexID(binary.BigEndian.AppendUint64(b, rest))
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
