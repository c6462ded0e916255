//go:build faults

package disk_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/torture/disk"
)

// story is what is done while the disk fails: everything that writes, and enough for the file to grow.
var story = []Call{
	{Do: "open"},
	{Do: "create user", Subject: "ada"},
	{Do: "create user with keys", Subject: "bob", Names: []string{"laptop", "phone"}},
	{Do: "create keys", Subject: "ada", Names: []string{"kept", "changed", "deleted"}},
	{Do: "disable key", Subject: "ada", Name: "changed"},
	{Do: "rename key", Subject: "ada", Name: "changed", Names: []string{"renamed"}},
	{Do: "enable key", Subject: "ada", Name: "renamed"},
	{Do: "delete key", Subject: "ada", Name: "deleted"},
	{Do: "disable user", Subject: "bob"},
	{Do: "create keys", Names: longNames(200)},
	{Do: "backup"},
	{Do: "restore"},
	{Do: "enable user", Subject: "bob"},
	{Do: "compact"},
	{Do: "disable key", Subject: "bob", Name: "phone"},
	{Do: "close"},
	{Do: "open"},
	{Do: "delete user", Subject: "bob"},
	{Do: "create user", Subject: "bob"},
}

// longNames are so long that the file has to grow for their keys.
func longNames(n int) (names []string) {
	for i := range n {
		names = append(names, fmt.Sprintf("%0250d", i))
	}
	return names
}

func TestACallThatTheDiskRefusesSaysSoAndChangesNothing(t *testing.T) {
	for _, op := range disk.Ops {
		t.Run(op.String(), func(t *testing.T) {
			if !*long {
				tellSome(t, op)
				return
			}
			for nth, refused := 1, true; refused; nth++ {
				for _, f := range faults(op, nth) {
					refused = tell(t, f)
				}
			}
		})
	}
}

// tellSome fails every third change, in one of the ways that there are.
func tellSome(t *testing.T, op disk.Op) {
	random := newRandom(newSeed(t), 0)
	for nth, refused := 1+random.IntN(3), true; refused; nth += 3 {
		refused = tell(t, faults(op, nth)[random.IntN(4)])
	}
}

func faults(op disk.Op, nth int) []disk.Fault {
	return []disk.Fault{
		{Op: op, Nth: nth, Err: syscall.ENOSPC},
		{Op: op, Nth: nth, Err: syscall.ENOSPC, Always: true},
		{Op: op, Nth: nth, Err: syscall.EIO},
		{Op: op, Nth: nth, Err: syscall.EIO, Always: true},
	}
}

// tell tells the story on a disk with a fault, and reports whether the disk had to refuse anything.
func tell(t *testing.T, f disk.Fault) (refused bool) {
	t.Helper()
	d := disk.New()
	dir, unmount := mount(t, d)
	v := &victim{t: t, disk: d, fault: f, dir: dir, state: newState()}
	v.program = start(t, f.String())
	d.Fail(f)
	for _, c := range story {
		v.play(c)
	}
	refused = d.Heal() > 0 || v.refused
	v.end()
	v.program.kill()
	unmount()

	// What was acknowledged is on the disk, and not only in what the disk's cache shows.
	v.disk = d.Restart(disk.LoseAll, nil)
	v.dir, unmount = mount(t, v.disk)
	v.program = start(t, f.String()+", then a power cut")
	v.want(v.ask(Call{Do: "open"}))
	v.visit(v.state)
	v.want(v.ask(Call{Do: "create user", Subject: "zoe"}))
	v.want(v.ask(Call{Do: "close"}))
	v.program.kill()
	unmount()
	return refused
}

// victim is a store on a disk that fails.
type victim struct {
	t       *testing.T
	disk    *disk.Disk
	fault   disk.Fault
	program *process
	dir     string
	refused bool

	opened bool
	state  State
	gone   []string
}

// ask makes a call.
func (v *victim) ask(c Call) (Answer, error) {
	v.t.Helper()
	c.Path = filepath.Join(v.dir, "keys.db")
	c.User = v.state[c.Subject].ID
	c.Key = v.state[c.Subject].Keys[c.Name].ID
	switch c.Do {
	case "backup":
		c.To = filepath.Join(v.dir, "backup")
	case "restore":
		c.Path, c.To = filepath.Join(v.dir, "backup"), filepath.Join(v.dir, "restored.db")
	}
	a := v.program.call(v.t, c)
	err := a.Failure.err()
	if err == nil {
		v.settle(v.state.apply(c, a))
		v.opened = v.opened && c.Do != "close" || c.Do == "open"
	}
	return a, err
}

func (v *victim) settle(next State) {
	v.gone = append(v.gone, v.state.lost(next)...)
	v.state = next
}

func (v *victim) want(_ Answer, err error) {
	v.t.Helper()
	if err != nil {
		v.t.Fatalf("%s: %v", v.program.where, err)
	}
}

// visit looks at the store, if it is open, and goes on with what of the states it has.
func (v *victim) visit(states ...State) {
	v.t.Helper()
	if !v.opened {
		return
	}
	found, err := v.program.visit(v.t, filepath.Join(v.dir, "keys.db"), states, v.gone)
	if err != nil {
		v.t.Fatalf("%s: visit: %v", v.program.where, err)
	}
	v.settle(found)
}

// play makes the next call of the story, and if the disk refuses it, makes it again when the disk is whole.
func (v *victim) play(c Call) {
	v.t.Helper()
	before := v.state
	_, err := v.ask(c)
	if err == nil {
		return
	}
	v.refused = true
	where := v.program.where
	v.program.where = fmt.Sprintf("%s, in %s, which said %q", where, c.Do, err)
	defer func() { v.program.where = where }()
	if !errors.Is(err, v.fault.Err) && !errors.Is(err, latchkey.ErrCommit) && !errors.Is(err, latchkey.ErrSyncFailed) {
		v.t.Errorf("%s: want that error", v.program.where)
	}
	states := []State{before}
	if errors.Is(err, latchkey.ErrCommit) {
		states = append(states, before.apply(c, Answer{}))
	}
	v.visit(states...)
	if v.fault.Always {
		if _, err := v.ask(c); err == nil {
			return
		}
		v.visit(states...)
	}
	v.disk.Heal()
	if errors.Is(err, latchkey.ErrCommit) {
		v.reopen(states...)
		if _, without := before.found(v.state); !without {
			return
		}
	}
	v.retry(c)
}

// retry makes a call again on a disk that is whole. A store that could not sync has to be opened again for it.
func (v *victim) retry(c Call) {
	v.t.Helper()
	_, err := v.ask(c)
	if errors.Is(err, latchkey.ErrSyncFailed) && v.fault.Op == disk.Sync {
		v.visit(v.state)
		v.reopen(v.state)
		_, err = v.ask(c)
	}
	if err != nil {
		v.t.Fatalf("%s: again, on a disk that is whole: %v", v.program.where, err)
	}
}

// reopen closes the store and opens it again. What it has then lasts.
func (v *victim) reopen(states ...State) {
	v.t.Helper()
	if v.opened {
		v.want(v.ask(Call{Do: "close"}))
	}
	v.want(v.ask(Call{Do: "open"}))
	v.visit(states...)
}

// end ends the story on a disk that is whole.
func (v *victim) end() {
	v.t.Helper()
	v.visit(v.state)
	v.want(v.ask(Call{Do: "close"}))
}

// The sync that fails is the second of a commit. The disk has not got the page that makes the change, and its cache says
// that it has.
func TestWhatIsThereAfterErrCommitAndReopeningLasts(t *testing.T) {
	seed := newSeed(t)
	for cut := 1; cut <= amount(20, 200); cut++ {
		h := newHistory()
		h.cut, h.random = cut, newRandom(seed, cut)
		h.between(t, 0, func(u *use) {
			u.open()
			u.fill()
			u.under = []Call{{Do: "create user", Path: u.path, Subject: "zoe"}}
			u.disk.Fail(disk.Fault{Op: disk.Sync, Nth: 2, Err: syscall.EIO})
			err := u.program.call(t, u.under[0]).Failure.err()
			if u.disk.Heal(); !errors.Is(err, latchkey.ErrCommit) {
				t.Fatalf("got %v, want ErrCommit", err)
			}
			u.ask(Call{Do: "close"})
			u.open()
			u.disk.CutAfter(cut)
			u.fill()
		})
		h.run(t, 0)
	}
}
