// Package appservices speaks the client HTTP API of MongoDB Realm / Atlas App Services over a [latchkey.Store]: log in,
// sessions, profile, user API keys. An app that was written against that hosted service runs against a [Handler] when
// its base URL is changed, with the official SDK as it is: as a double for tests, and in earnest for small installations.
//
//	store, err := latchkey.Open("keys.db", &latchkey.Options{AppServicesNames: true})
//	handler, err := appservices.New(store, nil)
//	err = appservices.NewServer("127.0.0.1:9090", handler).ListenAndServe()
//
// # What it keeps
//
// Users and keys are the store's, and so are all rules about them. E-mail and password accounts, ended sessions and the
// key that signs tokens are kept in the same file, in the same transactions. A session itself is not kept: its access
// token and refresh token are signed and carry all that is to be known, so a login with a known key writes nothing, and
// tokens outlive a restart.
//
// # IDs
//
// The SDKs want ObjectIds, 24 hexadecimal digits. [UserObjectID] and [KeyObjectID] project the store's IDs to them: four
// bytes of creation time in seconds, and the last eight bytes of the UUID. Everything else that wants an ID, such as the
// app, its domain and its providers, gets one that is derived from [latchkey.Store.DomainID] and never changes.
//
// # What it does not do
//
// It has no functions, no sync, no data access, and no administration; programs administer the store directly. It sends
// no mail: what a mail would carry goes to [Options].Mail.
package appservices
