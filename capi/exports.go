package main

// #include "latchkey.h"
// extern lk_string *lkgoTexts;
import "C"

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"unsafe"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/durable"
	"github.com/latchkeydb/latchkey/internal/names"
)

// The functions in this file are what latchkey.c calls. lkgoX does the work of lk_x in latchkey.h,
// which has the contract. latchkey.c has set all out-parameters to NULL or 0 before.

// background is the context of every call, because C has no way to cancel one. lk_close ends calls
// that wait for a hash.
var background = context.Background()

// abiVersion is LK_ABI_VERSION.
const abiVersion = C.LK_ABI_VERSION

// done is the end of a call. It returns the code of err, and sets *e to the code and the message.
func done(e **C.lk_error, err error) C.lk_code {
	if err != nil && e != nil {
		_ = result(e, &err, fillError) // without memory for a message, the code has to do
	}
	return C.lk_code(codeOf(err))
}

// recovered turns a panic into LK_INTERNAL. It must be deferred by every exported function, because
// a panic would end the program of C.
func recovered(code *C.lk_code, e **C.lk_error) {
	if value := recover(); value != nil {
		*code = done(e, panicError(value))
	}
}

// call runs fn with the store, unless the arguments are wrong.
func call(store C.lk_store, in *input, e **C.lk_error, fn func(s *latchkey.Store) error) (code C.lk_code) {
	defer recovered(&code, e)
	s, err := stores.find(uint64(store))
	if err == nil {
		err = in.err
	}
	if err == nil {
		err = fn(s)
	}
	return done(e, err)
}

// lkgoNoMemory is the end of a call that finds no memory before it enters Go.
//
//export lkgoNoMemory
func lkgoNoMemory(e **C.lk_error) (code C.lk_code) {
	defer recovered(&code, e)
	return done(e, errNoMemory)
}

//export lkgoCodeText
func lkgoCodeText(code C.lk_code, text *C.lk_string) {
	texts := unsafe.Slice(C.lkgoTexts, len(codes)+2)
	*text = texts[1]
	if code == C.LK_OK {
		*text = texts[0]
	}
	for i, c := range codes {
		if c.code == int32(code) {
			*text = texts[i+2]
		}
	}
}

// init writes the texts of LK_OK, of unknown codes and of all codes into memory of C. They stay
// there.
func init() {
	texts := []string{codeText(0), codeText(-1)}
	for _, c := range codes {
		texts = append(texts, codeText(c.code))
	}
	if err := result(&C.lkgoTexts, &texts, fillTexts); err != nil {
		panic(err)
	}
}

func fillTexts(b *block, texts *[]string) *C.lk_string {
	var first *C.lk_string
	b.texts(&first, new(C.size_t), *texts)
	return first
}

//export lkgoOpen
func lkgoOpen(abi C.uint32_t, path *C.char, length C.size_t, options *C.lk_options, store *C.lk_store, e **C.lk_error) (code C.lk_code) {
	defer recovered(&code, e)
	if abi != abiVersion {
		return done(e, fmt.Errorf("%w: the program was compiled for version %d of the interface, and the library has version %d", errABI, uint32(abi), abiVersion))
	}
	var in input
	in.need("store", store != nil)
	name := in.text("path", path, length)
	opts := in.options(options)
	if in.err != nil {
		return done(e, in.err)
	}
	s, err := latchkey.Open(name, opts)
	if err != nil {
		return done(e, err)
	}
	*store = C.lk_store(stores.add(s))
	return done(e, nil)
}

//export lkgoClose
func lkgoClose(store C.lk_store, e **C.lk_error) (code C.lk_code) {
	defer recovered(&code, e)
	s, err := stores.remove(uint64(store))
	if err == nil {
		err = s.Close()
	}
	return done(e, err)
}

// lkgoLogin writes the principal into the memory at *principal, which has room bytes, or into new
// memory if they do not suffice. It allocates nothing in the usual case.
//
//export lkgoLogin
func lkgoLogin(store C.lk_store, token *C.char, length C.size_t, address *C.char, addressLength C.size_t, principal **C.lk_principal, room C.size_t, e **C.lk_error) (code C.lk_code) {
	defer recovered(&code, e)
	s, err := stores.find(uint64(store))
	if err != nil {
		return done(e, err)
	}
	t, err := presented(token, length)
	if err != nil {
		return done(e, err)
	}
	var from netip.Addr
	if addressLength != 0 {
		if from, err = addressOf(address, addressLength); err != nil {
			return done(e, err)
		}
	}
	who, err := s.LoginFrom(background, t, from)
	if err != nil || room == 0 {
		return done(e, err)
	}
	b := block{base: unsafe.Pointer(*principal), size: uintptr(room)}
	fillPrincipal(&b, &who)
	if b.used > b.size {
		large := who // a copy may escape to the heap
		return done(e, result(principal, &large, fillPrincipal))
	}
	return C.LK_OK
}

func addressOf(data *C.char, length C.size_t) (netip.Addr, error) {
	var in input
	text := in.text("address", data, length)
	if in.err != nil {
		return netip.Addr{}, in.err
	}
	from, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("%w: %s is not an IP address", latchkey.ErrInvalidNetwork, names.Quote(text))
	}
	return from, nil
}

//export lkgoRequireScope
func lkgoRequireScope(principal *C.lk_principal, scope *C.char, length C.size_t, e **C.lk_error) (code C.lk_code) {
	defer recovered(&code, e)
	var in input
	wanted := in.text("scope", scope, length)
	p := sized(&in, "principal", principal, unsafe.Offsetof(principal.server_key)+unsafe.Sizeof(principal.server_key))
	has := latchkey.NewScopes(in.texts("scopes", p.scopes, p.scope_count)...)
	err := in.err
	if err == nil && !has.Has(wanted) {
		err = fmt.Errorf("%w: it has no scope for %s", errNoScope, names.Quote(wanted))
	}
	return done(e, err)
}

// withToken runs fn, and sets *key and *token to what it returns.
func withToken(store C.lk_store, in *input, key **C.lk_key, token **C.lk_token, e **C.lk_error, fn func(s *latchkey.Store) (latchkey.Key, string, error)) C.lk_code {
	in.need("token", token != nil)
	return call(store, in, e, func(s *latchkey.Store) error {
		k, t, err := fn(s)
		if err == nil {
			err = result(token, &t, fillToken)
		}
		if err == nil && key != nil {
			err = result(key, &k, fillKey)
		}
		return err
	})
}

//export lkgoCreateKey
func lkgoCreateKey(store C.lk_store, user *C.lk_id, spec *C.lk_key_spec, key **C.lk_key, token **C.lk_token, e **C.lk_error) (code C.lk_code) {
	defer recovered(&code, e)
	var in input
	owner, n := in.id("user", user), in.keySpec(spec)
	return withToken(store, &in, key, token, e, func(s *latchkey.Store) (latchkey.Key, string, error) {
		return s.CreateKey(background, owner, n)
	})
}

//export lkgoCreateServerKey
func lkgoCreateServerKey(store C.lk_store, spec *C.lk_key_spec, key **C.lk_key, token **C.lk_token, e **C.lk_error) (code C.lk_code) {
	defer recovered(&code, e)
	var in input
	n := in.keySpec(spec)
	return withToken(store, &in, key, token, e, func(s *latchkey.Store) (latchkey.Key, string, error) {
		return s.CreateServerKey(background, n)
	})
}

//export lkgoRotateKey
func lkgoRotateKey(store C.lk_store, owner, id *C.lk_id, rotation *C.lk_rotation, key **C.lk_key, token **C.lk_token, e **C.lk_error) (code C.lk_code) {
	defer recovered(&code, e)
	var in input
	user, k, r := in.id("owner", owner), in.id("id", id), in.rotation(rotation)
	return withToken(store, &in, key, token, e, func(s *latchkey.Store) (latchkey.Key, string, error) {
		return s.RotateKey(background, user, k, r)
	})
}

//export lkgoRotateServerKey
func lkgoRotateServerKey(store C.lk_store, id *C.lk_id, rotation *C.lk_rotation, key **C.lk_key, token **C.lk_token, e **C.lk_error) (code C.lk_code) {
	defer recovered(&code, e)
	var in input
	k, r := in.id("id", id), in.rotation(rotation)
	return withToken(store, &in, key, token, e, func(s *latchkey.Store) (latchkey.Key, string, error) {
		return s.RotateServerKey(background, k, r)
	})
}

// fetch runs fn, and sets *out to what it returns.
func fetch[From, To any](store C.lk_store, in *input, out **To, e **C.lk_error, fill func(*block, *From) *To, fn func(s *latchkey.Store) (From, error)) C.lk_code {
	in.need("the pointer for the result", out != nil)
	return call(store, in, e, func(s *latchkey.Store) error {
		v, err := fn(s)
		if err == nil {
			err = result(out, &v, fill)
		}
		return err
	})
}

//export lkgoFetchKey
func lkgoFetchKey(store C.lk_store, owner, id *C.lk_id, key **C.lk_key, e **C.lk_error) (code C.lk_code) {
	defer recovered(&code, e)
	var in input
	user, k := in.id("owner", owner), in.id("id", id)
	return fetch(store, &in, key, e, fillKey, func(s *latchkey.Store) (latchkey.Key, error) { return s.Key(background, user, k) })
}

//export lkgoFetchKeys
func lkgoFetchKeys(store C.lk_store, owner *C.lk_id, keys **C.lk_keys, e **C.lk_error) (code C.lk_code) {
	defer recovered(&code, e)
	var in input
	user := in.id("owner", owner)
	return fetch(store, &in, keys, e, fillKeys, func(s *latchkey.Store) ([]latchkey.Key, error) { return s.Keys(background, user) })
}

// onKey runs a method of the store on a key.
func onKey(store C.lk_store, owner, id *C.lk_id, e **C.lk_error, method func(*latchkey.Store, context.Context, uuid.UUID, uuid.UUID) error) (code C.lk_code) {
	defer recovered(&code, e)
	var in input
	user, k := in.id("owner", owner), in.id("id", id)
	return call(store, &in, e, func(s *latchkey.Store) error { return method(s, background, user, k) })
}

//export lkgoEnableKey
func lkgoEnableKey(store C.lk_store, owner, id *C.lk_id, e **C.lk_error) C.lk_code {
	return onKey(store, owner, id, e, (*latchkey.Store).EnableKey)
}

//export lkgoDisableKey
func lkgoDisableKey(store C.lk_store, owner, id *C.lk_id, e **C.lk_error) C.lk_code {
	return onKey(store, owner, id, e, (*latchkey.Store).DisableKey)
}

//export lkgoDeleteKey
func lkgoDeleteKey(store C.lk_store, owner, id *C.lk_id, e **C.lk_error) C.lk_code {
	return onKey(store, owner, id, e, (*latchkey.Store).DeleteKey)
}

//export lkgoCreateUser
func lkgoCreateUser(store C.lk_store, spec *C.lk_user_spec, user **C.lk_user, e **C.lk_error) (code C.lk_code) {
	defer recovered(&code, e)
	var in input
	n := in.userSpec(spec)
	return call(store, &in, e, func(s *latchkey.Store) error {
		u, err := s.CreateUser(background, n)
		if err == nil && user != nil {
			err = result(user, &u, fillUser)
		}
		return err
	})
}

//export lkgoFetchUser
func lkgoFetchUser(store C.lk_store, id *C.lk_id, user **C.lk_user, e **C.lk_error) (code C.lk_code) {
	defer recovered(&code, e)
	var in input
	u := in.id("id", id)
	return fetch(store, &in, user, e, fillUser, func(s *latchkey.Store) (latchkey.User, error) { return s.User(background, u) })
}

//export lkgoFetchUserByIdentity
func lkgoFetchUserByIdentity(store C.lk_store, identity *C.lk_identity, user **C.lk_user, e **C.lk_error) (code C.lk_code) {
	defer recovered(&code, e)
	var in input
	i := in.identity(identity)
	return fetch(store, &in, user, e, fillUser, func(s *latchkey.Store) (latchkey.User, error) { return s.UserByIdentity(background, i) })
}

// maxUsers is how many users lk_fetch_users returns at most.
const maxUsers = 1000

//export lkgoFetchUsers
func lkgoFetchUsers(store C.lk_store, after *C.lk_id, limit C.size_t, users **C.lk_users, e **C.lk_error) (code C.lk_code) {
	defer recovered(&code, e)
	var in input
	if limit == 0 {
		in.fail("limit is 0")
	}
	var from uuid.UUID
	if after != nil {
		from = in.id("after", after)
	}
	return fetch(store, &in, users, e, fillUsers, func(s *latchkey.Store) (list []latchkey.User, err error) {
		for u, err := range s.Users(background, from) {
			if err != nil {
				return nil, err
			}
			if list = append(list, u); len(list) >= int(min(limit, maxUsers)) {
				break
			}
		}
		return list, nil
	})
}

// onUser runs a method of the store on a user.
func onUser(store C.lk_store, id *C.lk_id, e **C.lk_error, method func(*latchkey.Store, context.Context, uuid.UUID) error) (code C.lk_code) {
	defer recovered(&code, e)
	var in input
	u := in.id("id", id)
	return call(store, &in, e, func(s *latchkey.Store) error { return method(s, background, u) })
}

//export lkgoEnableUser
func lkgoEnableUser(store C.lk_store, id *C.lk_id, e **C.lk_error) C.lk_code {
	return onUser(store, id, e, (*latchkey.Store).EnableUser)
}

//export lkgoDisableUser
func lkgoDisableUser(store C.lk_store, id *C.lk_id, e **C.lk_error) C.lk_code {
	return onUser(store, id, e, (*latchkey.Store).DisableUser)
}

//export lkgoDeleteUser
func lkgoDeleteUser(store C.lk_store, id *C.lk_id, e **C.lk_error) C.lk_code {
	return onUser(store, id, e, (*latchkey.Store).DeleteUser)
}

// onIdentity runs a method of the store on an identity of a user.
func onIdentity(store C.lk_store, user *C.lk_id, identity *C.lk_identity, e **C.lk_error, method func(*latchkey.Store, context.Context, uuid.UUID, latchkey.Identity) (latchkey.User, error)) (code C.lk_code) {
	defer recovered(&code, e)
	var in input
	u, i := in.id("user", user), in.identity(identity)
	return call(store, &in, e, func(s *latchkey.Store) error {
		_, err := method(s, background, u, i)
		return err
	})
}

//export lkgoLinkIdentity
func lkgoLinkIdentity(store C.lk_store, user *C.lk_id, identity *C.lk_identity, e **C.lk_error) C.lk_code {
	return onIdentity(store, user, identity, e, (*latchkey.Store).LinkIdentity)
}

//export lkgoUnlinkIdentity
func lkgoUnlinkIdentity(store C.lk_store, user *C.lk_id, identity *C.lk_identity, e **C.lk_error) C.lk_code {
	return onIdentity(store, user, identity, e, (*latchkey.Store).UnlinkIdentity)
}

//export lkgoHealth
func lkgoHealth(store C.lk_store, findings **C.lk_findings, e **C.lk_error) (code C.lk_code) {
	defer recovered(&code, e)
	return fetch(store, &input{}, findings, e, fillFindings, func(s *latchkey.Store) ([]error, error) {
		err := s.Health(background)
		if errors.Is(err, latchkey.ErrClosed) {
			return nil, err
		}
		return findingsOf(err), nil
	})
}

//export lkgoBackup
func lkgoBackup(store C.lk_store, path *C.char, length C.size_t, e **C.lk_error) (code C.lk_code) {
	defer recovered(&code, e)
	var in input
	name := in.path("path", path, length)
	return call(store, &in, e, func(s *latchkey.Store) error {
		if _, err := os.Lstat(name); err == nil {
			return fmt.Errorf("backup to %s: %w", name, fs.ErrExist)
		}
		return durable.Create(name, func(tmp *os.File) error { return s.Backup(background, tmp) })
	})
}

//export lkgoRestore
func lkgoRestore(backup *C.char, backupLength C.size_t, path *C.char, length C.size_t, e **C.lk_error) (code C.lk_code) {
	defer recovered(&code, e)
	var in input
	from, to := in.path("backup", backup, backupLength), in.path("path", path, length)
	if in.err != nil {
		return done(e, in.err)
	}
	f, err := os.Open(from)
	if err != nil {
		return done(e, err)
	}
	defer f.Close()
	return done(e, latchkey.Restore(background, f, to))
}
