package bench

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/latchkeydb/latchkey/httpauth"
)

// Middleware measures what httpauth adds to a handler that does nothing: finding the token, a
// cached login, a look at the scopes, and the principal in the context of the request. There is no
// network, so that it does not hide the difference.
var Middleware = Group{
	Name:  "httpauth",
	Title: "What does httpauth add to a handler?",
	Open: func(e *Env) ([]Case, error) {
		s, tokens, err := e.openWarm(e.Sizes[0])
		if err != nil {
			return nil, err
		}
		limit := httpauth.Limit{PerSecond: 1e9}
		g := &guarded{request: httptest.NewRequest(http.MethodGet, "/files/1", nil)}
		g.request.Header.Set("Authorization", "Bearer "+tokens[0])
		bare := func(b *testing.B) error { return g.measure(b, idle) }
		plain := httpauth.New(s, nil).Require()(idle)
		limited := httpauth.New(s, &httpauth.Options{PerKey: limit, PerAddress: limit}).Require()(idle)
		return []Case{
			{Name: "bare", Body: bare},
			{Name: "require", Body: func(b *testing.B) error { return g.measure(b, plain) }, Ratios: []Ratio{{To: "bare"}}},
			{Name: "require/added", Unit: "added-ns", Body: func(b *testing.B) error { return g.added(b, plain) }, Max: 600},
			{Name: "require/allocs", Unit: "added-allocs", Body: func(b *testing.B) error { return g.allocs(b, plain) }, Max: 2},
			{Name: "limits/added", Unit: "added-ns", Body: func(b *testing.B) error { return g.added(b, limited) }},
		}, nil
	},
}

var idle = http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})

// guarded sends one request to handlers.
type guarded struct {
	request *http.Request
	reply   reply
}

func (g *guarded) once(h http.Handler) error {
	h.ServeHTTP(&g.reply, g.request)
	if g.reply.status != 0 {
		return errors.New("the request is refused")
	}
	return nil
}

// reply is a reply that is thrown away, except for the status of a refusal.
type reply struct {
	status int
	header http.Header
}

func (r *reply) Header() http.Header {
	if r.header == nil {
		r.header = http.Header{}
	}
	return r.header
}

func (r *reply) Write(b []byte) (int, error) { return len(b), nil }
func (r *reply) WriteHeader(status int)      { r.status = status }

func (g *guarded) measure(b *testing.B, h http.Handler) error {
	b.ReportAllocs()
	for b.Loop() {
		if err := g.once(h); err != nil {
			return err
		}
	}
	return nil
}

// added reports how much longer h takes than a handler that does nothing. It takes turns, in
// batches that are long enough for the clock, so that both handlers meet the same machine.
func (g *guarded) added(b *testing.B, h http.Handler) error {
	const batch = 100
	var total [2]time.Duration
	for b.Loop() {
		for i, handler := range []http.Handler{idle, h} {
			start := time.Now()
			for range batch {
				if err := g.once(handler); err != nil {
					return err
				}
			}
			total[i] += time.Since(start)
		}
	}
	b.ReportMetric(float64(total[1]-total[0])/float64(b.N*batch), "added-ns")
	return nil
}

// allocs reports how many allocations h makes beyond those of a handler that does nothing.
func (g *guarded) allocs(b *testing.B, h http.Handler) (err error) {
	count := func(h http.Handler) float64 {
		return testing.AllocsPerRun(100, func() { err = errors.Join(err, g.once(h)) })
	}
	for b.Loop() {
		b.ReportMetric(count(h)-count(idle), "added-allocs")
	}
	return err
}
