package appservices

import (
	"net/http"
	"slices"
)

// allowOrigin lets pages of another origin read the reply, whatever it says: without it realm-web takes an error for a
// network that failed.
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

// preflight answers what a browser asks before it lets a page call.
func (h *Handler) preflight(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Access-Control-Allow-Methods", "GET, POST, PUT, PATCH, DELETE, OPTIONS")
	asked := r.Header.Get("Access-Control-Request-Headers")
	if asked == "" {
		asked = "Authorization, Content-Type, Accept" // a * would not cover Authorization
	}
	header.Set("Access-Control-Allow-Headers", asked)
	header.Set("Access-Control-Max-Age", "600")
	if h.opts.AllowPrivateNetwork && r.Header.Get("Access-Control-Request-Private-Network") == "true" {
		header.Set("Access-Control-Allow-Private-Network", "true")
	}
	w.WriteHeader(http.StatusNoContent)
}
