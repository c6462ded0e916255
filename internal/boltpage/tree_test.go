package boltpage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
)

// element is an element of a page that a test makes. It is an entry of a leaf, or a key and a page
// of a branch.
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
	pages := (len(page) + PageSize - 1) / PageSize
	binary.LittleEndian.PutUint32(page[12:], uint32(pages-1))
	return append(page, make([]byte, pages*PageSize-len(page))...)
}

// newPages makes a file of pages, of which the first has number 2.
func newPages(pages ...[]byte) *Pages {
	file := append(make([]byte, 2*PageSize), bytes.Join(pages, nil)...)
	return MappedPages(file, nil)
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
		{"a leaf of many pages", leaf(a, element{key: "b", value: long(maxPageValue)}), inAB, true},
		{"a leaf with the longest key", leaf(element{key: long(MaxKey)}), subtree{page: 2}, true},
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
		{"a key that is too long", leaf(element{key: long(MaxKey + 1)}), subtree{page: 2}, false},
		{"a value that is too long", leaf(a, element{key: "b", value: long(maxPageValue + 1)}), subtree{page: 2}, false},
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
		if _, err := file.node(tt.at, 0, false); tt.good && err != nil || !tt.good && !isDamage(err) {
			t.Errorf("%s: got %v", tt.name, err)
		}
	}
}

func TestAnInvalidTableIsRefused(t *testing.T) {
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
		tables := NewTables(newPages(tt.pages...), 0, true)
		root := &tree{Tables: tables, root: subtree{page: 2}, levels: -1}
		_, _, errA := root.find([]byte("a"))
		_, _, errB := root.find([]byte("b"))
		if err := errors.Join(errA, errB); tt.good != (err == nil) {
			t.Errorf("%s: got %v", tt.name, err)
		}
		findings := 0
		walk := &damageWalk{
			Pages: tables.pages, owned: newPageSet(tables.pages.count),
			report: func(error) { findings++ }, stopped: func() bool { return false },
		}
		if walk.tree(subtree{page: 2}, 0, 0); tt.good != (findings == 0) {
			t.Errorf("%s: %d findings", tt.name, findings)
		}
	}
}

// If two tables led to one page, bbolt would free the page twice, or free it in one table and go on
// using it in the other.
func TestAWriterRefusesAPageOfTwoTables(t *testing.T) {
	a, b := element{key: "a", below: 3}, element{key: "b", below: 4}
	file := newPages(newPage(2, pageBranch, a, b), newPage(3, pageLeaf, a), newPage(4, pageLeaf, b), newPage(5, pageBranch, a, b))
	for _, other := range []uint64{2, 3, 5} {
		tables := NewTables(file, 0, true)
		one := &tree{Tables: tables, root: subtree{page: 2}, levels: -1}
		_, _, err := one.find([]byte("a"))
		if err != nil {
			t.Fatal(err)
		}
		two := &tree{Tables: tables, root: subtree{page: other}, levels: -1}
		if _, _, err := two.find([]byte("a")); !isDamage(err) {
			t.Errorf("another table with page %d: got %v, want an Error", other, err)
		}
	}
}

func TestAPageThatIsDamagedAfterItWasCheckedIsNotReadBeyondItsEnd(t *testing.T) {
	const pages = 8
	mapped := make([]byte, pages*PageSize)
	leaf := mapped[PageSize:]
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
	p := MappedPages(mapped, &Checked{})
	read := func() (key, value string, err error) {
		defer func() {
			if recover() != nil { // as an engine does, which takes it for damage
				err = errors.New("panic")
			}
		}()
		n, err := p.node(subtree{page: 1}, 0, false)
		if err != nil {
			return "", "", err
		}
		return string(n.Key(0)), string(n.Value(0)), nil
	}
	sizes(3, 5)
	if key, value, err := read(); err != nil || key != "key" || value != "value" {
		t.Fatalf("got %q=%q, %v", key, value, err)
	}
	for _, damaged := range [][2]int{{2 * PageSize, 0}, {3, 2 * PageSize}} {
		sizes(damaged[0], damaged[1])
		if key, value, err := read(); err == nil {
			t.Errorf("sizes %v: got a key of %d bytes and a value of %d, want a panic", damaged, len(key), len(value))
		}
	}
}

// isDamage reports whether err is an Error.
func isDamage(err error) bool {
	var damage *Error
	return errors.As(err, &damage)
}
