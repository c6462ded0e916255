package record

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/latchkeydb/latchkey/internal/sorted"
)

// MaxTagSecrets is how many tag secrets a domain can have, retired ones included.
const MaxTagSecrets = 32

// MaxAcceptedTags is how many tag secrets can be accepted at once. A login computes a tag under
// each of them.
const MaxAcceptedTags = 4

// ErrTagSecret means that a step of the replacement of a tag secret cannot be taken now.
var ErrTagSecret = errors.New("tag secret cannot be changed")

// A TagSecret is one of the secrets under which the stores of a domain make and accept the tags of
// tokens. A secret is accepted everywhere before it makes tags, so that no store refuses a token
// that another store has just made.
type TagSecret struct {
	Number uint64   // of the secret in its domain; the first has 0
	Secret [16]byte // zero once the secret is retired
	State  TagState
	// Changed is when the secret got its state, to the millisecond. The zero time means with the
	// domain.
	Changed time.Time
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

// FirstTagSecret returns the secrets of a new domain, which has one.
func FirstTagSecret(secret [16]byte) TagSecrets {
	return TagSecrets{All: []TagSecret{{Secret: secret, State: TagUsed}}}
}

// Accepts reports whether tags under the secret with a number are good.
func (s TagSecrets) Accepts(number uint64) bool {
	t, found := s.find(number)
	return found && t.State < TagRetired
}

// find returns the secret with a number. Secrets below the floor are retired.
func (s TagSecrets) find(number uint64) (t TagSecret, found bool) {
	for _, t := range s.All {
		if t.Number == number {
			return t, true
		}
	}
	return TagSecret{Number: number, State: TagRetired}, number < s.Floor
}

// Add returns the secrets with one more, which has the next number and is accepted, and the number.
//
// Errors: [ErrTagSecret] if too many are accepted, if the domain had too many since the oldest
// accepted one, or if no number is left, which only a forged export can bring about.
func (s TagSecrets) Add(secret [16]byte, now time.Time) (next TagSecrets, number uint64, err error) {
	number = s.Floor
	if n := len(s.All); n > 0 {
		number = s.All[n-1].Number + 1
	}
	if number == math.MaxUint64 { // a record with it cannot be read
		return s, 0, fmt.Errorf("%w: the domain has no more numbers for tag secrets", ErrTagSecret)
	}
	next = s.Merge(TagSecrets{All: []TagSecret{{Number: number, Secret: secret, Changed: now}}})
	if n := len(s.Accepted()); n >= MaxAcceptedTags || len(next.Accepted()) != n+1 {
		return s, 0, fmt.Errorf("%w: the domain accepts %d already, so retire the oldest first", ErrTagSecret, n)
	}
	return next, number, nil
}

// Use returns the secrets with one of them making new tags. It must be newer than the one that
// makes them now. If it makes them already, nothing changes.
//
// Errors: [ErrTagSecret].
func (s TagSecrets) Use(number uint64, now time.Time) (TagSecrets, error) {
	t, found := s.find(number)
	signing, _ := s.Signing()
	switch {
	case !found:
		return s, fmt.Errorf("%w: there is no tag secret %d", ErrTagSecret, number)
	case t.State == TagRetired:
		return s, fmt.Errorf("%w: tag secret %d is retired", ErrTagSecret, number)
	case number < signing.Number:
		return s, fmt.Errorf("%w: tag secret %d is in use, which is newer than %d; add another one", ErrTagSecret, signing.Number, number)
	}
	return s.set(t, TagUsed, now), nil
}

// Retire returns the secrets with one of them retired. If it is retired already, nothing changes.
//
// Errors: [ErrTagSecret] if the secret makes new tags, or does not exist.
func (s TagSecrets) Retire(number uint64, now time.Time) (TagSecrets, error) {
	t, found := s.find(number)
	signing, _ := s.Signing()
	switch {
	case !found:
		return s, fmt.Errorf("%w: there is no tag secret %d", ErrTagSecret, number)
	case number == signing.Number:
		return s, fmt.Errorf("%w: tag secret %d is in use, so use another one first", ErrTagSecret, number)
	}
	return s.set(t, TagRetired, now), nil
}

// Take returns the secrets with those of another store of the domain, by which the steps that were
// taken there are taken here.
//
// Errors: [ErrTagSecret] if the stores have gone ways of their own, so that no secret would make
// new tags, or too many would be accepted.
func (s TagSecrets) Take(other TagSecrets) (TagSecrets, error) {
	merged := s.Merge(other)
	_, signs := merged.Signing()
	forked := slices.ContainsFunc(other.Accepted(), func(o TagSecret) bool {
		t, found := s.find(o.Number)
		return found && t.State < TagRetired && t.Secret != o.Secret
	})
	if forked || !signs || len(merged.Accepted()) > MaxAcceptedTags {
		return s, fmt.Errorf("%w: the stores of the domain disagree; take each step in one store, and then take it over in the others", ErrTagSecret)
	}
	return merged, nil
}

// Follow is Take for a store that follows the other one, whatever steps the other one may have
// lost. Where the two have gone ways of their own, those of the other store count. A secret that is
// retired here stays retired.
//
// Errors: [ErrTagSecret] if no secret would be accepted.
func (s TagSecrets) Follow(other TagSecrets) (TagSecrets, error) {
	own := TagSecrets{Floor: s.Floor}
	for _, t := range s.All {
		theirs, found := other.find(t.Number)
		if !found || t.State >= TagRetired || theirs.State >= TagRetired || t.Secret == theirs.Secret {
			own.All = append(own.All, t)
		}
	}
	merged := own.Merge(other)
	if len(merged.Accepted()) > MaxAcceptedTags { // with those that the other store does not know
		own.All = slices.DeleteFunc(own.All, func(t TagSecret) bool {
			_, found := other.find(t.Number)
			return !found && t.State < TagRetired
		})
		merged = own.Merge(other)
	}
	if _, signs := merged.Signing(); signs {
		return merged, nil
	}
	// The other store may use one that is retired here.
	accepted := merged.Accepted()
	if len(accepted) == 0 {
		return s, fmt.Errorf("%w: every tag secret of the other store is retired here; add another one there and use it", ErrTagSecret)
	}
	last := accepted[len(accepted)-1]
	return merged.set(last, TagUsed, last.Changed), nil
}

// Since returns the secrets that are not as they were in an earlier version.
func (s TagSecrets) Since(was TagSecrets) (changed []TagSecret) {
	for _, t := range s.All {
		before, found := was.find(t.Number)
		if !found || before.State != t.State || before.Secret != t.Secret {
			changed = append(changed, t)
		}
	}
	return changed
}

// set returns the secrets with one of them in a state, unless it has come as far already.
func (s TagSecrets) set(t TagSecret, state TagState, now time.Time) TagSecrets {
	if t.State >= state {
		return s
	}
	t.State, t.Changed = state, now
	return s.Merge(TagSecrets{All: []TagSecret{t}})
}

// Merge returns the union by number. Of two states the higher wins, with the time of its change; of
// equal states the earlier change. Two secrets with one number come of a domain that was forked,
// and the greater one wins.
func (s TagSecrets) Merge(other TagSecrets) TagSecrets {
	all := slices.Concat(s.All, other.All)
	sorted.StableFunc(all, func(a, b TagSecret) int { return cmp.Compare(a.Number, b.Number) })
	merged := TagSecrets{Floor: max(s.Floor, other.Floor)}
	var numbers []uint64
	for _, t := range all {
		n := len(merged.All)
		if n == 0 || merged.All[n-1].Number != t.Number {
			merged.All, numbers = append(merged.All, t), append(numbers, t.Number)
			continue
		}
		last := &merged.All[n-1]
		switch {
		case t.State > last.State:
			last.State, last.Changed = t.State, t.Changed
		case t.State == last.State:
			last.Changed = earlier(last.Changed, t.Changed)
		}
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
		if !t.Changed.IsZero() { // which is before 1970
			tm.Number(4, encodeMilliseconds(t.Changed))
		}
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
			t.State = min(TagState(f.Number), TagRetired)
		case 4:
			if f.Number > 0 {
				t.Changed, err = decodeMilliseconds(f.Number)
			}
		}
		if err != nil {
			return t, err
		}
	}
	if t.Number == math.MaxUint64 {
		return t, fmt.Errorf("%w: a tag secret with the last number", ErrDamaged)
	}
	return t, nil
}
