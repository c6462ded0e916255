package merge

import (
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/record"
)

// A Run merges records in as many transactions as it needs.
type Run struct {
	Domain uuid.UUID // of the store
	Copies []record.Copy
	AtOnce int // how many records a transaction has at most
	// Failed reports whether an error of a transaction says that one record cannot be merged
	// because of what the store has.
	Failed func(error) bool

	Refused []Refused // the records that were not merged
}

// A Refused is a record that was not merged.
type Refused struct {
	Index int
	Err   error
}

// roomForOne is the number of writes that most records take at the most.
const roomForOne = 24

// Merge merges the records. update runs a step in a transaction, perhaps more than once.
//
// It returns the first error for which Failed reports true, after everything else was merged, or at
// once another error of update.
func (r *Run) Merge(update func(step func(*Tables) error) error) (err error) {
	for done, most := 0, r.AtOnce; done < len(r.Copies); {
		s := step{Run: r, first: done, end: min(done+most, len(r.Copies))}
		failure := update(s.run)
		switch {
		case failure == nil:
			r.Refused = append(r.Refused, s.refused...)
			done, most = s.next, r.AtOnce
		case s.end-done > 1 && (s.failed != nil || r.Failed(failure)):
			most = (s.end - done) / 2 // to find the record that cannot be merged
		case s.failed != nil:
			r.Refused = append(r.Refused, Refused{done, s.failed})
			if err == nil && r.Failed(s.failed) {
				err = s.failed
			}
			done, most = done+1, r.AtOnce
		default:
			return failure
		}
	}
	return err
}

// A step merges the records from first to end in a transaction, as far as there is room.
type step struct {
	*Run
	first, end int

	next    int // the first record that is left
	refused []Refused
	failed  error // why a record cannot be merged, when something may have been written already
}

func (s *step) run(t *Tables) error {
	s.next, s.refused, s.failed = s.first, nil, nil // the engine may run the step again
	for more := false; s.next < s.end && !more; {
		if s.next > s.first && t.Room() < roomForOne {
			break
		}
		before := t.Writes()
		var err error
		more, err = s.merge(t, s.Copies[s.next])
		switch wrong := errors.Is(err, ErrInvalid) || errors.Is(err, ErrReserved); {
		case wrong && t.Writes() == before:
			s.refused = append(s.refused, Refused{s.next, err})
		case wrong || err != nil && s.Failed(err):
			s.failed = err
			return err
		case err != nil:
			return err
		}
		if !more {
			s.next++
		}
	}
	return nil
}

func (s *step) merge(t *Tables, c record.Copy) (more bool, err error) {
	if c.Domain != s.Domain {
		return false, fmt.Errorf("%w: it is of domain %s, and the store is of domain %s", ErrInvalid, c.Domain, s.Domain)
	}
	return t.Record(c)
}
