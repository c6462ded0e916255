/* Functions that only builds with the tag latchkey_test have. */
#ifndef LATCHKEY_TESTING_H
#define LATCHKEY_TESTING_H

#include "latchkey.h"

/* lk_test_panic panics in Go: with a text for 0, and with a nil pointer for 1. */
extern lk_code lk_test_panic(int32_t kind, lk_error **error);

/* lk_test_logins logs in count times in Go, and returns the nanoseconds, or 0 for a refusal. */
extern int64_t lk_test_logins(lk_store store, char *token, size_t token_length, int64_t count);

#endif
