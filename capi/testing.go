//go:build latchkey_test

package main

// #include "latchkey.h"
import "C"

import (
	"time"

	"github.com/latchkeydb/latchkey"
)

// The functions in this file are in builds for tests alone; see test/testing.h.

//export lk_test_panic
func lk_test_panic(kind C.int32_t, e **C.lk_error) (code C.lk_code) {
	defer recovered(&code, e)
	switch kind {
	case 0:
		panic("a secret text")
	case 1:
		var s *latchkey.Store
		_ = s.Close()
	}
	return C.LK_OK
}

// lk_test_logins logs in count times without C, and returns how many nanoseconds that took, or 0 if
// a login was refused.
//
//export lk_test_logins
func lk_test_logins(store C.lk_store, token *C.char, length C.size_t, count C.int64_t) C.int64_t {
	s, err := stores.find(uint64(store))
	t, tokenErr := presented(token, length)
	if err != nil || tokenErr != nil {
		return 0
	}
	start := time.Now()
	for range count {
		if _, err := s.Login(background, t); err != nil {
			return 0
		}
	}
	return C.int64_t(max(time.Since(start), 1))
}
