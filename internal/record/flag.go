package record

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"math"
	"slices"
)

// MaxWriters is how many writers a flag can have. A flag with more is sealed: disabled for good.
const MaxWriters = 256

// A Writer names one opening of a store for writing. It is drawn at random, so a restored backup or
// a cloned disk never counts a number twice.
type Writer [8]byte

// NewWriter draws a writer.
func NewWriter() (w Writer) {
	rand.Read(w[:])
	return w
}

// A Flag says whether a record is disabled. It is a disable-wins flag with observed removal: for
// each writer it keeps how many times the writer disabled the record (D), and how many of these
// times an enabling has cancelled (C). The record is disabled while any D is greater than its C. So
// a disabling that no enabling has seen holds, whatever the clocks and the order of merging. The
// zero Flag is enabled.
type Flag struct {
	// Writers are in the order of their names. There are at most [MaxWriters].
	Writers []WriterCount
	// Base is the sum of the D of writers that were removed. It merges by the maximum.
	Base uint64
	// Sealed is set when there were more than [MaxWriters] writers. A sealed flag has no writers.
	Sealed bool
}

// WriterCount is what a [Flag] keeps of one writer.
type WriterCount struct {
	Writer   Writer
	Disabled uint64 // D
	Enabled  uint64 // C
}

// IsDisabled reports whether the record is disabled.
func (f Flag) IsDisabled() bool {
	return f.Sealed || slices.ContainsFunc(f.Writers, func(w WriterCount) bool { return w.Disabled > w.Enabled })
}

// Disablings returns how many times the record was disabled. The number only grows, and it grows
// with each disabling. A sealed flag has the highest number that there is.
func (f Flag) Disablings() uint64 {
	if f.Sealed {
		return math.MaxUint64
	}
	sum := f.Base
	for _, w := range f.Writers {
		if w.Disabled > math.MaxUint64-sum {
			return math.MaxUint64
		}
		sum += w.Disabled
	}
	return sum
}

// Disable returns the flag after a disabling by a writer.
func (f Flag) Disable(by Writer) Flag {
	if f.Sealed {
		return f
	}
	f.Writers = slices.Clone(f.Writers)
	i, found := f.find(by)
	if !found {
		f.Writers = slices.Insert(f.Writers, i, WriterCount{Writer: by})
	}
	w := &f.Writers[i]
	last := max(w.Disabled, w.Enabled)
	f.Sealed = last == math.MaxUint64 // no number is left to count with
	w.Disabled = last + 1
	return f.seal()
}

// Enable returns the flag after an enabling, which cancels every disabling that the flag knows of.
// A sealed flag stays disabled.
func (f Flag) Enable() Flag {
	f.Writers = slices.Clone(f.Writers)
	for i := range f.Writers {
		w := &f.Writers[i]
		w.Enabled = max(w.Enabled, w.Disabled)
	}
	return f
}

// EnableAlone returns the flag after an enabling in a store that never had a replica. No other
// store can know of a disabling, so the writers are removed, and only their sum stays. The process
// that calls it draws a new [Writer], because the old one would count from 1 again.
func (f Flag) EnableAlone() Flag {
	if f.Sealed {
		return f
	}
	return Flag{Base: f.Disablings()}
}

// merge takes the maximum of each number. A writer that a flag does not name has two zeros.
func (f Flag) merge(other Flag) Flag {
	merged := Flag{Base: max(f.Base, other.Base), Sealed: f.Sealed || other.Sealed, Writers: slices.Clone(f.Writers)}
	for _, w := range other.Writers {
		if w.Disabled == 0 && w.Enabled == 0 {
			continue
		}
		i, found := merged.find(w.Writer)
		if !found {
			merged.Writers = slices.Insert(merged.Writers, i, w)
			continue
		}
		mine := &merged.Writers[i]
		mine.Disabled, mine.Enabled = max(mine.Disabled, w.Disabled), max(mine.Enabled, w.Enabled)
	}
	return merged.seal()
}

// seal seals a flag that has too many writers.
func (f Flag) seal() Flag {
	f.Sealed = f.Sealed || len(f.Writers) > MaxWriters
	if f.Sealed {
		f.Writers = nil
	}
	return f
}

// find returns the place of a writer, and reports whether the flag has it.
func (f Flag) find(by Writer) (i int, found bool) {
	return slices.BinarySearchFunc(f.Writers, by, func(w WriterCount, by Writer) int {
		return bytes.Compare(w.Writer[:], by[:])
	})
}

func (f Flag) encode() []byte {
	var m Message
	for _, w := range f.Writers {
		var wm Message
		wm.Bytes(1, w.Writer[:])
		wm.Number(2, w.Disabled)
		wm.Number(3, w.Enabled)
		m.element(1, wm)
	}
	m.Number(2, f.Base)
	m.Bool(3, f.Sealed)
	return m
}

func decodeFlag(b []byte) (f Flag, err error) {
	for field, err := range Fields(b) {
		if err != nil {
			return f, err
		}
		switch field.Num {
		case 1:
			w, err := decodeWriter(field.Bytes)
			if err != nil {
				return f, err
			}
			f = f.merge(Flag{Writers: []WriterCount{w}})
		case 2:
			f.Base = field.Number
		case 3:
			f.Sealed = field.Number != 0
		}
	}
	return f.seal(), nil
}

func decodeWriter(b []byte) (w WriterCount, err error) {
	named := false
	for field, err := range Fields(b) {
		if err != nil {
			return w, err
		}
		switch field.Num {
		case 1:
			named = copy(w.Writer[:], field.Bytes) == len(field.Bytes) && len(field.Bytes) == len(w.Writer)
		case 2:
			w.Disabled = field.Number
		case 3:
			w.Enabled = field.Number
		}
	}
	if !named {
		return w, fmt.Errorf("%w: a writer without a name of %d bytes", ErrDamaged, len(w.Writer))
	}
	return w, nil
}
