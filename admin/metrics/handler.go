package metrics

import (
	"context"
	_ "embed"
	"io"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/latchkeydb/latchkey"
)

//go:embed dashboard.json
var dashboard []byte

// Dashboard returns a dashboard for Grafana, as JSON to import.
func Dashboard() []byte { return append([]byte(nil), dashboard...) }

// maxScrapes is how many scrapes can be under way at once. More of them get the status 503.
const maxScrapes = 4

// Handler returns a handler with three pages:
//
//   - /metrics has the metrics of [Collector].
//   - /healthz has the status 503 if the store cannot decide logins: it is closed, it cannot be
//     read, or another file is in the place of its file. Restart the program then.
//   - /readyz has the status 503 if the store cannot do its whole work: the same, or it accepts no
//     changes.
//
// Each of the probes lists all findings of Health by their names, also those for which its status
// is 200, such as a safety copy that failed. A program that is only to log keys in can use /healthz
// as its probe of readiness.
func Handler(store *latchkey.Store) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(NewCollector(store))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: maxScrapes}))
	mux.Handle("GET /healthz", probe(store, decidesLogins))
	mux.Handle("GET /readyz", probe(store, acceptsChanges))
	return mux
}

// probe returns a handler that reads the store and says whether ok holds.
func probe(store *latchkey.Store, ok func(found map[string]bool) bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), scrapeLimit)
		defer cancel()
		found := findingsOf(store.Health(ctx))
		_, err := store.Stats(ctx)
		status, text := http.StatusOK, "ok\n"
		if err != nil || !ok(found) {
			status, text = http.StatusServiceUnavailable, "not ok\n"
		}
		if err != nil {
			text += "unreadable\n"
		}
		for _, f := range findings {
			if found[f.name] {
				text += f.name + "\n"
			}
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text)
	})
}

// decidesLogins reports whether a store with these findings decides logins. It does so while its
// file is only gone.
func decidesLogins(found map[string]bool) bool {
	return !found["closed"] && (!found["file_changed"] || found["file_gone"])
}

// acceptsChanges reports whether a store with these findings also accepts changes.
func acceptsChanges(found map[string]bool) bool {
	return !found["closed"] && !found["file_changed"] && !found["corrupt"] && !found["sync_failed"]
}
