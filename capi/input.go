package main

// #include "latchkey.h"
import "C"

import (
	"fmt"
	"net/netip"
	"time"
	"unicode/utf8"
	"unsafe"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/names"
)

const (
	// maxText is how long a string of C can be. It is more than any rule of package latchkey
	// allows. A length beyond it is a mistake, such as a negative number, and is not followed.
	maxText = 1 << 20
	// maxCount is how long a list of C can be: more than any rule of package latchkey allows.
	maxCount = 4096
	// maxStruct is how large a struct of C can be: more than any header will have.
	maxStruct = 4096
)

// An input reads what C passes. It copies everything, and keeps the first error that it meets, so
// that a call reads all arguments and then asks once.
type input struct{ err error }

func (in *input) fail(format string, args ...any) {
	if in.err == nil {
		in.err = fmt.Errorf("%w: "+format, append([]any{errArgument}, args...)...)
	}
}

// need fails unless a pointer is set.
func (in *input) need(what string, set bool) {
	if !set {
		in.fail("%s is NULL", what)
	}
}

// text copies a string that must be UTF-8.
func (in *input) text(what string, data *C.char, length C.size_t) string {
	s := in.bytes(what, data, length)
	if !utf8.ValidString(s) {
		in.fail("%s is not UTF-8", what)
	}
	return s
}

// bytes copies a string of any bytes.
func (in *input) bytes(what string, data *C.char, length C.size_t) string {
	switch {
	case length == 0:
		return ""
	case data == nil:
		in.fail("%s is NULL, but has a length", what)
		return ""
	case length > maxText:
		in.fail("%s is longer than 1 MiB", what)
		return ""
	}
	return C.GoStringN(data, C.int(length))
}

// path reads the name of a file.
func (in *input) path(what string, data *C.char, length C.size_t) string {
	if length == 0 {
		in.fail("%s is empty", what)
	}
	return in.text(what, data, length)
}

func (in *input) string(what string, s C.lk_string) string { return in.text(what, s.data, s.length) }

func (in *input) id(what string, p *C.lk_id) uuid.UUID {
	if p == nil {
		in.fail("%s is NULL", what)
		return uuid.Nil
	}
	return *(*uuid.UUID)(unsafe.Pointer(p))
}

// list returns a list of C without copying it.
func list[T any](in *input, what string, p *T, count C.size_t) []T {
	switch {
	case count == 0:
		return nil
	case p == nil:
		in.fail("%s is NULL, but has a count", what)
		return nil
	case count > maxCount:
		in.fail("%s has more than %d entries", what, maxCount)
		return nil
	}
	return unsafe.Slice(p, count)
}

func (in *input) texts(what string, p *C.lk_string, count C.size_t) []string {
	var texts []string
	for i, s := range list(in, what, p, count) {
		texts = append(texts, in.string(fmt.Sprintf("%s[%d]", what, i), s))
	}
	return texts
}

func (in *input) metadata(p *C.lk_pair, count C.size_t) map[string]string {
	pairs := list(in, "metadata", p, count)
	if len(pairs) == 0 {
		return nil
	}
	m := make(map[string]string, len(pairs))
	for i, pair := range pairs {
		name := in.string(fmt.Sprintf("the name of metadata[%d]", i), pair.name)
		if _, ok := m[name]; ok {
			in.fail("metadata has the name %s twice", names.Quote(name))
		}
		m[name] = in.string(fmt.Sprintf("the value of metadata[%d]", i), pair.value)
	}
	return m
}

// flag reads a number that must be 0 or 1.
func (in *input) flag(what string, n C.int32_t) bool {
	if n != 0 && n != 1 {
		in.fail("%s is %d, but must be 0 or 1", what, int32(n))
	}
	return n == 1
}

// duration reads a number of milliseconds.
func (in *input) duration(what string, ms C.int64_t) time.Duration {
	const most = C.int64_t(1<<63-1) / C.int64_t(time.Millisecond)
	if ms > most || ms < -most {
		in.fail("%s is out of range", what)
		return 0
	}
	return time.Duration(ms) * time.Millisecond
}

// instant reads a time. It is the zero time for 0.
func instant(ms C.int64_t) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(int64(ms)).UTC()
}

// sized copies a struct that begins with its size. Where the caller's struct is longer than the one
// that the library knows, the rest must be 0, because the library would ignore a wish of the
// caller. first is where the last field ended when the struct was introduced, and stays so when
// fields are added. A field must not be added in the padding at the end of a struct, where older
// programs can have anything.
func sized[T any](in *input, what string, p *T, first uintptr) T {
	var known T
	if p == nil {
		in.fail("%s is NULL", what)
		return known
	}
	size := uintptr(*(*C.size_t)(unsafe.Pointer(p)))
	if size < first || size > maxStruct {
		in.fail("the size of %s is %d, and should be %d: set it to sizeof the struct", what, size, unsafe.Sizeof(known))
		return known
	}
	given := unsafe.Slice((*byte)(unsafe.Pointer(p)), size)
	n := copy(unsafe.Slice((*byte)(unsafe.Pointer(&known)), unsafe.Sizeof(known)), given)
	for _, b := range given[n:] {
		if b != 0 {
			in.fail("%s sets a field that this library does not know: it is older than the program", what)
			break
		}
	}
	return known
}

func (in *input) options(p *C.lk_options) *latchkey.Options {
	if p == nil {
		return nil
	}
	o := sized(in, "options", p, unsafe.Offsetof(p.cost_lanes)+unsafe.Sizeof(p.cost_lanes))
	if o.cost_lanes > 255 {
		in.fail("cost_lanes is greater than 255")
	}
	return &latchkey.Options{
		ReadOnly:              in.flag("read_only", o.read_only),
		MustExist:             in.flag("must_exist", o.must_exist),
		LockTimeout:           in.duration("lock_timeout", o.lock_timeout),
		TokenPrefix:           in.string("token_prefix", o.token_prefix),
		MaxKeysPerUser:        int(o.max_keys_per_user),
		AppServicesNames:      in.flag("app_services_names", o.app_services_names),
		Cost:                  latchkey.Cost{Memory: uint32(o.cost_memory), Passes: uint32(o.cost_passes), Lanes: uint8(o.cost_lanes)},
		HashMemory:            int64(o.hash_memory),
		HashQueue:             int(o.hash_queue),
		CacheSize:             int(o.cache_size),
		SafetyCopyEvery:       in.duration("safety_copy_every", o.safety_copy_every),
		RecoverFromSafetyCopy: in.flag("recover", o.recover),
		LastUseEvery:          in.duration("last_use_every", o.last_use_every),
	}
}

func (in *input) keySpec(p *C.lk_key_spec) latchkey.KeySpec {
	s := sized(in, "spec", p, unsafe.Offsetof(p.group)+unsafe.Sizeof(p.group))
	spec := latchkey.KeySpec{
		Name:     in.string("name", s.name),
		Expires:  instant(s.expires),
		Scopes:   latchkey.NewScopes(in.texts("scopes", s.scopes, s.scope_count)...),
		Metadata: in.metadata(s.metadata, s.metadata_count),
		Group:    in.string("group", s.group),
	}
	for _, text := range in.texts("networks", s.networks, s.network_count) {
		network, err := netip.ParsePrefix(text)
		if err != nil && in.err == nil {
			in.err = fmt.Errorf("%w: %s is not a network such as 192.0.2.0/24", latchkey.ErrInvalidNetwork, names.Quote(text))
		}
		spec.Networks = append(spec.Networks, network)
	}
	return spec
}

func (in *input) rotation(p *C.lk_rotation) latchkey.Rotation {
	if p == nil {
		return latchkey.Rotation{}
	}
	r := sized(in, "rotation", p, unsafe.Offsetof(p.until_used)+unsafe.Sizeof(p.until_used))
	return latchkey.Rotation{Overlap: in.duration("overlap", r.overlap), UntilUsed: in.flag("until_used", r.until_used)}
}

func (in *input) identity(p *C.lk_identity) latchkey.Identity {
	if p == nil {
		in.fail("identity is NULL")
		return latchkey.Identity{}
	}
	return latchkey.Identity{
		Provider: latchkey.Provider(in.string("provider", p.provider)),
		Subject:  in.string("subject", p.subject),
	}
}

func (in *input) userSpec(p *C.lk_user_spec) latchkey.UserSpec {
	s := sized(in, "spec", p, unsafe.Offsetof(p.metadata_count)+unsafe.Sizeof(p.metadata_count))
	return latchkey.UserSpec{
		Identity: in.identity(&s.identity),
		Group:    in.string("group", s.group),
		Metadata: in.metadata(s.metadata, s.metadata_count),
	}
}

// presented returns the token of a login without copying it. A string that is too long to be a
// token is no mistake of the program, because strangers send it.
func presented(data *C.char, length C.size_t) (string, error) {
	switch {
	case length == 0 || length > maxText && data != nil:
		return "", latchkey.ErrInvalidToken
	case data == nil:
		return "", fmt.Errorf("%w: token is NULL, but has a length", errArgument)
	}
	return unsafe.String((*byte)(unsafe.Pointer(data)), length), nil
}
