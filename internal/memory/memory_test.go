package memory

import (
	"sync"
	"testing"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/enginetest"
)

func TestTheEngineInMemoryKeepsEveryLaw(t *testing.T) {
	var engines sync.Map // by directory; an engine takes over the state of the one before it
	enginetest.Run(t, func(dir string, opts *latchkey.Options) (latchkey.Engine, error) {
		e := newEngine(opts != nil && opts.ReadOnly)
		if before, ok := engines.Swap(dir, e); ok {
			e.state.Store(before.(*engine).state.Load())
		}
		return e, nil
	})
}
