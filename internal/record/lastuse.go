package record

import "fmt"

// EncodeLastUse returns the message that says in which minute since 1970 a token was used last.
func EncodeLastUse(minute uint32) Message {
	var m Message
	m.Number(1, uint64(minute))
	return m
}

// DecodeLastUse reads the message of a last use.
//
// Errors: [ErrDamaged].
func DecodeLastUse(message []byte) (minute uint32, err error) {
	for f, err := range Fields(message) {
		if err != nil {
			return 0, err
		}
		if f.Num != 1 {
			continue
		}
		if f.Number > uint64(LastTime.Unix()/60) {
			return 0, fmt.Errorf("%w: a last use after the year 9999", ErrDamaged)
		}
		minute = uint32(f.Number)
	}
	return minute, nil
}
