/*
 * The functions of latchkey.h. Each of them clears its out-parameters, looks whether it is in a
 * child of fork, and calls the Go function that does the work. The compiler compares this file with
 * latchkey.h and with the header that cgo generates from exports.go, so neither can differ from the
 * other.
 */
#include "latchkey.h"

#include "_cgo_export.h"

#include <stdlib.h>
#include <string.h>

#pragma GCC diagnostic error "-Wimplicit-function-declaration"
#pragma GCC diagnostic error "-Wincompatible-pointer-types"
#pragma GCC diagnostic error "-Wint-conversion"

#ifdef _WIN32
#include <windows.h>
#define EXPORT __declspec(dllexport)
#else
#include <pthread.h>
#define EXPORT __attribute__((visibility("default")))
#endif

/* forked is 1 in a child of fork, which has only one of the threads that Go needs. */
static volatile int forked;

#ifdef _WIN32
/* stay keeps FreeLibrary from unloading the code of threads of Go, which run from now on. */
__attribute__((constructor)) static void stay(void) {
    HMODULE self;
    GetModuleHandleExA(GET_MODULE_HANDLE_EX_FLAG_PIN | GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS, (LPCSTR)&forked, &self);
}
#else
static void in_child(void) { forked = 1; }

__attribute__((constructor)) static void watch_forks(void) { pthread_atfork(NULL, NULL, in_child); }
#endif

/* CLEAR sets an out-parameter, which may be NULL itself. */
#define CLEAR(out) \
    do { \
        if (out) *(out) = 0; \
    } while (0)

/* BEGIN is the beginning of every function that can fail. */
#define BEGIN(error) \
    do { \
        CLEAR(error); \
        if (forked) return in_fork(error); \
    } while (0)

/* lkgoTexts are the texts of lk_code_text. */
lk_string *lkgoTexts;

void *lkgoAllocate(size_t size) { return calloc(1, size); }

/* in_fork reports LK_FORKED without Go. */
static lk_code in_fork(lk_error **error) {
    static const char text[] = "the process is a child of fork, in which the library does not work: call exec first";
    if (error) {
        lk_error *e = calloc(1, sizeof *e + sizeof text);
        if (e) {
            memcpy(e + 1, text, sizeof text - 1);
            e->size = sizeof *e;
            e->code = LK_FORKED;
            e->message.data = (const char *)(e + 1);
            e->message.length = sizeof text - 1;
        }
        *error = e;
    }
    return LK_FORKED;
}

EXPORT uint32_t lk_abi_version(void) { return LK_ABI_VERSION; }

EXPORT void lk_code_text(lk_code code, lk_string *text) {
    if (!text) return;
    text->data = "";
    text->length = 0;
    if (!forked) lkgoCodeText(code, text);
}

EXPORT lk_code lk_open(uint32_t abi, const char *path, size_t path_length, const lk_options *options, lk_store *store, lk_error **error) {
    CLEAR(store);
    BEGIN(error);
    return lkgoOpen(abi, (char *)path, path_length, (lk_options *)options, store, error);
}

EXPORT lk_code lk_close(lk_store store, lk_error **error) {
    BEGIN(error);
    return lkgoClose(store, error);
}

/* ROOM is enough for most principals. Go allocates memory for larger ones. */
#define ROOM 768

static lk_code login(lk_store store, const char *token, size_t token_length, const char *address, size_t address_length, lk_principal **principal, lk_error **error) {
    lk_principal *mine = NULL, *filled;
    lk_code code;

    CLEAR(principal);
    BEGIN(error);
    /* Memory is allocated here, because a call from Go to malloc costs more than malloc. */
    if (principal && !(mine = malloc(ROOM))) return lkgoNoMemory(error);
    filled = mine;
    code = lkgoLogin(store, (char *)token, token_length, (char *)address, address_length, &filled, mine ? ROOM : 0, error);
    if (code != LK_OK || filled != mine) free(mine);
    if (code == LK_OK && principal) *principal = filled;
    return code;
}

EXPORT lk_code lk_login(lk_store store, const char *token, size_t token_length, lk_principal **principal, lk_error **error) {
    return login(store, token, token_length, NULL, 0, principal, error);
}

EXPORT lk_code lk_login_from(lk_store store, const char *token, size_t token_length, const char *address, size_t address_length, lk_principal **principal, lk_error **error) {
    return login(store, token, token_length, address, address_length, principal, error);
}

EXPORT lk_code lk_require_scope(const lk_principal *principal, const char *scope, size_t scope_length, lk_error **error) {
    BEGIN(error);
    return lkgoRequireScope((lk_principal *)principal, (char *)scope, scope_length, error);
}

/* without drops a token that was made before the rest of the result could be. */
static lk_code without(lk_code code, lk_token **token) {
    if (code != LK_OK && token && *token) {
        lk_token_free(*token);
        *token = NULL;
    }
    return code;
}

EXPORT lk_code lk_create_key(lk_store store, const lk_id *user, const lk_key_spec *spec, lk_key **key, lk_token **token, lk_error **error) {
    CLEAR(key);
    CLEAR(token);
    BEGIN(error);
    return without(lkgoCreateKey(store, (lk_id *)user, (lk_key_spec *)spec, key, token, error), token);
}

EXPORT lk_code lk_create_server_key(lk_store store, const lk_key_spec *spec, lk_key **key, lk_token **token, lk_error **error) {
    CLEAR(key);
    CLEAR(token);
    BEGIN(error);
    return without(lkgoCreateServerKey(store, (lk_key_spec *)spec, key, token, error), token);
}

EXPORT void lk_server_owner(lk_id *id) {
    if (id) memset(id->bytes, 255, sizeof id->bytes);
}

EXPORT lk_code lk_fetch_key(lk_store store, const lk_id *owner, const lk_id *id, lk_key **key, lk_error **error) {
    CLEAR(key);
    BEGIN(error);
    return lkgoFetchKey(store, (lk_id *)owner, (lk_id *)id, key, error);
}

EXPORT lk_code lk_fetch_keys(lk_store store, const lk_id *owner, lk_keys **keys, lk_error **error) {
    CLEAR(keys);
    BEGIN(error);
    return lkgoFetchKeys(store, (lk_id *)owner, keys, error);
}

EXPORT lk_code lk_enable_key(lk_store store, const lk_id *owner, const lk_id *id, lk_error **error) {
    BEGIN(error);
    return lkgoEnableKey(store, (lk_id *)owner, (lk_id *)id, error);
}

EXPORT lk_code lk_disable_key(lk_store store, const lk_id *owner, const lk_id *id, lk_error **error) {
    BEGIN(error);
    return lkgoDisableKey(store, (lk_id *)owner, (lk_id *)id, error);
}

EXPORT lk_code lk_delete_key(lk_store store, const lk_id *owner, const lk_id *id, lk_error **error) {
    BEGIN(error);
    return lkgoDeleteKey(store, (lk_id *)owner, (lk_id *)id, error);
}

EXPORT lk_code lk_rotate_key(lk_store store, const lk_id *owner, const lk_id *id, const lk_rotation *rotation, lk_key **key, lk_token **token, lk_error **error) {
    CLEAR(key);
    CLEAR(token);
    BEGIN(error);
    return without(lkgoRotateKey(store, (lk_id *)owner, (lk_id *)id, (lk_rotation *)rotation, key, token, error), token);
}

EXPORT lk_code lk_rotate_server_key(lk_store store, const lk_id *id, const lk_rotation *rotation, lk_key **key, lk_token **token, lk_error **error) {
    CLEAR(key);
    CLEAR(token);
    BEGIN(error);
    return without(lkgoRotateServerKey(store, (lk_id *)id, (lk_rotation *)rotation, key, token, error), token);
}

EXPORT lk_code lk_create_user(lk_store store, const lk_user_spec *spec, lk_user **user, lk_error **error) {
    CLEAR(user);
    BEGIN(error);
    return lkgoCreateUser(store, (lk_user_spec *)spec, user, error);
}

EXPORT lk_code lk_fetch_user(lk_store store, const lk_id *id, lk_user **user, lk_error **error) {
    CLEAR(user);
    BEGIN(error);
    return lkgoFetchUser(store, (lk_id *)id, user, error);
}

EXPORT lk_code lk_fetch_user_by_identity(lk_store store, const lk_identity *identity, lk_user **user, lk_error **error) {
    CLEAR(user);
    BEGIN(error);
    return lkgoFetchUserByIdentity(store, (lk_identity *)identity, user, error);
}

EXPORT lk_code lk_fetch_users(lk_store store, const lk_id *after, size_t limit, lk_users **users, lk_error **error) {
    CLEAR(users);
    BEGIN(error);
    return lkgoFetchUsers(store, (lk_id *)after, limit, users, error);
}

EXPORT lk_code lk_enable_user(lk_store store, const lk_id *id, lk_error **error) {
    BEGIN(error);
    return lkgoEnableUser(store, (lk_id *)id, error);
}

EXPORT lk_code lk_disable_user(lk_store store, const lk_id *id, lk_error **error) {
    BEGIN(error);
    return lkgoDisableUser(store, (lk_id *)id, error);
}

EXPORT lk_code lk_delete_user(lk_store store, const lk_id *id, lk_error **error) {
    BEGIN(error);
    return lkgoDeleteUser(store, (lk_id *)id, error);
}

EXPORT lk_code lk_link_identity(lk_store store, const lk_id *user, const lk_identity *identity, lk_error **error) {
    BEGIN(error);
    return lkgoLinkIdentity(store, (lk_id *)user, (lk_identity *)identity, error);
}

EXPORT lk_code lk_unlink_identity(lk_store store, const lk_id *user, const lk_identity *identity, lk_error **error) {
    BEGIN(error);
    return lkgoUnlinkIdentity(store, (lk_id *)user, (lk_identity *)identity, error);
}

EXPORT lk_code lk_health(lk_store store, lk_findings **findings, lk_error **error) {
    CLEAR(findings);
    BEGIN(error);
    return lkgoHealth(store, findings, error);
}

EXPORT lk_code lk_backup(lk_store store, const char *path, size_t path_length, lk_error **error) {
    BEGIN(error);
    return lkgoBackup(store, (char *)path, path_length, error);
}

EXPORT lk_code lk_restore(const char *backup, size_t backup_length, const char *path, size_t path_length, lk_error **error) {
    BEGIN(error);
    return lkgoRestore((char *)backup, backup_length, (char *)path, path_length, error);
}

/* Each result is one allocation, with everything that it points to. */

EXPORT void lk_token_free(lk_token *token) {
    if (token) {
        /* A compiler would leave out memset before free. */
        volatile char *at = (volatile char *)token->text.data;
        size_t left;
        for (left = token->text.length; left > 0; left--) *at++ = 0;
    }
    free(token);
}

EXPORT void lk_error_free(lk_error *error) { free(error); }
EXPORT void lk_principal_free(lk_principal *principal) { free(principal); }
EXPORT void lk_key_free(lk_key *key) { free(key); }
EXPORT void lk_keys_free(lk_keys *keys) { free(keys); }
EXPORT void lk_user_free(lk_user *user) { free(user); }
EXPORT void lk_users_free(lk_users *users) { free(users); }
EXPORT void lk_findings_free(lk_findings *findings) { free(findings); }
