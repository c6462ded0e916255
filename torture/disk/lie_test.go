package disk_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/torture/disk"
	"github.com/latchkeydb/latchkey/torture/internal/form"
)

// A disk that reports a sync that it has not done can bring back any earlier state, or parts of
// several states. No program can tell what such a disk has lost. But the store opens what is left
// without a crash, or refuses it and names a way out. In any case, a token is good only for what it
// was good for in some state before the cut.
func TestADiskThatLiesAboutSyncingCrashesNothingAndMakesNoBadTokenGood(t *testing.T) {
	t.Parallel()
	seed := form.NewSeed(t)
	outcomes := make(map[string]int)
	var l *liedTo
	for cut := range form.Amount(50, 1000) {
		random := form.NewRandom(seed, cut)
		if l == nil || cut%cutsOfAHistory == 0 {
			l = newLiedTo(outcomes)
		}
		if l.cut, l.random = cut, random; !l.run(t, 1+random.IntN(600)) {
			l = nil
		}
	}
	t.Logf("what was found when the power was back: %v", outcomes)
}

// liedTo is the history of a disk that lies, from one cut to the next.
type liedTo struct {
	cut    int
	random *rand.Rand
	disk   *disk.Disk

	states []State          // all states that existed or may have existed, in order
	good   map[string]Login // tokens that were good in any state, with their logins
	gone   []string         // tokens of deleted keys, and of a lost store

	outcomes map[string]int // how often each outcome was met, in all histories
}

func newLiedTo(outcomes map[string]int) *liedTo {
	return &liedTo{disk: disk.New(), states: []State{newState()}, good: make(map[string]Login), outcomes: outcomes}
}

func (l *liedTo) state() State { return l.states[len(l.states)-1] }

// settle adds a state that existed or may have existed.
func (l *liedTo) settle(next State) {
	l.gone = append(l.gone, l.state().lost(next)...)
	l.states = append(l.states, next)
	l.allow(next)
}

// allow notes the tokens that are good in a state.
func (l *liedTo) allow(s State) {
	for token, login := range s.logins(nil) {
		if login.Failure.Text == "" {
			l.good[token] = login
		}
	}
}

// run mounts the disk, checks the store, and uses it until the power is cut during the nth change.
// It reports whether the next run can go on with the store.
func (l *liedTo) run(t *testing.T, nth int) (goOn bool) {
	t.Helper()
	dir, unmount := mount(t, l.disk)
	where := fmt.Sprintf("cut %d", l.cut)
	u := &lie{liedTo: l, t: t, program: start(t, where), path: filepath.Join(dir, "keys.db")}
	l.disk.Lie(1 + l.random.IntN(200))
	goOn = u.open()
	if goOn {
		l.disk.CutAfter(nth)
		for n := 0; u.step(); n++ {
			if n == manyCalls {
				t.Fatalf("%s: %d calls have not reached change %d of the disk", where, n, nth)
			}
		}
	} else {
		u.examine()
	}
	u.program.kill()
	unmount()
	l.disk = l.disk.Restart([]disk.Loss{disk.LoseAll, disk.LoseSome, disk.LoseSome}[l.random.IntN(3)], l.random)
	return goOn
}

// lie is the use of the disk between two cuts.
type lie struct {
	*liedTo
	t       *testing.T
	program *process
	path    string
}

// open opens the store and reads everything. It reports whether the store is sound.
func (u *lie) open() (sound bool) {
	u.t.Helper()
	err := u.program.call(u.t, Call{Do: "open", Path: u.path}).Failure.err()
	if err != nil {
		u.wantWayOut(err)
		u.outcomes["damage that Open finds"]++
		return false
	}
	u.logIn()
	seen := u.program.call(u.t, Call{Do: "look", Path: u.path})
	if err := seen.Failure.err(); err != nil || len(seen.Findings) > 0 {
		if err != nil && !errors.Is(err, latchkey.ErrCorrupt) {
			u.t.Errorf("%s: look: got %v, want ErrCorrupt", u.program.where, err)
		}
		u.outcomes["damage that Check finds"]++
		u.program.call(u.t, Call{Do: "close", Path: u.path})
		return false
	}
	for i, state := range slices.Backward(u.states) {
		if found, ok := state.found(seen.State); ok {
			if i < len(u.states)-2 { // the last state is after a change that was in progress
				u.outcomes["an earlier state"]++
			} else {
				u.outcomes["the last state"]++
			}
			u.settle(found)
			return true
		}
	}
	u.t.Fatalf("%s: Check finds nothing wrong in a state that never existed: %+v", u.program.where, seen.State)
	return false
}

func (u *lie) wantWayOut(err error) {
	u.t.Helper()
	ways := []string{"Salvage", "Restore"}
	if errors.Is(err, latchkey.ErrNotStore) { // nothing is left of the file
		ways = []string{"Restore"}
	} else if !errors.Is(err, latchkey.ErrCorrupt) {
		u.t.Errorf("%s: open: got %v, want ErrCorrupt or ErrNotStore", u.program.where, err)
	}
	for _, way := range ways {
		if !strings.Contains(err.Error(), way) {
			u.t.Errorf("%s: open: got %v, want an error that names %s", u.program.where, err, way)
		}
	}
}

// logIn logs in with every token that ever existed.
func (u *lie) logIn() {
	u.t.Helper()
	tokens := u.tokens()
	logins := u.program.call(u.t, Call{Do: "log in", Path: u.path, Tokens: tokens}).Logins
	u.judge(tokens, Stage{Name: "open", Logins: logins})
}

func (u *lie) tokens() []string {
	tokens := slices.Clone(u.gone)
	for _, s := range u.states {
		tokens = slices.AppendSeq(tokens, maps.Keys(s.logins(nil)))
	}
	slices.Sort(tokens)
	return slices.Compact(tokens)
}

func (u *lie) judge(tokens []string, s Stage) {
	u.t.Helper()
	(&damaged{what: u.program.where, good: u.good}).judge(u.t, tokens, s)
}

// examine makes every call on a damaged store. If Salvage makes a store of it, that store must be
// sound. No call may make a bad token good.
func (u *lie) examine() {
	u.t.Helper()
	c := Call{Do: "examine", Path: u.path, State: u.state(), Tokens: u.tokens()}
	a := u.program.call(u.t, c)
	if err := a.Failure.err(); err != nil {
		u.t.Errorf("%s: %v", u.program.where, err)
	}
	for _, s := range a.Stages {
		u.judge(c.Tokens, s)
		if s.Name == "salvage: salvaged" && s.Failure.Text == "" {
			u.outcomes["stores that could be salvaged"]++
		}
	}
}

// step makes one call. The store was sound when it was opened, so the call succeeds until the power
// is cut.
func (u *lie) step() (goOn bool) {
	u.t.Helper()
	c := u.state().draw(u.random, u.path, subjects[u.random.IntN(len(subjects))])
	switch n := u.random.IntN(50); n {
	case 0:
		c = Call{Do: "compact", Path: u.path}
	case 1:
		c = Call{Do: "close", Path: u.path}
	}
	a := u.program.call(u.t, c)
	if c.Do == "close" {
		a = u.program.call(u.t, Call{Do: "open", Path: u.path})
	}
	u.settle(u.state().apply(c, a)) // after a power cut, this state may or may not hold
	select {
	case <-u.disk.Off():
		return false
	default:
	}
	if err := a.Failure.err(); err != nil {
		u.t.Fatalf("%s: %s: %v", u.program.where, c.Do, err)
	}
	return true
}
