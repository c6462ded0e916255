package boltpage

import (
	"context"
	"fmt"
	"iter"
)

// FindDamage yields what is wrong with the pages of the commit m, until ctx ends. No two pages may
// lead to the same page, and no page may lead to a free page, because bbolt would write over it.
//
// sampled leaves out the leaf pages of tables, except for one below each branch. Leaves are
// ninety-nine pages in a hundred, and each leaf is checked again before it is used.
func (p *Pages) FindDamage(ctx context.Context, m Meta, sampled bool) iter.Seq[error] {
	return func(yield func(error) bool) {
		w := damageWalk{Pages: *p, sampled: sampled}
		w.count = min(w.count, m.End)
		w.owned = newPageSet(w.count)
		stopped := false
		w.stopped = func() bool { return stopped || ctx.Err() != nil }
		w.report = func(err error) { stopped = stopped || !yield(err) }
		w.commit(m)
	}
}

// damageWalk is a walk over the pages of a commit.
type damageWalk struct {
	Pages
	sampled bool
	owned   pageSet // the pages that are in use or free
	report  func(error)
	stopped func() bool
}

// commit walks over all pages of m.
func (w *damageWalk) commit(m Meta) {
	w.own(0, 2)
	free, ok := w.free(m.Freelist)
	if ok {
		list, _ := w.page(m.Freelist, pageFreelist)
		w.own(m.Freelist, len(list)/PageSize)
	} else {
		w.report(damaged("the list of free pages, page %d, cannot be read", m.Freelist))
	}
	for id := range w.count {
		if free.has(id) {
			w.own(id, 1)
		}
	}
	w.tree(subtree{page: m.Root}, bucketFlag, 0)
	if !ok || w.sampled || w.stopped() {
		return
	}
	for id := range w.count {
		if !w.owned.has(id) {
			w.report(damaged("page %d is neither in use nor free", id))
		}
	}
}

// own enters n pages, from id on, as in use or free. If a page is entered already or is past the
// end, own yields a finding and reports false.
func (w *damageWalk) own(id uint64, n int) (first bool) {
	for ; n > 0; id, n = id+1, n-1 {
		if id >= w.count || w.owned.has(id) {
			w.report(damaged("page %d is in two places, or there is none", id))
			return false
		}
		w.owned.add(id)
	}
	return true
}

// tree walks over a page, which is level levels below a root, and all pages below it. It returns
// the number of levels below the page, or -1 if that cannot be told.
func (w *damageWalk) tree(at subtree, flags uint32, level int) (levels int) {
	if w.stopped() {
		return -1
	}
	n, err := w.node(at, flags, false)
	if err == nil && level > maxLevels {
		err = damaged("page %d is more than %d levels below a root", at.page, maxLevels)
	}
	if err != nil {
		w.report(err)
		return -1
	}
	if !w.own(at.page, len(n.page)/PageSize) { // a page that leads back would be followed for ever
		return -1
	}
	if n.leaf {
		if flags == bucketFlag {
			w.tables(n)
		}
		return 0
	}
	levels = -1
	for i := range n.Count() {
		below := n.below(i, at)
		if w.sampled && flags != bucketFlag && levels == 0 {
			w.own(below.page, 1)
			continue
		}
		l := w.tree(below, flags, level+1)
		if l >= 0 && levels >= 0 && l != levels {
			w.report(damaged("below page %d there are %d levels in one place, and %d in another", at.page, levels, l))
		}
		levels = max(l, levels)
	}
	if levels < 0 {
		return -1
	}
	return levels + 1
}

// tables walks over the tables in a leaf of the tree of tables.
func (w *damageWalk) tables(n Node) {
	for i := range n.Count() {
		root, _, err := tableRoot(n.Value(i))
		if err != nil {
			w.report(fmt.Errorf("table %q: %w", n.Key(i), err))
		} else if root.page != 0 {
			w.tree(root, 0, 0)
		}
	}
}
