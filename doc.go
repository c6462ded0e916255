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
// A key carries [Scopes], which say what the key permits. A key can also have an expiry date,
// networks that it may be used from, and metadata of the program's own. All of these can be changed
// while the key is in use, for example with [Store.SetScopes].
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
// [Store.SetKeyGroup] or [Store.SetUserGroup] has returned is judged by the new value. A login with
// an old token does not succeed if it begins after a [Store.RotateKey] without overlap has
// returned. The same holds for a token whose tag secret [Store.RetireTagSecret] has retired.
//
// The store's time never runs backwards, so a key that has expired stays expired when the clock is
// set back; see [Store.Now].
//
// A token is never stored. The store keeps an argon2id hash of the token's secret. Nothing shows
// the hash but backups and [MintedKey.Export], which package keyimport uses to export keys. A token
// that was not made in the store's domain is refused without reading the disk.
//
// Keys that were made elsewhere are an exception, see [Options].Foreign. The store keeps the hash
// that the other system kept. A string that may be the token of such a key can cost a read of the
// disk.
//
// # Transactions
//
// [Store.Update] runs several changes in one transaction, and [Store.View] several reads. Most
// other methods of [Store] are one transaction each. The exceptions are:
//
//   - [Store.CreateKey], [Store.CreateServerKey] and [Store.CreateKeys] are two: they check the
//     request in the first, then hash, and insert the keys in the second. So are [Store.RotateKey]
//     and [Store.RotateServerKey].
//   - [Store.Login] is none if the cache has the token. Otherwise it is up to three reads, or more
//     if the key changes meanwhile. The first login with a token that was made with
//     [Rotation].UntilUsed also writes.
//   - [Store.Users] and [Store.Groups] are one for every 256 users or groups. [Store.AllKeys] is
//     one at the beginning, and one more for every 256 keys that it reads.
//   - [Store.MintKey], [Store.MintKeys], [Store.HashPassword] and [Store.CheckPassword] are none.
//
// Hashing is slow, so it never happens inside a transaction: [Store.MintKey] hashes before the
// transaction, and [Tx.InsertKey] inserts the key in it. For a new token of a key,
// [Store.MintToken] and [Tx.RotateKey] do that.
//
// [Options].OnChange is a hook that runs in the transaction of each change. Packages audit and
// outbox have such hooks, which keep the changes.
//
// # Files and engines
//
// A store is one bbolt file. Either one process has the file open for writing, or several processes
// have it open for reading, with [Options].ReadOnly. An [Engine] keeps the store's bytes, and
// [OpenWith] opens a store on an engine of your own. The package enginetest tests engines.
//
// # What it does not do
//
// The package has no sessions and no policy. It tells which user and which key a call comes from,
// and the program decides what the caller may do. The package hashes passwords, but does not keep
// them. It does not encrypt the file. docs/threat-model.md lists the attackers, and says what holds
// against each.
//
// A domain is all the stores that share users and keys, and a replica is one of these stores. This
// package carries nothing over a network. Package replica does: its hub serves other stores, and
// its edges check tokens alone and follow the hub. A program that carries records itself reads them
// with [Store.Records], and gives them to [Store.Merge] of another store. docs/replication.md has
// the rules.
package latchkey
