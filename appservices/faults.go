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

// A Fault makes some requests wait or fail, to see how an app bears it. [Handler.AddFault] puts it in force. What it does
// comes in this order: Delay, and then Drop or Status; without either of these the request goes on.
//
// In JSON the fields have their names in lower case, with '_' between words, and a delay is a string such as "250ms".
type Fault struct {
	// Method is the method of the requests that it is for, such as "POST". The default is any but OPTIONS, which a browser
	// sends by itself.
	Method string `json:"method,omitempty"`

	// Path is what comes behind /api/client/v2.0 in the requests that it is for, as a pattern of [path.Match], such as
	// "/auth/api_keys/*". A last element "**" is for all that can follow, and for nothing. The default is any.
	Path string `json:"path,omitempty"`

	// AppID is the app that the requests are for. Requests whose path names no app, those below /auth, are told by the
	// token that they carry. The default is any.
	AppID string `json:"app_id,omitempty"`

	// From, To and Every choose among the requests that match, which are counted from 1: those from From to To, and of
	// these the first, and each Every-th after it. By default it is from the first, to no end, and every one. For the third
	// request alone, From and To are 3.
	From  int `json:"from,omitempty"`
	To    int `json:"to,omitempty"`
	Every int `json:"every,omitempty"`

	// Delay is how long the request waits before anything else happens to it, or until its client leaves.
	Delay time.Duration `json:"-"` // MarshalJSON writes it

	// Drop closes the connection without an answer. Some HTTP clients quietly send the request once more when that happens,
	// Chromium even a POST, and it is counted again.
	Drop bool `json:"drop,omitempty"`

	// Status answers with a status from 400 to 599, and the error in the service's form. Without ErrorCode and Error there
	// is no body.
	Status    int    `json:"status,omitempty"`
	ErrorCode string `json:"error_code,omitempty"` // such as "InternalServerError"
	Error     string `json:"error,omitempty"`      // the text
}

// FaultCount is a fault that is in force, and what it has done.
type FaultCount struct {
	Fault   Fault `json:"fault"`
	Matched int   `json:"matched"` // requests that it could have been for
	Fired   int   `json:"fired"`   // those that it was for
}

// AddFault puts a fault in force, beside those that are. Each of them counts every request that matches it; the delays of
// all that fire add up, and the first of them that drops or answers the request ends it. It returns [ErrInvalidFault].
func (h *Handler) AddFault(f Fault) error {
	if err := f.validate(); err != nil {
		return err
	}
	h.faults.mu.Lock()
	defer h.faults.mu.Unlock()
	h.faults.handler = h
	h.faults.all = append(h.faults.all, FaultCount{Fault: f})
	return nil
}

// ClearFaults ends all faults. A request that waits already goes on waiting.
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
		wrong = "a count is negative"
	case f.To != 0 && f.To < f.From:
		wrong = "it ends before it begins"
	case f.Delay < 0:
		wrong = "its delay is negative"
	case f.Status != 0 && (f.Status < 400 || f.Status > 599):
		wrong = "its status is not from 400 to 599"
	case f.Status == 0 && (f.ErrorCode != "" || f.Error != ""):
		wrong = "an error needs a status"
	case f.Drop && f.Status != 0:
		wrong = "a dropped connection has no status"
	case !f.Drop && f.Status == 0 && f.Delay == 0:
		wrong = "it does nothing: give it a delay, a status, or drop"
	}
	if wrong == "" {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrInvalidFault, wrong)
}

// matches tells whether f could be for a request.
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

// requestedApp is the app that a request is for, by its path or else by its token.
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

// checkPattern tells what is wrong with a path's pattern, if anything is.
func checkPattern(pattern string) string {
	if pattern == "" {
		return ""
	}
	elements := strings.Split(pattern, "/")
	if elements[0] != "" {
		return "its path does not begin with '/'"
	}
	for i, element := range elements {
		if _, err := path.Match(element, ""); err != nil {
			return "its path is no pattern"
		}
		if element == "**" && i < len(elements)-1 {
			return "its path goes on behind \"**\""
		}
	}
	return ""
}

// isFor tells whether f is for the n-th request that matches.
func (f *Fault) isFor(n int) bool {
	from := max(f.From, 1)
	return n >= from && (f.To == 0 || n <= f.To) && (n-from)%max(f.Every, 1) == 0
}

// faultList is the faults in force.
type faultList struct {
	mu      sync.Mutex
	handler *Handler // whose they are, once there was one
	all     []FaultCount
}

// take counts a request, and returns how long it has to wait and what ends it, if anything does.
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

// intercept does to a request what the faults say, and reports whether that was all. It does not return when the
// connection is to be dropped.
func (l *faultList) intercept(w http.ResponseWriter, r *http.Request) (done bool) {
	delay, end := l.take(r)
	if delay > 0 {
		l.wait(w, r, delay)
	}
	switch {
	case end == nil:
		return false
	case end.Drop:
		panic(http.ErrAbortHandler)
	}
	c := &call{h: l.handler, r: r, w: w, requestID: w.Header().Get("X-Appservices-Request-Id")}
	if end.ErrorCode == "" && end.Error == "" {
		c.send(reply{status: end.Status})
	} else {
		c.send(reply{end.Status, errorBody{Error: end.Error, Code: end.ErrorCode, Link: c.logLink()}})
	}
	return true
}

// wait waits for d, or until the client has left.
func (l *faultList) wait(w http.ResponseWriter, r *http.Request, d time.Duration) {
	deferReply(w, r, d)
	// The server notices that a client has left when the body was read, if it is not longer than the handler reads.
	body, _ := io.ReadAll(io.LimitReader(r.Body, l.handler.opts.maxBody()+1))
	r.Body = io.NopCloser(bytes.NewReader(body))

	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.Context().Done():
		panic(http.ErrAbortHandler) // nobody is there to be told anything
	}
}

// deferReply gives a reply that comes later by d as much time as the server gives it otherwise. HTTP/2 ends a request in
// the middle of the wait if it is not told before.
func deferReply(w http.ResponseWriter, r *http.Request, d time.Duration) {
	srv, _ := r.Context().Value(http.ServerContextKey).(*http.Server)
	if srv == nil || srv.WriteTimeout <= 0 {
		return
	}
	// What w cannot set, it does not have.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(d).Add(srv.WriteTimeout))
}

// plainFault is a Fault as its tags describe it: without its methods, and without its delay.
type plainFault Fault

// writtenFault is a Fault as JSON has it.
type writtenFault struct {
	plainFault
	Delay duration `json:"delay,omitempty"`
}

// MarshalJSON writes a fault with its delay.
func (f Fault) MarshalJSON() ([]byte, error) {
	return json.Marshal(writtenFault{plainFault(f), duration(f.Delay)})
}

// UnmarshalJSON reads what MarshalJSON writes. It returns [ErrInvalidFault], also for a field that it does not know, since
// a mistyped name would go unnoticed.
func (f *Fault) UnmarshalJSON(data []byte) error {
	var w writtenFault
	if err := decodeStrictly(data, &w); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalidFault, err)
	}
	*f = Fault(w.plainFault)
	f.Delay = time.Duration(w.Delay)
	return nil
}

// A duration is a string such as "250ms" in JSON.
type duration time.Duration

func (d duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

func (d *duration) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*d = 0
		return nil
	}
	parsed, err := time.ParseDuration(string(text))
	if err != nil {
		return errors.New("the delay is no duration such as \"250ms\"")
	}
	*d = duration(parsed)
	return nil
}

// decodeStrictly reads one JSON value and no unknown fields.
func decodeStrictly(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("there is more behind its end")
	}
	return nil
}
