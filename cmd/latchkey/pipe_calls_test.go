package main

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/latchkeydb/latchkey/admin"
	"github.com/latchkeydb/latchkey/internal/hide"
)

func TestAPipeDoesWhatAnAppNeeds(t *testing.T) {
	bothWays(t, func(p *piped, path string) {
		ada := fieldsOf{"provider": "local-userpass", "subject": "ada@example.com"}
		phone := fieldsOf{"provider": "custom-token", "subject": "42"}
		user := p.call("create_user", fieldsOf{"identity": ada, "metadata": fieldsOf{"room": "4"}, "idempotency_key": "u"})
		p.want(p.call("create_user", fieldsOf{"identity": ada, "metadata": fieldsOf{"room": "4"}, "idempotency_key": "u"}), user["id"], "id")
		p.refused("identity-taken", "create_user", fieldsOf{"identity": ada})
		owner := fieldsOf{"user": user["id"]}
		p.want(p.call("fetch_user", owner), "4", "metadata", "room")
		p.want(p.call("find_user", fieldsOf{"identity": ada}), user["id"], "id")
		p.refused("user-not-found", "find_user", fieldsOf{"identity": phone})
		with := func(fields fieldsOf, more fieldsOf) fieldsOf {
			fields = maps.Clone(fields)
			maps.Copy(fields, more)
			return fields
		}
		p.call("link_identity", with(owner, fieldsOf{"identity": phone}))
		p.want(p.call("find_user", fieldsOf{"identity": phone}), user["id"], "id")
		p.call("unlink_identity", with(owner, fieldsOf{"identity": phone}))
		p.want(p.call("change_user", with(owner, fieldsOf{"group": "acme"})), "acme", "group")
		p.refused("changed-meanwhile", "change_user", with(owner, fieldsOf{"group": "other", "etag": user["etag"]}))

		made := p.call("create_key", fieldsOf{"owner": user["id"], "name": "laptop", "scopes": []string{"files:read"}, "expires": "2099-01-01T00:00:00Z", "metadata": fieldsOf{"a": "b"}})
		token := made["token"].(string)
		key := fieldsOf{"owner": user["id"], "key": made["key"].(map[string]any)["id"]}
		p.refused("key-name-taken", "create_key", fieldsOf{"owner": user["id"], "name": "laptop"})
		login := fieldsOf{"token": token}
		p.want(p.call("login", login), user["id"], "user_id")
		p.want(p.call("login", login), "files:read", "scopes")
		p.want(p.call("find_token", login), "live", "state")
		p.refused("token-unknown", "find_token", fieldsOf{"token": token[:20]})
		refused := func(code string) { p.refused(code, "login", login) }

		upper := func(id any) string { return strings.ToUpper(id.(string)) }
		p.want(p.call("fetch_key", fieldsOf{"owner": upper(user["id"]), "key": upper(key["key"])}), "laptop", "name")
		p.want(fieldsOf{"n": len(p.call("fetch_keys", fieldsOf{"owner": upper(user["id"])})["items"].([]any))}, 1, "n")

		// Only the calls of the owner reach the key.
		for _, call := range []string{"fetch_key", "change_key", "enable_key", "disable_key", "delete_key", "rotate_key"} {
			for _, other := range []any{"server", "01890a5d-ac96-774b-bcce-b302099a8057"} {
				p.refused("key-not-found", call, fieldsOf{"owner": other, "key": key["key"]})
			}
		}
		p.want(p.call("fetch_key", key), "laptop", "name")
		p.want(p.call("disable_key", key), true, "disabled")
		refused("key-disabled")
		p.want(p.call("find_token", login), "key-disabled", "reason")
		p.want(p.call("enable_key", key), false, "disabled")
		p.call("login", login)
		p.want(p.call("change_key", with(key, fieldsOf{"networks": []string{"192.0.2.0/24"}, "expires": nil})), nil, "expires")
		refused("network-not-allowed")
		p.want(p.call("login", with(login, fieldsOf{"address": "192.0.2.7"})), "laptop", "key_name")
		p.call("change_key", with(key, fieldsOf{"networks": []string{}, "name": "desktop"}))
		p.call("disable_user", owner)
		refused("user-disabled")
		p.call("enable_user", owner)
		p.call("disable_group", fieldsOf{"group": "acme"})
		refused("group-disabled")
		p.want(p.call("fetch_group", fieldsOf{"group": "acme"}), true, "disabled")
		p.call("enable_group", fieldsOf{"group": "acme"})
		p.call("login", login)

		// A token counts as used, so the first use of the new one ends the old one.
		rotated := p.call("rotate_key", with(key, fieldsOf{"overlap_seconds": 3600, "until_used": true}))
		p.call("login", login)
		p.call("login", fieldsOf{"token": rotated["token"]})
		refused("invalid-token")
		login["token"] = rotated["token"]

		// Pages.
		for i := range 3 {
			p.call("create_server_key", fieldsOf{"name": fmt.Sprint("job-", i), "group": "acme"})
		}
		var names []any
		page := fieldsOf{"owner": "server", "limit": 2}
		for {
			keys := p.call("fetch_keys", page)
			for _, k := range keys["items"].([]any) {
				names = append(names, k.(map[string]any)["name"])
			}
			if keys["next"] == nil {
				break
			}
			page["cursor"] = keys["next"]
		}
		p.want(fieldsOf{"names": names}, "[job-0 job-1 job-2]", "names")
		if found := p.call("find_keys", fieldsOf{"search": "DESK", "state": "enabled"})["items"].([]any); len(found) != 1 {
			p.Fatalf("find_keys: got %v", found)
		}
		p.want(fieldsOf{"n": len(p.call("fetch_users", fieldsOf{"disabled": false, "search": "ada"})["items"].([]any))}, 1, "n")
		p.want(fieldsOf{"n": len(p.call("fetch_groups", fieldsOf{"limit": 1})["items"].([]any))}, 1, "n")

		p.want(p.call("store", nil), "lk", "token_prefix")
		p.want(p.call("stats", nil), 4, "keys")
		p.want(p.call("health", nil), true, "ok")
		file := filepath.Join(filepath.Dir(path), "copy.db")
		p.want(p.call("backup", fieldsOf{"file": file}), file, "file")
		p.refused("file-exists", "backup", fieldsOf{"file": file})
		p.refused("no-file", "backup", fieldsOf{"file": filepath.Join(file+".d", "copy.db")})
		checkStore(p.TB.(*testing.T), file)

		if result := string(p.refused("", "delete_key", with(key, fieldsOf{"actor": "Ada"})).Result); result != "{}" {
			p.Errorf("delete_key: got %s", result)
		}
		refused("invalid-token")
		p.refused("key-not-found", "fetch_key", key)
		p.call("delete_user", owner)
		p.refused("user-not-found", "fetch_user", owner)
		for _, c := range pipeCalls {
			if !p.called[c.name] {
				p.Errorf("the test does not make the call %s", c.name)
			}
		}
		p.end()
		_, trail, _ := runs(p.TB.(*testing.T), "audit", "show", "--json", "--store", path)
		for want, n := range map[string]int{`"actor":"the app"`: 1, `"actor":"Ada"`: 1} {
			if strings.Count(trail, want) < n {
				p.Errorf("no entry of the trail has %s", want)
			}
		}
	})
}

func TestALineThatIsNoRequestIsRefused(t *testing.T) {
	token := "lk_" + strings.Repeat("a1B2c3D", 11)
	foreign := strings.Repeat("4f9a", 10) // a token of an imported key can have any form
	long := strings.Repeat("x", maxLine)
	bothWays(t, func(p *piped, _ string) {
		for _, tt := range []struct{ name, line, id, code string }{
			{"no JSON", `hello`, "null", "invalid-request"},
			{"half a request", `{"id":1,"call":"heal`, "null", "invalid-request"},
			{"two requests", `{"id":1,"call":"health"}{"id":2,"call":"health"}`, "null", "invalid-request"},
			{"no object", `["health"]`, "null", "invalid-request"},
			{"no UTF-8", "{\"id\":1,\"call\":\"health\xff\"}", "null", "invalid-request"},
			{"too long", `{"id":1,"call":"` + long + `"}`, "null", "line-too-long"},
			{"no ID", `{"call":"health"}`, "null", "invalid-request"},
			{"an ID that is null", `{"id":null,"call":"health"}`, "null", "invalid-request"},
			{"an ID that is an object", `{"id":{},"call":"health"}`, "null", "invalid-request"},
			{"a long ID", `{"id":"` + long[:200] + `","call":"health"}`, "null", "invalid-request"},
			{"no call", `{"id":"a"}`, `"a"`, "invalid-request"},
			{"a call that is no text", `{"id":7,"call":7}`, "7", "invalid-request"},
			{"an unknown call", `{"id":1.5,"call":"make_coffee"}`, "1.5", "no-such-call"},
			{"a token as the call", `{"id":-1,"call":"` + token + `"}`, "-1", "no-such-call"},
			{"an unknown field", `{"id":1,"call":"login","token":"a","` + token + `":1}`, "1", "invalid-request"},
			{"another system's token as the call", `{"id":1,"call":"` + foreign + `x"}`, "1", "no-such-call"},
			{"another system's token as a field", `{"id":1,"call":"health","` + foreign + `x":1}`, "1", "invalid-request"},
			{"another system's token as a field twice", `{"id":1,"call":"health","` + foreign + `x":1,"` + foreign + `x":1}`, "1", "invalid-request"},
			{"a field twice", `{"id":1,"call":"login","token":"a","token":"b"}`, "1", "invalid-request"},
			{"another ID in a second field", `{"id":1,"call":"health","id":2}`, "1", "invalid-request"},
			{"an inner field twice", `{"id":1,"call":"create_server_key","name":"a","metadata":{"a":"1","a":"2"}}`, "1", "invalid-request"},
			{"a missing field", `{"id":1,"call":"login"}`, "1", "invalid-request"},
			{"a field in upper case", `{"id":1,"call":"login","Token":"a"}`, "1", "invalid-request"},
			{"a token where an ID is expected", `{"id":1,"call":"fetch_key","owner":"server","key":"` + token + `"}`, "1", "invalid-id"},
			{"a path where an ID is expected", `{"id":1,"call":"fetch_user","user":"../keys"}`, "1", "invalid-id"},
			{"a name that is a number", `{"id":1,"call":"create_server_key","name":5}`, "1", "invalid-request"},
			{"server as the owner of a user's key", `{"id":1,"call":"create_key","owner":"server","name":"a"}`, "1", "invalid-id"},
			{"a page that is too large", `{"id":1,"call":"find_keys","limit":101}`, "1", "invalid-request"},
			{"a text in place of a truth value", `{"id":1,"call":"fetch_users","disabled":"true"}`, "1", "invalid-request"},
			{"a cursor that is none", `{"id":1,"call":"find_keys","cursor":"` + token + `"}`, "1", "invalid-cursor"},
			{"an identity that is a text", `{"id":1,"call":"find_user","identity":"ada"}`, "1", "invalid-request"},
			{"half an identity", `{"id":1,"call":"find_user","identity":{"provider":"anon-user"}}`, "1", "invalid-request"},
			{"an invalid token", `{"id":1,"call":"login","token":"` + token + `"}`, "1", "invalid-token"},
			{"an empty group", `{"id":1,"call":"disable_group","group":""}`, "1", "invalid-request"},
			{"a state that is none", `{"id":1,"call":"find_keys","state":"` + token + `"}`, "1", "invalid-request"},
		} {
			p.write(tt.line + "\n")
			a := p.next()
			if string(a.ID) != tt.id || a.Error.Code != tt.code || a.Result != nil {
				p.Errorf("%s: got %s %s %+v, want %s", tt.name, a.ID, a.Result, a.Error, tt.code)
			}
			if all := fmt.Sprint(a); hide.Tokens(all) != all || strings.Contains(all, foreign) || strings.Contains(all, "openapi") || len(all) > 500 {
				p.Errorf("%s: the answer is %s", tt.name, all)
			}
		}
		// A group can have any name, and blank lines and carriage returns are no requests.
		p.want(p.call("disable_group", fieldsOf{"group": "../a b/ü"}), "../a b/ü", "name")
		p.write("\n \r\n{\"id\":\"\\u00e9 <&>\",\"call\":\"health\"}\r\n")
		if a := p.next(); string(a.ID) != `"\u00e9 <&>"` || a.Result == nil {
			p.Errorf("got %s %+v", a.ID, a.Error)
		}
	})
}

func FuzzALineOfAPipe(f *testing.F) {
	f.Add([]byte(`{"id":1,"call":"create_key","owner":"01890a5d-ac96-774b-bcce-b302099a8057","name":"a","expires":null}`))
	f.Add([]byte(`{"id":"a","call":"find_user","identity":{"provider":"anon-user","subject":""}}`))
	f.Add([]byte(`{"id":1,"call":"fetch_group","group":".."}`))
	f.Add([]byte(`{"id":1,"call":"disable_group","group":""}`))
	f.Add([]byte(`{"id":1,"call":"find_keys","limit":7,"search":"a"}`))
	f.Add([]byte(`{"id":{},"call":[],"a":1,"a":2}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := parseRequest(line)
		if err == nil && (len(r.id) == 0 || bytes.ContainsAny(r.id, "\n\r")) {
			t.Errorf("got the ID %q", r.id)
		}
		if c := pipeCallsByName[r.call]; err == nil && c != nil {
			var a pipeArguments
			a, err = c.arguments(r.fields)
			if err == nil && (len(a.request.Path) != len(strings.Split(c.path, "/")) || slices.Contains(a.request.Path, "") && c.path != "") {
				t.Errorf("got the path %q", a.request.Path)
			}
		}
		if err != nil {
			if text := string(encodeLine(errorOf(err))); hide.Tokens(text) != text || strings.Count(text, "\n") != 1 {
				t.Errorf("got %s", text)
			}
		}
	})
}

// TestThePageAboutThePipeHasEveryCall compares docs/pipe.md with the table of calls.
func TestThePageAboutThePipeHasEveryCall(t *testing.T) {
	page, err := os.ReadFile("../../docs/pipe.md")
	must(t, err)
	documented := map[string]string{}
	quoted := regexp.MustCompile("`([a-z_]+)`")
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\|([^|]*)\\|([^|]*)\\|[^|]*\\|$").FindAllStringSubmatch(string(page), -1) {
		var columns []string
		for _, column := range row[2:4] {
			var names []string
			for _, name := range quoted.FindAllStringSubmatch(column, -1) {
				names = append(names, name[1])
			}
			columns = append(columns, strings.Join(names, " "))
		}
		documented[row[1]] = strings.Join(columns, " | ")
	}
	for _, c := range pipeCalls {
		var required, optional []string
		for _, f := range c.fields {
			if f.optional {
				optional = append(optional, f.name)
			} else {
				required = append(required, f.name)
			}
		}
		want := strings.Join(required, " ") + " | " + strings.Join(optional, " ")
		if got, ok := documented[c.name]; !ok || got != want {
			t.Errorf("the page has %s with %q, want %q", c.name, got, want)
		}
		delete(documented, c.name)
	}
	for name := range documented {
		t.Errorf("there is no call %s", name)
	}

	known := admin.Codes()
	for _, own := range ownCodes {
		known = append(known, own.code)
	}
	var codes []string
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z]+(?:-[a-z]+)*)` \\| [^|]+ \\|$").FindAllStringSubmatch(string(page), -1) {
		codes = append(codes, row[1])
		if !slices.Contains(known, row[1]) {
			t.Errorf("there is no code %s", row[1])
		}
	}
	for _, own := range ownCodes {
		if !slices.Contains(codes, own.code) {
			t.Errorf("the page lacks the code %s", own.code)
		}
	}
	for _, code := range admin.Codes() {
		if !slices.Contains(codes, code) && !slices.Contains(notInPipe, code) {
			t.Errorf("the page lacks the code %s", code)
		}
	}
}

// notInPipe has the codes of package admin that no call of a pipe leads to: those of HTTP, of the
// page, of manifests and imports, of hubs and the joining of edges, and of programs in Go.
var notInPipe = strings.Fields(`
	unsupported-media-type no-such-route method-not-allowed precondition-required too-many-streams key-required cross-origin
	signed-out sign-in-url-used wrong-host tls-required no-page
	invalid-manifest wrong-lines keys-left audit-begun audit-pruned audit-chain invalid-scheme invalid-tag-secret invalid-minted-key
	no-hub no-edge invalid-policy edge-not-found claim-not-found follows-already unknown-edge edge-revoked push-refused
	wrong-hub hub-failed hub-unreachable invalid-invitation joined-already not-an-edge
	in-transaction invalid-data invalid-options`)
