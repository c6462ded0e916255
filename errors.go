package latchkey

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/latchkeydb/latchkey/internal/boltengine"
	"github.com/latchkeydb/latchkey/internal/record"
)

// These are all the errors that a caller can branch on, with [errors.Is]. A call wraps them with
// its operation and the name or ID that it was for, never with a token.
var (
	// ErrInvalidToken means that the string is no good token of this store. The string is malformed
	// or forged, its secret is wrong, its key is unknown or deleted, or the token has ended: after
	// a rotation, or because its tag secret was retired. The error does not tell which, because the
	// sender may be guessing.
	ErrInvalidToken = errors.New("invalid token")
	// ErrKeyDisabled means that the token is good, but its key is disabled. [Store.EnableKey] lets
	// the key log in again.
	ErrKeyDisabled = errors.New("key is disabled")
	// ErrKeyExpired means that the token is good, but the expiry date of its key has passed. Make
	// another key, or give the key a later date with [Store.SetExpiry].
	ErrKeyExpired = errors.New("key has expired")
	// ErrUserDisabled means that the token is good, but the user that owns its key is disabled.
	// [Store.EnableUser] lets the user's keys log in again.
	ErrUserDisabled = errors.New("user is disabled")
	// ErrGroupDisabled means that the token is good, but the group of its key, or of the user that
	// owns the key, is disabled. [Store.EnableGroup] lets the keys of the group log in again.
	ErrGroupDisabled = errors.New("group is disabled")
	// ErrNetworkNotAllowed means that the token is good, but its key has networks, and the caller's
	// address is in none of them or unknown. [Store.LoginFrom] takes the address, and
	// [Store.SetNetworks] changes the networks.
	ErrNetworkNotAllowed = errors.New("key may not be used from this address")
	// ErrBusy means that too many calls of the same kind wait for a hash already: logins that need
	// a hash, checks of passwords, new passwords, or new keys. Try again in a moment. See
	// [Options].HashQueue and [Options].Foreign.
	ErrBusy = errors.New("too many calls are waiting for a hash")

	// ErrUserNotFound means that there is no such user, or that the user was deleted.
	ErrUserNotFound = errors.New("user not found")
	// ErrKeyNotFound means that the owner has no such key, even if another owner has it.
	ErrKeyNotFound = errors.New("key not found")
	// ErrKeyNameTaken means that another key of the same owner has the name, and has not expired.
	// Choose another name, or delete or rename that key.
	ErrKeyNameTaken = errors.New("key name is taken")
	// ErrIdentityTaken means that the identity belongs to a user already. [Store.UserByIdentity]
	// tells to which one.
	ErrIdentityTaken = errors.New("identity is taken")
	// ErrIdentityConflict means that several users have the identity, because stores of the domain
	// that were apart gave it to each of them. It belongs to none of them until
	// [Store.UnlinkIdentity] has left it to one. The keys of all of them go on.
	ErrIdentityConflict = errors.New("several users have the identity")
	// ErrIdentityNotFound means that the user has no such identity, even if another user has it.
	ErrIdentityNotFound = errors.New("the user has no such identity")
	// ErrLastIdentity means that the identity is the only one of its user. Link another identity
	// first, or delete the user.
	ErrLastIdentity = errors.New("it is the user's only identity")
	// ErrUserHasKeys means that the identity is the only one of its user that is not anonymous, and
	// that the user has keys. Link another identity first, or delete the keys.
	ErrUserHasKeys = errors.New("the user has keys, and no other identity that is not anonymous")
	// ErrTooManyKeys means that the user has as many keys that have not expired as
	// [Options].MaxKeysPerUser allows. Delete a key first.
	ErrTooManyKeys = errors.New("user has too many keys")
	// ErrTooManyIdentities means that the user has 64 identities, which is the most that a user can
	// have.
	ErrTooManyIdentities = errors.New("user has too many identities")
	// ErrAnonymousUser means that all identities of the user are anonymous, so the user can have no
	// keys. Link another identity first.
	ErrAnonymousUser = errors.New("an anonymous user can have no keys")
	// ErrInvalidName means that a key's name breaks a rule of [KeySpec].Name or of
	// [Options].AppServicesNames. The text says which rule.
	ErrInvalidName = errors.New("invalid key name")
	// ErrInvalidScope means that a scope cannot be stored. See [NewScopes] for the rules.
	ErrInvalidScope = errors.New("invalid scope")
	// ErrInvalidNetwork means that the networks of a key break a rule of [KeySpec].Networks. The
	// text says which rule.
	ErrInvalidNetwork = errors.New("invalid network")
	// ErrInvalidMetadata means that the metadata of a user or a key break a rule of
	// [KeySpec].Metadata. The text says which rule.
	ErrInvalidMetadata = errors.New("invalid metadata")
	// ErrInvalidGroup means that the name of a group breaks a rule of [KeySpec].Group, or that the
	// key of a user was to get a group of its own. The text says which rule.
	ErrInvalidGroup = errors.New("invalid group")
	// ErrInvalidIdentity means that an identity breaks a rule of [CheckIdentity], or that an
	// anonymous identity was to be linked to an existing user. The text says which rule.
	ErrInvalidIdentity = errors.New("invalid identity")
	// ErrInvalidExpiry means that an expiry date for a key has passed already, or is after the year
	// 9999. To stop a key at once, disable it.
	ErrInvalidExpiry = errors.New("invalid expiry date")
	// ErrInvalidRotation means that a [Rotation] breaks a rule, or that the key has no good token
	// that a rotation could replace or that [Store.ExportKey] could export. The text says which.
	ErrInvalidRotation = errors.New("invalid rotation")
	// ErrKeyDeleted means that [Store.EnsureKey] or [Store.EnsureServerKey] was given a minted key
	// that has been inserted and deleted. A deleted key never comes back. Mint another one.
	ErrKeyDeleted = errors.New("key was deleted")
	// ErrInvalidMintedKey means that a [MintedKey] is empty, was minted by a store of another
	// domain or under a tag secret that this store does not accept, or has been inserted already,
	// even if the key was deleted since. For a foreign key it means that 8 other keys have its
	// handle, or that its verifier has more than 256 bytes. For a rotation it means that the
	// MintedKey was not minted for the key, or that the key was rotated since then. For
	// [Store.EnsureKey] it means that the key has another owner, or was made with another secret.
	// For [ParseMintedKey] it means that the text is damaged. Mint another one.
	ErrInvalidMintedKey = errors.New("minted key cannot be inserted")
	// ErrInvalidTagSecret means that a step of the replacement of a tag secret cannot be taken now.
	// The text says why, and which step to take first. See [TagSecret].
	ErrInvalidTagSecret = record.ErrTagSecret
	// ErrInvalidRecord means that a [ReplicaRecord] cannot be merged: it is damaged or of another
	// domain, or contradicts what the store has, such as the owner of a key. The text says which.
	// Look for the store that it came from.
	ErrInvalidRecord = errors.New("record of another store cannot be merged")
	// ErrNotPermitted means that a store may not make a change that another store of the domain
	// would have to take over. A key whose scopes begin with "latchkey:" belongs to one store
	// alone. Make the change there.
	ErrNotPermitted = errors.New("this store may not make the change")
	// ErrStale means that a store that follows another one has not heard of it for longer than it
	// may go on alone, so it refuses all logins. See that it can reach the other store.
	ErrStale = errors.New("nothing was heard of the hub for too long")
	// ErrNoIdentity means that a user has no identity, because stores that were apart have unlinked
	// one each. [Store.Health] names the user. Link an identity, or delete the user.
	ErrNoIdentity = errors.New("user without an identity")
	// ErrInvalidData means that a name, key or value is outside the limits of [AppTable].
	ErrInvalidData = errors.New("invalid application data")
	// ErrInvalidOptions means that a field of [Options] is out of range, or contradicts the options
	// that the store was made with. It also means that a path is empty, or that
	// [ParseDomainSecrets] cannot read a text. The text of the error says which.
	ErrInvalidOptions = errors.New("invalid options")

	// ErrLocked means that another process, or this one, has the file open. Close it there, or wait
	// longer with [Options].LockTimeout. The text says whether it is this process. On Linux the
	// text also names the other process, if this process may see it.
	ErrLocked = boltengine.ErrLocked
	// ErrFileChanged means that the file is no longer as this store left it: it was deleted, moved,
	// replaced, or overwritten by another program. Changes would be lost, so the store accepts no
	// more of them until it is closed and opened again. Logins go on while the file is only gone.
	// While another file or other bytes are in its place, every login returns ErrFileChanged,
	// because a key may be revoked there.
	ErrFileChanged = boltengine.ErrFileChanged
	// ErrFileGone means that the store's file was there, and is gone. [Open] returns ErrFileGone if
	// the file is missing and its safety copy exists: open the store with
	// [Options].RecoverFromSafetyCopy, or remove the copy to start a new store. An open store
	// returns it beside [ErrFileChanged].
	ErrFileGone = boltengine.ErrFileGone
	// ErrClosed means that the store was closed before the call, or while the call waited to hash.
	// It also means that a method of a [Tx] was called after the end of its transaction.
	ErrClosed = boltengine.ErrClosed
	// ErrInTransaction means that a function of [Store.Update] or [Store.View] called a method of
	// the store that would have waited for the function to end. Call the methods of its [Tx].
	ErrInTransaction = errors.New("called inside a transaction of the same store, for which it would wait: use the methods of Tx")
	// ErrReadOnly means that the store was opened with [Options].ReadOnly, or that the transaction
	// is one of [Store.View].
	ErrReadOnly = boltengine.ErrReadOnly
	// ErrNotStore means that the thing at the path never was a store: it is an empty file, another
	// program's file, a directory, a pipe or a device. It stays as it is. See that the path is
	// right. A store that has lost its first pages can be taken for another program's file, so try
	// [Salvage] if the file was a store.
	ErrNotStore = boltengine.ErrNotStore
	// ErrCorrupt means that the file is damaged. [Store.Check] says what is wrong. [Store.Repair]
	// mends indexes and counts. For all other damage, [Restore] a backup, or
	// [Salvage] the records that are left.
	ErrCorrupt = boltengine.ErrCorrupt
	// ErrUnfinished means that the copying of a store to this place was cut short, so that there is
	// no store yet. Copy again, with package migrate or the command latchkey migrate.
	ErrUnfinished = errors.New("the copying of a store to this place has not ended")
	// ErrNewerFormat means that a later version of this package wrote the file, and that this
	// version cannot read it. Nothing was changed. Upgrade the program.
	ErrNewerFormat = errors.New("store has a later format")
	// ErrCostTooHigh means that a stored verifier needs more memory than [Options].HashMemory
	// allows. Raise HashMemory.
	ErrCostTooHigh = errors.New("verifier costs more memory than allowed")
	// ErrCommitUnknown means that a commit failed in its last step. Nobody can know whether the
	// change will be there after a power cut. Close the store, open it again and look.
	ErrCommitUnknown = boltengine.ErrCommitUnknown
	// ErrSyncFailed means that an earlier commit could not be synced to the disk, so that the store
	// accepts no more writes. Close the store, repair the disk, and open the store again.
	ErrSyncFailed = boltengine.ErrSyncFailed
	// ErrInterrupted means that a backup, a check, a repair or a compaction has stopped, because
	// otherwise it would have made writers wait, or that an engine has dropped the state that a
	// [Store.View] was reading. The store was not changed. Start the operation again.
	ErrInterrupted = boltengine.ErrInterrupted
	// ErrUnavailable means that the store's data are on other machines, and that they cannot be
	// reached now. Nothing was changed. Try again in a moment. See that this machine reaches the
	// servers of the engine, and that most of these servers run.
	ErrUnavailable = errors.New("the store cannot reach its data")
	// ErrNoSpace means that the engine is full, and that nothing was changed. Only calls that
	// delete something succeed: [Store.DeleteKey] and [Store.DeleteUser]. Delete what is not
	// needed, or compact the engine or enlarge its quota. A file on a full disk does not return
	// ErrNoSpace, but the error of the operating system.
	ErrNoSpace = errors.New("the engine has no space left, and takes only deletions")
	// ErrTransactionTooLarge means that the engine bounds its transactions, and that a transaction
	// has made more changes than the engine takes. Nothing was changed. Make the changes in several
	// transactions.
	ErrTransactionTooLarge = boltengine.ErrTransactionTooLarge
	// ErrNumbering is a finding of [Store.Check] beside [ErrCorrupt]: what the engine derives from
	// its entries disagrees with the entries. [Store.Repair] derives it again.
	ErrNumbering = boltengine.ErrNumbering
	// ErrReaderHoldsUp is a finding of [Store.Health]: a writer waits for a [Store.View] to end,
	// because the file needs a larger map. The text says since when. Keep the functions of View
	// short.
	ErrReaderHoldsUp = boltengine.ErrReaderHoldsUp
	// ErrSafetyCopyFailed is a finding of [Store.Health]: the last attempt to make a safety copy
	// failed. The text says since when, and why.
	ErrSafetyCopyFailed = errors.New("the safety copy cannot be made")
	// ErrLastUseFailed is a finding of [Store.Health]: the last attempt to write the last uses of
	// keys failed. The store keeps them in memory, and tries again after a minute. The text says
	// since when, and why.
	ErrLastUseFailed = errors.New("the last uses of keys cannot be written")
	// ErrRotationNotDurable is a finding of [Store.Health]: the first login with a new token has
	// ended the old token, but the store could not write the end. This process refuses the old
	// token. The end is on disk after the next change that succeeds. Before that, another process
	// can accept the old token, and so can this program after a restart. They refuse it as soon as
	// the new token logs in there, or when the overlap is over. The text says why the end could not
	// be written.
	ErrRotationNotDurable = errors.New("the end of old tokens is not on disk yet")
	// ErrClockBehind is a finding of [Store.Health]: the clock is more than ten minutes behind the
	// store's time; see [Store.Now]. Set the clock. If the clock is right, it was far ahead once:
	// call [Store.ResetClock].
	ErrClockBehind = errors.New("the clock is behind the store's time")
	// ErrRecovered is a finding of [Store.Health]: this opening put the safety copy in the place of
	// a file that was damaged or gone. Changes after the copy are lost: keys that were disabled or
	// deleted since then are as they were before.
	ErrRecovered = errors.New("the store was recovered from its safety copy")
)

// errNoPath is the error of a path that was never set.
var errNoPath = fmt.Errorf("%w: the path is empty", ErrInvalidOptions)

// wrapOpen adds to err the file that could not be opened, in place of the path in the operating
// system's error if that is the same path.
func wrapOpen(err error, path string) error {
	if e, ok := err.(*fs.PathError); ok {
		if abs, absErr := filepath.Abs(path); e.Path == path || absErr == nil && e.Path == abs {
			err = e.Err
		}
	}
	return wrapf(err, "open %s", path)
}

// problemError returns is with a problem, or nil for no problem.
func problemError(is error, problem string) error {
	if problem == "" {
		return nil
	}
	return fmt.Errorf("%w: %s", is, problem)
}

// wrapf adds to err the operation that failed. It returns nil for nil.
func wrapf(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("latchkey: "+format+": %w", append(args, err)...)
}
