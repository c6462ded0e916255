package etcd

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/uuid"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// index answers as etcd does, and counts the keys that etcd would count.
type index struct {
	keys     []string
	requests int
	counted  int
}

func (x *index) get(key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	op := clientv3.OpGet(key, opts...)
	from, _ := slices.BinarySearch(x.keys, key)
	to, _ := slices.BinarySearch(x.keys, string(op.RangeBytes()))
	in := x.keys[from:max(from, to)]
	x.requests++
	x.counted += len(in)
	limit := int(op.Limit())
	r := &etcdserverpb.RangeResponse{Count: int64(len(in)), More: len(in) > limit}
	for _, k := range in[:min(limit, len(in))] {
		r.Kvs = append(r.Kvs, &mvccpb.KeyValue{Key: []byte(k), Value: make([]byte, 200)})
	}
	return (*clientv3.GetResponse)(r), nil
}

func TestAPagerReadsEveryKeyAndCountsFew(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	id := func() string {
		var u uuid.UUID
		for i := range u {
			u[i] = byte(random.Uint32())
		}
		return string(u[:])
	}
	const n = 50_000
	for name, key := range map[string]func(i int) string{
		"random":               func(int) string { return "p/t/keys\x00" + id() },
		"in the order of time": func(i int) string { return "p/t/keys\x00\x01\xa2" + fmt.Sprintf("%08d", i/3) + id() },
		"behind one owner":     func(int) string { return "p/t/names\x00" + string(make([]byte, 16)) + "device-" + id() },
		"of many owners":       func(i int) string { return "p/t/names\x00" + id() + "laptop" },
		"in two tables":        func(i int) string { return fmt.Sprintf("p/t/%c\x00", 'a'+i%2) + id() },
		"beside far ones": func(i int) string {
			return "p/t/x\x00" + map[bool]string{true: "\x00", false: "\xff"}[i%1000 == 0] + id()
		},
		"of one byte": func(i int) string { return "p/t/x\x00" + string(rune('a'+i%20)) },
	} {
		t.Run(name, func(t *testing.T) {
			x := &index{}
			for i := range n {
				x.keys = append(x.keys, key(i))
			}
			slices.Sort(x.keys)
			x.keys = slices.Compact(x.keys)
			var got []string
			p := newPager("p/t/", clientv3.GetPrefixRangeEnd("p/t/"), mostPage)
			for !p.done() {
				r, err := p.read(x.get)
				if err != nil {
					t.Fatal(err)
				}
				for _, kv := range r.Kvs {
					got = append(got, string(kv.Key))
				}
			}
			if !slices.Equal(got, x.keys) {
				t.Errorf("the pager has read %d keys of %d, or in another order", len(got), len(x.keys))
			}
			// The first page counts everything.
			if x.counted > 12*len(x.keys) || x.requests > 400 {
				t.Errorf("%d keys were counted for %d, in %d requests", x.counted, len(x.keys), x.requests)
			}
		})
	}
}
