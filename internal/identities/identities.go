// Package identities reads and writes the form in which people write identities: PROVIDER:SUBJECT,
// or the subject alone of a local-userpass identity.
package identities

import (
	"fmt"
	"strings"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
)

// ParseID parses an ID and reports whether s is one. It accepts only the form with 36 characters.
func ParseID(s string) (id uuid.UUID, ok bool) {
	if len(s) != 36 {
		return id, false
	}
	id, err := uuid.Parse(s)
	return id, err == nil
}

// Parse parses PROVIDER:SUBJECT, or the subject of a local-userpass identity. The store checks the
// provider. A subject with a colon in it always needs the provider, because custom-tokn:42 is more
// likely a mistyped provider than an address.
//
// Errors: one for a text with the form of an ID.
func Parse(s string) (latchkey.Identity, error) {
	if _, ok := ParseID(s); ok {
		return latchkey.Identity{}, fmt.Errorf("%s has the form of an ID, but an identity is needed here; if it is the subject of an identity, write local-userpass:%[1]s", s)
	}
	if provider, subject, ok := strings.Cut(s, ":"); ok {
		return latchkey.Identity{Provider: latchkey.Provider(provider), Subject: subject}, nil
	}
	return latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: s}, nil
}

// Format returns the shortest text that Parse parses as i.
func Format(i latchkey.Identity) string {
	short, err := Parse(i.Subject)
	if err == nil && short == i {
		return i.Subject
	}
	return string(i.Provider) + ":" + i.Subject
}
