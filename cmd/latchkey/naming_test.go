package main

import (
	"testing"

	"github.com/latchkeydb/latchkey"
)

func TestAnIdentityIsShownAsTheShortestTextThatNamesIt(t *testing.T) {
	for _, tt := range []struct {
		identity latchkey.Identity
		want     string
	}{
		{latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: "ada@example.com"}, "ada@example.com"},
		{latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: "mailto:ada"}, "local-userpass:mailto:ada"},
		{latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: "01a1fd41-1539-79cd-989b-85795d6be401"}, "local-userpass:01a1fd41-1539-79cd-989b-85795d6be401"},
		{latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: "01a1fd41153979cd989b85795d6be401"}, "01a1fd41153979cd989b85795d6be401"},
		{latchkey.Identity{Provider: latchkey.ProviderCustomToken, Subject: "42"}, "custom-token:42"},
		{latchkey.Identity{Provider: latchkey.ProviderCustomToken, Subject: "a:b"}, "custom-token:a:b"},
	} {
		if got := formatIdentity(tt.identity); got != tt.want {
			t.Errorf("formatIdentity(%v) = %q, want %q", tt.identity, got, tt.want)
		}
	}
}

func FuzzAFormattedIdentityIsParsedBackToItself(f *testing.F) {
	f.Add("ada@example.com")
	f.Add("custom-token:42")
	f.Add("local-userpass:")
	f.Add("01a1fd41-1539-79cd-989b-85795d6be401")
	f.Fuzz(func(t *testing.T, subject string) {
		for _, provider := range []latchkey.Provider{latchkey.ProviderLocalUserpass, latchkey.ProviderCustomToken} {
			want := latchkey.Identity{Provider: provider, Subject: subject}
			if got, err := parseIdentity(formatIdentity(want)); err != nil || got != want {
				t.Errorf("%q is parsed as %v, %v; want %v", formatIdentity(want), got, err, want)
			}
		}
	})
}
