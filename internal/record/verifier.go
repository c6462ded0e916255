package record

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/latchkeydb/latchkey/internal/sorted"
)

// MaxVerifiers is how many verifiers a key can have, retired ones included.
const MaxVerifiers = 64

// MaxSuperseded is how many superseded bases a key can list.
const MaxSuperseded = 512

// A VerifierID names a verifier among those of its key. It begins with two bytes of the SHA-256 of
// the secret, so a login hashes only for the verifier that can match, and not at all for a token
// whose verifier is retired. The other bytes are random.
type VerifierID [8]byte

// Hint returns the first two bytes of the ID of a secret's verifier. Two bytes say nothing useful
// about 256 random bits.
func Hint(secret []byte) [2]byte {
	sum := sha256.Sum256(secret)
	return [2]byte{sum[0], sum[1]}
}

// NewVerifierID draws the ID of the verifier of a secret. fill fills its argument with random
// bytes.
func NewVerifierID(secret []byte, fill func([]byte)) (id VerifierID) {
	hint := Hint(secret)
	fill(id[copy(id[:], hint[:]):])
	return id
}

// Matches reports whether the verifier can be that of the secret with a hint.
func (id VerifierID) Matches(hint [2]byte) bool { return id[0] == hint[0] && id[1] == hint[1] }

// A Handle is what a key that was made elsewhere is found by: some bytes of a hash of a part of its
// token, or of the whole token. Two keys can have one handle. The zero Handle is none.
type Handle [16]byte

// A Verifier is what is stored for one secret of a key.
type Verifier struct {
	ID VerifierID
	// PHC is the argon2id hash of the secret. If there is a handle, PHC is what another system kept
	// of the whole token. It is empty once the verifier is retired.
	PHC string
	// Handle finds the token of a key that was made elsewhere. Otherwise it is zero.
	Handle Handle
	// Replaces is the verifier that a rotation replaced by this one. The first verifier of a key
	// replaces the zero ID.
	Replaces VerifierID
	// Generation is 0 for the first verifier, and one more than that of the verifier that it
	// replaces.
	Generation uint64
	// End is when the verifier stops being good, to the second. The zero time is never.
	End time.Time
	// UntilUsed says that the first login with this verifier retires the verifier that it replaces.
	UntilUsed bool
	// Base names the last rotation without overlap in the line of rotations that led to this
	// verifier, which may be the rotation that made this verifier.
	Base Base
	// Retired says that the verifier is good no more.
	Retired bool
	// Tag is the number of the tag secret under which the token was made. See Tagged.
	Tag     uint64
	Unknown Unknown
}

// Tagged reports whether the token was made under a tag secret. The token of a key that was made
// elsewhere was not.
func (v Verifier) Tagged() bool { return v.Handle == Handle{} }

// A Base names a rotation without overlap by the verifier that the rotation made, and the
// generation of that verifier. The zero Base stands for the making of the key.
type Base struct {
	Generation uint64
	ID         VerifierID
}

func (b Base) compare(other Base) int {
	return cmp.Or(cmp.Compare(b.Generation, other.Generation), bytes.Compare(b.ID[:], other.ID[:]))
}

// Next returns a verifier that is to replace v in a rotation. v must be as its key has it, because
// a rotation without overlap has changed it. The ID must be new.
func (v Verifier) Next(id VerifierID, phc string) Verifier {
	generation := v.Generation
	if generation < math.MaxUint64 { // no honest key comes so far
		generation++
	}
	return Verifier{ID: id, PHC: phc, Replaces: v.ID, Generation: generation, Base: v.Base}
}

// Verifiers are the verifiers of a key.
type Verifiers struct {
	// All are in the order of their IDs. There are at most [MaxVerifiers].
	All []Verifier
	// Superseded has the bases that rotations without overlap have replaced, in order. There are at
	// most [MaxSuperseded]. Every verifier of such a base is retired, also one that another replica
	// has made, or will make, before it hears of the rotation. If two such rotations knew nothing
	// of each other, the verifiers of both are good, because each is a base of its own.
	Superseded []Base
	// Floor is the lowest generation that is still kept. Verifiers below it are retired. It grows
	// when there are more than [MaxVerifiers].
	Floor uint64
	// BaseFloor is the lowest generation of a base that is still listed. Bases below it are
	// superseded. It grows when there are more than [MaxSuperseded].
	BaseFloor uint64
	// Sealed is set when a floor cannot grow. Sealed verifiers are all retired for good. No honest
	// key comes so far.
	Sealed bool
}

// Good returns the verifiers that are good at a moment, the oldest generation first.
func (vs Verifiers) Good(now time.Time) (good []Verifier) {
	for _, v := range vs.All {
		if !v.Retired && (v.End.IsZero() || now.Before(v.End)) {
			good = append(good, v)
		}
	}
	sorted.Func(good, func(a, b Verifier) int {
		return cmp.Or(cmp.Compare(a.Generation, b.Generation), bytes.Compare(a.ID[:], b.ID[:]))
	})
	return good
}

// Find returns the verifier with an ID.
func (vs Verifiers) Find(id VerifierID) (v Verifier, found bool) {
	if i, found := vs.find(id); found {
		return vs.All[i], true
	}
	return Verifier{}, false
}

func (vs Verifiers) find(id VerifierID) (i int, found bool) {
	return slices.BinarySearchFunc(vs.All, id, func(v Verifier, id VerifierID) int { return bytes.Compare(v.ID[:], id[:]) })
}

// Used returns the verifier with an ID, and the verifier that a login with it must retire, or nil
// if there is none. A verifier whose end has passed must be retired too, because somebody may set
// the clock back.
func (vs Verifiers) Used(id VerifierID) (v Verifier, replaced *Verifier) {
	v, _ = vs.Find(id)
	if other, found := vs.Find(v.Replaces); v.UntilUsed && found && !other.Retired {
		replaced = &other
	}
	return v, replaced
}

// Add returns the verifiers with one more.
func (vs Verifiers) Add(v Verifier) Verifiers { return vs.merge(Verifiers{All: []Verifier{v}}) }

// Retire returns the verifiers with one of them retired.
func (vs Verifiers) Retire(id VerifierID) Verifiers {
	return vs.change(id, func(v *Verifier) { v.Retired = true })
}

// EndAt returns the verifiers after one of them was made to end at a moment, which is rounded down
// to the second. A verifier that ends earlier stays as it is.
func (vs Verifiers) EndAt(id VerifierID, end time.Time) Verifiers {
	return vs.change(id, func(v *Verifier) { v.End = earlier(v.End, end.UTC().Truncate(time.Second)) })
}

// Supersede returns the verifiers as a rotation without overlap leaves them. The new verifier has
// an ID and is among them. All others are retired, and so is all that other replicas made from
// them.
func (vs Verifiers) Supersede(id VerifierID) Verifiers {
	vs = vs.clone()
	for i := range vs.All {
		if v := &vs.All[i]; v.ID == id {
			v.Base = Base{Generation: v.Generation, ID: id}
		} else {
			vs.Superseded = append(vs.Superseded, v.Base)
		}
	}
	return vs.settle()
}

// Overlap returns the verifiers as a rotation with an overlap leaves them. Both the current one and
// the new one are among them. The current one is good until end, and all others are retired.
func (vs Verifiers) Overlap(current, next VerifierID, end time.Time) Verifiers {
	for _, v := range vs.All {
		if v.ID != current && v.ID != next {
			vs = vs.Retire(v.ID)
		}
	}
	return vs.EndAt(current, end)
}

// Forget returns the verifiers without those that are retired, and without what keeps them from
// coming back. It is for a store that never had a replica.
func (vs Verifiers) Forget() Verifiers {
	if vs.Sealed {
		return vs
	}
	return Verifiers{All: slices.DeleteFunc(slices.Clone(vs.All), func(v Verifier) bool { return v.Retired })}
}

func (vs Verifiers) change(id VerifierID, fn func(*Verifier)) Verifiers {
	vs = vs.clone()
	if i, found := vs.find(id); found {
		fn(&vs.All[i])
	}
	return vs.settle()
}

func (vs Verifiers) clone() Verifiers {
	vs.All, vs.Superseded = slices.Clone(vs.All), slices.Clone(vs.Superseded)
	for i := range vs.All {
		vs.All[i].Unknown = slices.Clone(vs.All[i].Unknown)
	}
	return vs
}

// merge is the union by ID. Retired wins, and of two ends the earlier wins.
func (vs Verifiers) merge(other Verifiers) Verifiers {
	merged, other := vs.clone(), other.clone()
	merged.Floor, merged.BaseFloor = max(vs.Floor, other.Floor), max(vs.BaseFloor, other.BaseFloor)
	merged.Sealed = vs.Sealed || other.Sealed
	merged.Superseded = append(merged.Superseded, other.Superseded...)
	for _, v := range other.All {
		i, found := merged.find(v.ID)
		if !found {
			merged.All = slices.Insert(merged.All, i, v)
			continue
		}
		merged.All[i] = merged.All[i].merge(v)
	}
	return merged.settle()
}

// merge merges two versions of one verifier. Of the fields that never change, both versions have
// the same value, or somebody made one of them up. Then the greater value wins, so that all
// replicas choose the same one.
func (v Verifier) merge(other Verifier) Verifier {
	v.PHC = max(v.PHC, other.PHC)
	if bytes.Compare(v.Handle[:], other.Handle[:]) < 0 {
		v.Handle = other.Handle
	}
	if bytes.Compare(v.Replaces[:], other.Replaces[:]) < 0 {
		v.Replaces = other.Replaces
	}
	if v.Base.compare(other.Base) < 0 {
		v.Base = other.Base
	}
	v.Generation, v.Tag = max(v.Generation, other.Generation), max(v.Tag, other.Tag)
	v.End = earlier(v.End, other.End)
	v.UntilUsed = v.UntilUsed || other.UntilUsed
	v.Retired = v.Retired || other.Retired
	v.Unknown = v.Unknown.merge(other.Unknown)
	return v
}

// settle retires the verifiers that are superseded, and raises the floors until no list is too
// long. Settling before more verifiers are merged and settling afterwards give the same result,
// because a floor depends only on the greatest generations of all that was ever merged.
func (vs Verifiers) settle() Verifiers {
	sorted.Func(vs.Superseded, Base.compare)
	vs.Superseded = slices.Compact(vs.Superseded)
	var bases, generations []uint64
	for _, b := range vs.Superseded {
		bases = append(bases, b.Generation)
	}
	for _, v := range vs.All {
		generations = append(generations, v.Generation)
	}
	slices.Sort(generations)
	var ok, baseOK bool
	vs.Floor, ok = raise(vs.Floor, generations, MaxVerifiers)
	vs.BaseFloor, baseOK = raise(vs.BaseFloor, bases, MaxSuperseded)
	if vs.Sealed || !ok || !baseOK {
		return Verifiers{Sealed: true}
	}
	vs.Superseded = slices.DeleteFunc(vs.Superseded, func(b Base) bool { return b.Generation < vs.BaseFloor })
	vs.All = slices.DeleteFunc(vs.All, func(v Verifier) bool { return v.Generation < vs.Floor })
	for i := range vs.All {
		v := &vs.All[i]
		if v.Retired = v.Retired || vs.superseded(v.Base); v.Retired {
			v.PHC, v.UntilUsed = "", false
		}
	}
	if len(vs.All) == 0 {
		vs.All = nil
	}
	if len(vs.Superseded) == 0 {
		vs.Superseded = nil
	}
	return vs
}

// raise returns the floor of some generations, in order, of which at most so many are kept. It
// reports whether there is such a floor.
func raise(floor uint64, generations []uint64, most int) (raised uint64, ok bool) {
	i, _ := slices.BinarySearch(generations, floor)
	kept := generations[i:]
	if len(kept) <= most {
		return floor, true
	}
	last := kept[len(kept)-most-1] // the last generation to go
	return last + 1, last < math.MaxUint64
}

// superseded reports whether a base was replaced by a rotation without overlap.
func (vs Verifiers) superseded(b Base) bool {
	_, listed := slices.BinarySearchFunc(vs.Superseded, b, Base.compare)
	return listed || b.Generation < vs.BaseFloor
}

// earlier returns the earlier of two ends, the zero time being never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

func (vs Verifiers) encode() []byte {
	var m Message
	for _, v := range vs.All {
		m.element(1, v.encode())
	}
	for _, b := range vs.Superseded {
		m.element(2, b.encode())
	}
	m.Number(3, vs.Floor)
	m.Number(4, vs.BaseFloor)
	m.Bool(5, vs.Sealed)
	return m
}

func decodeVerifiers(b []byte) (vs Verifiers, err error) {
	for f, err := range Fields(b) {
		if err != nil {
			return vs, err
		}
		switch f.Num {
		case 1:
			var v Verifier
			v, err = decodeVerifier(f.Bytes)
			vs.All = append(vs.All, v)
		case 2:
			var b Base
			b, err = decodeBase(f.Bytes)
			vs.Superseded = append(vs.Superseded, b)
		case 3:
			vs.Floor = f.Number
		case 4:
			vs.BaseFloor = f.Number
		case 5:
			vs.Sealed = f.Number != 0
		}
		if err != nil {
			return vs, err
		}
	}
	sorted.Func(vs.All, func(a, b Verifier) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	for i := range vs.All {
		if i > 0 && vs.All[i].ID == vs.All[i-1].ID {
			return vs, fmt.Errorf("%w: two verifiers with one ID", ErrDamaged)
		}
	}
	return vs.settle(), nil
}

func (b Base) encode() []byte {
	var m Message
	m.Number(1, b.Generation)
	m.id(2, b.ID)
	return m
}

func decodeBase(message []byte) (b Base, err error) {
	for f, err := range Fields(message) {
		if err != nil {
			return b, err
		}
		switch f.Num {
		case 1:
			b.Generation = f.Number
		case 2:
			if err := decodeVerifierID(f.Bytes, &b.ID); err != nil {
				return b, err
			}
		}
	}
	return b, nil
}

func (v Verifier) encode() []byte {
	var m Message
	m.Bytes(1, v.ID[:])
	m.Bytes(2, []byte(v.PHC))
	m.id(3, v.Replaces)
	m.Number(4, v.Generation)
	m.Number(5, encodeSeconds(v.End))
	m.Bool(6, v.UntilUsed)
	m.Bool(7, v.Retired)
	m.Bytes(8, v.Base.encode())
	if v.Handle != (Handle{}) {
		m.Bytes(9, v.Handle[:])
	}
	m.Number(10, v.Tag)
	return append(m, v.Unknown.sorted()...)
}

// id appends the ID of a verifier, unless it is zero.
func (m *Message) id(field int, id VerifierID) {
	if id != (VerifierID{}) {
		m.element(field, id[:])
	}
}

// areFresh reports whether verifiers surely are those of one token at most, which was not ended.
func areFresh(verifiers []byte) bool {
	n := 0
	for f, err := range Fields(verifiers) {
		if n++; err != nil || f.Num != 1 || n > 1 {
			return false
		}
		for v, err := range Fields(f.Bytes) {
			if err != nil || v.Num == 7 {
				return false
			}
		}
	}
	return true
}

func decodeVerifier(b []byte) (v Verifier, err error) {
	named := false
	for f, err := range Fields(b) {
		if err != nil {
			return v, err
		}
		switch f.Num {
		case 1:
			named, err = true, decodeVerifierID(f.Bytes, &v.ID)
		case 2:
			v.PHC, err = decodeString("verifier", f.Bytes, MaxPHC)
		case 3:
			err = decodeVerifierID(f.Bytes, &v.Replaces)
		case 4:
			v.Generation = f.Number
		case 5:
			v.End, err = decodeSeconds(f.Number)
		case 6:
			v.UntilUsed = f.Number != 0
		case 7:
			v.Retired = f.Number != 0
		case 8:
			v.Base, err = decodeBase(f.Bytes)
		case 9:
			if copy(v.Handle[:], f.Bytes) != len(f.Bytes) || len(f.Bytes) != len(v.Handle) {
				err = fmt.Errorf("%w: a handle has %d bytes", ErrDamaged, len(f.Bytes))
			}
		case 10:
			v.Tag = f.Number
		default:
			v.Unknown.add(f)
		}
		if err != nil {
			return v, err
		}
	}
	if !named {
		return v, fmt.Errorf("%w: a verifier without an ID", ErrDamaged)
	}
	v.Unknown = v.Unknown.sorted()
	return v, nil
}

func decodeVerifierID(b []byte, id *VerifierID) error {
	if len(b) != len(id) {
		return fmt.Errorf("%w: the ID of a verifier has %d bytes", ErrDamaged, len(b))
	}
	copy(id[:], b)
	return nil
}
