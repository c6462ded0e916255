package audit

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// A Hash is a SHA-256 (FIPS 180-4). Its text is in hexadecimal.
type Hash [sha256.Size]byte

func hashOf(b []byte) Hash { return sha256.Sum256(b) }

// String returns the hash in hexadecimal.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// MarshalText returns what [Hash.String] returns.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText reads 64 hexadecimal digits.
func (h *Hash) UnmarshalText(text []byte) error {
	if len(text) != hex.EncodedLen(len(h)) {
		return fmt.Errorf("a hash of %d characters has not %d hexadecimal digits", len(text), hex.EncodedLen(len(h)))
	}
	_, err := hex.Decode(h[:], text)
	return err
}

// A Head stands for a chain up to one entry. It has the number of the entry and its hash. Its text
// is the number, a colon, and the hash in hexadecimal, such as "42:9f86d081…". Before them, the
// head of a chain with a name has the name and a slash, such as "shop-1/42:9f86d081…".
//
// A Head says nothing about the changes, so it can be kept anywhere.
type Head struct {
	Chain  Chain
	Number uint64
	Hash   Hash
}

// String returns the text of the head.
func (h Head) String() string {
	return h.Chain.of(strconv.FormatUint(h.Number, 10) + ":" + h.Hash.String())
}

// MarshalText returns what [Head.String] returns.
func (h Head) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText reads the text of a head, as [ParseHead] does.
func (h *Head) UnmarshalText(text []byte) (err error) {
	*h, err = ParseHead(string(text))
	return err
}

// ParseHead reads the text of a head.
func ParseHead(text string) (h Head, err error) {
	h.Chain, text, err = cutChain(text)
	number, hash, found := strings.Cut(text, ":")
	if err == nil && !found {
		err = errors.New("there is no colon")
	}
	if err == nil {
		h.Number, err = strconv.ParseUint(number, 10, 64)
	}
	if err == nil {
		err = h.Hash.UnmarshalText([]byte(hash))
	}
	if err != nil {
		return Head{}, fmt.Errorf("the head of an audit trail is not NUMBER:HASH or CHAIN/NUMBER:HASH: %w", err)
	}
	return h, nil
}

// encode returns the bytes that are stored. The place where they are stored says which chain it is.
func (h Head) encode() []byte {
	return append(binary.BigEndian.AppendUint64(nil, h.Number), h.Hash[:]...)
}

func decodeHead(b []byte) (Head, error) {
	if len(b) != 8+len(Hash{}) {
		return Head{}, fmt.Errorf("%w: a head of %d bytes", ErrBroken, len(b))
	}
	h := Head{Number: binary.BigEndian.Uint64(b), Hash: Hash(b[8:])}
	if h.Number == math.MaxUint64 {
		return Head{}, fmt.Errorf("%w: no number comes after that of the head", ErrBroken)
	}
	return h, nil
}
