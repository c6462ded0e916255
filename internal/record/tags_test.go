package record_test

import (
	"bytes"
	"math"
	"reflect"
	"slices"
	"testing"

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

func TestATagSecretIsAcceptedThenUsedThenRetired(t *testing.T) {
	s := record.TagSecrets{}.Add([16]byte{1}).Set(0, record.TagUsed)
	wantTags(t, "a new domain", s, 0, 0)
	s = s.Add([16]byte{2})
	wantTags(t, "with a second secret", s, 0, 0, 1)
	s = s.Set(1, record.TagUsed)
	wantTags(t, "that is used", s, 1, 0, 1)
	old := s
	s = s.Set(0, record.TagRetired)
	wantTags(t, "the first is retired", s, 1, 1)
	if s.All[0].Secret != [16]byte{} || s.All[1].Secret != [16]byte{2} {
		t.Errorf("the secrets are %v", s.All)
	}
	wantTags(t, "a retired secret stays retired", s.Set(0, record.TagUsed), 1, 1)
	wantTags(t, "merged with an older version", s.Merge(old), 1, 1)
	wantTags(t, "merged the other way", old.Merge(s), 1, 1)
	wantTags(t, "a number that is not there", s.Set(7, record.TagUsed), 1, 1)
	wantTags(t, "no secrets", record.TagSecrets{}, -1)
}

func TestOfTooManyTagSecretsThoseWithTheLowestNumbersAreRetired(t *testing.T) {
	s := record.TagSecrets{}
	first := s.Add([16]byte{1})
	for i := range record.MaxTagSecrets + 5 {
		s = s.Add([16]byte{byte(i + 1)})
	}
	if len(s.All) != record.MaxTagSecrets || s.Floor != 5 {
		t.Errorf("%d secrets from %d on", len(s.All), s.Floor)
	}
	if merged := first.Merge(s); !reflect.DeepEqual(merged, s) {
		t.Errorf("the first came back: %+v", merged.All[0])
	}
}

func TestOfTwoTagSecretsWithOneNumberTheGreaterWins(t *testing.T) {
	a, b := record.TagSecrets{}.Add([16]byte{1}), record.TagSecrets{}.Add([16]byte{2})
	for _, merged := range []record.TagSecrets{a.Merge(b), b.Merge(a)} {
		if len(merged.All) != 1 || merged.All[0].Secret != [16]byte{2} {
			t.Errorf("%+v", merged)
		}
	}
}

func TestTheMessageOfTagSecrets(t *testing.T) {
	secret := [16]byte{9}
	s := record.TagSecrets{Floor: 4}.Add(secret).Add(secret).Set(4, record.TagRetired)
	want := slices.Concat(field(1, varint(1, 4), varint(3, 2)), field(1, varint(1, 5), field(2, secret[:])), varint(2, 4))
	if got := s.Encode(); !bytes.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
	for _, message := range [][]byte{
		want,
		slices.Concat(varint(2, 4), field(1, varint(1, 5), field(2, secret[:])), field(1, field(2, secret[:]), varint(1, 4), varint(3, 7))),
	} {
		got, err := record.DecodeTagSecrets(message)
		must(t, err)
		if !reflect.DeepEqual(got, s) {
			t.Errorf("got %+v, want %+v", got, s)
		}
	}
	for _, message := range [][]byte{field(1, varint(1, math.MaxUint64)), field(1, field(2, secret[:15])), field(1, []byte{0}), {0}} {
		_, err := record.DecodeTagSecrets(message)
		wantDamaged(t, err)
	}
}

func FuzzDecodeTagSecrets(f *testing.F) {
	s := record.TagSecrets{}.Add([16]byte{1}).Add([16]byte{2}).Add([16]byte{3}).Set(0, record.TagRetired).Set(1, record.TagUsed)
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
