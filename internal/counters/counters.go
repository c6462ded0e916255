// Package counters counts what many goroutines do.
package counters

import (
	"sync/atomic"
	"unsafe"
)

// Most is how many numbers a [Set] can have.
const Most = 16

// A Set has numbers from 0 to [Most]−1. They are spread over stripes, so that processors that count
// at the same time rarely share a cache line.
type Set struct {
	stripes [16]struct{ n [Most]atomic.Uint64 }
}

// Add adds n to a number.
func (s *Set) Add(number int, n uint64) {
	// The stripe is a hash of the address of a local variable. Every goroutine has a stack of its
	// own, so the address tells goroutines apart and costs nothing. A random stripe would move each
	// cache line between the processors.
	var here byte
	stripe := uint32(uintptr(unsafe.Pointer(&here))>>10) * 0x9e3779b1 >> 28
	s.stripes[stripe].n[number].Add(n)
}

// Sum returns a number.
func (s *Set) Sum(number int) (n uint64) {
	for i := range s.stripes {
		n += s.stripes[i].n[number].Load()
	}
	return n
}
