package latchkey

import (
	"errors"
	"fmt"
)

// Every error that a caller can branch on, with [errors.Is]. Calls wrap them with what was asked for, never with a token.
var (
	// ErrInvalidToken: the string is no token of this store: malformed, forged, wrong, or of a key that is unknown or
	// deleted. Which of these is not told, because whoever sent it may be guessing.
	ErrInvalidToken = errors.New("invalid token")
	// ErrKeyDisabled: the token is good but its key is disabled. [Store.EnableKey] restores it.
	ErrKeyDisabled = errors.New("key is disabled")
	// ErrKeyExpired: the token is good but its key's expiry date has passed. Make another key.
	ErrKeyExpired = errors.New("key has expired")
	// ErrUserDisabled: the token is good but the user who owns its key is disabled. [Store.EnableUser] restores it.
	ErrUserDisabled = errors.New("user is disabled")
	// ErrBusy: too many logins of keys that are not cached, or passwords, wait for a hash already. Try again in a moment;
	// see [Options].HashQueue.
	ErrBusy = errors.New("too many logins are waiting to be hashed")

	// ErrUserNotFound: there is no such user, or it was deleted.
	ErrUserNotFound = errors.New("user not found")
	// ErrKeyNotFound: this owner has no such key, whoever else may have it.
	ErrKeyNotFound = errors.New("key not found")
	// ErrKeyNameTaken: another key of the same owner has the name. Choose another, or delete or rename that key.
	ErrKeyNameTaken = errors.New("key name is taken")
	// ErrIdentityTaken: the identity belongs to a user already. [Store.UserByIdentity] tells which.
	ErrIdentityTaken = errors.New("identity is taken")
	// ErrTooManyKeys: the user has as many keys as [Options].MaxKeysPerUser allows. Delete one first.
	ErrTooManyKeys = errors.New("user has too many keys")
	// ErrTooManyIdentities: the user has 64 identities, the most that a user can have.
	ErrTooManyIdentities = errors.New("user has too many identities")
	// ErrAnonymousUser: a user whose only identity is anonymous can have no keys. Link another identity first.
	ErrAnonymousUser = errors.New("an anonymous user can have no keys")
	// ErrInvalidName: a key's name is not 1 to 256 bytes of UTF-8 without control characters, or not in the alphabet that
	// [Options].AppServicesNames asks for.
	ErrInvalidName = errors.New("invalid key name")
	// ErrInvalidIdentity: an identity has an unknown provider, or a subject that is not 1 to 256 bytes of UTF-8 without
	// control characters, or is anonymous and was to be linked to a user who exists.
	ErrInvalidIdentity = errors.New("invalid identity")
	// ErrInvalidExpiry: a key was to be made with an expiry date that has passed already, or is after the year 9999.
	ErrInvalidExpiry = errors.New("invalid expiry date")
	// ErrInvalidMintedKey: a [MintedKey] is empty, was minted by a store of another domain, or has been inserted already. Mint
	// another.
	ErrInvalidMintedKey = errors.New("minted key cannot be inserted")
	// ErrInvalidData: a name, key or value is out of the limits of [AppTable].
	ErrInvalidData = errors.New("invalid application data")
	// ErrInvalidOptions: a field of [Options] is out of its range, or contradicts what the store was made with.
	ErrInvalidOptions = errors.New("invalid options")

	// ErrLocked: another process, or this one, has the file open. Close it there, or wait longer with
	// [Options].LockTimeout.
	ErrLocked = errors.New("store is open elsewhere")
	// ErrFileGone: there is no file, but the safety copy of one. Open it with [Options].RecoverFromSafetyCopy, or remove the copy to
	// start a new store.
	ErrFileGone = errors.New("the file is gone, and its safety copy is there")
	// ErrClosed: the store was closed before the call, or while it waited to hash; or the call's transaction has ended.
	ErrClosed = errors.New("store is closed")
	// ErrReadOnly: the store was opened with [Options].ReadOnly, or the transaction is [Store.View]'s.
	ErrReadOnly = errors.New("store is read-only")
	// ErrCorrupt: the file is damaged, or is no store. [Store.Check] says what is wrong, and [Store.Repair] mends indexes
	// and counts; for all else [Restore] a backup, or [Salvage] what is left.
	ErrCorrupt = errors.New("store is damaged")
	// ErrNewerFormat: the file was written by a later version of this package, which this one cannot read. Nothing was
	// changed. Upgrade the program.
	ErrNewerFormat = errors.New("store has a later format")
	// ErrCostTooHigh: a stored verifier needs more memory than [Options].HashMemory allows. Raise that.
	ErrCostTooHigh = errors.New("verifier costs more memory than allowed")
	// ErrCommitUnknown: the last step of a commit failed, and nobody can know whether the change will be there after a power cut.
	// Close the store, open it again and look.
	ErrCommitUnknown = errors.New("commit failed in its last step: the change may or may not last")
	// ErrSyncFailed: an earlier commit could not be synced to the disk, so the store takes no more writes. Close it, see to
	// the disk, and open it again.
	ErrSyncFailed = errors.New("an earlier commit could not be synced: reopen the store to write again")
)

// wrapf adds what was asked for to err, and leaves nil alone.
func wrapf(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("latchkey: "+format+": %w", append(args, err)...)
}
