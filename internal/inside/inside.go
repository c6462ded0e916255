// Package inside tells a call whether it was made by a function that waits for the call.
//
// Go gives a goroutine no name that a program can compare. But each goroutine has a stack, which
// runtime.Callers shows. So a [Mark] writes its number on the stack while it runs a function: each
// digit of the number is the frame of a function of its own. docs/decisions/15-calls-inside.md says
// why.
package inside

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// A Mark marks the stacks of the goroutines in which it runs a function. It is safe for concurrent
// use. [New] makes one.
type Mark struct {
	number  uint64
	running atomic.Int64 // the number of functions that it runs now
}

var last atomic.Uint64 // the number of the last mark

// New returns a mark that differs from all others.
func New() *Mark { return &Mark{number: last.Add(1)} }

// Run runs fn, and returns its error.
func (m *Mark) Run(fn func() error) error {
	m.running.Add(1)
	defer m.running.Add(-1)
	return begin(m.number, fn)
}

// Around reports whether a function that m runs has called the caller, in the same goroutine. It
// takes a nanosecond while m runs nothing, and otherwise about a microsecond, because it reads the
// stack.
func (m *Mark) Around() bool { return m.running.Load() > 0 && m.onStack() }

// The functions digit0 to digit3 are the digits of a number: each has a frame of its own, so they
// must not be inlined. With more digits, a number would have fewer frames.
const base = 4

//go:noinline
func digit0(rest uint64, fn func() error) error { return run(rest, fn) }

//go:noinline
func digit1(rest uint64, fn func() error) error { return run(rest, fn) }

//go:noinline
func digit2(rest uint64, fn func() error) error { return run(rest, fn) }

//go:noinline
func digit3(rest uint64, fn func() error) error { return run(rest, fn) }

// begin writes number on the stack, its last digit first, and runs fn.
//
//go:noinline
func begin(number uint64, fn func() error) error { return run(number, fn) }

// run writes the digits of rest on the stack, and runs fn.
//
//go:noinline
func run(rest uint64, fn func() error) error {
	if rest == 0 {
		return fn()
	}
	switch rest % base {
	case 0:
		return digit0(rest/base, fn)
	case 1:
		return digit1(rest/base, fn)
	case 2:
		return digit2(rest/base, fn)
	}
	return digit3(rest/base, fn)
}

// onStack reports whether the number of m is on the stack of the calling goroutine.
func (m *Mark) onStack() bool {
	where := frames()
	number := uint64(0)
	for _, pc := range stack() {
		switch f, ok := where[pc]; {
		case !ok:
		case f != beginFrame: // the stack has the last call first, and so the first digit
			number = number*base + f
		case number == m.number:
			return true
		default:
			number = 0
		}
	}
	return false
}

// stack returns the return addresses on the stack, the one of the last call first.
func stack() []uintptr {
	for size := 64; ; size *= 2 {
		pcs := make([]uintptr, size)
		if n := runtime.Callers(3, pcs); n < size {
			return pcs[:n]
		}
	}
}

const beginFrame = base

// frames returns the return addresses in the frames of the digits, and of begin. Each of these
// functions makes one call, so it has one return address, which frames finds by running the
// function. If two of the addresses were the same, frames would return none, and no mark would be
// found.
var frames = sync.OnceValue(func() map[uintptr]uint64 {
	where := make(map[uintptr]uint64)
	for i, f := range []func(uint64, func() error) error{digit0, digit1, digit2, digit3, begin} {
		_ = f(0, func() error {
			pcs := make([]uintptr, 3) // in this function, in run, and in f
			if runtime.Callers(1, pcs) == len(pcs) {
				where[pcs[2]] = uint64(i)
			}
			return nil
		})
	}
	if len(where) != base+1 {
		return nil
	}
	return where
})
