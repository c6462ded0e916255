package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/latchkeydb/latchkey/internal/merge"
	"github.com/latchkeydb/latchkey/internal/record"
)

// ErrAgain means that a comparison has to begin anew, after another stream.
var ErrAgain = errors.New("the comparison has to begin anew")

// listedAtOnce is about how many records an edge lists in a request.
const listedAtOnce = 8192

// A comparison is one that is under way. It is in memory only: after a restart it begins anew.
type comparison struct {
	mark  Mark      // where the hub stood when it began
	todo  []Summary // the ranges that are left, with the edge's counts
	stuck int       // how often a range was asked for in a row
}

// mostOften is how often a range can be asked for in a row.
const mostOften = 10_000

// Compare begins a comparison with the hub, which the edge needs after a [Welcome] with
// [CompareFirst].
func (e *Edge) Compare(ctx context.Context) (CompareRequest, error) {
	e.work.Lock()
	defer e.work.Unlock()
	sums, err := e.sums(ctx)
	if err != nil {
		return CompareRequest{}, err
	}
	e.comparing = nil
	s := e.now()
	return CompareRequest{Cursor: s.cursor, Policy: s.policy.Version, Summaries: sums}, nil
}

// Digest returns the sum of the hashes of all the edge's live records.
func (e *Edge) Digest(ctx context.Context) (sum [16]byte, err error) {
	sums, err := e.sums(ctx)
	for _, s := range sums {
		sum = addModulo(sum, s.Sum)
	}
	return sum, err
}

// comparedTables are the tables whose records have sums.
var comparedTables = []string{record.TableUsers, record.TableKeys, record.TableGroups}

// sums returns the sums of all live records.
func (e *Edge) sums(ctx context.Context) (sums []Summary, err error) {
	for _, table := range comparedTables {
		var ranges [256]Summary
		err := e.scan(ctx, table, func(_ *merge.Tables, key, sealed []byte) error {
			ranges[RangeOf(table, key)].Add(HashOf(table, key, sealed))
			return nil
		})
		if err != nil {
			return nil, err
		}
		for i, s := range ranges {
			if s.Count > 0 {
				s.Table, s.Range = table, byte(i)
				sums = append(sums, s)
			}
		}
	}
	return sums, nil
}

// scan calls fn with the records of a table that travel. It reads them in pages of a transaction
// each, so that a writer never waits for long.
func (e *Edge) scan(ctx context.Context, table string, fn func(t *merge.Tables, key, sealed []byte) error) error {
	for from, more := []byte(nil), true; more; {
		err := e.store.View(ctx, func(t *merge.Tables) error {
			n := 0
			more = false
			for entry, err := range t.Scan(table, from, nil) {
				if err != nil {
					return err
				}
				if n++; n > 4096 {
					from, more = entry.Key, true
					return nil
				}
				travels, err := t.Travels(table, entry.Key, entry.Value)
				if err == nil && travels {
					err = fn(t, entry.Key, entry.Value)
				}
				if err != nil && !errors.Is(err, record.ErrDamaged) {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Compared takes the hub's reply, and returns the next request. If that is nil, the comparison is
// over. The records that the hub wants are pending then, so a push should follow, and a new stream
// after that.
//
// Errors: [ErrAgain]; [ErrMessage]; an error of the store.
func (e *Edge) Compared(ctx context.Context, asked CompareRequest, reply CompareReply, now time.Time) (next *CompareRequest, err error) {
	e.work.Lock()
	defer e.work.Unlock()
	e.mu.Lock()
	e.state.word = now
	e.mu.Unlock()
	c := e.comparing
	switch {
	case reply.Refused != "":
		e.comparing = nil
		return nil, fmt.Errorf("%w: %s", ErrAgain, reply.Refused)
	case len(asked.Listed) == 0:
		if len(reply.Messages) != 1 {
			return nil, bad("%d messages in the first reply to a comparison", len(reply.Messages))
		}
		mark, ok := reply.Messages[0].(Mark)
		if !ok {
			return nil, bad("a first reply to a comparison without a Mark")
		}
		c = &comparison{mark: mark, todo: withCounts(reply.Differ, asked.Summaries)}
		e.comparing = c
	case c == nil:
		return nil, fmt.Errorf("%w: another one was begun", ErrAgain)
	default:
		if err := e.takeCompared(ctx, asked, reply); err != nil {
			return nil, err
		}
	}
	if len(c.todo) > 0 {
		return e.list(ctx, asked)
	}
	e.comparing = nil
	if err := e.noteUnheard(ctx); err != nil {
		return nil, err
	}
	return nil, e.update(ctx, func(_ *merge.Tables, s *state) error {
		s.cursor, s.compare = c.mark.At, false
		return nil
	})
}

// noteUnheard makes the hub hear again of the deletions that bear no MAC of the hub. The hub was
// perhaps restored, and has lost a claim. Or the edge was, and has lost the answer to one. The sums
// do not tell if the record is in no group of the edge, because they have live records alone.
func (e *Edge) noteUnheard(ctx context.Context) error {
	var unheard []record.Copy // of the records that were deleted
	for _, dead := range []string{record.TableDeadUsers, record.TableDeadKeys} {
		err := e.scan(ctx, dead, func(t *merge.Tables, key, _ []byte) error {
			signed, err := getSigned(t, dead, key)
			if err != nil && !isRefusal(err) && !errors.Is(err, ErrMessage) {
				return err
			}
			if err != nil || signed == nil || signed.Copy.Table != dead {
				unheard = append(unheard, record.Copy{Table: liveTable(dead), Key: key})
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	for page := range slices.Chunk(unheard, atOnce) {
		err := e.update(ctx, func(t *merge.Tables, _ *state) error {
			for _, c := range page {
				if err := noteDeleted(t, c); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// withCounts returns the ranges that differ, with the edge's own counts.
func withCounts(differ, ours []Summary) (todo []Summary) {
	for _, d := range differ {
		d.Count, d.Sum = 0, [16]byte{}
		for _, s := range ours {
			if s.Table == d.Table && s.Range == d.Range {
				d.Count = s.Count
			}
		}
		todo = append(todo, d)
	}
	return todo
}

// takeCompared applies what the hub has sent for the ranges that were listed.
func (e *Edge) takeCompared(ctx context.Context, asked CompareRequest, reply CompareReply) error {
	c := e.comparing
	for _, m := range reply.Messages {
		if _, ok := m.(Mark); ok {
			return bad("a Mark in a later reply to a comparison")
		}
	}
	if err := e.apply(ctx, reply.Messages); err != nil {
		return err
	}
	for page := range slices.Chunk(reply.Wanted, atOnce) {
		err := e.update(ctx, func(t *merge.Tables, _ *state) error {
			for _, i := range page {
				if err := note(t, i.Table, i.Key, whatWanted); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if c.stuck++; reply.More && c.stuck < mostOften && len(reply.Messages) > 0 {
		return nil
	}
	c.stuck = 0
	c.todo = slices.DeleteFunc(c.todo, func(s Summary) bool {
		return slices.ContainsFunc(asked.Listed, func(l Summary) bool { return l.Table == s.Table && l.Range == s.Range })
	})
	return nil
}

// list returns the request that lists the first of the ranges that are left.
func (e *Edge) list(ctx context.Context, asked CompareRequest) (*CompareRequest, error) {
	r := &CompareRequest{Cursor: asked.Cursor, Policy: asked.Policy}
	listed := map[string]map[byte]bool{}
	n := uint64(0)
	for _, s := range e.comparing.todo {
		if n += s.Count; n > listedAtOnce && len(r.Listed) > 0 {
			break
		}
		r.Listed = append(r.Listed, Summary{Table: s.Table, Range: s.Range})
		if listed[s.Table] == nil {
			listed[s.Table] = map[byte]bool{}
		}
		listed[s.Table][s.Range] = true
	}
	for _, table := range numbered[1:6] {
		ranges := listed[liveTable(table)]
		if ranges == nil {
			continue
		}
		err := e.scan(ctx, table, func(t *merge.Tables, key, sealed []byte) error {
			if !ranges[RangeOf(table, key)] {
				return nil
			}
			own, err := t.Get(record.TableReplica, pendingKey(table, key))
			if err != nil {
				return err
			}
			signed, err := t.Get(record.TableReplica, signedKey(table, key))
			if err != nil {
				return err
			}
			r.Items = append(r.Items, Item{Table: table, Key: key, Hash: HashOf(table, key, sealed), Own: own != nil, Signed: signed != nil})
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return r, nil
}
