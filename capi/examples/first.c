#include <latchkey.h>

#include <stdio.h>
#include <string.h>

/* check ends the program if a call has failed. */
#define check(call) \
    do { \
        lk_error *error; \
        if ((call) != LK_OK) { \
            fprintf(stderr, "%.*s\n", (int)error->message.length, error->message.data); \
            lk_error_free(error); \
            return 1; \
        } \
    } while (0)

static lk_string text(const char *s) {
    lk_string t = {s, strlen(s)};
    return t;
}

int main(int argc, char **argv) {
    const char *path = argc > 1 ? argv[1] : "keys.db";
    lk_store store;
    check(lk_open(LK_ABI_VERSION, path, strlen(path), NULL, &store, &error));

    lk_user_spec ada = {.size = sizeof ada, .identity = {text("local-userpass"), text("ada@example.com")}};
    lk_user *user;
    check(lk_create_user(store, &ada, &user, &error));

    lk_key_spec laptop = {.size = sizeof laptop, .name = text("laptop")};
    lk_key *key;
    lk_token *token;
    check(lk_create_key(store, &user->id, &laptop, &key, &token, &error));

    lk_principal *who;
    check(lk_login(store, token->text.data, token->text.length, &who, &error));
    printf("%.*s logged in\n", (int)who->subject.length, who->subject.data);
    lk_principal_free(who);

    check(lk_disable_key(store, &user->id, &key->id, &error));
    lk_string why;
    lk_code_text(lk_login(store, token->text.data, token->text.length, NULL, NULL), &why);
    printf("refused: %.*s\n", (int)why.length, why.data);

    lk_token_free(token);
    lk_key_free(key);
    lk_user_free(user);
    check(lk_close(store, &error));
    return 0;
}
