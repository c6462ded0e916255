package admin_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
)

const binaryType = "application/octet-stream"

// tagSecrets returns the states of the tag secrets.
func (a *api) tagSecrets() string {
	a.Helper()
	var states []string
	for _, s := range get[admin.TagSecrets](a.do("GET", "/v1/tag-secrets", nil).is(200)).Secrets {
		states = append(states, fmt.Sprint(s.Number, " ", s.State))
	}
	return strings.Join(states, ", ")
}

func TestATagSecretIsReplaced(t *testing.T) {
	a := newAPI(t, nil)
	_, token := a.newServerKey(latchkey.KeySpec{Name: "job"})
	states := func(want string) {
		t.Helper()
		if got := a.tagSecrets(); got != want {
			t.Errorf("the tag secrets are %s, want %s", got, want)
		}
	}
	states("0 used")
	if added := get[admin.TagSecret](a.do("POST", "/v1/tag-secrets", nil).is(201)); added.Number != 1 || added.State != latchkey.TagSecretAccepted {
		t.Errorf("got %+v", added)
	}
	states("0 used, 1 accepted")
	a.do("POST", "/v1/tag-secrets/1/retire", nil).is(200)
	a.do("POST", "/v1/tag-secrets", `{"number":2}`).is(201)
	a.do("POST", "/v1/tag-secrets", `{"number":2}`).is(200) // a repetition
	a.do("POST", "/v1/tag-secrets", `{"number":4}`).problem(409, "invalid-tag-secret")
	a.do("POST", "/v1/tag-secrets", `{"number":0}`).problem(409, "invalid-tag-secret")
	a.do("POST", "/v1/tag-secrets", `{"number":-1}`).problem(400, "invalid-request")
	a.do("POST", "/v1/tag-secrets", `{"number":9007199254740992}`).problem(400, "invalid-request")
	a.do("POST", "/v1/tag-secrets", `{"numbers":1}`).problem(400, "invalid-request")
	states("0 used, 1 retired, 2 accepted")

	a.do("POST", "/v1/tag-secrets/0/retire", nil).problem(409, "invalid-tag-secret") // it is in use
	if used := get[admin.TagSecret](a.do("POST", "/v1/tag-secrets/2/use", nil).is(200)); used.State != latchkey.TagSecretUsed {
		t.Errorf("got %+v", used)
	}
	counted := get[admin.TagSecrets](a.do("GET", "/v1/tag-secrets?count=true", nil).is(200))
	if *counted.Secrets[0].Keys != 1 || *counted.Secrets[2].Keys != 0 || *counted.WithoutToken != 0 {
		t.Errorf("got %+v", counted)
	}
	p := get[admin.Problem](a.do("POST", "/v1/tag-secrets/0/retire", `{"force":false}`).problem(409, "keys-left"))
	if !strings.HasSuffix(p.Detail, "their number is 1") {
		t.Errorf("got %+v", p)
	}
	a.loginIs(token, nil)
	a.do("POST", "/v1/tag-secrets/0/retire", `{"force":true}`).is(200)
	a.loginIs(token, latchkey.ErrInvalidToken)
	if without := get[admin.TagSecrets](a.do("GET", "/v1/tag-secrets?count=true", nil)).WithoutToken; *without != 1 {
		t.Errorf("%d keys have no token", *without)
	}
	for _, number := range []string{"9", "9007199254740991"} {
		a.do("POST", "/v1/tag-secrets/"+number+"/use", nil).problem(409, "invalid-tag-secret")
		a.do("POST", "/v1/tag-secrets/"+number+"/retire", nil).problem(409, "invalid-tag-secret")
	}
	for _, number := range []string{"x", "-1", "9007199254740992", "18446744073709551616", token} {
		a.do("POST", "/v1/tag-secrets/"+number+"/use", nil).problem(400, "invalid-id")
		a.do("POST", "/v1/tag-secrets/"+number+"/retire", nil).problem(400, "invalid-id")
	}
}

func TestAStoreTakesTheTagSecretsOfAnother(t *testing.T) {
	a := newAPI(t, nil)
	b := &api{TB: t}
	var err error
	b.store, err = latchkey.Open(filepath.Join(t.TempDir(), "b.db"), &latchkey.Options{Cost: latchkey.LightCost, Domain: a.store.DomainSecrets()})
	b.must(err)
	defer b.store.Close()
	b.handler = admin.New(b.store, &admin.Options{Authenticate: everybody})

	a.do("POST", "/v1/tag-secrets", nil).is(201)
	a.do("POST", "/v1/tag-secrets/1/use", nil).is(200)
	text := a.do("GET", "/v1/domain-secrets", nil).is(200).Body.String()
	if got := get[admin.TagSecrets](b.do("POST", "/v1/domain-secrets", text, "Content-Type", binaryType).is(200)); len(got.Secrets) != 2 {
		t.Errorf("got %+v", got)
	}
	if got, want := b.tagSecrets(), a.tagSecrets(); got != want {
		t.Errorf("the tag secrets are %s, want %s", got, want)
	}
	b.do("POST", "/v1/domain-secrets", text, "Content-Type", binaryType).is(200)

	other := newAPI(t, nil)
	secret := strings.Split(text, "\n")[3]
	for name, body := range map[string]string{
		"nothing": "", "half": text[:len(text)/2], "another letter": strings.Replace(text, secret, strings.ToLower(secret), 1),
		"another domain": other.do("GET", "/v1/domain-secrets", nil).Body.String(), "a null": "null",
	} {
		w := b.do("POST", "/v1/domain-secrets", body, "Content-Type", binaryType).problem(409, "invalid-tag-secret")
		if strings.Contains(w.Body.String(), secret) {
			t.Errorf("%s: the answer has the secret: %s", name, w.Body)
		}
	}
	b.do("POST", "/v1/domain-secrets", strings.Repeat("x", 64<<10+1), "Content-Type", binaryType).problem(413, "body-too-large")
	b.do("POST", "/v1/domain-secrets", text, "Content-Type", "text/plain").problem(415, "unsupported-media-type")
}

func TestAStepOfATagSecretThatWasTakenIsAnswered(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	store, err := latchkey.Open(filepath.Join(t.TempDir(), "keys.db"), &latchkey.Options{Cost: latchkey.LightCost, OnChange: func(*latchkey.Tx, latchkey.Change) error {
		cancel() // the caller goes away during the change
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	c := admin.Local(store, nil)
	if added, err := c.AddTagSecret(ctx); err != nil || added.Number != 1 {
		t.Errorf("got %+v, %v", added, err)
	}
	secrets := store.DomainSecrets()
	ctx, cancel = context.WithCancel(t.Context())
	if used, err := c.UseTagSecret(ctx, 1); err != nil || used.State != latchkey.TagSecretUsed {
		t.Errorf("got %+v, %v", used, err)
	}
	other, err := latchkey.Open(filepath.Join(t.TempDir(), "other.db"), &latchkey.Options{Cost: latchkey.LightCost, Domain: secrets, OnChange: func(*latchkey.Tx, latchkey.Change) error {
		cancel()
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	if taken, err := admin.Local(other, nil).TakeTagSecrets(ctx, store.DomainSecrets()); err != nil || len(taken.Secrets) != 2 {
		t.Errorf("got %+v, %v", taken, err)
	}
}
