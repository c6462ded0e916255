package replica

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/replication"
)

// The bounds of requests.
const (
	maxJoin    = 4 << 10
	maxHello   = 64 << 10
	maxPush    = 4 << 20 // also of a comparison, without compression
	readTime   = time.Minute
	writeTime  = time.Minute // of a batch
	secondsOff = "5"         // a client that is told to come back later waits so many seconds
)

// ServeHTTP serves the requests of edges. docs/replication.md has them.
func (h *Hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		h.refuse(w, r, http.StatusMethodNotAllowed, codeRequest, "the method is POST")
		return
	}
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(readTime)) // a server without deadlines has its own
	_ = control.SetWriteDeadline(time.Now().Add(2*readTime + writeTime))
	// Later requests on the connection may be for other handlers.
	defer func() { _ = control.SetWriteDeadline(time.Time{}) }()
	var err error
	switch r.URL.Path {
	case pathJoin:
		err = h.serveJoin(w, r)
	case pathRenew:
		err = h.serveRenew(w, r)
	case pathPull:
		err = h.servePull(w, r, control)
	case pathPush:
		err = h.servePush(w, r)
	case pathCompare:
		err = h.serveCompare(w, r)
	default:
		h.refuse(w, r, http.StatusNotFound, codeRequest, "there is nothing at this path")
		return
	}
	if err != nil {
		h.refuseFor(w, r, err)
	}
}

// errRequest means that a request is not as it should be.
var errRequest = errors.New("bad request")

// An outcome says how a request is answered that ended with an error.
type outcome struct {
	err    error
	status int
	code   string
}

var outcomes = []outcome{
	{ErrInvitation, http.StatusForbidden, codeInvitation},
	{ErrRevoked, http.StatusForbidden, codeRevoked},
	{ErrUnknownEdge, http.StatusUnauthorized, codeUnknown},
	{replication.ErrUnknownEdge, http.StatusUnauthorized, codeUnknown},
	{latchkey.ErrInvalidToken, http.StatusUnauthorized, codeUnknown},
	{latchkey.ErrKeyExpired, http.StatusUnauthorized, codeExpired},
	{latchkey.ErrKeyDisabled, http.StatusForbidden, codeRevoked},
	{latchkey.ErrGroupDisabled, http.StatusForbidden, codeRevoked},
	{latchkey.ErrNetworkNotAllowed, http.StatusForbidden, codeNetwork},
	{latchkey.ErrBusy, http.StatusServiceUnavailable, codeBusy},
	{replication.ErrFormat, http.StatusBadRequest, codeFormat},
	{replication.ErrNewer, http.StatusBadRequest, codeFormat},
	{replication.ErrMessage, http.StatusBadRequest, codeRequest},
	{latchkey.ErrInvalidOptions, http.StatusBadRequest, codeRequest},
	{errRequest, http.StatusBadRequest, codeRequest},
}

// refuseFor answers a request that ended with an error before anything was written.
func (h *Hub) refuseFor(w http.ResponseWriter, r *http.Request, err error) {
	for _, o := range outcomes {
		if errors.Is(err, o.err) {
			text := o.err.Error() // the text of err may say more than the other side may know
			if o.code == codeRequest || o.code == codeFormat {
				text = err.Error()
			}
			h.refuse(w, r, o.status, o.code, text)
			return
		}
	}
	if r.Context().Err() == nil && !errors.Is(err, latchkey.ErrClosed) {
		h.log(slog.LevelError, "the hub could not serve an edge", "path", r.URL.Path, "error", err)
	}
	h.refuse(w, r, http.StatusServiceUnavailable, codeUnavailable, "the hub cannot work now")
}

// refuse answers with an error.
func (h *Hub) refuse(w http.ResponseWriter, r *http.Request, status int, code, detail string) {
	if code != codeUnavailable {
		h.log(slog.LevelWarn, "the hub has refused a request", "path", r.URL.Path, "from", r.RemoteAddr, "code", code)
	}
	if status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", secondsOff)
	}
	w.Header().Set("Content-Type", typeJSON)
	w.Header().Del("Content-Encoding")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(answerError{Code: code, Detail: detail})
}

// bearer returns the token of a request.
//
// Errors: [latchkey.ErrInvalidToken].
func bearer(r *http.Request) (string, error) {
	values := r.Header.Values("Authorization")
	if len(values) != 1 {
		return "", latchkey.ErrInvalidToken
	}
	token, ok := strings.CutPrefix(values[0], "Bearer ")
	if !ok {
		return "", latchkey.ErrInvalidToken
	}
	return token, nil
}

// login returns the edge that has sent a request, and its token.
//
// Errors: those of [latchkey.Store.LoginFrom]; [latchkey.ErrInvalidToken] for a key without the
// scope.
func (h *Hub) login(ctx context.Context, r *http.Request) (edge uuid.UUID, token string, err error) {
	token, err = bearer(r)
	if err != nil {
		return edge, "", err
	}
	from, _ := netip.ParseAddrPort(r.RemoteAddr)
	edge, err = h.check(ctx, token, from.Addr())
	return edge, token, err
}

// check is login for a token that may be known already.
func (h *Hub) check(ctx context.Context, token string, from netip.Addr) (edge uuid.UUID, err error) {
	who, err := h.store.LoginFrom(ctx, token, from)
	if err != nil {
		return edge, err
	}
	if !who.ServerKey || !who.Scopes.Has(Scope) {
		return edge, latchkey.ErrInvalidToken
	}
	h.used(who.KeyID, token)
	return who.KeyID, nil
}

// readBody returns the body of a request, of at most most bytes without compression.
//
// Errors: errRequest; the network's error.
func readBody(w http.ResponseWriter, r *http.Request, contentType string, most int64) ([]byte, error) {
	if got, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || got != contentType {
		return nil, fmt.Errorf("%w: the Content-Type is %s", errRequest, contentType)
	}
	var body io.Reader = http.MaxBytesReader(w, r.Body, most)
	switch r.Header.Get("Content-Encoding") {
	case "":
	case "gzip":
		z, err := gzip.NewReader(body)
		if err != nil {
			return nil, fmt.Errorf("%w: the body is not compressed", errRequest)
		}
		body = z
	default:
		return nil, fmt.Errorf("%w: the only Content-Encoding is gzip", errRequest)
	}
	b, err := io.ReadAll(io.LimitReader(body, most+1))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large) || int64(len(b)) > most:
		return nil, fmt.Errorf("%w: the body has more than %d bytes", errRequest, most)
	case err != nil:
		return nil, fmt.Errorf("%w: the body was cut, or is not compressed as it says", errRequest)
	}
	return b, nil
}

// acceptsGzip reports whether the other side takes a compressed answer.
func acceptsGzip(r *http.Request) bool {
	for _, coding := range strings.Split(r.Header.Get("Accept-Encoding"), ",") {
		if strings.TrimSpace(coding) == "gzip" {
			return true
		}
	}
	return false
}

// answer writes an answer, and compresses it if that is worth it.
func answer(w http.ResponseWriter, r *http.Request, contentType string, body []byte) {
	w.Header().Set("Content-Type", contentType)
	if len(body) > 1<<10 && acceptsGzip(r) {
		w.Header().Set("Content-Encoding", "gzip")
		body = zip(body)
	}
	_, _ = w.Write(body) // an edge that is gone asks again
}

func answerJSON(w http.ResponseWriter, r *http.Request, v any) error {
	b, err := json.Marshal(v)
	if err == nil {
		answer(w, r, typeJSON, append(b, '\n'))
	}
	return err
}

func (h *Hub) serveJoin(w http.ResponseWriter, r *http.Request) error {
	b, err := readBody(w, r, typeJSON, maxJoin)
	if err != nil {
		return err
	}
	var request joinRequest
	if json.Unmarshal(b, &request) != nil || len(request.Secret) != invitationSecret || len(request.Nonce) < 16 || len(request.Nonce) > 64 {
		return fmt.Errorf("%w: the body is no request to join", errRequest)
	}
	if err := checkEdgeName(request.Name); err != nil {
		return err
	}
	reply, err := h.join(r.Context(), request)
	if err != nil {
		return err
	}
	return answerJSON(w, r, reply)
}

func (h *Hub) serveRenew(w http.ResponseWriter, r *http.Request) error {
	edge, token, err := h.login(r.Context(), r)
	if errors.Is(err, latchkey.ErrKeyExpired) {
		if token, err = bearer(r); err == nil {
			edge, err = h.exchangeable(r.Context(), token)
		}
	}
	if err != nil {
		return err
	}
	reply, err := h.renew(r.Context(), edge, token)
	if err != nil {
		return err
	}
	return answerJSON(w, r, reply)
}

// large reads a request whose body may be large, when there is memory for it. done gives the memory
// back.
func (h *Hub) large(w http.ResponseWriter, r *http.Request, edge uuid.UUID) (b []byte, done func(), err error) {
	if !h.enter(edge) {
		return nil, nil, latchkey.ErrBusy
	}
	select {
	case h.bodies <- struct{}{}:
	case <-r.Context().Done():
		err = r.Context().Err()
	case <-time.After(readTime):
		err = latchkey.ErrBusy
	}
	if err != nil {
		h.leave(edge)
		return nil, nil, err
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(readTime))
	done = func() { <-h.bodies; h.leave(edge) }
	if b, err = readBody(w, r, typeMessages, maxPush); err != nil {
		done()
		return nil, nil, err
	}
	return b, done, nil
}

// enter reports whether an edge may send a large request beside those that it has under way. If so,
// leave must follow.
func (h *Hub) enter(edge uuid.UUID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.larges[edge] >= maxAtOnce {
		return false
	}
	h.larges[edge]++
	return true
}

func (h *Hub) leave(edge uuid.UUID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.larges[edge]--; h.larges[edge] == 0 {
		delete(h.larges, edge)
	}
}

func (h *Hub) servePush(w http.ResponseWriter, r *http.Request) error {
	return h.serveMessages(w, r, func(core *replication.Hub, edge uuid.UUID, body []byte) ([]byte, error) {
		request, err := replication.DecodePushRequest(body)
		if err != nil {
			return nil, err
		}
		ctx := latchkey.WithActor(r.Context(), "edge "+edge.String()) // for the audit trail
		reply, err := core.Push(ctx, edge, request, h.store.Now())
		if err != nil {
			return nil, err
		}
		if reply.Refused != "" {
			h.log(slog.LevelWarn, "the hub has refused a push", "edge", edge, "reason", reply.Refused)
		}
		return reply.Encode(), nil
	})
}

func (h *Hub) serveCompare(w http.ResponseWriter, r *http.Request) error {
	return h.serveMessages(w, r, func(core *replication.Hub, edge uuid.UUID, body []byte) ([]byte, error) {
		request, err := replication.DecodeCompareRequest(body)
		if err != nil {
			return nil, err
		}
		reply, err := core.Compare(r.Context(), edge, request)
		if err != nil {
			return nil, err
		}
		return reply.Encode(), nil
	})
}

// serveMessages answers a request of an edge whose body may be large with what reply returns.
func (h *Hub) serveMessages(w http.ResponseWriter, r *http.Request, reply func(core *replication.Hub, edge uuid.UUID, body []byte) ([]byte, error)) error {
	edge, _, err := h.login(r.Context(), r)
	if err != nil {
		return err
	}
	core, err := h.core(r.Context())
	if err != nil {
		return err
	}
	b, done, err := h.large(w, r, edge)
	if err != nil {
		return err
	}
	defer done()
	encoded, err := reply(core, edge, b)
	if err == nil {
		answer(w, r, typeMessages, encoded)
	}
	return err
}
