package bench

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/etcd"
	"github.com/latchkeydb/latchkey/migrate"
)

// scalingPage is the page of docs/ for the groups of this file.
const scalingPage = "scaling"

// Etcd compares a store on etcd with a store in a file, and with a client of etcd that does nothing
// but the reads and writes of the store. The keys are minted before they are created, so that no
// hash is in the times.
var Etcd = Group{
	Name:   "etcd",
	Title:  "What do logins and writes cost on etcd?",
	Page:   scalingPage,
	Time:   500 * time.Millisecond,
	Rounds: 11,
	Open: func(e *Env) ([]Case, error) {
		inFile, err := e.openNew()
		if err != nil {
			return nil, err
		}
		_, inFileTokens, err := insertServerKeys(inFile, loginKeys)
		if err != nil {
			return nil, err
		}
		n, err := e.startEtcd()
		if err != nil {
			return nil, err
		}
		s, err := n.open(&latchkey.Options{Cost: quickCost})
		if err != nil {
			return nil, err
		}
		_, tokens, err := insertServerKeys(s, loginKeys)
		if err != nil {
			return nil, err
		}
		bare, err := e.openBareEtcd(n)
		if err != nil {
			return nil, err
		}
		atLeast := func(yardstick string) []Ratio { return []Ratio{{To: yardstick, Throughput: true, Min: 0.8}} }
		return []Case{
			{Name: "login/bbolt", Body: logins(inFile, inFileTokens), NoAllocs: true},
			{Name: "login/etcd", Body: logins(s, tokens), Ratios: []Ratio{{To: "login/bbolt", Max: 1.25}}, NoAllocs: true},
			{Name: "create/bare", Body: bare.create(1, bare.alone)},
			{Name: "create/etcd", Body: createKeys(s, 1), Ratios: atLeast("create/bare")},
			{Name: "disable/bare", Body: bare.disable(1, bare.alone)},
			{Name: "disable/etcd", Body: disableKeys(s), Ratios: atLeast("disable/bare")},
			{Name: "create/bare/goroutines=64", Body: bare.create(64, bare.grouped)},
			{Name: "create/etcd/goroutines=64", Body: createKeys(s, 64), Ratios: atLeast("create/bare/goroutines=64")},
		}, nil
	},
}

// EtcdRevocations measures how long it takes until a key that one process disables is refused by
// another one.
var EtcdRevocations = Group{
	Name:   "etcd-revocations",
	Title:  "When does a revocation in one process take effect in another one?",
	Page:   scalingPage,
	Time:   time.Millisecond, // each measurement runs once in a round
	Rounds: 5,
	Open: func(e *Env) ([]Case, error) {
		n, err := e.startEtcd()
		if err != nil {
			return nil, err
		}
		here, err := n.open(&latchkey.Options{Cost: quickCost})
		if err != nil {
			return nil, err
		}
		there, err := e.startProgram("etcd-store")
		if err != nil {
			return nil, err
		}
		if _, err := there.do(order{Do: "open", Address: n.address}); err != nil {
			return nil, err
		}
		revocation := shared(func() (map[string]float64, error) { return e.etcdRevocations(here, there) })
		return []Case{
			{Name: "revocation/median", Unit: "median-ns", Max: 5e6, Body: revocation()},
			{Name: "revocation/p99", Unit: "p99-ns", Max: 50e6, Body: revocation()},
		}, nil
	},
}

// EtcdKeys copies a store with many keys to etcd, and serves it from there. The copying takes place
// once for an Env, and all cases report about it.
var EtcdKeys = Group{
	Name:   "etcd-keys",
	Title:  "What does a store with many keys need on etcd?",
	Page:   scalingPage,
	Time:   time.Millisecond,
	Rounds: 1,
	Open: func(e *Env) ([]Case, error) {
		keys := e.etcdKeys()
		all := sync.OnceValues(func() (map[string]map[string]float64, error) { return e.manyEtcdKeys(keys) })
		var cases []Case
		for _, c := range []struct{ name, unit string }{
			{"copy", "keys/s"},
			{"disk", "B/key"},
			{"memory-of-etcd", "MiB"},
			{"memory-of-a-process", "MiB"},
			{"open", "open-ns"},
			{"cold-login/cost=least", "p50-ns"},
			{"cold-login/cost=default", "p50-ns"},
		} {
			cases = append(cases, Case{
				Name: c.name + "/keys=" + sizeName(keys), Unit: c.unit,
				Body: single(func() (map[string]float64, error) {
					measured, err := all()
					return measured[c.name], err
				}),
			})
		}
		return cases, nil
	},
}

const (
	loginKeys  = 64         // logins go through so many keys
	etcdPrefix = "latchkey" // of every store
)

// etcdKeys returns how many keys are copied to etcd.
func (e *Env) etcdKeys() int {
	if e.Sizes[len(e.Sizes)-1] >= 5_000_000 {
		return 3_000_000
	}
	return e.largest(100_000)
}

// An etcdNode is a cluster of one member, in a process of its own.
type etcdNode struct {
	env     *Env
	process *process
	dir     string
	address string
	client  *clientv3.Client
}

func (e *Env) startEtcd() (*etcdNode, error) {
	dir, err := e.tempDir()
	if err != nil {
		return nil, err
	}
	n := &etcdNode{env: e, dir: filepath.Join(dir, "etcd")}
	if n.process, err = e.startProgram("etcd"); err != nil {
		return nil, err
	}
	started, err := n.process.do(order{Do: "start", Path: n.dir})
	if err != nil {
		return nil, err
	}
	n.address = started.Address
	n.client, err = newEtcdClient(n.address)
	if err == nil {
		e.onClose(n.client.Close)
	}
	return n, err
}

func newEtcdClient(address string) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{Endpoints: []string{address}, Logger: zap.NewNop()})
}

// open opens the store of the node, until the Env is closed.
func (n *etcdNode) open(opts *latchkey.Options) (*latchkey.Store, error) {
	s, err := latchkey.OpenWith(etcd.New(n.client, etcdPrefix), opts)
	if err == nil {
		n.env.onClose(s.Close)
	}
	return s, err
}

// insertServerKeys makes server keys, each in a transaction of its own, because etcd bounds
// transactions.
func insertServerKeys(s *latchkey.Store, n int) (ids []uuid.UUID, tokens []string, err error) {
	ctx := context.Background()
	minted, tokens, err := s.MintKeys(ctx, n, nil)
	if err != nil {
		return nil, nil, err
	}
	ids = make([]uuid.UUID, n)
	return ids, tokens, inParallel(n, 64, func(i int) error {
		ids[i] = minted[i].ID()
		return insertMinted(s, minted[i])
	})
}

// insertMinted makes a server key, with a name that no other key has.
func insertMinted(s *latchkey.Store, m latchkey.MintedKey) error {
	return s.Update(context.Background(), func(tx *latchkey.Tx) error {
		_, err := tx.InsertServerKey(latchkey.KeySpec{Name: "device-" + m.ID().String()}, m)
		return err
	})
}

// createKeys makes goroutines create keys, and counts the transactions of etcd.
func createKeys(s *latchkey.Store, goroutines int) func(b *testing.B) error {
	return func(b *testing.B) error {
		ctx := context.Background()
		minted, _, err := s.MintKeys(ctx, b.N, nil)
		if err != nil {
			return err
		}
		before, err := s.Stats(ctx)
		if err != nil {
			return err
		}
		each := inTurn(b.N)
		err = together(b, goroutines, func(_, n int) error {
			for range n {
				if err := insertMinted(s, minted[each()]); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		after, err := s.Stats(ctx)
		b.ReportMetric(float64(after.Commits-before.Commits)/float64(b.N), "commits/key")
		return err
	}
}

// disableKeys disables one key after another.
func disableKeys(s *latchkey.Store) func(b *testing.B) error {
	return func(b *testing.B) error {
		ids, _, err := insertServerKeys(s, b.N)
		if err != nil {
			return err
		}
		each := inTurn(b.N)
		return together(b, 1, func(_, n int) error {
			for range n {
				if err := s.DisableKey(context.Background(), latchkey.ServerOwner, ids[each()]); err != nil {
					return err
				}
			}
			return nil
		})
	}
}

// etcdRevocations lets the process there disable keys one after another, and measures how long it
// takes until this process refuses them. The time begins before the call in the other process. This
// process tries ten thousand times in a second.
func (e *Env) etcdRevocations(here *latchkey.Store, there *process) (map[string]float64, error) {
	n := 200
	if e.Sizes[len(e.Sizes)-1] < 100_000 {
		n = 3
	}
	ids, tokens, err := insertServerKeys(here, n)
	if err != nil {
		return nil, err
	}
	for _, token := range tokens { // the cache knows the keys
		if err := login(here, token); err != nil {
			return nil, err
		}
	}
	times, calls := newHistogram(), newHistogram()
	for i, token := range tokens {
		refused, failed := make(chan time.Time, 1), make(chan error, 1)
		go func() {
			failed <- waitOften(func() (bool, error) {
				err := login(here, token)
				if errors.Is(err, latchkey.ErrKeyDisabled) {
					refused <- time.Now()
					return true, nil
				}
				return false, err
			})
		}()
		revoked, err := there.do(order{Do: "disable", ID: ids[i]})
		if err := errors.Join(err, <-failed); err != nil {
			return nil, err
		}
		record(times, (<-refused).Sub(revoked.Time))
		record(calls, revoked.Took)
	}
	return map[string]float64{
		"median-ns": float64(times.ValueAtPercentile(50)),
		"p99-ns":    float64(times.ValueAtPercentile(99)),
		"call-ns":   float64(calls.ValueAtPercentile(50)),
	}, nil
}

// waitOften calls done every tenth of a millisecond until it returns true.
func waitOften(done func() (bool, error)) error {
	for start := time.Now(); ; <-time.After(100 * time.Microsecond) {
		if ok, err := done(); ok || err != nil {
			return err
		}
		if time.Since(start) > 5*time.Minute {
			return errSlow
		}
	}
}

// manyEtcdKeys copies a store with many keys to a new etcd, and logs in there. It returns the
// metrics of each case.
func (e *Env) manyEtcdKeys(keys int) (map[string]map[string]float64, error) {
	st, err := e.stock(keys)
	if err != nil {
		return nil, err
	}
	n, err := e.startEtcd()
	if err != nil {
		return nil, err
	}
	measured := make(map[string]map[string]float64)
	if measured["copy"], err = n.copy(st, keys); err != nil {
		return nil, err
	}
	if measured["disk"], err = n.disk(keys); err != nil {
		return nil, err
	}
	if err := n.serve(st, measured); err != nil {
		return nil, err
	}
	if measured["cold-login/cost=default"], err = n.coldLogins(st.Cold); err != nil {
		return nil, err
	}
	// The memory of etcd is read last, because it has served then.
	used, err := n.process.do(order{Do: "memory"})
	measured["memory-of-etcd"] = map[string]float64{
		"MiB": mib(used.Memory), "MiB-at-most": mib(used.Most), "MiB-with-pages-of-the-file": mib(used.Resident),
	}
	return measured, err
}

// copy copies a store to etcd, and compares the copy with it.
func (n *etcdNode) copy(st *stock, keys int) (map[string]float64, error) {
	from, err := latchkey.OpenBoltEngine(st.Path, &latchkey.Options{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	defer from.Close()
	to := etcd.New(n.client, etcdPrefix)
	defer to.Close()
	start, logged := time.Now(), time.Now()
	var copied time.Duration
	report, err := migrate.Copy(context.Background(), from, to, &migrate.Options{Progress: func(p migrate.Progress) {
		if p.Comparing && copied == 0 {
			copied = time.Since(start)
		}
		if time.Since(logged) > 30*time.Second {
			n.env.Logf("%d of %d entries; comparing: %v", p.Done, p.Total, p.Comparing)
			logged = time.Now()
		}
	}})
	if err != nil {
		return nil, err
	}
	return map[string]float64{
		"keys/s":     float64(keys) / copied.Seconds(),
		"entries/s":  float64(report.Entries) / copied.Seconds(),
		"copy-ns":    float64(copied),
		"compare-ns": float64(time.Since(start) - copied),
	}, nil
}

// disk returns the space that etcd needs.
func (n *etcdNode) disk(keys int) (map[string]float64, error) {
	status, err := n.client.Status(context.Background(), n.address)
	if err != nil {
		return nil, err
	}
	var all int64 // with the log and the snapshots
	err = filepath.WalkDir(n.dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			all += info.Size()
		}
		if errors.Is(err, fs.ErrNotExist) { // etcd has removed it
			err = nil
		}
		return err
	})
	each := float64(keys)
	return map[string]float64{
		"B/key":          float64(status.DbSize) / each,
		"B/key-in-use":   float64(status.DbSizeInUse) / each,
		"B/key-with-log": float64(all) / each,
		"MiB":            mib(status.DbSize),
	}, err
}

// serve lets another process open the store, and log in with keys of the least cost, once each.
func (n *etcdNode) serve(st *stock, measured map[string]map[string]float64) error {
	p, err := n.env.startProgram("etcd-store")
	if err != nil {
		return err
	}
	opened, err := p.do(order{Do: "open", Address: n.address})
	if err != nil {
		return err
	}
	served, err := p.do(order{Do: "login", Tokens: st.Warm})
	if err != nil {
		return err
	}
	used, err := p.do(order{Do: "memory"})
	measured["open"] = map[string]float64{"open-ns": float64(opened.Took)}
	measured["cold-login/cost=least"] = percentiles(served.Times)
	measured["memory-of-a-process"] = map[string]float64{"MiB": mib(used.Resident), "MiB-anonymous": mib(used.Memory)}
	return errors.Join(err, p.end())
}

// coldLogins logs in with keys of the default cost, once each, beside bare hashes of this cost.
func (n *etcdNode) coldLogins(tokens []string) (map[string]float64, error) {
	s, err := n.open(nil)
	if err != nil {
		return nil, err
	}
	hash := newHash()
	var times []time.Duration
	var logins, hashes time.Duration
	for _, token := range tokens {
		start := time.Now()
		hash()
		hashed := time.Now()
		if err := login(s, token); err != nil {
			return nil, err
		}
		times = append(times, time.Since(hashed))
		logins, hashes = logins+times[len(times)-1], hashes+hashed.Sub(start)
	}
	m := percentiles(times)
	m["bare-hashes"] = float64(logins) / float64(hashes)
	return m, nil
}

func percentiles(times []time.Duration) map[string]float64 {
	h := newHistogram()
	for _, t := range times {
		record(h, t)
	}
	return map[string]float64{"p50-ns": float64(h.ValueAtPercentile(50)), "p99-ns": float64(h.ValueAtPercentile(99))}
}

// inTurn returns a function that returns the numbers below n, each once.
func inTurn(n int) func() int {
	numbers := make(chan int, n)
	for i := range n {
		numbers <- i
	}
	return func() int { return <-numbers }
}
