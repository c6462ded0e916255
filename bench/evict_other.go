//go:build !linux

package bench

import "errors"

const canEvict = false

func evict(string) error { return errors.ErrUnsupported }
