package lastuse

import (
	"slices"
	"testing"

	"github.com/google/uuid"
)

func use(key, verifier byte, minute uint32) Use {
	return Use{Join(uuid.UUID{key}, [8]byte{verifier}), minute}
}

func TestASetKeepsTheLatestUseOfEachTokenUpToItsLimit(t *testing.T) {
	s := NewSet(3)
	for _, u := range []Use{use(2, 1, 5), use(1, 1, 7), use(2, 1, 4), use(2, 2, 9), use(3, 1, 1), use(1, 1, 8)} {
		s.Add(u)
	}
	if got, want := Sort(s.AppendTo(nil)), []Use{use(1, 1, 8), use(2, 1, 5), use(2, 2, 9)}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got, want := Sort(s.Of(uuid.UUID{2})), []Use{use(2, 1, 5), use(2, 2, 9)}; !slices.Equal(got, want) {
		t.Errorf("the tokens of the key were used in %v, want %v", got, want)
	}
	s.Remove(use(1, 1, 7)) // a later use stays
	s.Remove(use(2, 1, 5))
	s.Remove(use(4, 1, 5))
	s.Add(use(3, 1, 2)) // there is room again
	if got, want := Sort(s.AppendTo(nil)), []Use{use(1, 1, 8), use(2, 2, 9), use(3, 1, 2)}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestSortKeepsTheLatestUseOfEachToken(t *testing.T) {
	got := Sort([]Use{use(2, 1, 5), use(1, 2, 3), use(2, 1, 6), use(1, 1, 4), use(2, 1, 2)})
	if want := []Use{use(1, 1, 4), use(1, 2, 3), use(2, 1, 6)}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if id := got[1].ID; id.Key() != (uuid.UUID{1}) || id.Verifier() != [8]byte{2} {
		t.Errorf("got key %s and verifier %x", id.Key(), id.Verifier())
	}
}
