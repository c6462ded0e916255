package metrics

import (
	"errors"
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/latchkeydb/latchkey"
)

// metricOf has the metric of each field of [latchkey.Stats], or the reason of a refusal.
var metricOf = map[string]string{
	"Users": "latchkey_users", "Keys": "latchkey_keys", "Sequence": "latchkey_sequence", "Commits": "latchkey_commits_total",
	"ClockResets": "latchkey_clock_resets_total", "Hits": "latchkey_login_cache_hits_total", "Misses": "latchkey_login_cache_misses_total",
	"CacheSize": "latchkey_login_cache_entries", "Malformed": "malformed", "Forged": "forged", "Unknown": "unknown", "Refused": "revoked",
	"Busy": "latchkey_busy_total", "Hashes": "latchkey_hashes_total", "HashWait": "latchkey_hash_wait_seconds_total",
	"HashPeak": "latchkey_hash_memory_peak_bytes", "Rehashed": "latchkey_verifiers_rehashed_total",
}

func TestEachFieldOfTheStoresStatisticsHasItsMetric(t *testing.T) {
	for _, field := range reflect.VisibleFields(reflect.TypeFor[latchkey.Stats]()) {
		var s latchkey.Stats
		v, want := reflect.ValueOf(&s).Elem().FieldByIndex(field.Index), 7.0
		switch {
		case field.Type == reflect.TypeFor[time.Duration]():
			v.SetInt(int64(7 * time.Second))
		case v.CanUint():
			v.SetUint(7)
		case v.CanInt():
			v.SetInt(7)
		default:
			t.Errorf("%s is no number", field.Name)
			continue
		}
		name, found := metricOf[field.Name], false
		for _, m := range metrics {
			isIt := len(m.label) == 1 && m.label[0] == name || m.desc.String() == descOf(name)
			if got := m.value(s); got != map[bool]float64{true: want}[isIt] {
				t.Errorf("%s: the metric %s %v is %v", field.Name, m.desc, m.label, got)
			}
			found = found || isIt
		}
		if !found {
			t.Errorf("%s has no metric", field.Name)
		}
	}
}

// descOf returns the text of the description of a metric without a label.
func descOf(name string) string {
	for _, m := range metrics {
		if m.label == nil && reflect.ValueOf(m.desc).Elem().FieldByName("fqName").String() == name {
			return m.desc.String()
		}
	}
	return ""
}

func TestTheProbesKnowEachFinding(t *testing.T) {
	noLogins := []string{"closed", "file_changed"}
	noChanges := []string{"closed", "corrupt", "file_changed", "file_gone", "sync_failed"}
	for _, f := range findings {
		found := map[string]bool{f.name: true}
		if f.name == "file_gone" {
			found["file_changed"] = true // as Health has it
		}
		if got := decidesLogins(found); got == slices.Contains(noLogins, f.name) {
			t.Errorf("%s: logins are decided: %v", f.name, got)
		}
		if got := acceptsChanges(found); got == slices.Contains(noChanges, f.name) {
			t.Errorf("%s: changes are accepted: %v", f.name, got)
		}
	}
}

func TestAFindingThatIsNotInTheTableIsOther(t *testing.T) {
	if got := findingsOf(errors.New("an engine's own")); !maps.Equal(got, map[string]bool{other: true}) {
		t.Errorf("got %v", got)
	}
	both := errors.Join(latchkey.ErrClockBehind, errors.New("an engine's own"))
	if got := findingsOf(both); !got["clock_behind"] {
		t.Errorf("got %v", got)
	}
	if got := findingsOf(nil); len(got) != 0 {
		t.Errorf("got %v", got)
	}
}
