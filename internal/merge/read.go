package merge

import (
	"bytes"
	"cmp"
	"errors"
	"iter"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/boltengine"
	"github.com/latchkeydb/latchkey/internal/lastuse"
	"github.com/latchkeydb/latchkey/internal/record"
)

// A Position is where a reader of the changes of a store stands: behind the record last of the
// commit with a sequence, or behind all of that commit if last is empty.
type Position struct {
	Sequence uint64
	Last     string
}

// A Change is the last change of an entry of a tracked table.
type Change struct {
	Sequence uint64
	Table    string
	Key      []byte
}

// A Copied is a copy of a record, and the position behind the record.
type Copied struct {
	record.Copy
	At Position
}

// position returns the position behind the record of a change.
func (c Change) position() Position { return Position{c.Sequence, c.Table + "\x00" + string(c.Key)} }

// ChangesAfter returns the changes after a position, up to those of the commit end. It ends with
// the last change of a commit, when it has some number of changes.
func (t *Tables) ChangesAfter(after Position, end uint64, some int) (changes []Change, err error) {
	since := after.Sequence
	if after.Last != "" && since > 0 {
		since--
	}
	for c, err := range t.Changes(since) {
		if err != nil {
			return nil, err
		}
		if n := len(changes); c.Sequence > end || n >= some && c.Sequence != changes[n-1].Sequence {
			break
		}
		if c.Sequence > after.Sequence || c.position().Last > after.Last {
			changes = append(changes, c)
		}
	}
	return changes, nil
}

// Copies returns copies of the records of some changes, without those that have changed again and
// those that do not travel. It leaves out damaged records, too, and returns the first damage.
func (t *Tables) Copies(domain uuid.UUID, changes []Change) (copies []Copied, damage, err error) {
	for _, c := range changes {
		var sealed []byte
		stays := false
		at, err := t.SequenceOf(c.Table, c.Key)
		if err == nil && at == c.Sequence {
			sealed, err = t.Get(c.Table, c.Key)
		}
		if err == nil && sealed != nil {
			stays, err = staysHere(c.Table, c.Key, sealed)
		}
		switch {
		case errors.Is(err, record.ErrDamaged) || errors.Is(err, boltengine.ErrCorrupt):
			damage = cmp.Or(damage, err)
		case err != nil:
			return nil, damage, err
		case sealed != nil && !stays:
			copies = append(copies, Copied{record.Copy{Domain: domain, Table: c.Table, Key: c.Key, Sealed: sealed}, c.position()})
		}
	}
	return copies, damage, nil
}

// Travels reports whether other stores get a record. Keys with reserved scopes and records of a
// later version do not travel.
//
// Errors: [record.ErrDamaged].
func (t *Tables) Travels(table string, key, sealed []byte) (bool, error) {
	stays, err := staysHere(table, key, sealed)
	return err == nil && !stays, err
}

// staysHere reports whether a record does not travel. A record of a later version does not, because
// this build does not know what it is.
//
// Errors: [record.ErrDamaged].
func staysHere(table string, key, sealed []byte) (bool, error) {
	message, err := record.Open(table, key, sealed)
	switch {
	case errors.Is(err, record.ErrNewer):
		return true, nil
	case err != nil || table != record.TableKeys || !bytes.Contains(message, []byte(reserved)):
		return false, err
	}
	k, err := record.Unseal(table, key, sealed, record.DecodeKey)
	return err == nil && IsReserved(k.Scopes.Value), err
}

// LastUses yields copies of the last uses since a time, behind a key of their table. A damaged one
// is left out, because a use that is not known does no harm.
func (t *Tables) LastUses(domain uuid.UUID, after string, since time.Time) iter.Seq2[record.Copy, error] {
	return func(yield func(record.Copy, error) bool) {
		for e, err := range t.Scan(record.TableLastUse, append([]byte(after), 0), nil) {
			if err == nil && !isUsedSince(e, since) {
				continue
			}
			c := record.Copy{Domain: domain, Table: record.TableLastUse, Key: e.Key, Sealed: e.Value}
			if !yield(c, err) || err != nil {
				return
			}
		}
	}
}

// isUsedSince reports whether an entry of the table of last uses has a minute that was not over at
// a time.
func isUsedSince(e Entry, since time.Time) bool {
	minute, err := DecodeUse(e.Key, e.Value)
	return err == nil && len(e.Key) == len(lastuse.ID{}) && time.Unix(int64(minute)*60+60, 0).After(since)
}
