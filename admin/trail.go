package admin

import (
	"fmt"
	"math"
	"net/http"
	"strconv"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/audit"
)

// listAudit answers with a page of the audit trail.
func (c *call) listAudit() error {
	q, err := c.query("limit", "cursor")
	if err != nil {
		return err
	}
	w, err := windowOf(q)
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
		if verdict.Head, err = audit.CurrentHead(tx); err == nil {
			err = audit.Verify(tx, body.Heads...)
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
