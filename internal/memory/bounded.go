package memory

import (
	"context"

	"github.com/latchkeydb/latchkey"
)

// Bound makes e an engine whose transactions have at most so many writes, as those of an engine on
// other machines have. The bound is its only ability, whatever e is.
func Bound(e latchkey.Engine, writes int) latchkey.Engine { return bounded{e, writes} }

type bounded struct {
	latchkey.Engine
	writes int
}

var _ latchkey.EngineBounder = bounded{}

func (b bounded) MaxWrites() int { return b.writes }

func (b bounded) Update(ctx context.Context, fn func(latchkey.EngineTx) error) error {
	return b.Engine.Update(ctx, func(tx latchkey.EngineTx) error { return fn(&boundedTx{tx, b.writes}) })
}

type boundedTx struct {
	latchkey.EngineTx
	left int // writes
}

func (tx *boundedTx) Put(table string, key, value []byte) error {
	if err := tx.write(); err != nil {
		return err
	}
	return tx.EngineTx.Put(table, key, value)
}

func (tx *boundedTx) Delete(table string, key []byte) error {
	if err := tx.write(); err != nil {
		return err
	}
	return tx.EngineTx.Delete(table, key)
}

func (tx *boundedTx) write() error {
	if tx.left--; tx.left < 0 {
		return latchkey.ErrTransactionTooLarge
	}
	return nil
}
