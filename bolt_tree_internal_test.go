package latchkey

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"go.etcd.io/bbolt"
)

// deepBolt opens an engine that has many small tables, and one, "t", whose tree is deep, or has branches so empty that
// bbolt merges several at once. It returns the keys of that, in order.
func deepBolt(t testing.TB, random *rand.Rand) (e boltInside, keys [][]byte) {
	t.Helper()
	e = openBoltInside(t)
	e.db.NoSync = true
	fill, size := []float64{0.1, 0.5, 1}[random.IntN(3)], []int{20, 100, 400}[random.IntN(3)]
	for i := range 3000 {
		key := binary.BigEndian.AppendUint32(nil, uint32(i))
		keys = append(keys, append(key, make([]byte, random.IntN(size))...))
	}
	for part := range slices.Chunk(random.Perm(len(keys)), 800) {
		mustInside(t, e.db.Update(func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists([]byte("t"))
			if err != nil {
				return err
			}
			b.FillPercent = fill
			for _, i := range part {
				if err := b.Put(keys[i], make([]byte, random.IntN(200))); err != nil {
					return err
				}
			}
			return setMarker(tx)
		}))
	}
	mustInside(t, e.Update(t.Context(), func(tx EngineTx) error {
		for i := range 300 {
			if err := tx.Put(smallTable(i), []byte("k"), make([]byte, random.IntN(100))); err != nil {
				return err
			}
		}
		return nil
	}))
	return e, keys
}

func smallTable(i int) string { return fmt.Sprintf("small %03d", i) }

// drawChanges returns a transaction that does the same each time: it removes entries, some apart and some one after
// another, puts others, and scans.
func drawChanges(random *rand.Rand, keys [][]byte) func(tx EngineTx) error {
	seed := random.Uint64()
	return func(tx EngineTx) error {
		random := rand.New(rand.NewPCG(seed, 0))
		for range 1 + random.IntN(4) {
			from := random.IntN(len(keys))
			to := min(len(keys), from+1+random.IntN([]int{1, 20, 200, 1000}[random.IntN(4)]))
			step, remove := 1+random.IntN(3), random.IntN(3) > 0
			for i := from; i < to; i += step {
				err := tx.Put(smallTable(random.IntN(400)), keys[i], nil)
				if remove {
					err = errors.Join(err, tx.Delete("t", keys[i]))
				} else {
					err = errors.Join(err, tx.Put("t", keys[i], make([]byte, random.IntN(300))))
				}
				if err != nil {
					return err
				}
			}
			steps := random.IntN(300)
			for _, err := range tx.Scan("t", keys[from], nil) {
				if err != nil {
					return err
				}
				if steps--; steps < 0 {
					break
				}
			}
		}
		return nil
	}
}

// checkedBy returns the pages that a transaction checks, and does not commit it.
func (e boltInside) checkedBy(do func(tx EngineTx) error) map[uint64]bool {
	e.t.Helper()
	batch, err := e.join()
	mustInside(e.t, err)
	e.batch = nil
	mustInside(e.t, do(&boltTx{tx: batch.tx, tables: batch.tables, batch: batch}))
	mustInside(e.t, contain(func() error { return batch.tables.checkCommit(batch.tx.ID(), batch.removed) }))
	mustInside(e.t, batch.tx.Rollback())

	file := &pageFile{r: e.file, count: batch.tables.pages.count}
	m, _ := file.meta()
	checked := map[uint64]bool{0: true, 1: true, m.freelist: true}
	for id := range batch.tables.claims {
		page, _, _ := file.pageOf(id)
		for i := range len(page) / boltPageSize {
			checked[id+uint64(i)] = true
		}
	}
	return checked
}

// withoutOthers runs do while all pages but some cannot be read, and returns how many these were.
func (e boltInside) withoutOthers(some map[uint64]bool, do func()) (spoilt int) {
	e.t.Helper()
	garbage := bytes.Repeat([]byte{0xff}, boltPageSize)
	before, err := os.ReadFile(e.path)
	mustInside(e.t, err)
	m, _ := (&pageFile{r: e.file}).meta()
	write := func(id uint64, page []byte) {
		_, err := e.file.WriteAt(page, int64(id)*boltPageSize)
		mustInside(e.t, err)
	}
	for id := range m.end {
		if !some[id] {
			write(id, garbage)
			spoilt++
		}
	}
	do()
	after, err := os.ReadFile(e.path)
	mustInside(e.t, err)
	for id := range m.end {
		if at := id * boltPageSize; bytes.Equal(after[at:at+boltPageSize], garbage) { // and was not written anew
			write(id, before[at:at+boltPageSize])
		}
	}
	return spoilt
}

// What bbolt would make of other pages nothing could contain.
func TestBboltReadsNoPageThatWasNotCheckedInTheSameTransaction(t *testing.T) {
	engines := 16
	if testing.Short() {
		engines = 2
	}
	levels, spoilt := 0, 0
	for seed := range engines {
		random := rand.New(rand.NewPCG(uint64(seed), 0))
		e, keys := deepBolt(t, random)
		for range 6 {
			do := drawChanges(random, keys)
			checked := e.checkedBy(func(tx EngineTx) error {
				err := do(tx)
				levels = max(levels, tx.(*boltTx).tables.tables["t"].levels)
				return err
			})
			spoilt += e.withoutOthers(checked, func() {
				if err := e.Update(t.Context(), do); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
			})
			for finding := range e.CheckEngine(t.Context()) {
				t.Fatalf("seed %d: %v", seed, finding)
			}
		}
		mustInside(t, e.Close())
	}
	if levels < 3 || spoilt < 100*engines {
		t.Errorf("the trees had %d levels, and %d pages could not be read: too few", levels, spoilt)
	}
}

// leafWith returns the page in which a table of more than one page has a key.
func (e boltInside) leafWith(table, key string) (page uint64) {
	e.t.Helper()
	mustInside(e.t, e.Update(e.t.Context(), func(tx EngineTx) error {
		if _, err := tx.Get(table, []byte(key)); err != nil {
			return err
		}
		tables := tx.(*boltTx).tables
		for id := range tables.claims {
			n, _ := tables.pages.node(subtree{page: id}, 0, true)
			if n.leaf && tables.claims[id].tree == tables.tables[table] {
				page = id
			}
		}
		return nil
	}))
	return page
}

// spoil changes bytes of a page of the file.
func (e boltInside) spoil(page uint64, at int, bytes ...byte) {
	e.t.Helper()
	_, err := e.file.WriteAt(bytes, int64(page)*boltPageSize+int64(at))
	mustInside(e.t, err)
}

// number is the key of one of the entries that openNumbered puts.
func number(i int) string { return fmt.Sprintf("%04d", i) }

// openNumbered opens an engine with a table "numbers", of which each leaf has some ten entries.
func openNumbered(t testing.TB) boltInside {
	e := openBoltInside(t)
	e.db.NoSync = true
	for i := range 300 {
		mustInside(t, e.Update(t.Context(), func(tx EngineTx) error {
			return tx.Put("numbers", []byte(number(i)), make([]byte, 150))
		}))
	}
	return e
}

func TestWhoMeetsADamagedPageFailsAloneAndTheOthersCommit(t *testing.T) {
	e := openNumbered(t)
	e.spoil(e.leafWith("numbers", number(150)), pageHeader+elementSize, make([]byte, elementSize)...)
	meet := func(do func(tx EngineTx, key []byte) error) func() {
		return func() {
			err := e.Update(t.Context(), func(tx EngineTx) error {
				return errors.Join(tx.Put("t", []byte("damaged"), nil), do(tx, []byte(number(150))))
			})
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("Update: got %v, want ErrCorrupt", err)
			}
		}
	}
	for range 2 {
		e.together(
			e.mustSet("a", "1"),
			meet(func(tx EngineTx, key []byte) error { return tx.Put("numbers", key, nil) }),
			meet(func(tx EngineTx, key []byte) error { return tx.Delete("numbers", key) }),
			meet(func(tx EngineTx, key []byte) error {
				for _, err := range tx.Scan("numbers", key, nil) {
					return err
				}
				return nil
			}),
			e.mustSet("b", "1"),
		)
		e.want("a=1 b=1")
	}
}

func TestADamagedPageIsNotMergedWithAnother(t *testing.T) {
	for _, beside := range []int{+1, -1} {
		e := openNumbered(t)
		first := 150 // of a leaf
		for leaf := e.leafWith("numbers", number(first)); e.leafWith("numbers", number(first-1)) == leaf; {
			first--
		}
		last := first
		for leaf := e.leafWith("numbers", number(last)); e.leafWith("numbers", number(last+1)) == leaf; {
			last++
		}
		other := first - 1
		if beside > 0 {
			other = last + 1
		}
		e.spoil(e.leafWith("numbers", number(other)), pageHeader+elementSize+8+3, 0x20) // a key of 512 MiB
		for range 2 {
			err := e.Update(t.Context(), func(tx EngineTx) error {
				for i := first; i < last; i++ {
					if err := tx.Delete("numbers", []byte(number(i))); err != nil {
						return err
					}
				}
				return nil
			})
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("Update beside a damaged page: got %v, want ErrCorrupt", err)
			}
			mustInside(t, e.set("a", "1")) // bbolt has not got stuck
		}
	}
}

// interrupted is a file in which somebody else commits before its list of free pages is read for the first time.
type interrupted struct {
	*os.File
	meanwhile func()
}

func (f *interrupted) ReadAt(p []byte, at int64) (int, error) {
	if at >= 2*boltPageSize && f.meanwhile != nil {
		f.meanwhile()
		f.meanwhile = nil
	}
	return f.File.ReadAt(p, at)
}

func TestAFileThatIsWrittenWhileItIsLookedAtIsNotDamaged(t *testing.T) {
	e := openNumbered(t)
	for commits := range 10 {
		f := &interrupted{File: e.file, meanwhile: func() {
			for range commits {
				mustInside(t, e.set("a", "1"))
			}
		}}
		mustInside(t, checkUnlocked(f, false))
	}
}

// element is one of a page that a test makes: an entry of a leaf, or of a branch a key and the page below.
type element struct {
	key, value string
	below      uint64
	flags      uint32
}

// newPage makes a page as bbolt does.
func newPage(id uint64, kind uint16, elements ...element) []byte {
	header, data := make([]byte, pageHeader), []byte(nil)
	binary.LittleEndian.PutUint64(header, id)
	binary.LittleEndian.PutUint16(header[8:], kind)
	binary.LittleEndian.PutUint16(header[10:], uint16(len(elements)))
	for i, e := range elements {
		at := uint32((len(elements)-i)*elementSize + len(data))
		if kind == pageLeaf {
			header = binary.LittleEndian.AppendUint32(header, e.flags)
		}
		header = binary.LittleEndian.AppendUint32(header, at)
		header = binary.LittleEndian.AppendUint32(header, uint32(len(e.key)))
		if kind == pageLeaf {
			header = binary.LittleEndian.AppendUint32(header, uint32(len(e.value)))
		} else {
			header = binary.LittleEndian.AppendUint64(header, e.below)
		}
		data = append(data, e.key...)
		if kind == pageLeaf {
			data = append(data, e.value...)
		}
	}
	page := append(header, data...)
	pages := (len(page) + boltPageSize - 1) / boltPageSize
	binary.LittleEndian.PutUint32(page[12:], uint32(pages-1))
	return append(page, make([]byte, pages*boltPageSize-len(page))...)
}

// newPages makes a file of pages, numbered from 2 on.
func newPages(pages ...[]byte) pageFile {
	file := append(make([]byte, 2*boltPageSize), bytes.Join(pages, nil)...)
	return pageFile{mapped: file, count: uint64(len(file) / boltPageSize)}
}

func TestAPageThatBboltWouldNotHaveWrittenThereIsRefused(t *testing.T) {
	leaf := func(elements ...element) []byte { return newPage(2, pageLeaf, elements...) }
	branch := func(elements ...element) []byte { return newPage(2, pageBranch, elements...) }
	a, b := element{key: "a", value: "1", below: 3}, element{key: "b", value: "2", below: 4}
	long := func(n int) string { return string(bytes.Repeat([]byte{'k'}, n)) }
	changed := func(page []byte, at int, to byte) []byte {
		page[at] = to
		return page
	}
	inAB := subtree{2, []byte("a"), []byte("c")}
	const second = pageHeader + elementSize
	for _, tt := range []struct {
		name string
		page []byte
		at   subtree
		good bool
	}{
		{"a leaf", leaf(a, b), inAB, true},
		{"a leaf without bounds", leaf(a, b), subtree{page: 2}, true},
		{"a leaf with the last key below the bound", leaf(a, b), subtree{2, []byte("a"), []byte("b\x00")}, true},
		{"a leaf of many pages", leaf(a, element{key: "b", value: long(MaxEngineValue)}), inAB, true},
		{"a leaf with the longest key", leaf(element{key: long(MaxEngineKey)}), subtree{page: 2}, true},
		{"an empty leaf as a root", leaf(), subtree{page: 2}, true},
		{"a branch", branch(a, b), inAB, true},
		{"an empty leaf below a branch", leaf(), inAB, false},
		{"an empty branch", branch(), subtree{page: 2}, false},
		{"another kind", newPage(2, pageFreelist), subtree{page: 2}, false},
		{"two kinds", newPage(2, pageLeaf|pageBranch, a, b), subtree{page: 2}, false},
		{"another number", newPage(3, pageLeaf, a, b), subtree{page: 2}, false},
		{"page 0", leaf(a, b), subtree{page: 0}, false},
		{"a page past the end", leaf(a, b), subtree{page: 3}, false},
		{"a number without end", leaf(a, b), subtree{page: 1<<64 - 1}, false},
		{"another first key", leaf(a, b), subtree{2, []byte("A"), []byte("c")}, false},
		{"a key that is not below the bound", leaf(a, b), subtree{2, []byte("a"), []byte("b")}, false},
		{"a branch with another first key", branch(b), inAB, false},
		{"keys alike", leaf(a, a), subtree{page: 2}, false},
		{"keys in disorder", leaf(b, a), subtree{page: 2}, false},
		{"branch keys in disorder", branch(b, a), subtree{page: 2}, false},
		{"no key", leaf(element{value: "1"}, b), subtree{page: 2}, false},
		{"a key that is too long", leaf(element{key: long(MaxEngineKey + 1)}), subtree{page: 2}, false},
		{"a value that is too long", leaf(a, element{key: "b", value: long(MaxEngineValue + 1)}), subtree{page: 2}, false},
		{"a value of a leaf that is none", leaf(element{key: "a", flags: 2}, b), subtree{page: 2}, false},
		{"a table in a table", leaf(element{key: "a", flags: bucketFlag, value: long(bucketHeader)}), subtree{page: 2}, false},
		{"more elements than there is room for", changed(leaf(a, b), 11, 0xff), subtree{page: 2}, false},
		{"more elements than there are", changed(leaf(a, b), 10, 3), subtree{page: 2}, false},
		{"fewer pages than elements need", changed(leaf(a, b, element{key: "c", value: long(8192)}), 12, 1), subtree{page: 2}, false},
		{"more pages than elements need", append(changed(leaf(a, b), 12, 1), leaf(a, b)...), subtree{page: 2}, false},
		{"more pages than there are", changed(leaf(a, b), 12, 1), subtree{page: 2}, false},
		{"a hole between elements", changed(leaf(a, b), second+4, elementSize+3), subtree{page: 2}, false},
		{"an element in another", changed(leaf(a, b), second+4, elementSize+1), subtree{page: 2}, false},
		{"an element in the header", changed(leaf(a), pageHeader+4, 0), subtree{page: 2}, false},
		{"a key past the end", changed(leaf(a), pageHeader+9, 0xff), subtree{page: 2}, false},
		{"a value past the end", changed(leaf(a), pageHeader+13, 0xff), subtree{page: 2}, false},
		{"sizes that add up to nothing", changed(changed(leaf(a), pageHeader+11, 0x80), pageHeader+15, 0x80), subtree{page: 2}, false},
	} {
		file := newPages(tt.page)
		if _, err := file.node(tt.at, 0, false); tt.good && err != nil || !tt.good && !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: got %v", tt.name, err)
		}
	}
}

func TestATableThatIsNoneIsRefused(t *testing.T) {
	number := func(n uint64) string { return string(binary.LittleEndian.AppendUint64(make([]byte, 0, 16), n)) }
	only := newPage(0, pageLeaf, element{key: "a", value: "1"})[:pageHeader+elementSize+2]
	for _, tt := range []struct {
		name, value string
		good        bool
	}{
		{"a root", number(7) + number(0), true},
		{"its only page", number(0) + number(0) + string(only), true},
		{"nothing", "", false},
		{"half a root", number(7), false},
		{"a root and more", number(7) + number(0) + string(only), false},
		{"no page", number(0) + number(0), false},
		{"half a page", number(0) + number(0) + string(only[:len(only)-1]), false},
		{"a page and more", number(0) + number(0) + string(only) + "0", false},
		{"a branch", number(0) + number(0) + string(newPage(0, pageBranch)[:pageHeader]), false},
	} {
		file := newPages(newPage(2, pageLeaf, element{key: "table", value: tt.value, flags: bucketFlag}))
		if _, err := file.node(subtree{page: 2}, bucketFlag, false); tt.good != (err == nil) {
			t.Errorf("%s: got %v", tt.name, err)
		}
	}
}

func TestATreeWithoutEndOrOfUnequalDepthIsRefused(t *testing.T) {
	var chain [][]byte
	for id := range uint64(maxLevels + 2) {
		chain = append(chain, newPage(2+id, pageBranch, element{key: "a", below: 3 + id}))
	}
	a, b := element{key: "a", below: 3}, element{key: "b", below: 4}
	leaf := func(id uint64, e element) []byte { return newPage(id, pageLeaf, e) }
	for _, tt := range []struct {
		name  string
		pages [][]byte
		good  bool
	}{
		{"two leaves", [][]byte{newPage(2, pageBranch, a, b), leaf(3, a), leaf(4, b)}, true},
		{"a leaf beside a branch", [][]byte{
			newPage(2, pageBranch, a, b), leaf(3, a), newPage(4, pageBranch, element{key: "b", below: 5}), leaf(5, b),
		}, false},
		{"a branch that leads to itself", [][]byte{newPage(2, pageBranch, element{key: "a", below: 2}, b), leaf(3, a), leaf(4, b)}, false},
		{"a branch that leads back", [][]byte{newPage(2, pageBranch, a, b), newPage(3, pageBranch, element{key: "a", below: 2}), leaf(4, b)}, false},
		{"a chain", append(chain, leaf(uint64(2+len(chain)), a)), false},
	} {
		tables := &boltTables{pages: newPages(tt.pages...), claims: map[uint64]claim{}}
		tree := &boltTree{boltTables: tables, root: subtree{page: 2}, levels: -1}
		_, _, errA := tree.find([]byte("a"))
		_, _, errB := tree.find([]byte("b"))
		if err := errors.Join(errA, errB); tt.good != (err == nil) {
			t.Errorf("%s: got %v", tt.name, err)
		}
		findings := 0
		check := &pageCheck{
			pageFile: &tables.pages, owned: newPageSet(tables.pages.count),
			report: func(error) { findings++ }, stopped: func() bool { return false },
		}
		if check.checkTree(subtree{page: 2}, 0, 0); tt.good != (findings == 0) {
			t.Errorf("%s: %d findings", tt.name, findings)
		}
	}
}

// bbolt would free such a page twice, or free it in one table and go on using it in the other.
func TestAPageOfTwoTablesIsRefusedToWhoWrites(t *testing.T) {
	a, b := element{key: "a", below: 3}, element{key: "b", below: 4}
	file := newPages(newPage(2, pageBranch, a, b), newPage(3, pageLeaf, a), newPage(4, pageLeaf, b), newPage(5, pageBranch, a, b))
	for _, other := range []uint64{2, 3, 5} {
		tables := &boltTables{pages: file, claims: map[uint64]claim{}}
		one := &boltTree{boltTables: tables, root: subtree{page: 2}, levels: -1}
		_, _, err := one.find([]byte("a"))
		mustInside(t, err)
		two := &boltTree{boltTables: tables, root: subtree{page: other}, levels: -1}
		if _, _, err := two.find([]byte("a")); !errors.Is(err, ErrCorrupt) {
			t.Errorf("another table with page %d: got %v, want ErrCorrupt", other, err)
		}
	}
}

func TestAPageThatIsDamagedAfterItWasCheckedIsNotReadBeyondItsEnd(t *testing.T) {
	const pages = 8
	mapped := make([]byte, pages*boltPageSize)
	leaf := mapped[boltPageSize:]
	binary.LittleEndian.PutUint64(leaf, 1)
	binary.LittleEndian.PutUint16(leaf[8:], pageLeaf)
	binary.LittleEndian.PutUint16(leaf[10:], 1)
	element := leaf[pageHeader:]
	copy(element[elementSize:], "keyvalue")
	sizes := func(key, value int) {
		binary.LittleEndian.PutUint32(element[4:], elementSize)
		binary.LittleEndian.PutUint32(element[8:], uint32(key))
		binary.LittleEndian.PutUint32(element[12:], uint32(value))
	}
	p := pageFile{mapped: mapped, count: pages, checked: &checkedPages{}}
	read := func() (got Entry, err error) {
		err = contain(func() error {
			n, err := p.node(subtree{page: 1}, 0, false)
			if err == nil {
				got = copyEntry(n.key(0), n.value(0))
			}
			return err
		})
		return got, err
	}
	sizes(3, 5)
	if got, err := read(); err != nil || string(got.Key) != "key" || string(got.Value) != "value" {
		t.Fatalf("got %q=%q, %v", got.Key, got.Value, err)
	}
	for _, damaged := range [][2]int{{2 * boltPageSize, 0}, {3, 2 * boltPageSize}} {
		sizes(damaged[0], damaged[1])
		if got, err := read(); !errors.Is(err, ErrCorrupt) {
			t.Errorf("sizes %v: got a key of %d bytes and a value of %d, %v; want ErrCorrupt",
				damaged, len(got.Key), len(got.Value), err)
		}
	}
}
