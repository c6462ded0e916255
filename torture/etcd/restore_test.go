package etcd_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.uber.org/zap"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/etcd"
)

// etcd that was restored from a snapshot has an earlier state. A store that goes on meanwhile says
// so, and forgets what it remembers: a key that was made after the snapshot is gone, and one that
// was disabled after the snapshot is enabled. This is so even if etcd's revision is not lower than
// before, because others have written, or because the restoration has raised it.
func TestAStoreNoticesThatEtcdWasRestored(t *testing.T) {
	t.Parallel()
	c := newCluster(t, clusterOptions{})
	for _, tt := range []struct {
		name    string
		bump    uint64 // of the revision
		overrun bool   // others write more than was lost, before the store reaches etcd
	}{
		{name: "to a lower revision"},
		{name: "and others have written since", overrun: true},
		{name: "to a higher revision", bump: 1_000_000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWire()
			k, err := newLink(w)
			must(t, err)
			t.Cleanup(func() { k.close(); w.set(wireCut) })
			k.lead(c.nodes[0].report.Clients)
			client := dial(t, k.address())
			t.Cleanup(func() { _ = client.Close() })
			s := openOn(t, client, func(e latchkey.Engine) latchkey.Engine { return e })

			early := newToken(t, s)
			path := c.snapshot()
			must(t, s.DisableKey(t.Context(), early.owner, early.id))
			late := newToken(t, s)
			login := func(k token) error { _, err := s.Login(t.Context(), k.text); return err }
			must(t, login(late))
			if err := login(early); !errors.Is(err, latchkey.ErrKeyDisabled) {
				t.Fatalf("the login of a disabled key: %v", err)
			}
			eventually(t, "health", func(ctx context.Context) bool { return s.Health(ctx) == nil })
			before, err := client.Get(t.Context(), "revision")
			must(t, err)
			incarnation := s.ReplicaID()

			w.set(wireCut)
			c.restore(path, tt.bump)
			if tt.overrun {
				c.overrun(before.Header.Revision + 100)
			}
			k.lead(c.nodes[0].report.Clients)
			w.set(wireOpen)
			eventually(t, "a report of the restoration", func(ctx context.Context) bool {
				return errors.Is(s.Health(ctx), etcd.ErrRestored)
			})
			eventually(t, "a new incarnation", func(context.Context) bool { return s.ReplicaID() != incarnation })
			// Stores that are still open notice the restoration, too, and one of them may begin an
			// incarnation of its own. All of them end with the same one.
			next := c.open(0)
			eventually(t, "one replica ID", func(context.Context) bool { return next.ReplicaID() == s.ReplicaID() })
			eventually(t, "the end of the key that was made after the snapshot", func(context.Context) bool {
				err := login(late)
				if err == nil {
					t.Fatal("the store has reported the restoration, and still remembers a key")
				}
				return !errors.Is(err, latchkey.ErrUnavailable)
			})
			if err := login(late); !errors.Is(err, latchkey.ErrInvalidToken) {
				t.Errorf("the login of a key that was made after the snapshot: %v", err)
			}
			must(t, login(early))
			must(t, s.DisableKey(t.Context(), early.owner, early.id))
		})
	}
}

// snapshot writes a snapshot of the cluster to a file.
func (c *cluster) snapshot() (path string) {
	c.t.Helper()
	admin := c.admin(c.leader())
	defer admin.Close()
	r, err := admin.Snapshot(c.t.Context())
	must(c.t, err)
	defer r.Close()
	path = filepath.Join(c.dir, "snapshot")
	f, err := os.Create(path)
	must(c.t, err)
	_, err = io.Copy(f, r)
	must(c.t, err)
	must(c.t, f.Close())
	return path
}

// restore kills the nodes, and starts them with the state of a snapshot. It adds bump to the
// revision.
func (c *cluster) restore(path string, bump uint64) {
	c.t.Helper()
	for i, n := range c.nodes {
		c.kill(i)
		must(c.t, os.RemoveAll(n.settings.Dir))
		must(c.t, snapshot.NewV3(zap.NewNop()).Restore(snapshot.RestoreConfig{
			SnapshotPath: path, OutputDataDir: n.settings.Dir, Name: n.settings.Name,
			PeerURLs: []string{n.settings.PeerURL}, InitialCluster: n.settings.Peers, InitialClusterToken: "etcd-cluster",
			RevisionBump: bump, MarkCompacted: bump > 0,
		}))
	}
	c.startAll()
}

// overrun writes through another store until the revision is greater than revision. Each revision
// becomes one of a commit again.
func (c *cluster) overrun(revision int64) {
	c.t.Helper()
	s := c.open(0, 1, 2)
	k := newToken(c.t, s)
	for sequence := uint64(0); sequence <= uint64(revision); {
		must(c.t, s.DisableKey(c.t.Context(), k.owner, k.id))
		must(c.t, s.EnableKey(c.t.Context(), k.owner, k.id))
		must(c.t, s.View(c.t.Context(), func(tx *latchkey.Tx) error { sequence = tx.Sequence(); return nil }))
	}
}
