package etcd

import (
	"context"

	"github.com/latchkeydb/latchkey"
)

// ReadsMirror reports whether a View reads the mirror now.
func ReadsMirror(e latchkey.Engine) bool {
	_, ok := e.(*engine).mirror.ready(context.Background())
	return ok
}
