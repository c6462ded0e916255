package admin

import (
	"errors"
	"iter"
	"net/url"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
)

const (
	defaultLimit = 100
	maxLimit     = 1000
	// maxScan bounds how many entries one request looks at to fill a page, so that a filter that
	// nothing passes does not read a large store in one request.
	maxScan = 10_000
)

// A window is the part of a list that a request asks for.
type window struct {
	limit  int
	cursor string
}

// window returns the part of a list that the request asks for, and the parameters of the request.
// Each of them is limit, cursor, or one of allowed.
//
// Errors: errBadRequest.
func (c *call) window(allowed ...string) (w window, q url.Values, err error) {
	q, err = c.query(append(allowed, "limit", "cursor")...)
	if err != nil {
		return w, nil, err
	}
	limit, err := numberParameter(q, "limit", 1, maxLimit, defaultLimit)
	return window{int(limit), q.Get("cursor")}, q, err
}

// afterID returns the ID that the cursor stands for.
func (w window) afterID() (uuid.UUID, error) {
	if w.cursor == "" {
		return uuid.Nil, nil
	}
	id, err := parseID(w.cursor)
	if err != nil {
		return uuid.Nil, errBadCursor
	}
	return id, nil
}

// take returns the entries of one page: those of all that keep accepts. next is the place of the
// last entry that was looked at, or "" if all has ended. With an error, take returns the entries
// before it.
func take[T any](w window, all iter.Seq2[T, error], keep func(T) bool, place func(T) string) (items []T, next string, err error) {
	scanned, last := 0, ""
	for item, err := range all {
		if err != nil {
			return items, last, err
		}
		if len(items) == w.limit || scanned == maxScan {
			return items, last, nil // there is at least one more
		}
		scanned++
		last = place(item)
		if keep(item) {
			items = append(items, item)
		}
	}
	return items, "", nil
}

// readAgain reads what was found again, in one transaction, so that each item is of the same moment
// as its ETag. It leaves out what was deleted just now, for which read returns gone. For what is
// never deleted, gone is nil.
func readAgain[Found, Item any](c *call, found []Found, gone error, read func(*latchkey.Tx, Found) (Item, error)) ([]Item, error) {
	items := make([]Item, 0, len(found))
	err := c.store.View(c.r.Context(), func(tx *latchkey.Tx) error {
		items = items[:0] // the function can run again
		for _, f := range found {
			switch item, err := read(tx, f); {
			case err == nil:
				items = append(items, item)
			case gone == nil || !errors.Is(err, gone):
				return err
			}
		}
		return nil
	})
	return items, err
}
