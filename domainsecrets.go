package latchkey

import (
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/record"
)

// DomainSecrets are what a store needs to be one of a domain: the domain's ID, the prefix of its
// tokens, the secrets of the tags of tokens, and the secret of user IDs. With them, several stores
// make keys for each other: see [MintedKey.Export]. Printing them shows only the ID, and marshaling
// shows nothing.
//
// Nobody can log in with them. But their holder can make tokens that every store of the domain has
// to look up, and can find the user of an ID by guessing identities.
type DomainSecrets struct{ d concealed[*domain] }

// DomainSecrets returns the secrets of the domain, for [Options].Domain of another store.
func (s *Store) DomainSecrets() DomainSecrets { return DomainSecrets{conceal(s.domain)} }

// Format writes the ID of the domain, and keeps the secrets out of anything that prints them.
func (d DomainSecrets) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "secrets of domain %s", d.ID()) }

// ID returns the ID of the domain, or [uuid.Nil] if d is empty.
func (d DomainSecrets) ID() uuid.UUID {
	if d.d == nil {
		return uuid.Nil
	}
	return d.d().ID
}

// pemDomain is the type of the PEM block (RFC 7468) that has the secrets of a domain.
const pemDomain = "LATCHKEY DOMAIN SECRETS"

// Export returns the secrets as a text, for a file that nobody else may read. If d is empty, so is
// the text.
func (d DomainSecrets) Export() []byte {
	if d.d == nil {
		return nil
	}
	var m record.Message
	m.Bytes(1, d.d().Encode())
	m.Bytes(2, d.d().tags.Encode())
	return pem.EncodeToMemory(&pem.Block{
		Type:    pemDomain,
		Headers: map[string]string{"Domain": d.ID().String()},
		Bytes:   record.Seal(tableMeta, metaExport, m),
	})
}

// ParseDomainSecrets reads the text that [DomainSecrets.Export] returned.
//
// It returns [ErrInvalidOptions] if the text is no such text or is damaged, or [ErrNewerFormat].
func ParseDomainSecrets(text []byte) (DomainSecrets, error) {
	d, err := parseDomain(text)
	if err != nil && !errors.Is(err, ErrNewerFormat) {
		err = fmt.Errorf("%w: the secrets of a domain are damaged or incomplete", ErrInvalidOptions)
	}
	if err != nil {
		return DomainSecrets{}, wrapf(err, "parse domain secrets")
	}
	return DomainSecrets{conceal(d)}, nil
}

func parseDomain(text []byte) (*domain, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != pemDomain {
		return nil, ErrCorrupt
	}
	message, err := openRecord(tableMeta, metaExport, block.Bytes)
	if err != nil {
		return nil, err
	}
	d, parts := &domain{}, map[int][]byte{}
	for f, err := range record.Fields(message) {
		if err != nil {
			return nil, recordError(err)
		}
		parts[f.Num] = f.Bytes
	}
	if d.Domain, err = record.DecodeDomain(parts[1]); err != nil {
		return nil, recordError(err)
	}
	if d.tags, err = record.DecodeTagSecrets(parts[2]); err != nil {
		return nil, recordError(err)
	}
	return d, d.checkComplete()
}
