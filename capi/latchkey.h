/*
 * Latchkey keeps users and their API keys in one file. It decides offline whether a token is good,
 * and which user it belongs to. This is its interface for C, and for every language that can call
 * C.
 *
 * Read "Limits" in docs/c.md before you load the library: it cannot be unloaded, and it works
 * neither in a child of fork nor with musl.
 *
 * Calls. Every call that can fail returns an lk_code, which is LK_OK for success. The last
 * parameter of such a call is error. If error is not NULL, the call sets *error: to NULL on
 * success, and to the code and a message on failure, or to NULL if there is no memory for them.
 * Release the message with lk_error_free. The texts of messages can change in any release, but the
 * codes cannot. Every other out-parameter is set to NULL or 0 if the call fails, unless the
 * out-parameter itself is NULL. The comment of a function lists its codes. Besides these, every
 * call can return LK_NO_MEMORY, LK_INTERNAL and LK_OTHER.
 *
 * Strings. A string is a pointer and a length in bytes, in UTF-8. It does not end with a NUL. A
 * string of length 0 may have the pointer NULL. A string that you pass must have at most 1 MiB, and
 * must not change during the call. The library keeps none of your memory after a call has returned.
 *
 * Structs. A struct that you pass begins with its size: set it to sizeof the struct, and set every
 * field that you do not need to 0. A struct that the library returns begins with its size, too.
 * Only lk_string, lk_id, lk_pair and lk_identity have no size, because they never change. A later
 * library adds fields at the end and never moves one. So a program works with a library that is
 * later than the header that the program was compiled with. It also works with an earlier library,
 * as long as the program leaves at 0 the fields that the library does not know. A call that sets
 * such a field gets LK_INVALID_ARGUMENT.
 *
 * Ownership. The library allocates results, and you release each result once, with the function
 * that its comment names. All pointers in a result point into the result: they are valid until it
 * is released. Do not release a result with free(). The functions that release accept NULL.
 *
 * Secrets. lk_token_free overwrites the token in the memory of the result before it releases the
 * memory. Copies that you make, and the copy in the memory of the Go runtime, which the garbage
 * collector reuses at some later time, are not overwritten.
 *
 * Threads. Any thread may make any call at any time, with the same store. A result can be read by
 * several threads, and one of them may release it when no other thread reads it any more. No call
 * calls back into your program.
 *
 * Handles. A store is a number. A call with a number that the library never returned gets
 * LK_INVALID_HANDLE, and a call with the number of a closed store gets LK_CLOSED. Numbers are not
 * used again.
 *
 * Times. A time is in milliseconds since 1970-01-01 UTC. 0 means that there is no such time.
 *
 * Stability. "ABI 1" in the comment of a function means that the function and its structs stay as
 * they are, except for new fields at the end, as long as lk_abi_version returns 1.
 */
#ifndef LATCHKEY_H
#define LATCHKEY_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The version of this interface. It changes only if old programs no longer work. */
enum lk_abi { LK_ABI_VERSION = 1 };

/* A result of a call: one of enum lk_codes, or a number that a later library has added. */
typedef int32_t lk_code;

enum lk_codes {
    LK_OK = 0,

    /* Codes that a call itself can cause. */
    LK_INVALID_ARGUMENT = 1, /* a pointer is NULL, a size or length is wrong, or text is not UTF-8 */
    LK_INVALID_HANDLE = 2,   /* lk_open never returned this store */
    LK_CLOSED = 3,           /* the store was closed before the call, or during the call */
    LK_ABI = 4,              /* the header and the library do not fit */
    LK_FORKED = 5,           /* the process is a child of fork without exec; open the store there after exec */
    LK_NO_MEMORY = 6,        /* no memory for the result; a change may have been made */
    LK_INTERNAL = 7,         /* a fault of the library; please report it */
    LK_OTHER = 8,            /* an error without a code of its own; the message says which */
    LK_SYSTEM = 9,           /* an error of the operating system, such as a full disk */
    LK_NO_FILE = 10,         /* there is no such file */
    LK_FILE_EXISTS = 11,     /* there is such a file already, and it stays as it is */

    /* Refusals of a login. */
    LK_INVALID_TOKEN = 100,       /* not a good token of this store; nothing tells why */
    LK_KEY_DISABLED = 101,        /* the token is good, but its key is disabled */
    LK_KEY_EXPIRED = 102,         /* the token is good, but its key has expired */
    LK_USER_DISABLED = 103,       /* the token is good, but the user of its key is disabled */
    LK_GROUP_DISABLED = 104,      /* the token is good, but its group is disabled */
    LK_NETWORK_NOT_ALLOWED = 105, /* the token is good, but not from this address; see lk_login_from */
    LK_BUSY = 106,                /* too many calls wait for a hash; try again in a moment */
    LK_NO_SCOPE = 107,            /* the key does not permit this; see lk_require_scope */

    /* Users and keys. */
    LK_USER_NOT_FOUND = 200,      /* there is no such user */
    LK_KEY_NOT_FOUND = 201,       /* the owner has no such key, even if another owner has it */
    LK_KEY_NAME_TAKEN = 202,      /* another key of the owner has the name */
    LK_IDENTITY_TAKEN = 203,      /* the identity belongs to a user already */
    LK_IDENTITY_CONFLICT = 204,   /* several users have the identity */
    LK_IDENTITY_NOT_FOUND = 205,  /* the user has no such identity */
    LK_LAST_IDENTITY = 206,       /* it is the only identity of the user */
    LK_USER_HAS_KEYS = 207,       /* the user has keys, and would be left with anonymous identities */
    LK_TOO_MANY_KEYS = 208,       /* the user has as many keys as max_keys_per_user allows */
    LK_TOO_MANY_IDENTITIES = 209, /* the user has 64 identities */
    LK_ANONYMOUS_USER = 210,      /* an anonymous user can have no keys */
    LK_INVALID_NAME = 211,        /* the name of a key breaks a rule; the message says which */
    LK_INVALID_SCOPE = 212,       /* a scope cannot be stored */
    LK_INVALID_NETWORK = 213,     /* a network or an address breaks a rule; the message says which */
    LK_INVALID_METADATA = 214,    /* the metadata break a rule; the message says which */
    LK_INVALID_GROUP = 215,       /* the name of a group breaks a rule; the message says which */
    LK_INVALID_IDENTITY = 216,    /* an identity breaks a rule; the message says which */
    LK_INVALID_EXPIRY = 217,      /* the expiry date has passed, or is after the year 9999 */
    LK_INVALID_ROTATION = 218,    /* a rotation breaks a rule; the message says which */

    /* The store and its file. */
    LK_INVALID_OPTIONS = 300, /* an option is out of range, or contradicts the store */
    LK_LOCKED = 301,          /* another process, or this one, has the file open */
    LK_FILE_GONE = 302,       /* the file was deleted or moved */
    LK_FILE_CHANGED = 303,    /* the file is not as this store left it; open it again */
    LK_READ_ONLY = 304,       /* the store was opened with read_only */
    LK_NOT_STORE = 305,       /* the file is another program's */
    LK_NEWER_FORMAT = 306,    /* a later version wrote the file; upgrade the library */
    LK_NUMBERING = 307,       /* an index is wrong; run latchkey check --repair */
    LK_CORRUPT = 308,         /* the file is damaged; restore a backup */
    LK_UNFINISHED = 309,      /* the copying of a store to this place was cut short */
    LK_COST_TOO_HIGH = 310,   /* a hash needs more memory than hash_memory allows */
    LK_COMMIT_UNKNOWN = 311,  /* the change may or may not be on disk; open the store again and look */
    LK_SYNC_FAILED = 312,     /* an earlier change could not be written; no more changes are accepted */
    LK_INTERRUPTED = 313,     /* a backup would have held up writers; start it again */

    /* Findings of lk_health, besides some of the codes above. */
    LK_READER_HOLDS_UP = 400,      /* a writer waits for a reader */
    LK_SAFETY_COPY_FAILED = 401,   /* the last safety copy could not be made */
    LK_LAST_USE_FAILED = 402,      /* the last uses of keys could not be written */
    LK_ROTATION_NOT_DURABLE = 403, /* the end of an old token is not on disk yet */
    LK_CLOCK_BEHIND = 404,         /* the clock is behind the store's time */
    LK_RECOVERED = 405,            /* this opening used the safety copy, so changes may be lost */
    LK_NO_IDENTITY = 406           /* a user has no identity left */
};

/* A handle on an open store. 0 is none. */
typedef uint64_t lk_store;

/* A string: length bytes of UTF-8, without a NUL at the end. */
typedef struct lk_string {
    const char *data;
    size_t length;
} lk_string;

/* The ID of a user or a key: the bytes of a UUID, in the order in which they are written. */
typedef struct lk_id {
    uint8_t bytes[16];
} lk_id;

/* A name and a value of metadata. */
typedef struct lk_pair {
    lk_string name;
    lk_string value;
} lk_pair;

/* The error of a call. Release it with lk_error_free. */
typedef struct lk_error {
    size_t size;
    lk_string message;
    lk_code code;
} lk_error;

/* Options of lk_open. A struct that is 0 except for its size has the defaults. */
typedef struct lk_options {
    size_t size;
    int64_t lock_timeout;         /* how long to wait for another process, in ms; 0 is 1,000, negative is not at all */
    int64_t hash_memory;          /* bytes for argon2; 0 is 64 MiB */
    int64_t safety_copy_every;    /* how often to copy the file to its safety copy, in ms; 0 is never */
    int64_t last_use_every;       /* how often to write last uses, in ms; 0 is one hour, negative is never */
    lk_string token_prefix;       /* of the tokens of a new store: 1 to 16 ASCII letters, digits; empty is "lk" */
    int32_t read_only;            /* 1 opens an existing store for reading */
    int32_t must_exist;           /* 1 returns LK_NO_FILE rather than making a new store */
    int32_t recover;              /* 1 uses the safety copy if the file is gone or damaged */
    int32_t app_services_names;   /* 1 accepts only names of keys that the hosted service accepted */
    int32_t max_keys_per_user;    /* 0 is 20, negative is no limit */
    int32_t hash_queue;           /* how many calls of a kind may wait for a hash; 0 is 1,024 */
    int32_t cache_size;           /* how many tokens are remembered; 0 is 10,000, negative is none */
    /* The cost of new hashes. If all three fields are 0, it is 7,168 KiB, 5 passes and 1 lane. */
    uint32_t cost_memory;         /* in KiB; at least 8 for each lane */
    uint32_t cost_passes;         /* over the memory; 1 to 64 */
    uint32_t cost_lanes;          /* 1 to 16 */
} lk_options;

/* The caller that a token belongs to. Release it with lk_principal_free. */
typedef struct lk_principal {
    size_t size;
    lk_id key_id;
    lk_id owner;             /* the user's ID, or the owner of server keys; other calls accept it */
    lk_id user_id;           /* the user's ID; 0 for a server key */
    int64_t expires;         /* when the key stops logging in; 0 is never */
    lk_string key_name;
    lk_string provider;      /* of the first identity of the user; empty for a server key */
    lk_string subject;
    lk_string group;         /* of the user or of the server key; empty for none */
    lk_string token_id;      /* tells the two tokens of a rotation apart; it can be logged */
    const lk_string *scopes; /* ask lk_require_scope, which knows the scopes that end with a star */
    size_t scope_count;
    int32_t server_key;      /* 1 if no user owns the key */
} lk_principal;

/* The description of a key to be made. */
typedef struct lk_key_spec {
    size_t size;
    lk_string name;            /* 1 to 256 bytes; not the name of another key of the owner */
    int64_t expires;           /* when the key stops logging in; 0 is never */
    const lk_string *scopes;   /* what the key permits; none means nothing */
    size_t scope_count;        /* at most 64 */
    const lk_string *networks; /* such as "192.0.2.0/24"; none means everywhere */
    size_t network_count;      /* at most 16 */
    const lk_pair *metadata;   /* texts of the program's own */
    size_t metadata_count;     /* at most 64 */
    lk_string group;           /* of a server key, at most 128 bytes; empty for a key of a user */
} lk_key_spec;

/* A token of a key, without its secret. */
typedef struct lk_key_token {
    size_t size;
    lk_string id;      /* token_id of the principal */
    int64_t ends;      /* when the token stops logging in; 0 is never */
    int64_t last_used; /* to the minute; 0 if no use is known */
} lk_key_token;

/* A key. Release it with lk_key_free. */
typedef struct lk_key {
    size_t size;
    lk_id id;
    lk_id owner;
    lk_string name;
    int64_t created;
    int64_t expires;   /* 0 is never */
    int64_t last_used; /* to the minute; 0 if no use is known */
    const lk_string *scopes;
    size_t scope_count;
    const lk_string *networks;
    size_t network_count;
    const lk_pair *metadata; /* in the order of the names */
    size_t metadata_count;
    lk_string group;                   /* of a server key; empty for none */
    const lk_key_token *const *tokens; /* one, or two during an overlap; the newest is last */
    size_t token_count;
    int32_t disabled;                  /* 1 if the key is disabled */
} lk_key;

/* Several keys. Release them together with lk_keys_free. */
typedef struct lk_keys {
    size_t size;
    const lk_key *const *keys;
    size_t count;
} lk_keys;

/* The token of a new key, for the only time. Release it with lk_token_free. */
typedef struct lk_token {
    size_t size;
    lk_string text;
} lk_token;

/* What becomes of the old token when a key gets a new one. */
typedef struct lk_rotation {
    size_t size;
    int64_t overlap;    /* how long the old token stays good, in ms; 0 ends it at once */
    int32_t until_used; /* 1 ends the overlap early, at the first login with the new token */
} lk_rotation;

/* A name that a provider has for a user. */
typedef struct lk_identity {
    lk_string provider; /* "local-userpass", "custom-token", "anon-user" and others */
    lk_string subject;  /* 1 to 256 bytes, such as an e-mail address */
} lk_identity;

/* The description of a user to be made. */
typedef struct lk_user_spec {
    size_t size;
    lk_identity identity;
    lk_string group;         /* at most 128 bytes; empty for none */
    const lk_pair *metadata; /* texts of the program's own */
    size_t metadata_count;   /* at most 64 */
} lk_user_spec;

/* A user. Release it with lk_user_free. */
typedef struct lk_user {
    size_t size;
    lk_id id;
    int64_t created;
    const lk_identity *identities;
    size_t identity_count;
    const lk_pair *metadata; /* in the order of the names */
    size_t metadata_count;
    lk_string group;         /* empty for none */
    int32_t disabled;        /* 1 if the user is disabled */
} lk_user;

/* Several users. Release them together with lk_users_free. */
typedef struct lk_users {
    size_t size;
    const lk_user *const *users;
    size_t count;
} lk_users;

/* One thing that lk_health found. */
typedef struct lk_finding {
    size_t size;
    lk_string message;
    lk_code code;
} lk_finding;

/* All that lk_health found. Release it with lk_findings_free. */
typedef struct lk_findings {
    size_t size;
    const lk_finding *const *findings;
    size_t count; /* 0 if nothing is wrong */
} lk_findings;

/*
 * lk_abi_version returns the version of the interface that the library has. lk_open compares it
 * with the version that the program was compiled for, so few programs need it.
 *
 * Ownership: nothing to release.
 * Threads: any.
 * Stability: ABI 1, and every later one.
 */
uint32_t lk_abi_version(void);

/*
 * lk_code_text sets *text to a short English text for a code. For a code that the library does not
 * know, the text says so. In a child of fork the text is empty.
 *
 * Ownership: the text is never released.
 * Threads: any.
 * Stability: ABI 1. The texts can change.
 */
void lk_code_text(lk_code code, lk_string *text);

/*
 * lk_open opens the store in the file at path, and makes the file if there is none. abi is
 * LK_ABI_VERSION. options may be NULL. One store at a time can have a file open for writing, in
 * this process or in another.
 *
 * Ownership: close the store with lk_close.
 * Threads: any. The call waits for another process as long as lock_timeout says.
 * Stability: ABI 1.
 *
 * Codes: LK_ABI, LK_INVALID_ARGUMENT, LK_INVALID_OPTIONS, LK_LOCKED, LK_NO_FILE if the directory is
 * missing or if there is no file with must_exist or read_only, LK_FILE_GONE if there is only a
 * safety copy, LK_NOT_STORE, LK_NEWER_FORMAT, LK_CORRUPT, LK_UNFINISHED, LK_READ_ONLY if the making
 * of the store was cut short, LK_COMMIT_UNKNOWN if a new store may not be on disk, LK_SYSTEM,
 * LK_FORKED.
 */
lk_code lk_open(uint32_t abi, const char *path, size_t path_length, const lk_options *options, lk_store *store, lk_error **error);

/*
 * lk_close closes a store. It waits for calls in progress in other threads. Calls that wait for a
 * hash end with LK_CLOSED, and so do all later calls, including a second lk_close. If lk_close
 * returns an error of the file, the store is closed all the same.
 *
 * Ownership: results of the store stay valid until they are released.
 * Threads: any, also while other threads are in calls.
 * Stability: ABI 1.
 *
 * Codes: LK_INVALID_HANDLE, LK_CLOSED, LK_SYSTEM, LK_FORKED.
 */
lk_code lk_close(lk_store store, lk_error **error);

/*
 * lk_login checks a token, and sets *principal to its principal. Call it for every request. A token
 * that has logged in before costs less than a microsecond. Any other good token costs a read of the
 * disk and a slow hash, for which the call waits. A login that begins after lk_disable_key,
 * lk_delete_key, lk_disable_user or lk_delete_user has returned is refused. principal may be NULL.
 *
 * token can be any bytes of any length. If the bytes are no good token, the code is
 * LK_INVALID_TOKEN.
 *
 * Ownership: release *principal with lk_principal_free.
 * Threads: any.
 * Stability: ABI 1.
 *
 * Codes: LK_INVALID_TOKEN, LK_KEY_DISABLED, LK_KEY_EXPIRED, LK_USER_DISABLED, LK_GROUP_DISABLED,
 * LK_NETWORK_NOT_ALLOWED, LK_BUSY, LK_INVALID_ARGUMENT if token is NULL and its length is not 0,
 * LK_INVALID_HANDLE, LK_CLOSED, LK_FILE_CHANGED, LK_CORRUPT, LK_NEWER_FORMAT, LK_COST_TOO_HIGH,
 * LK_FORKED.
 */
lk_code lk_login(lk_store store, const char *token, size_t token_length, lk_principal **principal, lk_error **error);

/*
 * lk_login_from is lk_login for a caller from an IP address, such as "192.0.2.7" or "2001:db8::7".
 * A key that has networks accepts only addresses in them. An empty address is in no network.
 *
 * Ownership: release *principal with lk_principal_free.
 * Threads: any.
 * Stability: ABI 1.
 *
 * Codes: those of lk_login, and LK_INVALID_NETWORK if address is no IP address.
 */
lk_code lk_login_from(lk_store store, const char *token, size_t token_length, const char *address, size_t address_length, lk_principal **principal, lk_error **error);

/*
 * lk_require_scope returns LK_OK if the key of a principal permits a scope, and LK_NO_SCOPE
 * otherwise. A key with "files:*" permits "files:read".
 *
 * Ownership: nothing to release but *error.
 * Threads: any.
 * Stability: ABI 1.
 *
 * Codes: LK_NO_SCOPE, LK_INVALID_ARGUMENT, LK_FORKED.
 */
lk_code lk_require_scope(const lk_principal *principal, const char *scope, size_t scope_length, lk_error **error);

/*
 * lk_create_key makes a key of a user, and sets *token to its token, which cannot be seen again.
 * key may be NULL. The call waits for a slow hash.
 *
 * Ownership: release *token with lk_token_free, and *key with lk_key_free.
 * Threads: any.
 * Stability: ABI 1.
 *
 * Codes: LK_USER_NOT_FOUND, LK_ANONYMOUS_USER, LK_INVALID_NAME, LK_KEY_NAME_TAKEN,
 * LK_TOO_MANY_KEYS, LK_INVALID_EXPIRY, LK_INVALID_SCOPE, LK_INVALID_NETWORK, LK_INVALID_METADATA,
 * LK_INVALID_GROUP, LK_BUSY, or a code of lk_disable_key. After LK_NO_MEMORY the key exists.
 */
lk_code lk_create_key(lk_store store, const lk_id *user, const lk_key_spec *spec, lk_key **key, lk_token **token, lk_error **error);

/*
 * lk_create_server_key is lk_create_key for a key that no user owns, which authenticates a service.
 * Its owner is the ID of lk_server_owner.
 *
 * Ownership: release *token with lk_token_free, and *key with lk_key_free.
 * Threads: any.
 * Stability: ABI 1.
 *
 * Codes: those of lk_create_key.
 */
lk_code lk_create_server_key(lk_store store, const lk_key_spec *spec, lk_key **key, lk_token **token, lk_error **error);

/*
 * lk_server_owner sets *id to the owner of server keys, an ID whose 16 bytes are all 255.
 *
 * Ownership: nothing to release.
 * Threads: any.
 * Stability: ABI 1.
 */
void lk_server_owner(lk_id *id);

/*
 * lk_fetch_key sets *key to a key of owner, a user or the owner of server keys.
 *
 * Ownership: release *key with lk_key_free.
 * Threads: any.
 * Stability: ABI 1.
 *
 * Codes: LK_KEY_NOT_FOUND, LK_INVALID_ARGUMENT, LK_INVALID_HANDLE, LK_CLOSED, LK_CORRUPT,
 * LK_NEWER_FORMAT, LK_FILE_CHANGED, LK_FORKED.
 */
lk_code lk_fetch_key(lk_store store, const lk_id *owner, const lk_id *id, lk_key **key, lk_error **error);

/*
 * lk_fetch_keys sets *keys to all keys of owner, a user or the owner of server keys, in the order
 * of their creation.
 *
 * Ownership: release *keys with lk_keys_free.
 * Threads: any.
 * Stability: ABI 1.
 *
 * Codes: LK_USER_NOT_FOUND, or those of lk_fetch_key.
 */
lk_code lk_fetch_keys(lk_store store, const lk_id *owner, lk_keys **keys, lk_error **error);

/*
 * lk_enable_key lets a disabled key log in again. Enabling an enabled key changes nothing.
 *
 * Ownership: nothing to release but *error.
 * Threads: any.
 * Stability: ABI 1.
 *
 * Codes: those of lk_disable_key.
 */
lk_code lk_enable_key(lk_store store, const lk_id *owner, const lk_id *id, lk_error **error);

/*
 * lk_disable_key stops a key from logging in until it is enabled. When it returns LK_OK, the change
 * is on disk, and no login that begins afterwards succeeds.
 *
 * Ownership: nothing to release but *error.
 * Threads: any.
 * Stability: ABI 1.
 *
 * Codes: LK_KEY_NOT_FOUND, LK_READ_ONLY, LK_INVALID_ARGUMENT, LK_INVALID_HANDLE, LK_CLOSED,
 * LK_CORRUPT, LK_NEWER_FORMAT, LK_FILE_CHANGED, LK_FILE_GONE, LK_SYNC_FAILED, LK_SYSTEM, LK_FORKED,
 * and LK_COMMIT_UNKNOWN, which alone leaves open whether the change was made.
 */
lk_code lk_disable_key(lk_store store, const lk_id *owner, const lk_id *id, lk_error **error);

/*
 * lk_delete_key deletes a key for good: it never logs in again, and cannot be recovered.
 *
 * Ownership: nothing to release but *error.
 * Threads: any.
 * Stability: ABI 1.
 *
 * Codes: those of lk_disable_key.
 */
lk_code lk_delete_key(lk_store store, const lk_id *owner, const lk_id *id, lk_error **error);

/*
 * lk_rotate_key gives a key a new token, which cannot be seen again. rotation says when the old
 * token ends. If rotation is NULL, the old token ends at once. At most two tokens of a key are
 * good: during an overlap, another rotation ends the older token at once. key may be NULL. The call
 * waits for a slow hash.
 *
 * Ownership: release *token with lk_token_free, and *key with lk_key_free.
 * Threads: any.
 * Stability: ABI 1.
 *
 * Codes: LK_INVALID_ROTATION, LK_BUSY, or a code of lk_disable_key. After LK_NO_MEMORY the old
 * token may have ended; rotate the key again.
 */
lk_code lk_rotate_key(lk_store store, const lk_id *owner, const lk_id *id, const lk_rotation *rotation, lk_key **key, lk_token **token, lk_error **error);

/*
 * lk_rotate_server_key is lk_rotate_key for a server key.
 *
 * Ownership: release *token with lk_token_free, and *key with lk_key_free.
 * Threads: any.
 * Stability: ABI 1.
 *
 * Codes: those of lk_rotate_key.
 */
lk_code lk_rotate_server_key(lk_store store, const lk_id *id, const lk_rotation *rotation, lk_key **key, lk_token **token, lk_error **error);

/*
 * lk_create_user makes a user. user may be NULL.
 *
 * Ownership: release *user with lk_user_free.
 * Threads: any.
 * Stability: ABI 1.
 *
 * Codes: LK_IDENTITY_TAKEN, LK_INVALID_IDENTITY, LK_INVALID_GROUP, LK_INVALID_METADATA, or a code
 * of lk_disable_user.
 */
lk_code lk_create_user(lk_store store, const lk_user_spec *spec, lk_user **user, lk_error **error);

/*
 * lk_fetch_user sets *user to the user with an ID.
 *
 * Ownership: release *user with lk_user_free.
 * Threads: any.
 * Stability: ABI 1.
 *
 * Codes: LK_USER_NOT_FOUND, or those of lk_fetch_key.
 */
lk_code lk_fetch_user(lk_store store, const lk_id *id, lk_user **user, lk_error **error);

/*
 * lk_fetch_user_by_identity sets *user to the user that an identity belongs to.
 *
 * Ownership: release *user with lk_user_free.
 * Threads: any.
 * Stability: ABI 1.
 *
 * Codes: LK_USER_NOT_FOUND, LK_IDENTITY_CONFLICT, LK_INVALID_IDENTITY, or those of lk_fetch_key.
 */
lk_code lk_fetch_user_by_identity(lk_store store, const lk_identity *identity, lk_user **user, lk_error **error);

/*
 * lk_fetch_users sets *users to the users whose IDs come after the ID after, in the order of their
 * IDs: at most limit users, and at most 1,000. limit must not be 0. If after is NULL, the list
 * begins at the first user. To go on, pass the ID of the last user. If count is 0, there are no
 * more users.
 *
 * Ownership: release *users with lk_users_free.
 * Threads: any.
 * Stability: ABI 1.
 *
 * Codes: those of lk_fetch_key.
 */
lk_code lk_fetch_users(lk_store store, const lk_id *after, size_t limit, lk_users **users, lk_error **error);

/*
 * lk_enable_user lets the keys of a disabled user log in again.
 *
 * Ownership: nothing to release but *error.
 * Threads: any.
 * Stability: ABI 1.
 *
 * Codes: those of lk_disable_user.
 */
lk_code lk_enable_user(lk_store store, const lk_id *id, lk_error **error);

/*
 * lk_disable_user stops all keys of a user from logging in until the user is enabled.
 *
 * Ownership: nothing to release but *error.
 * Threads: any.
 * Stability: ABI 1.
 *
 * Codes: LK_USER_NOT_FOUND, or those of lk_disable_key.
 */
lk_code lk_disable_user(lk_store store, const lk_id *id, lk_error **error);

/*
 * lk_delete_user deletes a user and all keys of the user, for good.
 *
 * Ownership: nothing to release but *error.
 * Threads: any.
 * Stability: ABI 1.
 *
 * Codes: those of lk_disable_user.
 */
lk_code lk_delete_user(lk_store store, const lk_id *id, lk_error **error);

/*
 * lk_link_identity gives a user another identity.
 *
 * Ownership: nothing to release but *error.
 * Threads: any.
 * Stability: ABI 1.
 *
 * Codes: LK_IDENTITY_TAKEN, LK_INVALID_IDENTITY, LK_TOO_MANY_IDENTITIES, or those of
 * lk_disable_user.
 */
lk_code lk_link_identity(lk_store store, const lk_id *user, const lk_identity *identity, lk_error **error);

/*
 * lk_unlink_identity takes an identity from a user, so that another user can have it.
 *
 * Ownership: nothing to release but *error.
 * Threads: any.
 * Stability: ABI 1.
 *
 * Codes: LK_IDENTITY_NOT_FOUND, LK_LAST_IDENTITY, LK_USER_HAS_KEYS, or those of lk_disable_user.
 */
lk_code lk_unlink_identity(lk_store store, const lk_id *user, const lk_identity *identity, lk_error **error);

/*
 * lk_health sets *findings to all that is wrong with the store: its file, its disk, its background
 * work, its clock. It returns LK_OK also if there are findings.
 *
 * Ownership: release *findings with lk_findings_free.
 * Threads: any. The call waits at most a second.
 * Stability: ABI 1.
 *
 * Codes: LK_INVALID_ARGUMENT, LK_INVALID_HANDLE, LK_CLOSED, LK_FORKED.
 */
lk_code lk_health(lk_store store, lk_findings **findings, lk_error **error);

/*
 * lk_backup writes a copy of the store to a new file at path. Logins and changes go on meanwhile.
 * The copy can make every token that the store can make, so keep it as safe as the store.
 *
 * Ownership: nothing to release but *error.
 * Threads: any.
 * Stability: ABI 1.
 *
 * Codes: LK_FILE_EXISTS, LK_NO_FILE if the directory is missing, LK_INTERRUPTED, LK_SYSTEM,
 * LK_INVALID_ARGUMENT, LK_INVALID_HANDLE, LK_CLOSED, LK_CORRUPT, LK_FORKED.
 */
lk_code lk_backup(lk_store store, const char *path, size_t path_length, lk_error **error);

/*
 * lk_restore makes the file of a store at path from a backup. It checks the whole backup first.
 * Keys that were disabled or deleted after the backup are as they were before.
 *
 * Ownership: nothing to release but *error.
 * Threads: any.
 * Stability: ABI 1.
 *
 * Codes: LK_NO_FILE if there is no backup or if the directory of path is missing, LK_FILE_EXISTS if
 * there is a file at path, LK_NOT_STORE, LK_CORRUPT, LK_NUMBERING, LK_NEWER_FORMAT, LK_SYSTEM,
 * LK_INVALID_ARGUMENT, LK_FORKED.
 */
lk_code lk_restore(const char *backup, size_t backup_length, const char *path, size_t path_length, lk_error **error);

/*
 * The functions lk_…_free release a result. lk_token_free overwrites the token first.
 *
 * Ownership: the result and all pointers in it are no longer valid. NULL is accepted.
 * Threads: any, if no other thread uses the result. They also work in a child of fork.
 * Stability: ABI 1.
 */
void lk_error_free(lk_error *error);
void lk_principal_free(lk_principal *principal);
void lk_key_free(lk_key *key);
void lk_keys_free(lk_keys *keys);
void lk_token_free(lk_token *token);
void lk_user_free(lk_user *user);
void lk_users_free(lk_users *users);
void lk_findings_free(lk_findings *findings);

#ifdef __cplusplus
}
#endif

#endif
