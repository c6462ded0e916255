package appservices_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/latchkeydb/latchkey/appservices"
)

// linkPath returns the path and the query of a refusal's link.
func (d *double) linkPath(r *response) string {
	d.t.Helper()
	link, _ := r.json()["link"].(string)
	path, ok := strings.CutPrefix(link, d.url)
	if !ok {
		d.t.Fatalf("the link of %s is not at %s", r.body, d.url)
	}
	return path
}

func TestTheLinkOfARefusalLeadsToTheReason(t *testing.T) {
	d := newDouble(t, &appservices.Options{LogPages: true})
	u := d.signUp("ada@example.com")
	for name, tt := range map[string]struct {
		reply  *response
		reason string
	}{
		"a wrong password": {d.tryLogin("local-userpass", credentials("ada@example.com", "wrong")), "the password is wrong"},
		"a name":           {d.send("POST", appPath+"/functions/call", u.access, object{"name": "<script>"}), "function not found: '<script>'"},
		"no such path":     {d.send("GET", "/nowhere", "", nil), "this double of App Services has no static hosting"},
	} {
		t.Run(name, func(t *testing.T) {
			path := d.linkPath(tt.reply)
			got := d.send("GET", path, "", nil).want(http.StatusOK).json()
			if got["reason"] != tt.reason || got["status"] != float64(tt.reply.status) || got["error_code"] != tt.reply.json()["error_code"] ||
				got["request_id"] != tt.reply.header.Get("X-Appservices-Request-Id") || got["remote"] != "127.0.0.1" {
				t.Errorf("got %v", got)
			}
			d.send("HEAD", path, "", nil).want(http.StatusOK)
			page := d.sendWith("GET", path, http.Header{"Accept": {"text/html"}}, nil).want(http.StatusOK)
			text := strings.NewReplacer("<", "&lt;", ">", "&gt;", "'", "&#39;").Replace(tt.reason)
			if !strings.Contains(string(page.body), text) {
				t.Errorf("the page lacks %s:\n%s", text, page.body)
			}
		})
	}
}

func TestAFaultHasAPageToo(t *testing.T) {
	d := newDouble(t, &appservices.Options{LogPages: true})
	must(t, d.handler.AddFault(appservices.Fault{Status: 500, Error: "no luck"}))
	r := d.tryLogin("anon-user", nil)
	d.handler.ClearFaults()
	if got := d.send("GET", d.linkPath(r), "", nil).want(http.StatusOK).json(); got["reason"] != "a fault answered" {
		t.Errorf("got %v", got)
	}
}

func TestOnlyProgramsOnTheSameMachineReadThePageOfALink(t *testing.T) {
	d := newDouble(t, &appservices.Options{LogPages: true})
	path := d.linkPath(d.send("GET", "/nowhere", "", nil))
	for _, header := range []string{"X-Forwarded-For", "Origin"} {
		d.sendWith("GET", path, http.Header{header: {"x"}}, nil).refused(403, "", "the page of the log refuses requests with the header "+header)
	}
	d.send("POST", path, "", nil).refused(404, "", "not found")
}

func TestTheLatestRefusalsHaveAPage(t *testing.T) {
	d := newDouble(t, &appservices.Options{LogPages: true})
	const none = "only the last 1000 refused requests since the start have a page, and this is none of them"
	first := d.linkPath(d.send("GET", "/nowhere", "", nil))
	d.send("GET", strings.Replace(first, "co_id=", "co_id=x", 1), "", nil).refused(404, "", none)
	var links []string
	for range 1010 {
		links = append(links, d.linkPath(d.send("GET", "/nowhere", "", nil)))
	}
	d.send("GET", first, "", nil).refused(404, "", none)
	d.send("GET", links[len(links)-1], "", nil).want(http.StatusOK)
	d.send("GET", links[100], "", nil).want(http.StatusOK)
}

func TestThereAreNoPagesUnlessAskedFor(t *testing.T) {
	d := newDouble(t, nil)
	path := d.linkPath(d.send("GET", "/nowhere", "", nil))
	d.send("GET", path, "", nil).refused(404, "", "this double of App Services has no page of its log")
}
