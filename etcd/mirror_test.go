package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/enginetest"
	"github.com/latchkeydb/latchkey/etcd"
)

// mirrored is an engine whose Views wait until the mirror answers. It does not say that other
// processes can write, because with a mirror their commits are seen a moment later.
type mirrored struct {
	latchkey.Engine
	latchkey.EngineBounder
	latchkey.CommitCounter
	written func(ctx context.Context) bool
}

func (m mirrored) View(ctx context.Context, fn func(latchkey.EngineTx) error) error {
	if _, _, err := m.Commit(ctx); err == nil && m.written(ctx) {
		for begun := time.Now(); !etcd.ReadsMirror(m.Engine); runtime.Gosched() {
			if time.Since(begun) > time.Minute {
				return errors.New("the mirror is not read")
			}
		}
	}
	return m.Engine.View(ctx, fn)
}

func TestEngineWithAMirrorKeepsTheLaws(t *testing.T) {
	c := client(t, node.address)
	enginetest.Run(t, func(dir string, opts *latchkey.Options) (latchkey.Engine, error) {
		e := etcd.NewWith(c, dir, etcd.Options{
			ReadOnly: opts != nil && opts.ReadOnly,
			WatchAge: 10 * time.Second,
			Mirror:   filepath.Join(dir, "mirror.db"),
		})
		written := func(ctx context.Context) bool {
			r, err := c.Get(ctx, dir+"/commit")
			return err == nil && r.Count > 0
		}
		return mirrored{e, e.(latchkey.EngineBounder), e.(latchkey.CommitCounter), written}, nil
	})
}

// mirrorAt returns options with a mirror, which is read also on a machine that is very busy.
func mirrorAt(path string) etcd.Options {
	return etcd.Options{WatchAge: 10 * time.Second, Mirror: path}
}

func (e engine) readsMirror() bool { return etcd.ReadsMirror(e.Engine) }

// awaitMirror waits until the mirror of the engine is read.
func (e engine) awaitMirror() {
	e.t.Helper()
	e.get("") // starts the engine
	until(e.t, "the mirror is read", e.readsMirror)
}

// state returns what a View reads: the entries, their number, their sequences, and the changes.
func (e engine) state() string {
	e.t.Helper()
	var b strings.Builder
	e.view(func(tx latchkey.EngineTx) error {
		b.Reset()
		n, err := tx.Count("t")
		fmt.Fprintln(&b, "sequence", tx.Sequence(), "count", n, err)
		for entry, err := range tx.Scan("t", nil, nil) {
			sequence, sequenceErr := tx.SequenceOf("t", entry.Key)
			fmt.Fprintf(&b, "%s=%.20s at %d %v %v\n", entry.Key, entry.Value, sequence, err, sequenceErr)
		}
		for since := range tx.Sequence() + 2 {
			if since > 20 && since+20 < tx.Sequence() {
				continue
			}
			for c, err := range tx.Changes(since) {
				fmt.Fprintf(&b, "%d: %v %v\n", since, c, err)
			}
		}
		return nil
	})
	return b.String()
}

// wantMirrored compares the mirror with etcd.
func wantMirrored(t *testing.T, e engine) {
	t.Helper()
	direct := open(t, nil, etcd.Options{})
	want := direct.state()
	e.awaitMirror()
	until(t, "the mirror has the last commit", func() bool {
		var n uint64
		e.view(func(tx latchkey.EngineTx) error { n = tx.Sequence(); return nil })
		return n == direct.last()
	})
	if got := e.state(); got != want {
		t.Errorf("the mirror has\n%s\nand etcd\n%s", got, want)
	}
}

func (e engine) close() {
	e.t.Helper()
	if err := e.Close(); err != nil {
		e.t.Errorf("Close: %v", err)
	}
}

func TestTwoMirrorsFollowEachOther(t *testing.T) {
	a, b := open(t, nil, mirrorAt(filepath.Join(t.TempDir(), "a.db"))), open(t, nil, mirrorAt(filepath.Join(t.TempDir(), "b.db")))
	a.put("first", "1")
	a.awaitMirror()
	b.awaitMirror()
	for i := range 100 {
		from, to := a, b
		if i%2 == 1 {
			from, to = b, a
		}
		before := to.last()
		value := fmt.Sprint(i)
		from.update(func(tx latchkey.EngineTx) error {
			if err := tx.Delete("t", fmt.Appendf(nil, "key %d", i-3)); err != nil {
				return err
			}
			return tx.Put("t", fmt.Appendf(nil, "key %d", i), []byte(value))
		})
		if got := from.get(fmt.Sprint("key ", i)); got != value {
			t.Fatalf("an engine reads %q after it has written %q", got, value)
		}
		if err := to.Wait(t.Context(), before); err != nil {
			t.Fatalf("Wait: %v", err)
		}
		if got := to.get(fmt.Sprint("key ", i)); got != value {
			t.Fatalf("after Wait, the other engine reads %q, want %q", got, value)
		}
	}
	wantMirrored(t, a)
	wantMirrored(t, b)
}

func TestAMirrorAnswersWithoutEtcd(t *testing.T) {
	l := newLink(t, node.address)
	opts := mirrorAt(filepath.Join(t.TempDir(), "mirror.db"))
	opts.WatchAge, opts.Timeout, opts.Unreachable = quick.WatchAge, quick.Timeout, time.Hour
	e := open(t, l, opts)
	e.put("a", "1")
	e.awaitMirror()
	want := e.state()
	l.hold(true, true)
	if got := e.state(); got != want {
		t.Errorf("the mirror has %q, want %q", got, want)
	}
	if err := e.Update(t.Context(), func(tx latchkey.EngineTx) error { return add(tx, "a") }); !errors.Is(err, latchkey.ErrUnavailable) {
		t.Errorf("Update: got error %v, want ErrUnavailable", err)
	}
}

// mark marks the file of a mirror that is closed. A mirror that is made anew has no mark.
func mark(t *testing.T, path string) {
	t.Helper()
	changeFile(t, path, func(tx latchkey.EngineTx) error { return tx.Put("planted", []byte("mark"), nil) })
}

func isMarked(t *testing.T, path string) (marked bool) {
	t.Helper()
	changeFile(t, path, func(tx latchkey.EngineTx) error {
		v, err := tx.Get("planted", []byte("mark"))
		marked = v != nil
		return err
	})
	return marked
}

// changeFile changes a bbolt file that is closed.
func changeFile(t *testing.T, path string, fn func(tx latchkey.EngineTx) error) {
	t.Helper()
	db, err := latchkey.OpenBoltEngine(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Update(t.Context(), fn); err != nil {
		t.Fatal(err)
	}
}

func TestAMirrorIsOpenedAgain(t *testing.T) {
	away := func(e engine) {
		e.put("a", "changed")
		e.put("new", "1")
		e.remove("b")
	}
	compact := func(e engine) {
		if _, err := client(e.t, node.address).Compact(e.t.Context(), int64(e.last())); err != nil {
			e.t.Fatal(err)
		}
	}
	erase := func(table, key string) func(t *testing.T, path string) {
		return func(t *testing.T, path string) {
			changeFile(t, path, func(tx latchkey.EngineTx) error { return tx.Delete(table, []byte(key)) })
		}
	}
	for _, tt := range []struct {
		name      string
		meanwhile func(direct engine)
		file      func(t *testing.T, path string)
		prefix    string
		kept      bool // the mirror goes on with the file
		health    error
	}{
		{name: "nothing has happened", kept: true},
		{name: "there are changes", meanwhile: away, kept: true},
		{name: "history was compacted", meanwhile: func(e engine) { compact(e) }, kept: true},
		{name: "changes were compacted", meanwhile: func(e engine) { away(e); compact(e) }},
		{name: "the making was cut", file: erase("mirror", "identity")},
		{name: "it is not known up to where it is", file: erase("mirror", "at")},
		{name: "it is of another commit", health: etcd.ErrRestored, file: func(t *testing.T, path string) {
			changeFile(t, path, func(tx latchkey.EngineTx) error {
				at, err := tx.Get("mirror", []byte("at"))
				if err != nil {
					return err
				}
				at[len(at)-1]++
				return tx.Put("mirror", []byte("at"), at)
			})
		}},
		{name: "it is of another prefix", file: func(t *testing.T, path string) {
			changeFile(t, path, func(tx latchkey.EngineTx) error {
				identity, err := tx.Get("mirror", []byte("identity"))
				if err != nil {
					return err
				}
				return tx.Put("mirror", []byte("identity"), []byte(strings.Replace(string(identity), "prefix\":\"", "prefix\":\"other", 1)))
			})
		}},
		{name: "it is damaged", file: damage},
		{name: "it is gone", meanwhile: away, file: func(t *testing.T, path string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "mirror.db")
			direct := open(t, nil, etcd.Options{})
			for _, key := range []string{"a", "b", "c"} {
				direct.put(key, "1")
			}
			e := open(t, nil, mirrorAt(path))
			e.awaitMirror()
			e.put("d", "1")
			wantMirrored(t, e)
			e.close()
			mark(t, path)
			if tt.meanwhile != nil {
				tt.meanwhile(direct)
			}
			if tt.file != nil {
				tt.file(t, path)
			}

			e = open(t, nil, mirrorAt(path))
			wantMirrored(t, e)
			direct.put("after", "1")
			direct.remove("c")
			wantMirrored(t, e)
			if err := e.health(); !errors.Is(err, tt.health) {
				t.Errorf("EngineHealth: %v", err)
			}
			e.close()
			if kept := isMarked(t, path); kept != tt.kept {
				t.Errorf("the mirror went on with the file: %t, want %t", kept, tt.kept)
			}
		})
	}
}

// damage overwrites everything but the first pages of a file.
func damage(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head := 2 * os.Getpagesize()
	b = append(b[:head], slices.Repeat([]byte{0xa5}, len(b)-head)...)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestAMirrorThatIsMadeHearsOfChanges(t *testing.T) {
	direct := open(t, nil, etcd.Options{})
	for i := range 30 {
		direct.update(func(tx latchkey.EngineTx) error {
			for j := range 100 {
				if err := tx.Put("t", fmt.Appendf(nil, "%02d %02d", i, j), make([]byte, 100)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	path := filepath.Join(t.TempDir(), "mirror.db")
	e := open(t, nil, mirrorAt(path))
	e.get("") // the mirror is being made from now on
	for i := range 200 {
		direct.update(func(tx latchkey.EngineTx) error {
			for j := range 15 {
				if err := tx.Delete("t", fmt.Appendf(nil, "%02d %02d", j*2, i%100)); err != nil {
					return err
				}
			}
			return tx.Put("t", fmt.Appendf(nil, "%02d %02d", i%30, i/2), []byte("new"))
		})
	}
	wantMirrored(t, e)
}

func TestAMirrorBehindAWatchThatLostChangesIsMadeAnew(t *testing.T) {
	direct, l := open(t, nil, etcd.Options{}), newLink(t, node.address)
	path := filepath.Join(t.TempDir(), "mirror.db")
	opts := mirrorAt(path)
	opts.WatchAge, opts.Timeout = quick.WatchAge, quick.Timeout
	e := open(t, l, opts)
	direct.put("gone", "1")
	e.awaitMirror()
	l.hold(true, true)
	direct.remove("gone")
	direct.put("new", "1")
	if _, err := client(t, node.address).Compact(t.Context(), int64(direct.last())); err != nil {
		t.Fatal(err)
	}
	until(t, "the mirror is not read", func() bool { return !e.readsMirror() })
	l.hold(false, false)
	l.cut()
	wantMirrored(t, e)
}

func TestTheFileOfAMirror(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mirror.db")
	e := open(t, nil, mirrorAt(path))
	e.put("a", "1")
	e.awaitMirror()
	view := func(e engine) error {
		return e.View(t.Context(), func(latchkey.EngineTx) error { return nil })
	}
	other := open(t, nil, mirrorAt(path))
	if err := view(other); !errors.Is(err, latchkey.ErrLocked) {
		t.Errorf("with the mirror of another engine: got error %v, want ErrLocked", err)
	}
	e.close()
	if err := view(other); err != nil {
		t.Errorf("after the other engine has closed: %v", err)
	}

	store := filepath.Join(t.TempDir(), "keys.db")
	changeFile(t, store, func(tx latchkey.EngineTx) error { return tx.Put("t", []byte("precious"), nil) })
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, slices.Repeat([]byte("precious "), 10_000), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{store, text} {
		before, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := view(open(t, nil, mirrorAt(path))); !errors.Is(err, latchkey.ErrNotStore) {
			t.Errorf("%s as a mirror: got error %v, want ErrNotStore", filepath.Base(path), err)
		}
		if after, err := os.ReadFile(path); err != nil || string(after) != string(before) {
			t.Errorf("%s was changed: %v", filepath.Base(path), err)
		}
	}

	// fs.ErrNotExist means that there is no store.
	nowhere := filepath.Join(t.TempDir(), "none", "mirror.db")
	if err := view(open(t, nil, mirrorAt(nowhere))); err == nil || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "make the directory first") {
		t.Errorf("a mirror without a directory: got error %v, want one that is not ErrNotExist", err)
	}
}

// Nothing that may be more than a cache is lost, whatever the path of the mirror names.
func TestAFileThatMayBeNoMirrorIsKept(t *testing.T) {
	damagedStore := func(t *testing.T, path string) {
		changeFile(t, path, func(tx latchkey.EngineTx) error {
			return errors.Join(tx.Put("t", []byte("precious"), make([]byte, 60_000)), tx.Put("u", []byte("k"), make([]byte, 60_000)))
		})
		damage(t, path)
	}
	mirrorFile := func(t *testing.T, path string) {
		e := open(t, nil, mirrorAt(path))
		e.put("a", "1")
		e.awaitMirror()
		e.close()
	}
	for _, tt := range []struct {
		name    string
		make    func(t *testing.T, path string)
		refused bool // with ErrNotStore
		kept    bool // under another name
	}{
		{name: "a damaged store", make: damagedStore, kept: true},
		{name: "a store without its end", make: func(t *testing.T, path string) {
			changeFile(t, path, func(tx latchkey.EngineTx) error { return tx.Put("t", []byte("precious"), make([]byte, 60_000)) })
			if err := os.Truncate(path, 3*int64(os.Getpagesize())); err != nil {
				t.Fatal(err)
			}
		}, kept: true},
		{name: "a link to a damaged store", make: func(t *testing.T, path string) {
			_ = os.Remove(path + ".elsewhere")
			damagedStore(t, path+".elsewhere")
			if err := os.Symlink(path+".elsewhere", path); err != nil {
				t.Skip(err)
			}
		}, kept: true},
		{name: "an empty file", make: func(t *testing.T, path string) {
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, refused: true},
		{name: "a directory", make: func(t *testing.T, path string) {
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}, refused: true},
		{name: "a damaged mirror", make: func(t *testing.T, path string) {
			mirrorFile(t, path)
			damage(t, path)
		}, kept: true},
		{name: "a mirror that was not finished", make: func(t *testing.T, path string) {
			mirrorFile(t, path)
			changeFile(t, path, func(tx latchkey.EngineTx) error { return tx.Delete("mirror", []byte("identity")) })
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "mirror.db")
			tt.make(t, path)
			before, _ := os.ReadFile(path)
			e := open(t, nil, mirrorAt(path))
			err := e.View(t.Context(), func(latchkey.EngineTx) error { return nil })
			if refused := errors.Is(err, latchkey.ErrNotStore); refused != tt.refused || err != nil && !refused {
				t.Errorf("got error %v", err)
			}
			if tt.refused {
				if after, _ := os.ReadFile(path); string(after) != string(before) {
					t.Error("the file was changed")
				}
				return
			}
			e.put("a", "2")
			e.awaitMirror()
			kept, err := os.ReadFile(path + ".damaged")
			if tt.kept && string(kept) != string(before) || tt.kept != (err == nil) {
				t.Errorf("the file is kept with %d bytes of %d and error %v", len(kept), len(before), err)
			}
			if !tt.kept {
				return
			}

			// The kept file is not overwritten. The engine works without a mirror.
			e.close()
			tt.make(t, path)
			e = open(t, nil, mirrorAt(path))
			if got := e.get("a"); got != "2" && got != "1" {
				t.Errorf("got %q", got)
			}
			until(t, "Health names the file", func() bool {
				err := e.Engine.(latchkey.EngineHealther).EngineHealth(t.Context())
				return err != nil && strings.Contains(err.Error(), "mirror.db.damaged: delete it")
			})
			if again, err := os.ReadFile(path + ".damaged"); string(again) != string(kept) {
				t.Errorf("what was kept has become %d bytes, %v", len(again), err)
			}
		})
	}
}

// A View that meets damage is told to begin again. The mirror is made anew, and nothing is damaged
// for the store.
func TestAMirrorWhoseEntriesAreDamaged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mirror.db")
	e := open(t, nil, mirrorAt(path))
	for i := range 50 {
		e.put(fmt.Sprint(i), strings.Repeat("x", 10_000))
	}
	e.awaitMirror()
	want := e.state()
	e.close()

	e = open(t, nil, mirrorAt(path))
	e.last() // starts the engine, which reads no entry
	spoil(t, path)
	if !e.readsMirror() {
		t.Fatal("the mirror is not read")
	}
	interrupted := e.View(t.Context(), func(tx latchkey.EngineTx) error {
		for _, err := range tx.Scan("t", nil, nil) {
			if err != nil {
				return err
			}
		}
		return nil
	})
	if !errors.Is(interrupted, latchkey.ErrInterrupted) || errors.Is(interrupted, latchkey.ErrCorrupt) {
		t.Errorf("View: got error %v, want ErrInterrupted alone", interrupted)
	}
	e.awaitMirror()
	if got := e.state(); got != want {
		t.Errorf("the mirror has\n%s\nwant\n%s", got, want)
	}
}

// spoil overwrites the heads of the pages with long values, in a file that is open.
func spoil(t *testing.T, path string) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	page := make([]byte, os.Getpagesize())
	for at := int64(0); ; at += int64(len(page)) {
		if _, err := file.ReadAt(page, at); err == io.EOF {
			return
		} else if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(page), "xxxx") {
			if _, err := file.WriteAt(slices.Repeat([]byte{0xff}, 16), at); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// An earlier state of etcd comes back, and goes on differently.
func TestAMirrorOfARestoredEtcdIsMadeAnew(t *testing.T) {
	for _, tt := range []struct{ running, compacted bool }{{}, {compacted: true}, {running: true}} {
		t.Run(fmt.Sprintf("running=%t,compacted=%t", tt.running, tt.compacted), func(t *testing.T) {
			running := tt.running
			m, l := own(t, nil)
			path := filepath.Join(t.TempDir(), "mirror.db")
			opts := mirrorAt(path)
			opts.WatchAge = quick.WatchAge
			e := openAt(t, l.address, opts)
			e.follow()
			e.put("a", "1")
			backup := m.backUp(t, l)
			until(t, "the engine commits again", func() bool {
				return e.Update(t.Context(), func(tx latchkey.EngineTx) error { return tx.Put("t", []byte("lost"), nil) }) == nil
			})
			e.put("a", "2")
			e.awaitMirror()
			if !running {
				e.close()
			}
			m.stop(l)
			m.dir = backup
			m.restart(t, l)
			other := openAt(t, l.address, etcd.Options{})
			until(t, "the other engine commits", func() bool {
				return other.Update(t.Context(), func(tx latchkey.EngineTx) error { return tx.Put("t", []byte("other"), nil) }) == nil
			})
			for range 20 {
				other.put("other", "1")
			}
			if tt.compacted {
				if _, err := client(t, l.address).Compact(t.Context(), int64(other.last())); err != nil {
					t.Fatal(err)
				}
			}
			// Until the store has another replica ID, each process that opens the file notices.
			for range 3 {
				if !running {
					e = openAt(t, l.address, opts)
					e.follow()
				}
				until(t, "the engine knows", func() bool { return errors.Is(e.health(), etcd.ErrRestored) })
				if n := e.restored(); n != 1 {
					t.Errorf("Restored: got %d, want 1", n)
				}
				if running {
					break
				}
				e.close()
			}
			if !running {
				e = openAt(t, l.address, opts)
				e.follow()
				e.get("a")
			}
			e.renew()
			want := other.state()
			e.awaitMirror()
			if got := e.state(); got != want {
				t.Errorf("the mirror has\n%s\nand etcd\n%s", got, want)
			}
			e.close()
			e = openAt(t, l.address, opts)
			e.follow()
			e.get("a")
			e.healthy()
			if n := e.restored(); n != 0 {
				t.Errorf("the next process knows of %d restorations, want 0", n)
			}
		})
	}
}

func TestAURLNamesAMirror(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mirror.db")
	e := openURL(t, "etcd://"+node.address+"/stores/"+t.Name()+"?mirror="+path)
	e.put("a", "1")
	until(t, "there is a mirror", func() bool { _, err := os.Stat(path); return err == nil })
}
