package metrics_test

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin/metrics"
	"github.com/latchkeydb/latchkey/latchkeytest"
)

func TestTheMetricsAreWhatTheStoreCounts(t *testing.T) {
	store := latchkeytest.New(t)
	_, token, err := store.CreateServerKey(t.Context(), latchkey.KeySpec{Name: "laptop"})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := store.Login(t.Context(), token); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := store.Login(t.Context(), "nonsense"); !errors.Is(err, latchkey.ErrInvalidToken) {
		t.Fatal(err)
	}
	err = testutil.CollectAndCompare(metrics.NewCollector(store), strings.NewReader(`
# HELP latchkey_users Users, without deleted ones.
# TYPE latchkey_users gauge
latchkey_users 0
# HELP latchkey_keys Keys, with server keys and without deleted ones.
# TYPE latchkey_keys gauge
latchkey_keys 1
# HELP latchkey_login_cache_hits_total Logins that the cache decided.
# TYPE latchkey_login_cache_hits_total counter
latchkey_login_cache_hits_total 2
# HELP latchkey_login_cache_misses_total Logins with genuine tokens that the cache could not decide.
# TYPE latchkey_login_cache_misses_total counter
latchkey_login_cache_misses_total 1
# HELP latchkey_logins_refused_total Logins that were refused because of the token: malformed, forged, unknown (the key or the token is gone, or the secret is wrong), or revoked (something is disabled or expired).
# TYPE latchkey_logins_refused_total counter
latchkey_logins_refused_total{reason="forged"} 0
latchkey_logins_refused_total{reason="malformed"} 1
latchkey_logins_refused_total{reason="revoked"} 0
latchkey_logins_refused_total{reason="unknown"} 0
# HELP latchkey_store_readable 1 if the store can be read. The metrics of the store are missing while it cannot.
# TYPE latchkey_store_readable gauge
latchkey_store_readable 1
`), "latchkey_users", "latchkey_keys", "latchkey_login_cache_hits_total", "latchkey_login_cache_misses_total",
		"latchkey_logins_refused_total", "latchkey_store_readable")
	if err != nil {
		t.Error(err)
	}
}

func TestTheNamesKeepTheConventionsOfPrometheus(t *testing.T) {
	problems, err := testutil.CollectAndLint(metrics.NewCollector(latchkeytest.New(t)))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func TestACollectorDescribesWhatItCollects(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(metrics.NewCollector(latchkeytest.New(t)))
	if _, err := registry.Gather(); err != nil {
		t.Error(err)
	}
}

// names returns the names of all metrics.
func names(t *testing.T, store *latchkey.Store) map[string]bool {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(metrics.NewCollector(store))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]bool{}
	for _, f := range families {
		all[f.GetName()] = true
	}
	return all
}

func TestTheDashboardShowsEachMetric(t *testing.T) {
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(metrics.Dashboard(), &board); err != nil {
		t.Fatal(err)
	}
	shown := map[string]bool{}
	for _, p := range board.Panels {
		for _, target := range p.Targets {
			for _, name := range regexp.MustCompile(`latchkey_\w+`).FindAllString(target.Expr, -1) {
				shown[name] = true
			}
		}
	}
	want, got := slices.Sorted(maps.Keys(names(t, latchkeytest.New(t)))), slices.Sorted(maps.Keys(shown))
	if !slices.Equal(got, want) {
		t.Errorf("the dashboard shows\n%q, want\n%q", got, want)
	}
}

func open(t *testing.T, path string) *latchkey.Store {
	t.Helper()
	store, err := latchkey.Open(path, &latchkey.Options{Cost: latchkey.LightCost})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	return store
}

// get returns the status and the text of a page of the handler.
func get(store *latchkey.Store, page string) (int, string) {
	w := httptest.NewRecorder()
	metrics.Handler(store).ServeHTTP(w, httptest.NewRequest(http.MethodGet, page, nil))
	return w.Code, w.Body.String()
}

func TestAProbeTellsWhatIsWrong(t *testing.T) {
	const good, bad = http.StatusOK, http.StatusServiceUnavailable
	for _, tt := range []struct {
		name            string
		harm            func(t *testing.T, store *latchkey.Store, path string)
		healthz, readyz int
		text            string
	}{
		{"nothing", func(*testing.T, *latchkey.Store, string) {}, good, good, "ok\n"},
		{"the file is gone", func(t *testing.T, _ *latchkey.Store, path string) {
			if err := os.Rename(path, path+".old"); err != nil {
				t.Fatal(err)
			}
		}, good, bad, "file_gone\n"},
		{"another file is in its place", func(t *testing.T, _ *latchkey.Store, path string) {
			other := filepath.Join(t.TempDir(), "other.db")
			_ = open(t, other).Close()
			if err := os.Rename(other, path); err != nil {
				t.Fatal(err)
			}
		}, bad, bad, "not ok\nfile_changed\n"},
		{"the store is closed", func(t *testing.T, store *latchkey.Store, _ string) {
			if err := store.Close(); err != nil {
				t.Fatal(err)
			}
		}, bad, bad, "not ok\nunreadable\nclosed\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if runtime.GOOS == "windows" && strings.Contains(tt.name, "file") {
				t.Skip("Windows lets nobody move an open file")
			}
			path := filepath.Join(t.TempDir(), "keys.db")
			store := open(t, path)
			tt.harm(t, store, path)
			for page, want := range map[string]int{"/healthz": tt.healthz, "/readyz": tt.readyz} {
				status, text := get(store, page)
				if status != want || !strings.Contains(text, tt.text) {
					t.Errorf("%s: got %d %q, want %d and %q", page, status, text, want, tt.text)
				}
				if strings.Contains(text, filepath.Base(path)) {
					t.Errorf("%s names the file: %q", page, text)
				}
			}
		})
	}
}

func TestAClosedStoreStillHasMetrics(t *testing.T) {
	store := open(t, filepath.Join(t.TempDir(), "keys.db"))
	_, before := get(store, "/metrics")
	if !strings.Contains(before, "\nlatchkey_store_readable 1\n") || !strings.Contains(before, "\nlatchkey_users 0\n") {
		t.Errorf("the open store has\n%s", before)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	status, after := get(store, "/metrics")
	if status != http.StatusOK || !strings.Contains(after, "\nlatchkey_store_readable 0\n") ||
		!strings.Contains(after, "\nlatchkey_health_finding{finding=\"closed\"} 1\n") || strings.Contains(after, "latchkey_users") {
		t.Errorf("the closed store has %d\n%s", status, after)
	}
}

func TestAProbeOfAStoreThatCannotBeReadSaysSo(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // no reading succeeds
	for _, page := range []string{"/healthz", "/readyz"} {
		w := httptest.NewRecorder()
		metrics.Handler(latchkeytest.New(t)).ServeHTTP(w, httptest.NewRequest(http.MethodGet, page, nil).WithContext(ctx))
		if w.Code != http.StatusServiceUnavailable || !strings.HasPrefix(w.Body.String(), "not ok\nunreadable\n") {
			t.Errorf("%s: got %d %q", page, w.Code, w.Body)
		}
	}
}
