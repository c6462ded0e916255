package migrate

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math/bits"

	"github.com/latchkeydb/latchkey"
)

// A Digest is the digest of a set of entries: the sum of the SHA-256 of each, modulo 2^256. So it
// does not depend on the order in which the entries are read.
type Digest [sha256.Size]byte

// String returns the digest in hexadecimal digits.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// add adds an entry. It hashes the table, the key and the value, the first two with their lengths
// before them.
func (d *Digest) add(table string, e latchkey.Entry) {
	h := sha256.New()
	for _, part := range [][]byte{[]byte(table), e.Key} {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(part))))
		h.Write(part)
	}
	h.Write(e.Value)
	sum, carry := h.Sum(nil), uint64(0)
	for i := len(d) - 8; i >= 0; i -= 8 {
		var word uint64
		word, carry = bits.Add64(binary.BigEndian.Uint64(d[i:]), binary.BigEndian.Uint64(sum[i:]), carry)
		binary.BigEndian.PutUint64(d[i:], word)
	}
}
