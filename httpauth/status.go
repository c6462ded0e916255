package httpauth

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/loggable"
)

// An outcome says how a request is answered whose check ended with an error.
type outcome struct {
	err    error
	status int
	code   string        // the error in the header WWW-Authenticate (RFC 6750, section 3.1)
	retry  time.Duration // the time in the header Retry-After; 0 for no such header
}

// outcomes is the table in the comment of the package and in docs/http.md. An error that is not in
// the table is unavailable.
var outcomes = []outcome{
	{err: errNoToken, status: http.StatusUnauthorized},
	{err: errTwoTokens, status: http.StatusBadRequest, code: "invalid_request"},
	{err: errBearer, status: http.StatusBadRequest, code: "invalid_request"},
	{err: errBasic, status: http.StatusBadRequest, code: "invalid_request"},
	{err: latchkey.ErrInvalidToken, status: http.StatusUnauthorized, code: "invalid_token"},
	{err: latchkey.ErrKeyDisabled, status: http.StatusUnauthorized, code: "invalid_token"},
	{err: latchkey.ErrKeyExpired, status: http.StatusUnauthorized, code: "invalid_token"},
	{err: latchkey.ErrUserDisabled, status: http.StatusUnauthorized, code: "invalid_token"},
	{err: latchkey.ErrGroupDisabled, status: http.StatusUnauthorized, code: "invalid_token"},
	{err: errScope, status: http.StatusForbidden, code: "insufficient_scope"},
	{err: latchkey.ErrNetworkNotAllowed, status: http.StatusForbidden},
	{err: errLimit, status: http.StatusTooManyRequests}, // the error has the time
	{err: latchkey.ErrBusy, status: http.StatusServiceUnavailable, retry: time.Second},
}

// unavailable is the outcome of an error that says nothing about the request. Five seconds are long
// enough for a store that is opened again.
var unavailable = outcome{status: http.StatusServiceUnavailable, retry: 5 * time.Second}

func outcomeOf(err error) outcome {
	for _, o := range outcomes {
		if errors.Is(err, o.err) {
			return o
		}
	}
	return unavailable
}

var (
	errScope = errors.New("the key does not have the scope")
	errLimit = errors.New("too many requests")
)

// A scopeError is an errScope.
type scopeError struct {
	missing string // the scope that the key does not have
	asked   string // all scopes that the handler asks for, with blanks between them
}

func (e *scopeError) Error() string        { return errScope.Error() + " " + e.missing }
func (e *scopeError) Is(target error) bool { return target == errScope }

// A limitError is an errLimit.
type limitError struct {
	reason string
	wait   time.Duration
}

func (e *limitError) Error() string        { return e.reason }
func (e *limitError) Is(target error) bool { return target == errLimit }

// Status returns the status for a request whose login failed with err, by the table in the comment
// of the package. It is for programs that call [latchkey.Store.Login] themselves. Status returns
// 200 for nil.
func Status(err error) int {
	if err == nil {
		return http.StatusOK
	}
	return outcomeOf(err).status
}

// refuse answers a request that does not pass.
func (a *Auth) refuse(w http.ResponseWriter, r *http.Request, err error) {
	status, text := a.Refusal(w.Header(), r, err)
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	fmt.Fprintln(w, text)
}

// Refusal returns the status for a request that [Auth.Login] has refused with err, and what the
// caller may be told. It sets the headers of a refusal in h: Cache-Control, WWW-Authenticate and
// Retry-After. It writes the line of [Options].Logger. The program writes the answer.
func (a *Auth) Refusal(h http.Header, r *http.Request, err error) (status int, reason string) {
	o := outcomeOf(err)
	h.Set("Cache-Control", "no-store")
	if o.code != "" || o.status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", a.challenge(o.code, err))
	}
	if a.opts.Basic && o.status == http.StatusUnauthorized {
		h.Add("WWW-Authenticate", "Basic realm="+quote(a.opts.Realm))
	}
	var limit *limitError
	if errors.As(err, &limit) {
		o.retry = limit.wait
	}
	if o.retry > 0 {
		h.Set("Retry-After", seconds(o.retry))
	}
	a.log(r, o.status, err)
	return o.status, text(o, err)
}

// text returns what the caller is told: the reason, unless the reason is not the caller's business.
// The store's errors have IDs in them, so text returns only what is in the table.
func text(o outcome, err error) string {
	switch {
	case o.status == http.StatusServiceUnavailable:
		return http.StatusText(o.status)
	case o.err == errScope || o.err == errLimit:
		return err.Error()
	}
	return o.err.Error()
}

// challenge returns the value of WWW-Authenticate that says how to send a token. code may be empty.
func (a *Auth) challenge(code string, err error) string {
	c := "Bearer realm=" + quote(a.opts.Realm)
	if code != "" {
		c += ", error=" + quote(code)
	}
	var scope *scopeError
	if errors.As(err, &scope) {
		c += ", scope=" + quote(scope.asked)
	}
	return c
}

// quote returns s as a quoted string of HTTP (RFC 9110, section 5.6.4).
func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// seconds returns a time in whole seconds, rounded up.
func seconds(d time.Duration) string {
	return strconv.FormatInt(int64((d+time.Second-1)/time.Second), 10)
}

// log logs a refusal.
func (a *Auth) log(r *http.Request, status int, err error) {
	if a.opts.Logger == nil {
		return
	}
	level := slog.LevelInfo
	if status == http.StatusServiceUnavailable && !errors.Is(err, latchkey.ErrBusy) && r.Context().Err() == nil {
		level = slog.LevelError
	}
	a.opts.Logger.LogAttrs(r.Context(), level, "request refused",
		slog.Int("status", status), slog.String("address", a.address(r).String()),
		slog.String("method", loggable.Text(r.Method)), slog.String("path", loggable.Text(r.URL.Path)), slog.String("reason", err.Error()))
}
