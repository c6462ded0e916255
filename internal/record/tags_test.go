package record_test

import (
	"bytes"
	"errors"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/latchkeydb/latchkey/internal/record"
)

func numbers(all []record.TagSecret) (ns []byte) {
	for _, t := range all {
		ns = append(ns, byte(t.Number))
	}
	return ns
}

func wantTags(t testing.TB, about string, s record.TagSecrets, signing int, accepted ...byte) {
	t.Helper()
	got, found := s.Signing()
	if found != (signing >= 0) || found && got.Number != uint64(signing) {
		t.Errorf("%s: the signing secret is %d, %v, want %d", about, got.Number, found, signing)
	}
	if ns := numbers(s.Accepted()); !bytes.Equal(ns, accepted) {
		t.Errorf("%s: the accepted secrets are %v, want %v", about, ns, accepted)
	}
}

// clock is a time of a step.
func clock(ms int64) time.Time { return time.UnixMilli(ms).UTC() }

// step returns the result of a step that succeeds.
func step(t testing.TB) func(s record.TagSecrets, err error) record.TagSecrets {
	return func(s record.TagSecrets, err error) record.TagSecrets {
		t.Helper()
		must(t, err)
		return s
	}
}

// add adds a tag secret at a time.
func add(t testing.TB, s record.TagSecrets, secret byte, ms int64) record.TagSecrets {
	t.Helper()
	s, _, err := s.Add([16]byte{secret}, clock(ms))
	must(t, err)
	return s
}

// wantStepRefused fails the test unless a step was refused and has changed nothing.
func wantStepRefused(t testing.TB, about string, before, after record.TagSecrets, err error) {
	t.Helper()
	if !errors.Is(err, record.ErrTagSecret) || !reflect.DeepEqual(before, after) {
		t.Errorf("%s: got %v and %+v", about, err, after)
	}
}

func TestATagSecretIsAcceptedThenUsedThenRetired(t *testing.T) {
	s := record.FirstTagSecret([16]byte{1})
	wantTags(t, "a new domain", s, 0, 0)
	_, err := s.Retire(0, clock(1))
	wantStepRefused(t, "retiring the one in use", s, s, err)
	if again := step(t)(s.Use(0, clock(1))); !reflect.DeepEqual(again, s) {
		t.Errorf("using the one in use has changed %+v", again)
	}
	s = add(t, s, 2, 10)
	wantTags(t, "with a second secret", s, 0, 0, 1)
	s = step(t)(s.Use(1, clock(20)))
	wantTags(t, "that is used", s, 1, 0, 1)
	old := s
	s = step(t)(s.Retire(0, clock(30)))
	wantTags(t, "the first is retired", s, 1, 1)
	if want := (record.TagSecrets{All: []record.TagSecret{
		{State: record.TagRetired, Changed: clock(30)},
		{Number: 1, Secret: [16]byte{2}, State: record.TagUsed, Changed: clock(20)},
	}}); !reflect.DeepEqual(s, want) {
		t.Errorf("the secrets are %+v", s)
	}
	if s.Accepts(0) || !s.Accepts(1) || s.Accepts(2) {
		t.Error("the numbers of the accepted secrets are wrong")
	}
	for about, again := range map[string]record.TagSecrets{
		"used again": step(t)(s.Use(1, clock(40))), "retired again": step(t)(s.Retire(0, clock(40))),
		"merged with an older version": s.Merge(old), "merged the other way": old.Merge(s),
		"taken from an older version": step(t)(s.Take(old)), "taken the other way": step(t)(old.Take(s)),
	} {
		if !reflect.DeepEqual(again, s) {
			t.Errorf("%s: the secrets are %+v", about, again)
		}
	}
	for number, about := range map[uint64]string{0: "a retired one", 7: "one that is not there"} {
		after, err := s.Use(number, clock(40))
		wantStepRefused(t, "using "+about, s, after, err)
	}
	after, err := s.Retire(7, clock(40))
	wantStepRefused(t, "retiring one that is not there", s, after, err)
	wantTags(t, "no secrets", record.TagSecrets{}, -1)
}

func TestATagSecretThatIsOlderThanTheOneInUseIsNotUsed(t *testing.T) {
	s := add(t, add(t, record.FirstTagSecret([16]byte{1}), 2, 1), 3, 2)
	s = step(t)(s.Use(2, clock(3)))
	for _, number := range []uint64{0, 1} {
		after, err := s.Use(number, clock(4))
		wantStepRefused(t, "using an older one", s, after, err)
	}
}

func TestNoMoreThanFourTagSecretsAreAccepted(t *testing.T) {
	s := record.FirstTagSecret([16]byte{1})
	for i := range int64(3) {
		s = add(t, s, byte(i+2), i)
	}
	after, number, err := s.Add([16]byte{9}, clock(9))
	if wantStepRefused(t, "a fifth", s, after, err); number != 0 {
		t.Errorf("the number is %d", number)
	}
	other := step(t)(s.Retire(1, clock(5)))
	other = step(t)(other.Retire(2, clock(5)))
	other = add(t, add(t, other, 5, 6), 6, 7)
	// The other store has four, of which this one has two that it does not accept any more.
	taken := step(t)(s.Take(other))
	wantTags(t, "taken from the other store", taken, 0, 0, 3, 4, 5)
}

func TestNoTagSecretIsAddedWithoutANumberThatCanBeRead(t *testing.T) {
	s := record.TagSecrets{All: []record.TagSecret{{Number: math.MaxUint64 - 1, Secret: [16]byte{1}, State: record.TagUsed}}}
	after, _, err := s.Add([16]byte{2}, clock(1))
	wantStepRefused(t, "one after the last number", s, after, err)
}

func TestStepsThatContradictEachOtherAreNotTaken(t *testing.T) {
	s := record.FirstTagSecret([16]byte{1})
	a, b := add(t, s, 2, 1), add(t, s, 3, 1)
	after, err := a.Take(b)
	wantStepRefused(t, "two secrets with one number", a, after, err)

	a = step(t)(step(t)(a.Use(1, clock(2))).Retire(0, clock(3)))
	b = step(t)(b.Retire(1, clock(4)))
	after, err = a.Take(b)
	wantStepRefused(t, "each has retired what the other uses", a, after, err)

	a = add(t, add(t, add(t, s, 2, 1), 3, 1), 4, 1)
	fifth := record.TagSecrets{All: []record.TagSecret{s.All[0], {Number: 4, Secret: [16]byte{5}}}}
	after, err = a.Take(fifth)
	wantStepRefused(t, "five would be accepted", a, after, err)
}

func TestAStoreThatFollowsTakesTheTagSecretsOfAnotherThatLostSteps(t *testing.T) {
	first := record.FirstTagSecret([16]byte{1})
	used := step(t)(add(t, first, 2, 5).Use(1, clock(6)))
	other := step(t)(step(t)(add(t, first, 3, 7).Use(1, clock(8))).Retire(0, clock(9)))
	retired := step(t)(step(t)(add(t, used, 4, 7).Use(2, clock(8))).Retire(1, clock(9)))
	four := add(t, add(t, add(t, first, 5, 1), 6, 1), 7, 1)
	for _, c := range []struct {
		name      string
		own, from record.TagSecrets
		accepts   string // the first byte of each secret
		signing   byte
	}{
		{"nothing was lost", first, used, "\x01\x02", 2},
		{"the other one has lost a step", used, first, "\x01\x02", 2},
		{"another secret has the number", used, other, "\x03", 3},
		{"the number is retired", retired, other, "\x04", 4},
		{"the other one uses what is retired", step(t)(used.Retire(0, clock(7))), add(t, first, 3, 7), "\x03", 3},
		{"too many together", four, step(t)(add(t, used, 8, 7).Use(2, clock(8))), "\x01\x02\x08\x07", 8},
		{"far too many together", add(t, used, 9, 7), step(t)(add(t, add(t, other, 10, 10), 11, 10).Use(3, clock(11))), "\x03\x0a\x0b", 11},
	} {
		got, err := c.own.Follow(c.from)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		accepts := ""
		for _, a := range got.Accepted() {
			accepts += string(a.Secret[:1])
		}
		if signing, _ := got.Signing(); accepts != c.accepts || signing.Secret[0] != c.signing {
			t.Errorf("%s: the secrets %x are accepted, and %x makes new tags", c.name, accepts, signing.Secret[0])
		}
		if again, err := got.Follow(c.from); err != nil || !reflect.DeepEqual(again, got) {
			t.Errorf("%s: following again gives %+v, %v", c.name, again, err)
		}
	}
	own := step(t)(used.Retire(0, clock(7)))
	got, err := own.Follow(step(t)(step(t)(other.Use(1, clock(1))).Retire(0, clock(1))))
	if err != nil || got.Accepts(0) {
		t.Errorf("got %+v, %v", got, err)
	}
	after, err := own.Follow(step(t)(add(t, first, 3, 7).Retire(1, clock(8))))
	wantStepRefused(t, "none is left", own, after, err)
	if got, err := own.Follow(first); err != nil || got.Accepts(0) {
		t.Errorf("a retired secret is accepted again: %+v, %v", got, err)
	}
}

func TestSinceReturnsTheTagSecretsThatHaveChanged(t *testing.T) {
	s := record.FirstTagSecret([16]byte{1})
	if changed := s.Since(s); changed != nil {
		t.Errorf("nothing has changed, and Since has %+v", changed)
	}
	next := step(t)(add(t, s, 2, 5).Use(1, clock(6)))
	if got, want := next.Since(s), next.All[1:]; !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	last := step(t)(next.Retire(0, clock(7)))
	if got, want := last.Since(next), last.All[:1]; !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestOfTooManyTagSecretsThoseWithTheLowestNumbersAreRetired(t *testing.T) {
	s := record.FirstTagSecret([16]byte{1})
	first := s
	for i := range uint64(record.MaxTagSecrets + 4) {
		s = add(t, s, byte(i+2), 1)
		s = step(t)(step(t)(s.Use(i+1, clock(2))).Retire(i, clock(3)))
	}
	if len(s.All) != record.MaxTagSecrets || s.Floor != 5 {
		t.Errorf("%d secrets from %d on", len(s.All), s.Floor)
	}
	if merged := first.Merge(s); !reflect.DeepEqual(merged, s) {
		t.Errorf("the first came back: %+v", merged.All[0])
	}
	if s.Accepts(4) {
		t.Error("a secret below the floor is accepted")
	}
	if again := step(t)(s.Retire(4, clock(9))); !reflect.DeepEqual(again, s) {
		t.Error("retiring a secret below the floor has changed something")
	}
}

func TestATagSecretThatIsInUseIsNeverPushedOut(t *testing.T) {
	s := record.FirstTagSecret([16]byte{1})
	for i := range uint64(record.MaxTagSecrets - 1) {
		s = step(t)(add(t, s, byte(i+2), 1).Retire(i+1, clock(2)))
	}
	after, _, err := s.Add([16]byte{99}, clock(3))
	wantStepRefused(t, "one more than there can be", s, after, err)
}

func TestOfTwoTagSecretsWithOneNumberTheGreaterWins(t *testing.T) {
	a, b := record.FirstTagSecret([16]byte{1}), record.FirstTagSecret([16]byte{2})
	for _, merged := range []record.TagSecrets{a.Merge(b), b.Merge(a)} {
		if len(merged.All) != 1 || merged.All[0].Secret != [16]byte{2} {
			t.Errorf("%+v", merged)
		}
	}
}

func TestOfTwoChangesToOneStateOfATagSecretTheEarlierWins(t *testing.T) {
	s := add(t, record.FirstTagSecret([16]byte{1}), 2, 5)
	a, b := step(t)(s.Use(1, clock(7))), step(t)(s.Use(1, clock(6)))
	for _, merged := range []record.TagSecrets{a.Merge(b), b.Merge(a), s.Merge(b), b.Merge(s)} {
		if got := merged.All[1].Changed; !got.Equal(clock(6)) {
			t.Errorf("it changed at %v", got)
		}
	}
}

func TestMergingTagSecretsDoesNotDependOnTheOrder(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	some := func() (s record.TagSecrets) {
		for range random.IntN(5) {
			s.All = append(s.All, record.TagSecret{
				Number: random.Uint64N(40), Secret: [16]byte{byte(random.IntN(3))}, State: record.TagState(random.IntN(3)), Changed: clock(random.Int64N(3)),
			})
		}
		for range random.IntN(2) * 34 {
			s.All = append(s.All, record.TagSecret{Number: random.Uint64N(40), Secret: [16]byte{1}})
		}
		s.Floor = random.Uint64N(4)
		return s.Merge(record.TagSecrets{})
	}
	for range 2000 {
		a, b, c := some(), some(), some()
		one, other := a.Merge(b).Merge(c), c.Merge(a.Merge(b))
		if third := b.Merge(c).Merge(a); !reflect.DeepEqual(one, other) || !reflect.DeepEqual(one, third) || !reflect.DeepEqual(one.Merge(b), one) {
			t.Fatalf("%+v\n%+v\n%+v\nmerge to\n%+v\n%+v\n%+v", a, b, c, one, other, third)
		}
	}
}

func TestTheMessageOfTagSecrets(t *testing.T) {
	secret := [16]byte{9}
	s := record.TagSecrets{Floor: 4, All: []record.TagSecret{
		{Number: 4, State: record.TagRetired, Changed: clock(300)}, {Number: 5, Secret: secret},
	}}
	want := slices.Concat(field(1, varint(1, 4), varint(3, 2), varint(4, 300)), field(1, varint(1, 5), field(2, secret[:])), varint(2, 4))
	if got := s.Encode(); !bytes.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
	for _, message := range [][]byte{
		want,
		slices.Concat(field(1, varint(1, 4), varint(3, 7), varint(4, 400)), want),
		slices.Concat(varint(2, 4), field(1, varint(1, 5), field(2, secret[:])), field(1, field(2, secret[:]), varint(4, 300), varint(1, 4), varint(3, 7))),
	} {
		got, err := record.DecodeTagSecrets(message)
		must(t, err)
		if !reflect.DeepEqual(got, s) {
			t.Errorf("got %+v, want %+v", got, s)
		}
	}
	for _, message := range [][]byte{
		field(1, varint(1, math.MaxUint64)), field(1, field(2, secret[:15])), field(1, varint(4, 1<<60)), field(1, []byte{0}), {0},
	} {
		_, err := record.DecodeTagSecrets(message)
		wantDamaged(t, err)
	}
}

func FuzzDecodeTagSecrets(f *testing.F) {
	s := record.TagSecrets{All: []record.TagSecret{
		{State: record.TagRetired, Changed: clock(1)}, {Number: 1, Secret: [16]byte{2}, State: record.TagUsed, Changed: clock(2)}, {Number: 2, Secret: [16]byte{3}},
	}}
	f.Add(s.Encode(), record.TagSecrets{Floor: 2}.Encode())
	f.Add(field(1, varint(1, math.MaxUint64)), field(1, field(2, make([]byte, 15))))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		va, err := record.DecodeTagSecrets(a)
		if err != nil {
			wantDamaged(t, err)
			return
		}
		back, err := record.DecodeTagSecrets(va.Encode())
		if err != nil || !reflect.DeepEqual(back, va) || !reflect.DeepEqual(va.Merge(back), va) {
			t.Fatalf("%+v reads back as %+v, %v", va, back, err)
		}
		vb, err := record.DecodeTagSecrets(b)
		if err != nil {
			return
		}
		if ab, ba := va.Merge(vb), vb.Merge(va); !reflect.DeepEqual(ab, ba) || !reflect.DeepEqual(ab.Merge(va), ab) {
			t.Errorf("merged in two orders:\n%+v\n%+v", ab, ba)
		}
	})
}
