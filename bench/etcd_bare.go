package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"sync"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/latchkeydb/latchkey"
	records "github.com/latchkeydb/latchkey/internal/record"
)

// A bareEtcd does on etcd the reads and writes of a store, and nothing else. It reads one after
// another, at one revision, because a store decides by an answer how it goes on. It commits with
// one transaction of etcd, which compares everything that was read. The reads and writes are those
// that a store in a file was seen to do. They are done again and again, under another prefix each
// time.
type bareEtcd struct {
	client   *clientv3.Client
	begin    []step // what the store wrote before
	creates  []step // one key each
	disables []step // the same keys
	passes   int    // prefixes that were used

	mu      sync.Mutex // guards the fields below
	waiting []*bareMember
	sending bool
	groups  int // that were sent
}

// step is what one transaction does. Its keys are without the prefix.
type step struct {
	reads   []keyRange
	writes  map[string][]byte // nil stands for a deletion
	changes bool              // changes a key of the store
}

// keyRange is one key, or the range from the key to an end.
type keyRange struct{ key, end string }

const bareSteps = 64

// openBareEtcd records what a store does.
func (e *Env) openBareEtcd(n *etcdNode) (*bareEtcd, error) {
	dir, err := e.tempDir()
	if err != nil {
		return nil, err
	}
	engine, err := latchkey.OpenBoltEngine(filepath.Join(dir, "recorded.db"), nil)
	if err != nil {
		return nil, err
	}
	r := &recorder{Engine: engine}
	s, err := latchkey.OpenWith(r, &latchkey.Options{Cost: quickCost})
	if err != nil {
		return nil, errors.Join(err, engine.Close())
	}
	defer s.Close()
	c := &bareEtcd{}
	if c.client, err = newEtcdClient(n.address); err != nil {
		return nil, err
	}
	e.onClose(c.client.Close)
	c.begin = r.take()
	minted, _, err := s.MintKeys(context.Background(), bareSteps, nil)
	if err != nil {
		return nil, err
	}
	for _, m := range minted {
		if err := insertMinted(s, m); err != nil {
			return nil, err
		}
	}
	c.creates = changing(r.take())
	for _, m := range minted {
		if err := s.DisableKey(context.Background(), latchkey.ServerOwner, m.ID()); err != nil {
			return nil, err
		}
	}
	c.disables = changing(r.take())
	if len(c.creates) != bareSteps || len(c.disables) != bareSteps {
		err = fmt.Errorf("%d creations and %d disablings were recorded, and not %d", len(c.creates), len(c.disables), bareSteps)
	}
	return c, errors.Join(err, r.err)
}

// changing returns the steps that change a key of the store. Others are not the caller's.
func changing(steps []step) (out []step) {
	for _, s := range steps {
		if s.changes {
			out = append(out, s)
		}
	}
	return out
}

// create makes goroutines do the creation of keys, with commit.
func (c *bareEtcd) create(goroutines int, commit func(prefix string, s step) error) func(b *testing.B) error {
	return func(b *testing.B) error {
		todo, err := c.prepare(b.N, c.creates)
		if err != nil {
			return err
		}
		before := c.groups
		err = todo.measure(b, goroutines, commit)
		if goroutines > 1 {
			b.ReportMetric(float64(c.groups-before)/float64(b.N), "commits/key")
		}
		return err
	}
}

// disable makes goroutines do the disabling of keys, which are created before.
func (c *bareEtcd) disable(goroutines int, commit func(prefix string, s step) error) func(b *testing.B) error {
	return func(b *testing.B) error {
		created, err := c.prepare(b.N, c.creates)
		if err != nil {
			return err
		}
		if err := inParallel(b.N, 64, func(i int) error { return c.grouped(created.prefix(i), created.step(i)) }); err != nil {
			return err
		}
		todo := bareWork{first: created.first, steps: c.disables}
		return todo.measure(b, goroutines, commit)
	}
}

// bareWork is a series of steps, under prefixes from the number first on.
type bareWork struct {
	first int
	steps []step
}

func (w bareWork) prefix(i int) string { return fmt.Sprintf("bare%06d/", w.first+i/len(w.steps)) }
func (w bareWork) step(i int) step     { return w.steps[i%len(w.steps)] }

// prepare writes, under new prefixes for n steps, what a store has before its first key.
func (c *bareEtcd) prepare(n int, steps []step) (bareWork, error) {
	w := bareWork{first: c.passes, steps: steps}
	for i := 0; i < n; i += len(steps) {
		for _, s := range c.begin {
			if err := c.alone(w.prefix(i), s); err != nil {
				return w, err
			}
		}
		c.passes++
	}
	return w, nil
}

func (w bareWork) measure(b *testing.B, goroutines int, commit func(prefix string, s step) error) error {
	each := inTurn(b.N)
	return together(b, goroutines, func(_, n int) error {
		for range n {
			i := each()
			if err := commit(w.prefix(i), w.step(i)); err != nil {
				return err
			}
		}
		return nil
	})
}

// alone reads, and commits with a transaction of its own.
func (c *bareEtcd) alone(prefix string, s step) error {
	for {
		compares, ops, err := c.read(prefix, s)
		if err != nil {
			return err
		}
		r, err := c.client.Txn(context.Background()).If(compares...).Then(ops...).Commit()
		if err != nil || r.Succeeded {
			return err
		}
	}
}

// read does the reads of a step, and returns the comparisons and writes of its commit.
func (c *bareEtcd) read(prefix string, s step) (compares []clientv3.Cmp, ops []clientv3.Op, err error) {
	var revision int64
	for _, r := range s.reads {
		var opts []clientv3.OpOption
		if revision != 0 {
			opts = append(opts, clientv3.WithRev(revision), clientv3.WithSerializable())
		}
		if r.end != "" {
			opts = append(opts, clientv3.WithRange(prefix+r.end), clientv3.WithLimit(64))
		}
		g, err := c.client.Get(context.Background(), prefix+r.key, opts...)
		if err != nil {
			return nil, nil, err
		}
		if revision == 0 {
			revision = g.Header.Revision
		}
		if r.end != "" {
			compares = append(compares, clientv3.Compare(clientv3.ModRevision(prefix+r.key), "<", revision+1).WithRange(prefix+r.end))
		} else if len(g.Kvs) == 0 {
			compares = append(compares, clientv3.Compare(clientv3.ModRevision(prefix+r.key), "=", 0))
		}
		for _, kv := range g.Kvs {
			compares = append(compares, clientv3.Compare(clientv3.ModRevision(string(kv.Key)), "=", kv.ModRevision))
		}
	}
	for key, value := range s.writes {
		if value == nil {
			ops = append(ops, clientv3.OpDelete(prefix+key))
		} else {
			ops = append(ops, clientv3.OpPut(prefix+key, string(value)))
		}
	}
	return compares, ops, nil
}

// bareMember is a step that waits for a group.
type bareMember struct {
	compares []clientv3.Cmp
	ops      []clientv3.Op
	done     chan error
}

var errBareConflict = errors.New("something else was written")

// grouped reads, and commits with others. While a group is under way, the next one gathers. The
// steps write different keys, and no more than 64 can wait, so that each group fits into one
// transaction.
func (c *bareEtcd) grouped(prefix string, s step) error {
	for {
		compares, ops, err := c.read(prefix, s)
		if err != nil {
			return err
		}
		m := &bareMember{compares, ops, make(chan error, 1)}
		c.mu.Lock()
		c.waiting = append(c.waiting, m)
		if !c.sending {
			c.sending = true
			go c.sendGroups()
		}
		c.mu.Unlock()
		if err := <-m.done; !errors.Is(err, errBareConflict) {
			return err
		}
	}
}

func (c *bareEtcd) sendGroups() {
	for {
		c.mu.Lock()
		members := c.waiting
		c.waiting, c.sending = nil, len(members) > 0
		if c.sending {
			c.groups++
		}
		c.mu.Unlock()
		if len(members) == 0 {
			return
		}
		var ops []clientv3.Op
		for _, m := range members {
			ops = append(ops, clientv3.OpTxn(m.compares, m.ops, nil))
		}
		r, err := c.client.Txn(context.Background()).Then(ops...).Commit()
		for i, m := range members {
			switch {
			case err != nil:
				m.done <- err
			case !r.Responses[i].GetResponseTxn().Succeeded:
				m.done <- errBareConflict
			default:
				m.done <- nil
			}
		}
	}
}

// A recorder is an engine that notes what its transactions read and write.
type recorder struct {
	latchkey.Engine

	mu    sync.Mutex // guards the fields below
	steps []step
	err   error // something that a bareEtcd cannot do
}

// take returns what was noted since the last call.
func (r *recorder) take() []step {
	r.mu.Lock()
	defer r.mu.Unlock()
	steps := r.steps
	r.steps = nil
	return steps
}

func (r *recorder) Update(ctx context.Context, fn func(latchkey.EngineTx) error) error {
	var t *recordedTx
	err := r.Engine.Update(ctx, func(tx latchkey.EngineTx) error {
		t = &recordedTx{EngineTx: tx, step: step{writes: make(map[string][]byte)}, seen: make(map[keyRange]bool)}
		return fn(t)
	})
	if err == nil && len(t.step.writes) > 0 {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.steps, r.err = append(r.steps, t.step), errors.Join(r.err, t.err)
	}
	return err
}

// recordedTx is a transaction of a recorder.
type recordedTx struct {
	latchkey.EngineTx
	step step
	seen map[keyRange]bool
	err  error
}

// etcdKey returns a key of the length that it has on etcd.
func etcdKey(table string, key []byte) string { return "t/" + table + "\x00" + string(key) }

func (t *recordedTx) read(r keyRange) {
	if _, own := t.step.writes[r.key]; !t.seen[r] && (r.end != "" || !own) {
		t.seen[r] = true
		t.step.reads = append(t.step.reads, r)
	}
}

func (t *recordedTx) Get(table string, key []byte) ([]byte, error) {
	t.read(keyRange{key: etcdKey(table, key)})
	return t.EngineTx.Get(table, key)
}

func (t *recordedTx) SequenceOf(table string, key []byte) (uint64, error) {
	t.read(keyRange{key: etcdKey(table, key)})
	return t.EngineTx.SequenceOf(table, key)
}

func (t *recordedTx) Scan(table string, from, to []byte) iter.Seq2[latchkey.Entry, error] {
	end := "t/" + table + "\x01"
	if to != nil {
		end = etcdKey(table, to)
	}
	t.read(keyRange{etcdKey(table, from), end})
	return t.EngineTx.Scan(table, from, to)
}

func (t *recordedTx) Count(table string) (uint64, error) {
	t.err = errors.Join(t.err, fmt.Errorf("a transaction counts the entries of %s", table))
	return t.EngineTx.Count(table)
}

func (t *recordedTx) Changes(since uint64) iter.Seq2[latchkey.TrackedChange, error] {
	t.err = errors.Join(t.err, errors.New("a transaction asks for changes"))
	return t.EngineTx.Changes(since)
}

func (t *recordedTx) Put(table string, key, value []byte) error {
	t.step.writes[etcdKey(table, key)] = append([]byte{}, value...)
	t.step.changes = t.step.changes || table == records.TableKeys
	return t.EngineTx.Put(table, bytes.Clone(key), value)
}

func (t *recordedTx) Delete(table string, key []byte) error {
	t.step.writes[etcdKey(table, key)] = nil
	return t.EngineTx.Delete(table, key)
}
