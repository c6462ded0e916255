package etcd_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/record"
)

// At a full quota, keys and users can still be deleted, and nothing else can be changed. When there
// is room again, everything works, and the deleted keys and users have their tombstones.
func TestAtAFullQuotaKeysAndUsersCanBeDeleted(t *testing.T) {
	c, r, random := beginHistory(t, clusterOptions{quota: 8 << 20})
	s, other := r.stores[0], r.stores[1]
	kept, deleted, deletedUser := newToken(t, s), newToken(t, s), newToken(t, s)
	login := func(s *latchkey.Store, k token) error { _, err := s.Login(t.Context(), k.text); return err }
	for _, k := range []token{kept, deleted, deletedUser} {
		must(t, login(s, k))
		must(t, login(other, k))
	}
	eventually(t, "health", func(ctx context.Context) bool { return s.Health(ctx) == nil })

	c.fill(random)
	if err := s.Health(t.Context()); err == nil {
		t.Error("Health says nothing of the full quota")
	}
	if err := s.DisableKey(t.Context(), kept.owner, kept.id); !errors.Is(err, latchkey.ErrNoSpace) {
		t.Errorf("DisableKey at a full quota: %v, want ErrNoSpace", err)
	}
	if _, _, err := s.CreateKey(t.Context(), kept.owner, latchkey.KeySpec{Name: "phone"}); !errors.Is(err, latchkey.ErrNoSpace) {
		t.Errorf("CreateKey at a full quota: %v, want ErrNoSpace", err)
	}
	must(t, login(s, kept))
	must(t, s.DeleteKey(t.Context(), deleted.owner, deleted.id))
	must(t, s.DeleteUser(t.Context(), deletedUser.owner))
	done := time.Now()
	for _, k := range []token{deleted, deletedUser} {
		if err := login(s, k); !errors.Is(err, latchkey.ErrInvalidToken) {
			t.Errorf("a deleted token at the store that has deleted it: %v", err)
		}
		eventually(t, "the deletion at another store", func(context.Context) bool {
			began := time.Now()
			err := login(other, k)
			if err == nil && began.Sub(done) > bound {
				t.Fatalf("a token that was deleted %v ago logs in", began.Sub(done))
			}
			return errors.Is(err, latchkey.ErrInvalidToken)
		})
	}

	c.makeRoom()
	var k latchkey.Key
	var text string
	whenThereIsRoom(t, func() error { return s.DisableKey(t.Context(), kept.owner, kept.id) })
	whenThereIsRoom(t, func() (err error) {
		k, text, err = s.CreateKey(t.Context(), deleted.owner, latchkey.KeySpec{Name: "laptop"})
		return err
	})
	eventually(t, "the tombstones", func(ctx context.Context) bool {
		return isDead(ctx, t, other, record.TableDeadKeys, deleted.id) && isDead(ctx, t, other, record.TableDeadUsers, deletedUser.owner)
	})
	must(t, login(other, token{deleted.owner, k.ID, text}))
	r.await(0, 1, 2, everywhere)
	c.finish(r)
}

// whenThereIsRoom calls write until etcd has room for it. Each member hears at its own time that
// the alarm is off.
func whenThereIsRoom(t *testing.T, write func() error) {
	t.Helper()
	eventually(t, "there is room", func(context.Context) bool {
		err := write()
		if !errors.Is(err, latchkey.ErrNoSpace) {
			must(t, err)
		}
		return err == nil
	})
}

// filler is where fill writes.
const filler = "filler/"

// fill fills the quota.
func (c *cluster) fill(random *rand.Rand) {
	c.t.Helper()
	admin := c.admin(c.leader())
	defer admin.Close()
	value := make([]byte, 256<<10)
	for i := range value {
		value[i] = byte(random.Uint32())
	}
	for n := 0; ; n++ {
		_, err := admin.Put(c.t.Context(), fmt.Sprint(filler, n), string(value))
		if errors.Is(err, rpctypes.ErrNoSpace) {
			return // the cluster has raised its alarm, which stays
		}
		must(c.t, err)
	}
}

// makeRoom deletes what fill has written, and frees its space on each node.
func (c *cluster) makeRoom() {
	c.t.Helper()
	ctx := c.t.Context()
	admin := c.admin(c.leader())
	defer admin.Close()
	r, err := admin.Delete(ctx, filler, clientv3.WithPrefix())
	must(c.t, err)
	_, err = admin.Compact(ctx, r.Header.Revision, clientv3.WithCompactPhysical())
	must(c.t, err)
	for i, n := range c.nodes {
		each := c.admin(i)
		defer each.Close()
		_, err := each.Defragment(ctx, n.report.Clients)
		must(c.t, err)
	}
	_, err = admin.AlarmDisarm(ctx, &clientv3.AlarmMember{})
	must(c.t, err)
}

// isDead reports whether a store has a tombstone in one of its tables of tombstones.
func isDead(ctx context.Context, t *testing.T, s *latchkey.Store, table string, id uuid.UUID) bool {
	t.Helper()
	for r, err := range s.Records(ctx, latchkey.RecordCursor{}) {
		must(t, err)
		c, err := record.DecodeCopy(r.Export())
		must(t, err)
		if c.Table == table && bytes.Equal(c.Key, id[:]) {
			return true
		}
	}
	return false
}
