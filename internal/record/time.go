package record

import (
	"fmt"
	"time"
)

// LastTime is the latest time that RFC 3339 can write, and so JSON.
var LastTime = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)

// encodeSeconds returns the seconds since 1970, and 0 for the zero time. A time outside the years
// that a record can have becomes the nearest one.
func encodeSeconds(t time.Time) uint64 {
	if t.IsZero() {
		return 0
	}
	return uint64(min(max(t.Unix(), 1), LastTime.Unix()))
}

// encodeMilliseconds returns the milliseconds since 1970. A time outside the years that a record
// can have becomes the nearest one.
func encodeMilliseconds(t time.Time) uint64 {
	return uint64(min(max(t.UnixMilli(), 0), LastTime.UnixMilli()))
}

// decodeSeconds reads how many seconds have passed since 1970, 0 being the zero time.
func decodeSeconds(n uint64) (time.Time, error) {
	if n == 0 {
		return time.Time{}, nil
	}
	if n > uint64(LastTime.Unix()) {
		return time.Time{}, fmt.Errorf("%w: a time after the year 9999", ErrDamaged)
	}
	return time.Unix(int64(n), 0).UTC(), nil
}

// decodeMilliseconds reads how many milliseconds have passed since 1970.
func decodeMilliseconds(n uint64) (time.Time, error) {
	if n/1000 > uint64(LastTime.Unix()) {
		return time.Time{}, fmt.Errorf("%w: a time after the year 9999", ErrDamaged)
	}
	return time.UnixMilli(int64(n)).UTC(), nil
}
