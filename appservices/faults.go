package appservices

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"time"
)

// A Fault delays some requests or makes them fail, so that a test sees how an app copes with that.
// Use [Handler.AddFault] to put a fault in force. A fault first waits for Delay. Then Drop or
// Status ends the request. Without Drop and Status the request goes on.
//
// In JSON the names of the fields are in lower case, with '_' between words, and the delay is a
// string such as "250ms".
type Fault struct {
	// Method is the method of the matching requests, such as "POST". The default is any method but
	// OPTIONS, which browsers send by themselves.
	Method string `json:"method,omitempty"`

	// Path is a pattern of [path.Match] for the rest of the path after /api/client/v2.0, such as
	// "/auth/api_keys/*". If its last element is "**", any number of elements can follow, including
	// none. The default is any path.
	Path string `json:"path,omitempty"`

	// AppID is the app ID of the matching requests. For a request below /auth, whose path has no
	// app ID, the app ID comes from the token. The default is any app.
	AppID string `json:"app_id,omitempty"`

	// From, To and Every choose among the matching requests, which are counted from 1. The fault is
	// for request From and every Every-th request after it, but for none after request To. By
	// default, From and Every are 1, and To is no limit. To choose the third request alone, set
	// From and To to 3.
	From  int `json:"from,omitempty"`
	To    int `json:"to,omitempty"`
	Every int `json:"every,omitempty"`

	// Delay is how long the request waits before anything else happens. The wait ends early if the
	// client leaves.
	Delay time.Duration `json:"-"`

	// Drop closes the connection without an answer. After that, some HTTP clients send the request
	// again without telling the program. Chromium does so even with a POST. The repeated request
	// counts, too.
	Drop bool `json:"drop,omitempty"`

	// Status is the status of the answer, from 400 to 599. The answer has an error in the service's
	// form, or no body if ErrorCode and Error are both empty.
	Status    int    `json:"status,omitempty"`
	ErrorCode string `json:"error_code,omitempty"` // such as "InternalServerError"
	Error     string `json:"error,omitempty"`      // the text
}

// A FaultCount is a fault in force, and the numbers of requests that it met.
type FaultCount struct {
	Fault   Fault `json:"fault"`
	Matched int   `json:"matched"` // requests that match by method, path and app
	Fired   int   `json:"fired"`   // among these, the requests that From, To and Every choose
}

// AddFault puts a fault in force, beside the faults that are in force already. Each fault counts
// every request that matches it. If several faults are for the same request, their delays add up,
// and the first fault with Drop or Status ends the request.
//
// Errors: [ErrInvalidFault].
func (h *Handler) AddFault(f Fault) error {
	if err := f.validate(); err != nil {
		return err
	}
	h.faults.mu.Lock()
	defer h.faults.mu.Unlock()
	h.faults.all = append(h.faults.all, FaultCount{Fault: f})
	return nil
}

// ClearFaults removes all faults. Requests that are waiting already go on waiting.
func (h *Handler) ClearFaults() {
	h.faults.mu.Lock()
	defer h.faults.mu.Unlock()
	h.faults.all = nil
}

// Faults returns the faults in force, in the order in which they were added.
func (h *Handler) Faults() []FaultCount {
	h.faults.mu.Lock()
	defer h.faults.mu.Unlock()
	return slices.Clone(h.faults.all)
}

func (f *Fault) validate() error {
	wrong := checkPattern(f.Path)
	switch {
	case wrong != "":
	case f.From < 0 || f.To < 0 || f.Every < 0:
		wrong = "from, to and every must not be negative"
	case f.To != 0 && f.To < f.From:
		wrong = "to must not be less than from"
	case f.Delay < 0:
		wrong = "the delay must not be negative"
	case f.Status != 0 && (f.Status < 400 || f.Status > 599):
		wrong = "the status must be from 400 to 599"
	case f.Status == 0 && (f.ErrorCode != "" || f.Error != ""):
		wrong = "an error or an error code needs a status"
	case f.Drop && f.Status != 0:
		wrong = "drop and a status exclude each other"
	case !f.Drop && f.Status == 0 && f.Delay == 0:
		wrong = "it does nothing: give it a delay, a status, or drop"
	}
	if wrong == "" {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrInvalidFault, wrong)
}

// matches reports whether r has the method, the path and the app ID of f.
func (f *Fault) matches(r *http.Request) bool {
	rest, ok := strings.CutPrefix(collapse(r.URL.Path), prefix)
	switch {
	case !ok || f.Path != "" && !matchPath(f.Path, rest):
		return false
	case f.Method == "" && r.Method == http.MethodOptions || f.Method != "" && f.Method != r.Method:
		return false
	}
	return f.AppID == "" || f.AppID == requestedApp(r, rest)
}

// requestedApp returns the app ID of a request, from its path or else from its token.
func requestedApp(r *http.Request, rest string) string {
	if behind, ok := strings.CutPrefix(rest, "/app/"); ok {
		appID, _, _ := strings.Cut(behind, "/")
		return appID
	}
	return tokenAppID(r)
}

func matchPath(pattern, rest string) bool {
	want, have := strings.Split(pattern, "/"), strings.Split(rest, "/")
	for i, element := range want {
		if element == "**" {
			return true
		}
		if i >= len(have) {
			return false
		}
		if ok, _ := path.Match(element, have[i]); !ok {
			return false
		}
	}
	return len(want) == len(have)
}

// checkPattern returns what is wrong with a path's pattern, or nothing.
func checkPattern(pattern string) string {
	if pattern == "" {
		return ""
	}
	elements := strings.Split(pattern, "/")
	if elements[0] != "" {
		return "the path must begin with '/'"
	}
	for i, element := range elements {
		if _, err := path.Match(element, ""); err != nil {
			return "the path is not a valid pattern"
		}
		if element == "**" && i < len(elements)-1 {
			return "the element \"**\" must be the last of the path"
		}
	}
	return ""
}

// isFor reports whether f is for the n-th matching request.
func (f *Fault) isFor(n int) bool {
	from := max(f.From, 1)
	return n >= from && (f.To == 0 || n <= f.To) && (n-from)%max(f.Every, 1) == 0
}

// A faultList holds the faults in force.
type faultList struct {
	mu  sync.Mutex
	all []FaultCount
}

// take counts a request. It returns how long the request has to wait, and the fault that ends the
// request, if there is one.
func (l *faultList) take(r *http.Request) (delay time.Duration, end *Fault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.all {
		c := &l.all[i]
		if !c.Fault.matches(r) {
			continue
		}
		c.Matched++
		if !c.Fault.isFor(c.Matched) {
			continue
		}
		c.Fired++
		delay += c.Fault.Delay
		if f := c.Fault; end == nil && (f.Drop || f.Status != 0) {
			end = &f
		}
	}
	return delay, end
}

// intercept applies the faults to a request, and reports whether they have answered it. It panics
// with [http.ErrAbortHandler] to drop the connection.
func (l *faultList) intercept(c *call) (done bool) {
	delay, end := l.take(c.r)
	if delay > 0 {
		c.reason = "the client left while a fault made it wait"
		c.wait(delay)
		c.reason = ""
	}
	switch {
	case end == nil:
		return false
	case end.Drop:
		c.reason = "a fault dropped the connection"
		panic(http.ErrAbortHandler)
	}
	c.code, c.reason = end.ErrorCode, "a fault answered"
	c.record(end.Status)
	if end.ErrorCode == "" && end.Error == "" {
		c.send(reply{status: end.Status})
	} else {
		c.send(reply{end.Status, errorBody{Error: end.Error, Code: end.ErrorCode, Link: c.logLink()}})
	}
	return true
}

// wait waits until d has passed or the client has left.
func (c *call) wait(d time.Duration) {
	deferReply(c.w, c.r, d)
	// The server notices that a client has left only after the body was read. The limit is one byte
	// more than the handler accepts, so that a body that is too long is still refused later.
	body, _ := io.ReadAll(io.LimitReader(c.r.Body, c.h.opts.maxBody()+1))
	c.r.Body = io.NopCloser(bytes.NewReader(body))

	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-c.ctx().Done():
		panic(http.ErrAbortHandler) // nobody is left to read an answer
	}
}

// deferReply moves the deadline of the reply by d, because a server with a WriteTimeout would
// otherwise end the request during the wait.
func deferReply(w http.ResponseWriter, r *http.Request, d time.Duration) {
	srv, _ := r.Context().Value(http.ServerContextKey).(*http.Server)
	if srv == nil || srv.WriteTimeout <= 0 {
		return
	}
	// An error means that w has no deadline that would have to move.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(d).Add(srv.WriteTimeout))
}

// A plainFault is a Fault without methods, which encoding/json writes by the tags of its fields.
type plainFault Fault

// A writtenFault is a Fault in the form that it has in JSON.
type writtenFault struct {
	plainFault
	Delay duration `json:"delay,omitempty"`
}

// MarshalJSON writes the fault with its delay as a string such as "250ms".
func (f Fault) MarshalJSON() ([]byte, error) {
	return json.Marshal(writtenFault{plainFault(f), duration(f.Delay)})
}

// UnmarshalJSON reads what MarshalJSON writes. It refuses unknown fields, so that a mistyped name
// does not go unnoticed.
//
// Errors: [ErrInvalidFault].
func (f *Fault) UnmarshalJSON(data []byte) error {
	var w writtenFault
	if err := decodeStrictly(data, &w); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalidFault, err)
	}
	*f = Fault(w.plainFault)
	f.Delay = time.Duration(w.Delay)
	return nil
}

// A duration is a time.Duration that is a string such as "250ms" in JSON.
type duration time.Duration

func (d duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

func (d *duration) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*d = 0
		return nil
	}
	parsed, err := time.ParseDuration(string(text))
	if err != nil {
		return errors.New("the delay must be a duration such as \"250ms\"")
	}
	*d = duration(parsed)
	return nil
}

// decodeStrictly reads exactly one JSON value, and refuses unknown fields.
func decodeStrictly(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("there is more after the end of the JSON value")
	}
	return nil
}
