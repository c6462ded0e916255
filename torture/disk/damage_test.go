package disk_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/torture/internal/form"
)

const pageSize = 4096

// A separate process opens each damaged file, because bbolt can end a process when a page leads
// nowhere.
func TestADamagedFileIsAnErrorAndNeverACrashOrALogin(t *testing.T) {
	seed := form.NewSeed(t)
	histories := []*written{
		newWritten(t, form.NewRandom(seed, -1), 40, 0),
		newWritten(t, form.NewRandom(seed, -2), 250, 0),
		newWritten(t, form.NewRandom(seed, -3), 250, 600),
	}
	dir := memoryDir(t)
	var p *process
	defer func() { p.kill() }()
	for i := range form.Amount(500, 10_000) {
		random := form.NewRandom(seed, i)
		w := histories[[]int{0, 1, 1, 1, 1, 1, 1, 1, 1, 2}[random.IntN(10)]]
		t.Run(fmt.Sprint("damage=", i), func(t *testing.T) {
			form.Replayable(t, seed)
			d := w.damage(random)
			if p == nil || !p.running() {
				p = startAlone(t, "")
			}
			path := filepath.Join(dir, fmt.Sprint(i, ".db"))
			d.examine(t, p, path)
			must(t, os.Remove(path))
		})
	}
}

// memoryDir returns a directory in memory, if the system has one. These tests need no syncs.
func memoryDir(t *testing.T) string {
	t.Helper()
	if runtime.GOOS != "linux" {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp("/dev/shm", "latchkey-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// written is a file, with the history of its pages and its state.
type written struct {
	file     []byte
	versions map[int][][]byte // of each page; the last one is current
	state    State
	gone     []string
	logins   map[string]Login // after the last commit
	before   map[string]Login // after the commit before it
}

// newWritten makes a store, makes a number of changes in it, and keeps all versions of its pages.
func newWritten(t *testing.T, random *rand.Rand, changes, serverKeys int) *written {
	t.Helper()
	path := filepath.Join(memoryDir(t), "keys.db")
	p := &Program{stores: make(map[string]*latchkey.Store)}
	w := &written{versions: make(map[int][][]byte), state: newState()}
	do := func(c Call) {
		var a Answer
		if err := p.do(t.Context(), c, &a); err != nil {
			t.Fatal(err)
		}
		next := w.state.apply(c, a)
		w.gone = append(w.gone, w.state.lost(next)...)
		w.state = next
		if logins := next.logins(w.gone); w.keep(t, path) {
			w.before, w.logins = w.logins, logins
		}
	}
	do(Call{Do: "open", Path: path})
	if serverKeys > 0 {
		c := Call{Do: "create keys", Path: path, User: latchkey.ServerOwner}
		for i := range serverKeys {
			c.Names = append(c.Names, fmt.Sprint("server-", i))
		}
		do(c)
	}
	for range changes {
		do(w.state.draw(random, path, subjects[random.IntN(len(subjects))]))
	}
	do(Call{Do: "close", Path: path})
	return w
}

// keep keeps the pages that were written since its last call, and reports whether there are any.
func (w *written) keep(t *testing.T, path string) (changed bool) {
	t.Helper()
	file, err := os.ReadFile(path)
	must(t, err)
	for i, page := range slices.Collect(slices.Chunk(file, pageSize)) {
		last := w.versions[i]
		if len(last) == 0 || !bytes.Equal(last[len(last)-1], page) {
			w.versions[i] = append(last, page)
			changed = true
		}
	}
	w.file = file
	return changed
}

// damaged is a damaged copy of a file.
type damaged struct {
	*written
	what string
	file []byte
	good map[string]Login // tokens that may log in, and the keys they may log in as
}

// damage returns a copy of the file that is damaged in one place or in a few.
func (w *written) damage(random *rand.Rand) *damaged {
	d := &damaged{written: w, file: bytes.Clone(w.file), good: maps.Clone(w.logins)}
	d.strike(random, random.IntN(len(strikes)))
	for len(d.file) == len(w.file) && random.IntN(4) == 0 {
		// Never put back two earlier pages. They may agree with each other, and then nobody can
		// tell that their state is not the present one.
		d.strike(random, random.IntN(len(strikes)-1))
	}
	return d
}

// strike damages the file in one of the ways in strikes.
func (d *damaged) strike(random *rand.Rand, how int) {
	page := random.IntN(d.pages())
	if random.IntN(2) == 0 {
		page = random.IntN(min(d.pages(), 12))
	}
	if what := strikes[how](d, random, page); d.what == "" {
		d.what = what
	} else {
		d.what += ", " + what
	}
}

func (d *damaged) pages() int { return len(d.file) / pageSize }

func (d *damaged) page(page int) []byte { return d.file[page*pageSize : (page+1)*pageSize] }

// strikes are the ways to damage a file at a page. The last one puts an earlier version of a page
// back.
var strikes = []func(d *damaged, random *rand.Rand, page int) string{
	func(d *damaged, random *rand.Rand, page int) string {
		// Most often the bit is in the header or the elements, which say what the page is.
		i, bit := random.IntN(pageSize), random.IntN(8)
		if random.IntN(4) > 0 {
			i = random.IntN(256)
		}
		d.page(page)[i] ^= 1 << bit
		return fmt.Sprintf("bit %d of byte %d of page %d of %d flipped", bit, i, page, d.pages())
	},
	func(d *damaged, random *rand.Rand, page int) string {
		elements := max(1, int(binary.LittleEndian.Uint16(d.page(page)[10:])))
		i, bit := random.IntN(min(elements, pageSize/16-1)), random.IntN(8*16)
		d.page(page)[16+16*i+bit/8] ^= 1 << (bit % 8)
		return fmt.Sprintf("bit %d of element %d of page %d of %d flipped", bit, i, page, d.pages())
	},
	func(d *damaged, random *rand.Rand, page int) string {
		to := random.IntN(d.pages())
		binary.LittleEndian.PutUint64(d.page(page)[16+8:], uint64(to))
		return fmt.Sprintf("the first element of page %d of %d leads to page %d", page, d.pages(), to)
	},
	func(d *damaged, random *rand.Rand, page int) string {
		clear(d.page(page))
		return fmt.Sprintf("page %d of %d zeroed", page, d.pages())
	},
	func(d *damaged, random *rand.Rand, _ int) string {
		n := random.IntN(len(d.file))
		d.file = d.file[:n]
		return fmt.Sprintf("cut to %d bytes of %d", n, len(d.written.file))
	},
	func(d *damaged, random *rand.Rand, page int) string {
		other := random.IntN(d.pages())
		mine := bytes.Clone(d.page(page))
		copy(d.page(page), d.page(other))
		copy(d.page(other), mine)
		return fmt.Sprintf("pages %d and %d of %d swapped", page, other, d.pages())
	},
	func(d *damaged, random *rand.Rand, page int) string {
		other := random.IntN(d.pages())
		copy(d.page(page)[8:], d.page(other)[8:])
		return fmt.Sprintf("page %d of %d has all that page %d has, but for its number", page, d.pages(), other)
	},
	func(d *damaged, random *rand.Rand, page int) string {
		for range 1 + random.IntN(64) {
			d.page(page)[random.IntN(pageSize)] = byte(random.Uint32())
		}
		return fmt.Sprintf("bytes of page %d of %d overwritten", page, d.pages())
	},
	func(d *damaged, random *rand.Rand, _ int) string {
		page := d.oftenWritten(random)
		versions := d.versions[page]
		old := random.IntN(len(versions) - 1)
		copy(d.page(page), versions[old])
		if page < 2 && old == len(versions)-2 {
			// A power cut before the last commit leaves the same file, which is a good file of that
			// time.
			d.allow(d.before)
		}
		return fmt.Sprintf("page %d of %d as it was %d versions before", page, d.pages(), len(versions)-1-old)
	},
}

// allow adds logins to those that may succeed.
func (d *damaged) allow(logins map[string]Login) {
	for token, login := range logins {
		if login.Failure.Text == "" {
			d.good[token] = login
		}
	}
}

// oftenWritten draws a page that has an earlier version.
func (w *written) oftenWritten(random *rand.Rand) int {
	var pages []int
	for _, page := range slices.Sorted(maps.Keys(w.versions)) {
		if len(w.versions[page]) > 1 {
			pages = append(pages, page)
		}
	}
	return pages[random.IntN(len(pages))]
}

// examine makes a process do everything with the damaged file, and judges the results.
func (d *damaged) examine(t *testing.T, p *process, path string) {
	t.Helper()
	p.where = d.what
	must(t, os.WriteFile(path, d.file, 0o600))
	t.Cleanup(func() {
		if t.Failed() {
			kept := filepath.Join(os.TempDir(), fmt.Sprintf("latchkey-%s.db", filepath.Base(t.Name())))
			if err := os.WriteFile(kept, d.file, 0o600); err == nil {
				t.Logf("%s: kept as %s", d.what, kept)
			}
		}
	})
	c := Call{Do: "examine", Path: path, State: d.state}
	c.Tokens = d.sample()
	a := p.call(t, c)
	if err := a.Failure.err(); err != nil {
		t.Errorf("%s: %v", d.what, err)
	}
	for _, s := range a.Stages {
		d.judge(t, c.Tokens, s)
	}
}

// sample returns all tokens that must not log in, and up to 50 of the others.
func (d *damaged) sample() (tokens []string) {
	good := 0
	for token, login := range d.logins {
		if login.Failure.Text == "" {
			good++
		}
		if login.Failure.Text != "" || good <= 50 {
			tokens = append(tokens, token)
		}
	}
	return tokens
}

func (d *damaged) judge(t *testing.T, tokens []string, s Stage) {
	t.Helper()
	switch s.Name {
	case "open", "read-only", "again", "salvage: salvaged", "salvage: salvaged again", "restore":
		if err := s.Failure.err(); err != nil && !errors.Is(err, latchkey.ErrCorrupt) && !errors.Is(err, latchkey.ErrNotStore) {
			t.Errorf("%s: %s: got %v, want ErrCorrupt or ErrNotStore", d.what, s.Name, err)
		}
	case "unsound salvaged", "unsound salvaged again":
		t.Errorf("%s: %s", d.what, s)
	case "memory":
		// A number in the file was used as an amount of memory.
		if s.Grown > 64<<20 {
			t.Errorf("%s: the heap has grown by %d bytes", d.what, s.Grown)
		}
	}
	for i, login := range s.Logins {
		if login.Failure.Text != "" {
			continue
		}
		if want := d.good[tokens[i]]; want.Key != login.Key || want.Failure.Text != "" {
			t.Errorf("%s: %s: got a login as key %s, want %+v", d.what, s.Name, login.Key, want)
		}
		if slices.Contains(s.Revoked, login.Key) {
			t.Errorf("%s: %s: got a login as key %s, which was revoked in the damaged file", d.what, s.Name, login.Key)
		}
	}
}
