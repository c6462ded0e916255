package identities_test

import (
	"testing"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/identities"
)

func TestAnIdentityIsReadAsItIsWritten(t *testing.T) {
	const id = "01890a5d-ac96-774b-bcce-b302099a8057"
	for _, tt := range []struct {
		text     string
		identity latchkey.Identity
	}{
		{"ada@example.com", latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: "ada@example.com"}},
		{"custom-token:42", latchkey.Identity{Provider: latchkey.ProviderCustomToken, Subject: "42"}},
		{"local-userpass:a:b", latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: "a:b"}},
		{"local-userpass:" + id, latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: id}},
	} {
		if got, err := identities.Parse(tt.text); got != tt.identity || err != nil {
			t.Errorf("%s is read as %v, %v", tt.text, got, err)
		}
		if got := identities.Format(tt.identity); got != tt.text {
			t.Errorf("%v is written as %s, want %s", tt.identity, got, tt.text)
		}
	}
	if got, err := identities.Parse(id); err == nil {
		t.Errorf("an ID is read as %v", got)
	}
	if _, ok := identities.ParseID("{" + id + "}"); ok {
		t.Error("an ID in braces is read")
	}
}
