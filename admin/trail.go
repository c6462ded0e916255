package admin

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/http"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/audit"
)

// A chosen is the chain of the audit trail that a request is about, or all chains.
type chosen struct {
	chain audit.Chain
	one   bool
}

// chosen returns what the parameter chain says, and the other parameters of the request, which are
// among allowed.
//
// Errors: errBadRequest.
func (c *call) chosen(allowed ...string) (chosen, error) {
	q, err := c.query(append(allowed, "chain")...)
	if err != nil {
		return chosen{}, err
	}
	chain, err := audit.ParseChain(q.Get("chain"))
	if err != nil {
		return chosen{}, badParameter("chain", "the name of a chain, or empty for the default chain")
	}
	return chosen{chain, q.Has("chain")}, nil
}

// entries yields the entries behind a position.
func (c chosen) entries(tx *latchkey.Tx, after audit.Position) iter.Seq2[audit.Entry, error] {
	if c.one {
		return c.chain.Entries(tx, after[c.chain])
	}
	return audit.All(tx, after)
}

// heads returns the heads of the chains that have begun. With an error, it returns the heads that
// can be read.
func (c chosen) heads(tx *latchkey.Tx) ([]audit.Head, error) {
	if !c.one {
		return audit.Heads(tx)
	}
	head, err := c.chain.Head(tx)
	if err != nil || head == (audit.Head{}) {
		return nil, err
	}
	return []audit.Head{head}, nil
}

// verify looks whether the chains are whole and have the heads.
func (c chosen) verify(tx *latchkey.Tx, known []audit.Head) error {
	if c.one {
		return c.chain.Verify(tx, known...)
	}
	return audit.VerifyAll(tx, known...)
}

// listAudit answers with a page of the audit trail.
func (c *call) listAudit() error {
	w, q, err := c.window("chain")
	if err != nil {
		return err
	}
	which, err := c.chosen("limit", "cursor")
	if err != nil {
		return err
	}
	start, err := audit.ParsePosition(q.Get("cursor"))
	if err != nil {
		return errBadCursor
	}
	page := AuditPage{}
	err = c.store.View(c.r.Context(), func(tx *latchkey.Tx) (err error) {
		if page.Heads, err = which.heads(tx); err != nil {
			return err
		}
		at := maps.Clone(start)
		all := func(audit.Entry) bool { return true }
		page.Items, page.Next, err = take(w, which.entries(tx, start), all, func(e audit.Entry) string {
			at[e.Chain] = e.Number
			return at.String()
		})
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
	page.Heads = append([]audit.Head{}, page.Heads...)
	return c.answer(http.StatusOK, page)
}

// maxHeads bounds how many heads one verification takes.
const maxHeads = 1000

// verifyAudit answers whether the audit trail is whole and has the heads in the body. A trail that
// is not is no problem of the request, so the status is 200.
func (c *call) verifyAudit() error {
	which, err := c.chosen()
	if err != nil {
		return err
	}
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
	err = c.store.View(c.r.Context(), func(tx *latchkey.Tx) (err error) {
		verdict = AuditVerdict{}
		if err = which.verify(tx, body.Heads); err == nil {
			verdict.Entries, err = countEntries(tx, which)
		}
		heads, _ := which.heads(tx) // an error is in the verdict
		verdict.Heads = append([]audit.Head{}, heads...)
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

// countEntries returns the number of the entries of all chains that were chosen.
func countEntries(tx *latchkey.Tx, which chosen) (n uint64, err error) {
	heads, err := which.heads(tx)
	if err != nil {
		return 0, err
	}
	for _, head := range heads {
		for first, err := range head.Chain.Entries(tx, 0) {
			if err != nil {
				return 0, err
			}
			n += head.Number - first.Number + 1
			break
		}
	}
	return n, nil
}

// ErrTrail means that the store has the audit trail already, or the chain of it.
var ErrTrail = errors.New("the store has an audit trail")

// beginAudit begins a chain of the audit trail, or with anew begins it another time in place of the
// one that is there. Unless the request names a chain, it is the one to which the program appends.
func (c *call) beginAudit() error {
	which, err := c.chosen()
	if err != nil {
		return err
	}
	if !which.one && c.opts.Trail != nil {
		which.chain = c.opts.Trail.Chain()
	}
	var body struct {
		Anew bool `json:"anew"`
	}
	if err := c.decode(&body, true); err != nil {
		return err
	}
	var begun AuditBegun
	err = c.store.Update(c.r.Context(), func(tx *latchkey.Tx) (err error) {
		if head, err := which.chain.Head(tx); !body.Anew && (err != nil || head != (audit.Head{})) {
			return errors.Join(ErrTrail, err)
		}
		if err := which.chain.Begin(tx, c.caller.Actor); err != nil {
			return err
		}
		begun.Head, err = which.chain.Head(tx)
		return err
	})
	if err != nil {
		return err
	}
	return c.answer(http.StatusCreated, begun)
}

// pruneStep is how many entries one transaction removes. Tests change it.
var pruneStep uint64 = 1000

// pruneAudit removes the oldest entries of each chain of the audit trail, in steps.
func (c *call) pruneAudit() error {
	which, err := c.chosen()
	if err != nil {
		return err
	}
	var body struct {
		Keep Optional[int64] `json:"keep"`
	}
	if err := c.decode(&body, false); err != nil {
		return err
	}
	if !body.Keep.Set || body.Keep.Value < 0 || body.Keep.Value > maxNumber {
		return fmt.Errorf("%w: the field keep must be a number from 0 to %d", errBadRequest, maxNumber)
	}
	var heads []audit.Head
	err = c.store.View(c.r.Context(), func(tx *latchkey.Tx) (err error) {
		heads, err = which.heads(tx)
		return err
	})
	if err != nil {
		return err
	}
	var pruned AuditPruned
	for _, head := range heads {
		if err := c.pruneChain(head.Chain, uint64(body.Keep.Value), &pruned); err != nil {
			return err
		}
	}
	return c.answer(http.StatusOK, pruned)
}

// pruneChain removes the oldest entries of a chain, and adds to pruned what it does.
func (c *call) pruneChain(chain audit.Chain, keep uint64, pruned *AuditPruned) error {
	var n uint64
	err := c.store.View(c.r.Context(), func(tx *latchkey.Tx) (err error) {
		n, err = countEntries(tx, chosen{chain, true})
		return err
	})
	if err != nil {
		return err
	}
	pruned.Entries += n
	for left := n; left > keep; {
		step := max(keep, left-min(left, pruneStep))
		if err := c.store.Update(c.r.Context(), func(tx *latchkey.Tx) error { return chain.Prune(tx, step) }); err != nil {
			return err
		}
		pruned.Removed += left - step
		left = step
	}
	return nil
}
