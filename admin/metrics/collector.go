package metrics

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/latchkeydb/latchkey"
)

// findings are what [latchkey.Store.Health] can find, and the names for them in metrics and probes.
// "other" stands for a finding of an engine that is not in the table.
var findings = []struct {
	name string
	err  error
}{
	{"clock_behind", latchkey.ErrClockBehind},
	{"closed", latchkey.ErrClosed},
	{"corrupt", latchkey.ErrCorrupt},
	{"file_changed", latchkey.ErrFileChanged},
	{"file_gone", latchkey.ErrFileGone},
	{"last_use_failed", latchkey.ErrLastUseFailed},
	{"no_identity", latchkey.ErrNoIdentity},
	{"reader_holds_up", latchkey.ErrReaderHoldsUp},
	{"recovered", latchkey.ErrRecovered},
	{"rotation_not_durable", latchkey.ErrRotationNotDurable},
	{"safety_copy_failed", latchkey.ErrSafetyCopyFailed},
	{"no_space", latchkey.ErrNoSpace},
	{"sync_failed", latchkey.ErrSyncFailed},
	{"unavailable", latchkey.ErrUnavailable},
	{other, nil},
}

const other = "other"

// findingsOf returns the names of the findings in health.
func findingsOf(health error) map[string]bool {
	found := map[string]bool{}
	if health == nil {
		return found
	}
	for _, f := range findings {
		if f.err != nil && errors.Is(health, f.err) {
			found[f.name] = true
		}
	}
	if len(found) == 0 {
		found[other] = true
	}
	return found
}

// metric is a metric that has one value for a store, or one for each reason.
type metric struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(latchkey.Stats) float64
	label []string // the value of its label, if it has one
}

func counter(name, help string, value func(latchkey.Stats) float64) metric {
	return metric{desc: prometheus.NewDesc("latchkey_"+name, help, nil, nil), kind: prometheus.CounterValue, value: value}
}

func gauge(name, help string, value func(latchkey.Stats) float64) metric {
	return metric{desc: prometheus.NewDesc("latchkey_"+name, help, nil, nil), kind: prometheus.GaugeValue, value: value}
}

var refusedDesc = prometheus.NewDesc("latchkey_logins_refused_total",
	"Logins that were refused because of the token: malformed, forged, unknown (the key or the token is gone, or the secret is wrong), or revoked (something is disabled or expired).",
	[]string{"reason"}, nil)

func refused(reason string, value func(latchkey.Stats) float64) metric {
	return metric{desc: refusedDesc, kind: prometheus.CounterValue, value: value, label: []string{reason}}
}

var metrics = []metric{
	gauge("users", "Users, without deleted ones.", func(s latchkey.Stats) float64 { return float64(s.Users) }),
	gauge("keys", "Keys, with server keys and without deleted ones.", func(s latchkey.Stats) float64 { return float64(s.Keys) }),
	gauge("sequence", "The number of the last commit.", func(s latchkey.Stats) float64 { return float64(s.Sequence) }),
	counter("commits_total", "Commits since the store was opened, or 0 if the engine does not count them.", func(s latchkey.Stats) float64 { return float64(s.Commits) }),
	counter("clock_resets_total", "Calls of ResetClock since the store was made.", func(s latchkey.Stats) float64 { return float64(s.ClockResets) }),

	counter("login_cache_hits_total", "Logins that the cache decided.", func(s latchkey.Stats) float64 { return float64(s.Hits) }),
	counter("login_cache_misses_total", "Logins with genuine tokens that the cache could not decide.", func(s latchkey.Stats) float64 { return float64(s.Misses) }),
	gauge("login_cache_entries", "Tokens in the cache.", func(s latchkey.Stats) float64 { return float64(s.CacheSize) }),
	refused("malformed", func(s latchkey.Stats) float64 { return float64(s.Malformed) }),
	refused("forged", func(s latchkey.Stats) float64 { return float64(s.Forged) }),
	refused("unknown", func(s latchkey.Stats) float64 { return float64(s.Unknown) }),
	refused("revoked", func(s latchkey.Stats) float64 { return float64(s.Refused) }),
	counter("busy_total", "Logins and passwords that were refused because too many calls waited for a hash.", func(s latchkey.Stats) float64 { return float64(s.Busy) }),

	counter("hashes_total", "Hashes of argon2 for logins, passwords and new keys.", func(s latchkey.Stats) float64 { return float64(s.Hashes) }),
	counter("hash_wait_seconds_total", "The time that all callers together have waited for a permit to hash.", func(s latchkey.Stats) float64 { return s.HashWait.Seconds() }),
	gauge("hash_memory_peak_bytes", "The most memory that argon2 was permitted at once.", func(s latchkey.Stats) float64 { return float64(s.HashPeak) }),
	counter("verifiers_rehashed_total", "Verifiers that were replaced by one at the store's cost.", func(s latchkey.Stats) float64 { return float64(s.Rehashed) }),
}

var (
	readableDesc = prometheus.NewDesc("latchkey_store_readable", "1 if the store can be read. The metrics of the store are missing while it cannot.", nil, nil)
	findingDesc  = prometheus.NewDesc("latchkey_health_finding", "1 while Health has the finding, for each finding that there can be.", []string{"finding"}, nil)
)

// scrapeLimit is how long a scrape waits for the store. Prometheus waits for 10 seconds by default.
const scrapeLimit = 5 * time.Second

// Collector collects the metrics of a store. It is safe for concurrent use. It does not close the
// store; unregister it before the store is closed, or see the store become unreadable.
type Collector struct{ store *latchkey.Store }

// NewCollector returns a collector for a store.
func NewCollector(store *latchkey.Store) *Collector { return &Collector{store} }

// Describe sends the descriptions of all metrics.
func (c *Collector) Describe(out chan<- *prometheus.Desc) {
	out <- readableDesc
	out <- findingDesc
	out <- refusedDesc
	for _, m := range metrics {
		if m.label == nil {
			out <- m.desc
		}
	}
}

// Collect reads the store, in one transaction, and sends its metrics.
func (c *Collector) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeLimit)
	defer cancel()
	found := findingsOf(c.store.Health(ctx))
	for _, f := range findings {
		out <- prometheus.MustNewConstMetric(findingDesc, prometheus.GaugeValue, number(found[f.name]), f.name)
	}
	stats, err := c.store.Stats(ctx)
	out <- prometheus.MustNewConstMetric(readableDesc, prometheus.GaugeValue, number(err == nil))
	if err != nil {
		return
	}
	for _, m := range metrics {
		out <- prometheus.MustNewConstMetric(m.desc, m.kind, m.value(stats), m.label...)
	}
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
