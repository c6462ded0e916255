package etcd

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/latchkeydb/latchkey"
)

// tx is a transaction. It reads one revision of etcd, and keeps its writes in memory until commit
// sends them.
type tx struct {
	e        *engine
	ctx      context.Context
	readOnly bool
	ended    bool
	err      error // why the transaction cannot be committed
	outdated bool  // its revision is compacted

	// The state that the transaction reads. revision is 0 before the first read.
	revision       int64
	commitRevision int64 // the modification revision of the commit key, or 0
	sequence       uint64
	random         [8]byte
	cluster        uint64

	// The keys that an Update has read, with their values, and the ranges. If whole is set, the
	// transaction depends on everything, and the other fields are empty.
	reads  map[string]seen
	ranges []*span
	whole  bool

	again   []string        // what an earlier run of an Update has read
	fetched map[string]seen // what an Update will probably read, or has read if whole

	writes []write // in the order of the keys
	size   int     // of writes, in bytes
}

// Format prints nothing of what the transaction has read and written.
func (t *tx) Format(f fmt.State, _ rune) { fmt.Fprint(f, "etcd transaction") }

// seen is an entry as a transaction has read it. The zero value means that there is none.
type seen struct {
	value    []byte
	modified int64
	asked    bool // the function of the transaction has asked for the key
}

// span is a range of keys in etcd, from ≤ key < to.
type span struct{ from, to string }

// write is what a transaction does to one key. A deletion has no value.
type write struct {
	key    string // in etcd
	value  []byte
	delete bool
}

// The most writes and bytes of one transaction, and the most keys and ranges that it can have read
// before it depends on everything. etcd takes 128 operations and as many comparisons, of 1.5 MiB
// together, and the engine adds one of each.
const (
	mostWrites = 127
	mostBytes  = 1_400_000
	mostReads  = 126
)

// The most keys that an Update reads at once, and that it reads before its function runs again.
const (
	mostFetched = 100
	mostAgain   = 1000
)

func (t *tx) end() { t.ended = true }

// begin takes the snapshot of a transaction that has read nothing yet.
func (t *tx) begin() error {
	_, err := t.snapshot()
	return err
}

// snapshot reads the commit key and does ops, and makes the state of that moment the state of the
// transaction. It returns the answers to ops.
func (t *tx) snapshot(ops ...clientv3.Op) (answers []*clientv3.GetResponse, err error) {
	likely, rest := t.likely()
	ops = append([]clientv3.Op{clientv3.OpGet(t.e.keys.commit())}, ops...)
	for _, key := range likely {
		ops = append(ops, clientv3.OpGet(key))
	}
	response, err := askFirst(t.ctx, t.e, func(ctx context.Context) (*clientv3.TxnResponse, error) {
		return t.e.client.Txn(ctx).Then(ops...).Commit()
	})
	if err != nil {
		return nil, t.fail(err)
	}
	for _, r := range response.Responses {
		answers = append(answers, (*clientv3.GetResponse)(r.GetResponseRange()))
	}
	t.revision, t.cluster = response.Header.Revision, response.Header.ClusterId
	if kvs := answers[0].Kvs; len(kvs) > 0 {
		t.commitRevision, t.sequence = kvs[0].ModRevision, uint64(kvs[0].ModRevision)
		copy(t.random[:], kvs[0].Value)
	} else {
		// The store is new, or a commit at a full quota has removed the key. The revision stands
		// for the sequence then, because no commit is later.
		t.sequence, t.random = uint64(t.revision), derivedRandom(t.cluster, t.revision)
	}
	t.e.feed.learn(t.sequence)
	answers, fetched := answers[1:len(answers)-len(likely)], answers[len(answers)-len(likely):]
	t.fetched = make(map[string]seen, len(likely))
	for i, key := range likely {
		t.fetched[key] = seenOf(fetched[i])
	}
	return answers, t.fetch(rest)
}

// likely returns the keys that the transaction will probably read: those to read with the snapshot,
// and the rest.
func (t *tx) likely() (first, rest []string) {
	if t.readOnly {
		return nil, nil
	}
	first = t.e.common.keys()
	if len(t.again) == 0 {
		return first, nil
	}
	all := slices.Compact(slices.Sorted(slices.Values(slices.Concat(first, t.again))))
	n := min(len(all), mostFetched)
	return all[:n], all[n:]
}

// fetch reads keys before the function of the transaction asks for them. A function that runs again
// reads mostly the same keys. If it asked for them one by one, a transaction that depends on
// everything would meet another commit each time.
func (t *tx) fetch(keys []string) error {
	for some := range slices.Chunk(keys, mostFetched) {
		var ops []clientv3.Op
		for _, key := range some {
			ops = append(ops, clientv3.OpGet(key, clientv3.WithRev(t.revision)))
		}
		response, err := ask(t.ctx, t.e, func(ctx context.Context) (*clientv3.TxnResponse, error) {
			return t.e.client.Txn(ctx).Then(ops...).Commit()
		})
		if err != nil {
			return t.fail(err)
		}
		for i, r := range response.Responses {
			t.fetched[some[i]] = seenOf((*clientv3.GetResponse)(r.GetResponseRange()))
		}
	}
	return nil
}

// asked returns the keys that the function of the transaction has asked for, without those with
// long values.
func (t *tx) asked() (keys []string) {
	for _, known := range []map[string]seen{t.reads, t.fetched} {
		for key, s := range known {
			if s.asked && len(s.value) <= longest && len(keys) < mostAgain {
				keys = append(keys, key)
			}
		}
	}
	return keys
}

// get reads from the transaction's revision. The first call decides which revision that is.
func (t *tx) get(key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	if t.revision != 0 {
		return t.at(key, opts...)
	}
	answers, err := t.snapshot(clientv3.OpGet(key, opts...))
	if err != nil {
		return nil, err
	}
	return answers[0], nil
}

// at reads from the transaction's revision, from the next member. A member that is behind answers
// when it has caught up.
func (t *tx) at(key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	opts = append(slices.Clone(opts), clientv3.WithRev(t.revision))
	r, err := ask(t.ctx, t.e, func(ctx context.Context) (*clientv3.GetResponse, error) {
		r, err := t.e.client.Get(ctx, key, append(slices.Clone(opts), clientv3.WithSerializable())...)
		if errors.Is(err, rpctypes.ErrFutureRev) {
			r, err = t.e.client.Get(ctx, key, opts...)
		}
		return r, err
	})
	if err != nil {
		return nil, t.fail(err)
	}
	return r, nil
}

// fail makes the transaction one that cannot be committed, because it could not read.
func (t *tx) fail(err error) error {
	if errors.Is(err, rpctypes.ErrCompacted) {
		t.outdated = true
		err = fmt.Errorf("%w: etcd has compacted the revision %d that the transaction reads", latchkey.ErrInterrupted, t.revision)
	}
	t.err = cmp.Or(t.err, err)
	return err
}

// read returns the entry of a key in etcd as it was before the transaction's own writes.
func (t *tx) read(key string) (seen, error) {
	if s, ok := t.reads[key]; ok {
		return s, nil
	}
	s, ok := t.fetched[key]
	if !ok {
		r, err := t.get(key)
		if err != nil {
			return seen{}, err
		}
		s = seenOf(r)
	}
	s.asked = true
	if t.whole && len(t.fetched) < mostAgain {
		t.fetched[key] = s
	}
	t.remember(key, s)
	return s, nil
}

// seenOf returns the entry in the answer to a question for one key.
func seenOf(r *clientv3.GetResponse) seen {
	if len(r.Kvs) == 0 {
		return seen{}
	}
	return seenIn(r.Kvs[0])
}

func seenIn(kv *mvccpb.KeyValue) seen {
	return seen{value: append([]byte{}, kv.Value...), modified: kv.ModRevision}
}

// remember keeps what an Update has read.
func (t *tx) remember(key string, s seen) {
	if t.readOnly || t.whole {
		return
	}
	t.reads[key] = s
	t.bound()
}

// bound makes a transaction that has read too much for comparisons depend on everything.
func (t *tx) bound() {
	if len(t.reads)+len(t.ranges) > mostReads {
		t.dependOnWhole()
	}
}

func (t *tx) dependOnWhole() {
	if !t.readOnly {
		maps.Copy(t.fetched, t.reads)
		t.whole, t.reads, t.ranges = true, nil, nil
	}
}

// written returns what the transaction has done to a key.
func (t *tx) written(key string) (w write, ok bool) {
	if i, found := t.find(key); found {
		return t.writes[i], true
	}
	return write{}, false
}

// find returns the index of the first write whose key is key or greater. It reports whether that
// write has the key itself.
func (t *tx) find(key string) (i int, found bool) {
	return slices.BinarySearchFunc(t.writes, key, func(w write, key string) int { return strings.Compare(w.key, key) })
}

func (t *tx) Get(table string, key []byte) ([]byte, error) {
	if t.ended {
		return nil, latchkey.ErrClosed
	}
	full := t.e.keys.table(table) + string(key)
	if w, ok := t.written(full); ok {
		return bytes.Clone(w.value), nil
	}
	s, err := t.read(full)
	return bytes.Clone(s.value), err
}

func (t *tx) Put(table string, key, value []byte) error {
	return t.write(write{key: t.e.keys.table(table) + string(key), value: append([]byte{}, value...)})
}

func (t *tx) Delete(table string, key []byte) error {
	return t.write(write{key: t.e.keys.table(table) + string(key), delete: true})
}

// write notes what commit has to write.
func (t *tx) write(w write) error {
	switch {
	case t.ended:
		return latchkey.ErrClosed
	case t.readOnly:
		return latchkey.ErrReadOnly
	}
	i, found := t.find(w.key)
	if found {
		t.size -= t.writes[i].size()
		t.writes[i] = w
	} else {
		t.writes = slices.Insert(t.writes, i, w)
	}
	t.size += w.size()
	if len(t.writes) > mostWrites || t.size > mostBytes {
		err := fmt.Errorf("%w: it writes %d keys and %d bytes", latchkey.ErrTransactionTooLarge, len(t.writes), t.size)
		t.err = cmp.Or(t.err, err)
		return err
	}
	return nil
}

// size returns about how many bytes the write has in a request.
func (w write) size() int { return len(w.key) + len(w.value) + 16 }

func (t *tx) Sequence() uint64 {
	if t.revision == 0 && !t.ended {
		_ = t.begin() // which leaves its error for the commit
	}
	return t.sequence
}

func (t *tx) SequenceOf(table string, key []byte) (uint64, error) {
	if t.ended {
		return 0, latchkey.ErrClosed
	}
	full := t.e.keys.table(table) + string(key)
	if w, ok := t.written(full); ok {
		if w.delete {
			return 0, nil
		}
		return t.Sequence() + 1, t.err
	}
	s, err := t.read(full)
	return uint64(s.modified), err
}

func (t *tx) Count(table string) (uint64, error) {
	if t.ended {
		return 0, latchkey.ErrClosed
	}
	prefix := t.e.keys.table(table)
	r, err := t.get(prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return 0, err
	}
	n := r.Count
	t.dependOnWhole()
	for _, w := range t.writes {
		if !strings.HasPrefix(w.key, prefix) {
			continue
		}
		s, err := t.read(w.key)
		if err != nil {
			return 0, err
		}
		if was := s.modified != 0; was && w.delete {
			n--
		} else if !was && !w.delete {
			n++
		}
	}
	return uint64(n), nil
}

func (t *tx) Changes(since uint64) iter.Seq2[latchkey.TrackedChange, error] {
	return func(yield func(latchkey.TrackedChange, error) bool) {
		changes, err := t.changes(since)
		if err != nil {
			yield(latchkey.TrackedChange{}, err)
			return
		}
		for _, c := range changes {
			if t.ended {
				yield(latchkey.TrackedChange{}, latchkey.ErrClosed)
				return
			}
			if !yield(c, nil) {
				return
			}
		}
	}
}

// changes returns what Changes yields.
func (t *tx) changes(since uint64) ([]latchkey.TrackedChange, error) {
	if t.ended {
		return nil, latchkey.ErrClosed
	}
	if t.revision == 0 {
		if err := t.begin(); err != nil {
			return nil, err
		}
	}
	if since == math.MaxUint64 {
		return nil, nil
	}
	t.dependOnWhole()
	changes, ok := t.e.feed.changes(t, since)
	if !ok {
		var err error
		if changes, err = t.readChanges(since); err != nil {
			return nil, err
		}
	}
	changes = slices.DeleteFunc(changes, func(c latchkey.TrackedChange) bool {
		_, own := t.written(t.e.keys.table(c.Table) + string(c.Key))
		return own || !t.e.isTracked(c.Table)
	})
	for _, w := range t.writes {
		if table, key, ok := t.e.keys.split(w.key); ok && !w.delete && t.e.isTracked(table) && t.sequence >= since {
			changes = append(changes, latchkey.TrackedChange{Sequence: t.sequence + 1, Table: table, Key: []byte(key)})
		}
	}
	slices.SortFunc(changes, func(a, b latchkey.TrackedChange) int {
		return cmp.Or(cmp.Compare(a.Sequence, b.Sequence), cmp.Compare(a.Table, b.Table), bytes.Compare(a.Key, b.Key))
	})
	return changes, nil
}

// readChanges looks through the keys of all tracked tables for those that have changed after since.
func (t *tx) readChanges(since uint64) (changes []latchkey.TrackedChange, err error) {
	for _, table := range t.e.trackedTables() {
		prefix := t.e.keys.table(table)
		pages := newPager(prefix, clientv3.GetPrefixRangeEnd(prefix), 10*mostPage)
		for pages.reach = t.e.reachIn(table); !pages.done(); {
			r, err := pages.read(t.get, clientv3.WithKeysOnly())
			if err != nil {
				return nil, err
			}
			for _, kv := range r.Kvs {
				if modified := uint64(kv.ModRevision); modified > since {
					changes = append(changes, latchkey.TrackedChange{Sequence: modified, Table: table, Key: bytes.Clone(kv.Key[len(prefix):])})
				}
			}
		}
	}
	return changes, nil
}

// derivedRandom returns the random number of a commit that had to remove the commit key.
func derivedRandom(cluster uint64, revision int64) (random [8]byte) {
	b := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, cluster), uint64(revision))
	sum := sha256.Sum256(b)
	copy(random[:], sum[:])
	return random
}
