package replication

import (
	"context"
	"errors"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/memory"
)

// errCrash is what a store hears of a disk whose machine has crashed.
var errCrash = errors.New("the machine has crashed")

// A disk is an engine in memory whose machine can crash at any transaction. The next disk has
// everything that was committed before.
type disk struct {
	latchkey.Engine
	after   int  // how many transactions are left until the crash, or -1
	commits bool // the last transaction commits, but its caller does not hear of that
	crashed bool
	written int // how many transactions there were
}

func newDisk() *disk { return &disk{Engine: memory.NewEngine(), after: -1} }

// copy returns a disk with what d has.
func (d *disk) copy() *disk { return &disk{Engine: memory.CopyEngine(d.Engine), after: -1} }

func (d *disk) View(ctx context.Context, fn func(latchkey.EngineTx) error) error {
	if d.crashed {
		return errCrash
	}
	return d.Engine.View(ctx, fn)
}

func (d *disk) Update(ctx context.Context, fn func(latchkey.EngineTx) error) error {
	if d.crashed {
		return errCrash
	}
	last := d.after == 0
	err := d.Engine.Update(ctx, func(tx latchkey.EngineTx) error {
		err := fn(tx)
		if err == nil && last && !d.commits {
			err = errCrash
		}
		return err
	})
	d.written++
	if last {
		d.crashed = true
		return errCrash
	}
	if d.after > 0 {
		d.after--
	}
	return err
}
