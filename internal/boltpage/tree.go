package boltpage

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"iter"
	"maps"
	"sort"

	"github.com/latchkeydb/latchkey/internal/sorted"
)

// maxLevels is more than the levels of any tree. A branch leads to at least two pages, and most
// branches lead to a hundred.
const maxLevels = 48

// Tables are the tables of one commit, for one transaction of bbolt.
//
//   - A reader does without bbolt: Find goes down to the leaf that has a key.
//   - A writer needs bbolt, which has what the transaction has changed. Before bbolt goes to a key,
//     Find goes there.
//   - A commit also reads pages beside those that keys were removed from, to merge them.
//     CheckCommit goes to those pages.
//
// In a transaction bbolt reads no other pages than those of the last commit, and it writes none of
// them before it commits. So bbolt reads no page that was not checked in the same transaction.
type Tables struct {
	pages  Pages
	names  tree // the tree of tables, from their names to their roots
	tables map[string]*tree
	// claims has, for a writer, the link to each page that was read. bbolt would take a page with
	// two links for two pages.
	claims map[uint64]claim
}

// claim is a link to a page, from a page of a tree.
type claim struct {
	tree *tree
	page uint64
}

// tree is one tree of a commit.
type tree struct {
	*Tables
	flags  uint32 // of the elements of its leaves
	root   subtree
	inline Node // if root has no page
	tally  Tally
	levels int // above the leaves, for a writer that has read a leaf; otherwise -1
}

// NewTables returns the tables of the commit whose root is a page of pages. They are for a writer
// if writable is set, and otherwise for a reader.
func NewTables(pages *Pages, root uint64, writable bool) *Tables {
	t := &Tables{pages: *pages, tables: make(map[string]*tree)}
	t.names = tree{Tables: t, flags: bucketFlag, root: subtree{page: root}, levels: -1}
	if writable {
		t.claims = make(map[uint64]claim)
	}
	return t
}

// Find returns the leaf of a table that has key, or would have it, and the first key past that
// leaf, or nil if there is none.
//
// Errors: an [Error].
func (t *Tables) Find(table string, key []byte) (leaf Node, after []byte, err error) {
	tree, err := t.table(table)
	if err != nil {
		return leaf, nil, err
	}
	return tree.find(key)
}

// FindTwo finds a key as Find does, and reads the next leaf too, because bbolt goes on there from
// the end of a leaf. It returns the first key past the leaf of key, or nil if there is none.
//
// Errors: an [Error].
func (t *Tables) FindTwo(table string, key []byte) (after []byte, err error) {
	_, after, err = t.Find(table, key)
	if err == nil && after != nil {
		_, _, err = t.Find(table, after)
	}
	return after, err
}

// FindTable finds the name of a table as Find finds a key. The keys of the leaf are names.
//
// Errors: an [Error].
func (t *Tables) FindTable(name []byte) (leaf Node, after []byte, err error) {
	return t.names.find(name)
}

// Visited yields each page that was read for a writer. Of several pages that belong together, it
// yields only the first.
func (t *Tables) Visited() iter.Seq[uint64] { return maps.Keys(t.claims) }

// table returns the tree of a table, which is empty if there is none.
func (t *Tables) table(name string) (*tree, error) {
	if tree := t.tables[name]; tree != nil {
		return tree, nil
	}
	leaf, _, err := t.names.find([]byte(name))
	if err != nil {
		return nil, err
	}
	i, found := leaf.Search([]byte(name))
	if !found {
		t.tables[name] = &tree{Tables: t, levels: -1}
		return t.tables[name], nil
	}
	return t.rooted(name, leaf.Value(i))
}

// rooted returns the tree of a table whose entry in the tree of tables is value.
func (t *Tables) rooted(name string, value []byte) (*tree, error) {
	if tree := t.tables[name]; tree != nil {
		return tree, nil
	}
	root, inline, err := tableRoot(value)
	if err != nil {
		return nil, fmt.Errorf("table %q: %w", name, err)
	}
	tree := &tree{Tables: t, root: root, inline: inline, levels: -1}
	tree.tally = Tally(binary.LittleEndian.Uint64(value[bucketSequence:]))
	t.tables[name] = tree
	return tree, nil
}

// CheckMarker refuses a root that is not the root of a store, or not the root of the commit m.
//
// Errors: an [Error]; a [ForeignError] if the file is another program's.
func (t *Tables) CheckMarker(m Meta) error {
	_, err := t.marker(m)
	return err
}

// marker returns the table [Marker] of the commit m, as [Tables.CheckMarker] checks it.
func (t *Tables) marker(m Meta) (*tree, error) {
	name := []byte(Marker)
	leaf, _, err := t.names.find(name)
	if err != nil {
		return nil, err
	}
	i, found := leaf.Search(name)
	if !found {
		return nil, foreign("it is a bbolt file of another program")
	}
	tree, err := t.rooted(Marker, leaf.Value(i))
	if err != nil {
		return nil, err
	}
	// Early builds did not number their commits.
	if commit := uint64(tree.tally); commit != m.Commit && commit != 0 {
		return nil, damaged("the root, page %d, is of commit %d, and the last is %d", m.Root, commit, m.Commit)
	}
	return tree, nil
}

// Tally is the sequence of a table's bucket, as bbolt calls it. It says how many entries the table
// has, and whether the table is tracked. It lies beside the number of the table's root page.
type Tally uint64

const trackedFlag Tally = 1 << 63

// NewTally returns the tally of a table.
func NewTally(entries uint64, tracked bool) Tally {
	t := Tally(entries) &^ trackedFlag
	if tracked {
		t |= trackedFlag
	}
	return t
}

// Entries returns the number of entries.
func (t Tally) Entries() uint64 { return uint64(t &^ trackedFlag) }

// Tracked reports whether the table is tracked.
func (t Tally) Tracked() bool { return t&trackedFlag != 0 }

// Tally returns the tally of a table, which is 0 if there is no such table.
//
// Errors: an [Error].
func (t *Tables) Tally(table string) (Tally, error) {
	tree, err := t.table(table)
	if err != nil {
		return 0, err
	}
	return tree.tally, nil
}

// The entries of the table [Marker] have these keys.
const (
	MarkerFile     = "file"     // the random number of the file
	MarkerRandom   = "random"   // the random number of the commit
	MarkerSequence = "sequence" // the sequence of the commit, which is not its number: see Mark
)

// Mark tells a commit from every other one. Two copies of one file that were each changed once have
// commits with the same number, and may even have the same meta pages, but not the same random
// number.
//
// The sequence goes up by one with each commit, too. But a compaction makes a new file, with new
// numbers, and keeps the sequence and the random number of the last commit. The file itself has a
// random number, which tells it from the file before the compaction.
type Mark struct {
	Commit   uint64
	Sequence uint64
	Random   [8]byte
	File     [8]byte
}

// ReadMark returns the mark of the last commit in a file.
//
// Errors: an [Error]; a [ForeignError] if the file is another program's.
func ReadMark(r io.ReaderAt) (Mark, error) {
	m, sound := ReadMeta(r)
	if sound < 2 {
		return Mark{}, ErrLastLost
	}
	return NewTables(NewPages(r, m.End), m.Root, false).Mark(m)
}

// ReadMark is the function [ReadMark] for pages that need not be the pages of the last commit.
func (p *Pages) ReadMark() (Mark, error) {
	m, sound := ReadMeta(p)
	if sound < 2 {
		return Mark{}, ErrLastLost
	}
	return NewTables(p, m.Root, false).Mark(m)
}

// Mark returns the mark of the commit m.
//
// Errors: those of [Tables.CheckMarker].
func (t *Tables) Mark(m Meta) (Mark, error) {
	marker, err := t.marker(m)
	if err != nil {
		return Mark{}, err
	}
	mark := Mark{Commit: m.Commit}
	leaf, _, err := marker.find(nil)
	if err != nil {
		return Mark{}, err
	}
	for i := range leaf.Count() {
		switch v := leaf.Value(i); string(leaf.Key(i)) {
		case MarkerFile:
			copy(mark.File[:], v)
		case MarkerRandom:
			copy(mark.Random[:], v)
		case MarkerSequence:
			if len(v) == 8 {
				mark.Sequence = binary.BigEndian.Uint64(v)
			}
		}
	}
	return mark, nil
}

// CheckCommit reads the other pages that bbolt reads when it commits a transaction that has removed
// keys from tables.
//
// Errors: an [Error]. It is [ErrLastLost] if the commit before is not the last in the file.
func (t *Tables) CheckCommit(commit uint64, removed map[string][][]byte) error {
	m, _ := ReadMeta(&t.pages)
	if m.Commit+1 != commit {
		return ErrLastLost
	}
	if err := t.CheckMarker(m); err != nil {
		return err
	}
	if _, ok := t.pages.freelist(m.Freelist); !ok {
		return damaged("the list of free pages, page %d, cannot be read", m.Freelist)
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

// find is [Tables.Find] in one tree.
func (t *tree) find(key []byte) (leaf Node, after []byte, err error) {
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
	return Node{}, nil, damaged("there is no end below page %d", t.root.page)
}

// node reads a page that is level levels below the root. The page from leads to it.
func (t *tree) node(at subtree, from uint64, level int) (Node, error) {
	c := claim{t, from}
	claimed, known := t.claims[at.page]
	if known && claimed != c {
		return Node{}, damaged("page %d is in two places", at.page)
	}
	n, err := t.pages.node(at, t.flags, known)
	if err != nil || t.claims == nil {
		return n, err
	}
	if n.leaf && t.levels < 0 {
		t.levels = level
	}
	if t.levels >= 0 && n.leaf != (level == t.levels) {
		return n, damaged("page %d has not as many levels above it as other leaves", at.page)
	}
	t.claims[at.page] = c
	return n, nil
}

// checkMerges reads the pages that bbolt may read when it commits the removal of keys. bbolt merges
// a leaf that has become small with the leaf before it or, if that leaf has another parent, with
// the leaf after it. The merge removes an element from a branch. So the branch may be merged in the
// same way, once for each element that it loses.
//
//	             root
//	     ┌────────┼────────┐
//	  branch   branch   branch      as many branches on each side as keys were removed
//	  ┌──┴──┐  ┌──┴──┐  ┌──┴──┐
//	leaf  leaf leaf leaf leaf leaf  one leaf on each side
//	           ^ a key was removed
func (t *tree) checkMerges(removed [][]byte) error {
	if t.root.page == 0 {
		return nil
	}
	sorted.Func(removed, bytes.Compare)
	row := []link{{subtree: t.root}}
	for level := range t.levels {
		nodes := make([]Node, len(row))
		var below []child
		for p, at := range row {
			n, err := t.node(at.subtree, at.from, level)
			if err != nil {
				return err
			}
			nodes[p] = n
			for i := range n.Count() {
				below = append(below, child{int32(p), int32(i)})
			}
		}
		reach := len(removed)
		if level+1 == t.levels {
			reach = 1
		}
		var next []link
		for _, c := range around(nodes, below, removed, reach) {
			next = append(next, link{nodes[c.parent].below(int(c.i), row[c.parent].subtree), row[c.parent].page})
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

// link is a subtree, and the page that leads to it.
type link struct {
	subtree
	from uint64
}

// child is the ith subtree below one of several branches.
type child struct{ parent, i int32 }

// around returns the subtrees in row that contain any of keys, with reach neighbours on each side.
func around(branches []Node, row []child, keys [][]byte, reach int) (some []child) {
	next := 0
	for _, key := range keys {
		after := sort.Search(len(row), func(i int) bool {
			return bytes.Compare(branches[row[i].parent].Key(int(row[i].i)), key) > 0
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
