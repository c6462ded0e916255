package record_test

import (
	"math"
	"testing"

	"github.com/latchkeydb/latchkey/internal/record"
)

var (
	one = record.Writer{1}
	two = record.Writer{2}
)

// mergeFlags merges the flags of two keys.
func mergeFlags(t testing.TB, a, b record.Flag) record.Flag {
	t.Helper()
	merged, err := record.Key{Flag: a}.Merge(record.Key{Flag: b})
	must(t, err)
	return merged.Flag
}

func TestADisablingThatNoEnablingHasSeenHolds(t *testing.T) {
	start := record.Flag{}
	if start.IsDisabled() || start.Disablings() != 0 {
		t.Error("the zero flag is disabled")
	}
	// The hub disables. An edge that is cut off disables and enables.
	hub, edge := start.Disable(one), start.Disable(two).Enable()
	if !hub.IsDisabled() || edge.IsDisabled() {
		t.Errorf("hub %+v, edge %+v", hub, edge)
	}
	both := mergeFlags(t, hub, edge)
	if !both.IsDisabled() || both.Disablings() != 2 {
		t.Errorf("merged: %+v", both)
	}
	if enabled := both.Enable(); enabled.IsDisabled() || enabled.Disablings() != 2 {
		t.Errorf("enabled by somebody who has seen both: %+v", enabled)
	}
	// A disabling of a record that is disabled already counts, because another replica may be
	// enabling the record.
	again := both.Disable(one)
	if merged := mergeFlags(t, again, both.Enable()); !merged.IsDisabled() || merged.Disablings() != 3 {
		t.Errorf("disabled again: %+v", merged)
	}
}

func TestADisablingByAWriterThatWasEnabledMoreOftenThanItDisabledHolds(t *testing.T) {
	f := record.Flag{Writers: []record.WriterCount{{Writer: one, Disabled: 3, Enabled: 5}}}
	if f.IsDisabled() {
		t.Errorf("%+v is disabled", f)
	}
	if f = f.Disable(one); !f.IsDisabled() || f.Writers[0].Disabled != 6 {
		t.Errorf("after a disabling: %+v", f)
	}
	f = record.Flag{Writers: []record.WriterCount{{Writer: one, Disabled: 3, Enabled: 5}}}.Enable()
	if f.Writers[0].Enabled != 5 {
		t.Errorf("an enabling lowered the number of those before: %+v", f)
	}
}

func TestEnablingAloneRemovesTheWritersAndKeepsTheirSum(t *testing.T) {
	f := record.Flag{}.Disable(one).Disable(one).Disable(two)
	alone := f.EnableAlone()
	if alone.IsDisabled() || len(alone.Writers) != 0 || alone.Disablings() != 3 || alone.Base != 3 {
		t.Errorf("%+v", alone)
	}
	if again := alone.Disable(two).EnableAlone(); again.Base != 4 {
		t.Errorf("after another disabling: %+v", again)
	}
	if merged := mergeFlags(t, record.Flag{Base: 2}, alone); merged.Base != 3 {
		t.Errorf("two bases merge to %+v", merged)
	}
	if sealed := (record.Flag{Sealed: true}).EnableAlone(); !sealed.IsDisabled() {
		t.Error("a sealed flag was enabled")
	}
}

func TestChangingAFlagLeavesTheOldOneAsItWas(t *testing.T) {
	f := record.Flag{}.Disable(one)
	_, _, _ = f.Disable(one), f.Enable(), f.Disable(two)
	if len(f.Writers) != 1 || f.Writers[0] != (record.WriterCount{Writer: one, Disabled: 1}) {
		t.Errorf("%+v", f)
	}
}

func TestNumbersThatAreAtTheirEndSealOrStay(t *testing.T) {
	last := record.Flag{Writers: []record.WriterCount{{Writer: one, Disabled: math.MaxUint64, Enabled: math.MaxUint64}}}
	if last.IsDisabled() || last.Disablings() != math.MaxUint64 {
		t.Errorf("%+v", last)
	}
	if sealed := last.Disable(one); !sealed.Sealed || !sealed.Enable().IsDisabled() {
		t.Errorf("no number is left, and the flag is %+v", sealed)
	}
	sum := last.Disable(two)
	sum.Base = 7
	if sum.Disablings() != math.MaxUint64 {
		t.Errorf("the sum is %d", sum.Disablings())
	}
}

func TestAFlagKeepsTheSealAndNoWriters(t *testing.T) {
	f := record.Flag{}
	for n := range record.MaxWriters {
		f = f.Disable(record.Writer{byte(n >> 8), byte(n), 1})
	}
	if f.Sealed || len(f.Writers) != record.MaxWriters {
		t.Fatalf("%d writers, sealed %v", len(f.Writers), f.Sealed)
	}
	f = f.Enable()
	sealed := f.Disable(record.Writer{0xff})
	if !sealed.Sealed || sealed.Writers != nil || sealed.Disablings() != math.MaxUint64 {
		t.Errorf("%+v", sealed)
	}
	if g := sealed.Disable(one); !g.Sealed || g.Writers != nil {
		t.Errorf("disabled again: %+v", g)
	}
	for _, merged := range []record.Flag{mergeFlags(t, f, sealed), mergeFlags(t, sealed, f)} {
		if !merged.Sealed || merged.Writers != nil {
			t.Errorf("merged: %+v", merged)
		}
	}
}
