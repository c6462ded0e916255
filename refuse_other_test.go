//go:build !unix

package latchkey_test

import "errors"

func makePipe(string) error { return errors.ErrUnsupported }
