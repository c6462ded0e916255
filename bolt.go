package latchkey

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/latchkeydb/latchkey/internal/boltengine"
	"github.com/latchkeydb/latchkey/internal/boltpage"
	"github.com/latchkeydb/latchkey/internal/durable"
	"github.com/latchkeydb/latchkey/internal/safetycopy"
)

// Package boltengine has the engine on bbolt, and does not know this package. This file makes an
// [Engine] of it.

// The build fails unless the limits of package boltpage are those of an engine: boltpage takes a
// larger key or value for damage, and an engine refuses to write one.
var (
	_ = [1]struct{}{}[MaxEngineKey-boltpage.MaxKey]
	_ = [1]struct{}{}[MaxEngineValue-boltpage.MaxValue]
	_ = [1]struct{}{}[MaxTrackedName-boltpage.MaxTrackedName]
)

// OpenBoltEngine opens the bbolt file at path as an [Engine]. If there is no file, OpenBoltEngine
// makes one. Of opts it uses ReadOnly, MustExist and LockTimeout. A program that puts an engine of
// its own between bbolt and the store calls OpenBoltEngine and [OpenWith]. Any other program calls
// [Open].
//
// A new file is written with mode 0600 under another name and synced before it gets its own name.
// So a power cut leaves a whole file or none.
//
// Errors: [ErrLocked]; [ErrNotStore]; [ErrCorrupt] if the file is damaged; [ErrInvalidOptions] if
// path is empty; the operating system's error.
func OpenBoltEngine(path string, opts *Options) (Engine, error) {
	e, err := openBolt(path, opts)
	if err != nil {
		return nil, nameHolders(err, path)
	}
	return boltEngine{e}, nil
}

// openBolt opens the bbolt file at path, or makes it.
func openBolt(path string, opts *Options) (*boltengine.Engine, error) {
	if err := checkPath(path); err != nil {
		return nil, err
	}
	e, err := boltengine.OpenOrCreate(path, opts.bolt())
	if err != nil {
		return nil, wrapOpen(safetycopy.WayOut(path, err), path)
	}
	return e, nil
}

// openBoltFile opens a bbolt file that is there already, and that no other program knows.
func openBoltFile(path string, opts *Options) (Engine, error) {
	e, err := boltengine.Open(path, opts.bolt())
	if err != nil {
		return nil, err
	}
	return boltEngine{e}, nil
}

// bolt returns the options for a bbolt file.
func (o *Options) bolt() boltengine.Options {
	return boltengine.Options{ReadOnly: o.readOnly(), MustExist: o.mustExist(), LockTimeout: o.lockTimeout()}
}

// checkPath returns an error for a path that cannot be the path of a store.
func checkPath(path string) error {
	if path == "" {
		return wrapf(errNoPath, "open")
	}
	if durable.IsReserved(path) {
		err := fmt.Errorf("%w: Windows keeps the name for a device, or for a stream of a file", ErrNotStore)
		return wrapf(err, "open %s", path)
	}
	return nil
}

// nameHolders adds to [ErrLocked] which process has the file open, if that is known.
func nameHolders(err error, path string) error {
	if !errors.Is(err, ErrLocked) {
		return err
	}
	if who := durable.WhoHas(path); who != "" {
		return fmt.Errorf("%w: %s", err, who)
	}
	return err
}

// boltEngine is the [Engine] of a bbolt file.
type boltEngine struct{ boltFile }

// boltFile is a bbolt file in use. A *boltengine.Engine keeps to one file. A *boltengine.Follower
// goes on with the file that was put in the place of the one before.
type boltFile interface {
	View(ctx context.Context, fn func(*boltengine.Tx) error) error
	Update(ctx context.Context, fn func(*boltengine.Tx) error) error
	ViewLong(ctx context.Context, fn func(*boltengine.Tx) error) error
	Track(tables ...string)
	Commit(ctx context.Context) (sequence uint64, random [8]byte, err error)
	Wait(ctx context.Context, after uint64) error
	LookAtFile(ctx context.Context) (moved bool, finding, err error)
	Path() string
	Close() error

	EngineBackuper
	EngineCompacter
	EngineChecker
	EngineHealther
	CommitCounter
	fmt.Formatter
}

func (e boltEngine) View(ctx context.Context, fn func(EngineTx) error) error {
	return e.boltFile.View(ctx, withBoltTx(fn))
}

func (e boltEngine) Update(ctx context.Context, fn func(EngineTx) error) error {
	return e.boltFile.Update(ctx, withBoltTx(fn))
}

func (e boltEngine) ViewLong(ctx context.Context, fn func(EngineTx) error) error {
	return e.boltFile.ViewLong(ctx, withBoltTx(fn))
}

func (e boltEngine) Close() error { return wrapf(e.boltFile.Close(), "close %s", e.Path()) }

func withBoltTx(fn func(EngineTx) error) func(*boltengine.Tx) error {
	return func(tx *boltengine.Tx) error { return fn(boltTx{tx}) }
}

// boltTx is a transaction of a bbolt file.
type boltTx struct{ *boltengine.Tx }

func (tx boltTx) Scan(table string, from, to []byte) iter.Seq2[Entry, error] {
	entries := tx.Tx.Scan(table, from, to)
	return func(yield func(Entry, error) bool) {
		entries(func(entry boltengine.Entry, err error) bool { return yield(Entry(entry), err) })
	}
}

func (tx boltTx) Changes(since uint64) iter.Seq2[TrackedChange, error] {
	changes := tx.Tx.Changes(since)
	return func(yield func(TrackedChange, error) bool) {
		changes(func(c boltengine.TrackedChange, err error) bool { return yield(TrackedChange(c), err) })
	}
}

func (tx boltTx) RepairEngine(ctx context.Context) (repaired int, stale []TrackedChange, err error) {
	repaired, entries, err := tx.Tx.RepairEngine(ctx)
	for _, e := range entries {
		stale = append(stale, TrackedChange(e))
	}
	return repaired, stale, err
}
