package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/appservices"
)

// HTTP measures the login by key that an SDK of the hosted service makes, over the loopback
// interface. The keys are cached, and the connections stay open. The yardstick is a handler of
// net/http that sends the same bytes and reads only the request's body. Clients and server share
// the processors.
var HTTP = Group{
	Name:   "http",
	Title:  "What does a login by HTTP cost beyond HTTP?",
	Time:   300 * time.Millisecond,
	Rounds: 11,
	Open: func(e *Env) ([]Case, error) {
		s, tokens, err := e.openWarm(e.Sizes[0])
		if err != nil {
			return nil, err
		}
		double, err := appservices.New(s, nil)
		if err != nil {
			return nil, err
		}
		logins := &httpLogins{}
		for _, token := range tokens {
			body, err := json.Marshal(map[string]any{
				"key": token, "provider": latchkey.ProviderAPIKey,
				"options": map[string]any{"device": map[string]string{
					"platform": "Android", "platformVersion": "34", "sdk": "Kotlin", "sdkVersion": "2.3.0", "coreVersion": "14.12.0",
				}},
			})
			if err != nil {
				return nil, err
			}
			logins.bodies = append(logins.bodies, body)
		}
		if logins.double, err = e.serve(double); err != nil {
			return nil, err
		}
		header, answer, err := logins.once(logins.double, 0)
		if err != nil {
			return nil, err
		}
		if logins.bare, err = e.serve(sameAnswer(header, answer)); err != nil {
			return nil, err
		}
		return []Case{
			{Name: "bare", Body: func(b *testing.B) error { return logins.measure(b, logins.bare) }},
			{
				Name: "login", Body: func(b *testing.B) error { return logins.measure(b, logins.double) },
				Ratios: []Ratio{{To: "bare", Throughput: true, Min: 0.5}},
			},
		}, nil
	},
}

// serve serves h on a free port until the Env is closed, and returns the address.
func (e *Env) serve(h http.Handler) (address string, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	server := &http.Server{Handler: h}
	go func() { _ = server.Serve(l) }() // always ends with ErrServerClosed
	e.onClose(server.Close)
	return l.Addr().String(), nil
}

// sameAnswer returns a handler that reads each request and sends the given answer.
func sameAnswer(header http.Header, answer []byte) http.Handler {
	header = header.Clone()
	header.Del("Date") // net/http sets the date itself
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		for name, values := range header {
			w.Header()[name] = values
		}
		_, _ = w.Write(answer)
	})
}

// An httpLogins holds clients that log in with one key after the other.
type httpLogins struct {
	bodies       [][]byte
	double, bare string
	client       http.Client
}

// httpClients is the number of clients that log in at once. Each client has its own connection.
const httpClients = 8

func (l *httpLogins) once(address string, i int) (http.Header, []byte, error) {
	url := fmt.Sprintf("http://%s/api/client/v2.0/app/bench/auth/providers/api-key/login", address)
	request, err := http.NewRequestWithContext(context.Background(), http.MethodPost, url, bytes.NewReader(l.bodies[i%len(l.bodies)]))
	if err != nil {
		return nil, nil, err
	}
	request.Header.Set("Content-Type", "application/json;charset=utf-8")
	request.Header.Set("Accept", "application/json")
	reply, err := l.client.Do(request)
	if err != nil {
		return nil, nil, err
	}
	defer reply.Body.Close()
	answer, err := io.ReadAll(reply.Body)
	if err != nil {
		return nil, nil, err
	}
	if reply.StatusCode != http.StatusOK {
		return nil, nil, fmt.Errorf("%s: %s", reply.Status, answer)
	}
	return reply.Header, answer, nil
}

func (l *httpLogins) measure(b *testing.B, address string) error {
	l.client.Transport = &http.Transport{MaxIdleConnsPerHost: httpClients}
	defer l.client.CloseIdleConnections()
	hists := make([]*hdrhistogram.Histogram, httpClients)
	b.ReportAllocs()
	err := together(b, httpClients, func(g, n int) error {
		hists[g] = newHistogram()
		for i := range n {
			start := time.Now()
			if _, _, err := l.once(address, g*len(l.bodies)/httpClients+i); err != nil {
				return err
			}
			record(hists[g], time.Since(start))
		}
		return nil
	})
	all := newHistogram()
	for _, h := range hists {
		all.Merge(h)
	}
	b.ReportMetric(float64(all.ValueAtPercentile(50)), "p50-ns")
	b.ReportMetric(float64(all.ValueAtPercentile(99)), "p99-ns")
	return err
}
