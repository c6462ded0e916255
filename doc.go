// Package latchkey keeps users and their API keys in one file, and decides offline whether a token is good and whose it
// is.
//
// [Open] a store; make a user with [Store.CreateUser]; give it a key with [Store.CreateKey], which returns the token for
// the only time; check what callers present with [Store.Login], on every request.
//
//	store, err := latchkey.Open("keys.db", nil)
//	user, err := store.CreateUser(ctx, latchkey.UserSpec{
//		Identity: latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: "ada@example.com"},
//	})
//	key, token, err := store.CreateKey(ctx, user.ID, latchkey.KeySpec{Name: "laptop"})
//	who, err := store.Login(ctx, token) // who.UserID, who.KeyID
//	err = store.DisableKey(ctx, user.ID, key.ID)
//	_, err = store.Login(ctx, token) // errors.Is(err, latchkey.ErrKeyDisabled)
//
// # What it promises
//
// When a call that changes something returns nil, the change is on disk. When it returns an error, nothing of it can be
// seen; [ErrCommitUnknown] alone leaves that open. A login that begins after [Store.DisableKey], [Store.DeleteKey],
// [Store.DisableUser] or [Store.DeleteUser] has returned does not succeed. A token is never stored, and what is stored
// for it, an argon2id hash, is never shown. A token that this store did not make is refused without reading the disk.
//
// # Transactions
//
// Each method of [Store] is one transaction. [Store.Update] puts several changes in one, and [Store.View] several
// readings. Hashing is slow and never happens inside a transaction: [Store.MintKey] hashes before, [Tx.InsertKey] stores
// after.
//
// # Files and engines
//
// A store is one bbolt file, which one process at a time can write; [Options].ReadOnly lets several read. What keeps the
// bytes is an [Engine], and [OpenWith] opens a store on another one; the package enginetest tests engines.
//
// # What it does not do
//
// It has no passwords, sessions or policy: it says who is calling, and the program decides what they may do. It does not
// hide the file from whoever can read it as the program does. docs/threat-model.md says what holds against whom.
//
// Stores do not replicate yet. What is said here of domains and replicas is what files of today are ready for.
package latchkey
