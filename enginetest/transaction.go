package enginetest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"strconv"
	"sync"

	"github.com/latchkeydb/latchkey"
)

// Laws about transactions: which writes of each other they see, and what a failed transaction
// leaves.
var transactionLaws = []law{
	{"the error of fn comes back as it is", errorComesBack},
	{"an Update that fails leaves nothing", failureLeavesNothing},
	{"an Update that fails undoes nothing of another Update", failureTakesNothing},
	{"only the last run of fn counts", lastRunCounts},
	{"a View sees one state", viewSeesOneState},
	{"a View does not wait for a writer and sees nothing of it", viewDoesNotWait},
	{"writers at the same time lose no update", noLostUpdate},
	{"nothing that a transaction has read changes before its commit", noWriteSkew},
	{"no reader sees half of a transaction", noHalves},
	{"a context that is done begins no transaction", doneContextBeginsNothing},
	{"a context that ends while an Update waits ends the Update", waitingCanBeCanceled},
	{"a context that ends after fn has begun undoes no commit", laterCancellation},
	{"a View refuses to write", viewRefusesToWrite},
	{"a transaction that has ended answers ErrClosed", endedTransaction},
}

var errFn = errors.New("fn failed")

func errorComesBack(s *subject) {
	fail := func(latchkey.EngineTx) error { return errFn }
	if err := s.Update(s.Context(), fail); err != errFn {
		s.Errorf("Update: got %#v, want fn's own error", err)
	}
	if err := s.View(s.Context(), fail); err != errFn {
		s.Errorf("View: got %#v, want fn's own error", err)
	}
}

// failures are the ways in which fn can fail. run calls Update with a function that first calls fn
// and then fails. It reports whether the caller of Update noticed the failure.
var failures = []struct {
	name string
	run  func(s *subject, fn func(tx latchkey.EngineTx) error) bool
}{
	{"an error", func(s *subject, fn func(tx latchkey.EngineTx) error) bool {
		return s.Update(s.Context(), func(tx latchkey.EngineTx) error {
			if err := fn(tx); err != nil {
				return err
			}
			return errFn
		}) != nil
	}},
	{"a panic", func(s *subject, fn func(tx latchkey.EngineTx) error) (reached bool) {
		defer func() { reached = recover() == errFn }()
		_ = s.Update(s.Context(), func(tx latchkey.EngineTx) error {
			_ = fn(tx)
			panic(errFn)
		})
		return false
	}},
	{"runtime.Goexit", func(s *subject, fn func(tx latchkey.EngineTx) error) bool {
		reached := true
		var goroutine sync.WaitGroup
		goroutine.Go(func() {
			_ = s.Update(s.Context(), func(tx latchkey.EngineTx) error {
				_ = fn(tx)
				runtime.Goexit()
				return nil
			})
			reached = false
		})
		goroutine.Wait()
		return reached
	}},
}

func failureLeavesNothing(s *subject) {
	s.put("t", "a", "1")
	s.put("t", "b", "2")
	for _, failure := range failures {
		reached := failure.run(s, func(tx latchkey.EngineTx) error {
			if err := write(tx, "t", "a=changed", "-b", "c=new"); err != nil {
				return err
			}
			if err := write(tx, "new", "d=new"); err != nil {
				return err
			}
			return write(tx, "t", "a=again", "-c", "b=back", "c=and back")
		})
		if !reached {
			s.Errorf("after %s in fn, Update returned as if fn had not failed", failure.name)
		}
		s.want("t", "a=1 b=2")
		s.want("new", "")
		// The next commit must not include the failed writes.
		s.put("other", "x", failure.name)
		s.want("t", "a=1 b=2")
		s.want("new", "")
	}
	s.reopen(nil)
	s.want("t", "a=1 b=2")
	s.want("new", "")
}

// failureTakesNothing runs many Updates at once, at neighbouring keys. Half of the Updates fail.
func failureTakesNothing(s *subject) {
	const writers = 64
	s.put("t", "all", "0")
	var group sync.WaitGroup
	for i := range writers {
		group.Go(func() {
			fn := func(tx latchkey.EngineTx) error {
				return write(tx, "t", fmt.Sprintf("%03d=.", i), "all=between", fmt.Sprint("all=", i))
			}
			if kind := i % (2 * len(failures)); kind < len(failures) {
				failures[kind].run(s, fn)
			} else if err := s.Update(s.Context(), fn); err != nil {
				s.Errorf("Update: %v", err)
			}
		})
	}
	group.Wait()
	s.reopen(nil)
	s.view(func(tx latchkey.EngineTx) error {
		for i := range writers {
			v, err := get(tx, "t", fmt.Sprintf("%03d", i))
			if err != nil {
				return err
			}
			if failed := i%(2*len(failures)) < len(failures); failed == (v != "") {
				s.Errorf("Update %d, which failed: %t, has left %q", i, failed, v)
			}
		}
		v, err := get(tx, "t", "all")
		if i, notNumber := strconv.Atoi(v); err == nil && (notNumber != nil || i%(2*len(failures)) < len(failures)) {
			s.Errorf("the last value is %q, which no Update has committed", v)
		}
		return err
	})
}

func lastRunCounts(s *subject) {
	runs := 0
	s.update(func(tx latchkey.EngineTx) error {
		runs++
		return put(tx, "t", strconv.Itoa(runs), ".")
	})
	s.want("t", strconv.Itoa(runs)+"=.")
}

func viewSeesOneState(s *subject) {
	s.room()
	s.put("t", "a", "1")
	s.put("t", "b", "1")
	s.put("t", "c", "1")
	s.view(func(tx latchkey.EngineTx) error {
		if _, err := get(tx, "t", "a"); err != nil {
			return err
		}
		// The writer is another goroutine, because no engine promises transactions within one
		// another.
		var writer sync.WaitGroup
		writer.Go(func() {
			s.put("t", "a", "2")
			s.put("t", "bb", "2")
			s.put("new", "a", "2")
			s.update(func(tx latchkey.EngineTx) error { return remove(tx, "t", "c") })
			s.want("t", "a=2 b=1 bb=2")
		})
		writer.Wait()
		before, err := list(tx, "t")
		if err != nil {
			return err
		}
		if before != "a=1 b=1 c=1" {
			s.Errorf("the View sees %q, want the entries from when the View began", before)
		}
		v, err := get(tx, "t", "c")
		if err != nil {
			return err
		}
		if v != "1" {
			s.Errorf("the View's Get sees %q, want the value from when the View began", v)
		}
		created, err := list(tx, "new")
		if created != "" {
			s.Errorf("the View sees %q in a table that was made after the View began", created)
		}
		return err
	})
	s.want("t", "a=2 b=1 bb=2")
}

func viewDoesNotWait(s *subject) {
	s.put("t", "a", "1")
	s.update(func(tx latchkey.EngineTx) error {
		if err := write(tx, "t", "a=2", "b=2"); err != nil {
			return err
		}
		var reader sync.WaitGroup
		reader.Go(func() { s.want("t", "a=1") })
		reader.Wait()
		return nil
	})
	s.want("t", "a=2 b=2")
}

// writers and rounds are for the laws in which several transactions run at once.
const (
	writers = 16
	rounds  = 20
)

func noLostUpdate(s *subject) {
	var group sync.WaitGroup
	for i := range writers {
		group.Go(func() {
			for range rounds {
				err := s.Update(s.Context(), func(tx latchkey.EngineTx) error {
					if err := add(tx, "count", 1); err != nil {
						return err
					}
					return add(tx, fmt.Sprintf("count of %02d", i), 1)
				})
				if err != nil {
					s.Errorf("Update: %v", err)
					return
				}
			}
		})
	}
	group.Wait()
	s.view(func(tx latchkey.EngineTx) error {
		n, err := get(tx, "t", "count")
		if n != strconv.Itoa(writers*rounds) {
			s.Errorf("the count is %s after %d increments", n, writers*rounds)
		}
		return err
	})
}

// add adds n to the number that is stored under a key.
func add(tx latchkey.EngineTx, key string, n int) error {
	v, err := get(tx, "t", key)
	if err != nil {
		return err
	}
	old, _ := strconv.Atoi(v)
	return put(tx, "t", key, strconv.Itoa(old+n))
}

// noWriteSkew has many writers compete for a few places. A writer counts the places that are taken,
// by a Scan in every other round and by Gets in the rounds between. If there is room, it takes a
// place of its own. No two writers write the same key, so only their reads show that they conflict.
func noWriteSkew(s *subject) {
	const places = 3
	for round := range rounds {
		table := fmt.Sprint("round ", round)
		taken := func(tx latchkey.EngineTx) (n int, err error) {
			if round%2 == 0 {
				for _, err := range tx.Scan(table, nil, nil) {
					if err != nil {
						return n, err
					}
					n++
				}
				return n, nil
			}
			for i := range writers {
				v, err := get(tx, table, fmt.Sprintf("%02d", i))
				if err != nil {
					return n, err
				}
				n += len(v)
			}
			return n, nil
		}
		var group sync.WaitGroup
		for i := range writers {
			group.Go(func() {
				err := s.Update(s.Context(), func(tx latchkey.EngineTx) error {
					n, err := taken(tx)
					if err != nil || n >= places {
						return err
					}
					return put(tx, table, fmt.Sprintf("%02d", i), ".")
				})
				if err != nil {
					s.Errorf("Update: %v", err)
				}
			})
		}
		group.Wait()
		s.view(func(tx latchkey.EngineTx) error {
			n, err := taken(tx)
			if n != places {
				s.Errorf("%d places are taken, want %d", n, places)
			}
			return err
		})
	}
}

// accounts is the number of tables that noHalves uses, each with one amount. sum is the total of
// all amounts, which no transfer changes.
const (
	accounts = 8
	sum      = 800
)

func account(i int) string { return fmt.Sprint("account ", i%accounts) }

func amount(tx latchkey.EngineTx, i int) (int, error) {
	v, err := get(tx, account(i), "amount")
	n, _ := strconv.Atoi(v)
	return n, err
}

// pay adds n to the amount of an account.
func pay(tx latchkey.EngineTx, i, n int) error {
	old, err := amount(tx, i)
	if err != nil {
		return err
	}
	return put(tx, account(i), "amount", strconv.Itoa(old+n))
}

func openAccounts(tx latchkey.EngineTx) error {
	for i := range accounts {
		if err := put(tx, account(i), "amount", strconv.Itoa(sum/accounts)); err != nil {
			return err
		}
	}
	return nil
}

// transfer moves n from one account to another. Both may be the same account.
func transfer(tx latchkey.EngineTx, from, to, n int) error {
	if err := pay(tx, from, -n); err != nil {
		return err
	}
	return pay(tx, to, n)
}

// transferMuch makes many transfers in transactions of their own, as one of several writers.
func (s *subject) transferMuch(writer int) {
	for round := range rounds {
		s.update(func(tx latchkey.EngineTx) error {
			return transfer(tx, writer+round, writer+round*3+1, writer)
		})
	}
}

// total returns the sum of all amounts.
func total(tx latchkey.EngineTx) (n int, err error) {
	for i := range accounts {
		a, err := amount(tx, i)
		if err != nil {
			return 0, err
		}
		n += a
	}
	return n, nil
}

// noHalves has writers move amounts between tables while readers check that the sum stays the same.
func noHalves(s *subject) {
	s.room()
	s.update(openAccounts)
	ctx, stop := context.WithCancel(s.Context())
	var writing, reading sync.WaitGroup
	for range 2 {
		reading.Go(func() {
			for ctx.Err() == nil {
				s.view(func(tx latchkey.EngineTx) error {
					n, err := total(tx)
					if err == nil && n != sum {
						s.Errorf("a View sees a sum of %d, want %d", n, sum)
						stop()
					}
					return err
				})
			}
		})
	}
	for writer := range 4 {
		writing.Go(func() { s.transferMuch(writer) })
	}
	writing.Wait()
	stop()
	reading.Wait()
}

func doneContextBeginsNothing(s *subject) {
	fn := func(latchkey.EngineTx) error {
		s.Error("fn ran")
		return nil
	}
	s.wantError("Update", s.Update(canceled(), fn), context.Canceled)
	s.wantError("View", s.View(canceled(), fn), context.Canceled)
	s.put("t", "a", "1")
	s.want("t", "a=1")
}

// waitingCanBeCanceled cancels an Update while another Update is in progress. An engine that runs
// both at once may commit the second. In any case the second Update must return before the first
// one ends, and its error must be true.
func waitingCanBeCanceled(s *subject) {
	for i := range rounds {
		key := strconv.Itoa(i)
		var first sync.WaitGroup
		under, end := make(chan struct{}), make(chan struct{})
		begin := sync.OnceFunc(func() { close(under) })
		first.Go(func() {
			s.update(func(tx latchkey.EngineTx) error {
				begin()
				<-end
				return put(tx, "first", key, ".")
			})
		})
		<-under
		ctx, cancel := context.WithCancel(s.Context())
		second := make(chan error)
		go func() {
			second <- s.Update(ctx, func(tx latchkey.EngineTx) error { return put(tx, "second", key, ".") })
		}()
		if i%2 == 0 {
			pause()
		}
		cancel()
		err := <-second
		close(end)
		first.Wait()
		s.wantTruth("second", key, err)
		s.view(func(tx latchkey.EngineTx) error {
			v, err := get(tx, "first", key)
			if v == "" {
				s.Error("the first Update has left nothing")
			}
			return err
		})
	}
}

// wantTruth checks that the error of an Update is true: the key that it put is there after nil, and
// not there after an error.
func (s *subject) wantTruth(table, key string, updated error) {
	s.Helper()
	if errors.Is(updated, latchkey.ErrCommitUnknown) {
		return // this error leaves open whether the key is there
	}
	s.view(func(tx latchkey.EngineTx) error {
		v, err := get(tx, table, key)
		if (updated == nil) != (v != "") {
			s.Errorf("Update returned %v, and its key has the value %q", updated, v)
		}
		return err
	})
}

func laterCancellation(s *subject) {
	ctx, cancel := context.WithCancel(s.Context())
	err := s.Update(ctx, func(tx latchkey.EngineTx) error {
		cancel()
		return put(tx, "t", "during", ".")
	})
	s.wantTruth("t", "during", err)

	ctx, cancel = context.WithCancel(s.Context())
	if err := s.Update(ctx, func(tx latchkey.EngineTx) error { return put(tx, "t", "after", ".") }); err != nil {
		s.Errorf("Update: %v", err)
	}
	cancel()
	s.wantTruth("t", "after", nil)
	s.reopen(nil)
	s.wantTruth("t", "during", err)
	s.wantTruth("t", "after", nil)
}

func viewRefusesToWrite(s *subject) {
	s.put("t", "a", "1")
	s.view(func(tx latchkey.EngineTx) error {
		s.wantError("Put", put(tx, "t", "a", "2"), latchkey.ErrReadOnly)
		s.wantError("Put in a new table", put(tx, "new", "a", "2"), latchkey.ErrReadOnly)
		s.wantError("Delete", remove(tx, "t", "a"), latchkey.ErrReadOnly)
		s.wantError("Delete of a key that is not there", remove(tx, "t", "b"), latchkey.ErrReadOnly)
		return nil
	})
	s.want("t", "a=1")
	s.want("new", "")
}

// endedTransaction uses a transaction after its function has returned, and continues a Scan that
// began within the transaction.
func endedTransaction(s *subject) {
	s.track()
	s.put("t", "a", "1")
	s.put("t", "b", "2")
	var tx latchkey.EngineTx
	var entries iter.Seq2[latchkey.Entry, error]
	next, stop := func() (latchkey.Entry, error, bool) { return latchkey.Entry{}, nil, false }, func() {}
	nextChange, stopChanges := func() (latchkey.TrackedChange, error, bool) { return latchkey.TrackedChange{}, nil, false }, func() {}
	keep := func(etx latchkey.EngineTx) error {
		stop() // ends the Scan of an earlier run of keep
		tx, entries = etx, etx.Scan("t", nil, nil)
		next, stop = iter.Pull2(entries)
		if e, err, _ := next(); err != nil || string(e.Key) != "a" {
			return fmt.Errorf("the first key is %q, %v", e.Key, err)
		}
		stopChanges()
		nextChange, stopChanges = iter.Pull2(tx.Changes(0))
		if c, err, _ := nextChange(); err != nil || string(c.Key) != "a" {
			return fmt.Errorf("the first change is of %q, %v", c.Key, err)
		}
		return nil
	}
	for _, end := range []struct {
		name string
		run  func() error
	}{
		{"View", func() error { return s.View(s.Context(), keep) }},
		{"Update", func() error { return s.Update(s.Context(), keep) }},
		{"Update that failed", func() error {
			err := s.Update(s.Context(), func(tx latchkey.EngineTx) error {
				if err := keep(tx); err != nil {
					return err
				}
				return errFn
			})
			if errors.Is(err, errFn) {
				return nil
			}
			return err
		}},
	} {
		if err := end.run(); err != nil {
			s.Fatalf("%s: %v", end.name, err)
		}
		_, err := tx.Get("t", []byte("a"))
		s.wantError("Get after a "+end.name, err, latchkey.ErrClosed)
		s.wantError("Put after a "+end.name, put(tx, "t", "c", "3"), latchkey.ErrClosed)
		s.wantError("Delete after a "+end.name, remove(tx, "t", "a"), latchkey.ErrClosed)
		_, err = tx.SequenceOf("t", []byte("a"))
		s.wantError("SequenceOf after a "+end.name, err, latchkey.ErrClosed)
		_, err = tx.Count("t")
		s.wantError("Count after a "+end.name, err, latchkey.ErrClosed)
		for _, err := range tx.Changes(0) {
			s.wantError("Changes after a "+end.name, err, latchkey.ErrClosed)
		}
		n := 0
		for _, err := range entries {
			s.wantError("Scan after a "+end.name, err, latchkey.ErrClosed)
			n++
		}
		if n != 1 {
			s.Errorf("Scan after a %s yielded %d elements, want the error alone", end.name, n)
		}
		_, err, ok := next()
		s.wantError("the next step of a Scan after a "+end.name, err, latchkey.ErrClosed)
		if _, _, more := next(); !ok || more {
			s.Errorf("a Scan that went on after a %s: want the error as its last element", end.name)
		}
		stop()
		_, err, _ = nextChange()
		s.wantError("the next step of Changes after a "+end.name, err, latchkey.ErrClosed)
		stopChanges()
	}
	s.want("t", "a=1 b=2")
}
