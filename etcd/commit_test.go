package etcd_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/proxy/grpcproxy"
	"google.golang.org/grpc"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/etcd"
)

// gather runs Updates of which none commits before all have run their functions. Then it lets them
// commit, in one transaction of etcd, after one that is under way. It returns how often each
// function has run. between is called before they commit.
func gather(t *testing.T, between func(), fns ...func(tx latchkey.EngineTx) error) (runs []int) {
	t.Helper()
	l := newLink(t, node.address)
	e := open(t, l, etcd.Options{})
	e.put("something", "")
	runs = make([]int, len(fns))
	var group, ran sync.WaitGroup
	commit := make(chan struct{})
	for i, fn := range fns {
		ran.Add(1)
		group.Go(func() {
			e.update(func(tx latchkey.EngineTx) error {
				err := fn(tx)
				if runs[i]++; runs[i] == 1 {
					ran.Done()
					<-commit
				}
				return err
			})
		})
	}
	ran.Wait()
	between()
	l.hold(true, false)
	group.Go(func() { e.put("under way", "") })
	until(t, "a commit is under way", func() bool { return etcd.Sending(e.Engine) && etcd.Waiting(e.Engine) == 0 })
	close(commit)
	until(t, "the others wait", func() bool { return etcd.Waiting(e.Engine) == len(fns) })
	l.hold(false, false)
	group.Wait()
	return runs
}

func TestTransactionsThatWaitShareACommit(t *testing.T) {
	e := open(t, nil, etcd.Options{})
	var fns []func(tx latchkey.EngineTx) error
	for i := range 20 {
		fns = append(fns, func(tx latchkey.EngineTx) error { return add(tx, fmt.Sprint(i)) })
	}
	gather(t, func() {}, fns...)
	first := e.sequence("0")
	for i := range 20 {
		if n := e.sequence(fmt.Sprint(i)); n != first {
			t.Errorf("transaction %d was committed at %d, want %d as the first", i, n, first)
		}
	}
}

func TestAConflictFailsOneTransactionOfAGroup(t *testing.T) {
	e := open(t, nil, etcd.Options{})
	for _, key := range []string{"b", "c1", "d"} {
		e.put(key, ".")
	}
	scan := func(tx latchkey.EngineTx, from, to, write string) error {
		n := 0
		for _, err := range tx.Scan("t", []byte(from), []byte(to)) {
			if err != nil {
				return err
			}
			n++
		}
		return tx.Put("t", []byte(write), bytes.Repeat([]byte("."), n))
	}
	runs := gather(t,
		func() {
			e.put("b", "..")
			e.remove("c1")
			e.put("e1", ".")
		},
		func(tx latchkey.EngineTx) error { return add(tx, "a") },
		func(tx latchkey.EngineTx) error { return add(tx, "b") },
		func(tx latchkey.EngineTx) error { return scan(tx, "c", "d", "of c") },
		func(tx latchkey.EngineTx) error { return add(tx, "d") },
		func(tx latchkey.EngineTx) error { return scan(tx, "e", "f", "of e") },
	)
	if got := fmt.Sprint(runs); got != "[1 2 2 1 2]" {
		t.Errorf("the functions have run %s times, want 2 for those in whose way another commit was", got)
	}
	for key, want := range map[string]string{"a": ".", "b": "...", "of c": "", "d": "..", "of e": "."} {
		if got := e.get(key); got != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
}

// Each of two writes what the other has read, or what the other writes.
func TestMembersOfAGroupDoNotMissEachOther(t *testing.T) {
	e := open(t, nil, etcd.Options{})
	e.put("x", ".")
	e.put("y", ".")
	// Unless one sees the other's, both remove their own entry.
	leave := func(own string) func(tx latchkey.EngineTx) error {
		return func(tx latchkey.EngineTx) error {
			n := 0
			for _, err := range tx.Scan("t", []byte("x"), []byte("z")) {
				if err != nil {
					return err
				}
				n++
			}
			if n < 2 {
				return nil
			}
			return tx.Delete("t", []byte(own))
		}
	}
	gather(t, func() {}, leave("x"), leave("y"),
		func(tx latchkey.EngineTx) error { return add(tx, "n") },
		func(tx latchkey.EngineTx) error { return add(tx, "n") },
		func(tx latchkey.EngineTx) error { return add(tx, "n") },
	)
	if got := e.get("n"); got != "..." {
		t.Errorf("three transactions that add one have left %d", len(got))
	}
	if got := e.get("x") + e.get("y"); got != "." {
		t.Errorf("%d of two entries are left, want the one whose transaction saw that the other was gone", len(got))
	}
}

// Many writers in two processes take entries away. None takes the last one that it sees.
func TestNobodyTakesTheLastEntry(t *testing.T) {
	engines := []engine{open(t, nil, etcd.Options{}), open(t, nil, etcd.Options{})}
	for range 10 {
		for i := range 6 {
			engines[0].put(fmt.Sprint(i), "")
		}
		var group sync.WaitGroup
		for i := range 12 {
			group.Go(func() {
				engines[i%2].update(func(tx latchkey.EngineTx) error {
					n := 0
					for _, err := range tx.Scan("t", nil, nil) {
						if err != nil {
							return err
						}
						n++
					}
					if n == 1 {
						return nil
					}
					return tx.Delete("t", fmt.Append(nil, i/2))
				})
			})
		}
		group.Wait()
		if left := engines[0].keys(); len(left) != 1 {
			t.Fatalf("the entries %q are left, want one", left)
		}
	}
}

func TestMoreThanFitsIntoAGroupIsCommittedInAFew(t *testing.T) {
	for _, tt := range []struct {
		name         string
		transactions int
		writes       int
		value        int
		groups       int // at most
	}{
		{"many transactions", 200, 1, 0, 4},
		{"transactions with many writes", 60, 60, 0, 4},
		{"large transactions", 60, 1, latchkey.MaxEngineValue, 6},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var fns []func(tx latchkey.EngineTx) error
			key := func(i, j int) string { return fmt.Sprint(i, " ", j) }
			for i := range tt.transactions {
				fns = append(fns, func(tx latchkey.EngineTx) error {
					for j := range tt.writes {
						if err := tx.Put("t", []byte(key(i, j)), make([]byte, tt.value)); err != nil {
							return err
						}
					}
					return nil
				})
			}
			for i, n := range gather(t, func() {}, fns...) {
				if n != 1 {
					t.Errorf("function %d has run %d times, want 1", i, n)
				}
			}
			e := open(t, nil, etcd.Options{})
			groups := make(map[uint64]bool)
			for i := range tt.transactions {
				for j := range tt.writes {
					groups[e.sequence(key(i, j))] = true
				}
			}
			if len(groups) > tt.groups || groups[0] {
				t.Errorf("the transactions were committed at %v, want %d commits at most", slices.Collect(maps.Keys(groups)), tt.groups)
			}
		})
	}
}

func TestAConflictEndsWithTheContext(t *testing.T) {
	e, other := open(t, nil, etcd.Options{}), open(t, nil, etcd.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	runs := 0
	err := e.Update(ctx, func(tx latchkey.EngineTx) error {
		if err := add(tx, "a"); err != nil {
			return err
		}
		other.put("a", "..") // in the way each time
		if runs++; runs == 5 {
			cancel()
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) || runs != 5 {
		t.Errorf("after %d runs Update returned %v, want the context's error after 5", runs, err)
	}
	if got := e.get("a"); got != ".." {
		t.Errorf("the value is %q, want the other's", got)
	}
}

func TestATransactionThatReadsMuchConflictsWithEverything(t *testing.T) {
	e, other := open(t, nil, etcd.Options{}), open(t, nil, etcd.Options{})
	for i := range 200 {
		e.put(fmt.Sprintf("%03d", i), ".")
	}
	for _, tt := range []struct {
		name string
		read func(tx latchkey.EngineTx) error
		want int
	}{
		{"100 keys", func(tx latchkey.EngineTx) error {
			for i := range 100 {
				if _, err := number(tx, fmt.Sprintf("%03d", i)); err != nil {
					return err
				}
			}
			return nil
		}, 1},
		{"150 keys", func(tx latchkey.EngineTx) error {
			for i := range 150 {
				if _, err := number(tx, fmt.Sprintf("%03d", i)); err != nil {
					return err
				}
			}
			return nil
		}, 2},
		{"a scan of 200", func(tx latchkey.EngineTx) error {
			for _, err := range tx.Scan("t", []byte("0"), []byte("2")) {
				if err != nil {
					return err
				}
			}
			return nil
		}, 2},
		{"a scan of which 10 were taken", func(tx latchkey.EngineTx) error {
			n := 0
			for _, err := range tx.Scan("t", nil, nil) {
				if n++; err != nil || n == 10 {
					return err
				}
			}
			return nil
		}, 1},
		{"Count", func(tx latchkey.EngineTx) error {
			_, err := tx.Count("t")
			return err
		}, 2},
		{"Changes", func(tx latchkey.EngineTx) error {
			for range tx.Changes(0) {
				break
			}
			return nil
		}, 2},
	} {
		runs := 0
		e.update(func(tx latchkey.EngineTx) error {
			if err := tt.read(tx); err != nil {
				return err
			}
			if runs++; runs == 1 {
				other.put("not read", "")
			}
			return tx.Put("t", []byte("written"), nil)
		})
		if runs != tt.want {
			t.Errorf("%s: the function has run %d times, want %d", tt.name, runs, tt.want)
		}
	}
}

func TestTransactionsOfTheLargestSize(t *testing.T) {
	e := open(t, nil, etcd.Options{})
	most := e.Engine.(latchkey.EngineBounder).MaxWrites()
	value := make([]byte, 1<<20/most-10)
	e.update(func(tx latchkey.EngineTx) error {
		for i := range most {
			key := fmt.Appendf(nil, "%03d", i)
			if _, err := tx.Get("t", key); err != nil {
				return err
			}
			if err := tx.Put("t", key, value); err != nil {
				return err
			}
		}
		return nil
	})
	err := e.Update(t.Context(), func(tx latchkey.EngineTx) error {
		for i := range 25 { // 1.6 MiB
			_ = tx.Put("t", fmt.Append(nil, i), make([]byte, latchkey.MaxEngineValue))
		}
		return nil
	})
	if !errors.Is(err, latchkey.ErrTransactionTooLarge) {
		t.Errorf("got error %v, want ErrTransactionTooLarge", err)
	}
}

// A server with a low limit refuses a request itself, and gRPC refuses one that is much larger.
func TestAServerThatTakesLessThanUsual(t *testing.T) {
	_, l := own(t, func(c *embed.Config) { c.MaxRequestBytes = 100 << 10 })
	e := openAt(t, l.address, etcd.Options{})
	for _, n := range []int{1, 2, 15} {
		runs := 0
		err := e.Update(t.Context(), func(tx latchkey.EngineTx) error {
			if runs++; runs > 1 {
				return errors.New("the function has run before")
			}
			for i := range n {
				if err := tx.Put("t", fmt.Append(nil, i), make([]byte, latchkey.MaxEngineValue)); err != nil {
					return err
				}
			}
			return nil
		})
		if fits := n == 1; fits != (err == nil) || !fits && !errors.Is(err, latchkey.ErrTransactionTooLarge) {
			t.Errorf("%d values: got error %v, want ErrTransactionTooLarge for more than one", n, err)
		}
	}
}

func TestCompactedHistory(t *testing.T) {
	e := open(t, nil, etcd.Options{})
	e.put("a", "1")
	e.put("b", "1")
	compact := func() {
		e.put("a", "2")
		e.put("b", "2")
		if _, err := client(t, node.address).Compact(t.Context(), int64(e.last())); err != nil {
			t.Fatal(err)
		}
	}
	runs := 0
	read := func(tx latchkey.EngineTx) (string, error) {
		a, err := tx.Get("t", []byte("a"))
		if runs++; runs == 1 {
			compact()
		}
		if err != nil {
			return "", err
		}
		b, err := tx.Get("t", []byte("b"))
		return string(a) + string(b), err
	}
	err := e.View(t.Context(), func(tx latchkey.EngineTx) error {
		_, err := read(tx)
		return err
	})
	if !errors.Is(err, latchkey.ErrInterrupted) {
		t.Errorf("View: got error %v, want ErrInterrupted", err)
	}
	e.put("a", "1")
	e.put("b", "1")
	runs = 0
	e.update(func(tx latchkey.EngineTx) error {
		both, err := read(tx)
		if err != nil {
			return err
		}
		return tx.Put("t", []byte("both"), []byte(both))
	})
	if both := e.get("both"); runs != 2 || both != "22" {
		t.Errorf("after %d runs the Update has read %q, want 22 after 2", runs, both)
	}
}

// Each commit loses its connection at a moment of its own. It takes place once or not at all, and
// the caller learns which.
func TestACommitWhoseAnswerIsLost(t *testing.T) {
	for _, tt := range []struct {
		name     string
		requests bool // the request is lost as well
		late     bool // the request reaches the server after the engine has looked
		closed   bool // and the engine is closed then
		runs     int
	}{
		{name: "the answer is lost", runs: 1},
		{name: "the request is lost", requests: true, runs: 2},
		{name: "the request comes late", requests: true, late: true, runs: 2},
		{name: "the request comes after Close", requests: true, late: true, closed: true, runs: 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			direct, l := open(t, nil, etcd.Options{}), newLink(t, node.address)
			e := open(t, l, etcd.Options{})
			e.put("before", "")
			var runs atomic.Int32
			done := result(func() error {
				return e.Update(t.Context(), func(tx latchkey.EngineTx) error {
					// Nothing is read, so that only the engine's care stops a second one.
					n := runs.Add(1)
					if n == 1 {
						l.hold(tt.requests, true)
					}
					return tx.Put("t", fmt.Appendf(nil, "run %d", n), nil)
				})
			})
			if tt.requests {
				until(t, "the commit is under way", func() bool { return l.holds("run 1") })
			} else {
				until(t, "the commit has taken place", func() bool { return strings.Contains(direct.keys(), "run") })
			}
			l.cut()
			if err := <-done; err != nil {
				t.Errorf("Update: %v", err)
			}
			if tt.closed {
				e.reach("Close", e.Close)
			}
			if tt.late {
				l.hold(false, false)
				for range 100 { // which gives the request time to arrive
					direct.put("before", "")
				}
			}
			if n := int(runs.Load()); n != tt.runs {
				t.Errorf("the function has run %d times, want %d", n, tt.runs)
			}
			if keys := direct.keys(); keys != fmt.Sprintf("before run %d", tt.runs) {
				t.Errorf("the table has %q, want the last run alone", keys)
			}
			if !tt.closed {
				e.put("after", "")
			}
		})
	}
}

func TestACommitOfWhichNothingCanBeLearned(t *testing.T) {
	direct, l := open(t, nil, etcd.Options{}), newLink(t, node.address)
	e := open(t, l, etcd.Options{Timeout: 100 * time.Millisecond})
	e.commitAgain()
	err := e.Update(t.Context(), func(tx latchkey.EngineTx) error {
		l.hold(false, true)
		return tx.Put("t", []byte("a"), []byte("."))
	})
	if !errors.Is(err, latchkey.ErrCommitUnknown) {
		t.Errorf("got error %v, want ErrCommitUnknown", err)
	}
	l.hold(false, false)
	l.cut()
	e.commitAgain()
	if v := direct.get("a"); v != "" && v != "." {
		t.Errorf("the value is %q", v)
	}
}

// Each transaction that meets others runs again alone among those. Only a first run can make a
// second one meet others, so there are at most twice as many runs as transactions.
func TestTransactionsThatMeetRunAgainOneByOne(t *testing.T) {
	e := open(t, nil, etcd.Options{})
	e.put("k", "")
	const n = 32
	var calls, runs atomic.Int64
	var done sync.WaitGroup
	for range n {
		done.Go(func() {
			e.reach("Update", func() error {
				calls.Add(1)
				return e.Update(t.Context(), func(tx latchkey.EngineTx) error {
					runs.Add(1)
					return add(tx, "k")
				})
			})
		})
	}
	done.Wait()
	if got := e.get("k"); len(got) != n {
		t.Errorf("the entry was changed %d times, want %d", len(got), n)
	}
	if calls, runs := calls.Load(), runs.Load(); runs > 2*calls {
		t.Errorf("%d transactions ran %d times", calls, runs)
	}
}

// A transaction that met others can take long when it runs again, for example because it depends on
// everything and meets each commit.
func TestATransactionThatRunsAgainForLongDoesNotStopOthers(t *testing.T) {
	e, other := open(t, nil, etcd.Options{Timeout: 500 * time.Millisecond}), open(t, nil, etcd.Options{})
	meet := func(key string, again func()) error {
		runs := 0
		return e.Update(t.Context(), func(tx latchkey.EngineTx) error {
			if err := add(tx, key); err != nil {
				return err
			}
			if runs++; runs == 1 {
				other.put(key, "")
			} else {
				again()
			}
			return nil
		})
	}
	runsAgain, goOn := make(chan struct{}), make(chan struct{})
	stay := sync.OnceFunc(func() {
		close(runsAgain)
		<-goOn
	})
	var long sync.WaitGroup
	long.Go(func() { e.reach("Update", func() error { return meet("a", stay) }) })
	<-runsAgain
	e.reach("Update", func() error { return meet("b", func() {}) })
	close(goOn)
	long.Wait()
}

// noSpace passes requests on to a server. It answers each that writes as a server does that ran out
// of space while it applied the request.
type noSpace struct{ pb.KVServer }

func (n noSpace) Txn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	response, err := n.KVServer.Txn(ctx, r)
	if err == nil && len(r.Compare) > 0 {
		return nil, rpctypes.ErrGRPCNoSpace
	}
	return response, err
}

func TestACommitThatFilledAServerAndOfWhichNothingIsHeard(t *testing.T) {
	through := client(t, node.address)
	kv, _ := grpcproxy.NewKvProxy(through)
	address := serve(t, grpcproxy.NewMaintenanceProxy(through), func(s *grpc.Server) { pb.RegisterKVServer(s, noSpace{kv}) })
	e := openAt(t, address, impatient)
	err := e.Update(t.Context(), func(tx latchkey.EngineTx) error { return tx.Put("t", []byte("a"), nil) })
	if !errors.Is(err, latchkey.ErrCommitUnknown) {
		t.Errorf("got error %v, want ErrCommitUnknown", err)
	}
}
