// Makes a user and a key, logs in, revokes the key, and is refused: main FILE. The results of the
// library are in unique_ptrs, and its errors are exceptions.
#include <latchkey.h>

#include <cstdlib>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>

namespace {

// A Result releases a result of the library with the function that belongs to it.
template <auto Free>
struct Release {
    template <class T>
    void operator()(T *result) const { Free(result); }
};
using Key = std::unique_ptr<lk_key, Release<lk_key_free>>;
using Principal = std::unique_ptr<lk_principal, Release<lk_principal_free>>;
using Token = std::unique_ptr<lk_token, Release<lk_token_free>>;
using User = std::unique_ptr<lk_user, Release<lk_user_free>>;

struct Error : std::runtime_error {
    Error(lk_code code, const std::string &message) : std::runtime_error(message), code(code) {}
    lk_code code;
};

// view and text convert strings. A text points to the characters of the string that it was made from.
std::string_view view(lk_string s) { return {s.data, s.length}; }
lk_string text(std::string_view s) { return {s.data(), s.size()}; }

// check throws the error of a call.
void check(lk_code code, lk_error *error) {
    if (code == LK_OK) return;
    std::unique_ptr<lk_error, Release<lk_error_free>> owned(error);
    throw Error(code, owned ? std::string(view(owned->message)) : "");
}

// out makes a call that has a result, and returns the result. The call gets where the result and the
// error go.
template <class Result, class Call>
Result out(Call call) {
    typename Result::pointer result = nullptr;
    lk_error *error = nullptr;
    lk_code code = call(&result, &error);
    check(code, error);
    return Result(result);
}

class Store {
  public:
    explicit Store(const std::string &path) {
        lk_error *error = nullptr;
        lk_code code = lk_open(LK_ABI_VERSION, path.data(), path.size(), nullptr, &handle_, &error);
        check(code, error);
    }
    Store(const Store &) = delete;
    Store &operator=(const Store &) = delete;
    ~Store() { lk_close(handle_, nullptr); }

    User create_user(std::string_view provider, std::string_view subject) {
        lk_user_spec spec{};
        spec.size = sizeof spec;
        spec.identity = {text(provider), text(subject)};
        return out<User>([&](lk_user **user, lk_error **error) { return lk_create_user(handle_, &spec, user, error); });
    }

    Token create_key(const lk_id &user, std::string_view name, Key &key) {
        lk_key_spec spec{};
        spec.size = sizeof spec;
        spec.name = text(name);
        lk_key *made = nullptr;
        Token token = out<Token>([&](lk_token **t, lk_error **error) { return lk_create_key(handle_, &user, &spec, &made, t, error); });
        key.reset(made);
        return token;
    }

    Principal login(std::string_view token) {
        return out<Principal>([&](lk_principal **who, lk_error **error) { return lk_login(handle_, token.data(), token.size(), who, error); });
    }

    void disable_key(const lk_id &owner, const lk_id &id) {
        lk_error *error = nullptr;
        lk_code code = lk_disable_key(handle_, &owner, &id, &error);
        check(code, error);
    }

  private:
    lk_store handle_ = 0;
};

} // namespace

int main(int argc, char **argv) {
    try {
        Store store(argc > 1 ? argv[1] : "keys.db");
        User ada = store.create_user("local-userpass", "ada@example.com");
        Key key;
        Token token = store.create_key(ada->id, "laptop", key);
        std::cout << view(store.login(view(token->text))->subject) << " logged in\n";
        store.disable_key(ada->id, key->id);
        try {
            store.login(view(token->text));
        } catch (const Error &error) {
            lk_string why;
            lk_code_text(error.code, &why);
            std::cout << "refused: " << view(why) << "\n";
        }
    } catch (const Error &error) {
        std::cerr << error.what() << "\n";
        return EXIT_FAILURE;
    }
}
