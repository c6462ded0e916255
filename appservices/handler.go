package appservices

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	mathrand "math/rand/v2"
	"net/http"
	"net/url"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/latchkeydb/latchkey"
)

// A Handler answers the client API of one or more apps. It is an [http.Handler], and safe for concurrent use.
type Handler struct {
	opts     Options
	now      func() time.Time
	log      *slog.Logger
	failures *failures
	faults   faultList

	randMu sync.Mutex

	mu   sync.RWMutex
	only *app            // the one app, unless OpenApp gives each its own
	apps map[string]*app // those that OpenApp has opened
}

// New returns a handler over a store, which it does not close. With [Options].OpenApp, store is not used and may be nil;
// without, New writes to a store that has no key to sign sessions with yet. opts may be nil.
//
// It returns [ErrInvalidOptions], or an error of the store.
func New(store *latchkey.Store, opts *Options) (*Handler, error) {
	h := &Handler{apps: make(map[string]*app)}
	if opts != nil {
		h.opts = *opts
	}
	if err := h.opts.validate(); err != nil {
		return nil, fmt.Errorf("appservices: %w", err)
	}
	h.now, h.log = h.opts.now(), h.opts.logger()
	h.failures = &failures{limit: h.opts.failedLogins(), burst: h.opts.failedLoginBurst(), now: h.now}
	if h.opts.OpenApp != nil {
		return h, nil
	}
	a, err := h.openApp(context.Background(), store)
	if err != nil {
		return nil, fmt.Errorf("appservices: %w", err)
	}
	h.only = a
	return h, nil
}

// NewServer returns a server for h on addr, with bounds on what slow and greedy clients can hold: 10 seconds for headers, 30
// for all of a request, 90 until the reply is sent, 2 minutes for an idle connection, and 64 KiB of headers.
func NewServer(addr string, h *Handler) *http.Server {
	return &http.Server{
		Addr:              addr,
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      90 * time.Second, // SDKs wait 60 seconds
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10, // an access token carries custom user data
		ErrorLog:          slog.NewLogLogger(h.log.Handler(), slog.LevelWarn),
	}
}

// A call is one request on its way.
type call struct {
	h         *Handler
	r         *http.Request
	w         http.ResponseWriter
	requestID string
	appID     string // as the path has it; empty for paths without one
	app       *app   // nil until it is known
	params    []string
}

func (c *call) ctx() context.Context { return c.r.Context() }

// A reply is a success. One without a body has no content type either.
type reply struct {
	status int
	body   any
}

var noContent = reply{status: http.StatusNoContent}

// A route says who answers a method on a path. A * in the pattern is any one segment.
type route struct {
	method  string
	pattern []string
	answer  func(*call) (reply, error)
}

func newRoute(method, pattern string, answer func(*call) (reply, error)) route {
	return route{method, strings.Split(pattern, "/"), answer}
}

const prefix = "/api/client/v2.0"

var routes = []route{
	newRoute("GET", "app/*/location", (*call).location),
	newRoute("POST", "app/*/auth/providers/*/login", (*call).login),
	newRoute("POST", "app/*/auth/providers/local-userpass/register", (*call).register),
	newRoute("POST", "app/*/auth/providers/local-userpass/confirm", (*call).confirm),
	newRoute("POST", "app/*/auth/providers/local-userpass/confirm/send", (*call).sendConfirmation),
	newRoute("POST", "app/*/auth/providers/local-userpass/confirm/call", (*call).callConfirmation),
	newRoute("POST", "app/*/auth/providers/local-userpass/reset", (*call).reset),
	newRoute("POST", "app/*/auth/providers/local-userpass/reset/send", (*call).sendReset),
	newRoute("POST", "app/*/auth/providers/local-userpass/reset/call", (*call).callReset),
	newRoute("POST", "app/*/functions/call", (*call).callFunction),
	newRoute("GET", "app/*/functions/call", (*call).streamFunction),
	newRoute("POST", "auth/session", (*call).refresh),
	newRoute("DELETE", "auth/session", (*call).logOut),
	newRoute("GET", "auth/profile", (*call).profile),
	newRoute("DELETE", "auth/delete", (*call).deleteUser),
	newRoute("POST", "auth/api_keys", (*call).createKey),
	newRoute("GET", "auth/api_keys", (*call).listKeys),
	newRoute("GET", "auth/api_keys/*", (*call).fetchKey),
	newRoute("DELETE", "auth/api_keys/*", (*call).deleteKey),
	newRoute("PUT", "auth/api_keys/*/enable", (*call).enableKey),
	newRoute("PUT", "auth/api_keys/*/disable", (*call).disableKey),
	newRoute("PUT", "auth/api_keys/enable", (*call).nameNoKey), // of an empty ID, whose two slashes are one
	newRoute("PUT", "auth/api_keys/disable", (*call).nameNoKey),
}

// match returns what the asterisks of a route stand for in a path.
func (rt *route) match(path []string) (params []string, ok bool) {
	if len(path) != len(rt.pattern) {
		return nil, false
	}
	for i, segment := range rt.pattern {
		switch {
		case segment == "*":
			params = append(params, path[i])
		case segment != path[i]:
			return nil, false
		}
	}
	return params, true
}

// ServeHTTP answers one request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	rec := &recorder{ResponseWriter: w}
	c := &call{h: h, r: r, w: rec, requestID: newRequestID()}
	defer func() {
		// A connection that a fault drops is logged too.
		h.logRequest(c, rec.status, time.Since(start))
	}()
	defer c.recover()
	h.allowOrigin(rec, r)
	rec.Header().Set("X-Appservices-Request-Id", c.requestID)
	if h.faults.intercept(rec, r) {
		return
	}
	if r.Method == http.MethodOptions {
		h.preflight(rec, r)
		return
	}
	rep, err := c.dispatch()
	if err != nil {
		c.refuse(err)
		return
	}
	c.send(rep)
}

// recover makes a panic a reply like any other, unless something was sent already or the connection is to be dropped.
func (c *call) recover() {
	v := recover()
	if v == nil {
		return
	}
	if v == http.ErrAbortHandler {
		panic(v)
	}
	c.h.log.ErrorContext(c.ctx(), "panic", "panic", v, "request_id", c.requestID, "stack", string(debug.Stack()))
	if c.w.(*recorder).status != 0 {
		panic(http.ErrAbortHandler)
	}
	c.refuse(errInternal)
}

// dispatch finds the app and the route. SDKs with a base URL that ends in a slash send two, and a redirected POST would
// lose its body, so several slashes count as one.
func (c *call) dispatch() (reply, error) {
	path, ok := strings.CutPrefix(collapse(c.r.URL.EscapedPath()), prefix+"/")
	if !ok {
		return reply{}, errNotFound
	}
	segments := strings.Split(path, "/")
	for i, s := range segments { // one by one: in what stands for an ID, a slash may be escaped
		var err error
		if segments[i], err = url.PathUnescape(s); err != nil {
			return reply{}, errNotFound
		}
	}
	if segments[0] == "app" && len(segments) > 1 {
		a, err := c.h.app(c.ctx(), segments[1])
		if err != nil {
			return reply{}, err
		}
		c.app, c.appID = a, segments[1]
	}
	var allowed []string
	for _, rt := range routes {
		params, ok := rt.match(segments)
		if !ok {
			continue
		}
		if rt.method == c.r.Method {
			c.params = params
			return rt.answer(c)
		}
		allowed = append(allowed, rt.method)
	}
	if allowed != nil {
		c.w.Header().Set("Allow", strings.Join(allowed, ", "))
		return reply{}, errMethod
	}
	return reply{}, errNotFound
}

// collapse makes one slash of several. One at the end stays: behind it is an ID that is empty.
func collapse(path string) string {
	for strings.Contains(path, "//") {
		path = strings.ReplaceAll(path, "//", "/")
	}
	return path
}

func (c *call) send(rep reply) {
	if rep.body == nil {
		c.w.WriteHeader(rep.status)
		return
	}
	body, err := json.Marshal(rep.body)
	if err != nil {
		c.refuse(err)
		return
	}
	header := c.w.Header()
	header.Set("Content-Type", "application/json") // core knows no other spelling
	header.Set("Content-Length", strconv.Itoa(len(body)))
	c.w.WriteHeader(rep.status)
	_, _ = c.w.Write(body) // who is gone is told nothing
}

// errorBody is the service's shape of an error.
type errorBody struct {
	Error string `json:"error,omitempty"` // only a fault may have none
	Code  string `json:"error_code,omitempty"`
	Link  string `json:"link"`
}

func (c *call) refuse(err error) {
	e, known := refusalOf(err)
	if !known {
		c.h.log.ErrorContext(c.ctx(), "internal error", "error", err, "request_id", c.requestID)
	}
	if e.after > 0 {
		c.w.Header().Set("Retry-After", strconv.Itoa(int(e.after.Seconds())))
	}
	if e.bare && !c.h.opts.ExplainForbidden {
		c.send(reply{status: e.status})
		return
	}
	body := errorBody{Error: e.text, Code: e.code, Link: c.logLink()}
	if c.h.opts.OldTexts && e.old != "" {
		body.Error = e.old
	}
	c.send(reply{e.status, body})
}

// logLink is where the service's log of the request would be. SDKs show it, and their suites look at its form.
func (c *call) logLink() string {
	group, app := deriveID(nilDomain, "group"), deriveID(nilDomain, "app")
	if c.app != nil {
		group, app = c.app.groupID, c.app.id
	}
	return fmt.Sprintf("%s/groups/%s/apps/%s/logs?co_id=%s", c.baseURL(), group, app, c.requestID)
}

// recorder remembers the status for the log.
type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	return r.ResponseWriter.Write(b)
}

// Unwrap is for [http.ResponseController].
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

func (h *Handler) logRequest(c *call, status int, took time.Duration) {
	if !h.log.Enabled(c.ctx(), slog.LevelInfo) {
		return
	}
	h.log.LogAttrs(c.ctx(), slog.LevelInfo, "request",
		slog.String("method", c.r.Method),
		slog.String("path", loggedPath(c.r.URL.Path)),
		slog.Int("status", status),
		slog.Duration("duration", took),
		slog.String("remote", h.remote(c.r).String()),
		slog.String("request_id", c.requestID))
}

// loggedPath is a path without segments as long as a token: who puts one there by mistake must not find it in the log.
func loggedPath(path string) string {
	segments := strings.Split(path, "/")
	for i, s := range segments {
		if len(s) > 40 {
			segments[i] = "…"
		}
	}
	return strings.Join(segments, "/")
}

// newRequestID needs to be no secret, and must leave the numbers that Options.InsecureRand gives to those IDs that last.
func newRequestID() string {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, objectIDSize), mathrand.Uint64())
	return hexID(binary.BigEndian.AppendUint32(b, mathrand.Uint32()))
}

// random returns n random bytes.
func (h *Handler) random(n int) []byte {
	b := make([]byte, n)
	if h.opts.InsecureRand == nil {
		rand.Read(b)
		return b
	}
	h.randMu.Lock()
	defer h.randMu.Unlock()
	if _, err := io.ReadFull(h.opts.InsecureRand, b); err != nil {
		panic(fmt.Errorf("appservices: Options.InsecureRand: %w", err))
	}
	return b
}

// newObjectID is an ID by the clock and by chance, in the order of time.
func (h *Handler) newObjectID() string {
	b := binary.BigEndian.AppendUint32(make([]byte, 0, objectIDSize), uint32(h.now().Unix()))
	return hexID(append(b, h.random(8)...))
}

// body reads a JSON document, or the empty one if there is none.
func (c *call) body() (document, error) {
	b, err := io.ReadAll(http.MaxBytesReader(c.w, c.r.Body, c.h.opts.maxBody()))
	if err == nil {
		return parseDocument(b)
	}
	var tooLong *http.MaxBytesError
	if errors.As(err, &tooLong) {
		return nil, errBodySize
	}
	return nil, errBodyLost
}
