package main

// #include "latchkey.h"
// extern void *lkgoAllocate(size_t size);
import "C"

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unsafe"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/hide"
)

// A block is memory of C that a result is written into: the struct, its lists and its strings. C
// releases it with one call of free. Without memory, or where the memory does not suffice, the
// block counts what it would take, and the caller fills a larger one.
//
// Pointers are written as numbers. The garbage collector would look at what a pointer replaces, and
// fresh memory of C can have anything there.
type block struct {
	base       unsafe.Pointer
	size, used uintptr
}

// take returns n bytes of the block, or nil if there are not so many.
func (b *block) take(n uintptr) unsafe.Pointer {
	at := b.used
	b.used += (n + 7) &^ 7
	if b.used > b.size {
		return nil
	}
	return unsafe.Add(b.base, at)
}

// place returns a T in the block, or one that is thrown away if the block is too small.
func place[T any](b *block) *T {
	if p := b.take(unsafe.Sizeof(*new(T))); p != nil {
		return (*T)(p)
	}
	return new(T)
}

// places returns n times T in the block, and sets *field to the first one.
func places[T any](b *block, field **T, count *C.size_t, n int) []T {
	*count = C.size_t(n)
	p := b.take(uintptr(n) * unsafe.Sizeof(*new(T)))
	point(field, p)
	if p == nil {
		return make([]T, n)
	}
	return unsafe.Slice((*T)(p), n)
}

// point sets a pointer in memory of C.
func point[T any](field **T, p unsafe.Pointer) { *(*uintptr)(unsafe.Pointer(field)) = uintptr(p) }

// text writes a string. Its pointer is not NULL, even if the string is empty.
func (b *block) text(field *C.lk_string, s string) {
	p := b.take(max(uintptr(len(s)), 1))
	if p != nil {
		copy(unsafe.Slice((*byte)(p), len(s)), s)
	}
	point(&field.data, p)
	field.length = C.size_t(len(s))
}

// message writes the text of an error, which can quote a token, or bytes that are no UTF-8.
func (b *block) message(field *C.lk_string, err error) {
	b.text(field, hide.Tokens(strings.ToValidUTF8(err.Error(), "\uFFFD")))
}

func (b *block) texts(field **C.lk_string, count *C.size_t, texts []string) {
	places := places(b, field, count, len(texts))
	for i, s := range texts {
		b.text(&places[i], s)
	}
}

func (b *block) metadata(field **C.lk_pair, count *C.size_t, m map[string]string) {
	places := places(b, field, count, len(m))
	for i, name := range slices.Sorted(maps.Keys(m)) {
		b.text(&places[i].name, name)
		b.text(&places[i].value, m[name])
	}
}

// references places a list of pointers, and then a result for each of them.
func references[From, To any](b *block, field ***To, count *C.size_t, from []From, fill func(*block, *From) *To) {
	places := places(b, field, count, len(from))
	for i := range from {
		point(&places[i], unsafe.Pointer(fill(b, &from[i])))
	}
}

func setID(field *C.lk_id, id uuid.UUID) { *(*uuid.UUID)(unsafe.Pointer(field)) = id }

// millis returns a time as C sees it: 0 for the zero time.
func millis(t time.Time) C.int64_t {
	if t.IsZero() {
		return 0
	}
	return C.int64_t(t.UnixMilli())
}

func number(b bool) C.int32_t {
	if b {
		return 1
	}
	return 0
}

// result sets *out to a block that fill fills. It runs fill twice, to count and to write.
//
// It returns errNoMemory.
func result[From, To any](out **To, from *From, fill func(*block, *From) *To) error {
	var count block
	fill(&count, from)
	b := block{base: C.lkgoAllocate(C.size_t(count.used)), size: count.used}
	if b.base == nil {
		return errNoMemory
	}
	fill(&b, from)
	point(out, b.base)
	return nil
}

func fillPrincipal(b *block, p *latchkey.Principal) *C.lk_principal {
	c := place[C.lk_principal](b)
	c.size = C.sizeof_lk_principal
	setID(&c.key_id, p.KeyID)
	setID(&c.owner, p.Owner)
	setID(&c.user_id, p.UserID)
	c.expires = millis(p.Expires)
	b.text(&c.key_name, p.KeyName)
	b.text(&c.provider, string(p.Identity.Provider))
	b.text(&c.subject, p.Identity.Subject)
	b.text(&c.group, p.Group)
	b.text(&c.token_id, p.TokenID)
	b.texts(&c.scopes, &c.scope_count, p.Scopes.All())
	c.server_key = number(p.ServerKey)
	return c
}

func fillKey(b *block, k *latchkey.Key) *C.lk_key {
	c := place[C.lk_key](b)
	c.size = C.sizeof_lk_key
	setID(&c.id, k.ID)
	setID(&c.owner, k.Owner)
	b.text(&c.name, k.Name)
	c.created, c.expires, c.last_used = millis(k.Created), millis(k.Expires), millis(k.LastUsed)
	b.texts(&c.scopes, &c.scope_count, k.Scopes.All())
	networks := make([]string, len(k.Networks))
	for i, n := range k.Networks {
		networks[i] = netip.Prefix.String(n)
	}
	b.texts(&c.networks, &c.network_count, networks)
	b.metadata(&c.metadata, &c.metadata_count, k.Metadata)
	b.text(&c.group, k.Group)
	references(b, &c.tokens, &c.token_count, k.Tokens, fillKeyToken)
	c.disabled = number(k.Disabled)
	return c
}

func fillKeyToken(b *block, t *latchkey.KeyToken) *C.lk_key_token {
	c := place[C.lk_key_token](b)
	c.size = C.sizeof_lk_key_token
	b.text(&c.id, t.ID)
	c.ends, c.last_used = millis(t.Ends), millis(t.LastUsed)
	return c
}

func fillKeys(b *block, keys *[]latchkey.Key) *C.lk_keys {
	c := place[C.lk_keys](b)
	c.size = C.sizeof_lk_keys
	references(b, &c.keys, &c.count, *keys, fillKey)
	return c
}

func fillToken(b *block, token *string) *C.lk_token {
	c := place[C.lk_token](b)
	c.size = C.sizeof_lk_token
	b.text(&c.text, *token)
	return c
}

func fillUser(b *block, u *latchkey.User) *C.lk_user {
	c := place[C.lk_user](b)
	c.size = C.sizeof_lk_user
	setID(&c.id, u.ID)
	c.created = millis(u.Created)
	identities := places(b, &c.identities, &c.identity_count, len(u.Identities))
	for i, identity := range u.Identities {
		b.text(&identities[i].provider, string(identity.Provider))
		b.text(&identities[i].subject, identity.Subject)
	}
	b.metadata(&c.metadata, &c.metadata_count, u.Metadata)
	b.text(&c.group, u.Group)
	c.disabled = number(u.Disabled)
	return c
}

func fillUsers(b *block, users *[]latchkey.User) *C.lk_users {
	c := place[C.lk_users](b)
	c.size = C.sizeof_lk_users
	references(b, &c.users, &c.count, *users, fillUser)
	return c
}

func fillFinding(b *block, err *error) *C.lk_finding {
	c := place[C.lk_finding](b)
	c.size = C.sizeof_lk_finding
	b.message(&c.message, *err)
	c.code = C.lk_code(codeOf(*err))
	return c
}

func fillFindings(b *block, errs *[]error) *C.lk_findings {
	c := place[C.lk_findings](b)
	c.size = C.sizeof_lk_findings
	references(b, &c.findings, &c.count, *errs, fillFinding)
	return c
}

func fillError(b *block, err *error) *C.lk_error {
	c := place[C.lk_error](b)
	c.size = C.sizeof_lk_error
	b.message(&c.message, *err)
	c.code = C.lk_code(codeOf(*err))
	return c
}
