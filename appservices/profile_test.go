package appservices_test

import (
	"context"
	"reflect"
	"regexp"
	"testing"

	"github.com/latchkeydb/latchkey/appservices"
)

func TestTheProfileOfEachKindOfUser(t *testing.T) {
	d := newDouble(t, nil)
	u := d.signUp("ada@example.com")
	p := d.profile(u.access)
	identity := p["identities"].([]any)[0].(object)
	want := object{
		"user_id": u.user, "domain_id": p["domain_id"], "type": "normal", "data": object{"email": "ada@example.com"},
		"identities": []any{object{
			"id": identity["id"], "provider_type": "local-userpass", "provider_id": identity["provider_id"],
			"provider_data": object{"email": "ada@example.com"},
		}},
	}
	if !reflect.DeepEqual(p, want) {
		t.Errorf("the profile of a user with an email is\n%v, want\n%v", p, want)
	}

	p = d.profile(d.anonymous().access)
	identity = p["identities"].([]any)[0].(object)
	if !reflect.DeepEqual(p["data"], object{}) || p["type"] != "normal" || identity["provider_type"] != "anon-user" {
		t.Errorf("the profile of an anonymous user is %v", p)
	}
	if id, _ := identity["id"].(string); !regexp.MustCompile(`^[0-9a-f]{24}-[a-z]{24}$`).MatchString(id) {
		t.Errorf("an anonymous identity is %q", id)
	}
}

func TestAKeyIsAnIdentityFromItsFirstLoginToItsDeletion(t *testing.T) {
	d := newDouble(t, nil)
	u := d.signUp("ada@example.com")
	id, key := d.createKey(u.refresh, "laptop")
	keys := func(access string) (ids []any) {
		for _, i := range d.profile(access)["identities"].([]any) {
			if i := i.(object); i["provider_type"] == "api-key" {
				ids = append(ids, i["id"])
			}
		}
		return ids
	}
	if got := keys(u.access); got != nil {
		t.Errorf("before a login the IDs of keys among the identities are %v", got)
	}
	k := d.loginKey(key)
	for _, access := range []string{k.access, u.access} {
		if got := keys(access); !reflect.DeepEqual(got, []any{id}) {
			t.Errorf("after a login the IDs of keys among the identities are %v, want %s", got, id)
		}
	}
	if p := d.profile(k.access); p["type"] != "normal" {
		t.Errorf("the profile is %v", p)
	}
	if identity := claims(t, k.refresh)["baas_identity"].(object); identity["id"] != id || identity["provider_type"] != "api-key" {
		t.Errorf("the session was opened by %v", identity)
	}
	d.keys("DELETE", "/"+id, u.refresh, nil).noContent()
	if got := keys(u.access); got != nil {
		t.Errorf("after the deletion the IDs of keys among the identities are %v", got)
	}
}

func TestProviderIDsAreTheSameForAllUsers(t *testing.T) {
	d := newDouble(t, nil)
	a := d.profile(d.anonymous().access)["identities"].([]any)[0].(object)
	b := d.profile(d.anonymous().access)["identities"].([]any)[0].(object)
	if a["provider_id"] != b["provider_id"] || a["id"] == b["id"] {
		t.Errorf("the identities are %v and %v", a, b)
	}
}

func TestKnownFieldsOfAProfileAreStringsOrAbsent(t *testing.T) {
	var told map[string]any
	d := newDouble(t, &appservices.Options{
		CustomFunction: func(context.Context, string, map[string]any) (string, map[string]any, error) { return "a", told, nil },
	})
	for _, tt := range []struct{ told, want object }{
		{object{"name": 7, "email": nil, "min_age": 1.5, "first_name": "Ada"}, object{"first_name": "Ada"}},
		{object{"score": 7.0, "none": nil, "own": object{"x": []any{true}}}, object{"score": 7.0, "own": object{"x": []any{true}}}},
		{nil, object{}},
		{object{"name": "Ada"}, object{"name": "Ada"}},
	} {
		told = tt.told
		if got := d.profile(d.login("custom-function", nil).access)["data"]; !reflect.DeepEqual(got, tt.want) {
			t.Errorf("the provider gave %v, and the profile has %v, want %v", tt.told, got, tt.want)
		}
	}
}
