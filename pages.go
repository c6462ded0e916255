package latchkey

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
)

// pageFile reads the pages of a bbolt file, trusting none. bbolt's own reading ends the program where a page leads past
// the end of the file or back to itself, copies whatever size a page names, and one bad page hides all below it.
//
// A page begins with its number (8 bytes), flags (2), count of elements (2), and how many pages more it takes (4), all
// in the order of bytes of the machine that wrote it: little-endian on all that this package is built for.
type pageFile struct {
	r      io.ReaderAt
	mapped []byte // in place of r: the pages, where bbolt has them in memory
	count  uint64
	// checked has pages of trees that need not be checked once more; nil for none.
	checked *checkedPages
}

const (
	pageHeader     = 16
	pageBranch     = 0x01
	pageLeaf       = 0x02
	pageFreelist   = 0x10
	elementSize    = 16
	bucketFlag     = 0x01 // of a leaf's element: its value is a bucket
	bucketHeader   = 16   // root page (8 bytes), 0 if the bucket's one page follows inline; sequence (8)
	bucketSequence = 8
	metaSize       = 64 // with its checksum, the last 8 bytes
	metaCommit     = 48 // where in it the number of the commit is (8 bytes)
	boltMagic      = 0xED0CDAED
	boltVersion    = 2
	noFreelist     = 1<<64 - 1 // of a file that keeps no list of free pages; ours do
	manyFree       = 0xffff    // a count in the header of a list of free pages: too many for it, the count comes first
	// maxNodePages is how many pages a page of a tree can take: bbolt splits what has more than four elements.
	maxNodePages = (pageHeader+4*(elementSize+MaxEngineKey+MaxEngineValue))/boltPageSize + 1
)

// page returns a page of a kind with those that belong to it, if its header can be believed.
func (p *pageFile) page(id uint64, flags uint16) (page []byte, ok bool) {
	page, is, ok := p.pageOf(id)
	return page, ok && is == flags
}

// pageOf returns a page with those that belong to it, and its kind, if its header can be believed.
func (p *pageFile) pageOf(id uint64) (page []byte, flags uint16, ok bool) {
	if page, ok = p.read(id, 1); !ok {
		return nil, 0, false
	}
	flags = binary.LittleEndian.Uint16(page[8:])
	size, largest := 1+uint64(binary.LittleEndian.Uint32(page[12:])), uint64(maxNodePages)
	if flags == pageFreelist {
		largest = freelistPages(p.count)
	}
	if binary.LittleEndian.Uint64(page) != id || size > min(largest, p.count-id) {
		return nil, 0, false
	}
	if size > 1 {
		page, ok = p.read(id, size)
	}
	return page, flags, ok
}

// read reads pages, the last of which the file may end in.
func (p *pageFile) read(id, pages uint64) (page []byte, ok bool) {
	switch {
	case id >= p.count || pages > p.count-id:
		return nil, false
	case p.mapped != nil:
		end := (id + pages) * boltPageSize
		return p.mapped[id*boltPageSize : end : end], true // without the end, a slice of it could reach into the next page
	}
	page = make([]byte, pages*boltPageSize)
	n, _ := p.r.ReadAt(page, int64(id)*boltPageSize)
	return page, n >= pageHeader
}

// leaf returns the leaf page at id, or nil for a page of another kind, and how many pages it takes. It is not ok if there
// is neither a page nor a blank.
func (p *pageFile) leaf(id uint64) (page []byte, size uint64, ok bool) {
	page, flags, ok := p.pageOf(id)
	size = uint64(len(page) / boltPageSize)
	switch {
	case ok && flags == pageLeaf:
		return page, size, true
	case ok && (flags == pageBranch || flags == pageFreelist):
		return nil, size, true
	}
	blank := make([]byte, boltPageSize)
	_, err := p.r.ReadAt(blank, int64(id)*boltPageSize)
	return nil, 1, err == nil && len(bytes.Trim(blank, "\x00")) == 0
}

// eachLeaf calls fn with the entries of a leaf page, and of the buckets that are inline in it.
func eachLeaf(page []byte, fn func(k, v []byte)) {
	eachElement(page, func(flags uint32, k, v []byte) {
		if flags&bucketFlag == 0 {
			fn(k, v)
			return
		}
		if len(v) > bucketHeader+pageHeader && binary.LittleEndian.Uint64(v) == 0 {
			eachElement(v[bucketHeader:], func(flags uint32, k, v []byte) {
				if flags&bucketFlag == 0 {
					fn(k, v)
				}
			})
		}
	})
}

// pageElements is how many elements a page says it has.
func pageElements(page []byte) int {
	if len(page) < pageHeader {
		return 0
	}
	return int(binary.LittleEndian.Uint16(page[10:]))
}

// eachElement calls fn with the elements of a leaf page that lie within it.
func eachElement(page []byte, fn func(flags uint32, k, v []byte)) {
	for i := range pageElements(page) {
		at := uint64(pageHeader + i*elementSize)
		if at+elementSize > uint64(len(page)) {
			return
		}
		e := page[at:]
		key := at + uint64(binary.LittleEndian.Uint32(e[4:]))
		value := key + uint64(binary.LittleEndian.Uint32(e[8:]))
		end := value + uint64(binary.LittleEndian.Uint32(e[12:]))
		if end <= uint64(len(page)) {
			fn(binary.LittleEndian.Uint32(e), page[key:value], page[value:end])
		}
	}
}

// live tells which pages are of the last commit, and whether it is sure of that. It is sure when both meta pages and the
// list of free pages can be read: what is on the list, or past the end, is of another commit. Without one of the meta
// pages that may be the last, and without the list only what can be reached from the root is known to be live.
//
// last has which pages are of each commit that may be the last: one, or two if the later one's meta page may be lost. It has
// none if that cannot be told.
func (p *pageFile) live() (live func(id uint64) bool, sure bool, last []func(id uint64) bool) {
	m, metas := p.meta()
	if metas == 0 {
		return func(uint64) bool { return false }, false, nil
	}
	reached := p.reach(m.root)
	free, listed := p.free(m.freelist)
	agree := true
	for id := range p.count {
		agree = agree && !(free.has(id) && reached.has(id))
	}
	live = reached.has
	if listed && agree {
		live = func(id uint64) bool { return !free.has(id) && id < m.end }
	}
	switch {
	case !agree:
		return live, false, nil
	case metas == 2:
		return live, listed, append(last, live)
	}
	switch next, known := p.nextRoot(m, live); {
	case known && next == 0:
		last = append(last, live)
	case known:
		last = append(last, live, p.reach(next).has)
	}
	return live, false, last
}

// nextRoot finds the root of the commit after one: its own last one, whose meta page is lost, or one that a power cut ended.
// It is 0 if there is none. It is not known if there is a page that can have been it.
func (p *pageFile) nextRoot(m boltMeta, live func(id uint64) bool) (root uint64, known bool) {
	if commit, ok := p.rootCommit(m.root); !ok || commit != m.tx {
		return 0, false // of an early build, which did not number commits
	}
	for id := uint64(2); id < p.count; {
		_, size, ok := p.leaf(id)
		if !ok && !live(id) {
			return 0, false
		}
		if commit, ok := p.rootCommit(id); ok && commit == m.tx+1 {
			if root != 0 {
				return 0, false // a commit that failed left one, and that which was made in its place has the other
			}
			root = id
		}
		id += size
	}
	return root, true
}

// rootCommit returns the number of the commit that a root page is of.
func (p *pageFile) rootCommit(id uint64) (commit uint64, ok bool) {
	page, _ := p.page(id, pageLeaf)
	eachElement(page, func(flags uint32, k, v []byte) {
		if flags&bucketFlag != 0 && string(k) == boltMarker && len(v) >= bucketHeader {
			commit, ok = binary.LittleEndian.Uint64(v[bucketSequence:]), true
		}
	})
	return commit, ok
}

// boltMeta is what a meta page says of a commit.
type boltMeta struct {
	root, freelist, tx uint64
	end                uint64 // the first page that was never in use
}

// meta returns the last commit that a meta page tells of, and how many of the two can be believed. They are of commits
// that follow each other: where they are not, one is of an earlier state, and perhaps instead of the last.
func (p *pageFile) meta() (last boltMeta, metas int) {
	for id := range int64(2) {
		page := make([]byte, pageHeader+metaSize)
		if _, err := p.r.ReadAt(page, id*boltPageSize); err != nil {
			continue
		}
		m := page[pageHeader:]
		sum := fnv.New64a()
		sum.Write(m[:metaSize-8])
		if binary.LittleEndian.Uint32(m) != boltMagic || binary.LittleEndian.Uint32(m[4:]) != boltVersion ||
			binary.LittleEndian.Uint32(m[8:]) != boltPageSize || binary.LittleEndian.Uint64(m[metaSize-8:]) != sum.Sum64() {
			continue
		}
		metas++
		tx := binary.LittleEndian.Uint64(m[metaCommit:])
		if metas == 2 && tx != last.tx+1 && tx+1 != last.tx {
			metas = 1
		}
		if last.end == 0 || tx > last.tx {
			last = boltMeta{
				root: binary.LittleEndian.Uint64(m[16:]), freelist: binary.LittleEndian.Uint64(m[32:]),
				end: binary.LittleEndian.Uint64(m[40:]), tx: tx,
			}
		}
	}
	return last, metas
}

// reach returns the pages that can be reached from one.
func (p *pageFile) reach(id uint64) (reached pageSet) {
	reached = newPageSet(p.count)
	// Not by calling itself: a page that claims to have many more would be held until the end.
	for next := []uint64{id}; len(next) > 0; {
		id := next[len(next)-1]
		next = next[:len(next)-1]
		if id < 2 || id >= p.count || reached.has(id) {
			continue
		}
		page, flags, ok := p.pageOf(id)
		if !ok || flags != pageLeaf && flags != pageBranch {
			continue
		}
		for i := range uint64(len(page) / boltPageSize) {
			reached.add(id + i)
		}
		if flags == pageBranch {
			for _, b := range branches(page) {
				next = append(next, b.page)
			}
			continue
		}
		eachElement(page, func(flags uint32, _, v []byte) {
			if flags&bucketFlag != 0 && len(v) >= bucketHeader {
				next = append(next, binary.LittleEndian.Uint64(v))
			}
		})
	}
	return reached
}

// branch is an element of a branch page: a page below, and its first key.
type branch struct {
	key  []byte
	page uint64
}

// branches returns the elements of a branch page that lie within it. One has where its key is (4 bytes), the key's size
// (4), and the page below (8).
func branches(page []byte) (all []branch) {
	for i := range pageElements(page) {
		at := uint64(pageHeader + i*elementSize)
		if at+elementSize > uint64(len(page)) {
			return all
		}
		key := at + uint64(binary.LittleEndian.Uint32(page[at:]))
		end := key + uint64(binary.LittleEndian.Uint32(page[at+4:]))
		if end > uint64(len(page)) {
			continue
		}
		all = append(all, branch{page[key:end], binary.LittleEndian.Uint64(page[at+8:])})
	}
	return all
}

// pageCheck is a walk over the pages of a commit. No two may lead to the same page, nor one to a page that is free: bbolt
// would write over it.
type pageCheck struct {
	*pageFile
	report  func(error)
	stopped func() bool // whoever wants the findings wants no more
	// sampled leaves out the leaf pages of tables, but for one in each branch. They are ninety-nine pages in a hundred, and
	// are checked again before they are used.
	sampled bool

	owned pageSet
}

// check reports what is wrong with the pages of a commit.
func (c *pageCheck) check(m boltMeta) {
	c.count = min(c.count, m.end)
	c.owned = newPageSet(c.count)
	c.own(0, 2)
	free, ok := c.free(m.freelist)
	if ok {
		list, _ := c.page(m.freelist, pageFreelist)
		c.own(m.freelist, len(list)/boltPageSize)
	} else {
		c.report(corrupt("the list of free pages, page %d, cannot be read", m.freelist))
	}
	for id := range c.count {
		if free.has(id) {
			c.own(id, 1)
		}
	}
	c.checkTree(subtree{page: m.root}, bucketFlag, 0)
	if !ok || c.sampled || c.stopped() {
		return
	}
	for id := range c.count {
		if !c.owned.has(id) {
			c.report(corrupt("page %d is neither in use nor free", id))
		}
	}
}

// own enters pages into those that are in use or free, and reports one that is there already, or past the end.
func (c *pageCheck) own(id uint64, pages int) (first bool) {
	for ; pages > 0; id, pages = id+1, pages-1 {
		if id >= c.count || c.owned.has(id) {
			c.report(corrupt("page %d is in two places, or there is none", id))
			return false
		}
		c.owned.add(id)
	}
	return true
}

// checkTree checks a page, which is so many levels below a root, and all below it. It returns how many levels these are, or
// -1 where that cannot be told.
func (c *pageCheck) checkTree(at subtree, flags uint32, level int) (levels int) {
	if c.stopped() {
		return -1
	}
	n, err := c.node(at, flags, false)
	if err == nil && level > maxLevels {
		err = corrupt("page %d is more than %d levels below a root", at.page, maxLevels)
	}
	if err != nil {
		c.report(err)
		return -1
	}
	if !c.own(at.page, len(n.page)/boltPageSize) { // a page that leads back would be followed for ever
		return -1
	}
	if n.leaf {
		if flags == bucketFlag {
			c.checkTables(n)
		}
		return 0
	}
	levels = -1
	for i := range n.count() {
		below := n.below(i, at)
		if c.sampled && flags != bucketFlag && levels == 0 {
			c.own(below.page, 1)
			continue
		}
		l := c.checkTree(below, flags, level+1)
		if l >= 0 && levels >= 0 && l != levels {
			c.report(corrupt("below page %d there are %d levels in one place, and %d in another", at.page, levels, l))
		}
		levels = max(l, levels)
	}
	if levels < 0 {
		return -1
	}
	return levels + 1
}

// checkTables checks the tables in a leaf of the tree of tables.
func (c *pageCheck) checkTables(n node) {
	for i := range n.count() {
		root, _, err := tableRoot(n.value(i))
		if err != nil {
			c.report(fmt.Errorf("table %q: %w", n.key(i), err))
		} else if root.page != 0 {
			c.checkTree(root, 0, 0)
		}
	}
}

// freelistPages is how many pages bbolt takes for a list of n free pages.
func freelistPages(n uint64) uint64 {
	if n >= manyFree {
		n++
	}
	return (pageHeader+8*n)/boltPageSize + 1
}

// freelist returns the list of free pages, if its size can be believed.
func (p *pageFile) freelist(id uint64) (list []byte, ok bool) {
	page, ok := p.page(id, pageFreelist)
	if !ok {
		return nil, false
	}
	n, list := uint64(pageElements(page)), page[pageHeader:]
	if n == manyFree {
		n, list = max(n, binary.LittleEndian.Uint64(list)), list[8:]
	}
	// bbolt takes its pages first, from those that are free if it can, and writes then which are left.
	size := uint64(len(page) / boltPageSize)
	if n > p.count || size != freelistPages(n) && size != freelistPages(n+size) {
		return nil, false
	}
	return list[:n*8], true
}

// free reads the list of free pages, and reports whether it can be believed: in order, and within the file.
func (p *pageFile) free(id uint64) (free pageSet, ok bool) {
	list, ok := p.freelist(id)
	if !ok {
		return nil, false
	}
	free = newPageSet(p.count)
	last := uint64(1)
	for ; len(list) > 0; list = list[8:] {
		f := binary.LittleEndian.Uint64(list)
		if f <= last || f >= p.count {
			return nil, false
		}
		free.add(f)
		last = f
	}
	return free, true
}

// pageSet is a set of numbers of pages, a bit each.
type pageSet []uint64

func newPageSet(pages uint64) pageSet { return make(pageSet, pages/64+1) }

func (s pageSet) add(id uint64)      { s[id/64] |= 1 << (id % 64) }
func (s pageSet) has(id uint64) bool { return id/64 < uint64(len(s)) && s[id/64]>>(id%64)&1 == 1 }
