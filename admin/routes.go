package admin

import (
	_ "embed"
	"net/http"
	"slices"
	"strings"
)

// A route is one line of the API. Methods of one path stand together.
type route struct {
	method, path string
	serve        func(*call) error
	secret       bool // only for callers that may have secrets, or make keys that can get them
}

// routes is the table of the API.
var routes = []route{
	{method: "GET", path: "/v1/openapi.yaml", serve: (*call).description},
	{method: "GET", path: "/v1/store", serve: (*call).showStore},
	{method: "POST", path: "/v1/page/sign-in-url", serve: (*call).createSignInURL, secret: true},

	{method: "GET", path: "/v1/users", serve: (*call).listUsers},
	{method: "POST", path: "/v1/users", serve: (*call).createUser},
	{method: "GET", path: "/v1/users/{user}", serve: (*call).showUser},
	{method: "PATCH", path: "/v1/users/{user}", serve: (*call).changeUser},
	{method: "DELETE", path: "/v1/users/{user}", serve: (*call).deleteUser},
	{method: "POST", path: "/v1/users/{user}/identities", serve: (*call).linkIdentity},
	{method: "DELETE", path: "/v1/users/{user}/identities", serve: (*call).unlinkIdentity},
	{method: "GET", path: "/v1/users/{user}/confirmed", serve: (*call).showUserConfirmed},
	{method: "POST", path: "/v1/users/{user}/keys", serve: (*call).createKey},

	{method: "GET", path: "/v1/keys", serve: (*call).listKeys},
	{method: "POST", path: "/v1/server-keys", serve: (*call).createServerKey},
	{method: "POST", path: "/v1/find-token", serve: (*call).findToken},
	{method: "POST", path: "/v1/login", serve: (*call).login},
	{method: "GET", path: "/v1/keys/{key}", serve: (*call).showKey},
	{method: "PATCH", path: "/v1/keys/{key}", serve: (*call).changeKey},
	{method: "DELETE", path: "/v1/keys/{key}", serve: (*call).deleteKey},
	{method: "POST", path: "/v1/keys/{key}/rotate", serve: (*call).rotateKey},
	{method: "GET", path: "/v1/keys/{key}/confirmed", serve: (*call).showKeyConfirmed},
	{method: "GET", path: "/v1/keys/{key}/export", serve: (*call).exportKey, secret: true},

	{method: "GET", path: "/v1/groups", serve: (*call).listGroups},
	{method: "GET", path: "/v1/groups/{group}", serve: (*call).showGroup},
	{method: "PATCH", path: "/v1/groups/{group}", serve: (*call).changeGroup},
	{method: "GET", path: "/v1/groups/{group}/confirmed", serve: (*call).showGroupConfirmed},

	{method: "POST", path: "/v1/apply", serve: (*call).applyManifest, secret: true},
	{method: "POST", path: "/v1/import", serve: (*call).importKeys, secret: true},
	{method: "GET", path: "/v1/export", serve: (*call).exportKeys, secret: true},

	{method: "GET", path: "/v1/domain-secrets", serve: (*call).exportDomain, secret: true},
	{method: "POST", path: "/v1/domain-secrets", serve: (*call).takeTagSecrets, secret: true},
	{method: "GET", path: "/v1/tag-secrets", serve: (*call).listTagSecrets},
	{method: "POST", path: "/v1/tag-secrets", serve: (*call).addTagSecret},
	{method: "POST", path: "/v1/tag-secrets/{number}/use", serve: (*call).useTagSecret},
	{method: "POST", path: "/v1/tag-secrets/{number}/retire", serve: (*call).retireTagSecret},

	{method: "GET", path: "/v1/hub", serve: (*call).showHub},
	{method: "GET", path: "/v1/replicas", serve: (*call).listReplicas},
	{method: "GET", path: "/v1/replicas/{replica}", serve: (*call).showReplica},
	{method: "PATCH", path: "/v1/replicas/{replica}", serve: (*call).changeReplica, secret: true},
	{method: "POST", path: "/v1/replicas/{replica}/revoke", serve: (*call).revokeReplica},
	{method: "POST", path: "/v1/invitations", serve: (*call).createInvitation, secret: true},
	{method: "GET", path: "/v1/claims", serve: (*call).listClaims},
	{method: "POST", path: "/v1/claims/{number}/confirm", serve: (*call).confirmClaim},
	{method: "POST", path: "/v1/claims/{number}/refuse", serve: (*call).refuseClaim},
	{method: "GET", path: "/v1/confirmed", serve: (*call).showConfirmed},
	{method: "GET", path: "/v1/edge", serve: (*call).showEdge},
	{method: "POST", path: "/v1/edge/sync", serve: (*call).syncEdge},

	{method: "GET", path: "/v1/audit", serve: (*call).listAudit},
	{method: "POST", path: "/v1/audit/begin", serve: (*call).beginAudit},
	{method: "POST", path: "/v1/audit/verify", serve: (*call).verifyAudit},
	{method: "POST", path: "/v1/audit/prune", serve: (*call).pruneAudit},
	{method: "GET", path: "/v1/changes", serve: (*call).streamChanges},

	{method: "GET", path: "/v1/health", serve: (*call).showHealth},
	{method: "GET", path: "/v1/stats", serve: (*call).showStats},
	{method: "GET", path: "/v1/clock", serve: (*call).showClock},
	{method: "POST", path: "/v1/clock/reset", serve: (*call).resetClock},
	{method: "GET", path: "/v1/backup", serve: (*call).writeBackup, secret: true},
	{method: "POST", path: "/v1/check", serve: (*call).checkStore},
	{method: "POST", path: "/v1/repair", serve: (*call).repairStore},
	{method: "POST", path: "/v1/compact", serve: (*call).compactStore},
}

// route registers the routes. It chooses by the method itself, so that a wrong method is answered
// with a problem like everything else.
func (h *Handler) route() {
	for i := 0; i < len(routes); {
		j := i
		for j < len(routes) && routes[j].path == routes[i].path {
			j++
		}
		methods := routes[i:j]
		h.mux.HandleFunc(methods[0].path, func(w http.ResponseWriter, r *http.Request) { h.choose(w, r, methods) })
		i = j
	}
	h.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		h.serve(w, r, false, func(*call) error { return errNoRoute })
	})
}

// choose serves a request with the route of its method.
func (h *Handler) choose(w http.ResponseWriter, r *http.Request, methods []route) {
	is := func(m route) bool {
		return m.method == r.Method || m.method == http.MethodGet && r.Method == http.MethodHead && !m.secret && m.path != "/v1/changes"
	}
	if i := slices.IndexFunc(methods, is); i >= 0 {
		h.serve(w, r, methods[i].secret, methods[i].serve)
		return
	}
	var allowed []string
	for _, m := range methods {
		allowed = append(allowed, m.method)
	}
	w.Header().Set("Allow", strings.Join(allowed, ", "))
	h.serve(w, r, false, func(*call) error { return errMethod })
}

//go:embed openapi.yaml
var openAPI []byte

// description answers with openapi.yaml.
func (c *call) description() error {
	c.w.Header().Set("Content-Type", "application/yaml")
	_, _ = c.w.Write(openAPI)
	return nil
}
