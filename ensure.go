package latchkey

import (
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/record"
)

// This file has keys that come from a configuration: the text of a minted key, and the calls that
// bring a key in line with its entry.

// ID returns the ID that the key will have, or [uuid.Nil] if m is empty.
func (m MintedKey) ID() uuid.UUID {
	if m.m == nil {
		return uuid.Nil
	}
	return m.m().id
}

// Export returns the minted key as a text for a configuration: the IDs of the domain and of the
// key, and the stored verifier. Nobody can log in with the text. A reader of the text can test
// guesses of the secret, but the secret has too many random bits to be guessed. If m is empty, so
// is the text.
func (m MintedKey) Export() string {
	if m.m == nil {
		return ""
	}
	k := m.m()
	return fmt.Sprintf("%s/%s/%x/%s", k.domain, k.id, k.verifier.ID[:], k.verifier.PHC)
}

// ParseMintedKey reads the text that [MintedKey.Export] returned.
//
// It returns [ErrInvalidMintedKey].
func ParseMintedKey(text string) (MintedKey, error) {
	parts := strings.SplitN(text, "/", 4)
	if len(parts) != 4 {
		return MintedKey{}, wrapf(fmt.Errorf("%w: the text is not one of Export", ErrInvalidMintedKey), "parse minted key")
	}
	var m mintedKey
	m.domain, _ = uuid.Parse(parts[0])
	m.id, _ = uuid.Parse(parts[1])
	id, _ := hex.DecodeString(parts[2])
	copy(m.verifier.ID[:], id)
	m.verifier.PHC = parts[3]
	ms := int64(0)
	for _, b := range m.id[:6] {
		ms = ms<<8 | int64(b)
	}
	m.created = time.UnixMilli(ms).UTC()
	minted := MintedKey{conceal(m)}
	_, err := parseVerifier(m.verifier.PHC)
	// The comparison catches what the calls above let pass.
	if err != nil || minted.Export() != text || m.id.Version() != 7 || m.id.Variant() != uuid.RFC4122 || m.created.After(record.LastTime) {
		return MintedKey{}, wrapf(fmt.Errorf("%w: the text is damaged", ErrInvalidMintedKey), "parse minted key")
	}
	return minted, nil
}
