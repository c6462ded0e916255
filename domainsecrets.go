package latchkey

import (
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/record"
	"github.com/latchkeydb/latchkey/internal/tokenform"
)

// DomainSecrets are what a new store needs to belong to a domain: the domain's ID, the prefix of
// its tokens, the secrets of the tags of tokens, and the secret of user IDs. The stores of one
// domain can make keys for each other: see [MintedKey.Export]. Printing DomainSecrets shows only
// the ID, and marshaling them shows nothing.
//
// Nobody can log in with the secrets. But their holder can make tokens that every store of the
// domain has to look up, and can find the user of an ID by guessing identities.
type DomainSecrets struct{ d concealed[*record.Meta] }

// DomainSecrets returns the secrets of the domain, for [Options].Domain of another store.
func (s *Store) DomainSecrets() DomainSecrets {
	d := *s.domain
	d.Tags = s.tokens.Load().Secrets
	return DomainSecrets{conceal(&d)}
}

// Format writes the ID of the domain, and keeps the secrets out of anything that prints them.
func (d DomainSecrets) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "secrets of domain %s", d.ID()) }

// ID returns the ID of the domain, or [uuid.Nil] if d is empty.
func (d DomainSecrets) ID() uuid.UUID {
	if d.d == nil {
		return uuid.Nil
	}
	return d.d().ID
}

// Export returns the secrets as a text, for a file that nobody else may read. If d is empty, so is
// the text.
func (d DomainSecrets) Export() []byte {
	if d.d == nil {
		return nil
	}
	return d.d().Export()
}

// ParseDomainSecrets reads the text that [DomainSecrets.Export] returned.
//
// It returns [ErrInvalidOptions] if the text is no such text or is damaged, or [ErrNewerFormat].
func ParseDomainSecrets(text []byte) (DomainSecrets, error) {
	d, err := record.ParseExport(text)
	switch {
	case errors.Is(err, record.ErrNewer):
		err = recordError(err)
	case err != nil || !tokenform.ValidPrefix(d.Prefix):
		err = fmt.Errorf("%w: the secrets of a domain are damaged or incomplete", ErrInvalidOptions)
	}
	if err != nil {
		return DomainSecrets{}, wrapf(err, "parse domain secrets")
	}
	return DomainSecrets{conceal(d)}, nil
}
