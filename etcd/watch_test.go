package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/proxy/grpcproxy"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/etcd"
)

// quick makes an engine notice soon that it hears nothing.
var quick = etcd.Options{WatchAge: 200 * time.Millisecond}

// impatient makes an engine that cannot find etcd say so soon.
var impatient = etcd.Options{WatchAge: 200 * time.Millisecond, Timeout: 300 * time.Millisecond}

func TestWaitSeesTheCommitsOfOtherProcesses(t *testing.T) {
	a, b := open(t, nil, etcd.Options{}), open(t, nil, etcd.Options{})
	a.put("a", "1")
	for i := range 20 {
		last := b.last()
		done := result(func() error { return b.Wait(t.Context(), last) })
		a.put("a", fmt.Sprint(i))
		if err := <-done; err != nil {
			t.Fatalf("Wait: %v", err)
		}
		if got := b.get("a"); got != fmt.Sprint(i) {
			t.Errorf("after Wait the value is %q, want %d", got, i)
		}
		b.view(func(tx latchkey.EngineTx) error {
			var changed []string
			for c, err := range tx.Changes(last) {
				if err != nil {
					return err
				}
				changed = append(changed, string(c.Key))
			}
			if got := strings.Join(changed, " "); got != "a" {
				t.Errorf("the changes are %q, want a", got)
			}
			return nil
		})
	}
}

func TestTheWatchTellsOfEveryChange(t *testing.T) {
	a, b := open(t, nil, etcd.Options{}), open(t, nil, quick)
	f := b.follow()
	b.put("own", "")
	a.put("put", "1")
	a.put("gone", "1")
	a.remove("gone")
	a.update(func(tx latchkey.EngineTx) error { return tx.Put("another table", []byte("there"), nil) })
	for _, key := range []string{"own", "put", "gone", "there"} {
		until(t, "the follower knows "+key, func() bool { return f.has(key) })
	}
	if n := f.lost(); n != 0 {
		t.Errorf("everything may have changed %d times, want 0", n)
	}
	until(t, "the engine is fresh", b.fresh)
}

// While nothing arrives, the engine does not call itself fresh. Afterwards it is fresh only when it
// has passed on what happened meanwhile.
func TestAWatchThatHearsNothingIsNotFresh(t *testing.T) {
	for _, tt := range []struct {
		name              string
		requests, answers bool
		cut               bool
	}{
		{name: "the connection stands still", requests: true, answers: true},
		{name: "no answers arrive", answers: true},
		{name: "the connection stands still and is cut", requests: true, answers: true, cut: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			direct, l := open(t, nil, etcd.Options{}), newLink(t, node.address)
			e := open(t, l, quick)
			f := e.follow()
			e.put("a", "")
			until(t, "the engine is fresh", e.fresh)
			l.hold(tt.requests, tt.answers)
			until(t, "the engine is not fresh", func() bool { return !e.fresh() })
			direct.put("meanwhile", "")
			if e.fresh() || f.has("meanwhile") {
				t.Error("the engine is fresh, although it hears nothing")
			}
			if err := e.View(t.Context(), func(latchkey.EngineTx) error { return nil }); !errors.Is(err, latchkey.ErrUnavailable) {
				t.Errorf("View: got error %v, want ErrUnavailable", err)
			}
			until(t, "Health knows", func() bool {
				ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
				defer cancel()
				return errors.Is(e.Engine.(latchkey.EngineHealther).EngineHealth(ctx), latchkey.ErrUnavailable)
			})
			err := e.Update(t.Context(), func(tx latchkey.EngineTx) error { return tx.Put("t", []byte("refused"), nil) })
			if !errors.Is(err, latchkey.ErrUnavailable) {
				t.Errorf("Update: got error %v, want ErrUnavailable", err)
			}
			if tt.cut {
				l.cut()
			} else {
				l.hold(false, false)
			}
			until(t, "the engine is fresh again", func() bool {
				fresh := e.fresh()
				if fresh && !f.has("meanwhile") {
					t.Fatal("the engine is fresh before it knows what happened meanwhile")
				}
				return fresh
			})
			e.healthy()
			if keys := e.keys(); keys != "a meanwhile" {
				t.Errorf("the keys are %q, want that the refused one is not there", keys)
			}
		})
	}
}

func TestAnOptionLetsTheCacheAnswerWithoutEtcd(t *testing.T) {
	l := newLink(t, node.address)
	opts := quick
	opts.Unreachable = time.Hour
	patient, strict := open(t, l, opts), open(t, l, quick)
	patient.put("a", "")
	strict.put("a", "")
	l.hold(true, true)
	until(t, "the strict engine is not fresh", func() bool { return !strict.fresh() })
	until(t, "the patient engine has noticed", patient.fresh)
}

// The watch lost its place while it was cut off, because the history was compacted.
func TestAWatchBehindCompactedHistoryForgetsEverything(t *testing.T) {
	direct, l := open(t, nil, etcd.Options{}), newLink(t, node.address)
	e := open(t, l, quick)
	f := e.follow()
	e.put("a", "")
	until(t, "the engine is fresh", e.fresh)
	until(t, "the follower is there", func() bool { return f.has("a") })
	l.hold(true, true)
	direct.put("meanwhile", "")
	direct.put("meanwhile", "")
	if _, err := client(t, node.address).Compact(t.Context(), int64(direct.last())); err != nil {
		t.Fatal(err)
	}
	l.cut()
	until(t, "anything may have changed", func() bool { return f.lost() > 0 })
	until(t, "the engine is fresh", e.fresh)
	last := e.last()
	direct.put("after", "")
	if err := e.Wait(t.Context(), last); err != nil {
		t.Errorf("Wait: %v", err)
	}
	until(t, "the follower goes on", func() bool { return f.has("after") })
	e.healthy()
}

// While a feed that has lost events begins again, it has none of them, and asks etcd.
func TestChangesWhileTheWatchBeginsAgain(t *testing.T) {
	direct, l := open(t, nil, etcd.Options{}), newLink(t, node.address)
	e := open(t, l, etcd.Options{WatchAge: time.Minute})
	begins, goOn := make(chan struct{}), make(chan struct{})
	times := 0
	e.Engine.(latchkey.EngineWatcher).Watch(func(changes []latchkey.TrackedChange) {
		if changes == nil {
			if times++; times == 2 {
				close(begins)
				<-goOn
			}
		}
	})
	e.put("a", "")
	last := e.last()
	l.hold(true, true)
	direct.put("meanwhile", "")
	direct.put("meanwhile", "")
	if _, err := client(t, node.address).Compact(t.Context(), int64(direct.last())); err != nil {
		t.Fatal(err)
	}
	l.cut()
	<-begins
	defer close(goOn)
	e.view(func(tx latchkey.EngineTx) error {
		changed := ""
		for c, err := range tx.Changes(last) {
			if err != nil {
				return err
			}
			changed += string(c.Key)
		}
		if changed != "meanwhile" {
			t.Errorf("the changes are %q, want what was put meanwhile", changed)
		}
		return nil
	})
}

// own starts a member for one test, and returns a link to it.
func own(t *testing.T, change func(c *embed.Config)) (*member, *link) {
	t.Helper()
	m := &member{dir: t.TempDir(), change: change}
	if err := m.start(); err != nil {
		t.Fatal(err)
	}
	l := newLink(t, m.address)
	t.Cleanup(func() { m.stop(l) })
	return m, l
}

// stop stops a member. Without connections, it does not wait for its clients.
func (m *member) stop(l *link) {
	l.setDown(true)
	m.server.Close()
}

// backUp stops a member, copies what it has, and starts it again. It returns the directory with the
// copy.
func (m *member) backUp(t *testing.T, l *link) (backup string) {
	t.Helper()
	m.stop(l)
	backup = t.TempDir()
	if err := os.CopyFS(backup, os.DirFS(m.dir)); err != nil {
		t.Fatal(err)
	}
	m.restart(t, l)
	return backup
}

func (m *member) restart(t *testing.T, l *link) {
	t.Helper()
	if err := m.start(); err != nil {
		t.Fatal(err)
	}
	l.setDown(false)
}

// One member of two takes requests, and answers none.
func TestASilentMember(t *testing.T) {
	t.Parallel()
	links := []*link{newLink(t, node.address), newLink(t, node.address)}
	opts := etcd.Options{WatchAge: 400 * time.Millisecond, Timeout: 2 * time.Second}
	e := engine{etcd.NewWith(client(t, links[0].address, links[1].address), t.Name(), opts), t}
	defer e.Close()
	f := e.follow()
	e.put("a", "")
	direct := engine{etcd.New(client(t, node.address), t.Name()), t}
	defer direct.Close()
	done, unknown := 0, 0
	for i, l := range links { // one of them has the watch
		l.hold(true, true)
		until(t, "the engine commits", func() bool {
			err := e.Update(t.Context(), func(tx latchkey.EngineTx) error { return add(tx, "a") })
			switch {
			case err == nil:
				done++
			case errors.Is(err, latchkey.ErrCommitUnknown): // on a busy machine
				unknown++
			}
			return err == nil
		})
		key := fmt.Sprint("told", i)
		direct.put(key, "")
		until(t, "the engine hears of a change", func() bool { return f.has(key) })
		until(t, "the engine is fresh", e.fresh)
		l.hold(false, false)
	}
	if n := len(direct.get("a")); n < done || n > done+unknown {
		t.Errorf("%d additions took place, %d were acknowledged, and of %d it is unknown", n, done, unknown)
	}
	if n := f.lost(); n != 0 {
		t.Errorf("everything may have changed %d times, want 0", n)
	}
}

func TestARestartOfEtcd(t *testing.T) {
	m, l := own(t, nil)
	e := openAt(t, l.address, quick)
	f := e.follow()
	e.put("a", "1")
	m.stop(l)
	until(t, "the engine is not fresh", func() bool { return !e.fresh() })
	m.restart(t, l)
	e.commitAgain()
	if got := e.get("a"); got != "1" {
		t.Errorf("the value is %q, want 1", got)
	}
	until(t, "the engine is fresh", e.fresh)
	until(t, "the follower goes on", func() bool { return f.has("again") })
	if n := f.lost(); n != 0 {
		t.Errorf("everything may have changed %d times, want 0", n)
	}
	e.healthy()
}

// An earlier state of etcd comes back, and goes on differently. Its revision may be behind what the
// engine knows, or beyond.
func TestARestoredEtcdIsNoticed(t *testing.T) {
	for name, commits := range map[string]int{"behind": 0, "beyond": 20} {
		t.Run(name, func(t *testing.T) {
			m, l := own(t, nil)
			e := openAt(t, l.address, quick)
			f := e.follow()
			e.put("a", "1")
			backup := m.backUp(t, l)
			e.commitAgain()
			for range 10 {
				e.put("a", "2")
			}
			lost := e.last()
			until(t, "the follower knows", e.fresh)
			m.stop(l)
			m.dir = backup
			if err := m.start(); err != nil {
				t.Fatal(err)
			}
			other := openAt(t, m.address, etcd.Options{})
			for range commits {
				other.put("b", "1")
			}
			l.setDown(false)
			until(t, "anything may have changed", func() bool { return f.lost() > 0 })
			if n := e.restored(); n != 1 {
				t.Errorf("Restored: got %d, want 1", n)
			}
			until(t, "the engine is fresh", e.fresh)
			if got := e.get("a"); got != "1" {
				t.Errorf("the value is %q, want the one that was restored", got)
			}
			for range 2 {
				if err := e.health(); !errors.Is(err, etcd.ErrRestored) {
					t.Errorf("EngineHealth: got %v, want ErrRestored", err)
				}
				e.renew()
			}
			if n := e.restored(); n != 0 {
				t.Errorf("a restoration is left: %d", n)
			}
			if n := e.last(); n >= lost && commits == 0 {
				t.Errorf("the sequence is %d, and was %d", n, lost)
			}
			last := e.last()
			other.put("after", "")
			if err := e.Wait(t.Context(), last); err != nil {
				t.Errorf("Wait: %v", err)
			}
			until(t, "the follower goes on", func() bool { return f.has("after") })
		})
	}
}

func TestHealthWarnsBeforeTheQuotaIsFull(t *testing.T) {
	for size, warns := range map[int64]bool{100: false, 800: false, 801: true, 1000: true} {
		address := serve(t, &statuses{version: "3.7.3", size: size, quota: 1000})
		e := engine{etcd.New(client(t, address), t.Name()), t}
		err := e.health()
		if warned := err != nil && strings.Contains(err.Error(), "compact and defragment it, or raise the quota"); warned != warns || err != nil && !warns {
			t.Errorf("EngineHealth of a member that uses %d of 1000: %v, want a warning: %t", size, err, warns)
		}
		if err := e.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
}

// Sequences go back with etcd. A caller that waits for one from before would miss all commits until
// there is a later one.
func TestWaitEndsWhenEtcdWasRestored(t *testing.T) {
	m, l := own(t, nil)
	e := openAt(t, l.address, quick)
	e.put("a", "1")
	backup := m.backUp(t, l)
	e.commitAgain()
	for range 10 {
		e.put("a", "2")
	}
	lost := e.last()
	until(t, "the engine is fresh", e.fresh)
	during := result(func() error { return e.Wait(t.Context(), lost) })
	m.stop(l)
	m.dir = backup
	m.restart(t, l)
	if err := <-during; err != nil {
		t.Errorf("Wait: %v", err)
	}
	if err := e.Wait(t.Context(), lost); err != nil {
		t.Errorf("Wait: %v", err)
	}
	if n := e.last(); n >= lost {
		t.Errorf("the sequence is %d, and was %d: Wait has ended too late", n, lost)
	}
}

// The watch goes on after a restoration, and can tell of the commits of the other history before
// anybody asks for the revision. The history that etcd had may be compacted.
func TestARestorationIsNoticedAlthoughTheWatchGoesOn(t *testing.T) {
	for name, tt := range map[string]struct{ probed, compacted bool }{
		"the last probe was before the snapshot": {},
		"the last probe has read what is lost":   {probed: true},
		"the history is compacted":               {probed: true, compacted: true},
	} {
		t.Run(name, func(t *testing.T) {
			m, l := own(t, nil)
			e := openAt(t, l.address, etcd.Options{WatchAge: time.Hour}) // which probes once
			f := e.follow()
			e.put("a", "1")
			until(t, "the engine has asked", func() bool {
				etcd.Probe(t.Context(), e.Engine)
				return etcd.Proof(e.Engine) != 0
			})
			backup := m.backUp(t, l)
			e.commitAgain()
			e.put("a", "2")
			until(t, "the watch tells", func() bool { return f.has("again") })
			if tt.probed {
				etcd.Probe(t.Context(), e.Engine)
			}
			m.stop(l)
			if !tt.probed {
				inVain, cancel := context.WithCancel(t.Context())
				cancel()
				etcd.Probe(inVain, e.Engine)
			}
			m.dir = backup
			if err := m.start(); err != nil {
				t.Fatal(err)
			}
			other := openAt(t, m.address, etcd.Options{})
			for range 20 {
				other.put("b", "1")
			}
			if tt.compacted {
				if _, err := client(t, m.address).Compact(t.Context(), int64(other.last()), clientv3.WithCompactPhysical()); err != nil {
					t.Fatal(err)
				}
			} else {
				l.setDown(false)
				until(t, "the watch goes on", func() bool { return f.has("b") })
				if e.restored() != 0 {
					t.Fatal("the watch has noticed the restoration, so the test shows nothing")
				}
			}
			l.setDown(false)
			if tt.compacted {
				until(t, "the watch begins anew", func() bool { return f.lost() > 0 })
			}
			until(t, "the engine knows", func() bool {
				etcd.Probe(t.Context(), e.Engine)
				return e.restored() == 1
			})
			if err := e.health(); !errors.Is(err, etcd.ErrRestored) {
				t.Errorf("EngineHealth: got %v, want ErrRestored", err)
			}
		})
	}
}

func TestAtAFullQuotaDeletionsWork(t *testing.T) {
	_, l := own(t, func(c *embed.Config) { c.QuotaBackendBytes = 16 << 20 })
	e := openAt(t, l.address, quick)
	f := e.follow()
	var err error
	n := 0
	for ; err == nil && n < 1000; n++ {
		err = e.Update(t.Context(), func(tx latchkey.EngineTx) error {
			return tx.Put("t", fmt.Appendf(nil, "%04d", n), make([]byte, latchkey.MaxEngineValue))
		})
	}
	if !errors.Is(err, latchkey.ErrNoSpace) {
		t.Fatalf("after %d puts: got error %v, want ErrNoSpace", n, err)
	}
	if err := e.health(); err == nil || !strings.Contains(err.Error(), "NOSPACE") || !strings.Contains(err.Error(), "of its quota") {
		t.Errorf("EngineHealth: got %v, want the alarm, and how full the member is", err)
	}
	sequence := e.last()
	for i := range 3 {
		e.update(func(tx latchkey.EngineTx) error {
			if v, err := tx.Get("t", fmt.Appendf(nil, "%04d", i)); err != nil || v == nil {
				t.Errorf("entry %d is not there: %v", i, err)
			}
			return tx.Delete("t", fmt.Appendf(nil, "%04d", i))
		})
		now, _, err := e.Commit(t.Context())
		if err != nil || now <= sequence {
			t.Errorf("after a deletion the sequence is %d, %v, and was %d", now, err, sequence)
		}
		if err := e.Wait(t.Context(), sequence); err != nil {
			t.Errorf("Wait: %v", err)
		}
		sequence = now
		until(t, "the follower knows", func() bool { return f.has(fmt.Sprintf("%04d", i)) })
	}
	// Without the commit key, a transaction that reads everything cannot be compared.
	err = e.Update(t.Context(), func(tx latchkey.EngineTx) error {
		if _, err := tx.Count("t"); err != nil {
			return err
		}
		return tx.Delete("t", []byte("0004"))
	})
	if !errors.Is(err, latchkey.ErrNoSpace) {
		t.Errorf("got error %v, want ErrNoSpace", err)
	}
	if err := e.Update(t.Context(), func(tx latchkey.EngineTx) error { return add(tx, "new") }); !errors.Is(err, latchkey.ErrNoSpace) {
		t.Errorf("got error %v, want ErrNoSpace", err)
	}

	// There is room again.
	c := client(t, l.address)
	if _, err := c.Compact(t.Context(), int64(e.last()), clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	for key := range strings.FieldsSeq(e.keys()) {
		e.remove(key)
	}
	if _, err := c.Compact(t.Context(), int64(e.last()), clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Defragment(t.Context(), l.address); err != nil {
		t.Fatal(err)
	}
	if _, err := c.AlarmDisarm(t.Context(), &clientv3.AlarmMember{}); err != nil {
		t.Fatal(err)
	}
	e.update(func(tx latchkey.EngineTx) error {
		if _, err := tx.Count("t"); err != nil {
			return err
		}
		return add(tx, "new")
	})
	if now := e.last(); now <= sequence {
		t.Errorf("the sequence is %d, and was %d", now, sequence)
	}
	if got := e.keys(); got != "new" {
		t.Errorf("the keys are %q, want new", got)
	}
}

// statuses is a server that answers one question.
type statuses struct {
	pb.UnimplementedMaintenanceServer
	version     string
	size, quota int64
}

func (s *statuses) Status(context.Context, *pb.StatusRequest) (*pb.StatusResponse, error) {
	return &pb.StatusResponse{Header: &pb.ResponseHeader{}, Version: s.version, DbSize: s.size, DbSizeQuota: s.quota}, nil
}

func TestReleasesWithKnownFaultsAreRefused(t *testing.T) {
	for version, sound := range map[string]bool{
		"3.3.27": false, "3.4.41": false, "3.4.42": true, "3.5.27": false, "3.5.28": true, "3.6.13": false, "3.6.14": true,
		"3.7.0-rc.0": false, "3.7.0": false, "3.7.1": true, "3.7.3": true, "3.8.0": true, "4.0.0": true,
	} {
		if err := etcd.CheckVersion(version); (err == nil) != sound || err != nil && !errors.Is(err, etcd.ErrFaultyServer) {
			t.Errorf("release %s: %v, want sound %t", version, err, sound)
		}
	}
	if err := etcd.CheckVersion("new"); err == nil {
		t.Error("a version that cannot be read is taken for a sound one")
	}
}

func TestAFaultyServerIsRefusedUnlessAnOptionAcceptsIt(t *testing.T) {
	address := serve(t, &statuses{version: "3.5.9"})
	fn := func(latchkey.EngineTx) error { return nil }
	e := openAt(t, address, impatient)
	for range 2 {
		if err := e.View(t.Context(), fn); !errors.Is(err, etcd.ErrFaultyServer) {
			t.Errorf("got error %v, want ErrFaultyServer", err)
		}
	}
	opts := impatient
	opts.AcceptFaultyServers = true
	if err := openAt(t, address, opts).View(t.Context(), fn); errors.Is(err, etcd.ErrFaultyServer) {
		t.Errorf("with AcceptFaultyServers: %v", err)
	}
}

func TestWithoutEtcdACallIsRefused(t *testing.T) {
	l := newLink(t, node.address)
	l.hold(true, true)
	e := open(t, l, impatient)
	if err := e.View(t.Context(), func(latchkey.EngineTx) error { return nil }); !errors.Is(err, latchkey.ErrUnavailable) {
		t.Errorf("got error %v, want ErrUnavailable", err)
	}
	l.cut()
	until(t, "the engine finds etcd", func() bool {
		return e.View(t.Context(), func(latchkey.EngineTx) error { return nil }) == nil
	})
}

// etcd's gRPC proxy does not pass on the answers about the progress of a watch.
func TestAProxyThatDropsProgressIsNotTrusted(t *testing.T) {
	through := client(t, node.address)
	kv, _ := grpcproxy.NewKvProxy(through)
	watch, watchDone := grpcproxy.NewWatchProxy(t.Context(), zap.NewNop(), through)
	address := serve(t, grpcproxy.NewMaintenanceProxy(through), func(s *grpc.Server) {
		pb.RegisterKVServer(s, kv)
		pb.RegisterWatchServer(s, watch)
	})
	t.Cleanup(func() { <-watchDone })
	e := openAt(t, address, quick)
	e.put("a", "1")
	if got := e.get("a"); got != "1" {
		t.Errorf("the value is %q, want 1", got)
	}
	// While nobody else writes, etcd's revision alone shows that the watch has everything.
	others := func() {
		if _, err := through.Put(t.Context(), "elsewhere", ""); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "the engine is not fresh", func() bool {
		others()
		return !e.fresh()
	})
	until(t, "Health names the proxy", func() bool {
		others()
		err := e.health()
		return err != nil && strings.Contains(err.Error(), "proxy")
	})
}

// As when a store could not be opened, and is opened again on the same engine.
func TestTheLastStoreThatWatchesIsTold(t *testing.T) {
	e, other := open(t, nil, etcd.Options{}), openAt(t, node.address, etcd.Options{})
	first := e.follow()
	e.put("a", "")
	other.put("b", "")
	second := e.follow()
	other.put("c", "")
	until(t, "the second store is told", func() bool { return second.has("c") })
	if first.has("c") {
		t.Error("the first store was told, too")
	}
}
