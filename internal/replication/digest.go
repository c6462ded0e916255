package replication

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"math/bits"
	"sync"
	"sync/atomic"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/access"
	"github.com/latchkeydb/latchkey/internal/merge"
	"github.com/latchkeydb/latchkey/internal/record"
)

// RangeOf returns the range that a record belongs to when stores compare: the last byte of the ID,
// because the first bytes of an ID can be a time, or for a group the first byte of the SHA-256 of
// its name.
func RangeOf(table string, key []byte) byte {
	if table == record.TableGroups {
		hash := sha256.Sum256(key)
		return hash[0]
	}
	return key[len(key)-1]
}

// HashOf returns the hash of a record by which stores compare.
func HashOf(table string, key, sealed []byte) (hash [16]byte) {
	h := sha256.New()
	h.Write([]byte(table))
	h.Write([]byte{0})
	h.Write(key)
	h.Write([]byte{0})
	h.Write(sealed)
	copy(hash[:], h.Sum(nil))
	return hash
}

// Add adds the hash of a record to the summary of its range.
func (s *Summary) Add(hash [16]byte) {
	s.Count++
	s.Sum = addModulo(s.Sum, hash)
}

// addModulo returns a + b modulo 2¹²⁸.
func addModulo(a, b [16]byte) (sum [16]byte) {
	low, carry := bits.Add64(binary.BigEndian.Uint64(a[8:]), binary.BigEndian.Uint64(b[8:]), 0)
	high, _ := bits.Add64(binary.BigEndian.Uint64(a[:8]), binary.BigEndian.Uint64(b[:8]), carry)
	binary.BigEndian.PutUint64(sum[8:], low)
	binary.BigEndian.PutUint64(sum[:8], high)
	return sum
}

// subModulo returns a - b modulo 2¹²⁸.
func subModulo(a, b [16]byte) (difference [16]byte) {
	low, borrow := bits.Sub64(binary.BigEndian.Uint64(a[8:]), binary.BigEndian.Uint64(b[8:]), 0)
	high, _ := bits.Sub64(binary.BigEndian.Uint64(a[:8]), binary.BigEndian.Uint64(b[:8]), borrow)
	binary.BigEndian.PutUint64(difference[8:], low)
	binary.BigEndian.PutUint64(difference[:8], high)
	return difference
}

// summed are the tables whose records are summed.
var summed = []string{record.TableGroups, record.TableUsers, record.TableKeys}

// An index has the hash and the group of each live record that travels, in memory: some 60 bytes a
// record. So the sums for any groups are there at once, and so is what a range has. It is made when
// the first edge compares, and each comparison brings it up to date by the changes since.
type index struct {
	outdated atomic.Bool // the store went back to an earlier state

	mu      sync.Mutex // guards the fields below
	made    bool
	at      uint64 // the commit that the index is of
	items   map[rangeOf]map[string]item
	sums    map[sumOf]Summary
	numbers map[string]uint32 // of groups
}

// An item is what an index has of a record.
type item struct {
	hash  [16]byte
	group uint32 // 0 without a group
}

type rangeOf struct {
	table string
	r     byte
}

type sumOf struct {
	rangeOf
	group uint32
}

// everything is the number that stands for all records in the sums.
const everything = ^uint32(0)

func (x *index) number(group string) uint32 {
	if group == "" {
		return 0
	}
	n, found := x.numbers[group]
	if !found {
		n = uint32(len(x.numbers) + 1)
		x.numbers[group] = n
	}
	return n
}

func (x *index) find(table string, key []byte) (i item, found bool) {
	i, found = x.items[rangeOf{table, RangeOf(table, key)}][string(key)]
	return i, found
}

// set puts an item in the place of an earlier one.
func (x *index) set(table string, key []byte, i item) {
	x.remove(table, key)
	r := rangeOf{table, RangeOf(table, key)}
	if x.items[r] == nil {
		x.items[r] = map[string]item{}
	}
	x.items[r][string(key)] = i
	for _, group := range []uint32{i.group, everything} {
		s := x.sums[sumOf{r, group}]
		s.Add(i.hash)
		x.sums[sumOf{r, group}] = s
	}
}

func (x *index) remove(table string, key []byte) {
	r := rangeOf{table, RangeOf(table, key)}
	i, found := x.items[r][string(key)]
	if !found {
		return
	}
	delete(x.items[r], string(key))
	for _, group := range []uint32{i.group, everything} {
		s := x.sums[sumOf{r, group}]
		s.Count--
		if s.Sum = subModulo(s.Sum, i.hash); s.Count == 0 {
			delete(x.sums, sumOf{r, group})
		} else {
			x.sums[sumOf{r, group}] = s
		}
	}
}

// update brings an index up to date. The caller holds the index's mutex.
func (x *index) update(ctx context.Context, s access.Store) error {
	if x.made {
		// Nothing tells of records that are gone with their tombstones.
		err := s.View(ctx, func(t *merge.Tables) error {
			state, err := readHubState(t)
			x.made = x.at >= state.floor && x.at <= t.Sequence()
			return err
		})
		if err != nil {
			return err
		}
	}
	if x.outdated.Swap(false) || !x.made {
		x.items, x.sums, x.numbers = map[rangeOf]map[string]item{}, map[sumOf]Summary{}, map[string]uint32{}
		if err := s.View(ctx, func(t *merge.Tables) error { x.at = t.Sequence(); return nil }); err != nil {
			return err
		}
		for _, table := range summed {
			if err := x.scan(ctx, s, table); err != nil {
				return err
			}
		}
		x.made = true
	}
	for more := true; more; {
		err := s.View(ctx, func(t *merge.Tables) (err error) {
			more, err = x.follow(t)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// scanAtOnce is how many entries one transaction reads for an index.
const scanAtOnce = 2048

// scan adds the records of a table, in several transactions. What changes meanwhile is among the
// changes since the beginning.
func (x *index) scan(ctx context.Context, s access.Store, table string) error {
	return merge.InSteps(ctx, s.View, table, scanAtOnce, func(t *merge.Tables, e merge.Entry) error {
		return x.take(t, table, e.Key, e.Value)
	})
}

// take adds a record, or removes it if it does not travel.
func (x *index) take(t *merge.Tables, table string, key, sealed []byte) error {
	goes, err := travels(t, table, key, sealed)
	if err != nil {
		return err
	}
	if !goes {
		x.remove(table, key)
		return nil
	}
	group, err := x.groupOf(table, key, sealed)
	if errors.Is(err, record.ErrDamaged) {
		x.remove(table, key)
		return nil
	}
	if err != nil {
		return err
	}
	before, found := x.find(table, key)
	x.set(table, key, item{HashOf(table, key, sealed), group})
	if table == record.TableUsers && x.made && (!found || before.group != group) {
		return x.regroup(t, uuid.UUID(key), group)
	}
	return nil
}

// groupOf returns the number of the group of a record.
func (x *index) groupOf(table string, key, sealed []byte) (uint32, error) {
	switch table {
	case record.TableGroups:
		return x.number(string(key)), nil
	case record.TableUsers:
		u, err := record.Unseal(table, key, sealed, record.DecodeUser)
		if err != nil {
			return 0, err
		}
		return x.number(u.Groups.Now()), nil
	}
	k, err := record.Unseal(table, key, sealed, record.DecodeKey)
	if err != nil {
		return 0, err
	}
	if k.Owner == record.ServerOwner {
		return x.number(k.Groups.Now()), nil
	}
	owner, _ := x.find(record.TableUsers, k.Owner[:])
	return owner.group, nil
}

// regroup puts the keys of a user into another group.
func (x *index) regroup(t *merge.Tables, user uuid.UUID, group uint32) error {
	for e, err := range t.Scan(record.TableNames, user[:], append(user[:], 0xff)) {
		if err != nil {
			return err
		}
		_, id, err := record.SplitNameKey(e.Key)
		if err != nil {
			continue
		}
		if i, found := x.find(record.TableKeys, id[:]); found {
			i.group = group
			x.set(record.TableKeys, id[:], i)
		}
	}
	return nil
}

// follow takes some of the changes since the commit that the index is of.
func (x *index) follow(t *merge.Tables) (more bool, err error) {
	head := t.Sequence()
	changes, err := t.ChangesAfter(merge.Position{Sequence: x.at}, head, scanAtOnce)
	if err != nil {
		return false, err
	}
	for _, c := range changes {
		switch c.Table {
		case record.TableDeadUsers, record.TableDeadKeys:
			if c.Table == record.TableDeadUsers {
				if err := x.regroup(t, uuid.UUID(c.Key), 0); err != nil {
					return false, err
				}
			}
			x.remove(liveTable(c.Table), c.Key)
			continue
		}
		sealed, err := t.Get(c.Table, c.Key)
		if err != nil {
			return false, err
		}
		if sealed == nil {
			x.remove(c.Table, c.Key)
			continue
		}
		if err := x.take(t, c.Table, c.Key, sealed); err != nil {
			return false, err
		}
	}
	if len(changes) < scanAtOnce {
		x.at = head
		return false, nil
	}
	x.at = changes[len(changes)-1].Sequence
	return x.at < head, nil
}

// sum returns the sum of a range for a policy.
func (x *index) sum(r rangeOf, p Policy) (s Summary) {
	s.Table, s.Range = r.table, r.r
	add := func(group uint32) {
		part := x.sums[sumOf{r, group}]
		s.Count += part.Count
		s.Sum = addModulo(s.Sum, part.Sum)
	}
	if p.isAll() {
		add(everything)
		return s
	}
	for _, g := range p.Groups {
		if n, found := x.numbers[g]; found {
			add(n)
		}
	}
	return s
}

// has reports whether a policy has the group of an item. groups are the numbers of its groups, or
// nil for all.
func (i item) isIn(groups map[uint32]bool) bool { return groups == nil || groups[i.group] }

// numbersOf returns the numbers of the groups of a policy, or nil for all.
func (x *index) numbersOf(p Policy) map[uint32]bool {
	if p.isAll() {
		return nil
	}
	groups := map[uint32]bool{}
	for _, g := range p.Groups {
		if n, found := x.numbers[g]; found {
			groups[n] = true
		}
	}
	return groups
}
