//go:build !(darwin || dragonfly || freebsd || linux || windows)

package main

import "errors"

// freeSpace returns [errors.ErrUnsupported].
func freeSpace(string) (uint64, error) { return 0, errors.ErrUnsupported }
