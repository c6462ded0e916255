package admin_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
)

const yamlType = "application/yaml"

// manifest returns a manifest of the store's domain with a key of ada.
func (a *api) manifest(minted latchkey.MintedKey) string {
	return fmt.Sprintf("domain: %s\nmanifest: site\nusers:\n  - identity: ada\n    keys:\n      - name: laptop\n        minted: %s\n", a.store.DomainID(), minted.Export())
}

func (a *api) mint() (latchkey.MintedKey, string) {
	a.Helper()
	minted, token, err := a.store.MintKey(a.Context())
	a.must(err)
	return minted, token
}

func TestAManifestIsApplied(t *testing.T) {
	a := newAPI(t, nil)
	minted, token := a.mint()
	text := a.manifest(minted)
	tell := func(target string) (told []string) {
		t.Helper()
		got := get[admin.Applied](a.do("POST", target, text, "Content-Type", yamlType).is(200))
		if got.DryRun != strings.Contains(target, "dry_run=true") {
			t.Errorf("%s: got %+v", target, got)
		}
		for _, c := range got.Changes {
			told = append(told, c.Action+" "+c.Kind+" "+c.Name)
		}
		return told
	}
	want := func(what string, got []string, want ...string) {
		t.Helper()
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: got %q, want %q", what, got, want)
		}
	}
	want("a dry run", tell("/v1/apply?dry_run=true"), "create user ada", "create key laptop")
	a.loginIs(token, latchkey.ErrInvalidToken)
	want("the first application", tell("/v1/apply?dry_run=false"), "create user ada", "create key laptop")
	a.loginIs(token, nil)
	want("the second application", tell("/v1/apply"))
	text = fmt.Sprintf(`{"domain": %q, "manifest": "site"}`, a.store.DomainID())
	want("without prune", tell("/v1/apply?prune=false"))
	got := get[admin.Applied](a.do("POST", "/v1/apply?prune=true", text).is(200)) // as JSON
	if len(got.Changes) != 2 || got.Changes[0].Action != "delete" || got.Changes[0].Owner != "ada" {
		t.Errorf("got %+v", got)
	}
	a.loginIs(token, latchkey.ErrInvalidToken)
}

func TestAManifestThatIsWrongChangesNothing(t *testing.T) {
	a := newAPI(t, nil)
	minted, token := a.mint()
	good := a.manifest(minted)
	head, _, _ := strings.Cut(good, "users:")
	bomb := head + "users:\n- &a0 {identity: x}\n"
	for i := range 40 {
		bomb += fmt.Sprintf("- &a%d {<<: [*a%d, *a%[2]d]}\n", i+1, i)
	}
	for _, tt := range []struct {
		name, body string
		status     int
		problem    string
		detail     string
	}{
		{"nothing", "", 422, "invalid-manifest", "line 1: the manifest is empty"},
		{"no YAML", "domain: [", 422, "invalid-manifest", "line 1: "},
		{"a field that there is not", good + "keys: []\n", 422, "invalid-manifest", `line 8: there is no field "keys"`},
		{"another domain", "domain: 11111111-1111-4111-8111-111111111111", 422, "invalid-manifest", "the manifest is of the domain 1111"},
		{"a token in the place of a verifier", strings.Replace(good, minted.Export(), token, 1), 422, "invalid-manifest", "line 6: minted is not"},
		{"a token in the place of a field", good + token + ": 1\n", 422, "invalid-manifest", `line 8: there is no field "[token]"`},
		{"a scope that is wrong", good + "        scopes: ['a b']\n", 422, "invalid-scope", "line 6: invalid scope"},
		{"a bomb of aliases", bomb, 422, "invalid-manifest", ""},
		{"deep lists", strings.Repeat("[", 1<<20), 422, "invalid-manifest", ""},
		{"too much", strings.Repeat("#", 16<<20) + "\n" + good, 413, "body-too-large", "the body is too large: the largest has 16777216 bytes"},
	} {
		w := a.do("POST", "/v1/apply", tt.body, "Content-Type", yamlType).problem(tt.status, tt.problem)
		if p := get[admin.Problem](w); !strings.HasPrefix(p.Detail, tt.detail) || strings.Contains(w.Body.String(), token[20:]) {
			t.Errorf("%s: got %.300q", tt.name, p.Detail)
		}
	}
	for _, header := range []string{"", "text/plain", "application/x-www-form-urlencoded"} {
		a.do("POST", "/v1/apply", good, "Content-Type", header).problem(415, "unsupported-media-type")
	}
	a.do("POST", "/v1/apply?prune=yes", good, "Content-Type", yamlType).problem(400, "invalid-request")
	a.do("POST", "/v1/apply?dry-run=true", good, "Content-Type", yamlType).problem(400, "invalid-request")
	if page := get[admin.List[admin.User]](a.do("GET", "/v1/users", nil)); len(page.Items) > 0 {
		t.Errorf("there are %+v", page.Items)
	}
	a.do("POST", "/v1/apply", good, "Content-Type", yamlType).is(200)
}

func TestAnApplicationThatIsCancelledChangesNothing(t *testing.T) {
	a := newAPI(t, nil)
	minted, token := a.mint()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c := admin.Local(a.store, nil)
	if _, err := c.Apply(ctx, []byte(a.manifest(minted)), admin.ApplyOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	a.loginIs(token, latchkey.ErrInvalidToken)
}
