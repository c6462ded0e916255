package keyimport

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
)

// An Entry is one key to import. In an export of a store, an entry can also be a user or a scheme.
type Entry struct {
	Line int // of the entry in what was read, from 1 on
	Key  latchkey.MintedKey

	// Owner is what the other system calls the user that the key belongs to. It is empty for a key
	// of no user, which becomes a server key.
	Owner string
	// Name is the key's name. If several keys of an owner have one name in the other system, or a
	// key has none, Read adds "~" and 8 hexadecimal digits of the key's ID.
	Name     string
	Expires  time.Time // the zero time is never
	Scopes   latchkey.Scopes
	Networks []netip.Prefix
	Metadata map[string]string
	// Group is the group of a server key, or the group that the owner gets if the owner is new.
	Group    string
	Disabled bool

	// User is the owner, in place of Owner, or a user without a key. Scheme is a scheme without a
	// key. Only entries of the format [Latchkey] have them.
	User   *User
	Scheme *Scheme
}

// A User is a user in an export of a store.
type User struct {
	Identities []latchkey.Identity `json:"identities"`
	Group      string              `json:"group,omitempty"`
	Metadata   map[string]string   `json:"metadata,omitempty"`
	Disabled   bool                `json:"disabled,omitempty"`
}

// isKey reports whether the entry is a key.
func (e *Entry) isKey() bool { return e.Key.ID() != uuid.Nil }

// Options changes how keys are read. A nil *Options, or one with only zero fields, is the safe
// choice.
type Options struct {
	// Ignore has the names of fields that are not looked at. Without it, [Read] refuses a field
	// that it does not know, and one that bounds the use of a key in a way that a store does not
	// have.
	Ignore []string
}

// The bounds of what is read.
const (
	MaxEntries = 200_000 // which bbolt takes in some minutes in one transaction
	maxLine    = 1 << 20 // bytes of a line of JSON
	maxErrors  = 100
)

// A LineError says what is wrong with one line. Its text has nothing of a hash.
type LineError struct {
	Line   int
	Field  string // empty if the whole line is wrong
	Reason string

	err error
}

// Unwrap returns the error of the store that is the reason, if there is one.
func (e LineError) Unwrap() error { return e.err }

// Error returns the error with the number of the line.
func (e LineError) Error() string { return fmt.Sprintf("line %d: %s", e.Line, e.Text()) }

// Text returns the error without the number of the line.
func (e LineError) Text() string {
	if e.Field == "" {
		return e.Reason
	}
	return fmt.Sprintf("%.80q: %s", e.Field, e.Reason)
}

// Errors are all that is wrong with what was read, in the order of lines; after 100 there are no
// more.
type Errors []LineError

// Error returns the errors, one a line.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i := range e {
		lines[i] = e[i].Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns the elements.
func (e Errors) Unwrap() []error {
	all := make([]error, len(e))
	for i := range e {
		all[i] = e[i]
	}
	return all
}

// Read reads keys in a format: as JSON lines, if the first character is '{', or as CSV (RFC 4180)
// with names of fields in the first record. opts may be nil. It reads everything before it returns,
// so that nothing needs to be imported if anything is wrong.
//
// Errors: [Errors], with all that is wrong; an error of r.
func Read(r io.Reader, f Format, opts *Options) ([]Entry, error) {
	d := &reader{format: f, ids: map[string]int{}, ignored: map[string]bool{}}
	if opts != nil {
		for _, name := range opts.Ignore {
			d.ignored[name] = true
		}
	}
	if err := f.validate(); err != nil {
		return nil, err
	}
	br := bufio.NewReader(r)
	if mark, _ := br.Peek(3); bytes.Equal(mark, []byte("\xef\xbb\xbf")) { // a byte order mark
		_, _ = br.Discard(3)
	}
	first, err := br.Peek(1)
	switch {
	case errors.Is(err, io.EOF):
		return nil, nil
	case err != nil:
		return nil, err
	case first[0] == '{':
		err = d.jsonLines(br)
	case first[0] == '[':
		d.fail(1, "", "it is an array of JSON; write each element of the array on a line of its own, as jq -c '.[]' does")
	default:
		err = d.csv(br)
	}
	if err != nil {
		return nil, err
	}
	if len(d.errs) > 0 {
		return nil, d.errs
	}
	d.completeNames()
	return d.entries, nil
}

// A reader collects entries and errors.
type reader struct {
	format  Format
	ignored map[string]bool
	entries []Entry
	ids     map[string]int // the line of each key
	errs    Errors
}

// full reports whether nothing more is to be read.
func (d *reader) full() bool { return len(d.errs) >= maxErrors }

func (d *reader) fail(line int, field, format string, args ...any) {
	if !d.full() {
		d.errs = append(d.errs, LineError{Line: line, Field: field, Reason: fmt.Sprintf(format, args...)})
	}
}

func (d *reader) jsonLines(r io.Reader) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	line := 0
	for lines.Scan() && !d.full() {
		line++
		text := bytes.TrimSpace(lines.Bytes())
		if len(text) == 0 {
			continue
		}
		var fields map[string]any
		decoder := json.NewDecoder(bytes.NewReader(text))
		decoder.UseNumber()
		if err := decoder.Decode(&fields); err != nil || fields == nil || decoder.InputOffset() != int64(len(text)) {
			d.fail(line, "", "it is not one object of JSON")
			continue
		}
		d.entry(line, fields)
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		d.fail(line+1, "", "it is longer than %d bytes", maxLine)
		return nil
	}
	return lines.Err()
}

func (d *reader) csv(r io.Reader) error {
	records := csv.NewReader(r)
	records.ReuseRecord = true
	var names []string
	for !d.full() {
		record, err := records.Read()
		var syntax *csv.ParseError
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.As(err, &syntax):
			d.fail(syntax.Line, "", "%s", csvReason(syntax.Err))
			if !errors.Is(err, csv.ErrFieldCount) {
				return nil // where the next record begins is not known
			}
			continue
		case err != nil:
			return err
		}
		line, _ := records.FieldPos(0)
		if names == nil {
			if names = d.header(line, record); names == nil {
				return nil
			}
			continue
		}
		fields := make(map[string]any, len(names))
		for i, name := range names {
			if record[i] != "" {
				fields[name] = record[i]
			}
		}
		d.entry(line, fields)
	}
	return nil
}

// csvReason returns a reason without the package's name.
func csvReason(err error) string {
	if errors.Is(err, csv.ErrFieldCount) {
		return "it has another number of fields than the first record"
	}
	return "it is no CSV: " + err.Error()
}

// header returns the names of fields, or nil if they are wrong.
func (d *reader) header(line int, record []string) (names []string) {
	seen := map[string]bool{}
	for _, name := range record {
		name = strings.TrimSpace(name)
		if name == "" || seen[name] {
			d.fail(line, name, "the first record names each field once")
			return nil
		}
		seen[name] = true
		names = append(names, name)
	}
	return names
}

// entry reads one entry.
func (d *reader) entry(line int, fields map[string]any) {
	if len(d.entries) >= MaxEntries {
		d.fail(line, "", "there are more than %d keys", MaxEntries)
		return
	}
	row := &row{reader: d, line: line, fields: fields, errs: len(d.errs)}
	e := d.format.read(row)
	e.Line = line
	if !d.format.own {
		row.refuseReserved(e.Scopes)
	}
	row.refuseOthers()
	if len(d.errs) > row.errs || d.full() {
		return
	}
	if !e.isKey() {
		d.entries = append(d.entries, e)
		return
	}
	id := e.Key.ID().String()
	if other, twice := d.ids[id]; twice {
		d.fail(line, "", "it is the key of line %d", other)
		return
	}
	d.ids[id] = line
	d.entries = append(d.entries, e)
}

// completeNames gives a name to keys without one, and different names to the keys of an owner.
func (d *reader) completeNames() {
	type named struct{ owner, name string }
	count := map[named]int{}
	for _, e := range d.entries {
		if e.User != nil || e.Scheme != nil {
			return // a store has completed the names
		}
		count[named{e.Owner, e.Name}]++
	}
	for i := range d.entries {
		e := &d.entries[i]
		if e.Name == "" || count[named{e.Owner, e.Name}] > 1 {
			id := e.Key.ID().String()
			e.Name += "~" + id[len(id)-8:]
		}
	}
}
