package boltpage

import (
	"encoding/binary"
	"hash/fnv"
	"io"
	"io/fs"
)

// A file begins with two meta pages, which the commits write in turn: a commit with an even number
// writes page 0, and one with an odd number writes page 1. Each says where the pages of its commit
// are, and has a checksum.

const (
	metaSize     = 64 // with its checksum, the last 8 bytes
	boltMagic    = 0xED0CDAED
	boltVersion  = 2
	noFreelist   = 1<<64 - 1 // of a file that keeps no list of free pages; stores keep one
	manyFree     = 0xffff    // a count in the header of a freelist: the real count is in the list
	metaPageSize = 8
	metaRoot     = 16
	metaFreelist = 32
	metaEnd      = 40
	metaCommit   = 48
)

// ErrLastLost is the [Error] of a file whose last commit is known from elsewhere, and is not what
// the meta pages say.
var ErrLastLost = damaged("the meta page of the last commit cannot be read")

// Meta is what a meta page says of a commit.
type Meta struct {
	Commit   uint64 // the number of the commit
	Root     uint64 // the page that leads to all tables
	Freelist uint64 // the page with the list of free pages
	End      uint64 // the first page that was never in use
}

// ReadMeta returns the last commit that a meta page tells of, and how many of the two meta pages
// can be believed. The commits of the two follow each other. Where they do not, one of the pages is
// of an earlier state, perhaps in the place of the last commit, and only one page counts.
func ReadMeta(r io.ReaderAt) (last Meta, sound int) {
	for id := range int64(2) {
		m, ok := readMetaPage(r, id)
		if !ok {
			continue
		}
		sound++
		if sound == 2 && m.Commit != last.Commit+1 && m.Commit+1 != last.Commit {
			sound = 1
		}
		if last.End == 0 || m.Commit > last.Commit {
			last = m
		}
	}
	return last, sound
}

func readMetaPage(r io.ReaderAt, id int64) (m Meta, ok bool) {
	page := make([]byte, pageHeader+metaSize)
	if _, err := r.ReadAt(page, id*PageSize); err != nil {
		return Meta{}, false
	}
	p := page[pageHeader:]
	number := func(at int) uint64 { return binary.LittleEndian.Uint64(p[at:]) }
	if !isMeta(p) || binary.LittleEndian.Uint32(p[metaPageSize:]) != PageSize {
		return Meta{}, false
	}
	return Meta{Commit: number(metaCommit), Root: number(metaRoot), Freelist: number(metaFreelist), End: number(metaEnd)}, true
}

// CheckUnlocked refuses a file that bbolt must not even open, for reading only or also for writing.
// bbolt writes to a file that has no list of free pages, allocates what a damaged list asks for,
// reads past the end of a file that is cut short, and on Windows makes a file as large as its map.
//
// The caller need not hold the lock on the file. So another process may be writing to it.
//
// Errors: an [Error]; a [ForeignError] if the file never was a store; or the operating system's
// error.
func CheckUnlocked(f StatReader, readOnly bool) error {
	for {
		m, sound := ReadMeta(f)
		info, err := f.Stat()
		switch {
		case err != nil:
			return err
		case info.Size() == 0:
			return foreign("the file is empty")
		case sound == 0:
			return withoutMeta(f, info.Size())
		case m.Freelist == noFreelist:
			return foreign("it is a bbolt file of another program")
		case uint64(info.Size()) < m.End*PageSize:
			return damaged("the file is cut short: it has %d bytes of %d", info.Size(), m.End*PageSize)
		case readOnly:
			return nil
		}
		if _, ok := NewPages(f, m.End).free(m.Freelist); ok {
			return nil
		}
		// Another process may have written a new list over this one. That takes two commits.
		if now, _ := ReadMeta(f); now == m {
			return damaged("the list of free pages cannot be read")
		}
	}
}

// withoutMeta tells a damaged store from a file that never was one, if neither meta page can be
// read.
func withoutMeta(r io.ReaderAt, size int64) error {
	for id := range int64(2) {
		if page := (&[pageHeader + metaSize]byte{}); readFull(r, page[:], id*PageSize) {
			p := page[pageHeader:]
			if n := binary.LittleEndian.Uint32(p[metaPageSize:]); id == 0 && isMeta(p) && n != PageSize {
				return foreign("it is a bbolt file of another program, with pages of %d bytes", n)
			}
			if binary.LittleEndian.Uint32(p) == boltMagic {
				return damaged("no meta page can be read")
			}
		}
	}
	// A page of bbolt begins with its own number. A few of them tell a store of which only the
	// first pages are lost.
	for id := int64(2); id < min(size/PageSize, pagesToRecognize); id++ {
		head := make([]byte, pageHeader)
		if !readFull(r, head, id*PageSize) {
			break
		}
		flags := binary.LittleEndian.Uint16(head[8:])
		if binary.LittleEndian.Uint64(head) == uint64(id) && (flags == pageLeaf || flags == pageBranch || flags == pageFreelist) {
			return damaged("no meta page can be read")
		}
	}
	return foreign("it has no page of a store")
}

// pagesToRecognize is how many pages are read at the most to recognize a damaged store.
const pagesToRecognize = 1024

func readFull(r io.ReaderAt, b []byte, at int64) bool {
	n, _ := r.ReadAt(b, at)
	return n == len(b)
}

// isMeta reports whether p is a meta page with a right checksum, whatever the size of the file's
// pages.
func isMeta(p []byte) bool {
	sum := fnv.New64a()
	sum.Write(p[:metaSize-8])
	return binary.LittleEndian.Uint32(p) == boltMagic && binary.LittleEndian.Uint32(p[4:]) == boltVersion &&
		binary.LittleEndian.Uint64(p[metaSize-8:]) == sum.Sum64()
}

// StatReader is what [CheckUnlocked] needs of a file.
type StatReader interface {
	io.ReaderAt
	Stat() (fs.FileInfo, error)
}

// freelistPages returns the number of pages that bbolt takes for a list of n free pages.
func freelistPages(n uint64) uint64 {
	if n >= manyFree {
		n++
	}
	return (pageHeader+8*n)/PageSize + 1
}

// freelist returns the list of free pages, if its size can be believed.
func (p *Pages) freelist(id uint64) (list []byte, ok bool) {
	page, ok := p.page(id, pageFreelist)
	if !ok {
		return nil, false
	}
	n, list := uint64(elementCount(page)), page[pageHeader:]
	if n == manyFree {
		n, list = max(n, binary.LittleEndian.Uint64(list)), list[8:]
	}
	// bbolt first takes pages for the list itself, from the free pages if it can. Then it lists the
	// pages that are left.
	size := uint64(len(page) / PageSize)
	if n > p.count || size != freelistPages(n) && size != freelistPages(n+size) {
		return nil, false
	}
	return list[:n*8], true
}

// free returns the free pages, if the list of them can be believed: it is in order, and all pages
// in it are within the file.
func (p *Pages) free(id uint64) (free pageSet, ok bool) {
	list, ok := p.freelist(id)
	if !ok {
		return nil, false
	}
	free = newPageSet(p.count)
	previous := uint64(1)
	for ; len(list) > 0; list = list[8:] {
		f := binary.LittleEndian.Uint64(list)
		if f <= previous || f >= p.count {
			return nil, false
		}
		free.add(f)
		previous = f
	}
	return free, true
}
