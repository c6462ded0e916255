package disk_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/torture/disk"
	"github.com/latchkeydb/latchkey/torture/internal/form"
)

// story has the calls that are made while the disk fails. They include everything that writes, and
// write enough for the file to grow.
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

// changes reports whether a call changes users or keys.
func (c Call) changes() bool {
	return !slices.Contains([]string{"open", "backup", "restore", "compact"}, c.Do)
}

// longNames returns n names, so long that the file has to grow for their keys.
func longNames(n int) (names []string) {
	for i := range n {
		names = append(names, fmt.Sprintf("%0250d", i))
	}
	return names
}

func TestACallThatTheDiskRefusesReturnsTheErrorAndChangesNothing(t *testing.T) {
	t.Parallel()
	// The story asks for some 260 writes, 50 syncs, and a few changes of each other kind. The short
	// form refuses about one of so many.
	oneIn := map[disk.Op]int{disk.Write: 13, disk.Sync: 3, disk.Truncate: 1, disk.Create: 1, disk.Name: 1}
	for _, op := range disk.Ops {
		t.Run(op.String(), func(t *testing.T) {
			random := form.NewRandom(form.NewSeed(t), int(op))
			told := 0
			for nth, refused := 1, true; refused; nth++ {
				if nth > manyCalls {
					t.Fatalf("the story has asked for change %d of a kind", nth)
				}
				troubles := allTroubles(op, nth, random)
				if !form.Long() {
					nth += random.IntN(2*oneIn[op] - 1)
					troubles = []trouble{troubles[random.IntN(len(troubles))]}
				}
				for _, tr := range troubles {
					refused = tr.tell(t, random)
					told++
				}
			}
			t.Logf("the story was told %d times", told)
		})
	}
}

// trouble is a fault of a disk. If cached is set, programs still see data that a failed sync has
// lost, because it is in the kernel's cache.
type trouble struct {
	disk.Fault
	cached bool
}

func (tr trouble) String() string {
	if tr.cached {
		return tr.Fault.String() + " that the cache hides"
	}
	return tr.Fault.String()
}

// allTroubles returns all ways to refuse the nth change.
func allTroubles(op disk.Op, nth int, random *rand.Rand) (all []trouble) {
	for _, f := range []disk.Fault{
		{Op: op, Nth: nth, Err: syscall.ENOSPC},
		{Op: op, Nth: nth, Err: syscall.ENOSPC, Always: true},
		{Op: op, Nth: nth, Err: syscall.EIO},
		{Op: op, Nth: nth, Err: syscall.EIO, Always: true},
	} {
		all = append(all, trouble{Fault: f})
		if op != disk.Sync {
			continue
		}
		f.Random = random
		for _, f.Loss = range []disk.Loss{disk.LoseAll, disk.LoseNothing, disk.LoseSome} {
			all = append(all, trouble{Fault: f, cached: true})
		}
	}
	return all
}

// tell makes the calls of the story on a disk in trouble, and reports whether the disk has refused
// anything.
func (tr trouble) tell(t *testing.T, random *rand.Rand) (refused bool) {
	t.Helper()
	d := disk.New()
	if tr.cached {
		d.Cache()
	}
	dir, unmount := mount(t, d)
	v := &victim{t: t, disk: d, trouble: tr, dir: dir, cut: random.IntN(4) == 0, state: newState()}
	v.program = start(t, tr.String())
	d.Fail(tr.Fault)
	for _, c := range story {
		if !v.play(c) {
			break
		}
	}
	refused = d.Heal() > 0 || v.refused
	if v.under == nil {
		v.visit(v.state)
		v.want(v.ask(Call{Do: "close"}))
	}
	v.program.kill()
	unmount()

	// Acknowledged changes must be on the disk, and not only in the cache.
	v.disk = d.Restart(disk.LoseAll, nil)
	v.dir, unmount = mount(t, v.disk)
	v.program = start(t, tr.String()+", then a power cut")
	states := []State{v.state}
	for _, c := range v.under {
		states = append(states, v.state.apply(c, Answer{}))
	}
	v.want(v.ask(Call{Do: "open"}))
	v.visit(states...)
	v.want(v.ask(Call{Do: "create user", Subject: "zoe"}))
	v.want(v.ask(Call{Do: "close"}))
	v.program.kill()
	unmount()
	return refused
}

// victim is a store on a disk in trouble.
type victim struct {
	t       *testing.T
	disk    *disk.Disk
	trouble trouble
	cut     bool // cut the power when the disk has refused something
	program *process
	dir     string
	refused bool

	opened bool
	state  State
	gone   []string
	under  []Call // not nil after a cut: calls whose change may be there or not
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

// visit looks at the store, if it is open. The store must have one of the states, with which visit
// continues.
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

// play makes the next call of the story. If the disk refuses the call, play checks the state of the
// store. Then it either mends the disk and makes the call again, or cuts the power, which ends the
// story. It reports whether the story goes on.
func (v *victim) play(c Call) (goOn bool) {
	v.t.Helper()
	before := v.state
	_, err := v.ask(c)
	if err == nil {
		return true
	}
	v.refused = true
	where := v.program.where
	v.program.where = fmt.Sprintf("%s, in %s, which said %q", where, c.Do, err)
	defer func() { v.program.where = where }()
	unknown := errors.Is(err, latchkey.ErrCommitUnknown)
	// FUSE drops the cache of a file that grows. So it also drops the cache of a copy, which is
	// synced only at its end.
	lost := v.trouble.cached && c.Do == "compact" && strings.Contains(err.Error(), "the copy is damaged")
	if !errors.Is(err, v.trouble.Err) && !lost || unknown && v.trouble.Op != disk.Sync {
		v.t.Errorf("%s: want %v", v.program.where, v.trouble.Err)
	}
	states := []State{before}
	if unknown {
		states = append(states, before.apply(c, Answer{}))
	}
	v.visit(states...)
	if v.cut {
		if v.under = []Call{}; unknown {
			v.under = append(v.under, c)
		}
		v.state = before
		return false
	}
	if v.trouble.Always {
		if _, err := v.ask(c); err == nil {
			return true
		}
		v.visit(states...)
	}
	v.disk.Heal()
	if !unknown {
		v.retry(c)
		return true
	}
	v.reopen(states...)
	if _, without := before.found(v.state); without && c.changes() {
		v.want(v.ask(c))
	}
	return true
}

// retry makes a call again on a mended disk. If a sync had failed, the store first has to be
// reopened.
func (v *victim) retry(c Call) {
	v.t.Helper()
	_, err := v.ask(c)
	switch {
	case v.trouble.Op != disk.Sync:
	case errors.Is(err, latchkey.ErrSyncFailed):
		v.visit(v.state)
		v.reopen(v.state)
		_, err = v.ask(c)
	case c.changes():
		v.t.Fatalf("%s: again, before the store was opened again: got %v, want ErrSyncFailed", v.program.where, err)
	}
	if err != nil {
		v.t.Fatalf("%s: again, on a disk that is whole: %v", v.program.where, err)
	}
}

// reopen closes the store and opens it again. From then on, the state that the store has must last.
func (v *victim) reopen(states ...State) {
	v.t.Helper()
	if v.opened {
		v.want(v.ask(Call{Do: "close"}))
	}
	v.want(v.ask(Call{Do: "open"}))
	v.visit(states...)
}

// The second sync of a commit fails. The disk has not received the page that makes the change, but
// its cache shows the page.
func TestTheStateFoundAfterErrCommitUnknownAndReopeningLasts(t *testing.T) {
	t.Parallel()
	seed := form.NewSeed(t)
	for cut := 1; cut <= form.Amount(20, 200); cut++ {
		h := newHistory()
		h.disk.Cache()
		h.cut, h.random = cut, form.NewRandom(seed, cut)
		h.between(t, 0, func(u *use) {
			u.open()
			u.fill()
			u.under = []Call{{Do: "create user", Path: u.path, Subject: "zoe"}}
			u.disk.Fail(disk.Fault{Op: disk.Sync, Nth: 2, Err: syscall.EIO, Loss: disk.Loss(u.random.IntN(3)), Random: u.random})
			err := u.program.call(t, u.under[0]).Failure.err()
			if u.disk.Heal(); !errors.Is(err, latchkey.ErrCommitUnknown) {
				t.Fatalf("got %v, want ErrCommitUnknown", err)
			}
			u.ask(Call{Do: "close"})
			u.open()
			u.disk.CutAfter(cut)
			u.fill()
		})
		h.run(t, 0)
	}
}
