package enginetest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/latchkeydb/latchkey"
)

// tables are the state of a memory engine. A published state never changes.
type tables map[string][]latchkey.Entry

// memory is an engine in memory that keeps every law, unless it has a fault.
type memory struct {
	*disk
	fault    string
	readOnly bool

	turn   chan struct{} // has one element while a writer has its turn
	life   sync.RWMutex  // read-locked by transactions, locked by Close
	closed atomic.Bool
	before uint64 // commits before this engine was opened
}

// disk has the data that outlives a memory engine.
type disk struct {
	state    atomic.Pointer[tables]
	previous atomic.Pointer[tables]
	commit   sync.Mutex
	commits  atomic.Uint64
}

// disks has the disk of each directory.
var disks sync.Map

// openMemory returns an enginetest.Open of engines with a fault.
func openMemory(fault string) func(dir string, opts *latchkey.Options) (latchkey.Engine, error) {
	return func(dir string, opts *latchkey.Options) (latchkey.Engine, error) {
		d, _ := disks.LoadOrStore(dir, &disk{})
		e := &memory{disk: d.(*disk), fault: fault, turn: make(chan struct{}, 1)}
		e.readOnly = opts != nil && opts.ReadOnly && !e.has("runs Updates on an engine for reading")
		if e.state.Load() == nil {
			e.state.Store(&tables{})
		}
		e.before = e.commits.Load()
		return e, nil
	}
}

func (e *memory) has(fault string) bool { return e.fault == fault }

func (e *memory) View(ctx context.Context, fn func(latchkey.EngineTx) error) error {
	if err := ctx.Err(); err != nil && !e.has("runs a View of a done context") {
		return err
	}
	if e.has("lets a View wait for the writer") {
		e.turn <- struct{}{}
		defer func() { <-e.turn }()
	}
	if !e.has("closes under its transactions") {
		e.life.RLock()
		defer e.life.RUnlock()
	}
	if e.closed.Load() && !e.has("reads after Close") {
		return latchkey.ErrClosed
	}
	if e.has("counts a View as a commit") {
		e.commits.Add(1)
	}
	tx := &memoryTx{memory: e, tables: *e.state.Load(), readOnly: !e.has("writes in a View")}
	defer tx.end()
	return fn(tx)
}

func (e *memory) Update(ctx context.Context, fn func(latchkey.EngineTx) error) error {
	if e.readOnly {
		return latchkey.ErrReadOnly
	}
	if err := ctx.Err(); err != nil && !e.has("runs an Update of a done context") {
		return err
	}
	if !e.has("closes under its transactions") {
		e.life.RLock()
		defer e.life.RUnlock()
	}
	if e.closed.Load() {
		return latchkey.ErrClosed
	}
	if e.has("runs again") || e.has("looks only for conflicts of writes") {
		return e.updateOptimistically(fn)
	}
	if !e.has("lets writers run at once") {
		if e.has("waits for its turn whatever the context") || e.has("runs an Update of a done context") {
			ctx = context.Background()
		}
		select {
		case e.turn <- struct{}{}:
			defer func() { <-e.turn }()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	err := e.run(fn)
	if ctx.Err() != nil && e.has("reports a later cancellation as if it had undone the commit") {
		return ctx.Err()
	}
	if err != nil && e.has("wraps the error of fn") {
		return fmt.Errorf("memory: %w", err)
	}
	return err
}

// run runs fn once and publishes what it wrote.
func (e *memory) run(fn func(latchkey.EngineTx) error) (err error) {
	tx := e.begin()
	if e.has("counts every run of fn") {
		if err := fn(tx); err != nil {
			return err
		}
	}
	defer tx.end()
	keep := false
	defer func() {
		if keep {
			e.publish(tx)
		}
		if e.has("swallows panics") {
			_ = recover()
		}
	}()
	keep = e.has("keeps what a panic or Goexit leaves")
	err = fn(tx)
	keep = err == nil || e.has("keeps what a failed Update wrote")
	if e.has("lets writers run at once") {
		runtime.Gosched()
	}
	return err
}

// updateOptimistically runs fn again until no other transaction has committed in the meantime.
func (e *memory) updateOptimistically(fn func(latchkey.EngineTx) error) error {
	for {
		base := e.state.Load()
		tx := e.begin()
		err := func() error {
			defer tx.end()
			return fn(tx)
		}()
		if err != nil {
			return err
		}
		runtime.Gosched() // lets other transactions commit in between
		e.commit.Lock()
		now := e.state.Load()
		if e.has("looks only for conflicts of writes") {
			merged := &memoryTx{memory: e, tables: maps.Clone(*now)}
			conflict := false
			for _, w := range tx.log {
				before, beforeOK := (*base).get(w.table, w.key)
				after, afterOK := (*now).get(w.table, w.key)
				conflict = conflict || beforeOK != afterOK || !bytes.Equal(before, after)
			}
			for _, w := range tx.log {
				merged.set(w.table, w.key, w.value, w.deleted)
			}
			if !conflict {
				e.state.Store(&merged.tables)
				e.commits.Add(1)
			}
			e.commit.Unlock()
			if !conflict {
				return nil
			}
			continue
		}
		ok := now == base
		if ok {
			e.state.Store(&tx.tables)
			e.commits.Add(1)
		}
		e.commit.Unlock()
		if ok {
			return nil
		}
	}
}

func (e *memory) begin() *memoryTx {
	return &memoryTx{memory: e, tables: maps.Clone(*e.state.Load()), uncommitted: e.has("shows what is not committed")}
}

func (e *memory) publish(tx *memoryTx) {
	e.previous.Store(e.state.Load())
	if e.has("publishes entry by entry") {
		part := &memoryTx{memory: e, tables: maps.Clone(*e.state.Load())}
		for _, w := range tx.log {
			part.set(w.table, w.key, w.value, w.deleted)
			shown := maps.Clone(part.tables)
			part.owned = nil
			e.state.Store(&shown)
			runtime.Gosched()
		}
	}
	if e.has("drops what is beyond the hundredth write") && len(tx.log) > 100 {
		part := &memoryTx{memory: e, tables: maps.Clone(*e.state.Load())}
		for _, w := range tx.log[:100] {
			part.set(w.table, w.key, w.value, w.deleted)
		}
		tx = part
	}
	e.state.Store(&tx.tables)
	e.commits.Add(1)
}

func (e *memory) Close() error {
	if e.closed.Swap(true) {
		if e.has("fails when it is closed again") {
			return errors.New("closed already")
		}
		return nil
	}
	e.life.Lock()
	defer e.life.Unlock()
	if before := e.previous.Load(); before != nil && e.has("loses the last commit when it is closed") {
		e.state.Store(before)
	}
	return nil
}

// The optional abilities of an engine.
var (
	_ latchkey.EngineBackuper  = (*memory)(nil)
	_ latchkey.EngineCompacter = (*memory)(nil)
	_ latchkey.EngineChecker   = (*memory)(nil)
	_ latchkey.CommitCounter   = (*memory)(nil)
	_ latchkey.DamageSkipper   = (*memoryTx)(nil)
)

// WriteBackup fills a new bbolt file, and copies the file to w.
func (e *memory) WriteBackup(ctx context.Context, w io.Writer) error {
	dir, err := os.MkdirTemp("", "enginetest-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "backup.db")
	bolt, err := latchkey.OpenBoltEngine(path, nil)
	if err != nil {
		return err
	}
	state := *e.state.Load()
	err = bolt.Update(ctx, func(tx latchkey.EngineTx) error {
		for table := range state {
			if e.has("backs each table up at another moment") {
				runtime.Gosched()
				state = *e.state.Load()
			}
			for i, entry := range state[table] {
				if i == 10 && e.has("leaves entries out of a backup") {
					break
				}
				if err := tx.Put(table, entry.Key, entry.Value); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err := errors.Join(err, bolt.Close()); err != nil {
		return err
	}
	file, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	_, err = w.Write(file)
	return err
}

// Compact does nothing, because memory has no unused space to give back.
func (e *memory) Compact(context.Context) error {
	if e.has("loses what is committed during Compact") {
		before := e.state.Load()
		for end := time.Now().Add(time.Second); e.state.Load() == before && time.Now().Before(end); {
			runtime.Gosched()
		}
		e.turn <- struct{}{} // a writer in its turn would put back what is lost
		e.state.Store(before)
		<-e.turn
	}
	if e.has("loses entries in Compact") {
		return e.Update(context.Background(), func(tx latchkey.EngineTx) error {
			for e, err := range tx.Scan("filled 1", nil, nil) {
				if err != nil {
					return err
				}
				return tx.Delete("filled 1", e.Key)
			}
			return nil
		})
	}
	return nil
}

func (e *memory) CheckEngine(context.Context) iter.Seq[error] {
	return func(yield func(error) bool) {
		if e.has("finds damage where there is none") && len((*e.state.Load())["filled 0"]) > 0 {
			yield(latchkey.ErrCorrupt)
		}
	}
}

func (e *memory) Commits() uint64 {
	switch {
	case e.has("counts no commits"):
		return 0
	case e.has("counts the commits before its opening"):
		return e.commits.Load()
	}
	return e.commits.Load() - e.before
}

func (tx *memoryTx) NextReadable(table string, from []byte) []byte {
	if i, _ := tx.tables.find(table, from); i < len(tx.tables[table]) && tx.has("skips entries of a sound table") {
		return bytes.Clone(tx.tables[table][i].Key)
	}
	return nil
}

// memoryTx works on a copy of the state. It copies a table when it first writes to it.
type memoryTx struct {
	*memory
	tables   tables
	owned    map[string]bool
	log      []memoryWrite
	readOnly bool
	ended    bool

	uncommitted bool
}

type memoryWrite struct {
	table      string
	key, value []byte
	deleted    bool
}

func (tx *memoryTx) end() { tx.ended = !tx.has("answers after its end") }

func (t tables) get(table string, key []byte) (value []byte, ok bool) {
	i, ok := t.find(table, key)
	if !ok {
		return nil, false
	}
	return t[table][i].Value, true
}

func (t tables) find(table string, key []byte) (int, bool) {
	return slices.BinarySearchFunc(t[table], key, func(e latchkey.Entry, key []byte) int { return bytes.Compare(e.Key, key) })
}

func (tx *memoryTx) Get(table string, key []byte) ([]byte, error) {
	if tx.ended {
		return nil, latchkey.ErrClosed
	}
	if tx.has("reads the newest state") && tx.readOnly {
		tx.tables = *tx.state.Load()
	}
	value, ok := tx.tables.get(tx.name(table), key)
	switch {
	case !ok, len(value) == 0 && tx.has("takes empty for missing"):
		return nil, nil
	case tx.has("gives its own slices away"):
		return value, nil
	}
	return append([]byte{}, value...), nil
}

// name returns the name under which the engine keeps a table.
func (tx *memoryTx) name(table string) string {
	if tx.has("keeps all tables in one") {
		return ""
	}
	return table
}

func (tx *memoryTx) Scan(table string, from, to []byte) iter.Seq2[latchkey.Entry, error] {
	table = tx.name(table)
	if !tx.has("keeps the bounds of a Scan") {
		from, to = bytes.Clone(from), bytes.Clone(to)
	}
	return func(yield func(latchkey.Entry, error) bool) {
		next := from
		frozen := slices.Clone(tx.tables[table])
		step := 0
		for {
			if tx.ended {
				yield(latchkey.Entry{}, latchkey.ErrClosed)
				return
			}
			entries := tx.tables[table]
			i, found := tx.tables.find(table, next)
			if found && step == 0 && from != nil && tx.has("leaves out where a Scan begins") {
				i++
			}
			if tx.has("scans what there was when the Scan began") {
				entries = frozen
				i, _ = tables{table: frozen}.find(table, next)
			}
			if tx.has("scans by counting") && step > 0 {
				start, _ := tx.tables.find(table, from)
				i = start + step
			}
			if i >= len(entries) {
				return
			}
			e := entries[i]
			if tx.has("scans backwards") {
				e = entries[len(entries)-1-i]
			}
			if c := bytes.Compare(e.Key, to); to != nil && (c > 0 || c == 0 && !tx.has("includes where a Scan ends")) {
				return
			}
			next = append(bytes.Clone(entries[i].Key), 0)
			step++
			if !tx.has("gives its own slices away") {
				e = latchkey.Entry{Key: bytes.Clone(e.Key), Value: append([]byte{}, e.Value...)}
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

func (tx *memoryTx) Put(table string, key, value []byte) error {
	return tx.write(table, key, value, false)
}

func (tx *memoryTx) Delete(table string, key []byte) error {
	return tx.write(table, key, nil, true)
}

func (tx *memoryTx) write(table string, key, value []byte, deleted bool) error {
	switch {
	case tx.ended:
		return latchkey.ErrClosed
	case tx.readOnly:
		return latchkey.ErrReadOnly
	case tx.has("cuts long keys"):
		key = key[:min(len(key), 255)]
	case tx.has("cuts long values"):
		value = value[:min(len(value), 32<<10)]
	}
	if !tx.has("keeps the slices of its callers") {
		key, value = bytes.Clone(key), bytes.Clone(value)
	}
	tx.log = append(tx.log, memoryWrite{tx.name(table), key, value, deleted})
	tx.set(tx.name(table), key, value, deleted)
	if tx.uncommitted {
		shown := maps.Clone(tx.tables)
		tx.owned = nil
		tx.state.Store(&shown)
	}
	return nil
}

func (tx *memoryTx) set(table string, key, value []byte, deleted bool) {
	if !tx.owned[table] {
		if tx.owned == nil {
			tx.owned = map[string]bool{}
		}
		tx.owned[table] = true
		tx.tables[table] = slices.Clone(tx.tables[table])
	}
	i, found := tx.tables.find(table, key)
	switch {
	case deleted && found:
		tx.tables[table] = slices.Delete(tx.tables[table], i, i+1)
	case deleted:
	case found:
		tx.tables[table][i].Value = value
	default:
		tx.tables[table] = slices.Insert(tx.tables[table], i, latchkey.Entry{Key: key, Value: value})
	}
}
