package enginetest_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
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

	turn   chan struct{} // that of the disk
	life   sync.RWMutex  // read-locked by transactions, locked by Close
	closed atomic.Bool
	before uint64 // commits before this engine was opened

	changed func([]latchkey.TrackedChange) // nil if nobody watches
	mine    atomic.Bool                    // the last commit is of this opening

	sawDeletion atomic.Bool // some transaction has deleted an entry

	mu      sync.Mutex // guards the fields below
	tracked map[string]bool
	news    chan struct{} // closed at the next commit, and when the engine is closed
}

// boundedMemory is a memory engine that bounds its transactions.
type boundedMemory struct{ *memory }

const maxWrites = 100

func (boundedMemory) MaxWrites() int { return maxWrites }

// sharedMemory is a memory engine whose disk can be open several times at once.
type sharedMemory struct{ *memory }

func (e sharedMemory) Watch(changed func([]latchkey.TrackedChange)) {
	e.openings.Lock()
	defer e.openings.Unlock()
	e.changed = changed
}

func (e sharedMemory) Fresh() bool { return !e.has("is never fresh") }

// Restored takes each commit of another opening for a restoration, with a bug.
func (e sharedMemory) Restored() uint64 {
	if e.has("takes a commit of another opening for a restoration") && !e.mine.Load() {
		return 1
	}
	return 0
}

func (e sharedMemory) Renewed(uint64) {}

// tell tells every opening what a transaction has changed.
func (e *memory) tell(tx *memoryTx) {
	var changes []latchkey.TrackedChange
	for _, w := range tx.log {
		if !w.deleted || !e.has("tells of no deletions") {
			changes = append(changes, latchkey.TrackedChange{Table: w.table, Key: []byte(w.key)})
		}
	}
	e.openings.Lock()
	defer e.openings.Unlock()
	for o := range e.opened {
		if o.changed != nil && len(changes) > 0 && (o == e || !e.has("tells nobody else")) {
			o.changed(changes)
		}
	}
}

// The state of a memory engine has the numbering in tables of its own: the sequence and the random
// number of the commit, and for each tracked table the sequences of its entries.
const (
	commitTable    = "\x00commit"
	sequencePrefix = "\x00sequences of "
)

// disk has the data that outlives a memory engine.
type disk struct {
	state    atomic.Pointer[tables]
	previous atomic.Pointer[tables]
	commit   sync.Mutex
	commits  atomic.Uint64
	turn     chan struct{} // has one element while a writer has its turn

	openings sync.Mutex // guards opened, and the field changed of each
	opened   map[*memory]bool
}

// disks has the disk of each directory.
var disks sync.Map

// openMemory returns an enginetest.Open of engines with a fault.
func openMemory(fault string) func(dir string, opts *latchkey.Options) (latchkey.Engine, error) {
	return func(dir string, opts *latchkey.Options) (latchkey.Engine, error) {
		d, _ := disks.LoadOrStore(dir, &disk{turn: make(chan struct{}, 1), opened: map[*memory]bool{}})
		e := &memory{disk: d.(*disk), fault: fault, turn: d.(*disk).turn, tracked: map[string]bool{}, news: make(chan struct{})}
		e.readOnly = opts != nil && opts.ReadOnly && !e.has("runs Updates on an engine for reading")
		if e.state.Load() == nil {
			e.state.Store(&tables{})
		}
		e.before = e.commits.Load()
		e.openings.Lock()
		e.opened[e] = true
		e.openings.Unlock()
		if e.has("locks out its own writers only") {
			e.turn = make(chan struct{}, 1)
		}
		if slices.Contains(sharedFaults, fault) {
			return sharedMemory{e}, nil
		}
		if e.has("bounded") || e.has("refuses the hundredth write") || e.has("keeps what is not too much") || e.has("calls it another error") {
			return boundedMemory{e}, nil
		}
		return e, nil
	}
}

// sharedFaults are the faults of engines that several can share. The first is none.
var sharedFaults = []string{
	"shared", "is never fresh", "takes a commit of another opening for a restoration", "tells of no deletions", "tells nobody else", "tells what it does not show yet",
	"locks out its own writers only", "shows what others commit late", "wakes only its own",
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
	if e.has("numbers a View") {
		e.publish(e.begin())
	}
	state := *e.state.Load()
	if e.has("shows what others commit late") && !e.mine.Load() && e.previous.Load() != nil {
		state = *e.previous.Load()
	}
	tx := &memoryTx{memory: e, tables: state, before: state.sequence(), readOnly: !e.has("writes in a View")}
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
	if err == nil && tx.tooLarge {
		err = latchkey.ErrTransactionTooLarge
	}
	if err != nil && e.has("numbers an Update that fails") {
		e.publish(e.begin())
	}
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
		e.number(tx)
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
				e.announce()
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
			e.announce()
		}
		e.commit.Unlock()
		if ok {
			return nil
		}
	}
}

func (e *memory) begin() *memoryTx {
	e.mu.Lock()
	defer e.mu.Unlock()
	return &memoryTx{
		memory: e, tables: maps.Clone(*e.state.Load()), tracks: maps.Clone(e.tracked),
		before: e.state.Load().sequence(), uncommitted: e.has("shows what is not committed"),
	}
}

// number gives a commit its sequence and its random number.
func (e *memory) number(tx *memoryTx) {
	if len(tx.log) == 0 && !e.has("numbers an Update that writes nothing") && !e.has("numbers a View") && !e.has("numbers an Update that fails") {
		return
	}
	value := binary.BigEndian.AppendUint64(nil, tx.before+1)
	if e.has("never goes on") {
		value = binary.BigEndian.AppendUint64(nil, 1)
	}
	random := make([]byte, 8)
	if !e.has("draws no random numbers") {
		rand.Read(random)
	}
	tx.set(commitTable, nil, append(value, random...), false)
}

// sequence returns the sequence of the last commit.
func (t tables) sequence() uint64 {
	if v, ok := t.get(commitTable, nil); ok {
		return binary.BigEndian.Uint64(v)
	}
	return 0
}

func (e *memory) Track(tables ...string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, table := range tables {
		e.tracked[table] = true
	}
}

func (e *memory) Commit(ctx context.Context) (sequence uint64, random [8]byte, err error) {
	if err := ctx.Err(); err != nil && !e.has("waits whatever the context") {
		return 0, random, err
	}
	if e.closed.Load() && !e.has("waits after Close") {
		return 0, random, latchkey.ErrClosed
	}
	state := *e.state.Load()
	if v, ok := state.get(commitTable, nil); ok {
		copy(random[:], v[8:])
	}
	if e.has("draws a random number for each caller") {
		rand.Read(random[:])
	}
	return state.sequence(), random, nil
}

func (e *memory) Wait(ctx context.Context, after uint64) error {
	for {
		e.mu.Lock()
		news := e.news
		e.mu.Unlock()
		if sequence, _, err := e.Commit(ctx); err != nil || sequence > after || e.has("does not wait") {
			return err
		}
		select {
		case <-news:
		case <-ctx.Done():
		}
	}
}

// announce wakes every Wait.
func (e *memory) announce() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.has("wakes nobody") {
		close(e.news)
		e.news = make(chan struct{})
	}
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
	e.number(tx)
	if e.has("tells what it does not show yet") {
		e.tell(tx)
		time.Sleep(time.Millisecond)
	}
	e.openings.Lock()
	for o := range e.opened {
		o.mine.Store(o == e)
	}
	e.openings.Unlock()
	e.state.Store(&tx.tables)
	e.commits.Add(1)
	e.announceAll()
	e.tell(tx)
}

// announceAll wakes every Wait at every opening.
func (e *memory) announceAll() {
	e.openings.Lock()
	defer e.openings.Unlock()
	for o := range e.opened {
		if o == e || !e.has("wakes only its own") {
			o.announce()
		}
	}
}

func (e *memory) Close() error {
	e.openings.Lock()
	delete(e.opened, e)
	e.openings.Unlock()
	if e.closed.Swap(true) {
		if e.has("fails when it is closed again") {
			return errors.New("closed already")
		}
		return nil
	}
	e.announce()
	e.life.Lock()
	defer e.life.Unlock()
	if e.has("forgets its sequence when it is closed") {
		tx := e.begin()
		tx.set(commitTable, nil, nil, true)
		e.state.Store(&tx.tables)
	}
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
	_ latchkey.EngineRepairer  = (*memoryTx)(nil)
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
			if strings.HasPrefix(table, "\x00") {
				continue
			}
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
	if e.has("numbers entries anew in Compact") {
		return e.Update(context.Background(), func(tx latchkey.EngineTx) error {
			v, err := tx.Get("filled 0", []byte("0003"))
			if err != nil {
				return err
			}
			return tx.Put("filled 0", []byte("0003"), v)
		})
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

// RepairEngine repairs nothing, because memory derives nothing from its entries.
func (tx *memoryTx) RepairEngine(context.Context) (repaired int, stale []latchkey.TrackedChange, err error) {
	switch {
	case tx.readOnly:
		return 0, nil, latchkey.ErrReadOnly
	case tx.has("repairs what is sound"):
		return 1, nil, nil
	}
	return 0, nil, nil
}

// memoryTx works on a copy of the state. It copies a table when it first writes to it.
type memoryTx struct {
	*memory
	tables   tables
	owned    map[string]bool
	log      []memoryWrite
	readOnly bool
	ended    bool
	before   uint64          // the sequence of the last commit
	tracks   map[string]bool // the tracked tables
	tooLarge bool

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
	if tx.isTooLarge() {
		if tx.has("calls it another error") {
			return errors.New("too large")
		}
		tx.tooLarge = !tx.has("keeps what is not too much")
		return latchkey.ErrTransactionTooLarge
	}
	if deleted {
		tx.sawDeletion.Store(true)
	}
	tx.log = append(tx.log, memoryWrite{tx.name(table), key, value, deleted})
	tx.set(tx.name(table), key, value, deleted)
	tx.number(table, key, deleted)
	if tx.uncommitted {
		shown := maps.Clone(tx.tables)
		tx.owned = nil
		tx.state.Store(&shown)
	}
	return nil
}

// isTooLarge reports whether the transaction has made all writes that it can.
func (tx *memoryTx) isTooLarge() bool {
	switch {
	case tx.has("bounded"), tx.has("keeps what is not too much"), tx.has("calls it another error"):
		return len(tx.log) >= maxWrites
	case tx.has("refuses the hundredth write"):
		return len(tx.log) >= maxWrites-1
	}
	return false
}

// number notes that the transaction has changed an entry.
func (tx *memoryTx) number(table string, key []byte, deleted bool) {
	if tx.has("tracks every table") {
		tx.tracks[table] = true
	}
	if !tx.tracks[table] {
		return
	}
	sequence := tx.before + 1
	switch {
	case tx.has("numbers a change like the commit before"):
		sequence--
	case tx.has("numbers each write"):
		sequence += uint64(len(tx.log)) - 1
	case tx.has("keeps the first sequence of an entry"):
		if _, ok := tx.tables.get(sequencePrefix+table, key); ok && !deleted {
			return
		}
	case tx.has("keeps the changes of deleted entries"):
		deleted = false
	}
	tx.set(sequencePrefix+table, key, binary.BigEndian.AppendUint64(nil, sequence), deleted)
}

func (tx *memoryTx) Sequence() uint64 {
	if tx.has("shows the newest numbering") {
		return tx.state.Load().sequence()
	}
	return tx.before
}

// changes returns all changes, in order.
func (tx *memoryTx) changes() (all []latchkey.TrackedChange) {
	for table, entries := range tx.tables {
		name, ok := strings.CutPrefix(table, sequencePrefix)
		for _, e := range entries {
			if ok {
				all = append(all, latchkey.TrackedChange{Sequence: binary.BigEndian.Uint64(e.Value), Table: name, Key: bytes.Clone(e.Key)})
			}
		}
	}
	slices.SortFunc(all, func(a, b latchkey.TrackedChange) int {
		if tx.has("yields changes in the order of keys") {
			return bytes.Compare(a.Key, b.Key)
		}
		return cmp.Or(cmp.Compare(a.Sequence, b.Sequence), cmp.Compare(a.Table, b.Table), bytes.Compare(a.Key, b.Key))
	})
	return all
}

func (tx *memoryTx) Changes(since uint64) iter.Seq2[latchkey.TrackedChange, error] {
	return func(yield func(latchkey.TrackedChange, error) bool) {
		if tx.has("shows the newest numbering") {
			tx.tables = *tx.state.Load()
		}
		if tx.has("hides its own changes") && !tx.readOnly {
			tx.tables = *tx.state.Load()
		}
		for _, c := range append(tx.changes(), latchkey.TrackedChange{}) {
			switch {
			case tx.ended:
				yield(latchkey.TrackedChange{}, latchkey.ErrClosed)
				return
			case c.Table == "", c.Sequence < since, c.Sequence == since && !tx.has("yields the change before the first"):
				continue
			}
			if !yield(c, nil) {
				return
			}
		}
	}
}

func (tx *memoryTx) SequenceOf(table string, key []byte) (uint64, error) {
	if tx.ended {
		return 0, latchkey.ErrClosed
	}
	v, ok := tx.tables.get(sequencePrefix+table, key)
	if !ok {
		return 0, nil
	}
	return binary.BigEndian.Uint64(v), nil
}

func (tx *memoryTx) Count(table string) (uint64, error) {
	if tx.ended {
		return 0, latchkey.ErrClosed
	}
	n := uint64(len(tx.tables[tx.name(table)]))
	if tx.has("counts what it has put") {
		for _, w := range tx.log {
			if w.table == table && !w.deleted {
				n++
			}
		}
	}
	if tx.has("miscounts after a deletion") && tx.sawDeletion.Load() {
		n++
	}
	if tx.has("counts before its own writes") && !tx.readOnly {
		n = uint64(len((*tx.state.Load())[table]))
	}
	return n, nil
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
