package latchkey

import (
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/cache"
	"github.com/latchkeydb/latchkey/internal/keycount"
	"github.com/latchkeydb/latchkey/internal/record"
	"github.com/latchkeydb/latchkey/internal/rehash"
)

// A Tx is a transaction that [Store.Update] or [Store.View] hands to its function. It has the
// operations of [Store] on users and keys, all in one transaction. In a View, operations that
// change something return [ErrReadOnly]. A Tx must not be used by two goroutines at once. After the
// function has returned, its methods return [ErrClosed].
type Tx struct {
	store *Store
	etx   EngineTx

	writes    int   // the number of puts and deletes in the store's own tables
	appWrites int   // the same in an AppTable
	halfDone  error // the error of an operation that had begun to write

	keyCounts keycount.Counts
	began     time.Time          // see now
	newClock  *record.Clock      // what ResetClock has written
	newTags   *record.TagSecrets // what a step of a replacement has written
	stale     cache.Stale
	ended     map[uuid.UUID]unendedToken // whose ends were written by endUnended

	appTable *AppTable // what AppTable has returned last

	sharing, alone bool // what isShared has found

	merging  bool                         // the transaction merges what another store has
	forgets  bool                         // a delete is none for the hook
	onChange func(tx *Tx, c Change) error // nil unless the transaction has a hook to call
	actor    string
	changes  []Change // for which the hook was not called yet
}

// effects are what the store has to do when a transaction commits, besides the commit.
type effects struct {
	stale    cache.Stale
	rehashes []rehash.Hash // no longer waiting for a write
	rehashed uint64        // how many of rehashes were written
	clock    *record.Clock // what the file has then, or nil if that was not written

	ended map[uuid.UUID]unendedToken // no longer waiting for a write
}

// Format keeps stored verifiers out of anything that prints a Tx.
func (tx *Tx) Format(f fmt.State, _ rune) { fmt.Fprint(f, "latchkey.Tx") }

// finish ends a transaction that changed something. It writes the new verifiers that wait for a
// write, and the time if that is due. It returns halfDone if an operation failed half-way.
func (tx *Tx) finish() (e effects, err error) {
	if tx.halfDone != nil {
		return effects{}, tx.halfDone
	}
	e.stale, e.ended = tx.stale, tx.ended
	if tx.writes > 0 {
		e.rehashes, e.rehashed, err = tx.applyRehashes()
	}
	if err == nil && (tx.writes > 0 || tx.appWrites > 0) {
		e.clock, err = tx.rememberTime()
	}
	return e, err
}

// room returns how many writes there is room for, if the engine bounds transactions. One more is
// kept for the time. What waits for a write takes no more than the room, because a change that is
// small enough for the engine must not fail.
func (tx *Tx) room() int { return tx.store.maxWrites - tx.writes - tx.appWrites - 1 }

// wholeSince is deferred by every operation that writes more than once. writes is the number of
// writes before the operation. If the operation fails after it has begun to write, wholeSince makes
// the transaction fail, even if its function goes on.
func (tx *Tx) wholeSince(writes int, err *error) {
	if *err != nil && tx.writes != writes && tx.halfDone == nil {
		tx.halfDone = *err
	}
}

// put writes an entry of the store's own tables. Only put and delete write to these, so that the
// hook hears of every change.
func (tx *Tx) put(table string, key, value []byte) error {
	tx.writes++
	if err := tx.compare(table, key, value); err != nil {
		return err
	}
	return tx.etx.Put(table, key, value)
}

func (tx *Tx) delete(table string, key []byte) error {
	tx.writes++
	if err := tx.compare(table, key, nil); err != nil {
		return err
	}
	return tx.etx.Delete(table, key)
}

// deleteForgotten is delete for a record that the store forgets.
func (tx *Tx) deleteForgotten(table string, key []byte) error {
	tx.forgets = true
	defer func() { tx.forgets = false }()
	return tx.delete(table, key)
}

// now returns the time by which the transaction judges expiry dates. It is the same for all of the
// transaction, so that no key expires between the operations.
func (tx *Tx) now() time.Time {
	if tx.began.IsZero() {
		tx.began = tx.store.now()
	}
	return tx.began
}

// forgetKey makes the cache forget the key before the transaction commits.
func (tx *Tx) forgetKey(id uuid.UUID) { tx.stale.Keys = append(tx.stale.Keys, id) }

// forgetUser makes the cache forget all keys of the user before the transaction commits.
func (tx *Tx) forgetUser(id uuid.UUID) { tx.stale.Users = append(tx.stale.Users, id) }

// forgetGroup makes the cache forget all keys in the group before the transaction commits.
func (tx *Tx) forgetGroup(name string) { tx.stale.Groups = append(tx.stale.Groups, name) }
