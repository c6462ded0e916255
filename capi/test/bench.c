/*
 * Measures cached logins in Go and in C, in one process: bench FILE. Each line of input is a case and a
 * count, such as "c 100000", and the answer is the nanoseconds that so many logins took. The cases are:
 *
 *     go        the loop runs in Go, and nothing crosses to C
 *     c         lk_login and lk_principal_free
 *     scopes=4  the same, for a key with four scopes
 *
 * The library must have been built with the tag latchkey_test.
 */
#include "testing.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void must(lk_code code, lk_error **error) {
    if (code == LK_OK) return;
    if (*error) fprintf(stderr, "%.*s\n", (int)(*error)->message.length, (*error)->message.data);
    exit(1);
}

static lk_string text(const char *s) {
    lk_string t;
    t.data = s;
    t.length = strlen(s);
    return t;
}

static lk_token *make_key(lk_store store, const lk_id *user, const char *name, const lk_string *scopes, size_t count) {
    lk_key_spec spec;
    lk_token *token;
    lk_error *error;
    memset(&spec, 0, sizeof spec);
    spec.size = sizeof spec;
    spec.name = text(name);
    spec.scopes = scopes;
    spec.scope_count = count;
    must(lk_create_key(store, user, &spec, NULL, &token, &error), &error);
    return token;
}

static int64_t in_c(lk_store store, const lk_token *token, int64_t count) {
    struct timespec start, end;
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (; count > 0; count--) {
        lk_principal *who;
        lk_error *error;
        must(lk_login(store, token->text.data, token->text.length, &who, &error), &error);
        if (who->key_name.length == 0) exit(1);
        lk_principal_free(who);
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    return (int64_t)(end.tv_sec - start.tv_sec) * 1000000000 + (end.tv_nsec - start.tv_nsec);
}

int main(int argc, char **argv) {
    lk_options options;
    lk_user_spec ada;
    lk_user *user;
    lk_store store;
    lk_error *error;
    lk_token *bare, *scoped;
    lk_string scopes[4];
    char name[16];
    long long count;

    if (argc != 2) return 2;
    memset(&options, 0, sizeof options);
    options.size = sizeof options;
    options.cost_memory = 64;
    options.cost_passes = options.cost_lanes = 1;
    must(lk_open(LK_ABI_VERSION, argv[1], strlen(argv[1]), &options, &store, &error), &error);
    memset(&ada, 0, sizeof ada);
    ada.size = sizeof ada;
    ada.identity.provider = text("local-userpass");
    ada.identity.subject = text("ada@example.com");
    must(lk_create_user(store, &ada, &user, &error), &error);
    scopes[0] = text("admin");
    scopes[1] = text("files:*");
    scopes[2] = text("mail:read");
    scopes[3] = text("users:list");
    bare = make_key(store, &user->id, "bare", NULL, 0);
    scoped = make_key(store, &user->id, "scoped", scopes, 4);
    in_c(store, bare, 1);
    in_c(store, scoped, 1);

    while (scanf("%15s %lld", name, &count) == 2) {
        int64_t took;
        if (strcmp(name, "go") == 0)
            took = lk_test_logins(store, (char *)bare->text.data, bare->text.length, count);
        else
            took = in_c(store, strcmp(name, "c") == 0 ? bare : scoped, count);
        if (took <= 0) return 1;
        printf("%lld\n", (long long)took);
        fflush(stdout);
    }
    lk_token_free(bare);
    lk_token_free(scoped);
    lk_user_free(user);
    must(lk_close(store, &error), &error);
    return 0;
}
