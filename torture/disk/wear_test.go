package disk_test

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/torture/disk"
)

// Writes wear flash memory out. The figures are in the table of docs/reliability.md, which this
// test reads. No operation may write more than the table says. With -v, the test prints a new
// table.
func TestAChangeIsOneCommitOfAtMostTheBytesInTheTableAndALoginWritesNothing(t *testing.T) {
	t.Parallel()
	table := readWear(t)
	for i, size := range []struct {
		name  string
		users int
	}{{"100 keys", 5}, {"10,000 keys", 500}} {
		t.Run(size.name, func(t *testing.T) {
			w := newWorn(t, size.users)
			check := func(name string, bytes []int64) {
				t.Helper()
				usual, most := slices.Sorted(slices.Values(bytes))[len(bytes)/2], slices.Max(bytes)
				t.Logf("| %s | %d | %d |", name, usual, most)
				if said, ok := table[name]; !ok {
					t.Errorf("%s: the table does not have it", name)
				} else if most > said[2*i+1] {
					t.Errorf("%s: %d bytes, and the table says at most %d", name, most, said[2*i+1])
				}
			}
			for _, op := range operations {
				check(op.name, w.measure(op))
			}
			check("create a user, and remember the time", w.measureTime())
			check("close a store, 1 key used", w.measureLastUses(1))
			check("close a store, 20 keys of a user used", w.measureLastUses(20))
			check("any change, with the new hash of a key", w.measureRehash())
		})
	}
}

// operation is an operation that is measured a number of times.
type operation struct {
	name  string
	times int
	kind  kind
	call  func(w *worn, i int) Call
}

// kind says how many commits and syncs an operation takes.
type kind struct {
	commits uint64
	syncs   int // at most
}

var (
	reading  = kind{}
	changing = kind{commits: 1, syncs: 2}
	opening  = kind{syncs: 2} // one of the file and one of its directory
)

var operations = []operation{
	{"create a user", 20, changing, func(_ *worn, i int) Call { return Call{Do: "create user", Subject: subject(i)} }},
	{"create a key", 20, changing, func(_ *worn, i int) Call {
		return Call{Do: "create keys", Subject: subject(i), Names: []string{"laptop"}}
	}},
	{"create 100 keys in one call", 3, changing, func(_ *worn, i int) Call {
		return Call{Do: "create keys", Names: numbered(i, 100)}
	}},
	{"log in, key not cached", 20, reading, func(w *worn, i int) Call { return w.logIn(w.key(i, "laptop").Token) }},
	{"log in, key cached", 20, reading, func(w *worn, i int) Call { return w.logIn(w.key(i, "laptop").Token) }},
	{"rename a key", 20, changing, func(_ *worn, i int) Call {
		return Call{Do: "rename key", Subject: subject(i), Name: "laptop", Names: []string{"phone"}}
	}},
	{"disable a key", 20, changing, func(_ *worn, i int) Call {
		return Call{Do: "disable key", Subject: subject(i), Name: "phone"}
	}},
	{"log in, refused", 20, reading, func(w *worn, i int) Call { return w.logIn(w.key(i, "phone").Token) }},
	{"enable a key", 20, changing, func(_ *worn, i int) Call {
		return Call{Do: "enable key", Subject: subject(i), Name: "phone"}
	}},
	{"set the expiry date of a key", 20, changing, ofKey("set expiry")},
	{"set the scopes of a key", 20, changing, ofKey("set scopes")},
	{"set the metadata of a key", 20, changing, ofKey("set metadata")},
	{"rotate a key", 20, changing, ofKey("rotate key")},
	{"rotate a key, with an overlap", 20, changing, func(w *worn, i int) Call {
		c := ofKey("rotate key")(w, i)
		c.Rotation = latchkey.Rotation{Overlap: time.Hour, UntilUsed: true}
		return c
	}},
	{"log in, which ends the old token", 20, changing, func(w *worn, i int) Call { return w.logIn(w.key(i, "phone").Token) }},
	{"set the networks of a key", 20, changing, ofKey("set networks")},
	{"set the group of a server key", 20, changing, func(_ *worn, i int) Call {
		return Call{Do: "set key group", Name: fmt.Sprintf("%d of 0", i), Names: []string{subject(i)}}
	}},
	{"set the metadata of a user", 20, changing, func(_ *worn, i int) Call { return Call{Do: "set user metadata", Subject: subject(i)} }},
	{"set the group of a user", 20, changing, func(_ *worn, i int) Call {
		return Call{Do: "set user group", Subject: subject(i), Names: []string{subject(i)}}
	}},
	{"disable a group", 20, changing, func(_ *worn, i int) Call { return Call{Do: "disable group", Names: []string{subject(i)}} }},
	{"enable a group", 20, changing, func(_ *worn, i int) Call { return Call{Do: "enable group", Names: []string{subject(i)}} }},
	{"disable a user", 20, changing, func(_ *worn, i int) Call { return Call{Do: "disable user", Subject: subject(i)} }},
	{"enable a user", 20, changing, func(_ *worn, i int) Call { return Call{Do: "enable user", Subject: subject(i)} }},
	{"delete a key", 20, changing, func(_ *worn, i int) Call {
		return Call{Do: "delete key", Subject: subject(i), Name: "phone"}
	}},
	{"log in, key deleted", 20, reading, func(w *worn, i int) Call { return w.logIn(w.gone[i]) }},
	{"log in, token invented", 20, reading, func(w *worn, i int) Call {
		return w.logIn(strings.Repeat("0", len(w.gone[i])))
	}},
	{"delete an old key", 20, changing, func(_ *worn, i int) Call {
		return Call{Do: "delete key", Subject: "old-1", Name: fmt.Sprintf("%d of 1", i)}
	}},
	{"delete an old key that was used", 20, changing, func(_ *worn, i int) Call {
		return Call{Do: "delete key", Subject: "old-3", Name: fmt.Sprintf("%d of 3", i)}
	}},
	{"delete a user with 20 keys", 1, changing, func(_ *worn, _ int) Call { return Call{Do: "delete user", Subject: "old-0"} }},
	{"delete a user with 20 keys that were used", 1, changing, func(_ *worn, _ int) Call { return Call{Do: "delete user", Subject: "old-2"} }},
	{"open a store", 3, opening, func(w *worn, _ int) Call {
		w.want(w.ask(Call{Do: "close"}))
		return Call{Do: "open"}
	}},
}

func subject(i int) string { return fmt.Sprint("new-", i) }

// ofKey makes calls on the key of a new user.
func ofKey(do string) func(w *worn, i int) Call {
	return func(_ *worn, i int) Call { return Call{Do: do, Subject: subject(i), Name: "phone"} }
}

func numbered(i, n int) (names []string) {
	for j := range n {
		names = append(names, fmt.Sprintf("%d of %d", j, i))
	}
	return names
}

// worn is a store on a disk that counts writes.
type worn struct {
	*victim
	ahead time.Duration // of the store's clock
}

// newWorn makes a store with users of 20 keys each. Only the keys of the first two users have not
// been used.
func newWorn(t *testing.T, users int) *worn {
	t.Helper()
	d := disk.New()
	dir, _ := mount(t, d)
	w := &worn{victim: &victim{t: t, disk: d, dir: dir, state: newState(), program: start(t, "wear")}}
	w.want(w.ask(Call{Do: "open"}))
	for i := range users {
		c := Call{Do: "create user with keys", Subject: fmt.Sprint("old-", i), Names: numbered(i, 20)}
		if i < 5 {
			a, err := w.ask(c)
			w.want(a, err)
			if i >= 2 {
				w.want(w.ask(Call{Do: "log in", Tokens: a.Tokens}))
			}
			continue
		}
		c.Path = filepath.Join(dir, "keys.db") // the tests use only the first users
		a := w.program.call(t, c)
		must(t, a.Failure.err())
		w.want(w.ask(Call{Do: "log in", Tokens: a.Tokens}))
	}
	w.want(w.ask(Call{Do: "close"}))
	w.want(w.ask(Call{Do: "open"}))
	return w
}

func (w *worn) key(i int, name string) Key { return w.state[subject(i)].Keys[name] }
func (w *worn) logIn(token string) Call    { return Call{Do: "log in", Tokens: []string{token}} }

// measure makes an operation a number of times, and returns the bytes that each time wrote. The
// growth of the file, which happens once in 128 KiB and takes a sync, does not count.
func (w *worn) measure(op operation) (bytes []int64) {
	w.t.Helper()
	for i := range op.times {
		cost, commits := w.cost(op.call(w, i))
		if syncs := cost.Of[disk.Sync]; commits != op.kind.commits || syncs > op.kind.syncs {
			w.t.Errorf("%s: %d commits and %d syncs, want %d and at most %d", op.name, commits, syncs, op.kind.commits, op.kind.syncs)
		}
		bytes = append(bytes, cost.Bytes)
	}
	return bytes
}

// measureTime makes changes after which the file remembers a later time.
func (w *worn) measureTime() (bytes []int64) {
	w.t.Helper()
	for i := range 5 {
		w.reopen()
		cost, _ := w.cost(Call{Do: "create user", Subject: fmt.Sprint("late-", i)})
		bytes = append(bytes, cost.Bytes)
	}
	return bytes
}

// measureLastUses logs in with some keys of a user, and closes the store, which writes the last
// uses, and the time.
func (w *worn) measureLastUses(keys int) (bytes []int64) {
	w.t.Helper()
	for range 5 {
		w.reopen()
		for _, key := range numbered(4, 20)[:keys] {
			w.want(w.ask(w.logIn(w.state["old-4"].Keys[key].Token)))
		}
		before := w.disk.Counts()
		w.want(w.ask(Call{Do: "close"}))
		bytes = append(bytes, w.disk.Counts().Since(before).Bytes)
		w.want(w.ask(Call{Do: "open"}))
	}
	return bytes
}

// reopen opens the store again two minutes later.
func (w *worn) reopen() {
	w.t.Helper()
	w.ahead += 2 * time.Minute
	w.want(w.ask(Call{Do: "close"}))
	w.want(w.ask(Call{Do: "open", Ahead: w.ahead}))
}

// measureRehash opens the store at another cost, logs in with a key, and makes changes until one of
// them writes the key's new hash too. The hash needs a free processor in the meantime.
// measureRehash returns the bytes that this last change wrote.
func (w *worn) measureRehash() (bytes []int64) {
	w.t.Helper()
	dearer := lightest
	dearer.Passes++
	w.want(w.ask(Call{Do: "close"}))
	w.want(w.ask(Call{Do: "open", Cost: dearer}))
	w.want(w.ask(w.logIn(w.state["old-4"].Keys["0 of 4"].Token)))
	for i := 100; w.stats().Rehashed == 0; i++ {
		if i == manyCalls {
			w.t.Fatalf("none of %d changes has taken a new hash along", i-100)
		}
		cost, _ := w.cost(Call{Do: "create user", Subject: subject(i)})
		bytes = []int64{cost.Bytes}
	}
	return bytes
}

// cost makes a call, and returns its cost.
func (w *worn) cost(c Call) (cost disk.Counts, commits uint64) {
	w.t.Helper()
	earlier, before := uint64(0), w.disk.Counts()
	if w.opened {
		earlier = w.stats().Commits
	}
	w.want(w.ask(c))
	cost = w.disk.Counts().Since(before)
	cost.Of[disk.Sync] -= cost.Of[disk.Truncate]
	return cost, w.stats().Commits - earlier
}

func (w *worn) stats() latchkey.Stats {
	w.t.Helper()
	a, err := w.ask(Call{Do: "stats"})
	w.want(a, err)
	return a.Stats
}

// readWear reads the table. For each operation, the table has the bytes that it usually writes and
// the most that it writes, in a store of 100 keys and in a store of 10,000 keys.
func readWear(t *testing.T) map[string][4]int64 {
	t.Helper()
	f, err := os.Open(filepath.Join("..", "..", "docs", "reliability.md"))
	must(t, err)
	defer f.Close()
	table := make(map[string][4]int64)
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		cells := strings.Split(strings.Trim(lines.Text(), "| "), " | ")
		if len(cells) != 5 {
			continue
		}
		var row [4]int64
		for i, cell := range cells[1:] {
			if row[i], err = strconv.ParseInt(strings.ReplaceAll(cell, ",", ""), 10, 64); err != nil {
				break
			}
		}
		if err == nil {
			table[cells[0]] = row
		}
	}
	must(t, lines.Err())
	return table
}
