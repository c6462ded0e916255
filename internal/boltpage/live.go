package boltpage

import "encoding/binary"

// Live tells which pages are of the last commit, and whether that is sure. It is sure when both
// meta pages and the list of free pages can be read: a page on the list, or past the end, is then
// of an earlier commit. If one meta page is lost, a page that seems earlier may be of the last
// commit. If the list is lost, only the pages that the root leads to are known to be live.
//
// candidates has a function for each commit that may be the last, which tells the pages of that
// commit. There are two candidates if the meta page of a later commit may be lost. There are none
// if nothing can be told.
func (p *Pages) Live() (live func(id uint64) bool, sure bool, candidates []func(id uint64) bool) {
	m, sound := ReadMeta(p)
	if sound == 0 {
		return func(uint64) bool { return false }, false, nil
	}
	reached := p.reach(m.Root)
	free, listed := p.free(m.Freelist)
	agree := true
	for id := range p.count {
		agree = agree && !(free.has(id) && reached.has(id))
	}
	live = reached.has
	if listed && agree {
		live = func(id uint64) bool { return !free.has(id) && id < m.End }
	}
	switch {
	case !agree:
		return live, false, nil
	case sound == 2:
		return live, listed, append(candidates, live)
	}
	switch next, known := p.nextRoot(m, live); {
	case known && next == 0:
		candidates = append(candidates, live)
	case known:
		candidates = append(candidates, live, p.reach(next).has)
	}
	return live, false, candidates
}

// nextRoot looks for the root of the commit after m. The meta page of that commit is lost, or a
// power cut ended the commit. The root is 0 if there was no such commit. known is false if it
// cannot be told, because a page that cannot be read may have been the root.
func (p *Pages) nextRoot(m Meta, live func(id uint64) bool) (root uint64, known bool) {
	if commit, ok := p.rootCommit(m.Root); !ok || commit != m.Commit {
		return 0, false // of an early build, which did not number commits
	}
	for id := uint64(2); id < p.count; {
		_, size, ok := p.Leaf(id)
		if !ok && !live(id) {
			return 0, false
		}
		if commit, ok := p.rootCommit(id); ok && commit == m.Commit+1 {
			if root != 0 {
				return 0, false // a commit that failed, and the commit in its place, each left one
			}
			root = id
		}
		id += size
	}
	return root, true
}

// rootCommit returns the number of the commit that a root page belongs to.
func (p *Pages) rootCommit(id uint64) (commit uint64, ok bool) {
	page, _ := p.page(id, pageLeaf)
	eachElement(page, func(flags uint32, k, v []byte) {
		if flags&bucketFlag != 0 && string(k) == Marker && len(v) >= bucketHeader {
			commit, ok = binary.LittleEndian.Uint64(v[bucketSequence:]), true
		}
	})
	return commit, ok
}

// reach returns the page id and all pages that it leads to.
func (p *Pages) reach(id uint64) (reached pageSet) {
	reached = newPageSet(p.count)
	// A loop, because a recursion would hold every page on its way in memory, however large.
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
		for i := range uint64(len(page) / PageSize) {
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
