package etcd

import (
	"encoding/binary"
	"math"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// pager reads the entries of a range of keys, page by page. For each page, etcd counts all keys of
// the range that it is asked for, also those beyond the limit of the page. So a pager asks for a
// part of the range only. It guesses from the last page how far the part should reach.
type pager struct {
	next, end string // the keys that are left
	limit     int    // of the next page
	most      int    // the greatest limit
	reach     reach
}

// reach is how far a part reaches: by step, if the eight bytes of a key from the byte at on are
// taken for a number. If step is 0, a part reaches to the end.
type reach struct {
	at   int
	step uint64
}

// The number of entries of the first page, and the greatest number of entries, and about the
// greatest number of bytes, of the pages after it.
const (
	firstPage = 64
	mostPage  = 1000
	pageBytes = 1 << 20
)

func newPager(next, end string, most int) *pager {
	return &pager{next: next, end: end, limit: firstPage, most: most}
}

func (p *pager) done() bool { return p.next >= p.end }

// read reads the next page with get, which reads a range of keys. A page can be empty before the
// end.
func (p *pager) read(get func(key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error), opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	to := p.reach.from(p.next)
	if p.reach.step == 0 || to <= p.next || to > p.end {
		to = p.end
	}
	r, err := get(p.next, append(opts, clientv3.WithRange(to), clientv3.WithLimit(int64(p.limit)))...)
	if err != nil {
		return nil, err
	}
	n, size := len(r.Kvs), 0
	for _, kv := range r.Kvs {
		size += len(kv.Key) + len(kv.Value)
	}
	full, limit := r.More && n > 0, p.limit
	if n > 0 {
		p.limit = min(max(pageBytes*n/max(size, 1), 16), p.most)
	}
	switch {
	case full:
		last := string(r.Kvs[n-1].Key)
		p.next, p.reach = after(last), reachOf(string(r.Kvs[0].Key), last, float64(p.limit)/float64(n))
	case n < limit/2:
		p.next, p.reach = to, p.reach.longer()
	default:
		p.next = to
	}
	return r, nil
}

// from returns the end of a part that begins at a key. It is no greater than the key if there is no
// end.
func (r reach) from(key string) string {
	at := min(r.at, len(key))
	if n := number(key, at); n <= math.MaxUint64-r.step {
		return string(binary.BigEndian.AppendUint64([]byte(key[:at]), n+r.step))
	}
	return clientv3.GetPrefixRangeEnd(key[:at])
}

// longer returns a reach of eight times the length.
func (r reach) longer() reach {
	switch {
	case r.step <= math.MaxUint64/8:
		return reach{at: r.at, step: 8 * r.step}
	case r.at > 0:
		return reach{at: r.at - 1, step: 8 * (r.step >> 8)} // a byte counts 256 times the next one
	}
	return reach{}
}

// reachOf returns the reach from one key to another, times a factor.
func reachOf(first, last string, factor float64) reach {
	at := 0
	for at < len(first) && at < len(last) && first[at] == last[at] {
		at++
	}
	step := float64(number(last, at)-number(first, at)) * factor
	if step >= math.MaxUint64/2 {
		return reach{at: at, step: math.MaxUint64 / 2}
	}
	return reach{at: at, step: max(uint64(step), 1)}
}

// number returns the eight bytes of a key from the byte at on, as a number.
func number(key string, at int) uint64 {
	var b [8]byte
	copy(b[:], key[at:])
	return binary.BigEndian.Uint64(b[:])
}
