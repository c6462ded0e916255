// Package boltpage reads the pages of a bbolt file, and trusts none of them.
//
// bbolt believes what its file says. It follows a page that leads back to itself until the program
// has no stack left. It copies as many bytes as a page names. One bad page hides all pages below
// it. This package checks each page before it uses the page, and says in an [Error] what is wrong.
//
//   - [ReadMeta] says which commit is the last, and where its pages are.
//   - [CheckUnlocked] refuses a file that bbolt must not open.
//   - [Tables] finds keys, and checks the pages that bbolt is about to read.
//   - [Pages.FindDamage] looks at all pages of a commit.
//   - [Pages.Live] tells the pages of the last commit from older pages, for a salvage.
package boltpage

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
)

const (
	// PageSize is the size of a page in bytes. It is the same on every machine, and flash memory is
	// written in blocks of this size.
	PageSize = 4096
	// Marker is the name of a bucket that every store has. It tells a store from other bbolt files.
	// Its sequence is the number of the commit. Its entry lies in the root page, so an earlier root
	// page gives itself away: its number differs from the number in the meta page.
	Marker = "latchkey"
	// MaxKey and MaxValue are the sizes of the largest key and the largest value in bytes.
	MaxKey   = 512
	MaxValue = 64 << 10
	// A tracked table has larger values.
	maxPageValue = placeSize + MaxValue
)

// A page begins with a header: its number (8 bytes), its flags (2), the count of its elements (2),
// and how many more pages belong to it (4). The bytes are in the order of the machine that wrote
// them, which is little-endian for every machine that this package is built for.
//
// The elements of a leaf and of a branch come next. Their keys and values follow the last element,
// in the order of the elements:
//
//	element of a leaf:    flags (4 bytes), where (4), size of the key (4), size of the value (4)
//	element of a branch:  where (4 bytes), size of the key (4), the page below (8)
//
// "Where" is the distance from the element to its key. A value follows its key.
const (
	pageHeader     = 16
	pageBranch     = 0x01
	pageLeaf       = 0x02
	pageFreelist   = 0x10
	elementSize    = 16
	bucketFlag     = 0x01 // of an element of a leaf: its value is a bucket
	bucketHeader   = 16   // root page (8 bytes), 0 if the only page follows inline; sequence (8)
	bucketSequence = 8
	// maxNodePages is how many pages a page of a tree can take. bbolt splits a page that has more
	// than four elements.
	maxNodePages = (pageHeader+4*(elementSize+MaxKey+maxPageValue))/PageSize + 1
)

// An Error says what is wrong with a file.
type Error struct{ text string }

func (e *Error) Error() string { return e.text }

func damaged(format string, args ...any) error { return &Error{fmt.Sprintf(format, args...)} }

// A ForeignError says why a file cannot ever have been a store.
type ForeignError struct{ text string }

func (e *ForeignError) Error() string { return e.text }

func foreign(format string, args ...any) error { return &ForeignError{fmt.Sprintf(format, args...)} }

// Pages are the pages of a file.
type Pages struct {
	r       io.ReaderAt // nil if the pages are mapped
	mapped  []byte
	count   uint64
	checked *Checked
}

// NewPages returns the first count pages of a file. The last page need not be complete.
func NewPages(r io.ReaderAt, count uint64) *Pages { return &Pages{r: r, count: count} }

// MappedPages returns pages that are in memory. They are used without a copy, so a page that the
// file no longer backs is a fault in whatever function touches it. A page of a tree that is in
// checked, which may be nil, is not checked again.
func MappedPages(mapped []byte, checked *Checked) *Pages {
	return &Pages{mapped: mapped, count: uint64(len(mapped) / PageSize), checked: checked}
}

// Count returns the number of pages.
func (p *Pages) Count() uint64 { return p.count }

// ReadAt reads bytes of the file as they are.
func (p *Pages) ReadAt(b []byte, at int64) (n int, err error) {
	if p.mapped != nil {
		return bytes.NewReader(p.mapped).ReadAt(b, at)
	}
	return p.r.ReadAt(b, at)
}

// page returns the page id, with the pages that belong to it. It reports false if the page is of
// another kind, or if its header cannot be believed.
func (p *Pages) page(id uint64, flags uint16) (page []byte, ok bool) {
	page, is, ok := p.pageOf(id)
	return page, ok && is == flags
}

// pageOf returns the page id, with the pages that belong to it, and its kind. It reports false if
// the header of the page cannot be believed.
func (p *Pages) pageOf(id uint64) (page []byte, flags uint16, ok bool) {
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

// read returns n pages from id on. The file may end within the last page.
func (p *Pages) read(id, n uint64) (pages []byte, ok bool) {
	if id >= p.count || n > p.count-id {
		return nil, false
	}
	if p.mapped != nil {
		end := (id + n) * PageSize
		// The third index keeps slices of the page from reaching into the next page.
		return p.mapped[id*PageSize : end : end], true
	}
	pages = make([]byte, n*PageSize)
	got, _ := p.r.ReadAt(pages, int64(id)*PageSize)
	return pages, got >= pageHeader
}

// Leaf returns the leaf page id and the number of pages that it takes. The page is nil if id is a
// page of another kind. ok is false if id is neither a page nor blank, nor the rest of an earlier
// list of free pages.
func (p *Pages) Leaf(id uint64) (page []byte, size uint64, ok bool) {
	page, flags, ok := p.pageOf(id)
	size = uint64(len(page) / PageSize)
	switch {
	case ok && flags == pageLeaf:
		return page, size, true
	case ok && (flags == pageBranch || flags == pageFreelist):
		return nil, size, true
	}
	rest := make([]byte, PageSize)
	_, err := p.ReadAt(rest, int64(id)*PageSize)
	return nil, 1, err == nil && p.isListRest(rest)
}

// isListRest reports whether a page is blank, or has the rest of an earlier list of free pages, of
// which the first page has been used again: numbers of pages in order, and then zeros.
func (p *Pages) isListRest(page []byte) bool {
	last, ended := uint64(1), false
	for ; len(page) > 0; page = page[8:] {
		switch n := binary.LittleEndian.Uint64(page); {
		case n == 0:
			ended = true
		case ended || n <= last || n >= p.count:
			return false
		default:
			last = n
		}
	}
	return true
}

// EachEntry calls fn with the entries of a leaf page, and of the buckets that are inline in it. It
// returns the number of entries that cannot be read, because they do not lie within the page.
func EachEntry(page []byte, fn func(k, v []byte)) (lost int) {
	inline := 0 // of the buckets
	lost = eachElement(page, func(flags uint32, k, v []byte) {
		if flags&bucketFlag == 0 {
			fn(k, v)
			return
		}
		if len(v) > bucketHeader+pageHeader && binary.LittleEndian.Uint64(v) == 0 {
			inline += eachElement(v[bucketHeader:], func(flags uint32, k, v []byte) {
				if flags&bucketFlag == 0 {
					fn(k, v)
				}
			})
		}
	})
	return lost + inline
}

// elementCount returns the number of elements that a page claims to have.
func elementCount(page []byte) int {
	if len(page) < pageHeader {
		return 0
	}
	return int(binary.LittleEndian.Uint16(page[10:]))
}

// eachElement calls fn with the elements of a leaf page that lie within the page, and returns the
// number of the others.
func eachElement(page []byte, fn func(flags uint32, k, v []byte)) (others int) {
	for i := range elementCount(page) {
		at := uint64(pageHeader + i*elementSize)
		if at+elementSize > uint64(len(page)) {
			return others + elementCount(page) - i
		}
		e := page[at:]
		key := at + uint64(binary.LittleEndian.Uint32(e[4:]))
		value := key + uint64(binary.LittleEndian.Uint32(e[8:]))
		end := value + uint64(binary.LittleEndian.Uint32(e[12:]))
		if end <= uint64(len(page)) {
			fn(binary.LittleEndian.Uint32(e), page[key:value], page[value:end])
		} else {
			others++
		}
	}
	return others
}

// branch is an element of a branch page: a page below, and its first key.
type branch struct {
	key  []byte
	page uint64
}

// branches returns the elements of a branch page that lie within the page.
func branches(page []byte) (elements []branch) {
	for i := range elementCount(page) {
		at := uint64(pageHeader + i*elementSize)
		if at+elementSize > uint64(len(page)) {
			return elements
		}
		key := at + uint64(binary.LittleEndian.Uint32(page[at:]))
		end := key + uint64(binary.LittleEndian.Uint32(page[at+4:]))
		if end <= uint64(len(page)) {
			elements = append(elements, branch{page[key:end], binary.LittleEndian.Uint64(page[at+8:])})
		}
	}
	return elements
}

// pageSet is a set of page numbers, with a bit for each page.
type pageSet []uint64

func newPageSet(pages uint64) pageSet { return make(pageSet, pages/64+1) }

func (s pageSet) add(id uint64)      { s[id/64] |= 1 << (id % 64) }
func (s pageSet) has(id uint64) bool { return id/64 < uint64(len(s)) && s[id/64]>>(id%64)&1 == 1 }
