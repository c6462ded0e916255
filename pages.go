package latchkey

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
)

// pageFile reads the pages of a bbolt file, trusting none. bbolt's own reading ends the program where a page leads past
// the end of the file, in its Check in a goroutine where that cannot be contained, and one bad page hides all below it.
//
// A page begins with its number (8 bytes), flags (2), count of elements (2), and how many pages more it takes (4), all
// in the order of bytes of the machine that wrote it: little-endian on all that this package is built for.
type pageFile struct {
	r     io.ReaderAt
	count uint64
}

const (
	pageHeader   = 16
	pageBranch   = 0x01
	pageLeaf     = 0x02
	pageFreelist = 0x10
	elementSize  = 16
	bucketFlag   = 0x01 // of a leaf's element: its value is a bucket
	bucketHeader = 16   // root page (8 bytes), 0 if the bucket's one page follows inline; sequence (8)
	metaSize     = 64   // with its checksum, the last 8 bytes
	boltMagic    = 0xED0CDAED
	noFreelist   = 1<<64 - 1 // of a file that keeps no list of free pages; ours do
)

// page returns a page of a kind with those that belong to it, if its header can be believed.
func (p *pageFile) page(id uint64, flags uint16) (page []byte, ok bool) {
	page, is, ok := p.pageOf(id)
	return page, ok && is == flags
}

// pageOf returns a page with those that belong to it, and its kind, if its header can be believed.
func (p *pageFile) pageOf(id uint64) (page []byte, flags uint16, ok bool) {
	page = make([]byte, boltPageSize)
	if n, _ := p.r.ReadAt(page, int64(id)*boltPageSize); n < pageHeader {
		return nil, 0, false
	}
	more := uint64(binary.LittleEndian.Uint32(page[12:]))
	if binary.LittleEndian.Uint64(page) != id || more >= p.count-id {
		return nil, 0, false
	}
	if more > 0 {
		page = make([]byte, (more+1)*boltPageSize)
		if n, _ := p.r.ReadAt(page, int64(id)*boltPageSize); n < pageHeader {
			return nil, 0, false
		}
	}
	return page, binary.LittleEndian.Uint16(page[8:]), true
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
func (p *pageFile) live() (live func(id uint64) bool, sure bool) {
	m, metas := p.meta()
	if metas == 0 {
		return func(uint64) bool { return false }, false
	}
	reached := newPageSet(p.count)
	p.reach(m.root, reached)
	free, ok := p.free(m.freelist)
	for id := range p.count {
		ok = ok && !(free.has(id) && reached.has(id))
	}
	if !ok {
		return reached.has, false
	}
	return func(id uint64) bool { return !free.has(id) && id < m.end }, metas == 2
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
		if binary.LittleEndian.Uint32(m) != boltMagic || binary.LittleEndian.Uint64(m[metaSize-8:]) != sum.Sum64() {
			continue
		}
		metas++
		tx := binary.LittleEndian.Uint64(m[48:])
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

// reach enters what can be reached from a page.
func (p *pageFile) reach(id uint64, reached pageSet) {
	if id < 2 || id >= p.count || reached.has(id) {
		return
	}
	if page, ok := p.page(id, pageLeaf); ok {
		reached.add(id)
		eachElement(page, func(flags uint32, _, v []byte) {
			if flags&bucketFlag != 0 && len(v) >= bucketHeader {
				p.reach(binary.LittleEndian.Uint64(v), reached)
			}
		})
		return
	}
	page, ok := p.page(id, pageBranch)
	if !ok {
		return
	}
	reached.add(id)
	for _, b := range branches(page) {
		p.reach(b.page, reached)
	}
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

// checkBranches reads the branch pages and the list of free pages of a commit, and returns ErrCorrupt unless each page is
// led to once, and none that is free. bbolt follows a page that leads back to itself until the program has no stack
// left, so this comes before bbolt. In a large file it does not look at leaves, so it reads one page in a hundred.
func (p *pageFile) checkBranches(m boltMeta) error {
	p.count = min(p.count, m.end)
	seen, ok := p.free(m.freelist)
	if !ok {
		return fmt.Errorf("%w: the list of free pages cannot be read", ErrCorrupt)
	}
	if err := p.claim(m.root, m.freelist, seen); err != nil {
		return err
	}
	return p.checkBelow(m.root, false, seen)
}

// maxExactCheck is up to how many pages checkBranches looks at all of them: 16 MiB, some twenty thousand keys.
const maxExactCheck = 4 << 10

// claim enters a page into seen, and returns ErrCorrupt if it is there already. from leads to it.
func (p *pageFile) claim(id, from uint64, seen pageSet) error {
	if id < 2 || id >= p.count || seen.has(id) {
		return fmt.Errorf("%w: page %d leads to page %d, which is free, in use elsewhere, or none", ErrCorrupt, from, id)
	}
	seen.add(id)
	return nil
}

// checkBelow is checkBranches for the tree at a page: of one table, or of all the tables.
func (p *pageFile) checkBelow(id uint64, table bool, seen pageSet) error {
	page, flags, ok := p.pageOf(id)
	switch {
	case ok && flags == pageLeaf && table:
		return nil
	case ok && flags == pageLeaf:
		return p.checkTables(id, page, seen)
	case !ok || flags != pageBranch:
		return fmt.Errorf("%w: page %d cannot be read", ErrCorrupt, id)
	}
	below := branches(page)
	if len(below) == 0 || len(below) != pageElements(page) {
		return fmt.Errorf("%w: page %d cannot be read", ErrCorrupt, id)
	}
	for _, b := range below {
		if err := p.claim(b.page, id, seen); err != nil {
			return err
		}
	}
	if _, flags, ok := p.pageOf(below[0].page); table && ok && flags == pageLeaf && p.count > maxExactCheck {
		return nil // all leaves of a table should be at one depth
	}
	for _, b := range below {
		if err := p.checkBelow(b.page, table, seen); err != nil {
			return err
		}
	}
	return nil
}

// checkTables is checkBelow for the tables in a leaf.
func (p *pageFile) checkTables(id uint64, page []byte, seen pageSet) (err error) {
	eachElement(page, func(flags uint32, _, v []byte) {
		if err != nil || flags&bucketFlag == 0 || len(v) < bucketHeader {
			return
		}
		if root := binary.LittleEndian.Uint64(v); root != 0 {
			if err = p.claim(root, id, seen); err == nil {
				err = p.checkBelow(root, true, seen)
			}
		}
	})
	return err
}

// check reports what is wrong with the pages of a commit: with those that can be reached from the root, and with the list
// of those that are free.
func (p *pageFile) check(m boltMeta, report func(format string, args ...any)) {
	p.count = min(p.count, m.end)
	owned := newPageSet(p.count)
	owned.add(0)
	owned.add(1)
	own := func(id uint64, page []byte) (first bool) {
		first = true
		for i := range uint64(len(page) / boltPageSize) {
			if owned.has(id + i) {
				report("page %d is in two places", id+i)
				first = false
			}
			owned.add(id + i)
		}
		return first
	}
	free, ok := p.free(m.freelist)
	if !ok {
		report("the list of free pages, page %d, cannot be read", m.freelist)
	} else {
		page, _ := p.page(m.freelist, pageFreelist)
		own(m.freelist, page)
		one := make([]byte, boltPageSize)
		for id := range p.count {
			if free.has(id) {
				own(id, one)
			}
		}
	}
	p.checkTree(m.root, nil, nil, own, report)
	for id := range m.end {
		if ok && !owned.has(id) {
			report("page %d is neither in use nor free", id)
		}
	}
}

// checkTree checks the page at id and all below it. Its keys must be from low on and below high; nil is no bound.
func (p *pageFile) checkTree(id uint64, low, high []byte, own func(uint64, []byte) bool, report func(string, ...any)) {
	page, flags, ok := p.pageOf(id)
	switch {
	case !ok || flags != pageLeaf && flags != pageBranch:
		report("page %d cannot be read", id)
		return
	case !own(id, page): // or a page that leads back would be followed for ever
		return
	case flags == pageLeaf:
		p.checkLeaf(id, page, low, high, own, report)
		return
	}
	below := branches(page)
	if len(below) == 0 || len(below) != pageElements(page) {
		report("page %d leads out of itself", id)
		return
	}
	for i, b := range below {
		next := high
		if i+1 < len(below) {
			next = below[i+1].key
		}
		if outOfOrder(b.key, low, next) {
			report("keys are out of order in page %d", id)
			return
		}
		low = next
		p.checkTree(b.page, b.key, next, own, report)
	}
}

func (p *pageFile) checkLeaf(id uint64, page, low, high []byte, own func(uint64, []byte) bool, report func(string, ...any)) {
	n := 0
	eachElement(page, func(flags uint32, k, v []byte) {
		n++
		if outOfOrder(k, low, high) {
			report("keys are out of order in page %d", id)
		}
		low = append(bytes.Clone(k), 0)
		switch {
		case flags&bucketFlag == 0:
		case len(v) < bucketHeader:
			report("page %d has a bucket that is none", id)
		case binary.LittleEndian.Uint64(v) != 0:
			p.checkTree(binary.LittleEndian.Uint64(v), nil, nil, own, report)
		default:
			p.checkLeaf(id, v[bucketHeader:], nil, nil, own, report)
		}
	})
	if n != pageElements(page) {
		report("page %d leads out of itself", id)
	}
}

func outOfOrder(k, low, high []byte) bool {
	return low != nil && bytes.Compare(k, low) < 0 || high != nil && bytes.Compare(k, high) >= 0
}

// free reads the list of free pages, and reports whether it can be believed: in order, and within the file.
func (p *pageFile) free(id uint64) (free pageSet, ok bool) {
	page, ok := p.page(id, pageFreelist)
	if !ok {
		return nil, false
	}
	n, list := uint64(binary.LittleEndian.Uint16(page[10:])), page[pageHeader:]
	if n == 0xffff { // too many for the header: the count comes first
		n, list = binary.LittleEndian.Uint64(list), list[8:]
	}
	if n > uint64(len(list)/8) {
		return nil, false
	}
	free = newPageSet(p.count)
	last := uint64(1)
	for i := range n {
		f := binary.LittleEndian.Uint64(list[i*8:])
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
