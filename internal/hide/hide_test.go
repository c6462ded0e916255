package hide_test

import (
	"strings"
	"testing"

	"github.com/latchkeydb/latchkey/internal/hide"
)

func TestTokensAreTakenOutOfATextAndNothingElse(t *testing.T) {
	token := "lk_" + strings.Repeat("a1B2c3D", 11)
	for text, want := range map[string]string{
		"":                       "",
		token:                    "[token]",
		"open /a/" + token:       "open /a/[token]",
		token + " " + token:      "[token] [token]",
		token[:len(token)-1]:     token[:len(token)-1],
		"key_" + token[3:] + `"`: `[token]"`,
		"login with key":         "login with key",
	} {
		if got := hide.Tokens(text); got != want {
			t.Errorf("Tokens(%q) = %q, want %q", text, got, want)
		}
		if got := hide.IsToken(text); got != (want == "[token]") {
			t.Errorf("IsToken(%q) = %v", text, got)
		}
	}
}
