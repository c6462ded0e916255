package appservices

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	mathrand "math/rand/v2"
	"net/http"
	"net/url"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/loggable"
)

// A Handler answers the client API of one or more apps. It is an [http.Handler], and is safe for
// concurrent use.
type Handler struct {
	opts     Options
	now      func() time.Time
	log      *slog.Logger
	failures failures
	writes   limits[writeKey]
	mails    limits[[sha256.Size]byte] // by the hash of an app and an e-mail address
	lines    lines
	faults   faultList
	journal  journal

	warnedOfProxy sync.Once
	warnedOfCost  sync.Once

	randMu sync.Mutex

	mu      sync.RWMutex
	only    *app            // the one app, unless OpenApp gives each app a store of its own
	apps    map[string]*app // the apps that OpenApp has opened
	missing map[string]bool // what clients have asked for in vain
}

// New returns a handler over a store. The handler does not close the store. If the store has no key
// that signs sessions yet, New writes one. With [Options].OpenApp, New does not use store, which
// may be nil. opts may be nil.
//
// Errors: [ErrInvalidOptions], and the store's errors.
func New(store *latchkey.Store, opts *Options) (*Handler, error) {
	h := &Handler{apps: make(map[string]*app)}
	if opts != nil {
		h.opts = *opts
	}
	if err := h.opts.validate(); err != nil {
		return nil, fmt.Errorf("appservices: %w", err)
	}
	h.now, h.log = h.opts.now(), h.opts.logger()
	h.writes = hourly[writeKey](h.opts.writeLimit(), h.now)
	h.mails = hourly[[sha256.Size]byte](h.opts.mailLimit(), h.now)
	h.failures.limits = limits[failureKey]{limit: h.opts.failedLogins(), burst: h.opts.failedLoginBurst(), now: h.now}
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

// NewServer returns a server for h on addr. The server bounds what slow and greedy clients can
// hold: a client has 10 seconds for the headers and 30 seconds for the whole request. The reply is
// sent within 90 seconds, idle connections end after 2 minutes, and headers have at most 64 KiB.
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

// A call is one request while it is answered.
type call struct {
	h         *Handler
	r         *http.Request
	w         http.ResponseWriter
	requestID string
	appID     string // as it is in the path, or empty
	app       *app   // nil until the app is known
	params    []string
	code      string // the error code of the reply
	reason    string // why the request was refused, for the log
}

func (c *call) ctx() context.Context { return c.r.Context() }

// A reply is the answer to a request that succeeded. A reply without a body has no content type.
type reply struct {
	status int
	body   any
}

var noContent = reply{status: http.StatusNoContent}

// emptyObject is the reply of the calls that register, confirm and reset. The body is {}, because
// the SDK mongodb-stitch parses it.
var emptyObject = reply{http.StatusOK, struct{}{}}

// A route names the function that answers a method on a path. A * in the pattern is any one
// segment.
type route struct {
	method  string
	pattern []string
	answer  func(*call) (reply, error)
}

func newRoute(method, pattern string, answer func(*call) (reply, error)) route {
	return route{method, strings.Split(pattern, "/"), answer}
}

// newUserpassRoute returns the route of a call of the provider local-userpass, which changes
// nothing if the provider is off.
func newUserpassRoute(path string, answer func(*call) (reply, error)) route {
	return newRoute("POST", "app/*/auth/providers/local-userpass/"+path, func(c *call) (reply, error) {
		if c.h.enabled(latchkey.ProviderLocalUserpass) != nil {
			return reply{}, errCallOff(latchkey.ProviderLocalUserpass)
		}
		return answer(c)
	})
}

const prefix = "/api/client/v2.0"

var routes = []route{
	newRoute("GET", "app/*/location", (*call).location),
	newRoute("POST", "app/*/auth/providers/*/login", (*call).login),
	newRoute("GET", "app/*/auth/providers/anon-user/login", (*call).loginByGet),
	newUserpassRoute("register", (*call).register),
	newUserpassRoute("confirm", (*call).confirm),
	newUserpassRoute("confirm/send", (*call).sendConfirmation),
	newUserpassRoute("confirm/call", (*call).callConfirmation),
	newUserpassRoute("reset", (*call).reset),
	newUserpassRoute("reset/send", (*call).sendReset),
	newUserpassRoute("reset/call", (*call).callReset),
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
	// A key ID that is empty leaves two slashes, which count as one.
	newRoute("PUT", "auth/api_keys/enable", (*call).nameNoKey),
	newRoute("PUT", "auth/api_keys/disable", (*call).nameNoKey),
}

// takes reports whether the route answers requests with a method. A HEAD is answered as a GET, and
// net/http leaves out the body.
func (rt *route) takes(method string) bool {
	return method == rt.method || method == http.MethodHead && rt.method == http.MethodGet
}

// match returns the segments of path that the asterisks of the pattern stand for.
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
		// Deferred, because a request whose connection a fault drops is logged, too.
		h.logRequest(c, rec.status, time.Since(start))
	}()
	defer c.recover()
	h.allowOrigin(rec, r)
	// The hosted service sent this, too.
	rec.Header().Set("Cache-Control", "no-cache, no-store, must-revalidate")
	rec.Header().Set("X-Appservices-Request-Id", c.requestID)
	if h.faults.intercept(c) {
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

// recover answers a panic with status 500. It panics again if the reply has begun, or if the
// connection is to be dropped.
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
	c.refuse(because(errInternal, "panic"))
}

// dispatch finds the app and the route of a request. It reads several slashes as one, because SDKs
// with a base URL that ends in a slash send two. A redirect would not do, since a POST would lose
// its body.
func (c *call) dispatch() (reply, error) {
	path := collapse(c.r.URL.EscapedPath())
	if i := strings.LastIndex(path, prefix+"/"); i > 0 {
		return reply{}, c.errBasePath(path[:i])
	}
	path, ok := strings.CutPrefix(path, prefix+"/")
	if !ok {
		return c.outside(path)
	}
	segments := strings.Split(path, "/")
	for i, s := range segments { // an ID can contain an escaped slash
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
		if rt.takes(c.r.Method) {
			c.params = params
			return rt.answer(c)
		}
		if allowed = append(allowed, rt.method); rt.method == http.MethodGet {
			allowed = append(allowed, http.MethodHead)
		}
	}
	if e := findMissing(c.r.Method, segments); e != nil {
		return reply{}, e
	}
	if allowed != nil {
		c.w.Header().Set("Allow", strings.Join(allowed, ", "))
		return reply{}, errMethod
	}
	return reply{}, errNotFound
}

// collapse replaces each run of slashes by one slash. A slash at the end stays, because an empty ID
// follows it.
func collapse(path string) string {
	for strings.Contains(path, "//") {
		path = strings.ReplaceAll(path, "//", "/")
	}
	return path
}

func (c *call) send(rep reply) {
	switch body := rep.body.(type) {
	case nil:
		c.w.WriteHeader(rep.status)
		return
	case page:
		c.sendPage(rep.status, body)
		return
	}
	body, err := json.Marshal(rep.body)
	if err != nil {
		c.refuse(err)
		return
	}
	header := c.w.Header()
	header.Set("Content-Type", "application/json") // the C++ core accepts no other spelling
	header.Set("Content-Length", strconv.Itoa(len(body)))
	c.w.WriteHeader(rep.status)
	_, _ = c.w.Write(body) // a client that has left gets no answer
}

// An errorBody is an error in the form of the hosted service.
type errorBody struct {
	Error string `json:"error,omitempty"` // empty only in the answer of a fault
	Code  string `json:"error_code,omitempty"`
	Link  string `json:"link"`
}

func (c *call) refuse(err error) {
	e, known := refusalOf(err)
	c.code, c.reason = e.code, reasonOf(err)
	if !known {
		c.h.log.ErrorContext(c.ctx(), "internal error", "error", err, "request_id", c.requestID)
	}
	if e.after > 0 {
		c.w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(e.after.Seconds()))))
	}
	c.record(e.status)
	if e.missing != "" {
		c.h.noteMissing(c, e.missing)
	}
	if e.bare && !c.h.opts.ExplainForbidden {
		c.send(reply{status: e.status})
		return
	}
	body := errorBody{Error: e.text, Code: e.code, Link: c.logLink()}
	if c.h.opts.OldTexts && e.old != "" {
		body.Error = e.old
	}
	switch {
	case e.form == formPage && asksForPage(c.r):
		c.send(reply{e.status, page{Title: http.StatusText(e.status), Text: body.Error, Link: body.Link}})
	case e.form == formGraphQL:
		c.send(reply{e.status, graphQLBody(body)})
	default:
		c.send(reply{e.status, body})
	}
}

// logLink returns the link to the service's log of the request. SDKs show the link, and their test
// suites check its form.
func (c *call) logLink() string {
	group, app := deriveID(nilDomain, "group"), deriveID(nilDomain, "app")
	if c.app != nil {
		group, app = c.app.groupID, c.app.id
	}
	return fmt.Sprintf("%s/groups/%s/apps/%s/logs?co_id=%s", c.baseURL(), group, app, c.requestID)
}

// A recorder keeps the status of the reply for the log.
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

// Unwrap serves [http.ResponseController].
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

func (h *Handler) logRequest(c *call, status int, took time.Duration) {
	if !h.log.Enabled(c.ctx(), slog.LevelInfo) {
		return
	}
	attrs := []slog.Attr{
		slog.String("method", loggable.Text(c.r.Method)),
		slog.String("path", loggable.Text(c.r.URL.Path)),
		slog.Int("status", status),
		slog.Duration("duration", took),
		slog.String("remote", h.remote(c.r).String()),
		slog.String("request_id", c.requestID),
	}
	if c.code != "" {
		attrs = append(attrs, slog.String("error_code", loggable.Text(c.code)))
	}
	if c.reason != "" {
		attrs = append(attrs, slog.String("reason", loggable.Text(c.reason)))
	}
	h.log.LogAttrs(c.ctx(), slog.LevelInfo, "request", attrs...)
}

// newRequestID returns an ID that need not be secret. It does not read Options.InsecureRand, so
// that the IDs that last do not depend on the number of requests.
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

// newObjectID returns an ID: the present time in seconds, then random bytes.
func (h *Handler) newObjectID() string {
	b := binary.BigEndian.AppendUint32(make([]byte, 0, objectIDSize), uint32(h.now().Unix()))
	return hexID(append(b, h.random(8)...))
}

// body reads the JSON document in the request's body, which may be empty.
func (c *call) body() (document, error) {
	if encoding := c.r.Header.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return nil, errBodyEncoded
	}
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
