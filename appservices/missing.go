package appservices

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"

	"github.com/latchkeydb/latchkey/internal/loggable"
)

// This file answers the calls of the hosted service that the handler does not have. Each answer
// says what is missing, so that nobody looks for a mistake in the path or in the app.

// maxMissing bounds how many missing things the handler remembers to have logged.
const maxMissing = 100

// errMissingPart returns the refusal of a call to a part of the service that is not here.
func errMissingPart(what string) *refusal {
	return &refusal{status: http.StatusNotFound, text: "this double of App Services has no " + what, missing: what}
}

func errNoFunction(name string) error {
	return &refusal{
		status: http.StatusNotFound, code: "FunctionNotFound", text: fmt.Sprintf("function not found: '%.200s'", name),
		missing: "functions",
	}
}

func errNoService(name string) error {
	e := errMissingService(name)
	e.code, e.text = "ServiceNotFound", fmt.Sprintf("service not found: '%.64s': %s", name, e.text)
	return e
}

func errMissingService(name string) *refusal {
	return errMissingPart(fmt.Sprintf("service '%.64s'", name))
}

// missingParts are the parts of the service below the prefix of the client API. An empty method is
// any method. ** at the end of a pattern is any rest.
var missingParts = []struct {
	method, pattern string
	err             func(path []string) *refusal
}{
	{"", "app/*/graphql/**", func([]string) *refusal { return graphQLForm(errMissingPart("GraphQL")) }},
	{"", "app/*/realm-sync/**", func([]string) *refusal { return errMissingPart("sync") }},
	{"", "app/*/push/**", func([]string) *refusal { return errMissingPart("push notifications") }},
	{"", "app/*/endpoint/**", missingEndpoint},
	{"", "app/*/service/*/**", func(path []string) *refusal { return errMissingService(path[3]) }},
	{"GET", "app/*/auth/providers/oauth2-google/**", missingRedirect},
	{"GET", "app/*/auth/providers/oauth2-facebook/**", missingRedirect},
	{"GET", "app/*/auth/providers/oauth2-apple/**", missingRedirect},
	{"", "auth/callback", func([]string) *refusal { return pageForm(errMissingPart("login by redirect")) }},
}

func missingEndpoint(path []string) *refusal {
	if len(path) > 4 && path[3] == "data" {
		return errMissingPart("Data API")
	}
	return errMissingPart("HTTPS endpoints")
}

func missingRedirect(path []string) *refusal {
	return pageForm(errMissingPart(fmt.Sprintf("login by redirect with %s", path[4])))
}

// graphQLForm adds the member that clients of GraphQL read.
func graphQLForm(e *refusal) *refusal { e.form = formGraphQL; return e }

// pageForm makes a refusal a page if a person asks for it with a browser.
func pageForm(e *refusal) *refusal { e.form = formPage; return e }

// findMissing returns the refusal of a call to a part that is not here, or nil. path has the
// segments below the prefix of the client API.
func findMissing(method string, path []string) *refusal {
	if method == http.MethodHead {
		method = http.MethodGet
	}
	for _, part := range missingParts {
		if (part.method == "" || part.method == method) && matchStart(part.pattern, path) {
			return part.err(path)
		}
	}
	return nil
}

// matchStart reports whether path matches pattern. ** at the end of pattern also matches nothing.
func matchStart(pattern string, path []string) bool {
	for i, segment := range strings.Split(pattern, "/") {
		switch {
		case segment == "**":
			return true
		case i >= len(path) || segment != "*" && segment != path[i]:
			return false
		}
	}
	return len(path) == strings.Count(pattern, "/")+1
}

// outside answers a request whose path is not below the prefix of the client API.
func (c *call) outside(path string) (reply, error) {
	segments := strings.Split(strings.TrimPrefix(path, "/"), "/")
	reads := c.r.Method == http.MethodGet || c.r.Method == http.MethodHead
	switch {
	case reads && logPath.MatchString(path):
		return c.logPage()
	case reads && path == "/":
		return c.greet(), nil // a probe of the base URL, or a person who looks what is there
	case strings.HasPrefix(path, "/api/admin/"):
		return reply{}, errMissingPart("Admin API")
	case path == prefix, strings.HasPrefix(path, "/."): // such as /.latchkey and /.well-known
		return reply{}, errNotFound
	case strings.HasPrefix(path, "/api/"):
		return reply{}, errMissingPart("API but " + prefix)
	case matchStart("app/*/endpoint/**", segments):
		return reply{}, missingEndpoint(segments)
	case reads:
		return reply{}, pageForm(errMissingPart("static hosting"))
	}
	return reply{}, errNotFound
}

// A greeting answers a request for the base URL itself.
type greeting struct {
	BaseURL string `json:"base_url"`
}

func (c *call) greet() reply {
	if !asksForPage(c.r) {
		return reply{http.StatusOK, greeting{c.baseURL()}}
	}
	return reply{http.StatusOK, page{
		Title: "A double of App Services",
		Text:  "This server answers the client API of MongoDB Realm / Atlas App Services: logins, sessions, profiles and API keys.",
		Rows:  []pageRow{{"base URL for SDKs", c.baseURL()}},
	}}
}

// errBasePath refuses a request by a client whose base URL has a path. The rest of the path is a
// call of the client API.
func (c *call) errBasePath(path string) error {
	return &refusal{
		status: http.StatusNotFound,
		text:   fmt.Sprintf("the base URL must have no path: use %s without %.100s", c.baseURL(), path),
	}
}

// callFunction refuses all calls of functions, because there are none.
func (c *call) callFunction() (reply, error) {
	if _, _, err := c.authenticate(accessToken); err != nil {
		return reply{}, err
	}
	d, err := c.body()
	if err != nil {
		return reply{}, err
	}
	return reply{}, noFunction(d)
}

// streamFunction refuses the calls that SDKs use to watch a collection. The query has the document
// that other calls have in the body.
func (c *call) streamFunction() (reply, error) {
	query := c.r.URL.Query()
	for _, field := range []string{"baas_request", "stitch_request"} {
		body, err := base64.StdEncoding.DecodeString(query.Get(field))
		if d, parseErr := parseDocument(body); err == nil && parseErr == nil && len(d) > 0 {
			return reply{}, noFunction(d)
		}
	}
	return reply{}, errMissingPart("functions")
}

func noFunction(d document) error {
	if service, _ := d.text("service"); service != "" {
		return errNoService(service)
	}
	name, _ := d.text("name")
	return errNoFunction(name)
}

// noteMissing logs that a client has called something that is not here, once for each thing.
func (h *Handler) noteMissing(c *call, what string) {
	h.mu.Lock()
	known := h.missing[what] || len(h.missing) >= maxMissing
	if !known {
		if h.missing == nil {
			h.missing = make(map[string]bool)
		}
		h.missing[what] = true
	}
	h.mu.Unlock()
	if !known {
		h.log.WarnContext(c.ctx(), "a client has called a part of App Services that this double does not have", "missing", loggable.Text(what), "request_id", c.requestID)
	}
}

// A graphQLError is an error in the form of the service and in the form of GraphQL.
type graphQLError struct {
	errorBody
	Errors []graphQLMessage `json:"errors"`
}

type graphQLMessage struct {
	Message string `json:"message"`
}

func graphQLBody(body errorBody) any {
	return graphQLError{body, []graphQLMessage{{body.Error}}}
}
