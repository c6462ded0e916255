package boltengine

import (
	"context"
	"errors"
	"fmt"

	"github.com/latchkeydb/latchkey/internal/boltpage"
)

// The numbering is what the engine derives from its entries: the change index, and the number of
// entries of each table. An inspection compares the numbering with the entries, and can make the
// numbering again.

// inspection is one run of CheckEngine or RepairEngine. It lasts for one call, so it keeps the
// call's context.
type inspection struct {
	ctx   context.Context
	tx    *Tx
	yield func(finding error) (more bool) // nil for a repair

	// later has the entries that have a later change in the change index than in their value, and
	// the place of that change. Its keys are values of the change index.
	later    map[string]boltpage.Place
	stale    []TrackedChange
	repaired int
}

// errStopped means that the caller of CheckEngine has left the loop.
var errStopped = errors.New("stopped")

// numberingError is a finding that RepairEngine can repair.
type numberingError struct{ text string }

func (e *numberingError) Error() string   { return ErrCorrupt.Error() + ": " + e.text }
func (e *numberingError) Unwrap() []error { return []error{ErrCorrupt, ErrNumbering} }

// checkNumbering yields where the numbering that tx sees disagrees with the entries. It compares
// nothing with a page that cannot be read, because checkPages yields such a page.
func checkNumbering(ctx context.Context, tx *Tx, yield func(finding error) (more bool)) error {
	n := &inspection{ctx: ctx, tx: tx, yield: yield, later: make(map[string]boltpage.Place)}
	if err := n.run(); err != errStopped {
		return err
	}
	return nil
}

// RepairEngine makes the change index and the numbers of entries again, in an Update. It returns
// how many findings it has repaired, and the entries of an earlier state, each with the sequence of
// the later change that is lost. The transaction takes these entries for whole from then on.
//
// Errors: [ErrReadOnly]; [ErrCorrupt] if a page cannot be read; ctx's error.
func (tx *Tx) RepairEngine(ctx context.Context) (repaired int, stale []TrackedChange, err error) {
	switch {
	case tx.ended:
		return 0, nil, ErrClosed
	case tx.batch == nil:
		return 0, nil, ErrReadOnly
	}
	n := &inspection{ctx: ctx, tx: tx, later: make(map[string]boltpage.Place)}
	if err := n.run(); err != nil {
		if tx.writes > 0 {
			tx.halfDone = err
		}
		return 0, nil, err
	}
	return n.repaired, n.stale, nil
}

func (n *inspection) run() error {
	listed, whole, err := n.each(boltpage.Changes, n.inspectChange)
	if err != nil {
		return err
	}
	tables, err := n.tables()
	if err != nil {
		return err
	}
	for _, table := range tables {
		inspect := func(Entry) error { return nil }
		if tally, err := n.tally(table); err != nil {
			return err
		} else if tally.Tracked() {
			inspect = func(e Entry) error { return n.inspectEntry(table, e) }
		}
		entries, whole, err := n.each(table, inspect)
		if err != nil {
			return err
		}
		if whole {
			if err := n.inspectTally(table, entries); err != nil {
				return err
			}
		}
	}
	if n.repaired > 0 {
		if listed, whole, err = n.each(boltpage.Changes, func(Entry) error { return nil }); err != nil {
			return err
		}
	}
	if whole {
		return n.inspectTally(boltpage.Changes, listed)
	}
	return nil
}

// finding yields a finding, or repairs it with fix.
func (n *inspection) finding(fix func() error, format string, args ...any) error {
	if n.yield == nil {
		n.repaired++
		return fix()
	}
	if !n.yield(&numberingError{fmt.Sprintf(format, args...)}) {
		return errStopped
	}
	return nil
}

// tables returns the names of the tables that can be read, but for those of the engine's own.
func (n *inspection) tables() (names []string, err error) {
	next := scanPages(n.tx.tables.FindTable, nil)
	for {
		table, err := n.tx.long.readNext(next)
		switch name := string(table.Key); {
		case err != nil:
			return names, n.unreadable(err)
		case table.Key == nil:
			return names, nil
		case name != boltpage.Marker && name != boltpage.Changes:
			names = append(names, name)
		}
	}
}

// unreadable returns nil for a page that cannot be read, if the inspection can go on.
func (n *inspection) unreadable(err error) error {
	if n.yield != nil && errors.Is(err, ErrCorrupt) {
		return nil
	}
	return err
}

// each calls inspect with the raw entries of a table that can be read. It returns the number of the
// entries, and reports whether all could be read.
func (n *inspection) each(table string, inspect func(Entry) error) (entries uint64, whole bool, err error) {
	whole = true
	for from, more := []byte(nil), true; more; {
		more = false
		for e, err := range n.tx.scanRaw(table, from, nil) {
			if err == nil {
				err = n.ctx.Err()
			}
			if err != nil {
				if err := n.unreadable(err); err != nil {
					return 0, false, err
				}
				whole = false
				from = n.tx.nextReadablePage(table, from)
				more = from != nil
				break
			}
			from = e.Key
			if err := inspect(e); err != nil {
				return 0, false, err
			}
			entries++
		}
	}
	return entries, whole, nil
}

// tally returns the tally of a table.
func (n *inspection) tally(table string) (boltpage.Tally, error) {
	if _, err := n.tx.getRaw(table, nil); err != nil {
		return 0, n.unreadable(err)
	}
	return n.tx.tally(table)
}

func (n *inspection) inspectTally(table string, entries uint64) error {
	tally, err := n.tally(table)
	if err != nil || tally.Entries() == entries {
		return err
	}
	fix := func() error { return n.tx.setEntries(table, tally.Entries(), entries) }
	return n.finding(fix, "table %s counts %d entries, and has %d", table, tally.Entries(), entries)
}

// inspectChange inspects an entry of the change index: there must be the entry that it lists, with
// the same place.
func (n *inspection) inspectChange(e Entry) error {
	remove := func() error { return n.unlist(e.Key) }
	place, table, key, ok := boltpage.SplitChange(e.Key, e.Value)
	if !ok {
		return n.finding(remove, "the change index has the entry %x", e.Key)
	}
	raw, err := n.tx.getRaw(table, key)
	if err != nil {
		return n.unreadable(err)
	}
	tally, err := n.tx.tally(table)
	if err != nil {
		return n.unreadable(err)
	}
	switch recorded, _, ok := boltpage.SplitTracked(raw); {
	case raw == nil, !tally.Tracked():
		return n.finding(remove, "the change index has the entry %x of table %s, which is not there", key, table)
	case !ok, recorded == place:
		return nil
	case recorded > place:
		return n.finding(remove, "the change index has the entry %x of table %s at %s, and the entry has %s", key, table, place, recorded)
	}
	if earlier, ok := n.later[string(e.Value)]; ok {
		remove := func() error { return n.unlist(earlier.Key()) }
		if err := n.finding(remove, "the change index has the entry %x of table %s at %s and at %s", key, table, earlier, place); err != nil {
			return err
		}
	}
	n.later[string(e.Value)] = place
	return nil
}

// inspectEntry inspects an entry of a tracked table: the change index must list it at its place.
func (n *inspection) inspectEntry(table string, e Entry) error {
	place, value, ok := boltpage.SplitTracked(e.Value)
	if !ok {
		if n.yield != nil && !n.yield(errNoPlace(table, e.Key)) {
			return errStopped
		}
		return nil
	}
	listed, err := n.tx.isListed(place, table, e.Key)
	if err != nil {
		return n.unreadable(err)
	}
	last := n.tx.Sequence()
	if n.tx.batch != nil {
		last = n.tx.pending() // another member of the batch may have written the entry
	}
	later, stale := n.later[string(boltpage.ChangedEntry(table, e.Key))]
	move := func() error {
		if listed {
			if err := n.unlist(place.Key()); err != nil {
				return err
			}
		}
		if stale {
			if err := n.unlist(later.Key()); err != nil {
				return err
			}
			n.stale = append(n.stale, TrackedChange{later.Sequence(), table, e.Key})
		}
		return n.tx.putListed(table, e.Key, value, e.Value)
	}
	switch {
	case stale:
		return n.finding(move, "the entry %x of table %s is of an earlier state: it has %s, and the change index has it at %s", e.Key, table, place, later)
	case !listed:
		return n.finding(move, "the entry %x of table %s is not in the change index at %s", e.Key, table, place)
	case place.Sequence() > last:
		return n.finding(move, "the entry %x of table %s has %s, and the last commit is %d", e.Key, table, place, last)
	}
	return nil
}

// unlist removes an entry of the change index.
func (n *inspection) unlist(place []byte) error {
	return n.tx.put(boltpage.Changes, place, nil)
}

func errNoPlace(table string, key []byte) error {
	return corrupt("the entry %x of table %s has no place in the change index", key, table)
}
