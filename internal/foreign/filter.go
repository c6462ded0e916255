// Package foreign makes strings cheap to refuse that look like tokens of foreign keys. It has a
// filter of the handles that there are, the keys that were found last, and a pace for slow hashes.
package foreign

import (
	"encoding/binary"
	"sync"
	"sync/atomic"

	"github.com/latchkeydb/latchkey/internal/merge"
	"github.com/latchkeydb/latchkey/internal/record"
)

// A Filter knows which handles there can be. It is a Bloom filter (Bloom, "Space/Time Trade-offs in
// Hash Coding with Allowable Errors", 1970), which answers wrongly for less than one in 100 handles
// that are not there, and never for one that is. It grows by layers, each twice as large as the one
// before, and takes 2 to 4 bytes a handle. It forgets no handle. A Filter is safe for concurrent
// use, and Has takes no lock. The zero Filter has no handles.
type Filter struct {
	mu     sync.Mutex // held to add
	layers atomic.Pointer[[]*layer]
}

// A layer has a power of two of bits, and room for so many more handles.
type layer struct {
	bits []uint64
	room int
}

const (
	bitsPerHandle = 16
	probes        = 8 // one in 1,700 for 16 bits a handle
	leastWords    = 1 << 6
)

// IsEmpty reports whether no handle was added.
func (f *Filter) IsEmpty() bool { return f.layers.Load() == nil }

// Has reports whether a handle may have been added. It looks at up to 8 places in each layer.
func (f *Filter) Has(h record.Handle) bool {
	layers := f.layers.Load()
	if layers == nil {
		return false
	}
	for _, l := range *layers {
		if l.has(h) {
			return true
		}
	}
	return false
}

// Add adds a handle. When Add returns, Has knows the handle.
func (f *Filter) Add(h record.Handle) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.Has(h) {
		return // mostly a handle that was added before; if not, it needs no room
	}
	last := f.last()
	if last == nil || last.room == 0 {
		size := leastWords
		if last != nil {
			size = 2 * len(last.bits)
		}
		last = f.grow(size)
	}
	last.add(h)
	last.room--
}

// Reserve makes room for n more handles in one layer.
func (f *Filter) Reserve(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if last := f.last(); n > 0 && (last == nil || last.room < n) {
		words := leastWords
		for words*64/bitsPerHandle < n {
			words *= 2
		}
		f.grow(words)
	}
}

// Learn adds the handles of all keys.
func (f *Filter) Learn(t *merge.Tables) error {
	n, err := t.Count(record.TableHandles)
	if err != nil {
		return err
	}
	f.Reserve(int(n))
	for e, err := range t.Scan(record.TableHandles, nil, nil) {
		if err != nil {
			return err
		}
		if h, _, err := record.SplitHandleKey(e.Key); err == nil {
			f.Add(h)
		}
	}
	return nil
}

// Bytes returns the memory that the bits take.
func (f *Filter) Bytes() (n int) {
	if layers := f.layers.Load(); layers != nil {
		for _, l := range *layers {
			n += 8 * len(l.bits)
		}
	}
	return n
}

// last returns the layer that handles are added to, or nil if there is none.
func (f *Filter) last() *layer {
	layers := f.layers.Load()
	if layers == nil {
		return nil
	}
	return (*layers)[len(*layers)-1]
}

// grow adds a layer of so many words, and returns it.
func (f *Filter) grow(words int) *layer {
	l := &layer{bits: make([]uint64, words), room: words * 64 / bitsPerHandle}
	var layers []*layer
	if old := f.layers.Load(); old != nil {
		layers = append(layers, *old...)
	}
	layers = append(layers, l)
	f.layers.Store(&layers)
	return l
}

func (l *layer) has(h record.Handle) bool {
	for i := range uint64(probes) {
		word, bit := l.place(h, i)
		if atomic.LoadUint64(&l.bits[word])&bit == 0 {
			return false
		}
	}
	return true
}

func (l *layer) add(h record.Handle) {
	for i := range uint64(probes) {
		word, bit := l.place(h, i)
		atomic.OrUint64(&l.bits[word], bit)
	}
}

// place returns where the i-th bit of a handle is. The halves of a handle are two independent
// hashes already (Kirsch and Mitzenmacher, "Less Hashing, Same Performance", 2006).
func (l *layer) place(h record.Handle, i uint64) (word uint64, bit uint64) {
	first, second := binary.LittleEndian.Uint64(h[:8]), binary.LittleEndian.Uint64(h[8:])|1
	at := (first + i*second) & (uint64(len(l.bits))*64 - 1)
	return at / 64, 1 << (at % 64)
}
