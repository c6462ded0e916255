package boltengine

import "errors"

// The errors of an engine. Package latchkey has the same ones under the same names, and its
// errors.go says when a caller gets each, and what to do.
var (
	ErrLocked              = errors.New("store is open elsewhere")
	ErrFileChanged         = errors.New("the store's file was changed by another program")
	ErrFileGone            = errors.New("the store's file is gone")
	ErrClosed              = errors.New("store is closed")
	ErrReadOnly            = errors.New("store is read-only")
	ErrNotStore            = errors.New("not a store")
	ErrCorrupt             = errors.New("store is damaged")
	ErrCommitUnknown       = errors.New("commit failed in its last step: the change may or may not last")
	ErrSyncFailed          = errors.New("an earlier commit could not be synced: reopen the store to write again")
	ErrInterrupted         = errors.New("interrupted, because writers would have to wait")
	ErrTransactionTooLarge = errors.New("too many changes for one transaction")
	ErrNumbering           = errors.New("the change index or a count disagrees with the entries")
	ErrReaderHoldsUp       = errors.New("a View holds up the writers")
)

// firstError returns the first one of two errors that is not nil.
func firstError(a, b error) error {
	if a != nil {
		return a
	}
	return b
}
