package record_test

import (
	"crypto/sha256"
	"fmt"
	"math"
	"reflect"
	"testing"
	"time"

	"github.com/latchkeydb/latchkey/internal/record"
)

// mergeVerifiers merges the verifiers of two keys.
func mergeVerifiers(t testing.TB, a, b record.Verifiers) record.Verifiers {
	t.Helper()
	merged, err := record.Key{Verifiers: a}.Merge(record.Key{Verifiers: b})
	must(t, err)
	return merged.Verifiers
}

// good returns the first bytes of the IDs of the good verifiers.
func good(vs record.Verifiers, now int64) (ids []byte) {
	for _, v := range vs.Good(time.Unix(now, 0)) {
		ids = append(ids, v.ID[0])
	}
	return ids
}

func wantGood(t testing.TB, about string, vs record.Verifiers, now int64, want ...byte) {
	t.Helper()
	if got := good(vs, now); string(got) != string(want) {
		t.Errorf("%s: the good verifiers are %v, want %v", about, got, want)
	}
}

func newVerifiers() (first record.Verifier, vs record.Verifiers) {
	first = record.Verifier{ID: record.VerifierID{1}, PHC: "$argon2id$first"}
	return first, vs.Add(first)
}

func TestAVerifiersIDBeginsWithTheHashOfTheSecret(t *testing.T) {
	secret := []byte("secret")
	sum := sha256.Sum256(secret)
	hint := record.Hint(secret)
	if hint != [2]byte(sum[:2]) {
		t.Errorf("the hint is %x", hint)
	}
	if !(record.VerifierID{hint[0], hint[1], 9}).Matches(hint) {
		t.Error("an ID with the hint does not match")
	}
	if (record.VerifierID{hint[0], hint[1] + 1}).Matches(hint) || (record.VerifierID{hint[0] + 1, hint[1]}).Matches(hint) {
		t.Error("an ID without the hint matches")
	}
}

func TestAnOverlapEndsTheOldVerifierAtItsEnd(t *testing.T) {
	first, vs := newVerifiers()
	second := first.Next(record.VerifierID{2}, "$argon2id$second")
	if second.Replaces != first.ID || second.Generation != 1 {
		t.Errorf("the next verifier is %+v", second)
	}
	end := time.Unix(10, 999)
	vs = vs.Add(second).EndAt(first.ID, end)
	wantGood(t, "before the end", vs, 9, 1, 2)
	wantGood(t, "at the end", vs, 10, 2)
	if later := vs.EndAt(first.ID, end.Add(time.Hour)); !reflect.DeepEqual(later, vs) {
		t.Errorf("a later end changes %+v to %+v", vs, later)
	}
	wantGood(t, "at an earlier end", vs.EndAt(first.ID, time.Unix(5, 0)), 5, 2)
	if _, alone := newVerifiers(); len(good(mergeVerifiers(t, alone, vs), 10)) != 1 {
		t.Error("merging removes the end")
	}
	if got := vs.EndAt(record.VerifierID{9}, end); !reflect.DeepEqual(got, vs) {
		t.Errorf("the end of no verifier changes %+v", got)
	}
}

func TestTheOldestGenerationOfGoodVerifiersComesFirst(t *testing.T) {
	first := record.Verifier{ID: record.VerifierID{9}, PHC: "x"}
	second := first.Next(record.VerifierID{5}, "x")
	vs := record.Verifiers{}.Add(second).Add(first).Add(first.Next(record.VerifierID{4}, "x"))
	wantGood(t, "three verifiers", vs, 0, 9, 4, 5)
}

func TestARetiredVerifierStaysRetiredAndLosesItsHash(t *testing.T) {
	first, _ := newVerifiers()
	first.UntilUsed = true
	vs := record.Verifiers{}.Add(first)
	retired := vs.Retire(first.ID)
	for _, merged := range []record.Verifiers{retired, mergeVerifiers(t, vs, retired), mergeVerifiers(t, retired, vs)} {
		wantGood(t, "retired", merged, 0)
		if v, found := merged.Find(first.ID); !found || !v.Retired || v.PHC != "" || v.UntilUsed {
			t.Errorf("%+v, %v", v, found)
		}
	}
	if _, found := vs.Find(record.VerifierID{7}); found {
		t.Error("a verifier is found that is not there")
	}
	wantGood(t, "the verifiers before", vs, 0, 1)
}

func TestARotationWithoutOverlapRetiresAllThatOthersMadeFromTheOldVerifier(t *testing.T) {
	first, start := newVerifiers()
	hubs := first.Next(record.VerifierID{2}, "hub's")
	hub := start.Add(hubs).Supersede(hubs.ID)
	hubs, _ = hub.Find(hubs.ID)
	wantGood(t, "the hub", hub, 0, 2)

	edges := first.Next(record.VerifierID{3}, "edge's")
	edge := start.Add(edges).EndAt(first.ID, time.Unix(5, 0))
	merged := mergeVerifiers(t, edge, hub)
	wantGood(t, "merged", merged, 0, 2)

	later := edges.Next(record.VerifierID{4}, "made before the edge has heard of it")
	wantGood(t, "merged with what the edge made since", mergeVerifiers(t, merged, edge.Add(later)), 0, 2)
	wantGood(t, "in the other order", mergeVerifiers(t, edge.Add(later), merged), 0, 2)

	own := hubs.Next(record.VerifierID{5}, "made from the new one")
	wantGood(t, "what is made from the new one", mergeVerifiers(t, edge, hub.Add(own)), 0, 2, 5)

	other := start.Add(record.Verifier{ID: record.VerifierID{6}, PHC: "other", Generation: 1}).Supersede(record.VerifierID{6})
	wantGood(t, "two that knew nothing of each other", mergeVerifiers(t, hub, other), 0, 2, 6)
	both := mergeVerifiers(t, hub, other)
	next := hubs.Next(record.VerifierID{7}, "next")
	wantGood(t, "a rotation that has seen both", both.Add(next).Supersede(next.ID), 0, 7)
}

func TestOfTooManyVerifiersTheLowestGenerationsGoForGood(t *testing.T) {
	v, vs := newVerifiers()
	old := vs
	for n := range record.MaxVerifiers {
		v = v.Next(record.VerifierID{2, byte(n)}, "x")
		vs = vs.Add(v)
	}
	if len(vs.All) != record.MaxVerifiers || vs.Floor != 1 {
		t.Errorf("%d verifiers from %d on", len(vs.All), vs.Floor)
	}
	if merged := mergeVerifiers(t, old, vs); len(merged.All) != record.MaxVerifiers || len(merged.Good(time.Time{})) != record.MaxVerifiers {
		t.Errorf("the first verifier came back: %d verifiers", len(merged.All))
	}
}

func TestOfTooManySupersededBasesTheLowestGenerationsStaySuperseded(t *testing.T) {
	v, vs := newVerifiers()
	old := vs
	for n := range record.MaxSuperseded + 10 {
		v = v.Next(record.VerifierID{2, byte(n >> 8), byte(n)}, "x")
		vs = vs.Add(v).Supersede(v.ID)
		v, _ = vs.Find(v.ID)
	}
	if len(vs.Superseded) != record.MaxSuperseded || vs.BaseFloor != 10 {
		t.Errorf("%d bases from %d on", len(vs.Superseded), vs.BaseFloor)
	}
	wantGood(t, "the last", vs, 0, 2)
	first, _ := old.Find(record.VerifierID{1})
	for range 2000 { // an edge that heard of nothing
		first = first.Next(record.VerifierID{3, byte(first.Generation >> 8), byte(first.Generation)}, "x")
	}
	wantGood(t, "what was made from the first verifier", mergeVerifiers(t, vs, record.Verifiers{}.Add(first)), 0, 2)
}

func TestTheHigherFloorHoldsForBoth(t *testing.T) {
	first, vs := newVerifiers()
	vs = vs.Add(first.Next(record.VerifierID{2}, "x"))
	floor := record.Verifiers{Floor: 1}
	wantGood(t, "a floor from the other", mergeVerifiers(t, vs, floor), 0, 2)
	wantGood(t, "a floor of its own", mergeVerifiers(t, floor, vs), 0, 2)
	vs.All[1].Base = record.Base{Generation: 1, ID: record.VerifierID{2}}
	floor = record.Verifiers{BaseFloor: 1}
	wantGood(t, "a floor of bases from the other", mergeVerifiers(t, vs, floor), 0, 2)
	wantGood(t, "a floor of bases of its own", mergeVerifiers(t, floor, vs), 0, 2)
}

func TestFloorsThatCannotGrowSealTheVerifiers(t *testing.T) {
	vs := record.Verifiers{}
	for n := range record.MaxVerifiers + 1 {
		vs = vs.Add(record.Verifier{ID: record.VerifierID{byte(n)}, PHC: "x", Generation: math.MaxUint64})
	}
	if !vs.Sealed || vs.All != nil {
		t.Errorf("%+v", vs)
	}
	_, other := newVerifiers()
	for _, merged := range []record.Verifiers{mergeVerifiers(t, vs, other), mergeVerifiers(t, other, vs), vs.Add(record.Verifier{ID: record.VerifierID{1}}), vs.Forget()} {
		if !merged.Sealed || merged.All != nil {
			t.Errorf("merged: %+v", merged)
		}
	}
	last := record.Verifier{Generation: math.MaxUint64}
	if next := last.Next(record.VerifierID{1}, "x"); next.Generation != math.MaxUint64 {
		t.Errorf("the generation after the last is %d", next.Generation)
	}
}

func TestForgettingLeavesTheGoodVerifiersAlone(t *testing.T) {
	first, vs := newVerifiers()
	second := first.Next(record.VerifierID{2}, "x")
	vs = vs.Add(second).Supersede(second.ID)
	forgotten := vs.Forget()
	wantGood(t, "forgotten", forgotten, 0, 2)
	if len(forgotten.All) != 1 || forgotten.Superseded != nil {
		t.Errorf("%+v", forgotten)
	}
	if v, found := vs.Find(first.ID); len(vs.All) != 2 || !found || !v.Retired {
		t.Errorf("the verifiers before: %+v", vs)
	}
}

func TestOfTwoVersionsOfAVerifierOneIsChosen(t *testing.T) {
	a := record.Verifier{ID: record.VerifierID{1}, PHC: "a", Replaces: record.VerifierID{8}, Generation: 3, Base: record.Base{Generation: 1, ID: record.VerifierID{3}}}
	a.Handle = record.Handle{2}
	b := record.Verifier{
		ID: record.VerifierID{1}, PHC: "b", Replaces: record.VerifierID{7}, Generation: 2,
		End: time.Unix(5, 0), UntilUsed: true, Base: record.Base{Generation: 2, ID: record.VerifierID{2}}, Handle: record.Handle{1, 9},
	}
	want := record.Verifier{
		ID: record.VerifierID{1}, PHC: "b", Replaces: record.VerifierID{8}, Generation: 3,
		End: time.Unix(5, 0), UntilUsed: true, Base: record.Base{Generation: 2, ID: record.VerifierID{2}}, Handle: record.Handle{2},
	}
	va, vb := record.Verifiers{All: []record.Verifier{a}}, record.Verifiers{All: []record.Verifier{b}}
	for _, merged := range []record.Verifiers{mergeVerifiers(t, va, vb), mergeVerifiers(t, vb, va)} {
		if !reflect.DeepEqual(merged.All, []record.Verifier{want}) {
			t.Errorf("got %+v, want %+v", merged.All, want)
		}
	}
}

func TestVerifiersStayInTheOrderOfTheirIDs(t *testing.T) {
	vs := record.Verifiers{}
	for n := range 20 {
		vs = vs.Add(record.Verifier{ID: record.VerifierID{byte(n * 7 % 20)}, PHC: fmt.Sprint(n)})
	}
	for n, v := range vs.All {
		if v.ID[0] != byte(n) {
			t.Errorf("verifier %d is %v", n, v.ID)
		}
	}
}

func TestARotationDuringAnOverlapRetiresTheOlderVerifier(t *testing.T) {
	first, vs := newVerifiers()
	second := first.Next(record.VerifierID{2}, "x")
	vs = vs.Add(second).Overlap(first.ID, second.ID, time.Unix(10, 0))
	wantGood(t, "the first overlap", vs, 0, 1, 2)
	third := second.Next(record.VerifierID{3}, "x")
	vs = vs.Add(third).Overlap(second.ID, third.ID, time.Unix(5, 0))
	wantGood(t, "the second overlap", vs, 0, 2, 3)
	wantGood(t, "after the second overlap", vs, 5, 3)
}

func TestAVerifierThatIsUsedEndsTheOneThatItReplaces(t *testing.T) {
	first, vs := newVerifiers()
	second := first.Next(record.VerifierID{2}, "x")
	plain := vs.Add(second).EndAt(first.ID, time.Unix(10, 0))
	second.UntilUsed = true
	untilUsed := vs.Add(second).EndAt(first.ID, time.Unix(10, 0))
	for name, tt := range map[string]struct {
		vs   record.Verifiers
		id   record.VerifierID
		ends bool
	}{
		"the new one":                         {untilUsed, second.ID, true},
		"the old one":                         {untilUsed, first.ID, false},
		"the new one, with the old retired":   {untilUsed.Retire(first.ID), second.ID, false},
		"the new one of another rotation":     {plain, second.ID, false},
		"the new one, with the old forgotten": {untilUsed.Retire(first.ID).Forget(), second.ID, false},
	} {
		v, replaced := tt.vs.Used(tt.id)
		if v.ID != tt.id || (replaced != nil) != tt.ends || replaced != nil && replaced.ID != first.ID {
			t.Errorf("%s: used %v, replaced %v", name, v.ID, replaced)
		}
	}
}

func TestAFreshKeyWasNeverDisabledMovedOrLeftWithoutAToken(t *testing.T) {
	first, vs := newVerifiers()
	next := first.Next(record.VerifierID{2}, "next")
	for _, tt := range []struct {
		name   string
		change func(*record.Key)
		fresh  bool
	}{
		{"a new key", func(*record.Key) {}, true},
		{"a key without a token", func(k *record.Key) { k.Verifiers = record.Verifiers{} }, true},
		{"in a group", func(k *record.Key) { k.Groups = k.Groups.Set("home", at(1, here)) }, true},
		{"moved", func(k *record.Key) { k.Groups = k.Groups.Set("home", at(1, here)).Set("away", at(2, here)) }, false},
		{"disabled", func(k *record.Key) { k.Flag = k.Flag.Disable(record.Writer{1}) }, false},
		{"enabled again", func(k *record.Key) { k.Flag = k.Flag.Disable(record.Writer{1}).EnableAlone() }, false},
		{"a retired token", func(k *record.Key) { k.Verifiers = vs.Retire(first.ID) }, false},
		{"a token that was replaced", func(k *record.Key) { k.Verifiers = vs.Add(next).Supersede(next.ID) }, false},
		{"a superseded base", func(k *record.Key) { k.Verifiers.Superseded = []record.Base{{Generation: 1}} }, false},
		{"a floor", func(k *record.Key) { k.Verifiers.Floor = 1 }, false},
		{"a floor of bases", func(k *record.Key) { k.Verifiers.BaseFloor = 1 }, false},
		{"sealed tokens", func(k *record.Key) { k.Verifiers = record.Verifiers{Sealed: true} }, false},
	} {
		k := record.Key{Owner: here, Name: text("laptop", at(1, here)), Verifiers: vs}
		tt.change(&k)
		if got := record.IsFreshKey(k.Encode()); got != tt.fresh {
			t.Errorf("%s: IsFreshKey reports %v", tt.name, got)
		}
	}
}
