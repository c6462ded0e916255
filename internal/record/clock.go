package record

import (
	"fmt"
	"time"
)

// A Clock is what a store remembers of the time.
type Clock struct {
	// Time is a time of the store that has passed. It has no parts of a millisecond.
	Time time.Time
	// Resets counts how often the store's time was set back on purpose.
	Resets  uint64
	Unknown Unknown
}

// Encode returns the clock's message.
func (c Clock) Encode() []byte {
	var m Message
	m.Number(1, encodeMilliseconds(c.Time))
	m.Number(2, c.Resets)
	return append(m, c.Unknown...)
}

// DecodeClock reads a clock's message.
//
// Errors: [ErrDamaged].
func DecodeClock(message []byte) (c Clock, err error) {
	c.Time = time.UnixMilli(0).UTC()
	for f, err := range Fields(message) {
		if err != nil {
			return c, err
		}
		switch f.Num {
		case 1:
			if c.Time, err = decodeMilliseconds(f.Number); err != nil {
				return c, fmt.Errorf("the remembered time: %w", err)
			}
		case 2:
			c.Resets = f.Number
		default:
			c.Unknown.add(f)
		}
	}
	c.Unknown = c.Unknown.sorted()
	return c, nil
}

// Later returns the clock that was written later, of two versions of one record: the one with more
// resets, or with the later time.
func (c Clock) Later(other Clock) Clock {
	if other.Resets > c.Resets || other.Resets == c.Resets && other.Time.After(c.Time) {
		return other
	}
	return c
}
