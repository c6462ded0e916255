// Latchkey manages users and their API keys, which it keeps in one file, the store. Go programs
// open the same file with the package github.com/latchkeydb/latchkey.
//
// A first session makes a store, a user and a key, and logs in with the key's token. The second
// login fails, because the key is disabled by then:
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
// The flag --store names the store's file. Without the flag, the environment variable
// LATCHKEY_STORE names it. A store can also be on etcd; see below.
//
// Only init, restore, salvage, migrate and pipe --init make a store. For every other command a
// missing file is an error, so a mistyped name never makes a second, empty store.
//
// Several commands that only read the store can run at the same time. A command that writes needs
// the file to itself. While another program has the store open for writing, no command can open it.
//
// A program that has the store open can serve its administration on a socket beside the file: a Go
// program with admin.Listen, and latchkey serve, hub, sync --follow and pipe by themselves.
// Commands then go through the socket of that program, with the same output and the same exit
// status. Only the user of the program, and root, can do so. The flag --verbose says on standard
// error which way a command took.
//
// The options of that program hold: the variable LATCHKEY_COST has no effect, and the flags --cost
// and --max-keys are refused.
//
// If the program serves no socket, a command waits for the file. The flag --wait says how long it
// waits before it fails. The error names the program that has the file, where the system tells.
//
// The flag --dry-run of commands that delete, prune or retire, of group disable and of apply and
// import prints what the command would do, and changes nothing.
//
// The command doctor looks at a store that does not work as it should, and says what to do. It
// never changes a file.
//
// The store's time decides which keys have expired. It goes by the clock of the machine, but never
// back. The command clock reset is the remedy if the clock was far ahead once.
//
// # A store on etcd
//
// In the place of a file, --store takes the URL of a store on etcd:
//
//	etcd://HOST:PORT,HOST:PORT,.../PREFIX
//	etcds://HOST:PORT,.../PREFIX?cacert=FILE&cert=FILE&key=FILE&credentials=FILE
//	etcd://HOST:PORT,.../PREFIX?mirror=FILE&watch-age=TIME&unreachable=TIME
//
// The store has the keys of etcd that begin with PREFIX. The default port is 2379. The scheme etcds
// is for TLS. The parameters name files and can be left out. The file cacert has the certificates
// of the authorities that sign the certificates of the servers. The files cert and key have the
// certificate of the client and its key. All three are in PEM. The file credentials has one line,
// USER:PASSWORD, for a user of etcd, and is also for URLs without TLS. A running program reads the
// certificates again for each connection, and the credentials when etcd no longer accepts what they
// were.
//
// The file mirror is a copy of the store that a running program keeps, so that listings, first
// logins and the edges of a hub do not read etcd. Each program needs a file of its own. A change
// that another program makes takes effect within watch-age, which is 2s unless it is given. While
// etcd cannot be reached, keys that have logged in before go on logging in for unreachable, which
// is 0s. Both are times such as 500ms or 1m30s.
//
// Several commands and programs can have such a store open at once, also on several machines. A
// command never goes through a socket there. The command migrate copies a store from a file to etcd
// and back. The commands backup, restore, compact, salvage, doctor, watch, page and join are for
// files alone, and say what to do on etcd.
//
// # Users and keys
//
// USER is an ID or an identity. An identity is written as PROVIDER:SUBJECT, for example
// custom-token:42. Without a provider, the text is the subject of a local-userpass identity, so an
// e-mail address is enough. The providers are anon-user, local-userpass, custom-token,
// custom-function, oauth2-google, oauth2-facebook, oauth2-apple and api-key.
//
// KEY is the ID or the name of one of the USER's keys. With --server, KEY is a server key. A server
// key belongs to no user, so USER is left out.
//
// An ID names a key by itself, so that USER and --server can be left out before it. So does a token
// of the key, but no command takes a token as an argument, because every process on the machine can
// see arguments. The argument - stands for a token on standard input. This finds the key of a token
// that somebody has found, and disables it:
//
//	latchkey key show - < token
//	latchkey key disable - < token
//
// An argument that has the form of an ID is always read as an ID.
//
// Names and subjects differ if one letter is upper case in the one and lower case in the other, so
// Ada@example.com and ada@example.com are two users. A letter with an accent can be written as one
// character or as two. The command first looks for the exact text of an argument, and then for its
// Unicode normal form C (NFC). New names and subjects are stored in that form. Lists mark text that
// is in another form with "(not NFC)".
//
// The command key create shows the token of the new key, and key rotate shows the new token of a
// key. No command shows a token again.
//
// The command login reads a token from standard input, too. PowerShell has no <, so the session
// above ends there with
//
//	Get-Content token | latchkey login
//
// The command scan finds tokens in files, and disables their keys if it is told to.
//
// # The audit trail
//
// The command audit begin begins a trail of the changes. From then on, each change that a command
// makes is an entry in the trail, with the name of an actor. The actor is the account that runs the
// command. The flag --actor, or the environment variable LATCHKEY_ACTOR, gives another name.
// Nothing proves the name. The command serve makes all its changes under one name.
//
// A trail can have several chains. On etcd, changes that several programs write into one chain wait
// for each other. So the changes of a machine go into a chain with the name of the machine there.
// The flag --chain, or the environment variable LATCHKEY_CHAIN, gives another name. In a file,
// changes go into the default chain, whose name is empty. The audit commands are about all chains.
// Their own flag --chain chooses one.
//
// The command watch follows the trail: it prints each change as it is made, or runs a command for
// it.
//
// Each entry has a hash of the entry before it. The command audit verify looks whether the entries
// are whole, and whether they are those that an earlier audit verify has seen. If the trail is
// broken, commands can still disable and delete, and print a warning. All other changes are
// refused.
//
// # Manifests, domains and other systems
//
// A manifest is a file that says which users and keys a store is to have. The command apply brings
// a store in line with a manifest. The command mint makes a token, and the entry of its key for a
// manifest.
//
// Every store belongs to a domain, and takes tokens that were made in this domain. To make several
// stores that take the same tokens, write the secrets of the domain of one of them with domain
// export, and make the others with init --domain.
//
// The command import takes over the keys of another system, whose holders keep their tokens. The
// command export writes users and keys as JSON lines.
//
// # Hubs and edges
//
// An edge is a store of its own that follows another one, its hub. It checks tokens without asking
// anybody, also while the network is down. The command hub serves a store to edges, replica invite
// makes an invitation, and join makes an edge with it. The command sync brings an edge in line with
// its hub. The commands replica list, show, policy, revoke and claims administer the edges at the
// hub. EDGE is the ID of an edge, or its name if no other edge has the name.
//
// While no program has the store of an edge open, commands can change it: the edge pushes the
// change later. A change that the policy of the edge does not let it push is refused with status 5.
// Disabling is always possible.
//
// # Serving
//
// The command serve answers the client API of MongoDB Realm / Atlas App Services. An app that uses
// one of that service's SDKs runs against a store when the app's base URL is changed. The store can
// be a file, or it can be in memory for tests. See latchkey help serve.
//
// # Programs in other languages
//
// A program in any language starts the command pipe, writes requests as lines of JSON to its
// standard input, and reads the answers from its standard output. See latchkey help pipe, and
// docs/pipe.md for the calls.
//
// # Output
//
// Output without --json or --quiet is for people, and its form may change. On a terminal, long work
// shows on standard error that it goes on, and doctor marks problems in colour unless the
// environment variable NO_COLOR is set. With --json, a command prints one JSON document on one
// line. Fields may be added to these documents:
//
//	init            {"store":FILE}
//	user list       one USER on each line
//	user ...        USER after the command; a deleted user as it was before
//	key list        [KEY, ...]; of all owners one KEY on each line
//	key create      {"key":KEY,"token":TOKEN}
//	key rotate      {"key":KEY,"token":TOKEN}, with the new token
//	key prune       [KEY, ...]; with --yes the keys that were changed
//	key ...         KEY after the command; a deleted key as it was before
//	group list      one GROUP on each line
//	group ...       GROUP after the command
//	login           {"ok":true,"principal":PRINCIPAL}, or {"ok":false,"reason":REASON}
//	scan            one LEAK on each line, and {"file":FILE,"error":TEXT} for an unreadable file;
//	                with --disable, then {"disabled":KEY} for each key that was disabled
//	domain ...      {"domain":ID,"file":FILE}; show has no file
//	domain secret list
//	                {"secrets":[SECRET, ...],"without_token":N}, each SECRET with "keys":N
//	domain secret add, use, retire
//	                SECRET after the command
//	mint            {"domain":ID,"id":ID,"name":TEXT,"minted":TEXT,"token":TOKEN}; no token
//	                with --token
//	apply           {"dry_run":BOOL,"changes":[DIFFERENCE, ...]}
//	import          {"dry_run":BOOL,"users":[ID, ...],"keys":[ID, ...],"disabled":[ID, ...],
//	                 "known":N,"expired":[LINE, ...]}: users and keys that were made, keys that
//	                were disabled, the number of those that were there already, and the lines of
//	                expired ones; or one {"line":N,"error":TEXT} for each line that is wrong
//	export          {"file":FILE}; nothing if the export goes to standard output
//	hub             {"url":URL}, when the hub is ready
//	join            EDGE
//	sync            EDGE afterwards, or with --follow when it begins
//	replica invite  {"invitation":TEXT}
//	replica list    one REPLICA on each line
//	replica show    REPLICA; without EDGE how the store is, HUB or EDGE
//	replica policy, revoke
//	                REPLICA after the command
//	replica confirmed
//	                {"sequence":N,"have":N,"all":N}
//	replica claims  one CLAIM on each line; confirm and refuse print {"number":N}
//	serve           {"url":URL}, when the server is ready
//	pipe            the lines that docs/pipe.md describes, always in JSON
//	stats           {"users":N,"keys":N,"sequence":N,"bytes":N,"clock_resets":N,
//	                 "health":[TEXT, ...]}; no bytes on etcd
//	watch           one ENTRY on each line, always in JSON, or {"lost":true}; with --outbox
//	                {"number":N,"change":CHANGE} in place of ENTRY
//	doctor          {"file":FILE,"state":STATE,"findings":[FINDING, ...]}
//	clock reset     {"before":TIME,"after":TIME}
//	check           {"sound":BOOL,"repaired":N,"findings":[TEXT, ...]}
//	audit begin     {"head":HEAD}
//	audit show      one ENTRY on each line
//	audit verify    {"entries":N,"heads":[HEAD, ...]}
//	audit prune     {"entries":N,"removed":N}; without --yes the number to remove
//	backup          {"file":FILE,"bytes":N}; nothing if the backup goes to standard output
//	restore         {"store":FILE}
//	compact         {"before":N,"after":N}, in bytes
//	salvage         {"store":FILE,"users":N,"keys":N,"data":N,"bad_pages":N,
//	                 "bad_records":N,"uncertain":N,"orphaned":N}
//	migrate         {"from":TEXT,"to":TEXT,"dry_run":BOOL,"resumed":BOOL,"entries":N,"bytes":N,
//	                 "written":N,"digest":HEX}; after a dry run no digest
//	version         {"version":TEXT,"commit":TEXT,"modified":BOOL,"go":TEXT,"platform":TEXT}
//
//	USER            {"id":ID,"identities":[IDENTITY, ...],"created":TIME,"disabled":BOOL,
//	                 "group":TEXT,"metadata":{TEXT:TEXT, ...}}
//	IDENTITY        {"provider":TEXT,"subject":TEXT}
//	KEY             {"id":ID,"owner":ID,"name":TEXT,"created":TIME,"expires":TIME,
//	                 "disabled":BOOL,"scopes":SCOPES,"networks":[TEXT, ...],
//	                 "metadata":{TEXT:TEXT, ...},"group":TEXT,"last_used":TIME}
//	GROUP           {"name":TEXT,"disabled":BOOL}
//	SCOPES          TEXT with a blank between two scopes
//	PRINCIPAL       {"key_id":ID,"key_name":TEXT,"owner":ID,"user_id":ID,"server_key":BOOL,
//	                 "identity":IDENTITY,"group":TEXT,"scopes":SCOPES,"expires":TIME,
//	                 "token_id":TEXT}
//	SECRET          {"number":N,"state":"accepted", "used" or "retired","changed":TIME}; the first
//	                one of a domain has no "changed" until it is retired
//	REPLICA         {"id":ID,"name":TEXT,"policy":POLICY,"joined":TIME,"last_seen":TIME,
//	                 "connected":BOOL,"build":TEXT,"sequence":N,"revoked":BOOL,"dropped":BOOL,
//	                 "cloned":BOOL,"claims":N,"refused":TEXT}; the last five can be absent
//	POLICY          {"groups":[TEXT, ...],"push":"nothing", "use", "revocations" or "all"}
//	HUB             {"sequence":N,"edges":N,"streams":N,"claims":N,"invitations":N}
//	EDGE            {"hub_url":URL,"edge":ID,"domain":ID,"policy":POLICY,"connected":BOOL,
//	                 "copied":BOOL,"sequence":N,"last_word":TIME,"age":N,"stale":BOOL,"pending":N,
//	                 "cloned":BOOL,"key_issued":TIME,"error":TEXT}, with the age in nanoseconds
//	CLAIM           {"number":N,"edge":ID,"arrived":TIME,"table":TEXT,"id":ID,"group":TEXT,
//	                 "what":TEXT}
//	LEAK            {"file":FILE,"line":N,"column":N,"state":"live", "refused", "unknown" or
//	                 "unchecked","reason":REASON,"key_id":ID,"principal":PRINCIPAL}
//	HEAD            the number of an entry, a colon, and the hash of the entry; before them the
//	                name of the chain and a slash, unless it is the default chain
//	ENTRY           {"chain":TEXT,"number":N,"change":CHANGE,"hash":TEXT}; the default chain is
//	                not named
//	CHANGE          {"actions":[TEXT, ...],"time":TIME,"actor":TEXT,"user":ID,"key":ID,"owner":ID,
//	                 "provider":TEXT,"group":TEXT,"name":TEXT,"expires":TIME,"scopes":SCOPES,
//	                 "networks":[TEXT, ...]}, with the fields that the change has
//	DIFFERENCE      {"action":"create", "change" or "delete","kind":"user", "key" or "server key",
//	                 "id":ID,"owner":TEXT,"name":TEXT,
//	                 "fields":[{"name":TEXT,"before":TEXT,"after":TEXT}, ...]}
//	FINDING         {"name":TEXT,"state":STATE,"text":TEXT,"advice":TEXT}
//	STATE           "good", "skipped", "warning" or "problem"
//	REASON          "invalid_token", "key_disabled", "key_expired", "user_disabled",
//	                "group_disabled" or "network_not_allowed"
//
// With --json, an error is one JSON document, too, on standard error. It has no advice if there is
// none to give:
//
//	{"error":TEXT,"advice":TEXT,"status":N}
//
// A warning is {"warning":TEXT,"advice":TEXT} there, and the command goes on.
//
// TIME has the format of RFC 3339. A key that never expires has no "expires", and a key that was
// not used has no "last_used". The owner of a server key is ffffffff-ffff-ffff-ffff-ffffffffffff,
// and the principal of a server key has no "user_id" and no "identity". A group, metadata, scopes
// and networks are absent if there are none. The version has no "commit" if the build did not know
// it.
//
// # Exit status
//
// Every error is one line on standard error. The line says what is wrong and what to do.
//
//	0    success; login: the token is good
//	1    a failure that is not listed here
//	2    the command line is wrong, or a file that the command was told to read
//	3    a user, key, store, file or directory does not exist
//	4    a conflict: an identity or a name is taken, a limit is reached, a user is anonymous,
//	     a user would have no identity, a file or an audit trail exists already, the audit trail
//	     begins after a HEAD that verify was given, a key of a manifest was deleted or is of
//	     another domain, a step with a tag secret cannot be taken, or migrate finds something
//	     else at TO
//	5    login: the token is refused; join, sync: the hub refuses the invitation, the edge, or
//	     what the edge has pushed; at an edge: the policy does not allow the change
//	6    another program has the store open, and the command cannot go through it
//	7    the store is damaged, its audit trail is broken, the file is not a store, or a migrate
//	     to it has not ended
//	8    the store has a newer format than this latchkey can read
//	9    doctor: the store works, but there are warnings; apply --dry-run: there are differences
//	10   scan: a live token was found, or with --no-store any token
//	130  interrupted; nothing was changed, unless the error says otherwise
package main
