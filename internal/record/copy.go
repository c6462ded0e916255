package record

import (
	"errors"
	"fmt"

	"github.com/google/uuid"
)

// CopyVersion is the version of copies that this build writes, and the only version that it reads.
const CopyVersion = 1

// A Copy is a copy of a record for another replica of the domain. docs/replication.md has its form.
type Copy struct {
	Domain uuid.UUID
	Table  string // one of those that travel
	Key    []byte // in the table
	Sealed []byte // what the table has
}

// travelling are the tables whose records travel, by their numbers in a copy. A number is never
// used again for another table.
var travelling = []string{
	1: TableUsers, 2: TableKeys, 3: TableGroups, 4: TableDeadUsers, 5: TableDeadKeys, 6: TableLastUse,
}

// MaxCopy is how many bytes the encoding of a copy can have: those of the record, of the longest
// key, of the domain, and of the tags and lengths.
const MaxCopy = MaxSize + MaxGroup + 64

// Encode returns the copy as it travels.
func (c Copy) Encode() []byte {
	var m Message
	for number, table := range travelling {
		if table == c.Table {
			m.Number(1, uint64(number))
		}
	}
	m.Bytes(2, c.Domain[:])
	m.Bytes(3, c.Key)
	m.Bytes(4, c.Sealed)
	return append([]byte{CopyVersion}, m...)
}

// DecodeCopy reads what [Copy.Encode] returned. The copy shares no memory with b. Its record has
// the right checksum, and may be of a later version. Nothing else of the record was looked at.
//
// Errors: [ErrDamaged]; [ErrNewer] for a copy of a later version, or of a table that this build
// does not know.
func DecodeCopy(b []byte) (c Copy, err error) {
	switch {
	case len(b) == 0 || b[0] == 0:
		return c, fmt.Errorf("%w: no copy of a record", ErrDamaged)
	case b[0] > CopyVersion:
		return c, fmt.Errorf("%w: a copy of version %d", ErrNewer, b[0])
	case len(b) > MaxCopy:
		return c, fmt.Errorf("%w: a copy of %d bytes", ErrDamaged, len(b))
	}
	number := uint64(0)
	for f, err := range Fields(b[1:]) {
		if err != nil {
			return c, err
		}
		switch f.Num {
		case 1:
			number = f.Number
		case 2:
			if c.Domain, err = DecodeID(f.Bytes); err != nil {
				return c, err
			}
		case 3:
			c.Key = append([]byte(nil), f.Bytes...)
		case 4:
			c.Sealed = append([]byte(nil), f.Bytes...)
		}
	}
	if number >= uint64(len(travelling)) {
		return c, fmt.Errorf("%w: a copy of table %d", ErrNewer, number)
	}
	if c.Table = travelling[number]; c.Table == "" {
		return c, fmt.Errorf("%w: a copy of no table", ErrDamaged)
	}
	return c, c.Check()
}

// Check returns [ErrDamaged] unless the copy has a key of the right length, and a record with the
// right checksum, which may be of a later version.
func (c Copy) Check() error {
	if !KeyFits(c.Table, c.Key) || len(c.Sealed) > MaxSize {
		return fmt.Errorf("%w: a copy of table %s with a key of %d bytes and a record of %d", ErrDamaged, c.Table, len(c.Key), len(c.Sealed))
	}
	_, err := Open(c.Table, c.Key, c.Sealed)
	if errors.Is(err, ErrNewer) {
		err = nil
	}
	return err
}

// KeyFits reports whether a key can be one of a table of users, keys, groups or last uses.
func KeyFits(table string, key []byte) bool {
	switch n := len(key); table {
	case TableGroups:
		return 0 < n && n <= MaxGroup
	case TableLastUse:
		return n == len(uuid.UUID{})+len(VerifierID{})
	default:
		return n == len(uuid.UUID{})
	}
}

// IsLater reports whether the record is of a later version than this build reads.
func (c Copy) IsLater() bool {
	_, err := Open(c.Table, c.Key, c.Sealed)
	return errors.Is(err, ErrNewer)
}
