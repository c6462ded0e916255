package appservices

import (
	"encoding/json"
	"fmt"
)

// The values of this package that have secrets print without them, by every verb of fmt, and so by
// slog. Their JSON has no secrets either.

// Format prints no field of a handler, because its fields lead to the key that signs sessions.
func (h *Handler) Format(f fmt.State, _ rune) { fmt.Fprint(f, "appservices.Handler") }

// Format prints a verifier without its keys.
func (v JWTVerifier) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "verifier with %d keys for %q", len(v.Keys), v.Audiences)
}

// Format prints how much a seed has made.
func (s Seeded) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "seeded %d users and %d server keys", len(s.Users), len(s.ServerKeys))
}

// Format prints a user without the tokens of the keys.
func (u SeededUser) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "user %q (%s) with %d keys", u.Email, u.ID, len(u.Keys))
}

// Format prints a key without its token.
func (k SeededKey) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "key %s (%s)", k.Name, k.ID) }

// Format prints no part of the value, because the value is enough to make every token.
func (v SeedValue) Format(f fmt.State, _ rune) { fmt.Fprint(f, "seed value") }

// MarshalJSON writes an empty string, because the value is enough to make every token.
func (v SeedValue) MarshalJSON() ([]byte, error) { return []byte(`""`), nil }

// Format prints how much a seed makes.
func (s Seed) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "seed of %d users and %d server keys", len(s.Users), len(s.ServerKeys))
}

// Format prints a user without the password.
func (u SeedUser) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "user %q with %d identities and %d keys", u.Email, len(u.Identities), len(u.Keys))
}

// MarshalJSON writes the user without the password.
func (u SeedUser) MarshalJSON() ([]byte, error) {
	type plain SeedUser // without this method
	u.Password = ""
	return json.Marshal(plain(u))
}

// Format prints a mail without its token.
func (m Mail) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "mail to %s: %s", m.Email, m.Kind) }

// Format prints a confirmation without its token.
func (c Confirmation) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "confirmation of %s", c.Email) }

// Format prints a reset without its token, its password and the client's arguments.
func (r Reset) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "reset of %s", r.Email) }
