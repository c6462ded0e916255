// Package latchkey keeps users and their API keys in one file. It decides offline whether a token
// is good, and which user it belongs to.
//
// [Open] a store, make a user with [Store.CreateUser], and give the user a key with
// [Store.CreateKey], which returns the token for the only time. On every request, check the token
// that the caller presents with [Store.Login].
//
//	store, err := latchkey.Open("keys.db", nil)
//	user, err := store.CreateUser(ctx, latchkey.UserSpec{Identity: latchkey.Identity{
//		Provider: latchkey.ProviderLocalUserpass, Subject: "ada@example.com",
//	}})
//	key, token, err := store.CreateKey(ctx, user.ID, latchkey.KeySpec{Name: "laptop"})
//	principal, err := store.Login(ctx, token) // principal.UserID, principal.KeyID
//	err = store.DisableKey(ctx, user.ID, key.ID)
//	_, err = store.Login(ctx, token) // errors.Is(err, latchkey.ErrKeyDisabled)
//
// A key carries [Scopes], which say what it permits. It can have an expiry date, networks that it
// may be used from, and metadata of the program's own. All of them can be changed while the key is
// in use, for example with [Store.SetScopes].
//
// # What it promises
//
// When a call that changes something returns nil, the change is on disk. When the call returns an
// error, nothing of the change can be seen. Only [ErrCommitUnknown] leaves open whether the change
// happened.
//
// A login that begins after [Store.DisableKey], [Store.DeleteKey], [Store.DisableUser],
// [Store.DeleteUser] or [Store.DisableGroup] has returned does not succeed. A login that begins
// after [Store.SetExpiry], [Store.SetScopes], [Store.SetNetworks], [Store.SetMetadata],
// [Store.SetKeyGroup] or [Store.SetUserGroup] has returned is judged by the new value. No
// login with an old token succeeds that begins after a [Store.RotateKey] without overlap, or the
// [Store.RetireTagSecret] of its tag secret, has returned.
//
// The store's time never runs backwards, so a key that has expired stays expired when the clock is
// set back; see [Store.Now].
//
// A token is never stored. The store keeps an argon2id hash of the token's secret. Nothing shows
// the hash but backups and [MintedKey.Export], which package keyimport uses to export keys. A token
// that was not made in the store's domain is refused without reading the disk.
//
// Keys that were made elsewhere are an exception to both, see [Options].Foreign: the store keeps
// the hash that the other system kept, and looks up a string that may be one of their tokens.
//
// # Transactions
//
// [Store.Update] runs several changes in one transaction, and [Store.View] several reads. Most
// other methods of [Store] are one transaction each. The exceptions are:
//
//   - [Store.CreateKey], [Store.CreateServerKey] and [Store.CreateKeys] are two: they check the
//     request in the first, then hash, and insert the keys in the second. So are [Store.RotateKey]
//     and [Store.RotateServerKey].
//   - [Store.Login] is none if the cache knows the key. Otherwise it is up to three reads, or more
//     if the key changes meanwhile. The first login by a token with [Rotation].UntilUsed also
//     writes.
//   - [Store.Users] and [Store.Groups] are one for every 256 of these, and [Store.AllKeys] is one
//     more than one for every 256 keys that it reads.
//   - [Store.MintKey], [Store.MintKeys], [Store.HashPassword] and [Store.CheckPassword] are none.
//
// Hashing is slow, so it never happens inside a transaction: [Store.MintKey] hashes before the
// transaction, and [Tx.InsertKey] inserts the key in it. For a new token of a key,
// [Store.MintToken] and [Tx.RotateKey] do that.
//
// [Options].OnChange is a hook that runs in the transaction of each change. Packages audit and
// outbox keep the changes by it.
//
// # Files and engines
//
// A store is one bbolt file. One process at a time can write it, or several can read it with
// [Options].ReadOnly. An [Engine] keeps the store's bytes, and [OpenWith] opens a store on an
// engine of your own. The package enginetest tests engines.
//
// # What it does not do
//
// The package has no sessions and no policy. It tells which user and which key a call comes from,
// and the program decides what the caller may do. The package hashes passwords, but does not keep
// them. It does not hide the contents of the file from a reader of the file. docs/threat-model.md
// lists the attackers, and says what holds against each.
//
// Stores do not replicate yet. The files of today are ready for it, and so the text speaks of
// domains and replicas.
package latchkey
