// Package enginetest checks that an engine keeps every promise of [latchkey.Engine]. A store relies on all of them, so
// there are no exceptions to ask for.
//
// An engine's tests need one call, here for the engine on bbolt:
//
//	func TestEngine(t *testing.T) {
//		enginetest.Run(t, func(dir string, opts *latchkey.Options) (latchkey.Engine, error) {
//			return latchkey.OpenBoltEngine(filepath.Join(dir, "keys.db"), opts)
//		})
//	}
//
// Each law is a subtest with a name of its own. One law writes a million records, or ten thousand with -short; another
// draws its operations at random and prints the seed that repeats them. Run the suite with -race too. A promise to wait
// for something is kept or the suite waits for ever, so an engine that hangs ends with the timeout of go test, which
// shows where.
//
// An engine may also have abilities of its own choice: [latchkey.EngineBackuper],
// [latchkey.EngineCompacter], [latchkey.EngineChecker], [latchkey.CommitCounter] and
// [latchkey.DamageSkipper]. Their laws are checked for an engine that has them, and skipped for any other.
package enginetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/latchkeydb/latchkey"
)

// An Open opens the engine that keeps its data in dir, which is a new, empty directory for each law and is used for
// nothing else; an engine that has no files takes it for a name. Opening with the same dir again, after Close, must find
// what was there. Of opts, which may be nil, only ReadOnly counts.
type Open func(dir string, opts *latchkey.Options) (latchkey.Engine, error)

// Run checks every law against the engine that open opens.
func Run(t *testing.T, open Open) {
	for _, laws := range [][]law{tableLaws, scanLaws, transactionLaws, lifetimeLaws, abilityLaws} {
		for _, l := range laws {
			t.Run(l.name, func(t *testing.T) { l.check(newSubject(t, open)) })
		}
	}
}

// law is one promise and how to check it. What check passes to an engine may be run again, so it sets afresh whatever
// it changes outside its transaction.
type law struct {
	name  string
	check func(s *subject)
}

// subject is an engine under test, empty at first.
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

// want checks that a table has exactly these entries, written as list writes them.
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

// room makes the engine large enough that a few small Updates need no more. An engine may have to wait for its readers
// before it can grow, and some laws write while they read.
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

// put, get and remove are EngineTx's methods, on strings.
func put(tx latchkey.EngineTx, table, key, value string) error {
	return tx.Put(table, []byte(key), []byte(value))
}

// get returns "" for a key that is not there; those that tests write are not empty.
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

// list returns all entries of a table, as in "a=1 b=2".
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

// canceled is a context that has ended.
func canceled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}
