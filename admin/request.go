package admin

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/loggable"
)

// parseID reads an ID in its one form, of 36 characters.
func parseID(text string) (uuid.UUID, error) {
	id, err := uuid.Parse(text)
	if err != nil || id.String() != text {
		// A token may be here by mistake, and does not belong in an answer.
		return uuid.Nil, fmt.Errorf("%w: it is written as 01890a5d-ac96-774b-bcce-b302099a8057; a token does not belong in a URL", errBadID)
	}
	return id, nil
}

// pathID returns an ID in the path.
func (c *call) pathID(name string) (uuid.UUID, error) { return parseID(c.r.PathValue(name)) }

// query returns the parameters of the request, each of which is one of allowed and there once.
//
// Errors: errBadRequest.
func (c *call) query(allowed ...string) (url.Values, error) { return c.queryWith("", allowed...) }

// queryWith is query with a parameter that can be there several times.
func (c *call) queryWith(repeated string, allowed ...string) (url.Values, error) {
	values, err := url.ParseQuery(c.r.URL.RawQuery)
	if err != nil {
		return nil, fmt.Errorf("%w: the query of the URL cannot be read", errBadRequest)
	}
	for name, all := range values {
		switch {
		case name == repeated && name != "":
		case !slices.Contains(allowed, name):
			return nil, fmt.Errorf("%w: there is no parameter %s", errBadRequest, loggable.Text(name))
		case len(all) > 1:
			return nil, fmt.Errorf("%w: the parameter %s is there twice", errBadRequest, name)
		}
	}
	return values, nil
}

// badParameter returns the error for a parameter.
func badParameter(name, want string) error {
	return fmt.Errorf("%w: the parameter %s must be %s", errBadRequest, name, want)
}

// boolParameter returns a parameter that is true or false, or false.
func boolParameter(q url.Values, name string) (bool, error) {
	if v := q.Get(name); q.Has(name) && v != "true" && v != "false" {
		return false, badParameter(name, "true or false")
	}
	return q.Get(name) == "true", nil
}

// timeParameter returns a parameter that is a time, or the zero time.
func timeParameter(q url.Values, name string) (time.Time, error) {
	if !q.Has(name) {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339, q.Get(name))
	if err != nil {
		return time.Time{}, badParameter(name, "a time such as 2027-01-31T18:00:00Z")
	}
	return t, nil
}

// numberParameter returns a parameter that is a number from low to high, or otherwise.
func numberParameter(q url.Values, name string, low, high, otherwise uint64) (uint64, error) {
	if !q.Has(name) {
		return otherwise, nil
	}
	n, err := strconv.ParseUint(q.Get(name), 10, 64)
	if err != nil || n < low || n > high {
		return 0, badParameter(name, fmt.Sprintf("a number from %d to %d", low, high))
	}
	return n, nil
}

// etag returns the ETag of an entry that was changed last by the commit with a sequence.
func etag(sequence uint64) string { return `"` + strconv.FormatUint(sequence, 10) + `"` }

// match compares the header If-Match with the sequence of the entry that is to be changed. It is
// called in the transaction of the change.
//
// Errors: ErrChanged; errUnconditional if required is true and there is no such header.
func (c *call) match(sequence uint64, required bool) error {
	values := c.r.Header.Values("If-Match")
	if len(values) == 0 {
		if required {
			return errUnconditional
		}
		return nil
	}
	for tag := range strings.SplitSeq(strings.Join(values, ","), ",") {
		if tag = strings.TrimSpace(tag); tag == "*" || tag == etag(sequence) {
			return nil
		}
	}
	return ErrChanged
}

// matchKey is match for a key.
func (c *call) matchKey(tx *latchkey.Tx, id uuid.UUID, required bool) error {
	sequence, err := tx.KeySequence(id)
	if err != nil {
		return err
	}
	return c.match(sequence, required)
}

// matchUser is match for a user.
func (c *call) matchUser(tx *latchkey.Tx, id uuid.UUID, required bool) error {
	sequence, err := tx.UserSequence(id)
	if err != nil {
		return err
	}
	return c.match(sequence, required)
}
