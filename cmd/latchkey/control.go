package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/latchkeydb/latchkey/appservices"
	"github.com/latchkeydb/latchkey/internal/loopback"
)

// controlPath is the prefix of the control endpoint's paths. No path of the client API begins with
// it.
const controlPath = "/.latchkey/control/"

// control answers requests to the control endpoint, and passes all other requests to handler.
type control struct {
	handler *appservices.Handler
	clock   *appservices.Clock
	log     *slog.Logger
	mux     *http.ServeMux
}

// newControl returns the control endpoint for h and clock. clock must be the clock of h.
func newControl(h *appservices.Handler, clock *appservices.Clock, log *slog.Logger) *control {
	c := &control{handler: h, clock: clock, log: log, mux: http.NewServeMux()}
	c.mux.HandleFunc("GET "+controlPath+"faults", c.showFaults)
	c.mux.HandleFunc("POST "+controlPath+"faults", c.addFault)
	c.mux.HandleFunc("DELETE "+controlPath+"faults", c.clearFaults)
	c.mux.HandleFunc("GET "+controlPath+"clock", c.showClock)
	c.mux.HandleFunc("POST "+controlPath+"clock", c.moveClock)
	return c
}

func (c *control) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !strings.HasPrefix(r.URL.Path, controlPath) {
		c.handler.ServeHTTP(w, r)
		return
	}
	// The log has the pattern, because the path may contain anything, also a token.
	_, pattern := c.mux.Handler(r)
	c.log.InfoContext(r.Context(), "control", "method", fmt.Sprintf("%.20s", r.Method), "pattern", pattern, "remote", r.RemoteAddr)
	err := loopback.Check(r)
	switch {
	case err != nil:
	case r.Header.Get("Sec-Fetch-Site") != "":
		err = errors.New("refuses requests of browsers")
	case !strings.HasPrefix(r.URL.EscapedPath(), controlPath):
		// A proxy's rule may know only the plain path.
		err = errors.New("can only be reached by its plain path")
	}
	if err != nil {
		reply(w, http.StatusForbidden, controlError{"the control endpoint " + err.Error()})
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
	c.mux.ServeHTTP(w, r)
}

type controlError struct {
	Error string `json:"error"`
}

func reply(w http.ResponseWriter, status int, doc any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = writeJSON(w, doc)
}

// readJSON reads the body of r into v, and reports whether it could. If not, readJSON has answered
// the request with the reason.
func readJSON(w http.ResponseWriter, r *http.Request, v any) bool {
	body, err := io.ReadAll(r.Body)
	if err == nil {
		d := json.NewDecoder(bytes.NewReader(body))
		d.DisallowUnknownFields()
		err = d.Decode(v)
		if _, more := d.Token(); err == nil && more != io.EOF {
			err = errors.New("there is more after the end of the JSON object")
		}
	}
	if err != nil {
		reply(w, http.StatusBadRequest, controlError{err.Error()})
	}
	return err == nil
}

func (c *control) showFaults(w http.ResponseWriter, _ *http.Request) {
	faults := c.handler.Faults()
	if faults == nil {
		faults = []appservices.FaultCount{}
	}
	reply(w, http.StatusOK, struct {
		Faults []appservices.FaultCount `json:"faults"`
	}{faults})
}

func (c *control) addFault(w http.ResponseWriter, r *http.Request) {
	var f appservices.Fault
	if !readJSON(w, r, &f) {
		return
	}
	if err := c.handler.AddFault(f); err != nil {
		reply(w, http.StatusBadRequest, controlError{err.Error()})
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (c *control) clearFaults(w http.ResponseWriter, _ *http.Request) {
	c.handler.ClearFaults()
	w.WriteHeader(http.StatusNoContent)
}

func (c *control) showClock(w http.ResponseWriter, _ *http.Request) {
	reply(w, http.StatusOK, struct {
		Now     time.Time `json:"now"`
		Running bool      `json:"running"`
	}{c.clock.Now(), c.clock.Running()})
}

// The times that the IDs of App Services can contain, in whole years. See [appservices.Clock].
var (
	clockBegin = time.Unix(0, 0)
	clockEnd   = time.Date(2106, 1, 1, 0, 0, 0, 0, time.UTC)
)

func (c *control) moveClock(w http.ResponseWriter, r *http.Request) {
	var move struct {
		Set     *time.Time `json:"set"`
		Advance string     `json:"advance"`
		Running *bool      `json:"running"`
	}
	if !readJSON(w, r, &move) {
		return
	}
	by, err := time.ParseDuration(move.Advance)
	if move.Advance != "" && (err != nil || move.Set != nil) {
		reply(w, http.StatusBadRequest, controlError{`"advance" must be a duration such as "31m", and cannot be used together with "set"`})
		return
	}
	to := c.clock.Now()
	if move.Set != nil {
		to = *move.Set
	}
	if to = to.Add(by); to.Before(clockBegin) || !to.Before(clockEnd) {
		reply(w, http.StatusBadRequest, controlError{"the time of the clock must be from 1970 to the end of 2105"})
		return
	}
	if move.Running != nil && !*move.Running {
		c.clock.Stop() // before Set, because a running clock goes on from the time it is set to
	}
	if move.Set != nil {
		c.clock.Set(*move.Set)
	}
	c.clock.Advance(by)
	if move.Running != nil && *move.Running {
		c.clock.Run()
	}
	c.showClock(w, r)
}
