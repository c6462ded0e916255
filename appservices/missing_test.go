package appservices_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/latchkeydb/latchkey/appservices"
)

func TestEachPartOfTheServiceThatIsNotHereIsNamed(t *testing.T) {
	d := newDouble(t, nil)
	u := d.anonymous()
	const noDouble = "this double of App Services has no "
	const noMongo = "service not found: 'mongodb-atlas': " + noDouble + "service 'mongodb-atlas'"
	find := object{"name": "find", "service": "mongodb-atlas", "arguments": []any{object{"database": "d"}}}
	query := func(field string, body object) string {
		b, err := json.Marshal(body)
		must(t, err)
		return appPath + "/functions/call?" + field + "=" + url.QueryEscape(base64.StdEncoding.EncodeToString(b))
	}
	for _, tt := range []struct {
		name, method, path string
		body               any
		code, text         string
	}{
		{"Data API", "POST", "/app/demo-abcde/endpoint/data/v1/action/find", object{}, "", noDouble + "Data API"},
		{"Data API below the prefix", "POST", appPath + "/endpoint/data/v1/action/insertOne", nil, "", noDouble + "Data API"},
		{"HTTPS endpoint", "GET", "/app/demo-abcde/endpoint/orders", nil, "", noDouble + "HTTPS endpoints"},
		{"webhook", "POST", appPath + "/service/shop/incoming_webhook/order", nil, "", noDouble + "service 'shop'"},
		{"sync", "GET", appPath + "/realm-sync", nil, "", noDouble + "sync"},
		{"sync of a partition", "GET", appPath + "/realm-sync/%22mine%22", nil, "", noDouble + "sync"},
		{"push", "PUT", appPath + "/push/providers/gcm/registration", nil, "", noDouble + "push notifications"},
		{"redirect", "GET", appPath + "/auth/providers/oauth2-google/login?redirect=http%3A%2F%2Flocalhost", nil, "", noDouble + "login by redirect with oauth2-google"},
		{"end of a redirect", "GET", prefix + "/auth/callback?code=x", nil, "", noDouble + "login by redirect"},
		{"function", "POST", appPath + "/functions/call", object{"name": "sum"}, "FunctionNotFound", "function not found: 'sum'"},
		{"function of a service", "POST", appPath + "/functions/call", find, "ServiceNotFound", noMongo},
		{"stream of a service", "GET", query("baas_request", find), nil, "ServiceNotFound", noMongo},
		{"stream of the first SDK", "GET", query("stitch_request", find), nil, "ServiceNotFound", noMongo},
		{"stream of a function", "GET", query("baas_request", object{"name": "sum"}), nil, "FunctionNotFound", "function not found: 'sum'"},
		{"stream of nothing", "GET", appPath + "/functions/call", nil, "", noDouble + "functions"},
		{"Admin API", "POST", "/api/admin/v3.0/auth/providers/mongodb-cloud/login", nil, "", noDouble + "Admin API"},
		{"an older API", "POST", "/api/client/v1.0/app/demo-abcde/pipeline", nil, "", noDouble + "API but /api/client/v2.0"},
		{"static hosting", "GET", "/index.html", nil, "", noDouble + "static hosting"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d.send(tt.method, tt.path, u.access, tt.body).refused(404, tt.code, tt.text)
		})
	}
}

func TestClientsOfGraphQLReadWhyThereIsNone(t *testing.T) {
	d := newDouble(t, nil)
	body := d.send("POST", appPath+"/graphql", "x", object{"query": "{a}"}).want(http.StatusNotFound).json()
	const text = "this double of App Services has no GraphQL"
	if want := []any{object{"message": text}}; body["error"] != text || fmt.Sprint(body["errors"]) != fmt.Sprint(want) || body["link"] == nil {
		t.Errorf("got %v", body)
	}
}

func TestABaseURLWithAPathIsRecognised(t *testing.T) {
	d := newDouble(t, nil)
	for _, path := range []string{prefix, "/realm", appPath, "/api"} {
		d.send("GET", path+appPath+"/location", "", nil).
			refused(404, "", "the base URL must have no path: use "+d.url+" without "+path)
	}
}

func TestTheBaseURLItselfCanBeProbed(t *testing.T) {
	d := newDouble(t, nil)
	if body := d.send("GET", "/", "", nil).want(http.StatusOK).json(); body["base_url"] != d.url {
		t.Errorf("got %v", body)
	}
	d.send("HEAD", "/", "", nil).want(http.StatusOK)
	d.send("POST", "/", "", nil).refused(404, "", "not found")
}

func TestPeopleWithABrowserSeeAPage(t *testing.T) {
	d := newDouble(t, nil)
	browser := http.Header{"Accept": {"text/html,application/xhtml+xml,*/*;q=0.8"}}
	for path, text := range map[string]string{
		"/": "<td>" + d.url, "/index.html": "no static hosting",
		appPath + "/auth/providers/oauth2-google/login?redirect=x": "no login by redirect with oauth2-google",
	} {
		r := d.sendWith("GET", path, browser, nil)
		if got := r.header.Get("Content-Type"); got != "text/html; charset=utf-8" || !strings.Contains(string(r.body), text) {
			t.Errorf("%s: got the type %q and %s", path, got, r.body)
		}
		if got := r.header.Get("Content-Security-Policy"); !strings.Contains(got, "default-src 'none'") {
			t.Errorf("%s: the policy is %q", path, got)
		}
	}
	d.sendWith("GET", appPath+"/nowhere", browser, nil).refused(404, "", "not found")
}

func TestWhatIsNotHereIsLoggedOnce(t *testing.T) {
	var log bytes.Buffer
	d := newDouble(t, &appservices.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	u := d.anonymous()
	for range 3 {
		d.send("POST", appPath+"/graphql", "", nil)
		for _, service := range []string{"mongodb-atlas", "twilio"} {
			d.send("POST", appPath+"/functions/call", u.access, object{"name": "find", "service": service})
		}
	}
	for what, want := range map[string]int{"missing=GraphQL": 1, "missing=\"service 'mongodb-atlas'\"": 1, "missing=\"service 'twilio'\"": 1, "level=WARN": 3} {
		if got := strings.Count(log.String(), what); got != want {
			t.Errorf("the log has %s %d times, want %d:\n%s", what, got, want, log.String())
		}
	}
	for i := range 200 {
		d.send("POST", appPath+"/functions/call", u.access, object{"name": "find", "service": fmt.Sprint(i)})
	}
	if got := strings.Count(log.String(), "level=WARN"); got != 100 {
		t.Errorf("clients have made %d lines, and could make any number", got)
	}
}
