package appservices_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/latchkeydb/latchkey/appservices"
)

func TestNoValueOfThePackagePrintsASecret(t *testing.T) {
	d := newDouble(t, nil)
	const secret = "the-secret-that-nobody-may-see-1234"
	seed := parseSeed(t, `{"seed":"`+secret+`","users":[{"email":"ada@example.com","password":"`+secret+`","keys":[{"name":"laptop"}]}],"server_keys":[{"name":"job"}]}`)
	seeded := d.seed(seed)
	tokens := []string{seeded.Users[0].Keys[0].Token, seeded.ServerKeys[0].Token}
	hidden := []string{secret}
	verifier := appservices.JWTVerifier{Keys: []any{[]byte(secret)}, Audiences: []string{"demo-abcde"}}
	mail := appservices.Mail{Email: "ada@example.com", Kind: appservices.MailReset, Token: secret, TokenID: secret}
	confirmation := appservices.Confirmation{Email: "ada@example.com", Token: secret, TokenID: secret}
	reset := appservices.Reset{Email: "ada@example.com", Password: secret, Token: secret, TokenID: secret, Arguments: []any{secret}}
	user, value := seed.Users[0], seed.Value
	for _, tt := range []struct {
		name    string
		value   any
		secrets []string
	}{
		{"Handler", d.handler, []string{string(d.signingKey())}},
		{"JWTVerifier", verifier, hidden},
		{"*JWTVerifier", &verifier, hidden},
		{"Seed", seed, hidden},
		{"*Seed", &seed, hidden},
		{"SeedUser", user, hidden},
		{"*SeedUser", &user, hidden},
		{"SeedValue", value, hidden},
		{"*SeedValue", &value, hidden},
		{"Seeded", seeded, tokens},
		{"*Seeded", &seeded, tokens},
		{"SeededUser", seeded.Users[0], tokens},
		{"SeededKey", seeded.ServerKeys[0], tokens},
		{"Mail", mail, hidden},
		{"*Mail", &mail, hidden},
		{"Confirmation", confirmation, hidden},
		{"*Confirmation", &confirmation, hidden},
		{"Reset", reset, hidden},
		{"*Reset", &reset, hidden},
	} {
		printed := map[string]string{}
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x", "%X", "%t", "%c", "%y"} {
			printed[verb] = fmt.Sprintf(verb, tt.value)
			printed["a slice by "+verb] = fmt.Sprintf(verb, []any{tt.value})
		}
		if b, err := json.Marshal(tt.value); err == nil { // what cannot be written shows nothing
			printed["JSON"] = string(b)
		}
		var text, lines bytes.Buffer
		slog.New(slog.NewTextHandler(&text, nil)).Info("value", "value", tt.value)
		slog.New(slog.NewJSONHandler(&lines, nil)).Info("value", "value", tt.value)
		printed["slog as text"], printed["slog as JSON"] = text.String(), lines.String()
		for how, got := range printed {
			for _, secret := range tt.secrets {
				for _, form := range []string{
					secret, hex.EncodeToString([]byte(secret)), strings.ToUpper(hex.EncodeToString([]byte(secret))),
					strings.Trim(fmt.Sprint([]byte(secret)), "[]"), base64.StdEncoding.EncodeToString([]byte(secret))[:40],
				} {
					if strings.Contains(got, form) {
						t.Errorf("%s shows a secret by %s: %.300s", tt.name, how, got)
					}
				}
			}
		}
	}
}
