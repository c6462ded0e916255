package enginetest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"

	"github.com/latchkeydb/latchkey"
)

// Laws about how an engine numbers its commits, and about the tables that it keeps track of.
var numberingLaws = []law{
	{"each commit has a greater sequence", sequenceGoesUp},
	{"each commit has a random number of its own", randomNumbersDiffer},
	{"Changes yields each entry once, by its last change, in order", changesInOrder},
	{"all changes of a commit have its sequence", changesShareTheirCommit},
	{"changes and counts agree with a model", numberingAgreesWithModel},
	{"an Update that fails leaves nothing in the numbering", failureLeavesNoNumber},
	{"a View sees the numbering of one state", viewSeesOneNumbering},
	{"an Update sees its own changes", updateSeesItsChanges},
	{"tracked tables take the largest keys and values", trackedSizes},
	{"whoever follows the changes misses none", followerMissesNothing},
	{"Wait ends with a commit", waitEndsWithCommit},
	{"Wait ends with its context, and with Close", waitEnds},
	{"a transaction that is too large changes nothing", tooLarge},
}

// track begins a law with two tracked tables.
func (s *subject) track() { s.Track("t", "u") }

// commit returns the sequence and the random number of the last commit.
func (s *subject) commit() (sequence uint64, random [8]byte) {
	s.Helper()
	sequence, random, err := s.Commit(s.Context())
	if err != nil {
		s.Errorf("Commit: %v", err)
	}
	return sequence, random
}

// changes returns what Changes yields, in the form "t/a u/b", and the sequences.
func changes(tx latchkey.EngineTx, since uint64) (changed string, sequences []uint64, err error) {
	var entries []string
	for c, err := range tx.Changes(since) {
		if err != nil {
			return "", nil, err
		}
		entries, sequences = append(entries, fmt.Sprintf("%s/%s", c.Table, c.Key)), append(sequences, c.Sequence)
	}
	return strings.Join(entries, " "), sequences, nil
}

// wantChanges checks which entries have changed after a sequence.
func (s *subject) wantChanges(since uint64, want string) {
	s.Helper()
	s.view(func(tx latchkey.EngineTx) error {
		got, _, err := changes(tx, since)
		if err == nil && got != want {
			s.Errorf("changed after %d: got %q, want %q", since, got, want)
		}
		return err
	})
}

// wantCount checks how many entries a table has.
func (s *subject) wantCount(tx latchkey.EngineTx, table string, want uint64) error {
	s.Helper()
	got, err := tx.Count(table)
	if err == nil && got != want {
		s.Errorf("Count(%q): got %d, want %d", table, got, want)
	}
	return err
}

func sequenceGoesUp(s *subject) {
	s.track()
	last, _ := s.commit()
	for n := range 20 {
		s.update(func(tx latchkey.EngineTx) error {
			if tx.Sequence() != last {
				s.Errorf("an Update after commit %d sees commit %d", last, tx.Sequence())
			}
			return put(tx, []string{"t", "not tracked"}[n%2], "a", fmt.Sprint(n))
		})
		now, _ := s.commit()
		if now <= last {
			s.Errorf("the sequence of a commit is %d, and that of the commit before is %d", now, last)
		}
		last = now
		if n%5 == 0 {
			s.reopen(nil)
			s.track()
		}
		for _, same := range []struct {
			after string
			do    func()
		}{
			{"a View", func() { s.want("u", "") }},
			{"an Update that writes nothing", func() { s.update(func(latchkey.EngineTx) error { return nil }) }},
			{"an Update that fails", func() {
				s.wantError("Update", s.Update(s.Context(), func(tx latchkey.EngineTx) error {
					return errors.Join(put(tx, "t", "a", "failed"), errFn)
				}), errFn)
			}},
		} {
			same.do()
			if now, _ := s.commit(); now != last {
				s.Errorf("after %s the last commit is %d, want %d", same.after, now, last)
			}
		}
		s.view(func(tx latchkey.EngineTx) error {
			if tx.Sequence() != last {
				s.Errorf("a View after commit %d sees commit %d", last, tx.Sequence())
			}
			return nil
		})
	}
}

func randomNumbersDiffer(s *subject) {
	seen := make(map[[8]byte]int)
	for n := range 30 {
		s.put("t", "a", "the same")
		_, random := s.commit()
		if before, ok := seen[random]; ok {
			s.Errorf("commits %d and %d have the random number %x", before, n, random)
		}
		seen[random] = n
		if n%10 == 0 {
			s.reopen(nil)
		}
		s.want("t", "a=the same")
		if _, again := s.commit(); again != random {
			s.Errorf("the random number of one commit was %x, and is %x", random, again)
		}
	}
}

func changesInOrder(s *subject) {
	s.track()
	var since []uint64
	for _, edit := range [][]string{
		{"t", "b=1"}, {"u", "a=1"}, {"t", "a=1"}, {"not tracked", "a=1"}, {"t", "b=2"}, {"u", "c=1"}, {"t", "d=1"}, {"t", "-a"}, {"t", "b=2"},
	} {
		s.write(edit[0], edit[1])
		last, _ := s.commit()
		since = append(since, last)
	}
	for range 2 {
		s.wantChanges(0, "u/a u/c t/d t/b")
		s.wantChanges(since[0], "u/a u/c t/d t/b")
		s.wantChanges(since[1], "u/c t/d t/b")
		s.wantChanges(since[4], "u/c t/d t/b")
		s.wantChanges(since[5], "t/d t/b")
		s.wantChanges(since[7], "t/b")
		s.wantChanges(since[8], "")
		s.wantChanges(math.MaxUint64, "")
		s.view(func(tx latchkey.EngineTx) error {
			for _, tt := range []struct {
				table, key string
				want       uint64
			}{
				{"u", "a", since[1]}, {"u", "c", since[5]}, {"t", "d", since[6]}, {"t", "b", since[8]},
				{"t", "a", 0}, {"t", "never there", 0}, {"u", "b", 0},
			} {
				got, err := tx.SequenceOf(tt.table, []byte(tt.key))
				if err != nil {
					return err
				}
				if got != tt.want {
					s.Errorf("SequenceOf(%q, %q): got %d, want %d", tt.table, tt.key, got, tt.want)
				}
			}
			for range tx.Changes(0) {
				break
			}
			return nil
		})
		s.want("t", "b=2 d=1")
		s.reopen(nil)
		s.track()
	}
	s.write("t", "-b", "a=back")
	s.wantChanges(since[6], "t/a")
}

func changesShareTheirCommit(s *subject) {
	s.track()
	s.put("t", "b", "1")
	s.update(func(tx latchkey.EngineTx) error {
		return errors.Join(write(tx, "u", "b=1", "a=1"), write(tx, "t", "c=1", "a=1", "c=2", "b=2"))
	})
	last, _ := s.commit()
	s.view(func(tx latchkey.EngineTx) error {
		got, sequences, err := changes(tx, 0)
		if want := "t/a t/b t/c u/a u/b"; err == nil && got != want {
			s.Errorf("changed: got %q, want %q", got, want)
		}
		for _, n := range sequences {
			if n != last {
				s.Errorf("an entry changed at %d, want %d", n, last)
			}
		}
		return err
	})
}

// numberingAgreesWithModel makes random changes, some of which fail, and compares what the engine
// keeps track of with a model.
func numberingAgreesWithModel(s *subject) {
	s.track()
	seed := rand.Uint64()
	s.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	model := make(map[[2]string]uint64) // the sequence of each entry
	for n := range 150 {
		type edit struct {
			table, key string
			put        bool
		}
		var edits []edit
		for range 1 + random.IntN(6) {
			edits = append(edits, edit{[]string{"t", "u", "not tracked"}[random.IntN(3)], fmt.Sprint(random.IntN(12)), random.IntN(3) > 0})
		}
		fails := random.IntN(4) == 0
		err := s.Update(s.Context(), func(tx latchkey.EngineTx) error {
			for _, e := range edits {
				var err error
				if e.put {
					err = put(tx, e.table, e.key, fmt.Sprint(n))
				} else {
					err = remove(tx, e.table, e.key)
				}
				if err != nil {
					return err
				}
			}
			if fails {
				return errFn
			}
			return nil
		})
		if fails {
			s.wantError("Update", err, errFn)
		} else if err != nil {
			s.Fatal(err)
		} else {
			last, _ := s.commit()
			for _, e := range edits {
				delete(model, [2]string{e.table, e.key})
				if e.put {
					model[[2]string{e.table, e.key}] = last
				}
			}
		}
		if n%50 == 49 {
			s.reopen(nil)
			s.track()
		}
		s.wantNumbering(model)
	}
}

// wantNumbering compares what the engine keeps track of with a model, which has the sequence of
// each entry by its table and key.
func (s *subject) wantNumbering(model map[[2]string]uint64) {
	s.Helper()
	counts := map[string]uint64{"t": 0, "u": 0, "not tracked": 0, "never written": 0}
	var want []latchkey.TrackedChange
	for e, sequence := range model {
		counts[e[0]]++
		if e[0] != "not tracked" {
			want = append(want, latchkey.TrackedChange{Sequence: sequence, Table: e[0], Key: []byte(e[1])})
		}
	}
	slices.SortFunc(want, func(a, b latchkey.TrackedChange) int {
		return cmp.Or(cmp.Compare(a.Sequence, b.Sequence), cmp.Compare(a.Table, b.Table), bytes.Compare(a.Key, b.Key))
	})
	s.view(func(tx latchkey.EngineTx) error {
		for table, n := range counts {
			if err := s.wantCount(tx, table, n); err != nil {
				return err
			}
		}
		i := 0
		for c, err := range tx.Changes(0) {
			if err != nil {
				return err
			}
			if i >= len(want) || c.Sequence != want[i].Sequence || c.Table != want[i].Table || !bytes.Equal(c.Key, want[i].Key) {
				return fmt.Errorf("change %d of %d is of %s/%s at %d, want %v", i, len(want), c.Table, c.Key, c.Sequence, want[min(i, len(want)):])
			}
			if n, err := tx.SequenceOf(c.Table, c.Key); err != nil || n != c.Sequence {
				return fmt.Errorf("SequenceOf(%s/%s): got %d, %v, want %d", c.Table, c.Key, n, err, c.Sequence)
			}
			i++
		}
		if i < len(want) {
			s.Errorf("Changes has ended before %v", want[i:])
		}
		return nil
	})
}

func failureLeavesNoNumber(s *subject) {
	s.track()
	s.write("t", "a=1", "b=1", "c=1")
	s.write("t", "b=2")
	sequence, random := s.commit()
	for _, failure := range failures {
		failure.run(s, func(tx latchkey.EngineTx) error {
			return errors.Join(write(tx, "t", "a=2", "-b", "d=1", "-d", "-c", "c=2"), write(tx, "u", "a=1"))
		})
		if n, r := s.commit(); n != sequence || r != random {
			s.Errorf("after %s in fn, the last commit is %d (%x), want %d (%x)", failure.name, n, r, sequence, random)
		}
		s.wantChanges(0, "t/a t/c t/b")
		s.wantChanges(sequence, "")
		// The next commit must not include the failed writes.
		s.put("not tracked", "a", failure.name)
		s.wantChanges(0, "t/a t/c t/b")
		s.view(func(tx latchkey.EngineTx) error {
			return errors.Join(s.wantCount(tx, "t", 3), s.wantCount(tx, "u", 0), s.wantCount(tx, "not tracked", 1))
		})
		sequence, random = s.commit()
	}
	s.want("t", "a=1 b=2 c=1")
}

func viewSeesOneNumbering(s *subject) {
	s.track()
	s.room()
	s.write("t", "a=1", "b=1")
	before, _ := s.commit()
	s.view(func(tx latchkey.EngineTx) error {
		var writer sync.WaitGroup
		writer.Go(func() {
			s.write("t", "-a", "b=2", "c=2")
			s.write("u", "a=2")
		})
		writer.Wait()
		if tx.Sequence() != before {
			s.Errorf("the View sees commit %d, want %d", tx.Sequence(), before)
		}
		got, _, err := changes(tx, 0)
		if err == nil && got != "t/a t/b" {
			s.Errorf("the View sees the changes %q, want those from when it began", got)
		}
		n, sequenceErr := tx.SequenceOf("t", []byte("b"))
		if n != before {
			s.Errorf("the View sees a change of b at %d, want %d", n, before)
		}
		return errors.Join(err, sequenceErr, s.wantCount(tx, "t", 2), s.wantCount(tx, "u", 0))
	})
}

func updateSeesItsChanges(s *subject) {
	s.track()
	s.write("t", "a=1", "b=1", "c=1")
	before, _ := s.commit()
	s.update(func(tx latchkey.EngineTx) error {
		if err := write(tx, "t", "b=2", "d=2", "-c", "e=2", "-e", "f=2"); err != nil {
			return err
		}
		if tx.Sequence() != before {
			s.Errorf("the sequence is %d after a write, want %d", tx.Sequence(), before)
		}
		changed, sequences, err := changes(tx, before)
		if err == nil && changed != "t/b t/d t/f" {
			s.Errorf("changed after the last commit: got %q, want the transaction's own changes", changed)
		}
		for _, key := range []string{"b", "d", "f"} {
			if n, err := tx.SequenceOf("t", []byte(key)); err != nil || !slices.Contains(sequences, n) {
				s.Errorf("SequenceOf(%q): got %d, %v, want one of %d", key, n, err, sequences)
			}
		}
		all, _, allErr := changes(tx, 0)
		if allErr == nil && all != "t/a t/b t/d t/f" {
			s.Errorf("changed: got %q", all)
		}
		return errors.Join(err, allErr, s.wantCount(tx, "t", 4))
	})
}

func trackedSizes(s *subject) {
	name := strings.Repeat("n", latchkey.MaxTrackedName)
	s.Track(name)
	key, value := bytes.Repeat([]byte{0xff}, latchkey.MaxEngineKey), bytes.Repeat([]byte("v"), latchkey.MaxEngineValue)
	s.update(func(tx latchkey.EngineTx) error {
		return errors.Join(tx.Put(name, key, value), tx.Put(name, []byte{0}, nil))
	})
	s.reopen(nil)
	s.Track(name)
	s.view(func(tx latchkey.EngineTx) error {
		got, err := tx.Get(name, key)
		if err != nil || !bytes.Equal(got, value) {
			s.Errorf("Get: got %d bytes, %v, want %d", len(got), err, len(value))
		}
		if none, err := tx.Get(name, []byte{0}); err != nil || none == nil || len(none) > 0 {
			s.Errorf("Get of an empty value: got %v, %v", none, err)
		}
		changed, _, err := changes(tx, 0)
		if want := name + "/\x00 " + name + "/" + string(key); changed != want {
			s.Errorf("changed: got %d bytes, want %d", len(changed), len(want))
		}
		return err
	})
}

// followerMissesNothing has many write at the same time, while one follows the changes from
// sequence to sequence. It must see the last value of each entry.
func followerMissesNothing(s *subject) {
	s.track()
	s.room()
	seen := make(map[string]string)
	last := uint64(0)
	look := func() {
		s.view(func(tx latchkey.EngineTx) error {
			for c, err := range tx.Changes(last) {
				if err != nil {
					return err
				}
				v, err := get(tx, c.Table, string(c.Key))
				if err != nil {
					return err
				}
				seen[string(c.Key)] = v
			}
			last = tx.Sequence()
			return nil
		})
	}
	var writing, ending sync.WaitGroup
	for i := range writers {
		writing.Go(func() {
			for n := range rounds {
				s.put("t", fmt.Sprintf("%02d %d", i, n%5), fmt.Sprint(n))
				s.put("t", "all", fmt.Sprintf("%02d %d", i, n))
			}
		})
	}
	ending.Go(func() {
		writing.Wait()
		s.put("t", "end", ".")
	})
	for seen["end"] == "" && !s.Failed() {
		if err := s.Wait(s.Context(), last); err != nil {
			s.Fatalf("Wait: %v", err)
		}
		look()
	}
	ending.Wait()
	s.view(func(tx latchkey.EngineTx) error {
		for e, err := range tx.Scan("t", nil, nil) {
			if err != nil {
				return err
			}
			if seen[string(e.Key)] != string(e.Value) {
				s.Errorf("the last value of %q that was seen is %q, want %q", e.Key, seen[string(e.Key)], e.Value)
			}
		}
		return nil
	})
}

func waitEndsWithCommit(s *subject) {
	for n := range 20 {
		last, _ := s.commit()
		if last > 0 {
			if err := s.Wait(s.Context(), last-1); err != nil {
				s.Errorf("Wait for a commit that is there: %v", err)
			}
		}
		waits := make(chan error)
		for range 3 {
			go func() {
				err := s.Wait(s.Context(), last)
				if now, _ := s.commit(); err == nil && now <= last {
					err = fmt.Errorf("it ended after commit %d, and waited for one after %d", now, last)
				}
				waits <- err
			}()
		}
		if n%2 == 0 {
			pause()
		}
		s.put("t", "a", fmt.Sprint(n))
		for range 3 {
			if err := <-waits; err != nil {
				s.Errorf("Wait: %v", err)
			}
		}
	}
}

func waitEnds(s *subject) {
	last, _ := s.commit()
	s.wantError("Wait with a context that is done", s.Wait(canceled(), last), context.Canceled)
	_, _, err := s.Commit(canceled())
	s.wantError("Commit with a context that is done", err, context.Canceled)
	for _, end := range []struct {
		name string
		do   func(cancel func())
		want error
	}{
		{"its context has ended", func(cancel func()) { cancel() }, context.Canceled},
		{"Close", func(func()) { s.reopen(nil) }, latchkey.ErrClosed},
	} {
		ctx, cancel := context.WithCancel(s.Context())
		result := make(chan error)
		before := s.Engine
		go func() { result <- before.Wait(ctx, last) }()
		pause()
		end.do(cancel)
		s.wantError("Wait after "+end.name, <-result, end.want)
		cancel()
	}
	closed := s.Engine
	s.reopen(nil)
	s.wantError("Wait of a closed engine", closed.Wait(s.Context(), 0), latchkey.ErrClosed)
	_, _, err = closed.Commit(s.Context())
	s.wantError("Commit of a closed engine", err, latchkey.ErrClosed)
}

// maxWrites returns how many writes every transaction can make.
func (s *subject) maxWrites() int {
	if b, ok := s.Engine.(latchkey.EngineBounder); ok {
		return b.MaxWrites()
	}
	return math.MaxInt
}

// inSteps calls do with the numbers below n, in as few Updates as the engine allows. do writes
// once.
func (s *subject) inSteps(n int, do func(tx latchkey.EngineTx, i int) error) {
	s.Helper()
	for first, most := 0, s.maxWrites(); first < n; {
		end := first + min(n-first, most)
		s.update(func(tx latchkey.EngineTx) error {
			for i := first; i < end; i++ {
				if err := do(tx, i); err != nil {
					return err
				}
			}
			return nil
		})
		first = end
	}
}

func tooLarge(s *subject) {
	most := ability[latchkey.EngineBounder](s).MaxWrites()
	if most < 100 {
		s.Errorf("MaxWrites is %d, want 100 at least", most)
	}
	s.track()
	fill := func(tx latchkey.EngineTx, n int) (err error) {
		for i := range n {
			err = errors.Join(err, put(tx, []string{"t", "not tracked"}[i%2], fmt.Sprint(i), "."))
		}
		return err
	}
	s.update(func(tx latchkey.EngineTx) error { return fill(tx, most) })
	s.update(func(tx latchkey.EngineTx) error {
		for i := range most {
			if err := remove(tx, []string{"t", "not tracked"}[i%2], fmt.Sprint(i)); err != nil {
				return err
			}
		}
		return nil
	})
	sequence, random := s.commit()
	for _, ignored := range []bool{false, true} {
		for n := 2 * most; ; n *= 2 {
			err := s.Update(s.Context(), func(tx latchkey.EngineTx) error {
				if err := fill(tx, n); !ignored {
					return err
				}
				return nil
			})
			if err == nil && n < 1<<20 { // it may take more than it has promised
				s.inSteps(n, func(tx latchkey.EngineTx, i int) error {
					return remove(tx, []string{"t", "not tracked"}[i%2], fmt.Sprint(i))
				})
				sequence, random = s.commit()
				continue
			}
			s.wantError(fmt.Sprintf("Update with %d writes", n), err, latchkey.ErrTransactionTooLarge)
			break
		}
		s.want("t", "")
		s.want("not tracked", "")
		s.wantChanges(0, "")
		if n, r := s.commit(); n != sequence || r != random {
			s.Errorf("after a transaction that is too large, the last commit is %d, want %d", n, sequence)
		}
	}
}
