package admin

import (
	"errors"

	"github.com/latchkeydb/latchkey"
)

// errDryRun undoes the transaction of a dry run.
var errDryRun = errors.New("a dry run")

// delete runs fn in a transaction. The transaction is undone if the request has the parameter
// dry_run. The answer is then that of the deletion, and so is the error.
//
// Errors: errBadRequest for a parameter that is neither dry_run nor one of allowed; an error of fn
// or of [latchkey.Store.Update].
func (c *call) delete(fn func(*latchkey.Tx) error, allowed ...string) error {
	q, err := c.query(append(allowed, "dry_run")...)
	if err != nil {
		return err
	}
	if c.dry, err = boolParameter(q, "dry_run"); err != nil {
		return err
	}
	err = c.store.Update(c.r.Context(), func(tx *latchkey.Tx) error {
		if err := fn(tx); err != nil || !c.dry {
			return err
		}
		return errDryRun
	})
	if errors.Is(err, errDryRun) {
		return nil
	}
	return err
}

// deleteWhole is delete for the deletion of a user or a key. If the engine is full, or bounds its
// transactions, the transaction of fn fails after fn has found everything as it should be. Then
// deleteWhole calls store, a deletion that works all the same.
func (c *call) deleteWhole(fn func(*latchkey.Tx) error, store func() error) error {
	err := c.delete(fn)
	if !c.dry && (errors.Is(err, latchkey.ErrNoSpace) || errors.Is(err, latchkey.ErrTransactionTooLarge)) {
		return store()
	}
	return err
}
