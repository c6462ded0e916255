package merge_test

import (
	"bytes"
	"errors"
	"iter"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/cache"
	"github.com/latchkeydb/latchkey/internal/merge"
	"github.com/latchkeydb/latchkey/internal/record"
)

// store is a store in a map from a table, a zero byte and a key to values. It keeps what the tables
// of a store must keep, and no more.
type store struct {
	domain uuid.UUID
	values map[string]string
	most   int // writes of one transaction; 0 for no bound
	stale  cache.Stale

	forgotten []string // the records that were deleted as forgotten ones
}

func newStore(domain uuid.UUID) *store { return &store{domain: domain, values: map[string]string{}} }

func at(table string, key []byte) string { return table + "\x00" + string(key) }

var errTooMany = errors.New("too many writes")

// tables returns the tables of the store in a transaction.
func (s *store) tables(t testing.TB) *merge.Tables {
	writes := 0
	write := func() error {
		if writes++; s.most > 0 && writes > s.most {
			return errTooMany
		}
		return nil
	}
	put := func(table string, key, value []byte) error {
		if len(key) > 512 || len(value) > 65_536 {
			t.Errorf("an entry of table %s has a key of %d bytes and a value of %d", table, len(key), len(value))
		}
		s.values[at(table, key)] = string(value)
		return write()
	}
	remove := func(table string, key []byte) error {
		delete(s.values, at(table, key))
		return write()
	}
	return &merge.Tables{
		Get: func(table string, key []byte) ([]byte, error) {
			if v, ok := s.values[at(table, key)]; ok {
				return []byte(v), nil
			}
			return nil, nil
		},
		Scan: func(table string, from, to []byte) iter.Seq2[merge.Entry, error] {
			return func(yield func(merge.Entry, error) bool) {
				for _, k := range slices.Sorted(maps.Keys(s.values)) {
					of, key, _ := strings.Cut(k, "\x00")
					if of != table || key < string(from) || to != nil && key >= string(to) {
						continue
					}
					if !yield(merge.Entry{Key: []byte(key), Value: []byte(s.values[k])}, nil) {
						return
					}
				}
			}
		},
		Count: func(table string) (n uint64, err error) {
			for k := range s.values {
				if strings.HasPrefix(k, table+"\x00") {
					n++
				}
			}
			return n, nil
		},
		Put: put, PutCopied: put, Delete: remove,
		DeleteForgotten: func(table string, key []byte) error {
			s.forgotten = append(s.forgotten, at(table, key))
			return remove(table, key)
		},
		DropCached:  s.stale.Add,
		Now:         time.Now,
		LearnHandle: func(record.Handle) {},
		CheckPHC: func(phc string) error {
			if !strings.HasPrefix(phc, "$") {
				return errors.New("no PHC string")
			}
			return nil
		},
		Room:       func() int { return 1000 },
		Writes:     func() int { return writes },
		DrawWriter: func() {},
		BuryAtOnce: 2,
	}
}

// merge merges copies, and returns the indexes of those that were refused.
func (s *store) merge(t testing.TB, copies ...record.Copy) (refused []int) {
	t.Helper()
	r := merge.Run{Domain: s.domain, Copies: copies, AtOnce: 3, Failed: func(err error) bool { return errors.Is(err, errTooMany) }}
	err := r.Merge(func(step func(*merge.Tables) error) error {
		before, stale := maps.Clone(s.values), s.stale
		err := step(s.tables(t))
		if err != nil {
			s.values, s.stale = before, stale
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range r.Refused {
		refused = append(refused, r.Index)
	}
	return refused
}

// copies returns what the store has of all records that travel, in an order that does not depend on
// how they came.
func (s *store) copies() (all []record.Copy) {
	for _, k := range slices.Sorted(maps.Keys(s.values)) {
		table, key, _ := strings.Cut(k, "\x00")
		if slices.Contains(record.TrackedTables(), table) {
			all = append(all, record.Copy{Domain: s.domain, Table: table, Key: []byte(key), Sealed: []byte(s.values[k])})
		}
	}
	return all
}

// wantIndexed fails the test unless the indexes are those of the records.
func (s *store) wantIndexed(t testing.TB) {
	t.Helper()
	want := map[string]string{}
	for _, c := range s.copies() {
		var entries []record.IndexEntry
		switch c.Table {
		case record.TableUsers:
			u, err := record.Unseal(c.Table, c.Key, c.Sealed, record.DecodeUser)
			must(t, err)
			entries = u.Index()
		case record.TableKeys:
			k, err := record.Unseal(c.Table, c.Key, c.Sealed, record.DecodeKey)
			must(t, err)
			entries = k.Index()
		}
		for _, e := range entries {
			if e.Table == record.TableIdentities {
				e.Value = record.WithHolder([]byte(want[at(e.Table, e.Key)]), uuid.UUID(c.Key))
			}
			want[at(e.Table, e.Key)] = string(e.Value)
		}
	}
	got := maps.Clone(s.values)
	maps.DeleteFunc(got, func(k, _ string) bool {
		table, _, _ := strings.Cut(k, "\x00")
		return table == record.TableLater || slices.Contains(record.TrackedTables(), table)
	})
	if !maps.Equal(got, want) {
		t.Errorf("the indexes have\n%x\nwant\n%x", got, want)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func sameCopies(a, b []record.Copy) bool {
	return slices.EqualFunc(a, b, func(a, b record.Copy) bool { return bytes.Equal(a.Encode(), b.Encode()) })
}
