// Latchkey manages users and their API keys in one file: the store that a program opens through the Go package
// github.com/latchkeydb/latchkey. A first session:
//
//	export LATCHKEY_STORE=keys.db
//	latchkey init
//	latchkey user add ada@example.com
//	latchkey key create --quiet ada@example.com laptop > token
//	latchkey login < token
//	latchkey key disable ada@example.com laptop
//	latchkey login < token
//
// # The store
//
// The file is named by --store, or else by the environment variable LATCHKEY_STORE. Only init makes one: a mistyped
// name is an error to every other command, and never a second, empty store.
//
// Commands that only read can run at the same time. One that writes needs the file to itself, so neither kind works while
// another program has the store open to write; --wait says how long to wait for it.
//
// # Users and keys
//
// A USER is an ID, or an identity PROVIDER:SUBJECT, as in custom-token:42. Without a provider it is a local-userpass
// identity, so that an e-mail address will do. Providers are anon-user, local-userpass, custom-token, custom-function,
// oauth2-google, oauth2-facebook, oauth2-apple and api-key.
//
// A KEY is an ID or a name, and one of the keys of the USER before it. With --server it is a server key instead, which no
// user owns, and there is no USER before it. What has the form of an ID is taken for one.
//
// A token is shown once, by key create. It is read from standard input, by login, and never from an argument, which
// every process on the machine could see.
//
// # Serving
//
// Serve answers the client API of MongoDB Realm / Atlas App Services, so that an app with one of its SDKs runs against a
// store when its base URL is changed: in earnest, or in tests, where nothing of it is to last. See latchkey serve --help.
//
// # Output
//
// Output is made for people, and may change, unless it is asked for with --json or --quiet. With --json, a command prints
// one document on one line:
//
//	init            {"store":FILE}
//	user list       a line with USER for each
//	user ...        USER, as it is now; a deleted one, as it was
//	key list        [KEY, ...]
//	key create      {"key":KEY,"token":TOKEN}
//	key ...         KEY, as it is now; a deleted one, as it was
//	login           {"ok":true,"principal":PRINCIPAL}, or {"ok":false,"reason":REASON}
//	serve           {"url":URL}, when it is ready
//	stats           {"users":N,"keys":N,"sequence":N,"bytes":N}
//	check           {"sound":BOOL,"repaired":N,"findings":[TEXT, ...]}
//	backup          {"file":FILE,"bytes":N}; nothing, if it goes to standard output
//	restore         {"store":FILE}
//	compact         {"before":N,"after":N}, in bytes
//	salvage         {"store":FILE,"users":N,"keys":N,"data":N,"bad_pages":N,"bad_records":N,"uncertain":N,"orphaned":N}
//	version         {"version":TEXT,"go":TEXT,"platform":TEXT}
//
//	USER            {"id":ID,"identities":[{"provider":TEXT,"subject":TEXT}, ...],"created":TIME,"disabled":BOOL}
//	KEY             {"id":ID,"owner":ID,"name":TEXT,"created":TIME,"expires":TIME,"disabled":BOOL}
//	PRINCIPAL       {"key_id":ID,"key_name":TEXT,"owner":ID,"user_id":ID,"server_key":BOOL}
//	REASON          "invalid_token", "key_disabled", "key_expired" or "user_disabled"
//
// A TIME is in the format of RFC 3339. A key that never expires has no "expires". The owner of a server key is
// ffffffff-ffff-ffff-ffff-ffffffffffff, and its principal has no "user_id". Fields may be added.
//
// # Exit status
//
// An error is one line on standard error, which says what to do.
//
//	0    done; login: the token is good
//	1    failed, for a reason not listed here
//	2    the command line is wrong
//	3    there is no such user, key, store or directory
//	4    what is there forbids it: an identity or a name is taken, a limit is reached, a user is anonymous, a file exists
//	5    login: the token is refused
//	6    the store is open elsewhere
//	7    the store is damaged, or the file is no store
//	8    the store has a later format than this build reads
//	130  interrupted; nothing was changed, unless the error says so
package main
