package disk_test

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/rpc"
	"path/filepath"
	"testing"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/torture/disk"
	"github.com/latchkeydb/latchkey/torture/internal/form"
)

// cutsOfAHistory is the number of cuts after which a history begins again with an empty disk.
const cutsOfAHistory = 10

func TestAfterAPowerCutEveryAcknowledgedChangeIsThereAndNoChangeIsThereInPart(t *testing.T) {
	seed := form.NewSeed(t)
	cuts, acknowledged := form.Amount(50, 1000), 0
	var h *history
	for cut := range cuts {
		random := form.NewRandom(seed, cut)
		if cut%cutsOfAHistory == 0 {
			h = newHistory()
		}
		h.cut, h.random = cut, random
		h.run(t, drawInstant(random, h.made))
		acknowledged, h.acknowledged = acknowledged+h.acknowledged, 0
	}
	h.run(t, 0)
	t.Logf("%d changes were acknowledged in %d cuts", acknowledged, cuts)
}

// These cuts come at each instant of the operations that move files, rather than at random
// instants.
func TestAPowerCutInMakingCompactingOrRestoringAStoreLeavesTheOldStateOrTheNew(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		work func(u *use) bool
	}{
		{"making", (*use).open},
		{"compacting", func(u *use) bool { return u.open() && u.ask(Call{Do: "compact"}) }},
		{"backing up", func(u *use) bool { return u.open() && u.makeBackup() }},
		{"restoring", func(u *use) bool { return u.open() && u.restore() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			seed := form.NewSeed(t)
			i := 0
			for again, cut := 0, 1; again < form.Amount(1, 5); i, cut = i+1, cut+1 {
				if cut > manyCalls {
					t.Fatalf("the work has asked for change %d of the disk", cut)
				}
				h := newHistory()
				h.cut, h.random = cut, form.NewRandom(seed, i)
				if tt.name != "making" {
					h.between(t, 0, func(u *use) {
						u.open()
						u.fill()
						u.makeBackup()
					})
				}
				inTime := h.between(t, cut, func(u *use) {
					if tt.work(u) {
						u.under = append(u.under, u.state.draw(u.random, u.path, ""))
						u.change()
					}
				})
				h.run(t, 0)
				if !inTime {
					again, cut = again+1, 0
				}
			}
			t.Logf("%d cuts", i)
		})
	}
}

func TestAPowerCutInRecoveringFromTheSafetyCopyLeavesTheOldFileOrTheCopy(t *testing.T) {
	t.Parallel()
	seed := form.NewSeed(t)
	for again, cut, i := 0, 1, 0; again < form.Amount(3, 15); i, cut = i+1, cut+1 {
		if cut > manyCalls {
			t.Fatalf("opening with the safety copy has asked for change %d of the disk", cut)
		}
		h := newHistory()
		h.cut, h.random, h.safety = cut, form.NewRandom(seed, i), true
		h.between(t, 0, func(u *use) {
			u.open()
			u.fill()
			u.ask(Call{Do: "backup", To: u.path + ".safety"})
			u.ask(Call{Do: "close"})
			u.damage()
		})
		inTime := h.between(t, cut, func(u *use) { u.open() })
		h.run(t, 0)
		if !inTime {
			again, cut = again+1, 0
			t.Logf("%d cuts", i)
		}
	}
}

// A process that is killed in a commit leaves data that it has written and not synced.
func TestTheStateFoundAfterAKillAndReopeningLasts(t *testing.T) {
	t.Parallel()
	seed := form.NewSeed(t)
	for cut := range form.Amount(20, 200) {
		h := newHistory()
		h.cut, h.random = cut, form.NewRandom(seed, cut)
		h.between(t, 0, func(u *use) {
			u.open()
			u.fill()
			u.under = []Call{{Do: "create user", Path: u.path, Subject: "zoe"}}
			u.killDuring(1+u.random.IntN(8), u.under[0])
			u.open()
		})
		h.run(t, 0)
	}
}

// drawInstant returns the number of the change during which the power is cut. The opening of a new
// store takes some forty changes of the disk, and each later change of the store some ten.
func drawInstant(random *rand.Rand, made bool) int {
	if !made || random.IntN(4) == 0 {
		return 1 + random.IntN(60)
	}
	return 1 + random.IntN(600)
}

// history is the use of one disk from one cut to the next.
type history struct {
	cut    int
	random *rand.Rand
	disk   *disk.Disk

	made   bool     // whether the store was ever opened
	safety bool     // whether it is opened with the safety copy
	state  State    // state with every change that is known to be there
	under  []Call   // calls in progress; each change may be there or not
	gone   []string // tokens of deleted keys

	acknowledged int // changes

	backups  []State // states, one of which the backup has
	backedUp bool    // whether the backup is known to be whole
	copies   []State // states, one of which the restored store has, if it exists
}

func newHistory() *history { return &history{disk: disk.New(), state: newState()} }

// run uses the disk until the power is cut during the nth change. If nth is 0, run only checks
// everything.
func (h *history) run(t *testing.T, nth int) {
	t.Helper()
	h.between(t, nth, func(u *use) {
		if !u.open() || nth == 0 {
			return
		}
		for n := 0; u.step(); n++ {
			if n == manyCalls {
				t.Fatalf("cut %d: %d calls have not reached change %d of the disk", h.cut, n, nth)
			}
		}
	})
}

// between mounts the disk, and calls work. It cuts the power during the nth change, or never if nth
// is 0. Afterwards the disk loses a part of its unsynced data. between reports whether the power
// was cut while work ran.
func (h *history) between(t *testing.T, nth int, work func(u *use)) (cut bool) {
	t.Helper()
	dir, unmount := mount(t, h.disk)
	where := fmt.Sprintf("cut %d, during change %d", h.cut, nth)
	u := &use{history: h, t: t, program: start(t, where), dir: dir, path: filepath.Join(dir, "keys.db")}
	h.disk.CutAfter(nth)
	work(u)
	if cut = u.isOff(); cut {
		u.useDeadDisk()
	}
	u.program.kill()
	unmount()
	h.disk = h.disk.Restart(disk.Loss(h.random.IntN(3)), h.random)
	return cut
}

// use is the use of the disk between two cuts.
type use struct {
	*history
	t       *testing.T
	program *process
	dir     string
	path    string
}

func (u *use) isOff() bool {
	select {
	case <-u.disk.Off():
		return true
	default:
		return false
	}
}

// goOn reports whether err is nil. An error is good only when the power was cut.
func (u *use) goOn(what string, err error) bool {
	u.t.Helper()
	if err != nil && !u.isOff() {
		u.t.Fatalf("%s: %s: %v", u.program.where, what, err)
	}
	return err == nil
}

// ask makes one call, and reports whether it succeeded. A call that fails without a power cut ends
// the test.
func (u *use) ask(c Call) bool {
	u.t.Helper()
	if c.Path == "" {
		c.Path = u.path
	}
	a := u.program.call(u.t, c)
	return u.goOn(c.Do, a.Failure.err())
}

// open opens the store and checks everything that was there before. It reports false after a cut.
func (u *use) open() bool {
	u.t.Helper()
	if !u.ask(Call{Do: "open", RecoverFromSafetyCopy: u.safety}) {
		return false
	}
	u.made = true
	return u.find() && u.findBackup() && u.findRestored()
}

// find checks the store, which must have the known state, with or without each change that was in
// progress.
func (u *use) find() bool {
	u.t.Helper()
	states := []State{u.state}
	for _, c := range u.under {
		for _, s := range states {
			states = append(states, s.apply(c, Answer{}))
		}
	}
	found, err := u.program.visit(u.t, u.path, states, u.gone)
	if !u.goOn("visit", err) {
		return false
	}
	u.settle(found)
	u.under = nil
	return true
}

// settle makes next the known state.
func (u *use) settle(next State) {
	u.gone = append(u.gone, u.state.lost(next)...)
	u.state = next
}

// damage overwrites the file, so that it is no store.
func (u *use) damage() { u.disk.Put(filepath.Base(u.path), make([]byte, 2*pageSize)) }

// killDuring makes a call, kills the program during the nth change of the disk, and starts another
// program.
func (u *use) killDuring(n int, c Call) {
	u.t.Helper()
	process := u.program.cmd.Process
	u.disk.During(n, func() { _ = process.Kill() })
	<-u.program.begin(c).Done
	u.program.kill()
	u.program = start(u.t, u.program.where+", after a kill")
}

func (u *use) backup() string   { return filepath.Join(u.dir, "backup") }
func (u *use) restored() string { return filepath.Join(u.dir, "restored.db") }

// findBackup restores the backup, if there is one. The backup must have one of its possible states,
// or be recognised as incomplete.
func (u *use) findBackup() bool {
	u.t.Helper()
	if u.backups == nil {
		return true
	}
	probe := filepath.Join(u.dir, "probe.db")
	err := u.program.call(u.t, Call{Do: "restore", Path: u.backup(), To: probe}).Failure.err()
	if !u.backedUp && (errors.Is(err, latchkey.ErrCorrupt) || errors.Is(err, latchkey.ErrNotStore) || errors.Is(err, fs.ErrNotExist)) {
		u.backups = nil
		return true
	}
	return u.goOn("restore", err) && u.findCopy(probe, &u.backups)
}

// findRestored checks the restored store, if there is one. A cut during Restore must leave all of
// it or nothing.
func (u *use) findRestored() bool {
	u.t.Helper()
	return u.disk.Files()["restored.db"] == nil || u.findCopy(u.restored(), &u.copies)
}

// findCopy opens a store that must have one of some states, and closes it.
func (u *use) findCopy(path string, states *[]State) bool {
	u.t.Helper()
	if !u.ask(Call{Do: "open", Path: path}) {
		return false
	}
	found, err := u.program.visit(u.t, path, *states, nil)
	if !u.goOn("visit", err) {
		return false
	}
	*states = []State{found}
	return u.ask(Call{Do: "close", Path: path})
}

// step makes one call, or several independent calls at once. It reports false after a cut.
func (u *use) step() bool {
	u.t.Helper()
	switch n := u.random.IntN(100); {
	case n < 3:
		return u.ask(Call{Do: "compact"})
	case n < 6:
		return u.makeBackup()
	case n < 9:
		return u.restore()
	case n < 12:
		return u.ask(Call{Do: "close"}) && u.ask(Call{Do: "open"})
	}
	count := 1
	if u.random.IntN(3) == 0 {
		count = 2 + u.random.IntN(3)
	}
	for _, i := range u.random.Perm(len(subjects))[:count] {
		u.under = append(u.under, u.state.draw(u.random, u.path, subjects[i]))
	}
	return u.change()
}

// change makes the calls in under.
func (u *use) change() bool {
	u.t.Helper()
	var begun []*rpc.Call
	for _, c := range u.under {
		begun = append(begun, u.program.begin(c))
	}
	var open []Call
	for i, c := range u.under {
		a, err := u.program.wait(begun[i])
		if err != nil {
			u.t.Fatalf("%s: %s: %v", u.program.where, c.Do, err)
		}
		if u.goOn(c.Do, a.Failure.err()) {
			u.settle(u.state.apply(c, a))
			u.acknowledged++
		} else {
			open = append(open, c)
		}
	}
	u.under = open
	return !u.isOff()
}

func (u *use) makeBackup() bool {
	u.t.Helper()
	u.backups, u.backedUp = append(u.backups, u.state), false
	if !u.ask(Call{Do: "backup", To: u.backup()}) {
		return false
	}
	u.backups, u.backedUp = []State{u.state}, true
	return true
}

func (u *use) restore() bool {
	u.t.Helper()
	if !u.backedUp {
		return true
	}
	u.copies = append(u.copies, u.backups...)
	if !u.ask(Call{Do: "restore", Path: u.backup(), To: u.restored()}) {
		return false
	}
	u.copies = u.backups
	return true
}

// useDeadDisk uses a store whose disk is gone. Every call may fail, but no call may crash or hang.
func (u *use) useDeadDisk() {
	u.t.Helper()
	var tokens []string
	for token := range u.state.logins(nil) {
		tokens = append(tokens, token)
	}
	u.program.call(u.t, u.state.draw(u.random, u.path, ""))
	u.program.call(u.t, Call{Do: "look", Path: u.path})
	u.program.call(u.t, Call{Do: "log in", Path: u.path, Tokens: tokens})
	u.program.call(u.t, Call{Do: "compact", Path: u.path})
	u.program.call(u.t, Call{Do: "close", Path: u.path})
	if u.program.call(u.t, Call{Do: "open", Path: u.path}).Failure.err() == nil {
		u.t.Fatalf("%s: opened a store on a disk that has gone", u.program.where)
	}
}

// fill makes a few changes, until the power is cut.
func (u *use) fill() {
	u.t.Helper()
	for range 30 {
		subject := subjects[u.random.IntN(len(subjects))]
		u.under = []Call{u.state.draw(u.random, u.path, subject)}
		if !u.change() {
			return
		}
	}
}
