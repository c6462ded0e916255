package replication

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"math/bits"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/record"
)

// Compare compares what an edge has with what it should have.
//
// Errors: [ErrUnknownEdge], [ErrMessage].
func (h *Hub) Compare(ctx context.Context, id uuid.UUID, r CompareRequest) (CompareReply, error) {
	return CompareReply{}, errors.ErrUnsupported
}

// RangeOf returns the range that a record belongs to when stores compare: the last byte of the ID,
// because the first bytes of an ID can be a time, or for a group the first byte of the SHA-256 of
// its name.
func RangeOf(table string, key []byte) byte {
	if table == record.TableGroups {
		hash := sha256.Sum256(key)
		return hash[0]
	}
	return key[len(key)-1]
}

// HashOf returns the hash of a record by which stores compare.
func HashOf(table string, key, sealed []byte) (hash [16]byte) {
	h := sha256.New()
	h.Write([]byte(table))
	h.Write([]byte{0})
	h.Write(key)
	h.Write([]byte{0})
	h.Write(sealed)
	copy(hash[:], h.Sum(nil))
	return hash
}

// Add adds the hash of a record to the summary of its range.
func (s *Summary) Add(hash [16]byte) {
	s.Count++
	s.Sum = addModulo(s.Sum, hash)
}

// addModulo returns a + b modulo 2¹²⁸.
func addModulo(a, b [16]byte) (sum [16]byte) {
	low, carry := bits.Add64(binary.BigEndian.Uint64(a[8:]), binary.BigEndian.Uint64(b[8:]), 0)
	high, _ := bits.Add64(binary.BigEndian.Uint64(a[:8]), binary.BigEndian.Uint64(b[:8]), carry)
	binary.BigEndian.PutUint64(sum[8:], low)
	binary.BigEndian.PutUint64(sum[:8], high)
	return sum
}
