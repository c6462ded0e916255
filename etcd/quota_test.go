package etcd_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/etcd"
	"github.com/latchkeydb/latchkey/internal/record"
	"github.com/latchkeydb/latchkey/internal/unburied"
)

// The process that has deleted at a full quota ends before there is room. Another one, which was
// open all the time, writes the tombstones, also that of a user without keys.
func TestAnyProcessWritesTheTombstonesOfAFullQuota(t *testing.T) {
	each := unburied.LookEach
	unburied.LookEach = 1
	t.Cleanup(func() { unburied.LookEach = each })
	_, l := own(t, func(c *embed.Config) { c.QuotaBackendBytes = 8 << 20 })
	var stores []*latchkey.Store
	for range 2 {
		s, err := latchkey.OpenWith(etcd.New(client(t, l.address), "s"), &latchkey.Options{Cost: latchkey.LightCost})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		stores = append(stores, s)
	}
	s, other := stores[0], stores[1]
	var users []latchkey.User
	for _, name := range []string{"ada", "eve"} {
		u, err := s.CreateUser(t.Context(), latchkey.UserSpec{Identity: latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: name}})
		if err != nil {
			t.Fatal(err)
		}
		users = append(users, u)
	}
	key, _, err := s.CreateKey(t.Context(), users[0].ID, latchkey.KeySpec{Name: "laptop"})
	if err != nil {
		t.Fatal(err)
	}
	direct := client(t, l.address)
	until(t, "no tombstone is missing", func() bool {
		r, err := direct.Get(t.Context(), "s/", clientv3.WithPrefix())
		if err != nil {
			t.Fatal(err)
		}
		for _, kv := range r.Kvs {
			if strings.HasSuffix(string(kv.Key), record.MetaBuried) {
				return bytes.Equal(kv.Value, []byte{1})
			}
		}
		return false
	})

	var full error
	for n := 0; full == nil; n++ {
		_, full = direct.Put(t.Context(), fmt.Sprint("filler/", n), strings.Repeat("x", 256<<10))
	}
	if !errors.Is(full, rpctypes.ErrNoSpace) {
		t.Fatal(full)
	}
	if err := s.DeleteKey(t.Context(), users[0].ID, key.ID); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteUser(t.Context(), users[1].ID); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	gone, err := direct.Delete(t.Context(), "filler/", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := direct.Compact(t.Context(), gone.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	if _, err := direct.Defragment(t.Context(), l.address); err != nil {
		t.Fatal(err)
	}
	if _, err := direct.AlarmDisarm(t.Context(), &clientv3.AlarmMember{}); err != nil {
		t.Fatal(err)
	}
	missing := map[string]string{string(key.ID[:]): record.TableDeadKeys, string(users[1].ID[:]): record.TableDeadUsers}
	until(t, "the tombstones are there", func() bool {
		for r, err := range other.Records(t.Context(), latchkey.RecordCursor{}) {
			if err != nil {
				return false // etcd is busy
			}
			c, err := record.DecodeCopy(r.Export())
			if err != nil {
				t.Fatal(err)
			}
			if id := string(c.Key); missing[id] == c.Table {
				delete(missing, id)
			}
		}
		return len(missing) == 0
	})
	for finding := range other.Check(t.Context()) {
		t.Errorf("Check: %v", finding)
	}
}
