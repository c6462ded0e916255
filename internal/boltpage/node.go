package boltpage

import (
	"bytes"
	"encoding/binary"
	"sort"
	"sync/atomic"
)

// subtree is a page with all pages below it. Its parent says which key is its first, low, and which
// key is the first after it, high. A root has no parent, so its low is nil. A nil high is no bound.
type subtree struct {
	page      uint64
	low, high []byte
}

// Node is a page of a tree: a branch, or a leaf.
type Node struct {
	page []byte
	leaf bool
}

// node reads a page of a tree, and checks that bbolt would have written it like that in that place.
// If known is set, the elements of the page were found in order before, and only the place is
// checked.
func (p *Pages) node(at subtree, flags uint32, known bool) (Node, error) {
	page, kind, ok := p.pageOf(at.page)
	n := Node{page, kind == pageLeaf}
	if !ok || kind != pageLeaf && kind != pageBranch {
		return Node{}, damaged("page %d cannot be read", at.page)
	}
	if !known && !p.checked.has(at.page) {
		end, ok := n.ordered(flags)
		if !ok || (end+PageSize-1)/PageSize != len(page)/PageSize {
			return Node{}, damaged("the elements of page %d are not in order", at.page)
		}
		p.checked.add(at.page)
	}
	switch last := n.Count() - 1; {
	case last < 0 && n.leaf && at.low == nil:
	case last < 0,
		at.low != nil && !bytes.Equal(n.Key(0), at.low),
		at.high != nil && bytes.Compare(n.Key(last), at.high) >= 0:
		return Node{}, damaged("page %d has keys of another place", at.page)
	}
	return n, nil
}

// Checked remembers pages whose elements were found in order, for readers. A page stays in it when
// it is written anew, because this process wrote it. If a checked page is damaged later, readers
// stay safe: an offset outside the page panics, and anything inside it is at most a page long.
//
// A Checked is safe for concurrent use. Its zero value has no pages.
type Checked struct {
	bits atomic.Pointer[[]atomic.Uint64]
}

func (c *Checked) has(id uint64) bool {
	if c == nil {
		return false
	}
	bits := c.bits.Load()
	return bits != nil && id/64 < uint64(len(*bits)) && (*bits)[id/64].Load()>>(id%64)&1 == 1
}

// add may lose pages that are added at the same time. Such pages are checked again.
func (c *Checked) add(id uint64) {
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

// ordered reports whether the elements lie one behind the other, in the order of their keys, none
// of which is empty. It returns where the last element ends.
func (n Node) ordered(flags uint32) (end int, ok bool) {
	end = pageHeader + n.Count()*elementSize
	if end > len(n.page) {
		return 0, false
	}
	var previous []byte
	for i := range n.Count() {
		e := n.element(i)
		at, key, value := n.extent(e)
		if at != uint32(end-(pageHeader+i*elementSize)) || key > MaxKey || value > maxPageValue {
			return 0, false
		}
		if int(key+value) > len(n.page)-end {
			return 0, false
		}
		k, v := n.page[end:][:key], n.page[end:][key:key+value]
		if bytes.Compare(previous, k) >= 0 || n.leaf && !validValue(binary.LittleEndian.Uint32(e[:]), flags, v) {
			return 0, false
		}
		previous, end = k, end+int(key+value)
	}
	return end, true
}

// validValue reports whether an element of a leaf has the flags that it should have, and whether
// the value of a table is one.
func validValue(has, flags uint32, value []byte) bool {
	if has == bucketFlag && flags == bucketFlag {
		_, _, err := tableRoot(value)
		return err == nil
	}
	return has == flags
}

// Count returns the number of elements. Key and Value take numbers below it.
func (n Node) Count() int { return elementCount(n.page) }

func (n Node) element(i int) *[elementSize]byte {
	return (*[elementSize]byte)(n.page[pageHeader+i*elementSize:])
}

// extent returns the distance from an element to its key, and the sizes of its key and value.
func (n Node) extent(e *[elementSize]byte) (at, key, value uint32) {
	if n.leaf {
		return binary.LittleEndian.Uint32(e[4:]), binary.LittleEndian.Uint32(e[8:]), binary.LittleEndian.Uint32(e[12:])
	}
	return binary.LittleEndian.Uint32(e[0:]), binary.LittleEndian.Uint32(e[4:]), 0
}

// Key returns the ith key. It is a part of the page.
func (n Node) Key(i int) []byte {
	at, key, _ := n.extent(n.element(i))
	return n.page[pageHeader+i*elementSize+int(at):][:key]
}

// Value returns the ith value of a leaf. It is a part of the page.
func (n Node) Value(i int) []byte {
	at, key, value := n.extent(n.element(i))
	return n.page[pageHeader+i*elementSize+int(at+key):][:value]
}

// Search returns the index of the first element whose key is not less than key. It reports whether
// that element has the key itself.
func (n Node) Search(key []byte) (i int, found bool) {
	i = sort.Search(n.Count(), func(i int) bool { return bytes.Compare(n.Key(i), key) >= 0 })
	return i, i < n.Count() && bytes.Equal(n.Key(i), key)
}

// below returns the ith subtree below a branch.
func (n Node) below(i int, at subtree) subtree {
	s := subtree{binary.LittleEndian.Uint64(n.element(i)[8:]), n.Key(i), at.high}
	if i+1 < n.Count() {
		s.high = n.Key(i + 1)
	}
	return s
}

// branchFor returns which subtree below a branch has key, or would have it.
func (n Node) branchFor(key []byte) int {
	i, found := n.Search(key)
	if !found && i > 0 {
		i--
	}
	return i
}

// tableRoot reads the value that the tree of tables has for a table: the page of its root, or, for
// a small table, its only page.
func tableRoot(value []byte) (root subtree, inline Node, err error) {
	if len(value) < bucketHeader {
		return root, inline, damaged("it is none")
	}
	root.page, inline = binary.LittleEndian.Uint64(value), Node{value[bucketHeader:], true}
	if root.page != 0 {
		if len(inline.page) > 0 {
			err = damaged("it has a root, and more")
		}
		return root, Node{}, err
	}
	end, ok := inline.ordered(0)
	if !ok || end != len(inline.page) || binary.LittleEndian.Uint16(inline.page[8:]) != pageLeaf {
		return root, Node{}, damaged("its elements are not in order")
	}
	return root, inline, nil
}
