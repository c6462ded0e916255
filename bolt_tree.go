package latchkey

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"sort"
	"sync/atomic"
	"unsafe"

	"go.etcd.io/bbolt"
)

// How tables are found in a file that may be damaged. bbolt believes what a page says: it follows a page that leads back
// to itself until the program has no stack left, copies a key of whatever size, and makes of keys in disorder a tree that
// leads back. So this package reads pages itself, each with a check, and bbolt reads none that was not checked in the same
// transaction:
//
//   - Who only reads does without bbolt: [boltTree.find] goes down to the leaf in which a key is.
//   - Who writes needs bbolt, which has what the transaction has changed. Before bbolt goes anywhere, find goes there.
//   - A commit reads, besides, pages beside those that keys were removed from, to merge them: see checkMerges.
//
// In a transaction bbolt reads no pages but those of the last commit, and writes none of them before it commits.

// maxLevels is more than the levels of any tree: a branch of bbolt's leads to two pages or more, most to a hundred.
const maxLevels = 48

// corrupt is an ErrCorrupt that says what was found.
func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrCorrupt}, args...)...)
}

// subtree is a page and all below it, with what its parent says of its keys: which is the first, and which is the first
// after it. A root has no parent, and a nil low; a nil high is no bound.
type subtree struct {
	page      uint64
	low, high []byte
}

// node is a page of a tree. A leaf's elements have flags, where the key is, counted from the element, the key's size and
// the value's, which follows the key (4 bytes each). A branch's have where the key is, the key's size, and the page below
// (8 bytes).
type node struct {
	page []byte
	leaf bool
}

// node reads a page of a tree, and checks that it is as bbolt would have written it in that place. Of a page that is known
// the elements were found in order before, and only the place is checked.
func (p *pageFile) node(at subtree, flags uint32, known bool) (node, error) {
	page, kind, ok := p.pageOf(at.page)
	n := node{page, kind == pageLeaf}
	if !ok || kind != pageLeaf && kind != pageBranch {
		return node{}, corrupt("page %d cannot be read", at.page)
	}
	if !known && !p.checked.has(at.page) {
		end, ok := n.check(flags)
		if !ok || (end+boltPageSize-1)/boltPageSize != len(page)/boltPageSize {
			return node{}, corrupt("the elements of page %d are not in order", at.page)
		}
		p.checked.add(at.page)
	}
	switch last := n.count() - 1; {
	case last < 0 && n.leaf && at.low == nil:
	case last < 0,
		at.low != nil && !bytes.Equal(n.key(0), at.low),
		at.high != nil && bytes.Compare(n.key(last), at.high) >= 0:
		return node{}, corrupt("page %d has keys of another place", at.page)
	}
	return n, nil
}

// checkedPages remembers pages whose elements were found in order, for who only reads. A page that is written anew stays
// in it: this process wrote it. One that is damaged later is no danger to a reader: what leads out of the page is a panic
// of Go's, which is contained, and what does not is no larger than the page. It is safe for concurrent use.
type checkedPages struct {
	bits atomic.Pointer[[]atomic.Uint64]
}

func (c *checkedPages) has(id uint64) bool {
	if c == nil {
		return false
	}
	bits := c.bits.Load()
	return bits != nil && id/64 < uint64(len(*bits)) && (*bits)[id/64].Load()>>(id%64)&1 == 1
}

// add may lose pages that are added at the same time: they are checked again.
func (c *checkedPages) add(id uint64) {
	if c == nil {
		return
	}
	bits := c.bits.Load()
	if bits == nil || id/64 >= uint64(len(*bits)) {
		more := make([]atomic.Uint64, 2*(id/64+1))
		if bits != nil {
			for i := range *bits {
				more[i].Store((*bits)[i].Load())
			}
		}
		bits = &more
		c.bits.Store(bits)
	}
	(*bits)[id/64].Or(1 << (id % 64))
}

// check reports whether the elements lie one behind the other, in the order of their keys, none of which is empty, and
// where they end.
func (n node) check(flags uint32) (end int, ok bool) {
	end = pageHeader + n.count()*elementSize
	if end > len(n.page) {
		return 0, false
	}
	var last []byte
	for i := range n.count() {
		e := n.element(i)
		at, key, value := n.place(e)
		if at != uint32(end-(pageHeader+i*elementSize)) || key > MaxEngineKey || value > MaxEngineValue {
			return 0, false
		}
		if int(key+value) > len(n.page)-end {
			return 0, false
		}
		k, v := n.page[end:][:key], n.page[end:][key:key+value]
		if bytes.Compare(last, k) >= 0 || n.leaf && !checkValue(binary.LittleEndian.Uint32(e[:]), flags, v) {
			return 0, false
		}
		last, end = k, end+int(key+value)
	}
	return end, true
}

// checkValue reports whether an element of a leaf has the flags that it should have, and a table's value is one.
func checkValue(has, flags uint32, value []byte) bool {
	if has == bucketFlag && flags == bucketFlag {
		_, _, err := tableRoot(value)
		return err == nil
	}
	return has == flags
}

func (n node) count() int { return pageElements(n.page) }

func (n node) element(i int) *[elementSize]byte {
	return (*[elementSize]byte)(n.page[pageHeader+i*elementSize:])
}

// place returns where an element's key is, counted from the element, and the sizes of key and value.
func (n node) place(e *[elementSize]byte) (at, key, value uint32) {
	if n.leaf {
		return binary.LittleEndian.Uint32(e[4:]), binary.LittleEndian.Uint32(e[8:]), binary.LittleEndian.Uint32(e[12:])
	}
	return binary.LittleEndian.Uint32(e[0:]), binary.LittleEndian.Uint32(e[4:]), 0
}

func (n node) key(i int) []byte {
	at, key, _ := n.place(n.element(i))
	return n.page[pageHeader+i*elementSize+int(at):][:key]
}

func (n node) value(i int) []byte {
	at, key, value := n.place(n.element(i))
	return n.page[pageHeader+i*elementSize+int(at+key):][:value]
}

// search returns the first element whose key is not less than key, and whether it is key's.
func (n node) search(key []byte) (i int, found bool) {
	i = sort.Search(n.count(), func(i int) bool { return bytes.Compare(n.key(i), key) >= 0 })
	return i, i < n.count() && bytes.Equal(n.key(i), key)
}

// below returns the ith subtree below a branch.
func (n node) below(i int, at subtree) subtree {
	s := subtree{binary.LittleEndian.Uint64(n.element(i)[8:]), n.key(i), at.high}
	if i+1 < n.count() {
		s.high = n.key(i + 1)
	}
	return s
}

// branchFor returns which subtree below a branch has key, or would have it.
func (n node) branchFor(key []byte) int {
	i, found := n.search(key)
	if !found && i > 0 {
		i--
	}
	return i
}

// tableRoot reads what the tree of tables has for one: the page of its root, or, of a small table, the only page itself.
func tableRoot(value []byte) (root subtree, inline node, err error) {
	if len(value) < bucketHeader {
		return root, inline, corrupt("it is none")
	}
	root.page, inline = binary.LittleEndian.Uint64(value), node{value[bucketHeader:], true}
	if root.page != 0 {
		if len(inline.page) > 0 {
			err = corrupt("it has a root, and more")
		}
		return root, node{}, err
	}
	end, ok := inline.check(0)
	if !ok || end != len(inline.page) || binary.LittleEndian.Uint16(inline.page[8:]) != pageLeaf {
		return root, node{}, corrupt("its elements are not in order")
	}
	return root, inline, nil
}

// boltTables is the tables of one commit. It is valid as long as the transaction that it is for, and what is in it may be
// touched only where faults are contained.
type boltTables struct {
	pages  pageFile
	all    boltTree // the tree of tables: from names to roots
	tables map[string]*boltTree
	// claims has, for who writes, what leads to each page that was read. bbolt would take a page that two lead to for one
	// and the same.
	claims map[uint64]claim
}

// claim is what leads to a page.
type claim struct {
	tree *boltTree
	page uint64
}

// boltTree is one tree of a commit.
type boltTree struct {
	*boltTables
	flags  uint32 // of the elements of its leaves
	root   subtree
	inline node // if root has no page
	levels int  // for who writes: above the leaves, once one was read
}

// newBoltTables returns the tables that tx sees, or, if it writes, those of the last commit. It is called where faults are
// contained: bbolt reads the first byte of its map to tell where that is.
func newBoltTables(tx *bbolt.Tx, checked *checkedPages) *boltTables {
	data := tx.DB().Info().Data
	mapped := unsafe.Slice((*byte)(*(*unsafe.Pointer)(unsafe.Pointer(&data))), tx.Size())
	t := &boltTables{
		pages:  pageFile{mapped: mapped, count: uint64(tx.Size() / boltPageSize), checked: checked},
		tables: make(map[string]*boltTree),
	}
	t.all = boltTree{boltTables: t, flags: bucketFlag, root: subtree{page: uint64(tx.Cursor().Bucket().Root())}, levels: -1}
	if tx.Writable() {
		t.claims = make(map[uint64]claim)
	}
	return t
}

// find returns the leaf of a table in which key is or would be, and the first key that is past it, or nil.
func (t *boltTables) find(table string, key []byte) (leaf node, after []byte, err error) {
	tree, err := t.table(table)
	if err != nil {
		return leaf, nil, err
	}
	return tree.find(key)
}

// findTwo is find, and reads the next leaf too, where bbolt goes on from the end of one.
func (t *boltTables) findTwo(table string, key []byte) (after []byte, err error) {
	_, after, err = t.find(table, key)
	if err == nil && after != nil {
		_, _, err = t.find(table, after)
	}
	return after, err
}

// table returns the tree of a table, which is empty if there is none.
func (t *boltTables) table(name string) (*boltTree, error) {
	if tree := t.tables[name]; tree != nil {
		return tree, nil
	}
	leaf, _, err := t.all.find([]byte(name))
	if err != nil {
		return nil, err
	}
	tree := &boltTree{boltTables: t, levels: -1}
	if i, found := leaf.search([]byte(name)); found {
		if tree.root, tree.inline, err = tableRoot(leaf.value(i)); err != nil {
			return nil, fmt.Errorf("table %q: %w", name, err)
		}
	}
	t.tables[name] = tree
	return tree, nil
}

// checkCommit reads what bbolt reads besides when it commits the transaction id, in which keys were removed from tables.
func (t *boltTables) checkCommit(id int, removed map[string][][]byte) error {
	m, _ := (&pageFile{r: bytes.NewReader(t.pages.mapped)}).meta()
	if m.tx+1 != uint64(id) {
		return errLastLost
	}
	if err := t.checkMarker(m); err != nil {
		return err
	}
	if _, ok := t.pages.freelist(m.freelist); !ok {
		return corrupt("the list of free pages, page %d, cannot be read", m.freelist)
	}
	for name, keys := range removed {
		tree, err := t.table(name)
		if err == nil {
			err = tree.checkMerges(keys)
		}
		if err != nil {
			return fmt.Errorf("table %q: %w", name, err)
		}
	}
	return nil
}

// find is [boltTables.find] in one tree.
func (t *boltTree) find(key []byte) (leaf node, after []byte, err error) {
	if t.root.page == 0 {
		return t.inline, nil, nil
	}
	at, from := t.root, uint64(0)
	for level := range maxLevels {
		n, err := t.node(at, from, level)
		if err != nil || n.leaf {
			return n, at.high, err
		}
		at, from = n.below(n.branchFor(key), at), at.page
	}
	return node{}, nil, corrupt("there is no end below page %d", t.root.page)
}

// node reads a page that is so many levels below the root, and that the page from leads to.
func (t *boltTree) node(at subtree, from uint64, level int) (node, error) {
	c := claim{t, from}
	claimed, known := t.claims[at.page]
	if known && claimed != c {
		return node{}, corrupt("page %d is in two places", at.page)
	}
	n, err := t.pages.node(at, t.flags, known)
	if err != nil || t.claims == nil {
		return n, err
	}
	if n.leaf && t.levels < 0 {
		t.levels = level
	}
	if t.levels >= 0 && n.leaf != (level == t.levels) {
		return n, corrupt("page %d has not as many levels above it as other leaves", at.page)
	}
	t.claims[at.page] = c
	return n, nil
}

// checkMerges reads the pages that bbolt may read besides when it commits that keys were removed. It merges a leaf that
// has become small with the one before it or, if that has another parent, with the one after it. That removes one from a
// branch, which may merge then in the same way, once for each that it loses. So it goes no further from the way to a key
// that was removed than one leaf, and than one branch for each such key.
func (t *boltTree) checkMerges(removed [][]byte) error {
	if t.root.page == 0 {
		return nil
	}
	slices.SortFunc(removed, bytes.Compare)
	row := []place{{subtree: t.root}}
	for level := range t.levels {
		nodes := make([]node, len(row))
		var below []child
		for p, at := range row {
			n, err := t.node(at.subtree, at.from, level)
			if err != nil {
				return err
			}
			nodes[p] = n
			for i := range n.count() {
				below = append(below, child{int32(p), int32(i)})
			}
		}
		reach := len(removed)
		if level+1 == t.levels {
			reach = 1
		}
		var next []place
		for _, c := range around(nodes, below, removed, reach) {
			next = append(next, place{nodes[c.parent].below(int(c.i), row[c.parent].subtree), row[c.parent].page})
		}
		row = next
	}
	for _, at := range row {
		if _, err := t.node(at.subtree, at.from, t.levels); err != nil {
			return err
		}
	}
	return nil
}

// place is a subtree, and the page that leads to it.
type place struct {
	subtree
	from uint64
}

// child is the ith subtree below one of some branches.
type child struct{ parent, i int32 }

// around returns those of a row of subtrees that have one of some keys, and reach more on either side of each.
func around(branches []node, row []child, keys [][]byte, reach int) (some []child) {
	next := 0
	for _, key := range keys {
		after := sort.Search(len(row), func(i int) bool {
			return bytes.Compare(branches[row[i].parent].key(int(row[i].i)), key) > 0
		})
		i := max(0, after-1)
		first, end := max(next, i-reach), min(len(row), i+reach+1)
		if first < end {
			some = append(some, row[first:end]...)
			next = end
		}
	}
	return some
}
