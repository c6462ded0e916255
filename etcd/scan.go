package etcd

import (
	"iter"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/latchkeydb/latchkey"
)

func (t *tx) Scan(table string, from, to []byte) iter.Seq2[latchkey.Entry, error] {
	prefix := t.e.keys.table(table)
	first, end := prefix+string(from), clientv3.GetPrefixRangeEnd(prefix)
	if to != nil {
		end = prefix + string(to)
	}
	return func(yield func(latchkey.Entry, error) bool) {
		s := &scan{tx: t, next: first, end: end, pages: newPager(first, end, mostPage)}
		if to == nil {
			s.table = table
			s.pages.reach = t.e.reachIn(table)
		}
		for {
			key, value, ok, err := s.step()
			if err != nil {
				yield(latchkey.Entry{}, err)
				return
			}
			if !ok || !yield(latchkey.Entry{Key: []byte(key[len(prefix):]), Value: append([]byte{}, value...)}, nil) {
				return
			}
		}
	}
}

// scan is a Scan under way. It merges pages of the transaction's revision with what the transaction
// has written.
type scan struct {
	tx        *tx
	next, end string // the keys that are left
	pages     *pager
	page      []*mvccpb.KeyValue // what is left of a page
	table     string             // set if the scan goes to the end of a table
	read      *span              // what an Update has read
}

// reachIn returns how far a page of a table reached, when a page was last read in a scan to the end
// of the table.
func (e *engine) reachIn(table string) reach {
	known, _ := e.reaches.Load(table)
	r, _ := known.(reach)
	return r
}

// step returns the next entry. ok is false at the end.
func (s *scan) step() (key string, value []byte, ok bool, err error) {
	for {
		if s.tx.ended {
			return "", nil, false, latchkey.ErrClosed
		}
		if s.next >= s.end {
			return "", nil, false, nil
		}
		if err := s.fill(); err != nil {
			return "", nil, false, err
		}
		own, found := s.own()
		switch {
		case len(s.page) == 0 && !found:
			s.pass(s.end)
			return "", nil, false, nil
		case found && (len(s.page) == 0 || own.key <= string(s.page[0].Key)):
			s.pass(after(own.key))
			if !own.delete {
				return own.key, own.value, true, nil
			}
		default:
			kv := s.page[0]
			s.pass(after(string(kv.Key)))
			s.tx.remember(string(kv.Key), seenIn(kv))
			return string(kv.Key), kv.Value, true, nil
		}
	}
}

// own returns the transaction's first write in the keys that are left.
func (s *scan) own() (w write, found bool) {
	i, _ := s.tx.find(s.next)
	if i == len(s.tx.writes) || s.tx.writes[i].key >= s.end {
		return write{}, false
	}
	return s.tx.writes[i], true
}

// pass notes that the scan has read all keys below to.
func (s *scan) pass(to string) {
	if !s.tx.readOnly && !s.tx.whole {
		if s.read == nil {
			s.read = &span{from: s.next}
			s.tx.ranges = append(s.tx.ranges, s.read)
		}
		s.read.to = to
		s.tx.bound()
	}
	s.next = to
}

// fill reads a page if the scan has used up the page before.
func (s *scan) fill() error {
	for {
		for len(s.page) > 0 && string(s.page[0].Key) < s.next {
			s.page = s.page[1:]
		}
		if len(s.page) > 0 || s.pages.done() {
			return nil
		}
		r, err := s.pages.read(s.tx.get)
		if err != nil {
			return err
		}
		if s.page = r.Kvs; s.table != "" && r.More {
			s.tx.e.reaches.Store(s.table, s.pages.reach)
		}
	}
}
