package disk_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/latchkeydb/latchkey"
)

const pageSize = 4096

// Damage to a file is met in a process of its own: what bbolt does with a page that leads nowhere can end one.
func TestADamagedFileIsAnErrorNeverACrashNorALogin(t *testing.T) {
	seed := newSeed(t)
	histories := []*written{
		newWritten(t, newRandom(seed, -1), 40, 0),
		newWritten(t, newRandom(seed, -2), 250, 0),
		newWritten(t, newRandom(seed, -3), 250, 600),
	}
	dir := memoryDir(t)
	var p *process
	defer func() { p.kill() }()
	for i := range amount(500, 10_000) {
		random := newRandom(seed, i)
		w := histories[[]int{0, 1, 1, 1, 1, 1, 1, 1, 1, 2}[random.IntN(10)]]
		t.Run(fmt.Sprint("damage=", i), func(t *testing.T) {
			replayable(t, seed)
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

// memoryDir is a directory in memory, where there is one: these tests are not about syncing.
func memoryDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "latchkey-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// written is a file, and how it came to be.
type written struct {
	file     []byte
	versions map[int][][]byte // of each page, the last as it is now
	state    State
	gone     []string
	logins   map[string]Login // with the last commit
	before   map[string]Login // with the commit before
}

// newWritten makes a store, changes it a number of times, and keeps what was written.
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
		c := Call{Do: "create keys", Path: path, User: latchkey.Server}
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

// keep keeps the pages that were written since the last time, and reports whether there are any.
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

// damaged is a file with one damage.
type damaged struct {
	*written
	what string
	file []byte
	good map[string]Login // what tokens may log in, and as whom
}

// damage damages the file in one of many ways.
func (w *written) damage(random *rand.Rand) *damaged {
	d := &damaged{written: w, file: bytes.Clone(w.file), good: maps.Clone(w.logins)}
	pages := len(w.file) / pageSize
	page := random.IntN(pages)
	if random.IntN(2) == 0 {
		page = random.IntN(min(pages, 12))
	}
	at := func(page int) []byte { return d.file[page*pageSize : (page+1)*pageSize] }
	switch random.IntN(7) {
	case 0, 1:
		// Where a page says what it is: its header, and its elements.
		i, bit := random.IntN(pageSize), random.IntN(8)
		if random.IntN(4) > 0 {
			i = random.IntN(256)
		}
		d.what = fmt.Sprintf("bit %d of byte %d of page %d of %d flipped", bit, i, page, pages)
		at(page)[i] ^= 1 << bit
	case 2:
		d.what = fmt.Sprintf("page %d of %d zeroed", page, pages)
		clear(at(page))
	case 3:
		n := random.IntN(len(d.file))
		d.what = fmt.Sprintf("cut to %d bytes of %d", n, len(d.file))
		d.file = d.file[:n]
	case 4:
		other := random.IntN(pages)
		d.what = fmt.Sprintf("pages %d and %d of %d swapped", page, other, pages)
		copy(at(page), w.versions[other][len(w.versions[other])-1])
		copy(at(other), w.versions[page][len(w.versions[page])-1])
	case 5:
		page = w.oftenWritten(random)
		old := random.IntN(len(w.versions[page]) - 1)
		d.what = fmt.Sprintf("page %d of %d as it was %d versions before", page, pages, len(w.versions[page])-1-old)
		copy(at(page), w.versions[page][old])
		if page < 2 && old == len(w.versions[page])-2 {
			// That is what a power cut before the last commit leaves: a good file of that time.
			d.allow(w.before)
		}
	case 6:
		for range 1 + random.IntN(64) {
			at(page)[random.IntN(pageSize)] = byte(random.Uint32())
		}
		d.what = fmt.Sprintf("bytes of page %d of %d overwritten", page, pages)
	}
	return d
}

// allow lets tokens log in besides.
func (d *damaged) allow(logins map[string]Login) {
	for token, login := range logins {
		if login.Failure.Text == "" {
			d.good[token] = login
		}
	}
}

// oftenWritten draws a page that has another version.
func (w *written) oftenWritten(random *rand.Rand) int {
	var pages []int
	for _, page := range slices.Sorted(maps.Keys(w.versions)) {
		if len(w.versions[page]) > 1 {
			pages = append(pages, page)
		}
	}
	return pages[random.IntN(len(pages))]
}

// examine has everything done with the damaged file, and looks at what came of it.
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

// sample returns all tokens that must not log in, and enough of the others.
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
		if err := s.Failure.err(); err != nil && !errors.Is(err, latchkey.ErrCorrupt) {
			t.Errorf("%s: %s: got %v, want ErrCorrupt", d.what, s.Name, err)
		}
	case "unsound salvaged", "unsound salvaged again":
		t.Errorf("%s: %s", d.what, s)
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
