package admin

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/audit"
)

// listAudit answers with a page of the audit trail.
func (c *call) listAudit() error {
	w, q, err := c.window()
	if err != nil {
		return err
	}
	if w.cursor == "" {
		q.Del("cursor") // the beginning, as in other lists
	}
	after, err := numberParameter(q, "cursor", 0, math.MaxUint64, 0)
	if err != nil {
		return errBadCursor
	}
	page := AuditPage{}
	err = c.store.View(c.r.Context(), func(tx *latchkey.Tx) (err error) {
		if page.Head, err = audit.CurrentHead(tx); err != nil {
			return err
		}
		all := func(audit.Entry) bool { return true }
		page.Items, page.Next, err = take(w, audit.Entries(tx, after), all, func(e audit.Entry) string { return strconv.FormatUint(e.Number, 10) })
		if len(page.Items) > 0 {
			err = nil // the next request gets it
		}
		return err
	})
	if err != nil {
		return err
	}
	if page.Items == nil {
		page.Items = []audit.Entry{}
	}
	return c.answer(http.StatusOK, page)
}

// maxHeads bounds how many heads one verification takes.
const maxHeads = 1000

// verifyAudit answers whether the audit trail is a chain that has the heads in the body. A trail
// that is not is no problem of the request, so the status is 200.
func (c *call) verifyAudit() error {
	var body struct {
		Heads []audit.Head `json:"heads"`
	}
	if err := c.decode(&body, true); err != nil {
		return err
	}
	if len(body.Heads) > maxHeads {
		return fmt.Errorf("%w: there can be at most %d heads", errBadRequest, maxHeads)
	}
	var verdict AuditVerdict
	err := c.store.View(c.r.Context(), func(tx *latchkey.Tx) (err error) {
		verdict = AuditVerdict{}
		if err = audit.Verify(tx, body.Heads...); err == nil {
			verdict.Head, verdict.Entries, err = countEntries(tx)
		} else if head, headErr := audit.CurrentHead(tx); headErr == nil {
			verdict.Head = head
		}
		switch k := kindOf(err); {
		case err == nil:
			verdict.OK = true
		case k.err == audit.ErrBroken || k.err == audit.ErrPruned:
			verdict.Problem = problemOf(err)
		default:
			return err
		}
		return nil
	})
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, verdict)
}

// countEntries returns the head of the trail and the number of its entries.
func countEntries(tx *latchkey.Tx) (head audit.Head, n uint64, err error) {
	if head, err = audit.CurrentHead(tx); err != nil {
		return head, 0, err
	}
	for first, err := range audit.Entries(tx, 0) {
		return head, head.Number - first.Number + 1, err
	}
	return head, 0, nil
}

// ErrTrail means that the store has an audit trail already.
var ErrTrail = errors.New("the store has an audit trail")

// beginAudit begins an audit trail, or with anew another one in place of the one that is there.
func (c *call) beginAudit() error {
	var body struct {
		Anew bool `json:"anew"`
	}
	if err := c.decode(&body, true); err != nil {
		return err
	}
	var begun AuditBegun
	err := c.store.Update(c.r.Context(), func(tx *latchkey.Tx) (err error) {
		if head, err := audit.CurrentHead(tx); !body.Anew && (err != nil || head != (audit.Head{})) {
			return errors.Join(ErrTrail, err)
		}
		if err := audit.Begin(tx, c.caller.Actor); err != nil {
			return err
		}
		begun.Head, err = audit.CurrentHead(tx)
		return err
	})
	if err != nil {
		return err
	}
	return c.answer(http.StatusCreated, begun)
}

// pruneStep is how many entries one transaction removes. Tests change it.
var pruneStep uint64 = 1000

// pruneAudit removes the oldest entries of the audit trail, in steps.
func (c *call) pruneAudit() error {
	var body struct {
		Keep Optional[int64] `json:"keep"`
	}
	if err := c.decode(&body, false); err != nil {
		return err
	}
	if !body.Keep.Set || body.Keep.Value < 0 || body.Keep.Value > maxNumber {
		return fmt.Errorf("%w: the field keep must be a number from 0 to %d", errBadRequest, maxNumber)
	}
	var pruned AuditPruned
	err := c.store.View(c.r.Context(), func(tx *latchkey.Tx) (err error) {
		_, pruned.Entries, err = countEntries(tx)
		return err
	})
	if err != nil {
		return err
	}
	pruned.Removed = pruned.Entries - min(pruned.Entries, uint64(body.Keep.Value))
	for left := pruned.Entries; left > pruned.Entries-pruned.Removed; {
		left = max(pruned.Entries-pruned.Removed, left-min(left, pruneStep))
		if err := c.store.Update(c.r.Context(), func(tx *latchkey.Tx) error { return audit.Prune(tx, left) }); err != nil {
			return err
		}
	}
	return c.answer(http.StatusOK, pruned)
}
