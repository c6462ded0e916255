package admin

import (
	"errors"
	"log/slog"
	"net/http"
	"path"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/hide"
	"github.com/latchkeydb/latchkey/internal/loggable"
)

// The messages in the log. docs/admin.md lists their attributes.
const (
	logDone   = "administered"
	logFailed = "administration failed"
)

// A statusWriter remembers the status of an answer.
type statusWriter struct {
	http.ResponseWriter
	status int // 0 before the answer
}

func (w *statusWriter) WriteHeader(status int) {
	if w.status == 0 && status >= 200 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(p)
}

// Unwrap is for [http.ResponseController].
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// logDone logs a request that was carried out, unless the request only reads. A request for secrets
// is logged, too. The line names users and keys by their IDs alone.
func (c *call) logDone(w *statusWriter, secret bool) {
	reads := c.r.Method == http.MethodGet || c.r.Method == http.MethodHead
	if c.opts.Logger == nil || reads && !secret || c.dry || w.status == 0 || w.status >= 400 {
		return
	}
	attrs := []slog.Attr{
		slog.String("actor", loggable.Text(c.caller.Actor)), slog.String("method", c.r.Method),
		slog.String("route", c.r.Pattern), slog.Int("status", w.status),
	}
	// The ID of a new user or key is in Location, and any other ID is in the path.
	for _, text := range []string{path.Base(w.Header().Get("Location")), c.r.PathValue("key"), c.r.PathValue("user")} {
		if id, err := parseID(text); err == nil {
			attrs = append(attrs, slog.String("id", id.String()))
			break
		}
	}
	c.opts.Logger.LogAttrs(c.r.Context(), slog.LevelInfo, logDone, attrs...)
}

// logFailed logs a request that failed by no fault of its sender.
func (c *call) logFailed(p *Problem, err error) {
	if c.opts.Logger == nil || p.Status < 500 || errors.Is(err, latchkey.ErrBusy) || c.r.Context().Err() != nil {
		return
	}
	c.opts.Logger.LogAttrs(c.r.Context(), slog.LevelError, logFailed,
		slog.String("actor", loggable.Text(c.caller.Actor)), slog.String("method", loggable.Text(c.r.Method)),
		slog.String("route", c.r.Pattern), slog.Int("status", p.Status), slog.String("reason", loggable.Text(hide.Tokens(err.Error()))))
}
