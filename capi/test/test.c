/*
 * The test of the C library: test DIR, with an empty directory DIR. It prints a line for each story, and
 * ends with 1 at the first thing that is wrong. With -DLK_TESTING it also needs a library that was built
 * with the tag latchkey_test, and -Wl,--wrap=free,--wrap=calloc,--wrap=malloc.
 */
#include "latchkey.h"

#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef LK_TESTING
#include "testing.h"
#endif
#ifndef _WIN32
#include <sys/wait.h>
#include <unistd.h>
#endif

static const char *dir;

#define FAIL(...) \
    do { \
        fprintf(stderr, "%s:%d: ", __FILE__, __LINE__); \
        fprintf(stderr, __VA_ARGS__); \
        fprintf(stderr, "\n"); \
        exit(1); \
    } while (0)

#define CHECK(condition) \
    do { \
        if (!(condition)) FAIL("not true: %s", #condition); \
    } while (0)

/* CODE checks the code of a call, which sets error. It releases the error. */
#define CODE(want, call) \
    do { \
        lk_error *error = (lk_error *)1; \
        lk_code got_ = (call); \
        if (got_ != (want)) FAIL("%s: got %d (%.*s), want %d", #call, (int)got_, error ? (int)error->message.length : 0, error ? error->message.data : "", (int)(want)); \
        CHECK((got_ == LK_OK) == (error == NULL)); \
        if (error) { \
            CHECK(error->code == got_); \
            CHECK(error->size == sizeof *error); \
            CHECK(error->message.length > 0); \
        } \
        lk_error_free(error); \
    } while (0)

static lk_string text(const char *s) {
    lk_string t;
    t.data = s;
    t.length = strlen(s);
    return t;
}

static int same(lk_string s, const char *want) { return s.length == strlen(want) && memcmp(s.data, want, s.length) == 0; }

static const char *path(const char *name) {
    static char buffers[4][4096];
    static int next;
    char *b = buffers[next++ % 4];
    snprintf(b, sizeof buffers[0], "%s/%s", dir, name);
    return b;
}

static lk_options light(void) {
    lk_options o;
    memset(&o, 0, sizeof o);
    o.size = sizeof o;
    o.cost_memory = 64;
    o.cost_passes = 1;
    o.cost_lanes = 1;
    o.lock_timeout = -1;
    return o;
}

static lk_store open_store(const char *name) {
    lk_options o = light();
    lk_store store = 0;
    const char *p = path(name);
    CODE(LK_OK, lk_open(LK_ABI_VERSION, p, strlen(p), &o, &store, &error));
    CHECK(store != 0);
    return store;
}

static lk_user_spec user_spec(const char *subject) {
    lk_user_spec s;
    memset(&s, 0, sizeof s);
    s.size = sizeof s;
    s.identity.provider = text("local-userpass");
    s.identity.subject = text(subject);
    return s;
}

static lk_key_spec key_spec(const char *name) {
    lk_key_spec s;
    memset(&s, 0, sizeof s);
    s.size = sizeof s;
    s.name = text(name);
    return s;
}

static lk_id make_user(lk_store store, const char *subject) {
    lk_user_spec spec = user_spec(subject);
    lk_user *user;
    lk_id id;
    CODE(LK_OK, lk_create_user(store, &spec, &user, &error));
    id = user->id;
    lk_user_free(user);
    return id;
}

static lk_token *make_key(lk_store store, const lk_id *user, const char *name, lk_id *id) {
    lk_key_spec spec = key_spec(name);
    lk_key *key;
    lk_token *token;
    CODE(LK_OK, lk_create_key(store, user, &spec, &key, &token, &error));
    CHECK(same(key->name, name));
    if (id) *id = key->id;
    lk_key_free(key);
    return token;
}

/* LOGIN logs in without asking who it is. */
#define LOGIN(want, store, token) CODE(want, lk_login(store, (token)->text.data, (token)->text.length, NULL, &error))

static void test_versions_and_texts(void) {
    lk_options o = light();
    lk_store store = 7;
    lk_string t;
    const char *p = path("versions.db");

    CHECK(lk_abi_version() == LK_ABI_VERSION);
    CODE(LK_ABI, lk_open(LK_ABI_VERSION + 1, p, strlen(p), &o, &store, &error));
    CHECK(store == 0);
    lk_code_text(LK_OK, &t);
    CHECK(same(t, "no error"));
    lk_code_text(LK_INVALID_TOKEN, &t);
    CHECK(same(t, "invalid token"));
    lk_code_text(12345, &t);
    CHECK(t.length > 0 && memcmp(t.data, "unknown code", 12) == 0);
    lk_code_text(0, NULL);
}

static void test_users(void) {
    lk_store store = open_store("users.db");
    lk_user_spec spec = user_spec("ada@example.com");
    lk_pair metadata[2];
    lk_identity identity, other;
    lk_id id, nobody;
    lk_user *user;
    lk_users *users;

    metadata[0].name = text("room");
    metadata[0].value = text("4");
    metadata[1].name = text("city");
    metadata[1].value = text("");
    spec.metadata = metadata;
    spec.metadata_count = 2;
    spec.group = text("north");
    CODE(LK_OK, lk_create_user(store, &spec, &user, &error));
    CHECK(user->size == sizeof *user);
    CHECK(user->created > 0);
    CHECK(user->identity_count == 1);
    CHECK(same(user->identities[0].provider, "local-userpass"));
    CHECK(same(user->identities[0].subject, "ada@example.com"));
    CHECK(user->metadata_count == 2);
    CHECK(same(user->metadata[0].name, "city") && same(user->metadata[0].value, ""));
    CHECK(same(user->metadata[1].name, "room") && same(user->metadata[1].value, "4"));
    CHECK(same(user->group, "north"));
    CHECK(user->disabled == 0);
    id = user->id;
    lk_user_free(user);
    CODE(LK_IDENTITY_TAKEN, lk_create_user(store, &spec, NULL, &error));

    metadata[1].name = text("room");
    spec.identity.subject = text("bob@example.com");
    CODE(LK_INVALID_ARGUMENT, lk_create_user(store, &spec, &user, &error));
    CHECK(user == NULL);
    spec.metadata_count = 1;
    CODE(LK_OK, lk_create_user(store, &spec, NULL, &error));

    identity = spec.identity;
    CODE(LK_OK, lk_fetch_user_by_identity(store, &identity, &user, &error));
    CHECK(same(user->identities[0].subject, "bob@example.com"));
    lk_user_free(user);
    identity.subject = text("nobody@example.com");
    CODE(LK_USER_NOT_FOUND, lk_fetch_user_by_identity(store, &identity, &user, &error));
    identity.provider = text("nothing");
    CODE(LK_INVALID_IDENTITY, lk_fetch_user_by_identity(store, &identity, &user, &error));
    CODE(LK_INVALID_ARGUMENT, lk_fetch_user_by_identity(store, NULL, &user, &error));

    CODE(LK_OK, lk_fetch_users(store, NULL, 1, &users, &error));
    CHECK(users->size == sizeof *users && users->count == 1);
    nobody = users->users[0]->id;
    lk_users_free(users);
    CODE(LK_OK, lk_fetch_users(store, &nobody, (size_t)-1, &users, &error));
    CHECK(users->count == 1);
    nobody = users->users[0]->id;
    lk_users_free(users);
    CODE(LK_OK, lk_fetch_users(store, &nobody, 10, &users, &error));
    CHECK(users->count == 0);
    lk_users_free(users);
    CODE(LK_INVALID_ARGUMENT, lk_fetch_users(store, NULL, 0, &users, &error));

    other.provider = text("custom-token");
    other.subject = text("ada");
    CODE(LK_OK, lk_link_identity(store, &id, &other, &error));
    CODE(LK_OK, lk_unlink_identity(store, &id, &other, &error));
    CODE(LK_IDENTITY_NOT_FOUND, lk_unlink_identity(store, &id, &other, &error));
    other = user_spec("ada@example.com").identity;
    CODE(LK_LAST_IDENTITY, lk_unlink_identity(store, &id, &other, &error));

    CODE(LK_OK, lk_disable_user(store, &id, &error));
    CODE(LK_OK, lk_fetch_user(store, &id, &user, &error));
    CHECK(user->disabled == 1);
    lk_user_free(user);
    CODE(LK_OK, lk_enable_user(store, &id, &error));
    CODE(LK_OK, lk_delete_user(store, &id, &error));
    CODE(LK_USER_NOT_FOUND, lk_fetch_user(store, &id, &user, &error));
    CHECK(user == NULL);
    CODE(LK_OK, lk_close(store, &error));
}

static void test_keys(void) {
    lk_store store = open_store("keys.db");
    lk_id user = make_user(store, "ada@example.com"), bob = make_user(store, "bob@example.com"), id, owner;
    lk_key_spec spec = key_spec("laptop");
    lk_string scopes[2], networks[1];
    lk_pair metadata[1];
    lk_key *key;
    lk_keys *keys;
    lk_token *token, *second;
    lk_rotation rotation;
    lk_principal *who;

    scopes[0] = text("files:*");
    scopes[1] = text("mail:read");
    networks[0] = text("192.0.2.0/24");
    metadata[0].name = text("colour");
    metadata[0].value = text("gr\303\274n");
    spec.scopes = scopes;
    spec.scope_count = 2;
    spec.networks = networks;
    spec.network_count = 1;
    spec.metadata = metadata;
    spec.metadata_count = 1;
    spec.expires = INT64_C(4102444800000);
    CODE(LK_OK, lk_create_key(store, &user, &spec, &key, &token, &error));
    CHECK(key->size == sizeof *key && token->size == sizeof *token);
    CHECK(memcmp(&key->owner, &user, sizeof user) == 0);
    CHECK(key->expires == INT64_C(4102444800000) && key->created > 0 && key->last_used == 0);
    CHECK(key->scope_count == 2 && same(key->scopes[0], "files:*") && same(key->scopes[1], "mail:read"));
    CHECK(key->network_count == 1 && same(key->networks[0], "192.0.2.0/24"));
    CHECK(key->metadata_count == 1 && same(key->metadata[0].value, "gr\303\274n"));
    CHECK(key->token_count == 1 && key->tokens[0]->size == sizeof *key->tokens[0] && key->tokens[0]->ends == 0);
    CHECK(token->text.length > 40 && memcmp(token->text.data, "lk_", 3) == 0);
    id = key->id;
    lk_key_free(key);

    CODE(LK_NETWORK_NOT_ALLOWED, lk_login(store, token->text.data, token->text.length, &who, &error));
    CHECK(who == NULL);
    CODE(LK_NETWORK_NOT_ALLOWED, lk_login_from(store, token->text.data, token->text.length, "198.51.100.1", 12, &who, &error));
    CODE(LK_INVALID_NETWORK, lk_login_from(store, token->text.data, token->text.length, "nowhere", 7, &who, &error));
    CODE(LK_OK, lk_login_from(store, token->text.data, token->text.length, "192.0.2.7", 9, &who, &error));
    CHECK(who->size == sizeof *who);
    CHECK(memcmp(&who->key_id, &id, sizeof id) == 0);
    CHECK(memcmp(&who->owner, &user, sizeof user) == 0 && memcmp(&who->user_id, &user, sizeof user) == 0);
    CHECK(same(who->key_name, "laptop") && same(who->provider, "local-userpass") && same(who->subject, "ada@example.com"));
    CHECK(who->expires == INT64_C(4102444800000) && who->server_key == 0);
    CHECK(same(who->group, "") && who->group.data != NULL && who->token_id.length > 0);
    CODE(LK_OK, lk_require_scope(who, "files:read", 10, &error));
    CODE(LK_OK, lk_require_scope(who, "mail:read", 9, &error));
    CODE(LK_NO_SCOPE, lk_require_scope(who, "mail:write", 10, &error));
    CODE(LK_NO_SCOPE, lk_require_scope(who, "", 0, &error));
    CODE(LK_INVALID_ARGUMENT, lk_require_scope(NULL, "mail:read", 9, &error));
    CODE(LK_INVALID_ARGUMENT, lk_require_scope(who, NULL, 9, &error));
    lk_principal_free(who);

    CODE(LK_KEY_NAME_TAKEN, lk_create_key(store, &user, &spec, &key, &second, &error));
    CHECK(key == NULL && second == NULL);
    CODE(LK_INVALID_ARGUMENT, lk_create_key(store, &user, &spec, &key, NULL, &error));
    spec.name = text("");
    CODE(LK_INVALID_NAME, lk_create_key(store, &user, &spec, NULL, &second, &error));
    spec.name = text("phone");
    networks[0] = text("somewhere");
    CODE(LK_INVALID_NETWORK, lk_create_key(store, &user, &spec, NULL, &second, &error));
    spec.network_count = 0;
    scopes[0] = text("");
    CODE(LK_INVALID_SCOPE, lk_create_key(store, &user, &spec, NULL, &second, &error));
    spec.scope_count = 0;
    spec.expires = 1;
    CODE(LK_INVALID_EXPIRY, lk_create_key(store, &user, &spec, NULL, &second, &error));
    lk_token_free(token);

    token = make_key(store, &user, "phone", &id);
    LOGIN(LK_OK, store, token);
    CODE(LK_KEY_NOT_FOUND, lk_disable_key(store, &bob, &id, &error));
    CODE(LK_OK, lk_disable_key(store, &user, &id, &error));
    LOGIN(LK_KEY_DISABLED, store, token);
    CODE(LK_OK, lk_fetch_key(store, &user, &id, &key, &error));
    CHECK(key->disabled == 1);
    lk_key_free(key);
    CODE(LK_OK, lk_enable_key(store, &user, &id, &error));
    LOGIN(LK_OK, store, token);

    memset(&rotation, 0, sizeof rotation);
    rotation.size = sizeof rotation;
    rotation.until_used = 1;
    CODE(LK_INVALID_ROTATION, lk_rotate_key(store, &user, &id, &rotation, &key, &second, &error));
    rotation.overlap = 3600000;
    CODE(LK_OK, lk_rotate_key(store, &user, &id, &rotation, &key, &second, &error));
    CHECK(key->token_count == 2);
    lk_key_free(key);
    LOGIN(LK_OK, store, token);
    LOGIN(LK_OK, store, second);
    LOGIN(LK_INVALID_TOKEN, store, token);
    lk_token_free(token);
    CODE(LK_OK, lk_rotate_key(store, &user, &id, NULL, NULL, &token, &error));
    LOGIN(LK_INVALID_TOKEN, store, second);
    LOGIN(LK_OK, store, token);
    lk_token_free(second);

    CODE(LK_OK, lk_fetch_keys(store, &user, &keys, &error));
    CHECK(keys->size == sizeof *keys && keys->count == 2);
    CHECK(same(keys->keys[0]->name, "laptop") && same(keys->keys[1]->name, "phone"));
    lk_keys_free(keys);

    CODE(LK_OK, lk_disable_user(store, &user, &error));
    LOGIN(LK_USER_DISABLED, store, token);
    CODE(LK_OK, lk_enable_user(store, &user, &error));
    CODE(LK_OK, lk_delete_key(store, &user, &id, &error));
    LOGIN(LK_INVALID_TOKEN, store, token);
    CODE(LK_KEY_NOT_FOUND, lk_fetch_key(store, &user, &id, &key, &error));
    lk_token_free(token);

    spec = key_spec("service");
    lk_server_owner(&owner);
    CODE(LK_USER_NOT_FOUND, lk_create_key(store, &owner, &spec, NULL, &token, &error));
    spec.group = text("north");
    CODE(LK_OK, lk_create_server_key(store, &spec, &key, &token, &error));
    CHECK(memcmp(&key->owner, &owner, sizeof owner) == 0 && same(key->group, "north"));
    id = key->id;
    lk_key_free(key);
    CODE(LK_OK, lk_login(store, token->text.data, token->text.length, &who, &error));
    CHECK(who->server_key == 1 && same(who->group, "north"));
    lk_principal_free(who);
    CODE(LK_OK, lk_rotate_server_key(store, &id, NULL, NULL, &second, &error));
    LOGIN(LK_INVALID_TOKEN, store, token);
    LOGIN(LK_OK, store, second);
    CODE(LK_OK, lk_delete_key(store, &owner, &id, &error));
    LOGIN(LK_INVALID_TOKEN, store, second);
    lk_token_free(token);
    lk_token_free(second);
    CODE(LK_OK, lk_close(store, &error));
}

/* A principal with 64 scopes of 128 bytes does not fit into the memory that a login begins with. */
static void test_large_principal(void) {
    static char bytes[64][128];
    lk_store store = open_store("large.db");
    lk_string scopes[64];
    lk_key_spec spec = key_spec("large");
    lk_token *token;
    lk_principal *who;
    int i;

    for (i = 0; i < 64; i++) {
        memset(bytes[i], 'a', sizeof bytes[i]);
        bytes[i][0] = (char)('0' + i / 8);
        bytes[i][1] = (char)('0' + i % 8);
        scopes[i].data = bytes[i];
        scopes[i].length = sizeof bytes[i];
    }
    spec.scopes = scopes;
    spec.scope_count = 64;
    CODE(LK_OK, lk_create_server_key(store, &spec, NULL, &token, &error));
    CODE(LK_OK, lk_login(store, token->text.data, token->text.length, &who, &error));
    CHECK(who->scope_count == 64);
    for (i = 0; i < 64; i++) CHECK(who->scopes[i].length == 128 && memcmp(who->scopes[i].data, bytes[i], 128) == 0);
    CODE(LK_OK, lk_require_scope(who, bytes[63], 128, &error));
    CHECK(same(who->key_name, "large"));
    lk_principal_free(who);
    lk_token_free(token);
    CODE(LK_OK, lk_close(store, &error));
}

static void test_hostile_arguments(void) {
    static const char invalid[] = "\377\376";
    static char large[(1 << 20) + 1];
    static lk_string many[4097];
    lk_store store = open_store("hostile.db"), other = 7;
    lk_id user = make_user(store, "ada@example.com"), id;
    lk_token *token = make_key(store, &user, "laptop", &id), *t;
    lk_options o = light();
    lk_key_spec spec = key_spec("phone");
    lk_rotation rotation;
    lk_string one;
    lk_principal *who;
    lk_key *key;
    lk_error *none = NULL;
    const char *p = path("other.db");
    struct {
        lk_options known;
        uint64_t later;
    } longer;
    size_t i;

    /* tokens, which strangers send */
    CODE(LK_INVALID_TOKEN, lk_login(store, NULL, 0, &who, &error));
    CODE(LK_INVALID_ARGUMENT, lk_login(store, NULL, 1, &who, &error));
    CODE(LK_INVALID_TOKEN, lk_login(store, "lk_", (size_t)-1, &who, &error));
    CODE(LK_INVALID_TOKEN, lk_login(store, invalid, 2, &who, &error));
    CODE(LK_INVALID_TOKEN, lk_login(store, "a\0b", 3, &who, &error));
    CODE(LK_INVALID_TOKEN, lk_login(store, token->text.data, token->text.length - 1, &who, &error));
    CHECK(who == NULL);
    CHECK(lk_login(store, "x", 1, NULL, NULL) == LK_INVALID_TOKEN);
    CODE(LK_INVALID_ARGUMENT, lk_login_from(store, token->text.data, token->text.length, NULL, 4, &who, &error));
    CODE(LK_INVALID_ARGUMENT, lk_login_from(store, token->text.data, token->text.length, invalid, 2, &who, &error));

    /* pointers */
    CODE(LK_INVALID_ARGUMENT, lk_open(LK_ABI_VERSION, p, strlen(p), &o, NULL, &error));
    CODE(LK_INVALID_ARGUMENT, lk_open(LK_ABI_VERSION, NULL, 5, &o, &other, &error));
    CHECK(other == 0);
    CODE(LK_INVALID_OPTIONS, lk_open(LK_ABI_VERSION, NULL, 0, &o, &other, &error));
    CODE(LK_INVALID_ARGUMENT, lk_fetch_key(store, NULL, &id, &key, &error));
    CODE(LK_INVALID_ARGUMENT, lk_fetch_key(store, &user, NULL, &key, &error));
    CODE(LK_INVALID_ARGUMENT, lk_fetch_key(store, &user, &id, NULL, &error));
    CODE(LK_INVALID_ARGUMENT, lk_fetch_keys(store, &user, NULL, &error));
    CODE(LK_INVALID_ARGUMENT, lk_disable_key(store, NULL, NULL, &error));
    CODE(LK_INVALID_ARGUMENT, lk_create_key(store, &user, NULL, NULL, &t, &error));
    CODE(LK_INVALID_ARGUMENT, lk_create_user(store, NULL, NULL, &error));
    CODE(LK_INVALID_ARGUMENT, lk_health(store, NULL, &error));
    CODE(LK_INVALID_ARGUMENT, lk_backup(store, NULL, 0, &error));
    CODE(LK_INVALID_ARGUMENT, lk_restore(NULL, 3, p, strlen(p), &error));
    lk_server_owner(NULL);
    lk_error_free(NULL);
    lk_principal_free(NULL);
    lk_key_free(NULL);
    lk_keys_free(NULL);
    lk_token_free(NULL);
    lk_user_free(NULL);
    lk_users_free(NULL);
    lk_findings_free(NULL);

    /* sizes of structs */
    o.size = 0;
    CODE(LK_INVALID_ARGUMENT, lk_open(LK_ABI_VERSION, p, strlen(p), &o, &other, &error));
    o.size = sizeof o - 1;
    CODE(LK_INVALID_ARGUMENT, lk_open(LK_ABI_VERSION, p, strlen(p), &o, &other, &error));
    o.size = (size_t)-1;
    CODE(LK_INVALID_ARGUMENT, lk_open(LK_ABI_VERSION, p, strlen(p), &o, &other, &error));
    longer.known = light();
    longer.known.size = sizeof longer;
    longer.later = 1;
    CODE(LK_INVALID_ARGUMENT, lk_open(LK_ABI_VERSION, p, strlen(p), &longer.known, &other, &error));
    longer.later = 0;
    CODE(LK_OK, lk_open(LK_ABI_VERSION, p, strlen(p), &longer.known, &other, &error));
    CODE(LK_OK, lk_close(other, &error));
    memset(&rotation, 0, sizeof rotation);
    rotation.size = offsetof(lk_rotation, until_used);
    CODE(LK_INVALID_ARGUMENT, lk_rotate_key(store, &user, &id, &rotation, NULL, &t, &error));
    rotation.size += sizeof rotation.until_used; /* as in a language without padding at the end */
    CODE(LK_OK, lk_rotate_key(store, &user, &id, &rotation, NULL, &t, &error));
    CODE(LK_OK, lk_login(store, t->text.data, t->text.length, &who, &error));
    lk_token_free(t);
    who->size = 0;
    CODE(LK_INVALID_ARGUMENT, lk_require_scope(who, "mail:read", 9, &error));
    who->size = (size_t)-1;
    CODE(LK_INVALID_ARGUMENT, lk_require_scope(who, "mail:read", 9, &error));
    lk_principal_free(who);
    o = light();
    o.read_only = 2;
    CODE(LK_INVALID_ARGUMENT, lk_open(LK_ABI_VERSION, p, strlen(p), &o, &other, &error));
    o = light();
    o.lock_timeout = INT64_MAX;
    CODE(LK_INVALID_ARGUMENT, lk_open(LK_ABI_VERSION, p, strlen(p), &o, &other, &error));
    o = light();
    o.hash_memory = 1;
    CODE(LK_INVALID_OPTIONS, lk_open(LK_ABI_VERSION, p, strlen(p), &o, &other, &error));
    o = light();
    o.cost_lanes = 256;
    CODE(LK_INVALID_ARGUMENT, lk_open(LK_ABI_VERSION, p, strlen(p), &o, &other, &error));

    /* strings and lists */
    spec.name.data = invalid;
    spec.name.length = 2;
    CODE(LK_INVALID_ARGUMENT, lk_create_key(store, &user, &spec, NULL, &t, &error));
    spec.name.data = NULL;
    CODE(LK_INVALID_ARGUMENT, lk_create_key(store, &user, &spec, NULL, &t, &error));
    spec.name = text("phone");
    spec.name.length = (size_t)-1;
    CODE(LK_INVALID_ARGUMENT, lk_create_key(store, &user, &spec, NULL, &t, &error));
    spec.name = text("phone");
    spec.scope_count = 1;
    CODE(LK_INVALID_ARGUMENT, lk_create_key(store, &user, &spec, NULL, &t, &error));
    one = text("files:read");
    spec.scopes = &one;
    spec.scope_count = (size_t)-1;
    CODE(LK_INVALID_ARGUMENT, lk_create_key(store, &user, &spec, NULL, &t, &error));
    for (i = 0; i < 4097; i++) many[i] = text("a");
    spec.scopes = many;
    spec.scope_count = 4097;
    CODE(LK_INVALID_ARGUMENT, lk_create_key(store, &user, &spec, NULL, &t, &error));
    spec.scope_count = 0;
    spec.metadata_count = 3;
    CODE(LK_INVALID_ARGUMENT, lk_create_key(store, &user, &spec, NULL, &t, &error));
    spec.metadata_count = 0;
    spec.expires = INT64_MAX;
    CODE(LK_INVALID_EXPIRY, lk_create_key(store, &user, &spec, NULL, &t, &error));
    CHECK(t == NULL);

    spec = key_spec("phone");
    memset(large, 'a', sizeof large);
    spec.name.data = large;
    spec.name.length = sizeof large;
    CODE(LK_INVALID_ARGUMENT, lk_create_key(store, &user, &spec, NULL, &t, &error));
    spec.name.length--;
    CODE(LK_INVALID_NAME, lk_create_key(store, &user, &spec, NULL, &t, &error));
    CODE(LK_INVALID_TOKEN, lk_login(store, large, sizeof large, &who, &error));

    /* handles */
    CODE(LK_OK, lk_close(store, &error));
    for (i = 0; i < 3; i++) {
        lk_store wrong = i == 0 ? 0 : i == 1 ? UINT64_C(1) << 60 : store;
        lk_code want = i < 2 ? LK_INVALID_HANDLE : LK_CLOSED;
        lk_user_spec u = user_spec("bob@example.com");
        lk_user *a_user;
        lk_users *users;
        lk_keys *keys;
        lk_findings *findings;
        spec = key_spec("phone");
        CODE(want, lk_close(wrong, &error));
        CODE(want, lk_login(wrong, token->text.data, token->text.length, &who, &error));
        CODE(want, lk_create_key(wrong, &user, &spec, &key, &t, &error));
        CODE(want, lk_create_server_key(wrong, &spec, &key, &t, &error));
        CODE(want, lk_fetch_key(wrong, &user, &id, &key, &error));
        CODE(want, lk_fetch_keys(wrong, &user, &keys, &error));
        CODE(want, lk_enable_key(wrong, &user, &id, &error));
        CODE(want, lk_disable_key(wrong, &user, &id, &error));
        CODE(want, lk_delete_key(wrong, &user, &id, &error));
        CODE(want, lk_rotate_key(wrong, &user, &id, NULL, &key, &t, &error));
        CODE(want, lk_rotate_server_key(wrong, &id, NULL, &key, &t, &error));
        CODE(want, lk_create_user(wrong, &u, &a_user, &error));
        CODE(want, lk_fetch_user(wrong, &user, &a_user, &error));
        CODE(want, lk_fetch_user_by_identity(wrong, &u.identity, &a_user, &error));
        CODE(want, lk_fetch_users(wrong, NULL, 1, &users, &error));
        CODE(want, lk_enable_user(wrong, &user, &error));
        CODE(want, lk_disable_user(wrong, &user, &error));
        CODE(want, lk_delete_user(wrong, &user, &error));
        CODE(want, lk_link_identity(wrong, &user, &u.identity, &error));
        CODE(want, lk_unlink_identity(wrong, &user, &u.identity, &error));
        CODE(want, lk_health(wrong, &findings, &error));
        CODE(want, lk_backup(wrong, p, strlen(p), &error));
        CHECK(!who && !key && !t && !a_user && !users && !keys && !findings);
        CHECK(lk_disable_key(wrong, &user, &id, NULL) == want);
    }
    CHECK(none == NULL);
    lk_token_free(token);
}

static int has(lk_string s, lk_string part) {
    size_t i;
    for (i = 0; i + part.length <= s.length; i++)
        if (memcmp(s.data + i, part.data, part.length) == 0) return 1;
    return 0;
}

/* A program can pass a token in the place of something else, and then log the message. */
static void test_no_message_has_a_token(void) {
    lk_store store = open_store("messages.db"), other;
    lk_id user = make_user(store, "ada@example.com");
    lk_token *token = make_key(store, &user, "laptop", NULL), *t;
    lk_string text = token->text;
    lk_options o = light();
    lk_key_spec spec = key_spec("phone");
    lk_pair pairs[2];
    lk_principal *who;
    lk_error *errors[6];
    const char *p = path("prefix.db");
    size_t i;

    pairs[0].name = pairs[1].name = text;
    pairs[0].value = pairs[1].value = text;
    o.token_prefix = text;
    CHECK(lk_open(LK_ABI_VERSION, p, strlen(p), &o, &other, &errors[0]) == LK_INVALID_OPTIONS);
    CHECK(lk_login_from(store, text.data, text.length, text.data, text.length, &who, &errors[1]) == LK_INVALID_NETWORK);
    CODE(LK_OK, lk_login(store, text.data, text.length, &who, &error));
    CHECK(lk_require_scope(who, text.data, text.length, &errors[2]) == LK_NO_SCOPE);
    lk_principal_free(who);
    spec.networks = &text;
    spec.network_count = 1;
    CHECK(lk_create_key(store, &user, &spec, NULL, &t, &errors[3]) == LK_INVALID_NETWORK);
    spec.network_count = 0;
    spec.metadata = pairs;
    spec.metadata_count = 2;
    CHECK(lk_create_key(store, &user, &spec, NULL, &t, &errors[4]) == LK_INVALID_ARGUMENT);
    CHECK(lk_restore(text.data, text.length, p, strlen(p), &errors[5]) == LK_NO_FILE);
    for (i = 0; i < sizeof errors / sizeof errors[0]; i++) {
        CHECK(errors[i]->message.length > 0 && !has(errors[i]->message, text));
        lk_error_free(errors[i]);
    }
    lk_token_free(token);
    CODE(LK_OK, lk_close(store, &error));
}

static void test_files(void) {
    lk_store store = open_store("files.db"), other;
    lk_id user = make_user(store, "ada@example.com");
    lk_token *token = make_key(store, &user, "laptop", NULL);
    lk_options o = light();
    lk_findings *findings;
    const char *file = path("files.db"), *backup = path("files.backup"), *restored = path("restored.db");
    FILE *f;

    CODE(LK_LOCKED, lk_open(LK_ABI_VERSION, file, strlen(file), &o, &other, &error));
    CODE(LK_OK, lk_health(store, &findings, &error));
    CHECK(findings->size == sizeof *findings && findings->count == 0);
    lk_findings_free(findings);
    CODE(LK_OK, lk_backup(store, backup, strlen(backup), &error));
    CODE(LK_FILE_EXISTS, lk_backup(store, backup, strlen(backup), &error));
    CODE(LK_FILE_EXISTS, lk_restore(backup, strlen(backup), file, strlen(file), &error));
    CODE(LK_OK, lk_close(store, &error));
    CODE(LK_OK, lk_restore(backup, strlen(backup), restored, strlen(restored), &error));

    o.read_only = 1;
    CODE(LK_OK, lk_open(LK_ABI_VERSION, restored, strlen(restored), &o, &other, &error));
    LOGIN(LK_OK, other, token);
    CODE(LK_READ_ONLY, lk_disable_user(other, &user, &error));
    CODE(LK_OK, lk_close(other, &error));
    o.read_only = 0;

    file = path("missing.db");
    o.must_exist = 1;
    CODE(LK_NO_FILE, lk_open(LK_ABI_VERSION, file, strlen(file), &o, &other, &error));
    CODE(LK_NO_FILE, lk_restore(file, strlen(file), backup, strlen(backup), &error));
    file = path("foreign.txt");
    f = fopen(file, "w");
    CHECK(f != NULL);
    fputs("this never was a store", f);
    fclose(f);
    CODE(LK_NOT_STORE, lk_open(LK_ABI_VERSION, file, strlen(file), &o, &other, &error));
    restored = path("restored-again.db");
    CODE(LK_NOT_STORE, lk_restore(file, strlen(file), restored, strlen(restored), &error));
    file = path("no/such/directory/keys.db");
    o.must_exist = 0;
    CODE(LK_NO_FILE, lk_open(LK_ABI_VERSION, file, strlen(file), &o, &other, &error));
    lk_token_free(token);
}

#ifndef _WIN32
/* An open store whose file is gone says so by lk_health and by lk_disable_key. */
static void test_a_deleted_file(void) {
    lk_store store = open_store("deleted.db");
    lk_id user = make_user(store, "ada@example.com");
    lk_findings *findings;
    size_t i, gone = 0;

    CHECK(remove(path("deleted.db")) == 0);
    CODE(LK_FILE_GONE, lk_disable_user(store, &user, &error));
    CODE(LK_OK, lk_health(store, &findings, &error));
    for (i = 0; i < findings->count; i++) {
        CHECK(findings->findings[i]->size == sizeof(lk_finding) && findings->findings[i]->message.length > 0);
        gone += findings->findings[i]->code == LK_FILE_GONE;
    }
    CHECK(gone == 1);
    lk_findings_free(findings);
    lk_close(store, NULL);
}
#endif

struct worker {
    pthread_t thread;
    lk_store store;
    lk_id user, id;
    lk_token *token;
    long calls[2]; /* that succeeded, and that were refused */
};

static void *work(void *arg) {
    struct worker *w = arg;
    lk_principal *who;
    lk_keys *keys;
    lk_code code;
    do {
        code = lk_login(w->store, w->token->text.data, w->token->text.length, &who, NULL);
        CHECK((code == LK_OK) == (who != NULL));
        CHECK(code == LK_OK || code == LK_KEY_DISABLED || code == LK_CLOSED);
        w->calls[code != LK_OK]++;
        if (who) CHECK(same(who->key_name, "shared"));
        lk_principal_free(who);
        if (w->calls[0] % 64 == 0 && lk_fetch_keys(w->store, &w->user, &keys, NULL) == LK_OK) {
            CHECK(keys->count == 1);
            lk_keys_free(keys);
        }
    } while (code != LK_CLOSED);
    return NULL;
}

/* A disabling holds for every thread at once, and lk_close ends the calls of all. */
static void test_threads(void) {
    struct worker w[8];
    lk_store store = open_store("threads.db");
    lk_id user = make_user(store, "ada@example.com"), id;
    lk_token *token = make_key(store, &user, "shared", &id);
    int i;

    memset(w, 0, sizeof w);
    for (i = 0; i < 8; i++) {
        w[i].store = store;
        w[i].user = user;
        w[i].id = id;
        w[i].token = token;
        CHECK(pthread_create(&w[i].thread, NULL, work, &w[i]) == 0);
    }
    for (i = 0; i < 20; i++) {
        CODE(LK_OK, lk_disable_key(store, &user, &id, &error));
        LOGIN(LK_KEY_DISABLED, store, token);
        CODE(LK_OK, lk_enable_key(store, &user, &id, &error));
        LOGIN(LK_OK, store, token);
    }
    CODE(LK_OK, lk_close(store, &error));
    CODE(LK_CLOSED, lk_close(store, &error));
    for (i = 0; i < 8; i++) CHECK(pthread_join(w[i].thread, NULL) == 0 && w[i].calls[1] > 0);
    lk_token_free(token);
}

#ifndef _WIN32
/* A child of fork gets a code from every call, and does not hang. */
static void test_fork(void) {
    lk_store store = open_store("fork.db"), other;
    lk_id user = make_user(store, "ada@example.com"), id;
    lk_token *token = make_key(store, &user, "laptop", &id);
    const char *p = path("fork-child.db");
    int status;
    pid_t child = fork();

    CHECK(child >= 0);
    if (child == 0) {
        lk_string t;
        LOGIN(LK_FORKED, store, token);
        CODE(LK_FORKED, lk_open(LK_ABI_VERSION, p, strlen(p), NULL, &other, &error));
        CODE(LK_FORKED, lk_disable_key(store, &user, &id, &error));
        CODE(LK_FORKED, lk_close(store, &error));
        lk_code_text(LK_FORKED, &t);
        lk_token_free(token);
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    LOGIN(LK_OK, store, token);
    CODE(LK_OK, lk_close(store, &error));
    lk_token_free(token);
}
#endif

#ifdef LK_TESTING
static void *watched;      /* a result whose release is looked at */
static const char *secret; /* a string in it, of length bytes */
static size_t length;
static int wiped;

extern void __real_free(void *p);
extern void __wrap_free(void *p);

void __wrap_free(void *p) {
    if (p && p == watched) {
        size_t i;
        wiped = 1;
        for (i = 0; i < length; i++) wiped &= secret[i] == 0;
        watched = NULL;
    }
    __real_free(p);
}

/* At 0 the next allocation of the library fails, at 1 the one after it. Below 0 none fails. */
static int fails_after = -1;
static int fails_always;

extern void *__real_calloc(size_t count, size_t size);
extern void *__wrap_calloc(size_t count, size_t size);
extern void *__real_malloc(size_t size);
extern void *__wrap_malloc(size_t size);

void *__wrap_calloc(size_t count, size_t size) { return fails_always || fails_after-- == 0 ? NULL : __real_calloc(count, size); }

/* Go starts threads with malloc. The only size that latchkey.c asks malloc for is that of a login. */
void *__wrap_malloc(size_t size) { return fails_always && size == 768 ? NULL : __real_malloc(size); }

static void test_without_memory(void) {
    lk_store store = open_store("memory.db");
    lk_id user = make_user(store, "ada@example.com"), id;
    lk_token *token = make_key(store, &user, "laptop", &id), *t;
    lk_key_spec spec = key_spec("phone");
    lk_key *key;
    lk_keys *keys;
    lk_principal *who;
    lk_error *error = (lk_error *)1;

    fails_after = 0;
    CODE(LK_NO_MEMORY, lk_fetch_keys(store, &user, &keys, &error));
    fails_after = 0;
    CODE(LK_NO_MEMORY, lk_create_key(store, &user, &spec, &key, &t, &error));
    CHECK(keys == NULL && key == NULL && t == NULL);
    fails_after = 1; /* after the token, which is released again */
    CODE(LK_NO_MEMORY, lk_rotate_key(store, &user, &id, NULL, &key, &t, &error));
    CHECK(key == NULL && t == NULL);
    CODE(LK_OK, lk_fetch_keys(store, &user, &keys, &error));
    CHECK(keys->count == 2);
    lk_keys_free(keys);
    LOGIN(LK_INVALID_TOKEN, store, token);
    lk_token_free(token);

    CODE(LK_OK, lk_rotate_key(store, &user, &id, NULL, NULL, &token, &error));
    LOGIN(LK_OK, store, token);
    fails_always = 1;
    CHECK(lk_login(store, token->text.data, token->text.length, &who, &error) == LK_NO_MEMORY);
    CHECK(who == NULL && error == NULL);
    CHECK(lk_login(store, "x", 1, NULL, &error) == LK_INVALID_TOKEN && error == NULL);
    CHECK(lk_login(store, "x", 1, &who, NULL) == LK_NO_MEMORY);
    fails_always = 0;
    lk_token_free(token);
    CODE(LK_OK, lk_close(store, &error));
}

static void test_a_token_is_wiped(void) {
    lk_store store = open_store("wiped.db");
    lk_id user = make_user(store, "ada@example.com");
    lk_token *token = make_key(store, &user, "laptop", NULL);
    watched = token;
    secret = token->text.data;
    length = token->text.length;
    lk_token_free(token);
    CHECK(watched == NULL && wiped);
    CODE(LK_OK, lk_close(store, &error));
}

static void test_panics(void) {
    lk_error *error;
    CHECK(lk_test_panic(0, &error) == LK_INTERNAL && error->code == LK_INTERNAL);
    CHECK(same(error->message, "a fault of the library; please report it: panic with a value of type string"));
    lk_error_free(error);
    CHECK(lk_test_panic(1, &error) == LK_INTERNAL);
    CHECK(error->message.length > 60);
    lk_error_free(error);
    CHECK(lk_test_panic(1, NULL) == LK_INTERNAL);
}
#endif

#define RUN(test) \
    do { \
        test(); \
        printf("ok %s\n", #test); \
        fflush(stdout); \
    } while (0)

int main(int argc, char **argv) {
    if (argc != 2) FAIL("usage: test DIR");
    dir = argv[1];
    RUN(test_versions_and_texts);
    RUN(test_users);
    RUN(test_keys);
    RUN(test_large_principal);
    RUN(test_hostile_arguments);
    RUN(test_no_message_has_a_token);
    RUN(test_files);
    RUN(test_threads);
#ifndef _WIN32
    RUN(test_a_deleted_file);
    RUN(test_fork);
#endif
#ifdef LK_TESTING
    RUN(test_a_token_is_wiped);
    RUN(test_without_memory);
    RUN(test_panics);
#endif
    return 0;
}
