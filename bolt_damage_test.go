package latchkey_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/boltengine"
)

// These constants say where things are in a page of a bbolt file. The tests do not use package
// boltpage, on purpose: a mistake about the format in that package would be in the tests too.
const (
	pageFlags      = 8
	pageElements   = 10
	pageMore       = 12
	firstElement   = 16
	elementSize    = 16
	branchFlag     = 0x01
	firstPageBelow = 16 + 8
)

// bbolt would follow a page that leads back until the program has no stack left. Go does not let a
// program survive that.
func TestAPageThatLeadsBackIsRefusedWhenTheFileIsOpened(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	s := openFile(t, path, &latchkey.Options{Cost: lightest})
	fillStore(t, s, 40)
	closeStore(t, s)
	file, err := os.ReadFile(path)
	must(t, err)

	branches := 0
	for page := 2; page < len(file)/pageSize; page++ {
		at := page * pageSize
		if binary.LittleEndian.Uint16(file[at+pageFlags:]) != branchFlag {
			continue
		}
		branches++
		for _, to := range []uint64{uint64(page), 0, 2, 1 << 40, binary.LittleEndian.Uint64(file[at+firstPageBelow+16:])} {
			damaged := bytes.Clone(file)
			binary.LittleEndian.PutUint64(damaged[at+firstPageBelow:], to)
			broken := filepath.Join(t.TempDir(), "broken.db")
			must(t, os.WriteFile(broken, damaged, 0o600))
			s, err := latchkey.Open(broken, nil)
			if err == nil { // a page of an earlier commit, which nothing leads to
				checkAtEnd(t, s)
				continue
			}
			wantError(t, err, latchkey.ErrCorrupt)
		}
	}
	if branches == 0 {
		t.Fatal("the file has no branch page")
	}
}

// contents are the values that an engine has, by table and key.
type contents map[string]map[string]string

// mixedBolt makes a file that has a table of each kind. One table lies inline in another page, one
// has a page, one has a page that takes several pages, one has branches that lead to branches, one
// is tracked, and one has the given number of entries. No page of the file is of an earlier commit.
func mixedBolt(t testing.TB, path string, entries int) (file []byte, has contents) {
	t.Helper()
	has = contents{}
	e := boltFile(t, path, nil)
	e.Track("tracked")
	for _, table := range []struct {
		name                string
		entries, key, value int
	}{
		{"inline", 3, 1, 10}, {"page", 15, 1, 100}, {"pages", 4, 1, 9000}, {"levels", 60, 400, 300}, {"tracked", 100, 10, 50}, {"wide", entries, 10, 50},
	} {
		values := map[string]string{}
		must(t, e.Update(t.Context(), func(tx latchkey.EngineTx) error {
			for i := range table.entries {
				k := fmt.Sprintf("%06d%s", i, strings.Repeat("k", table.key))
				values[k] = k + strings.Repeat("v", table.value+i%10)
				if err := tx.Put(table.name, []byte(k), []byte(values[k])); err != nil {
					return err
				}
			}
			return nil
		}))
		has[table.name] = values
	}
	compact(t, e)
	must(t, e.Close())
	return readFile(t, path), has
}

// memoryDir returns a directory in memory, or any other directory if the system has none in memory.
// It is for tests that are not about syncing.
func memoryDir(t testing.TB) string {
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

// checkOnOpen sets the largest number of pages of a file of which Open checks all pages, and of a
// file of which Open leaves out most leaves. undo sets the former numbers again.
func checkOnOpen(all, most uint64) (undo func()) {
	a, m := boltengine.MaxExactCheck, boltengine.MaxOpenCheck
	boltengine.MaxExactCheck, boltengine.MaxOpenCheck = all, most
	return func() { boltengine.MaxExactCheck, boltengine.MaxOpenCheck = a, m }
}

// forEachSize runs a test three times, as if the file were so small that Open checks all of it, so
// large that Open leaves out most leaves, and so large that Open checks no pages.
func forEachSize(t *testing.T, test func(t *testing.T, size int)) {
	for size, s := range []struct {
		name      string
		all, most uint64
	}{
		{"small", 1 << 20, 1 << 20}, {"large", 0, 1 << 20}, {"huge", 0, 0},
	} {
		t.Run(s.name, func(t *testing.T) {
			defer checkOnOpen(s.all, s.most)()
			test(t, size)
		})
	}
}

// ordeal does everything that can be done with a damaged file.
type ordeal struct {
	t      testing.TB
	damage string
	has    contents
	// inexact is set for damage that turns a sound page into another sound page. Only a checksum
	// could show that.
	inexact bool
}

// undergo opens a file and uses it. It fails the test unless each error is ErrCorrupt, and unless
// the entries that can be read are those that were written. It also fails the test if a number in
// the file was taken for an amount of memory.
func (o *ordeal) undergo(path string) {
	o.t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for _, opts := range []*latchkey.Options{{ReadOnly: true}, nil, {ReadOnly: true}} {
		e, err := latchkey.OpenBoltEngine(path, opts)
		if o.allow("OpenBoltEngine", err); err != nil {
			continue
		}
		o.read(e)
		if opts == nil {
			o.write(e)
			o.read(e)
			for finding := range e.(latchkey.EngineChecker).CheckEngine(o.t.Context()) {
				o.allow("CheckEngine", finding)
			}
			o.allow("Compact", e.(latchkey.EngineCompacter).Compact(o.t.Context()))
			o.read(e)
		}
		o.allow("Close", e.Close())
	}
	runtime.ReadMemStats(&after)
	if more := int64(after.HeapSys) - int64(before.HeapSys); more > 64<<20 {
		o.t.Errorf("%s: the heap has grown by %d bytes", o.damage, more)
	}
}

// allow fails the test for an error that is not ErrCorrupt.
func (o *ordeal) allow(call string, err error) {
	o.t.Helper()
	if err != nil && !errors.Is(err, latchkey.ErrCorrupt) {
		o.t.Errorf("%s: %s: got %v, want ErrCorrupt", o.damage, call, err)
	}
}

func (o *ordeal) wrong(format string, args ...any) {
	o.t.Helper()
	if !o.inexact {
		o.t.Errorf(o.damage+": "+format, args...)
	}
}

func (o *ordeal) read(e latchkey.Engine) {
	o.t.Helper()
	for table, values := range o.has {
		o.allow("Scan", e.View(o.t.Context(), func(tx latchkey.EngineTx) error {
			n := 0
			for entry, err := range tx.Scan(table, nil, nil) {
				if err != nil {
					return err
				}
				if n++; values[string(entry.Key)] != string(entry.Value) {
					o.wrong("Scan of %s: got %.20q, %.20q", table, entry.Key, entry.Value)
				}
			}
			if n != len(values) {
				o.wrong("Scan of %s: got %d entries, want %d", table, n, len(values))
			}
			return nil
		}))
		gets := 0
		for k, v := range values {
			o.allow("Get", e.View(o.t.Context(), func(tx latchkey.EngineTx) error {
				got, err := tx.Get(table, []byte(k))
				if err == nil && string(got) != v {
					o.wrong("Get of %s/%.10s: got %d bytes, %.20q", table, k, len(got), got)
				}
				return err
			}))
			if gets++; gets == 10 {
				break
			}
		}
	}
}

// write puts and removes entries. In one place it removes so many that pages are merged.
func (o *ordeal) write(e latchkey.Engine) {
	o.t.Helper()
	o.has = maps.Clone(o.has)
	for table := range o.has {
		keys := slices.Sorted(maps.Keys(o.has[table]))
		n := len(keys)
		for _, c := range []struct {
			remove []string
			put    map[string]string
		}{
			{nil, map[string]string{"new": "1", keys[n/2]: "changed"}},
			{[]string{keys[0], keys[n/2], keys[n-1]}, map[string]string{"0": "first"}},
			{keys[n/4 : n/2], nil},
		} {
			next := maps.Clone(o.has[table])
			maps.Copy(next, c.put)
			err := e.Update(o.t.Context(), func(tx latchkey.EngineTx) error {
				for k, v := range c.put {
					if err := tx.Put(table, []byte(k), []byte(v)); err != nil {
						return err
					}
				}
				for _, k := range c.remove {
					delete(next, k)
					if err := tx.Delete(table, []byte(k)); err != nil {
						return err
					}
				}
				return readByScan(table)(tx)
			})
			if o.allow("Update", err); err == nil {
				o.has[table] = next
			}
		}
	}
}

// samplePages returns pages of every kind that a file has. In the short form it returns one page of
// most kinds.
func samplePages(file []byte) []int {
	last := boltMeta(file)
	branches, leaves := pagesOf(file, branchPage), pagesOf(file[:last.end*pageSize], leafPage)
	var large []int // leaves that take several pages
	for _, page := range leaves {
		if binary.LittleEndian.Uint32(file[page*pageSize+pageMore:]) > 0 {
			large = append(large, page)
		}
	}
	if testing.Short() {
		branches, large = branches[:1], large[:1]
	}
	return slices.Concat(branches, []int{int(last.root), int(last.freelist), leaves[0], leaves[len(leaves)/2]}, large)
}

// pageName returns the name of a page for messages.
func pageName(file []byte, page int) string {
	p := file[page*pageSize:]
	return fmt.Sprintf("page %d of kind %d with %d elements", page, p[pageFlags], binary.LittleEndian.Uint16(p[pageElements:]))
}

func TestAFlippedBitInAPageIsAnErrorOrChangesNothing(t *testing.T) {
	if !inChild(t) {
		return
	}
	path := filepath.Join(memoryDir(t), "keys.db")
	file, has := mixedBolt(t, path, 600)
	step := 11
	if testing.Short() {
		step = 97
	}
	forEachSize(t, func(t *testing.T, size int) {
		n := size // each time other bits
		for _, page := range samplePages(file) {
			start, elements := page*pageSize, int(binary.LittleEndian.Uint16(file[page*pageSize+pageElements:]))
			for _, element := range []int{-1, 0, 1, elements - 1} {
				at := start + firstElement + element*elementSize
				for bit := range 8 * elementSize {
					if n++; n%step != 0 {
						continue
					}
					damaged := bytes.Clone(file)
					damaged[at+bit/8] ^= 1 << (bit % 8)
					must(t, os.WriteFile(path, damaged, 0o600))
					// Nothing shows that the sizes of the last element are wrong, or a number in a
					// list of free pages.
					o := ordeal{t: t, has: has, inexact: element == elements-1 || element >= 0 && file[start+pageFlags] == freelistPage}
					o.damage = fmt.Sprintf("%s, bit %d of element %d flipped", pageName(file, page), bit, element)
					o.undergo(path)
				}
			}
		}
	})
}

// A copied page makes some pages lead to others twice, or lead back, or lead to free pages.
func TestAPageInTheWrongPlaceIsAnErrorAndNeverAPanic(t *testing.T) {
	if !inChild(t) {
		return
	}
	path := filepath.Join(memoryDir(t), "keys.db")
	file, has := mixedBolt(t, path, 600)
	pages := samplePages(file)
	branches := pagesOf(file, branchPage)
	if testing.Short() {
		branches = branches[:1]
	}
	try := func(t *testing.T, damaged []byte, format string, args ...any) {
		must(t, os.WriteFile(path, damaged, 0o600))
		o := ordeal{t: t, has: has, inexact: true, damage: fmt.Sprintf(format, args...)}
		o.undergo(path)
	}
	forEachSize(t, func(t *testing.T, _ int) {
		for _, to := range pages {
			for _, from := range pages {
				damaged := bytes.Clone(file)
				copy(damaged[to*pageSize:(to+1)*pageSize], file[from*pageSize:])
				binary.LittleEndian.PutUint64(damaged[to*pageSize:], uint64(to))
				try(t, damaged, "page %d like %s", to, pageName(file, from))
			}
			for _, branch := range branches {
				damaged := bytes.Clone(file)
				binary.LittleEndian.PutUint64(damaged[branch*pageSize+firstPageBelow:], uint64(to))
				try(t, damaged, "page %d leads to %s", branch, pageName(file, to))
			}
			try(t, freed(file, to), "%s is free", pageName(file, to))
		}
		try(t, chained(file), "every leaf leads to the next")
	})
}

func TestAPageThatIsInUseAndFreeIsRefusedWhenTheFileIsOpened(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	file, _ := mixedBolt(t, path, 600)
	defer checkOnOpen(0, 1<<20)() // most leaves are not checked, but they are led to
	for _, page := range append(samplePages(file), 0, 1) {
		must(t, os.WriteFile(path, freed(file, page), 0o600))
		_, err := latchkey.OpenBoltEngine(path, nil)
		wantError(t, err, latchkey.ErrCorrupt)
	}
}

// An earlier root leads to an earlier state, in which a key may be enabled that was disabled since.
func TestAnEarlierRootIsNotTakenForTheLast(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	s := openFile(t, path, light())
	user := addUser(t, s, "ada")
	key, token := addKey(t, s, user, "laptop")
	closeStore(t, s)
	before, err := os.ReadFile(path)
	must(t, err)
	s = openFile(t, path, light())
	must(t, s.DisableKey(t.Context(), user, key.ID))
	closeStore(t, s)
	file, err := os.ReadFile(path)
	must(t, err)

	root, list := int(boltMeta(file).root), int(boltMeta(file).freelist)
	was := before[int(boltMeta(before).root)*pageSize:][:pageSize]
	earlier := spoilt(file, func(page []byte) { copy(page[pageFlags:], was[pageFlags:]) }, root)
	forEachSize(t, func(t *testing.T, _ int) {
		for name, damaged := range map[string][]byte{
			"alone":                         earlier,
			"and no list of free pages":     spoilt(earlier, zero, list),
			"and a list that names nothing": spoilt(earlier, func(page []byte) { page[pageElements] = 0 }, list),
		} {
			must(t, os.WriteFile(path, damaged, 0o600))
			for _, readOnly := range []bool{true, false} {
				s, err := latchkey.Open(path, &latchkey.Options{ReadOnly: readOnly})
				if !errors.Is(err, latchkey.ErrCorrupt) {
					t.Errorf("%s, read-only %t: got %v, want ErrCorrupt", name, readOnly, err)
				}
				if err == nil {
					wantRefused(t, s, token, latchkey.ErrKeyDisabled)
					closeStore(t, s)
				}
			}
		}
	})
}

// freed returns a copy of a file whose list of free pages has nothing but page.
func freed(file []byte, page int) []byte {
	list := int(boltMeta(file).freelist)
	return spoilt(file, func(p []byte) {
		binary.LittleEndian.PutUint16(p[pageElements:], 1)
		binary.LittleEndian.PutUint64(p[firstElement:], uint64(page))
	}, list)
}

// chained returns a copy of a file in which each leaf of one page has become a branch that leads to
// the next leaf. The branch has the first key of the leaf.
func chained(file []byte) []byte {
	leaves := slices.DeleteFunc(pagesOf(file, leafPage), func(page int) bool {
		return page == int(boltMeta(file).root) || binary.LittleEndian.Uint32(file[page*pageSize+pageMore:]) > 0
	})
	damaged := bytes.Clone(file)
	for i, page := range leaves[:len(leaves)-1] {
		old := file[page*pageSize:]
		at := firstElement + binary.LittleEndian.Uint32(old[firstElement+4:])
		key := old[at:][:binary.LittleEndian.Uint32(old[firstElement+8:])]
		p := damaged[page*pageSize : (page+1)*pageSize]
		clear(p[pageFlags:])
		p[pageFlags], p[pageElements] = branchPage, 1
		binary.LittleEndian.PutUint32(p[firstElement:], elementSize)
		binary.LittleEndian.PutUint32(p[firstElement+4:], uint32(len(key)))
		binary.LittleEndian.PutUint64(p[firstPageBelow:], uint64(leaves[i+1]))
		copy(p[firstElement+elementSize:], key)
	}
	return damaged
}

func TestDamageToALargeFileIsAnError(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	if !inChild(t) {
		return
	}
	path := filepath.Join(memoryDir(t), "keys.db")
	file, has := mixedBolt(t, path, 150_000)
	if len(file) <= 16<<20 {
		t.Fatalf("the file has %d bytes, and is small", len(file))
	}
	branches := pagesOf(file, branchPage)
	leaf := pagesOf(file, leafPage)[1000]
	for _, tt := range []struct {
		name  string
		spoil func(page []byte)
	}{
		{"is a branch that leads back", func(page []byte) {
			copy(page[pageFlags:], file[branches[len(branches)-1]*pageSize+pageFlags:][:pageSize-pageFlags])
		}},
		{"is a branch that leads to itself", func(page []byte) {
			key := firstElement + binary.LittleEndian.Uint32(page[firstElement+4:])
			size := binary.LittleEndian.Uint32(page[firstElement+8:])
			copy(page[firstElement+elementSize:], bytes.Clone(page[key:key+size]))
			page[pageFlags], page[pageElements], page[pageElements+1] = branchPage, 1, 0
			binary.LittleEndian.PutUint32(page[firstElement:], elementSize)
			binary.LittleEndian.PutUint32(page[firstElement+4:], size)
			binary.LittleEndian.PutUint64(page[firstPageBelow:], uint64(leaf))
		}},
		{"is another leaf", func(page []byte) { copy(page[pageFlags:], file[(leaf+1)*pageSize+pageFlags:][:pageSize-pageFlags]) }},
		{"is zeros", zero},
		{"has an element elsewhere", func(page []byte) { page[firstElement+4+3] ^= 0x20 }},
		{"has a key of 512 MiB", func(page []byte) { page[firstElement+8+3] ^= 0x20 }},
		{"has a value of 512 MiB", func(page []byte) { page[firstElement+12+3] ^= 0x20 }},
	} {
		must(t, os.WriteFile(path, spoilt(file, tt.spoil, leaf), 0o600))
		o := ordeal{t: t, has: has, damage: fmt.Sprintf("page %d %s", leaf, tt.name)}
		o.undergo(path)
	}
}
