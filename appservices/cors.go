package appservices

import (
	"net/http"
	"slices"
)

// allowOrigin lets pages of other origins read the reply. Errors need this as well as successes: if
// realm-web may not read an error, it reports a failed network.
func (h *Handler) allowOrigin(w http.ResponseWriter, r *http.Request) {
	header, origin := w.Header(), r.Header.Get("Origin")
	header.Set("Vary", "Origin")
	switch allowed := h.opts.AllowedOrigins; {
	case len(allowed) == 0 && origin == "":
		header.Set("Access-Control-Allow-Origin", "*")
	case len(allowed) == 0 || slices.Contains(allowed, origin):
		header.Set("Access-Control-Allow-Origin", origin)
	}
}

// preflight answers the question that a browser asks before it lets a page call.
func (h *Handler) preflight(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Access-Control-Allow-Methods", "GET, POST, PUT, PATCH, DELETE, OPTIONS")
	asked := r.Header.Get("Access-Control-Request-Headers")
	if asked == "" {
		asked = "Authorization, Content-Type, Accept" // the wildcard * does not cover Authorization
	}
	header.Set("Access-Control-Allow-Headers", asked)
	header.Set("Access-Control-Max-Age", "600")
	if h.opts.AllowPrivateNetwork && r.Header.Get("Access-Control-Request-Private-Network") == "true" {
		header.Set("Access-Control-Allow-Private-Network", "true")
	}
	w.WriteHeader(http.StatusNoContent)
}
