package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
	"github.com/latchkeydb/latchkey/audit"
	"github.com/latchkeydb/latchkey/outbox"
)

// watched is a store in a file, which a program opens and closes while a watch runs.
type watched struct {
	*testing.T
	path  string
	opts  latchkey.Options
	store *latchkey.Store
	users int
}

func newWatched(t *testing.T) *watched {
	t.Helper()
	beforeEvery, beforeRetry := watchEvery, firstRetry
	watchEvery, firstRetry = time.Millisecond, time.Millisecond
	t.Cleanup(func() { watchEvery, firstRetry = beforeEvery, beforeRetry })
	dir, err := os.MkdirTemp("", "lk") // short enough for a socket
	w := &watched{T: t, path: filepath.Join(dir, "keys.db")}
	w.must(err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	w.opts = latchkey.Options{Cost: latchkey.LightCost, OnChange: audit.New(nil).Record}
	w.open()
	t.Cleanup(w.close)
	return w
}

func (w *watched) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *watched) open() {
	w.Helper()
	var err error
	w.store, err = latchkey.Open(w.path, &w.opts)
	w.must(err)
}

func (w *watched) close() { _ = w.store.Close() }

// change makes a change.
func (w *watched) change() {
	w.Helper()
	w.users++
	identity := latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: fmt.Sprint("user", w.users)}
	_, err := w.store.CreateUser(w.Context(), latchkey.UserSpec{Identity: identity})
	w.must(err)
}

// listen serves the socket of the store.
func (w *watched) listen() *admin.Socket {
	w.Helper()
	if os.Getenv("LATCHKEY_WINE") != "" {
		w.Skip("in Wine 8 a client connects to the instance of a pipe that only keeps its name")
	}
	s, err := admin.Listen(w.store, w.path, nil)
	w.must(err)
	w.Cleanup(func() { _ = s.Close() })
	return s
}

// watching is a watch that runs.
type watching struct {
	*testing.T
	lines  *bufio.Reader
	stdout *io.PipeReader
	log    *safeBuffer
	end    func()
	ended  chan int
}

// watch runs latchkey watch in this process.
func (w *watched) watch(args ...string) *watching {
	w.Helper()
	ctx, end := context.WithCancel(w.Context())
	out, stdout := io.Pipe()
	run1 := &watching{T: w.T, lines: bufio.NewReader(out), stdout: out, log: newSafeBuffer(), end: end, ended: make(chan int, 1)}
	go func() {
		run1.ended <- run(ctx, append([]string{"watch", "--store", w.path}, args...), os.Stdin, stdout, run1.log)
		stdout.Close()
	}()
	w.Cleanup(end)
	return run1
}

// next returns the number of the next line, or 0 if the line says that changes are lost.
func (r *watching) next() uint64 {
	r.Helper()
	text, err := r.lines.ReadString('\n')
	if err != nil {
		r.Fatalf("watch has ended: %s", r.log)
	}
	var line struct {
		Number uint64
		Lost   bool
	}
	if err := json.Unmarshal([]byte(text), &line); err != nil || line.Lost == (line.Number > 0) {
		r.Fatalf("%s: %v", text, err)
	}
	return line.Number
}

func (r *watching) wantNext(numbers ...uint64) {
	r.Helper()
	for _, want := range numbers {
		if got := r.next(); got != want {
			r.Fatalf("got change %d, want %d: %s", got, want, r.log)
		}
	}
}

// stop ends the watch, as SIGTERM does.
func (r *watching) stop() {
	r.Helper()
	r.end()
	if status := <-r.ended; status != exitDone {
		r.Errorf("watch ended with status %d: %s", status, r.log)
	}
}

func TestWatchFollowsAStoreWhileProgramsComeAndGo(t *testing.T) {
	w := newWatched(t)
	state := w.path + ".state"
	socket := w.listen()
	w.change()
	r := w.watch("--after", "0", "--state", state)
	r.wantNext(1)
	w.change()
	w.change()
	r.wantNext(2, 3)
	w.must(socket.Close())
	w.close()
	// No program has the file open.
	for n := range uint64(3) {
		w.open()
		w.change()
		w.close()
		r.wantNext(4 + n)
	}
	// A program without a socket. Those before it may have been told of, too.
	told := strings.Count(r.log.String(), "serves no socket")
	w.open()
	w.change()
	r.log.await("store is open elsewhere")
	r.log.await("that program serves no socket; have it call admin.Listen")
	w.change()
	// It begins to serve one.
	socket = w.listen()
	r.wantNext(7, 8)
	w.change()
	r.wantNext(9)
	r.stop()
	w.change()
	w.must(socket.Close())
	w.close()

	if n := strings.Count(r.log.String(), "serves no socket") - told; n > 1 {
		t.Errorf("the trouble is told %d times", n)
	}
	r = w.watch("--state", state)
	r.wantNext(10)
	r.stop()
}

func TestWatchSaysWhenChangesWerePrunedFromTheTrailOfAProgram(t *testing.T) {
	w := newWatched(t)
	w.listen()
	w.change()
	r := w.watch("--after", "0")
	r.wantNext(1)
	// One commit makes changes and prunes all but the last of them.
	w.must(w.store.Update(t.Context(), func(tx *latchkey.Tx) error {
		for i := range 3 {
			if _, err := tx.CreateUser(latchkey.UserSpec{Identity: latchkey.Identity{Provider: latchkey.ProviderCustomToken, Subject: fmt.Sprint(i)}}); err != nil {
				return err
			}
		}
		return nil
	}))
	r.wantNext(2, 3, 4)
	w.must(w.store.Update(t.Context(), func(tx *latchkey.Tx) error { return audit.Begin(tx, "ada") }))
	r.wantNext(0)
	if got := r.next(); got <= 4 {
		t.Errorf("got %d", got)
	}
	r.stop()
}

// record appends a change to a chain, as another process does.
func (w *watched) record(chain audit.Chain) {
	w.Helper()
	trail := audit.New(&audit.Options{Chain: chain})
	w.must(w.store.Update(w.Context(), func(tx *latchkey.Tx) error {
		return trail.Record(tx, latchkey.Change{Actions: []latchkey.Action{latchkey.ActionGroupDisabled}, Time: tx.Now(), Group: "north"})
	}))
}

func TestWatchDeliversTheChangesOfAllChains(t *testing.T) {
	w := newWatched(t)
	state := w.path + ".state"
	socket := w.listen()
	w.change()
	w.record("shop-1")
	r := w.watch("--after", "1", "--state", state)
	r.wantNext(1)
	w.record("shop-1")
	r.wantNext(2)
	w.change()
	r.wantNext(2)
	w.record("shop-2") // a chain that begins meanwhile
	r.wantNext(1)
	r.stop()
	w.record("shop-1")
	w.must(socket.Close())
	w.close()

	r = w.watch("--state", state)
	r.wantNext(3)
	r.stop()
	text, err := os.ReadFile(state)
	w.must(err)
	if got := regexp.MustCompile(`:[0-9a-f]{64}`).ReplaceAllString(string(text), ""); got != "2\nshop-1/3\nshop-2/1\n" {
		t.Errorf("the state is %q", got)
	}
	// The trail of a backup lacks a chain.
	w.open()
	w.must(w.store.Update(t.Context(), func(tx *latchkey.Tx) error {
		table := tx.AppTable(audit.TableName)
		for e, err := range table.Scan(nil, nil) {
			w.must(err)
			if strings.Contains(string(e.Key), "shop-2") {
				w.must(table.Delete(e.Key))
			}
		}
		return nil
	}))
	w.close()
	r = w.watch("--state", state)
	r.wantNext(0)
	r.stop()
}

// onlyUnix skips a test whose commands are for a Unix shell.
func onlyUnix(t *testing.T) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("the commands of this test are for a Unix shell")
	}
}

func TestTheCommandOfWatchRunsUntilItSucceedsAndInOrder(t *testing.T) {
	onlyUnix(t)
	w := newWatched(t)
	w.listen()
	dir := t.TempDir()
	// The command fails twice for each change, once with a signal.
	r := w.watch("--after", "0", "--exec", `cd `+dir+`; read line; echo "$line" >> all
if [ ! -e one ]; then touch one; exit 3; fi
if [ ! -e two ]; then touch two; kill -KILL $$; fi
rm one two; echo "$line"`)
	for range 3 {
		w.change()
	}
	r.wantNext(1, 2, 3)
	r.stop()
	all, err := os.ReadFile(filepath.Join(dir, "all"))
	w.must(err)
	var numbers []uint64
	for text := range strings.Lines(string(all)) {
		var e audit.Entry
		w.must(json.Unmarshal([]byte(text), &e))
		numbers = append(numbers, e.Number)
	}
	if fmt.Sprint(numbers) != "[1 1 1 2 2 2 3 3 3]" {
		t.Errorf("the command ran for %v", numbers)
	}
	for _, want := range []string{"exit status 3", "signal: killed", "it runs again for the same change in 1ms", "it runs again for the same change in 2ms"} {
		if !strings.Contains(r.log.String(), want) {
			t.Errorf("the log has no %q: %s", want, r.log)
		}
	}
}

func TestAChangeWhoseCommandDidNotEndIsDeliveredAgain(t *testing.T) {
	onlyUnix(t)
	w := newWatched(t)
	w.listen()
	w.change()
	state := w.path + ".state"
	r := w.watch("--after", "0", "--state", state, "--exec", `cat; exec sleep 1000`)
	r.wantNext(1)
	r.stop()
	r = w.watch("--state", state)
	r.wantNext(1)
	r.stop()
	r = w.watch("--state", state)
	w.change()
	r.wantNext(2)
	r.stop()
}

func TestTheStateKnowsEachChangeOfSeveralThatWereThere(t *testing.T) {
	onlyUnix(t)
	w := newWatched(t)
	w.listen()
	for range 3 {
		w.change()
	}
	state := w.path + ".state"
	r := w.watch("--after", "0", "--state", state, "--exec", `read line; echo "$line"; case $line in '{"number":3,'*) exit 1;; esac`)
	r.wantNext(1, 2, 3)
	r.log.await("it runs again")
	go func(lines io.Reader) { _, _ = io.Copy(io.Discard, lines) }(r.lines)
	r.stop()
	r = w.watch("--state", state)
	r.wantNext(3)
	r.stop()
}

func TestWatchGoesOnWhileItsStateCannotBeWritten(t *testing.T) {
	w := newWatched(t)
	w.listen()
	dir := filepath.Join(t.TempDir(), "states")
	w.must(os.Mkdir(dir, 0o700))
	state := filepath.Join(dir, "state")
	r := w.watch("--after", "0", "--state", state)
	w.change()
	r.wantNext(1)
	w.change()
	r.wantNext(2) // the state is that of 1 at least
	before, err := os.ReadFile(state)
	w.must(err)
	w.must(os.Rename(dir, dir+".away"))
	w.change()
	w.change()
	r.wantNext(3, 4)
	r.log.await("changes are delivered again after a restart")
	w.must(os.Rename(dir+".away", dir))
	r.stop() // writes the state at last
	if after, err := os.ReadFile(state); err != nil || string(after) == string(before) || !strings.HasPrefix(string(after), "4:") {
		t.Errorf("the state is %q, %v", after, err)
	}

	w.must(os.Rename(dir, dir+".away"))
	r = w.watch("--state", state)
	if status := <-r.ended; status == exitDone {
		t.Error("watch begins without a place for its state")
	}
}

func TestWatchEndsWhenNobodyReadsItsOutput(t *testing.T) {
	w := newWatched(t)
	w.listen()
	state := w.path + ".state"
	r := w.watch("--after", "0", "--state", state)
	w.must(r.stdout.Close())
	w.change()
	if status := <-r.ended; status != exitFailed {
		t.Errorf("watch ended with status %d: %s", status, r.log)
	}
	r = w.watch("--after", "0", "--state", state)
	r.wantNext(1)
	r.stop()
}

func TestWatchDeliversAnOutboxWhileNoProgramHasTheStoreOpen(t *testing.T) {
	w := newWatched(t)
	w.close()
	box := outbox.New(&outbox.Options{Name: "hooks", MaxMessages: 3})
	w.opts.OnChange = box.Append
	w.open()
	w.change()
	w.change()
	r := w.watch("--outbox", "hooks")
	r.log.await("store is open elsewhere")
	w.close()
	r.wantNext(1, 2)
	w.open()
	for range 5 {
		w.change()
	}
	w.close()
	r.wantNext(0, 5, 6, 7)
	r.stop()
	w.open()
	if left, err := box.Peek(t.Context(), w.store); err != nil || len(left) > 0 {
		t.Errorf("left are %v, %v", left, err)
	}
	w.change()
	w.close()
	r = w.watch("--outbox", "hooks")
	r.wantNext(8)
	r.stop()
}

func TestAMessageOfTheOutboxThatWasNotDeliveredStays(t *testing.T) {
	onlyUnix(t)
	w := newWatched(t)
	w.close()
	box := outbox.New(nil)
	w.opts.OnChange = box.Append
	w.open()
	w.change()
	w.change()
	w.close()
	dir := t.TempDir()
	r := w.watch("--outbox", "outbox", "--exec", `cd `+dir+`; cat; [ ! -e one ] || exit 1; touch one`)
	r.wantNext(1, 2, 2)
	r.stop()
	w.open()
	left, err := box.Peek(t.Context(), w.store)
	if err != nil || len(left) != 1 || left[0].Number != 2 {
		t.Errorf("left are %v, %v", left, err)
	}
}

func TestACommandPutsItsChangesIntoAnOutboxThatIsThere(t *testing.T) {
	w := newWatched(t)
	w.close()
	command := func(args ...string) {
		t.Helper()
		log := newSafeBuffer()
		if status := run(t.Context(), append(args, "--store", w.path), os.Stdin, io.Discard, log); status != exitDone {
			t.Fatalf("%v: status %d: %s", args, status, log)
		}
	}
	command("user", "add", "ada@example.com")
	box := outbox.New(nil)
	w.opts.OnChange = box.Append
	w.open()
	if left, err := box.Peek(t.Context(), w.store); err != nil || len(left) > 0 {
		t.Errorf("a store without an outbox has %v, %v", left, err)
	}
	w.change()
	w.close()
	command("user", "disable", "ada@example.com")
	r := w.watch("--outbox", "outbox")
	r.wantNext(1, 2)
	// The outbox is empty, and is there all the same.
	r.stop()
	command("user", "enable", "ada@example.com")
	r = w.watch("--outbox", "outbox")
	r.wantNext(3)
	r.stop()
}

func TestALookSeesEachChangeOfAFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keys.db")
	old := time.Now().Add(-time.Hour)
	write := func(text string, changed time.Time) {
		t.Helper()
		if err := errors.Join(os.WriteFile(file, []byte(text), 0o600), os.Chtimes(file, changed, changed)); err != nil {
			t.Fatal(err)
		}
	}
	look1 := func(before look) (look, bool) {
		t.Helper()
		now, changed, err := before.again(file)
		if err != nil {
			t.Fatal(err)
		}
		return now, changed
	}
	if _, _, err := (look{}).again(file); !errors.Is(err, errNoStore) {
		t.Errorf("without a file: %v", err)
	}
	write("one", old)
	first, changed := look1(look{})
	if _, again := look1(first); !changed || again {
		t.Errorf("the first look says %v, the second one %v", changed, again)
	}
	write("four", old)
	if _, changed := look1(first); !changed {
		t.Error("another length is not seen")
	}
	write("two", old.Add(time.Second))
	if _, changed := look1(first); !changed {
		t.Error("another time is not seen")
	}
	write("one", old)
	first, _ = look1(look{})
	must(t, os.Rename(file, file+".old")) // so that the new file has another number
	write("two", old)
	if _, changed := look1(first); !changed {
		t.Error("another file with the same length and time is not seen")
	}
	// A file that was changed just now may change again without another time.
	write("one", time.Now())
	now, _ := look1(look{})
	if _, changed := look1(now); !changed {
		t.Error("a change in the same moment is not seen")
	}
}
