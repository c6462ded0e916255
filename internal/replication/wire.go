package replication

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/frame"
	"github.com/latchkeydb/latchkey/internal/record"
)

// The bounds of what is read, in bytes unless a comment says otherwise.
const (
	// MaxMessage is for a message in a stream, with its kind. The longest is a Policy.
	MaxMessage = 128 << 10
	// MaxBody is for a request or a reply.
	MaxBody = 8 << 20
	// MaxEarlier is how many former openings a Hello can name besides the last one.
	MaxEarlier = 8

	maxGroups    = 512 // groups of a policy
	maxFormats   = 16  // formats in a Hello
	maxSummaries = 5 * 256
	maxText      = 1 << 10 // of a reason or a build
	maxExport    = 16 << 10
	maxEntryKey  = 1 << 10
	sizeMAC      = 16
	sizeTags     = 16
	sizePin      = 32
)

// The kinds of messages in a stream, each the byte that begins a frame. A reader skips a kind that
// it does not know if the number is even, and refuses the stream if the number is odd. A number is
// never used again.
const (
	kindWelcome   = 1
	kindEntry     = 3
	kindRecord    = 5
	kindForget    = 7
	kindReplace   = 9
	kindMark      = 11
	kindSecrets   = 13
	kindNewPolicy = 15

	kindBeat    = 2
	kindNextPin = 4
	kindCloned  = 6
)

func (Welcome) kind() byte   { return kindWelcome }
func (Entry) kind() byte     { return kindEntry }
func (Record) kind() byte    { return kindRecord }
func (Forget) kind() byte    { return kindForget }
func (Replace) kind() byte   { return kindReplace }
func (Mark) kind() byte      { return kindMark }
func (Secrets) kind() byte   { return kindSecrets }
func (NewPolicy) kind() byte { return kindNewPolicy }
func (Beat) kind() byte      { return kindBeat }
func (NextPin) kind() byte   { return kindNextPin }
func (Cloned) kind() byte    { return kindCloned }

// numbered are the tables that messages name, by their numbers. The first five are those of copies.
// A number is never used again for another table.
var numbered = []string{
	1: record.TableUsers, 2: record.TableKeys, 3: record.TableGroups, 4: record.TableDeadUsers, 5: record.TableDeadKeys,
	7: record.TableIdentities, 8: record.TableNames, 9: record.TableMembers, 10: record.TableHandles,
}

// isTracked reports whether a table has records, and no index.
func isTracked(table string) bool { return slices.Contains(numbered[1:6], table) }

func bad(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrMessage, fmt.Errorf(format, args...))
}

// AppendMessage appends the frame of a message to b: its length, its kind, and its fields.
func AppendMessage(b []byte, m Message) []byte { return frame.Append(b, encode(m)) }

// ReadMessage reads the next message of a stream that this build knows.
//
// Errors: [io.EOF] at the end of the stream; [io.ErrUnexpectedEOF] if the stream was cut;
// [ErrMessage]; [ErrNewer]; r's error.
func ReadMessage(r frame.Source) (Message, error) {
	for {
		body, err := frame.Read(r, MaxMessage)
		if errors.Is(err, frame.ErrBad) {
			err = bad("%w", err)
		}
		if err != nil {
			return nil, err
		}
		if m, err := decode(body); m != nil || err != nil {
			return m, err
		}
	}
}

// encode returns the kind of a message, and its fields.
func encode(m Message) []byte {
	w := append(make(record.Message, 0, roomFor(m)), m.kind())
	switch m := m.(type) {
	case Welcome:
		w.Number(1, m.Format)
		w.Number(2, milliseconds(m.Time))
		w.Number(3, m.Resets)
		w.Bytes(4, encodePolicy(m.Policy))
		w.Bytes(5, m.Edge[:])
		w.Number(6, uint64(m.How))
		w.Bytes(7, encodeCursor(m.At))
	case Entry:
		w.Number(1, number(m.Table))
		w.Bytes(2, m.Key)
		w.Bytes(3, m.Value)
		w.Bytes(4, m.MAC)
	case Record:
		w = append(w, encodeSigned(m)...)
	case Forget:
		w.Number(1, number(m.Table))
		w.Bytes(2, m.Key)
	case Replace:
		if len(m.Copy.Sealed) > 0 {
			w = append(w, encodeSigned(Record(m))...)
		} else {
			w.Number(3, number(m.Copy.Table))
			w.Bytes(4, m.Copy.Key)
		}
	case Mark:
		w = append(w, encodeCursor(m.At)...)
	case Secrets:
		w.Bytes(1, m.Export)
	case NewPolicy:
		w = append(w, encodePolicy(m.Policy)...)
	case Beat:
		w.Number(1, milliseconds(m.Time))
		w.Number(2, m.Resets)
	case NextPin:
		w.Bytes(1, m.Pin)
	}
	return w
}

// roomFor returns how many bytes encode makes room for. A first copy has millions of entries.
func roomFor(m Message) int {
	if e, ok := m.(Entry); ok {
		return 16 + len(e.Key) + len(e.Value) + len(e.MAC)
	}
	return 64
}

// decode reads what encode has returned. It returns no message if the kind is unknown and can be
// skipped. The message shares no memory with body.
//
// Errors: [ErrMessage]; [ErrNewer].
func decode(body []byte) (Message, error) {
	if len(body) == 0 {
		return nil, bad("it has no kind")
	}
	switch kind, message := body[0], body[1:]; kind {
	case kindWelcome:
		return orNone(decodeWelcome(message))
	case kindEntry:
		return orNone(decodeEntry(message))
	case kindRecord:
		return orNone(decodeSigned(message))
	case kindForget:
		e, err := decodeEntry(message)
		if err == nil {
			err = checkKey(e.Table, e.Key)
		}
		return orNone(Forget{Table: e.Table, Key: e.Key}, err)
	case kindReplace:
		return orNone(decodeReplace(message))
	case kindMark:
		at, err := decodeCursor(message)
		return orNone(Mark{at}, err)
	case kindSecrets:
		export, err := decodeBytes(message, 1, maxExport)
		return orNone(Secrets{export}, err)
	case kindNewPolicy:
		p, err := decodePolicy(message)
		return orNone(NewPolicy{p}, err)
	case kindBeat:
		return orNone(decodeBeat(message))
	case kindNextPin:
		pin, err := decodeBytes(message, 1, sizePin)
		if err == nil && len(pin) != sizePin {
			err = bad("a pin of %d bytes", len(pin))
		}
		return orNone(NextPin{pin}, err)
	case kindCloned:
		return Cloned{}, nil
	default:
		if kind%2 == 1 {
			return nil, fmt.Errorf("%w: it is of kind %d", ErrNewer, kind)
		}
		return nil, nil
	}
}

// orNone returns a message, or nil with an error.
func orNone[M Message](m M, err error) (Message, error) {
	if err != nil {
		return nil, err
	}
	return m, nil
}

func decodeWelcome(message []byte) (m Welcome, err error) {
	for f, err := range fields(message) {
		if err != nil {
			return m, err
		}
		switch f.Num {
		case 1:
			m.Format = f.Number
		case 2:
			m.Time, err = fromMilliseconds(f.Number)
		case 3:
			m.Resets = f.Number
		case 4:
			m.Policy, err = decodePolicy(f.Bytes)
		case 5:
			m.Edge, err = decodeID(f.Bytes)
		case 6:
			m.How = How(f.Number)
			if f.Number > uint64(CompareFirst) {
				err = fmt.Errorf("%w: a Welcome to %d", ErrNewer, f.Number)
			}
		case 7:
			m.At, err = decodeCursor(f.Bytes)
		}
		if err != nil {
			return m, err
		}
	}
	if m.Time.IsZero() || m.Edge == uuid.Nil || len(m.Policy.Groups) == 0 {
		return m, bad("a Welcome without a time, a policy or an ID")
	}
	if m.Format != Format {
		return m, fmt.Errorf("%w: it has format %d, and this build reads %d", ErrNewer, m.Format, Format)
	}
	return m, nil
}

func decodeEntry(message []byte) (m Entry, err error) {
	for f, err := range fields(message) {
		if err != nil {
			return m, err
		}
		switch f.Num {
		case 1:
			m.Table, err = table(f.Number)
		case 2:
			m.Key, err = bounded(f.Bytes, maxEntryKey)
		case 3:
			m.Value, err = bounded(f.Bytes, record.MaxSize)
		case 4:
			m.MAC, err = decodeMAC(f.Bytes)
		}
		if err != nil {
			return m, err
		}
	}
	if m.Table == "" || len(m.Key) == 0 {
		return m, bad("an entry without a table or a key")
	}
	return m, nil
}

func encodeSigned(r Record) (w record.Message) {
	w.Bytes(1, r.Copy.Encode())
	w.Bytes(2, r.MAC)
	return w
}

func decodeSigned(message []byte) (r Record, err error) {
	for f, err := range fields(message) {
		if err != nil {
			return r, err
		}
		switch f.Num {
		case 1:
			r.Copy, err = decodeCopy(f.Bytes)
		case 2:
			r.MAC, err = decodeMAC(f.Bytes)
		}
		if err != nil {
			return r, err
		}
	}
	if r.Copy.Table == "" {
		return r, bad("a record without a copy")
	}
	return r, nil
}

func decodeReplace(message []byte) (m Replace, err error) {
	var gone Entry
	for f, err := range fields(message) {
		if err != nil {
			return m, err
		}
		switch f.Num {
		case 1:
			m.Copy, err = decodeCopy(f.Bytes)
		case 2:
			m.MAC, err = decodeMAC(f.Bytes)
		case 3:
			gone.Table, err = table(f.Number)
		case 4:
			gone.Key, err = bounded(f.Bytes, record.MaxGroup)
		}
		if err != nil {
			return m, err
		}
	}
	if m.Copy.Table == "" {
		m = Replace{Copy: record.Copy{Table: gone.Table, Key: gone.Key}}
		return m, checkKey(gone.Table, gone.Key)
	}
	return m, nil
}

func decodeBeat(message []byte) (m Beat, err error) {
	for f, err := range fields(message) {
		if err != nil {
			return m, err
		}
		switch f.Num {
		case 1:
			m.Time, err = fromMilliseconds(f.Number)
		case 2:
			m.Resets = f.Number
		}
		if err != nil {
			return m, err
		}
	}
	if m.Time.IsZero() {
		return m, bad("a Beat without a time")
	}
	return m, nil
}

func encodePolicy(p Policy) (w record.Message) {
	for _, g := range p.Groups {
		w.Bytes(1, []byte(g))
	}
	w.Number(2, uint64(p.Push))
	w.Number(3, p.Version)
	return w
}

func decodePolicy(message []byte) (p Policy, err error) {
	for f, err := range fields(message) {
		if err != nil {
			return p, err
		}
		switch f.Num {
		case 1:
			if len(f.Bytes) == 0 || len(f.Bytes) > record.MaxGroup || len(p.Groups) == maxGroups {
				return p, bad("a group of %d bytes, after %d groups", len(f.Bytes), len(p.Groups))
			}
			p.Groups = append(p.Groups, string(f.Bytes))
		case 2:
			p.Push = Push(f.Number)
			if f.Number > uint64(PushAll) {
				err = fmt.Errorf("%w: a policy that permits %d", ErrNewer, f.Number)
			}
		case 3:
			p.Version = f.Number
		}
		if err != nil {
			return p, err
		}
	}
	if len(p.Groups) == 0 || !slices.IsSortedFunc(p.Groups, increasing) || len(p.Groups) > 1 && slices.Contains(p.Groups, AllGroups) {
		return p, bad("a policy has no groups, has them out of order, or has others beside all")
	}
	return p, nil
}

// increasing compares two strings so that [slices.IsSortedFunc] finds equal ones, too.
func increasing(a, b string) int {
	if a == b {
		return -1
	}
	return strings.Compare(a, b)
}

func encodeCursor(c Cursor) (w record.Message) {
	if c.Incarnation != uuid.Nil || c.Era != uuid.Nil {
		w.Bytes(1, slices.Concat(c.Incarnation[:], c.Era[:]))
	}
	w.Number(2, c.At.Sequence)
	if of, key, found := strings.Cut(c.At.Last, "\x00"); found {
		w.Number(3, number(of))
		w.Bytes(4, []byte(key))
	}
	w.Number(5, c.Policy)
	if c.Copying != "" {
		w.Number(6, number(c.Copying))
		w.Bytes(7, c.CopyKey)
	}
	w.Number(8, c.Taken)
	w.Bool(9, c.Ahead)
	w.Number(10, c.News)
	return w
}

func decodeCursor(message []byte) (c Cursor, err error) {
	var last Entry
	for f, err := range fields(message) {
		if err != nil {
			return c, err
		}
		switch f.Num {
		case 1:
			if len(f.Bytes) != 32 {
				return c, bad("a cursor with %d bytes of IDs", len(f.Bytes))
			}
			copy(c.Era[:], f.Bytes[copy(c.Incarnation[:], f.Bytes):])
		case 2:
			c.At.Sequence = f.Number
		case 3:
			last.Table, err = table(f.Number)
		case 4:
			last.Key, err = bounded(f.Bytes, record.MaxGroup)
		case 5:
			c.Policy = f.Number
		case 6:
			c.Copying, err = table(f.Number)
		case 7:
			c.CopyKey, err = bounded(f.Bytes, maxEntryKey)
		case 8:
			c.Taken = f.Number
		case 9:
			c.Ahead = f.Number != 0
		case 10:
			c.News = f.Number
		}
		if err != nil {
			return c, err
		}
	}
	if last.Table != "" || len(last.Key) > 0 {
		c.At.Last = last.Table + "\x00" + string(last.Key)
		if err := checkKey(last.Table, last.Key); err != nil {
			return c, err
		}
	}
	if c.Copying == "" && len(c.CopyKey) > 0 {
		return c, bad("a cursor with a key of no table")
	}
	return c, nil
}

func appendCopy(all []record.Copy, b []byte) ([]record.Copy, error) {
	c, err := decodeCopy(b)
	return append(all, c), err
}

func decodeCopy(b []byte) (record.Copy, error) {
	c, err := record.DecodeCopy(b)
	switch {
	case errors.Is(err, record.ErrNewer):
		err = fmt.Errorf("%w: %w", ErrNewer, err)
	case err != nil:
		err = bad("%w", err)
	}
	return c, err
}

// fields yields the fields of a message. An error is the last element.
func fields(message []byte) func(func(record.Field, error) bool) {
	return func(yield func(record.Field, error) bool) {
		for f, err := range record.Fields(message) {
			if err != nil {
				err = bad("%w", err)
			}
			if !yield(f, err) {
				return
			}
		}
	}
}

// number returns the number of a table.
func number(of string) uint64 { return uint64(max(slices.Index(numbered, of), 0)) }

// table returns the table with a number.
func table(n uint64) (string, error) {
	if n >= uint64(len(numbered)) || numbered[n] == "" {
		return "", fmt.Errorf("%w: it names table %d", ErrNewer, n)
	}
	return numbered[n], nil
}

// checkKey returns [ErrMessage] unless a table of records can have a key.
func checkKey(table string, key []byte) error {
	fits := len(key) == len(uuid.UUID{})
	if table == record.TableGroups {
		fits = 0 < len(key) && len(key) <= record.MaxGroup
	}
	if !fits || !isTracked(table) {
		return bad("a key of %d bytes in table %q", len(key), table)
	}
	return nil
}

// bounded returns a copy of b, which has at most so many bytes.
func bounded(b []byte, most int) ([]byte, error) {
	if len(b) > most {
		return nil, bad("%d bytes are more than %d", len(b), most)
	}
	return append([]byte(nil), b...), nil
}

// decodeBytes reads the one field of a message.
func decodeBytes(message []byte, field, most int) (value []byte, err error) {
	for f, err := range fields(message) {
		if err != nil {
			return nil, err
		}
		if f.Num == field {
			if value, err = bounded(f.Bytes, most); err != nil {
				return nil, err
			}
		}
	}
	return value, nil
}

func decodeMAC(b []byte) ([]byte, error) {
	if len(b) != sizeMAC {
		return nil, bad("a MAC of %d bytes", len(b))
	}
	return append([]byte(nil), b...), nil
}

func decodeHash(b []byte) (h [16]byte, err error) {
	if copy(h[:], b) != len(h) || len(b) != len(h) {
		return h, bad("a hash or a sum of %d bytes", len(b))
	}
	return h, nil
}

func decodeID(b []byte) (id uuid.UUID, err error) {
	if id, err = record.DecodeID(b); err != nil {
		err = bad("%w", err)
	}
	return id, err
}

// milliseconds returns how many milliseconds have passed since 1970, at least 1.
func milliseconds(t time.Time) uint64 {
	return uint64(min(max(t.UnixMilli(), 1), record.LastTime.UnixMilli()))
}

func fromMilliseconds(n uint64) (time.Time, error) {
	if n == 0 || n > uint64(record.LastTime.UnixMilli()) {
		return time.Time{}, bad("a time after the year 9999, or none")
	}
	return time.UnixMilli(int64(n)).UTC(), nil
}
