package record

import (
	"bytes"
	"cmp"
	"fmt"
	"math"
	"slices"
)

// MaxTagSecrets is how many tag secrets a domain can have, retired ones included.
const MaxTagSecrets = 32

// A TagSecret is one of the secrets under which the stores of a domain make and accept the tags of
// tokens. A secret is accepted everywhere before it makes tags, so that no store refuses a token
// that another store has just made.
type TagSecret struct {
	Number uint64   // of the secret in its domain; the first has 0
	Secret [16]byte // zero once the secret is retired
	State  TagState
}

// A TagState is how far a tag secret has come. It only goes up.
type TagState uint64

// The states of a tag secret.
const (
	TagAccepted TagState = iota // tags under the secret are good
	TagUsed                     // new tags may be made under it, too
	TagRetired                  // tags under the secret are good no more
)

// TagSecrets are the tag secrets of a domain.
type TagSecrets struct {
	// All are in the order of their numbers. There are at most [MaxTagSecrets].
	All []TagSecret
	// Floor is the lowest number that is still kept. Secrets below it are retired. It grows when
	// there are more than [MaxTagSecrets].
	Floor uint64
}

// Signing returns the secret that makes new tags: of the used ones the one with the highest number.
// It reports whether there is one.
func (s TagSecrets) Signing() (t TagSecret, found bool) {
	for _, t := range slices.Backward(s.All) {
		if t.State == TagUsed {
			return t, true
		}
	}
	return TagSecret{}, false
}

// Accepted returns the secrets under which tags are good.
func (s TagSecrets) Accepted() (all []TagSecret) {
	for _, t := range s.All {
		if t.State < TagRetired {
			all = append(all, t)
		}
	}
	return all
}

// Add returns the secrets with one more, which has the next number and is accepted.
func (s TagSecrets) Add(secret [16]byte) TagSecrets {
	next := s.Floor
	if n := len(s.All); n > 0 {
		next = s.All[n-1].Number + 1
	}
	return s.Merge(TagSecrets{All: []TagSecret{{Number: next, Secret: secret}}})
}

// Set returns the secrets with one of them in a state. A state that the secret has passed changes
// nothing.
func (s TagSecrets) Set(number uint64, state TagState) TagSecrets {
	for _, t := range s.All {
		if t.Number == number {
			t.State = state
			return s.Merge(TagSecrets{All: []TagSecret{t}})
		}
	}
	return s
}

// Merge returns the union by number. Of two states the higher wins. Two secrets with one number
// come of a domain that was forked, and the greater one wins.
func (s TagSecrets) Merge(other TagSecrets) TagSecrets {
	all := slices.Concat(s.All, other.All)
	slices.SortStableFunc(all, func(a, b TagSecret) int { return cmp.Compare(a.Number, b.Number) })
	merged := TagSecrets{Floor: max(s.Floor, other.Floor)}
	var numbers []uint64
	for _, t := range all {
		n := len(merged.All)
		if n == 0 || merged.All[n-1].Number != t.Number {
			merged.All, numbers = append(merged.All, t), append(numbers, t.Number)
			continue
		}
		last := &merged.All[n-1]
		last.State = max(last.State, t.State)
		if bytes.Compare(last.Secret[:], t.Secret[:]) < 0 {
			last.Secret = t.Secret
		}
	}
	merged.Floor, _ = raise(merged.Floor, numbers, MaxTagSecrets)
	merged.All = slices.DeleteFunc(merged.All, func(t TagSecret) bool { return t.Number < merged.Floor })
	if len(merged.All) == 0 {
		merged.All = nil
	}
	for i := range merged.All {
		if t := &merged.All[i]; t.State >= TagRetired {
			t.State, t.Secret = TagRetired, [16]byte{}
		}
	}
	return merged
}

// Encode returns the message of the secrets.
func (s TagSecrets) Encode() []byte {
	var m Message
	for _, t := range s.All {
		var tm Message
		tm.Number(1, t.Number)
		if t.State < TagRetired {
			tm.Bytes(2, t.Secret[:])
		}
		tm.Number(3, uint64(t.State))
		m.element(1, tm)
	}
	m.Number(2, s.Floor)
	return m
}

// DecodeTagSecrets reads the message of a domain's tag secrets.
//
// Errors: [ErrDamaged].
func DecodeTagSecrets(message []byte) (s TagSecrets, err error) {
	for f, err := range Fields(message) {
		if err != nil {
			return s, err
		}
		switch f.Num {
		case 1:
			t, err := decodeTagSecret(f.Bytes)
			if err != nil {
				return s, err
			}
			s.All = append(s.All, t)
		case 2:
			s.Floor = f.Number
		}
	}
	return s.Merge(TagSecrets{}), nil
}

func decodeTagSecret(message []byte) (t TagSecret, err error) {
	for f, err := range Fields(message) {
		if err != nil {
			return t, err
		}
		switch f.Num {
		case 1:
			t.Number = f.Number
		case 2:
			if len(f.Bytes) != len(t.Secret) {
				return t, fmt.Errorf("%w: a tag secret of %d bytes", ErrDamaged, len(f.Bytes))
			}
			t.Secret = [16]byte(f.Bytes)
		case 3:
			t.State = TagState(f.Number)
		}
	}
	if t.Number == math.MaxUint64 {
		return t, fmt.Errorf("%w: a tag secret with the last number", ErrDamaged)
	}
	return t, nil
}
