package admin

import (
	"context"
	"log/slog"
	"net/http"
	"path"
	"sync"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/audit"
	"github.com/latchkeydb/latchkey/replica"
)

// Options changes how a store is administered. A nil *Options, and one whose fields are all zero,
// is the safe choice. New copies it.
type Options struct {
	// Authenticate returns the caller of a request, before anything else of the request is read. A
	// request is refused with the [*Problem] that Authenticate returns. Any other error refuses the
	// request with the status of [httpauth.Status]. The default is [RequireKey].
	Authenticate func(*http.Request) (Caller, error)

	// Trail is the audit trail that [latchkey.Options].OnChange writes, if there is one. Its health
	// is a part of the answer about health.
	Trail *audit.Trail

	// Page is a page for browsers that administers the same store, if there is one. Callers that
	// may have secrets can then have sign-in URLs of the page.
	Page *Page

	// Hub is the hub that the program serves over the same store, if it does.
	Hub *replica.Hub

	// Edge is the edge whose store is administered, if the store is one of an edge.
	Edge *replica.Edge

	// MaxStreams is how many streams of changes can be open at once. Each takes a goroutine and
	// some kilobytes. The default is 64.
	MaxStreams int

	// Logger gets a line for each change, and for each answer that has secrets or has a status of
	// 500 or more. docs/admin.md lists the lines. No line has a token, a name or anything else of
	// the body of a request. The default is no log.
	Logger *slog.Logger
}

// Handler serves the API. It is safe for concurrent use.
type Handler struct {
	store  *latchkey.Store
	opts   Options
	mux    *http.ServeMux
	origin *http.CrossOriginProtection

	closed  context.Context // ends with Close
	end     context.CancelFunc
	streams chan struct{} // has an element for each open stream
	backup  sync.Mutex    // is held by the one backup, and so on
	check   sync.Mutex    // or repair
	compact sync.Mutex
	apply   sync.Mutex
	imports sync.Mutex
	export  sync.Mutex
	tags    sync.Mutex // is held by the one addition of a tag secret
}

// New returns a handler for a store. opts may be nil.
//
// The server of the handler should have a ReadHeaderTimeout and an IdleTimeout. It must not have a
// WriteTimeout, because backups and streams of changes last longer.
func New(store *latchkey.Store, opts *Options) *Handler {
	h := &Handler{store: store, mux: http.NewServeMux(), origin: http.NewCrossOriginProtection()}
	if opts != nil {
		h.opts = *opts
	}
	if h.opts.Authenticate == nil {
		h.opts.Authenticate = RequireKey(store, nil)
	}
	if h.opts.MaxStreams <= 0 {
		h.opts.MaxStreams = 64
	}
	h.streams = make(chan struct{}, h.opts.MaxStreams)
	h.closed, h.end = context.WithCancel(context.Background())
	h.route()
	return h
}

// Close ends all streams of changes, and refuses new ones. It does not close the store. Give it to
// [http.Server.RegisterOnShutdown], because Shutdown waits for streams.
func (h *Handler) Close() { h.end() }

// A call is one request on its way.
type call struct {
	*Handler
	w      http.ResponseWriter
	r      *http.Request
	caller Caller
	dry    bool // the request is a dry run
}

// ServeHTTP answers a request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	limitReading(w, r)
	c := &call{Handler: h, w: w, r: r}
	if err := h.origin.Check(r); err != nil {
		c.refuse(errCrossOrigin)
		return
	}
	caller, err := h.opts.Authenticate(r)
	if err != nil {
		c.refuse(authenticationProblem(err))
		return
	}
	if p := r.URL.EscapedPath(); path.Clean("/"+p) != p {
		c.refuse(errNoRoute) // the mux would redirect
		return
	}
	ctx := context.WithValue(latchkey.WithActor(r.Context(), caller.Actor), callerKey{}, caller)
	h.mux.ServeHTTP(w, r.WithContext(ctx))
}

// serve answers a request with a function, or with the problem that the function returns.
func (h *Handler) serve(w http.ResponseWriter, r *http.Request, secret bool, fn func(*call) error) {
	caller, _ := r.Context().Value(callerKey{}).(Caller)
	answer := &statusWriter{ResponseWriter: w}
	c := &call{Handler: h, w: answer, r: r, caller: caller}
	defer c.logDone(answer, secret) // also if half of a backup was sent
	if secret && !caller.Secrets {
		c.refuse(errNoSecrets)
		return
	}
	if err := fn(c); err != nil {
		c.refuse(err)
	}
}

// afterChange returns the context for reading the answer to a change. The answer says that the
// change was made, also if nobody waits for it any more.
func (c *call) afterChange() context.Context { return context.WithoutCancel(c.r.Context()) }

// refuse answers a request with the problem of an error.
func (c *call) refuse(err error) {
	p := problemOf(err)
	c.logFailed(p, err)
	for name, values := range p.header {
		c.w.Header()[name] = values
	}
	c.w.Header().Set("Content-Type", "application/problem+json")
	writeJSON(c.w, p.Status, p)
}
