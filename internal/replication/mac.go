package replication

import (
	"crypto/hmac"
	"crypto/sha256"

	"github.com/latchkeydb/latchkey/internal/record"
)

// macOf returns the MAC of a record under the secret of a hub. A hub believes a record that has it,
// whoever brings the record.
func macOf(secret []byte, c record.Copy) []byte {
	h := hmac.New(sha256.New, secret)
	h.Write(c.Domain[:])
	h.Write([]byte(c.Table))
	h.Write([]byte{0})
	h.Write(c.Key)
	h.Write([]byte{0})
	h.Write(c.Sealed)
	return h.Sum(nil)[:sizeMAC]
}
