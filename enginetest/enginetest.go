// Package enginetest checks that an engine keeps every promise of [latchkey.Engine]. A store relies
// on all of these promises, so an engine cannot ask for exceptions.
//
// The tests of an engine need one call. This is the call for the engine on bbolt:
//
//	func TestEngine(t *testing.T) {
//		enginetest.Run(t, func(dir string, opts *latchkey.Options) (latchkey.Engine, error) {
//			return latchkey.OpenBoltEngine(filepath.Join(dir, "keys.db"), opts)
//		})
//	}
//
// Each law is a subtest with a name of its own. One law writes a million records, or ten thousand
// with -short. Another law draws its operations at random. If it fails, it logs the seed that
// repeats them. Run the suite with -race too. If an engine waits for ever, the suite waits with it
// until the timeout of go test, whose output shows where the engine waits.
//
// An engine may also have optional abilities: [latchkey.EngineBackuper],
// [latchkey.EngineCompacter], [latchkey.EngineChecker], [latchkey.EngineLongViewer],
// [latchkey.EngineBounder], [latchkey.EngineWatcher], [latchkey.RestoreWatcher],
// [latchkey.CommitCounter], [latchkey.DamageSkipper] and [latchkey.EngineRepairer]. The suite
// checks the laws of the abilities that the engine has, and skips the others.
package enginetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/latchkeydb/latchkey"
)

// An Open opens the engine that keeps its data in dir. Each law gets a new, empty directory, which
// nothing else uses. An engine without files can take dir as a name. After Close, another call with
// the same dir must find the data of the closed engine. An engine that is a
// [latchkey.EngineWatcher] is also opened twice at once. opts may be nil. Of opts, only ReadOnly
// counts.
type Open func(dir string, opts *latchkey.Options) (latchkey.Engine, error)

// Run checks every law against the engine that open opens.
func Run(t *testing.T, open Open) {
	for _, laws := range [][]law{tableLaws, scanLaws, transactionLaws, numberingLaws, lifetimeLaws, abilityLaws, sharingLaws} {
		for _, l := range laws {
			t.Run(l.name, func(t *testing.T) { l.check(newSubject(t, open)) })
		}
	}
}

// law is one promise, and a function that checks it. An engine may run a function again. So check
// sets anew, in each run, every variable that such a function changes outside its transaction.
type law struct {
	name  string
	check func(s *subject)
}

// subject is an engine under test. It is empty at first.
type subject struct {
	*testing.T
	latchkey.Engine
	open Open
	dir  string
}

func newSubject(t *testing.T, open Open) *subject {
	s := &subject{T: t, open: open, dir: t.TempDir()}
	s.start(nil)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

func (s *subject) start(opts *latchkey.Options) {
	s.Helper()
	e, err := s.open(s.dir, opts)
	if err != nil {
		s.Fatalf("open: %v", err)
	}
	s.Engine = e
}

// reopen closes the engine and opens it again.
func (s *subject) reopen(opts *latchkey.Options) {
	s.Helper()
	if err := s.Close(); err != nil {
		s.Errorf("Close: %v", err)
	}
	s.start(opts)
}

// update runs fn in an Update that must succeed.
func (s *subject) update(fn func(tx latchkey.EngineTx) error) {
	s.Helper()
	if err := s.Update(s.Context(), fn); err != nil {
		s.Errorf("Update: %v", err)
	}
}

// view runs fn in a View that must succeed.
func (s *subject) view(fn func(tx latchkey.EngineTx) error) {
	s.Helper()
	if err := s.View(s.Context(), fn); err != nil {
		s.Errorf("View: %v", err)
	}
}

// put sets the value of a key in a transaction of its own.
func (s *subject) put(table, key, value string) {
	s.Helper()
	s.update(func(tx latchkey.EngineTx) error { return put(tx, table, key, value) })
}

// write makes edits in a table, in a transaction of its own.
func (s *subject) write(table string, edits ...string) {
	s.Helper()
	s.update(func(tx latchkey.EngineTx) error { return write(tx, table, edits...) })
}

// want checks that a table has exactly these entries, in the form that list returns.
func (s *subject) want(table, entries string) {
	s.Helper()
	s.view(func(tx latchkey.EngineTx) error {
		got, err := list(tx, table)
		if err == nil && got != entries {
			s.Errorf("table %q has %q, want %q", table, got, entries)
		}
		return err
	})
}

// wantError checks that err is want.
func (s *subject) wantError(call string, err, want error) {
	s.Helper()
	if !errors.Is(err, want) {
		s.Errorf("%s: got error %v, want %v", call, err, want)
	}
}

// room makes the engine so large that a few small Updates need no more space. An engine may have to
// wait for its readers before it can grow, and some laws write while they read.
func (s *subject) room() {
	s.Helper()
	big := bytes.Repeat([]byte("room"), latchkey.MaxEngineValue/4)
	each := func(do func(tx latchkey.EngineTx, key []byte) error) {
		s.update(func(tx latchkey.EngineTx) error {
			for i := range 16 {
				if err := do(tx, []byte{byte(i)}); err != nil {
					return err
				}
			}
			return nil
		})
	}
	each(func(tx latchkey.EngineTx, key []byte) error { return tx.Put("room", key, big) })
	each(func(tx latchkey.EngineTx, key []byte) error { return tx.Delete("room", key) })
}

// put, get and remove call the methods of EngineTx with strings.
func put(tx latchkey.EngineTx, table, key, value string) error {
	return tx.Put(table, []byte(key), []byte(value))
}

// get returns "" if the key does not exist. No test that uses get writes an empty value.
func get(tx latchkey.EngineTx, table, key string) (string, error) {
	v, err := tx.Get(table, []byte(key))
	return string(v), err
}

func remove(tx latchkey.EngineTx, table, key string) error { return tx.Delete(table, []byte(key)) }

// write makes edits in a table one after another, and stops at the first error. The edit "a=1" puts
// the value 1 under the key a, and "-a" deletes the key a.
func write(tx latchkey.EngineTx, table string, edits ...string) error {
	for _, edit := range edits {
		key, value, found := strings.Cut(edit, "=")
		var err error
		if found {
			err = put(tx, table, key, value)
		} else {
			err = remove(tx, table, strings.TrimPrefix(edit, "-"))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// list returns all entries of a table in the form "a=1 b=2".
func list(tx latchkey.EngineTx, table string) (string, error) { return listRange(tx, table, nil, nil) }

// listRange returns the entries of a table between bounds.
func listRange(tx latchkey.EngineTx, table string, from, to []byte) (string, error) {
	var entries []string
	for e, err := range tx.Scan(table, from, to) {
		if err != nil {
			return "", err
		}
		entries = append(entries, fmt.Sprintf("%s=%s", e.Key, e.Value))
	}
	return strings.Join(entries, " "), nil
}

// pause gives goroutines that have just begun time to wait for something. No sound engine depends
// on it: faults that show only while somebody waits are found more often.
func pause() { time.Sleep(2 * time.Millisecond) }

// canceled returns a context that has ended.
func canceled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}
