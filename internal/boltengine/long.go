package boltengine

import (
	"context"
	"sync"
	"sync/atomic"
)

// The engine reads for long when it backs up, checks or compacts its file. A writer that needs a
// larger map cannot go on before all readers have ended. So the writer interrupts the long ones. A
// long reader cannot wait for anything while it keeps a writer waiting, because it reads its
// transaction only between enter and leave, and its caller's code runs outside of them.

// longReader is a read transaction that a writer can end.
type longReader struct {
	engine      *Engine
	interrupted atomic.Bool

	mu    sync.Mutex // held while the transaction is read
	r     reader
	ended bool
}

// newLongReader makes a long reader of r. The caller must call end.
func (e *Engine) newLongReader(r reader) *longReader {
	l := &longReader{engine: e, r: r}
	r.readers.addLong(l)
	return l
}

// enter begins to read the transaction. If it returns nil, the caller must call leave, and wait for
// nothing but the disk before that.
//
// Errors: [ErrInterrupted].
func (l *longReader) enter() error {
	if l.interrupted.Load() {
		return ErrInterrupted
	}
	l.mu.Lock()
	if l.ended {
		l.mu.Unlock()
		return ErrInterrupted
	}
	return nil
}

func (l *longReader) leave() { l.mu.Unlock() }

// read runs fn between enter and leave.
func (l *longReader) read(fn func() error) error {
	if err := l.enter(); err != nil {
		return err
	}
	defer l.leave()
	return fn()
}

// readNext is readNext between enter and leave. If l is nil, readNext just reads.
func (l *longReader) readNext(next func() (Entry, error)) (Entry, error) {
	if l != nil {
		if err := l.enter(); err != nil {
			return Entry{}, err
		}
		defer l.leave()
	}
	return readNext(next)
}

// interrupt ends the transaction as soon as it is not being read.
func (l *longReader) interrupt() {
	l.interrupted.Store(true) // so that the reader leaves soon
	l.mu.Lock()
	defer l.mu.Unlock()
	l.endLocked()
}

// end ends the transaction, unless it has been interrupted.
func (l *longReader) end() {
	l.r.readers.removeLong(l)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.endLocked()
}

func (l *longReader) endLocked() {
	if !l.ended {
		l.ended = true
		l.engine.endRead(l.r)
	}
}

// ViewLong is View for a function that reads for long.
func (e *Engine) ViewLong(ctx context.Context, fn func(*Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return e.viewLong(ctx, func(l *longReader) error {
		var etx *Tx
		err := l.read(func() (err error) {
			etx, err = e.newReader(l.r.tx)
			return err
		})
		if err != nil {
			return err
		}
		etx.long = l
		defer func() { etx.ended = true }()
		return fn(etx)
	})
}

// viewLong runs fn with a long reader.
func (e *Engine) viewLong(ctx context.Context, fn func(*longReader) error) error {
	r, err := e.beginView(ctx)
	if err != nil {
		return err
	}
	l := e.newLongReader(r)
	defer l.end()
	return fn(l)
}

// longContext is a context of which Err, though not Done, also tells of an interruption.
type longContext struct {
	context.Context
	l *longReader
}

func (c longContext) Err() error {
	if c.l.interrupted.Load() {
		return ErrInterrupted
	}
	return c.Context.Err()
}

// readerCount counts the read transactions of a file that have begun and not ended.
type readerCount struct {
	mu       sync.Mutex
	n        int
	awaits   []chan struct{}          // closed when n is 0
	long     map[*longReader]struct{} // those that can be interrupted
	unwanted bool                     // long readers are interrupted as soon as they begin
}

func (c *readerCount) add() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
}

func (c *readerCount) done() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n--; c.n > 0 {
		return
	}
	for _, ended := range c.awaits {
		close(ended)
	}
	c.awaits = nil
}

// none returns a channel that is closed as soon as there are no readers.
func (c *readerCount) none() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	ended := make(chan struct{})
	if c.n == 0 {
		close(ended)
	} else {
		c.awaits = append(c.awaits, ended)
	}
	return ended
}

// any reports whether there are readers.
func (c *readerCount) any() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n > 0
}

// addLong makes a reader that was counted one that can be interrupted.
func (c *readerCount) addLong(l *longReader) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.long == nil {
		c.long = make(map[*longReader]struct{})
	}
	c.long[l] = struct{}{}
	if c.unwanted {
		go l.interrupt()
	}
}

func (c *readerCount) removeLong(l *longReader) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.long, l)
}

// interruptLong interrupts all long readers. Until undo is called, it also interrupts those that
// have begun and are not known as long yet.
func (c *readerCount) interruptLong() (undo func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unwanted = true
	for l := range c.long {
		go l.interrupt()
	}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.unwanted = false
	}
}
