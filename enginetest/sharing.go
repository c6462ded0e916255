package enginetest

import (
	"fmt"
	"runtime"
	"strconv"
	"sync"

	"github.com/latchkeydb/latchkey"
)

// Laws about an engine that several processes can share. They open the data of the engine a second
// time. They are skipped if the engine is no [latchkey.EngineWatcher].
var sharingLaws = []law{
	{"a transaction sees what another opening has committed", othersAreSeen},
	{"Wait ends with a commit of another opening", othersEndWait},
	{"writers at several openings lose no update", othersLoseNothing},
	{"every opening hears of every change", othersAreHeard},
	{"a change can be read when it is told", toldIsVisible},
	{"an engine that nobody has restored does not say so", notRestored},
}

// another opens the data of the engine once more.
func (s *subject) another() *subject {
	s.Helper()
	ability[latchkey.EngineWatcher](s)
	other := &subject{T: s.T, open: s.open, dir: s.dir}
	other.start(nil)
	s.Cleanup(func() {
		if err := other.Close(); err != nil {
			s.Errorf("Close: %v", err)
		}
	})
	return other
}

func othersAreSeen(s *subject) {
	other := s.another()
	for i := range 20 {
		value := strconv.Itoa(i)
		other.put("t", "a", value)
		s.want("t", "a="+value)
		s.put("t", "a", value+"x")
		other.want("t", "a="+value+"x")
	}
	one, first := s.commit()
	two, second := other.commit()
	if one != two || first != second {
		s.Errorf("the last commit is %d at one opening and %d at the other, or has another random number", one, two)
	}
}

func othersEndWait(s *subject) {
	other := s.another()
	for i := range 10 {
		before, _ := s.commit()
		done := make(chan error)
		go func() { done <- s.Wait(s.Context(), before) }()
		if i%2 == 0 {
			pause()
		}
		other.put("t", "a", "1")
		if err := <-done; err != nil {
			s.Errorf("Wait: %v", err)
		}
	}
}

func othersLoseNothing(s *subject) {
	const writers, rounds = 4, 25
	openings := []*subject{s, s.another()}
	var writing sync.WaitGroup
	for i := range writers {
		writing.Go(func() {
			for range rounds {
				openings[i%2].update(func(tx latchkey.EngineTx) error {
					v, err := get(tx, "t", "n")
					if err != nil {
						return err
					}
					n, _ := strconv.Atoi(v)
					return put(tx, "t", "n", strconv.Itoa(n+1))
				})
			}
		})
	}
	writing.Wait()
	s.want("t", fmt.Sprint("n=", writers*rounds))
}

// An ear collects what an engine tells.
type ear struct {
	mu    sync.Mutex
	heard map[string]int // how often, by table and key
	all   int            // how often anything may have changed
}

// watch lets an engine tell its changes.
func (s *subject) watch() *ear {
	s.Helper()
	e := &ear{heard: map[string]int{}}
	ability[latchkey.EngineWatcher](s).Watch(func(changes []latchkey.TrackedChange) {
		e.mu.Lock()
		defer e.mu.Unlock()
		if changes == nil {
			e.all++
		}
		for _, c := range changes {
			e.heard[c.Table+"/"+string(c.Key)]++
		}
	})
	return e
}

// times returns how often an entry may have changed.
func (e *ear) times(entry string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.heard[entry] + e.all
}

// await waits until an entry was told more often than before.
func (e *ear) await(entry string, before int) {
	for e.times(entry) <= before {
		runtime.Gosched()
	}
}

func othersAreHeard(s *subject) {
	s.put("t", "old", "1")
	s.reopen(nil)
	other := s.another()
	openings, ears := []*subject{s, other}, []*ear{s.watch(), other.watch()}
	do := func(from *subject, fn func(tx latchkey.EngineTx) error, entries ...string) {
		var before []int
		for _, e := range ears {
			for _, entry := range entries {
				before = append(before, e.times(entry))
			}
		}
		from.update(fn)
		for _, e := range ears {
			for _, entry := range entries {
				e.await(entry, before[0])
				before = before[1:]
			}
		}
	}
	for _, from := range openings {
		do(from, func(tx latchkey.EngineTx) error { return write(tx, "t", "a=1", "b=1") }, "t/a", "t/b")
		do(from, func(tx latchkey.EngineTx) error { return write(tx, "t", "a=2") }, "t/a")
		do(from, func(tx latchkey.EngineTx) error {
			if err := put(tx, "another", "a", "1"); err != nil {
				return err
			}
			return remove(tx, "t", "b")
		}, "another/a", "t/b")
	}
	do(other, func(tx latchkey.EngineTx) error { return remove(tx, "t", "old") }, "t/old")
	for _, o := range openings {
		for !ability[latchkey.EngineWatcher](o).Fresh() {
			runtime.Gosched()
		}
	}
}

func toldIsVisible(s *subject) {
	other := s.another()
	e := s.watch()
	s.commit() // so that what the engine tells at its start does not count
	for i := range 50 {
		before := e.times("t/a")
		var writing sync.WaitGroup
		writing.Go(func() { other.put("t", "a", strconv.Itoa(i)) })
		e.await("t/a", before)
		s.want("t", fmt.Sprint("a=", i))
		writing.Wait()
	}
}

func notRestored(s *subject) {
	s.put("t", "a", "1")
	s.reopen(nil)
	other := s.another()
	openings := []*subject{s, other}
	var ears []*ear
	for _, o := range openings {
		ability[latchkey.RestoreWatcher](o)
		ears = append(ears, o.watch())
	}
	for i := range 20 {
		before := []int{ears[0].times("t/a"), ears[1].times("t/a")}
		openings[i%2].put("t", "a", strconv.Itoa(i))
		for j, o := range openings {
			ears[j].await("t/a", before[j])
			if n := ability[latchkey.RestoreWatcher](o).Restored(); n != 0 {
				s.Fatalf("the engine has noticed %d restorations, want 0", n)
			}
		}
	}
}
