// Package appservices speaks the client API of MongoDB Realm / Atlas App Services over a
// [latchkey.Store]: logins, sessions, profiles, and user API keys. An app that was written against
// that hosted service runs against a [Handler] when its base URL is changed. The official SDK stays
// as it is. A Handler serves as a double in tests, and as the real service in small installations.
//
//	store, err := latchkey.Open("keys.db", &latchkey.Options{AppServicesNames: true})
//	handler, err := appservices.New(store, nil)
//	err = appservices.NewServer("127.0.0.1:9090", handler).ListenAndServe()
//
// # What it keeps
//
// The store keeps the users and the keys, and enforces all rules about them. The handler keeps
// e-mail accounts with their passwords, ended sessions, and the key that signs tokens in the same
// file, and writes them in the same transactions. It does not keep sessions: the access token and
// the refresh token are signed and carry everything that the handler needs. So a login with a known
// key writes nothing, and tokens survive a restart.
//
// # IDs
//
// The SDKs expect ObjectIds, which are 24 hexadecimal digits. [UserObjectID] and [KeyObjectID] make
// them from the store's IDs. They begin with four bytes of creation time in seconds, and the IDs of
// keys sort by creation. The app, its domain and its providers need IDs, too. These IDs are derived
// from [latchkey.Store.DomainID] and never change.
//
// # What it does not do
//
// The package has no functions, no sync, no data access, and no administration. Programs administer
// the store directly. The package sends no mail: [Options].Mail receives the contents of each mail.
package appservices
