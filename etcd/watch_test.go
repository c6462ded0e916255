package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/etcd"
)

// quick makes an engine notice soon that it hears nothing.
var quick = etcd.Options{WatchAge: 200 * time.Millisecond, Timeout: 200 * time.Millisecond}

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
			if err := e.Engine.(latchkey.EngineHealther).EngineHealth(t.Context()); err != nil {
				t.Errorf("EngineHealth: %v", err)
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
	if err := e.Engine.(latchkey.EngineHealther).EngineHealth(t.Context()); err != nil {
		t.Errorf("EngineHealth: %v", err)
	}
}

func TestARestartOfEtcd(t *testing.T) {
	m := &member{dir: t.TempDir()}
	if err := m.start(); err != nil {
		t.Fatal(err)
	}
	defer func() { m.server.Close() }()
	e := openAt(t, m.address, quick)
	f := e.follow()
	e.put("a", "1")
	m.server.Close()
	until(t, "the engine is not fresh", func() bool { return !e.fresh() })
	if err := m.start(); err != nil {
		t.Fatal(err)
	}
	until(t, "the engine commits again", func() bool {
		return e.Update(t.Context(), func(tx latchkey.EngineTx) error { return add(tx, "b") }) == nil
	})
	if got := e.get("a"); got != "1" {
		t.Errorf("the value is %q, want 1", got)
	}
	until(t, "the engine is fresh", e.fresh)
	until(t, "the follower goes on", func() bool { return f.has("b") })
	if n := f.lost(); n != 0 {
		t.Errorf("everything may have changed %d times, want 0", n)
	}
}

// statuses is a server that answers one question.
type statuses struct {
	pb.UnimplementedMaintenanceServer
	version string
}

func (s *statuses) Status(context.Context, *pb.StatusRequest) (*pb.StatusResponse, error) {
	return &pb.StatusResponse{Header: &pb.ResponseHeader{}, Version: s.version}, nil
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
	e := openAt(t, address, quick)
	for range 2 {
		if err := e.View(t.Context(), fn); !errors.Is(err, etcd.ErrFaultyServer) {
			t.Errorf("got error %v, want ErrFaultyServer", err)
		}
	}
	opts := quick
	opts.AcceptFaultyServers = true
	if err := openAt(t, address, opts).View(t.Context(), fn); errors.Is(err, etcd.ErrFaultyServer) {
		t.Errorf("with AcceptFaultyServers: %v", err)
	}
}

func TestWithoutEtcdACallIsRefused(t *testing.T) {
	l := newLink(t, node.address)
	l.hold(true, true)
	e := open(t, l, quick)
	if err := e.View(t.Context(), func(latchkey.EngineTx) error { return nil }); !errors.Is(err, latchkey.ErrUnavailable) {
		t.Errorf("got error %v, want ErrUnavailable", err)
	}
	l.cut()
	until(t, "the engine finds etcd", func() bool {
		return e.View(t.Context(), func(latchkey.EngineTx) error { return nil }) == nil
	})
}
