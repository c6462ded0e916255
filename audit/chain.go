package audit

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/latchkeydb/latchkey"
)

// A Chain is one of the chains of a trail, by its name. The zero Chain is the default one, and the
// functions of the package are about the default chain unless they say otherwise.
//
// A name has 1 to 64 lower-case ASCII letters, digits, dots and hyphens, and begins with a letter
// or a digit. With any other name, every method returns [ErrChain].
type Chain string

const maxChain = 64

// ParseChain returns the chain with a name. The empty name is that of the default chain.
//
// Errors: [ErrChain].
func ParseChain(name string) (Chain, error) {
	c := Chain(name)
	return c, c.check()
}

func (c Chain) check() error {
	if len(c) > maxChain {
		return fmt.Errorf("%w: a name of %d characters; it can have 1 to %d", ErrChain, len(c), maxChain)
	}
	for i := range len(c) {
		switch b := c[i]; {
		case 'a' <= b && b <= 'z', '0' <= b && b <= '9', i > 0 && (b == '-' || b == '.'):
		default:
			return fmt.Errorf("%w: the name %.80q; it can have lower-case ASCII letters, digits, dots and hyphens, and begins with a letter or a digit", ErrChain, string(c))
		}
	}
	return nil
}

// records are the records of one chain in the trail's table. Those of the default chain have no
// prefix.
type records struct {
	table  *latchkey.AppTable
	prefix []byte
}

func (c Chain) records(tx *latchkey.Tx) (records, error) {
	r := records{table: tx.AppTable(TableName)}
	if c != "" {
		r.prefix = slices.Concat([]byte{'n'}, []byte(c), []byte{0})
	}
	return r, c.check()
}

func (r records) key(key []byte) []byte          { return slices.Concat(r.prefix, key) }
func (r records) Get(key []byte) ([]byte, error) { return r.table.Get(r.key(key)) }
func (r records) Put(key, value []byte) error    { return r.table.Put(r.key(key), value) }
func (r records) Delete(key []byte) error        { return r.table.Delete(r.key(key)) }
func (r records) Scan(from, to []byte) iter.Seq2[latchkey.Entry, error] {
	return func(yield func(latchkey.Entry, error) bool) {
		for e, err := range r.table.Scan(r.key(from), r.key(to)) {
			if err == nil {
				e.Key = e.Key[len(r.prefix):]
			}
			if !yield(e, err) {
				return
			}
		}
	}
}

// The list of the named chains is under 'c' and the name. A chain is put in it when it begins, so
// that no later change of any chain writes the list.
var (
	list       = []byte{'c'}
	behindList = []byte{'d'} // the first key behind the list
)

// note puts the chain in the list.
func (r records) note() error {
	if len(r.prefix) == 0 {
		return nil
	}
	name := r.prefix[1 : len(r.prefix)-1]
	return r.table.Put(slices.Concat(list, name), nil)
}

// explain adds to err, which is about the chain, what the caller of the package needs to know:
// [ErrBroken] if a record is damaged or of a later version, and the name of a chain that is
// broken.
func (c Chain) explain(err error) error {
	if !isBroken(err) {
		return err
	}
	var at *BrokenError
	if errors.As(err, &at) {
		at.Chain = c
		return err
	}
	if c != "" {
		err = fmt.Errorf("chain %s: %w", string(c), err)
	}
	if !errors.Is(err, ErrBroken) {
		err = fmt.Errorf("%w: %w", ErrBroken, err)
	}
	return err
}

// Chains returns the chains that have begun, in the order of their names, so that the default
// chain is the first. With an error, it returns the chains before the place of the error.
//
// Errors: [ErrBroken]; an error of [latchkey.AppTable].
func Chains(tx *latchkey.Tx) (chains []Chain, err error) {
	// A head that cannot be read is one of a chain that has begun.
	switch head, err := CurrentHead(tx); {
	case err != nil && !isBroken(err):
		return nil, err
	case err != nil || head != (Head{}):
		chains = append(chains, "")
	}
	for e, err := range tx.AppTable(TableName).Scan(list, behindList) {
		if err != nil {
			return chains, Chain("").explain(fmt.Errorf("the list of chains: %w", err))
		}
		c, err := ParseChain(string(e.Key[len(list):]))
		if err != nil {
			return chains, fmt.Errorf("%w: the list of chains: %w", ErrBroken, err)
		}
		chains = append(chains, c)
	}
	return chains, nil
}

// Heads returns the heads of all chains that have begun, in the order of [Chains]. With an error,
// it returns the heads that can be read.
//
// Errors: [ErrBroken]; an error of [latchkey.AppTable].
func Heads(tx *latchkey.Tx) (heads []Head, err error) {
	chains, err := Chains(tx)
	for _, c := range chains {
		head, headErr := c.Head(tx)
		if headErr == nil {
			heads = append(heads, head)
		}
		err = errors.Join(err, headErr)
	}
	return heads, err
}

// VerifyAll looks at every entry of every chain, as [Verify] does for the default chain. A known
// head names its chain. If a chain with a known head is not there, it is broken.
//
// Errors: [ErrBroken], with the first wrong entry of each chain that is broken; [ErrPruned] if all
// is well, but a known head is older than the oldest entry of its chain; an error of
// [latchkey.AppTable].
func VerifyAll(tx *latchkey.Tx, known ...Head) error {
	chains, err := Chains(tx)
	if err != nil && !isBroken(err) {
		return err
	}
	wrong, pruned := err, error(nil)
	of := map[Chain][]Head{}
	for _, c := range chains {
		of[c] = nil
	}
	for _, h := range known {
		of[h.Chain] = append(of[h.Chain], h)
	}
	for _, c := range slices.Sorted(maps.Keys(of)) {
		switch err := c.Verify(tx, of[c]...); {
		case isBroken(err):
			wrong = errors.Join(wrong, err)
		case errors.Is(err, ErrPruned):
			pruned = err
		case err != nil:
			return err
		}
	}
	return cmp.Or(wrong, pruned)
}

// A Position is a place in the entries of all chains: for each chain, the number of the last entry
// before the place. Its text has the numbers with commas between them, each behind the name of its
// chain and a slash, such as "42,shop-1/17". The number of the default chain has no name.
type Position map[Chain]uint64

// String returns the text of the position.
func (p Position) String() string {
	var parts []string
	for _, c := range slices.Sorted(maps.Keys(p)) {
		if p[c] > 0 {
			parts = append(parts, c.of(strconv.FormatUint(p[c], 10)))
		}
	}
	return strings.Join(parts, ",")
}

// of returns a text behind the name of the chain.
func (c Chain) of(text string) string {
	if c == "" {
		return text
	}
	return string(c) + "/" + text
}

// cutChain returns the chain of a text that of has made, and the rest.
func cutChain(text string) (c Chain, rest string, err error) {
	name, rest, found := strings.Cut(text, "/")
	if !found {
		return "", text, nil
	}
	if c, err = ParseChain(name); err == nil && c == "" {
		err = fmt.Errorf("%w: there is no name before the slash", ErrChain)
	}
	return c, rest, err
}

// ParsePosition reads the text of a position. The empty text is the beginning.
func ParsePosition(text string) (Position, error) {
	p := Position{}
	if text == "" {
		return p, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		c, number, err := cutChain(part)
		if err == nil {
			p[c], err = strconv.ParseUint(number, 10, 64)
		}
		if err != nil {
			return nil, fmt.Errorf("the position in an audit trail is not NUMBER or CHAIN/NUMBER, with commas between several: %w", err)
		}
	}
	return p, nil
}

// All yields the entries of all chains behind a position; nil is the beginning. The entries of one
// chain come in their order. Of the next entries of several chains, the one with the earliest time
// comes first, and of several with one time the one whose chain has the first name. To go on
// later, note the number of each entry as that of its chain in the position. A long trail is
// better read in several transactions, as with [Entries].
//
// An error is the last element, as with [Entries]. If the entries of one chain cannot be read,
// those of the other chains come before the error.
func All(tx *latchkey.Tx, after Position) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		chains, err := Chains(tx)
		if err != nil {
			yield(Entry{}, err)
			return
		}
		var waiting []*reader
		for _, c := range chains {
			waiting = append(waiting, &reader{chain: c, last: after[c]})
		}
		for {
			waiting = slices.DeleteFunc(waiting, func(r *reader) bool { return !r.read(tx) })
			if len(waiting) == 0 {
				return
			}
			r := slices.MinFunc(waiting, earlier)
			if len(r.next) == 0 {
				yield(Entry{}, r.err)
				return
			}
			e := r.next[0]
			r.next = r.next[1:]
			if !yield(e, nil) {
				return
			}
		}
	}
}

// earlier compares the next entries of two readers. An error comes after all entries.
func earlier(a, b *reader) int {
	switch {
	case len(a.next) == 0:
		return 1
	case len(b.next) == 0:
		return -1
	}
	return cmp.Or(a.next[0].Change.Time.Compare(b.next[0].Change.Time), cmp.Compare(a.chain, b.chain))
}

// A reader reads the entries of one chain ahead, a batch at a time, so that only one scan of the
// table is open at once.
type reader struct {
	chain Chain
	last  uint64 // the number of the last entry that was read
	next  []Entry
	err   error // why no more entries can be read
	ended bool
}

// batch is how many entries a reader reads ahead.
const batch = 64

// read reads ahead, if nothing was read ahead, and reports whether there is an entry or an error.
func (r *reader) read(tx *latchkey.Tx) bool {
	if len(r.next) == 0 && !r.ended {
		r.next, r.ended = make([]Entry, 0, batch), true
		for e, err := range r.chain.Entries(tx, r.last) {
			if err != nil {
				r.err = err
				break
			}
			r.next, r.last = append(r.next, e), e.Number
			if len(r.next) == batch {
				r.ended = false
				break
			}
		}
	}
	return len(r.next) > 0 || r.err != nil
}
