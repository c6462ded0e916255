package replication

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/record"
	core "github.com/latchkeydb/latchkey/internal/replication"
)

// A thief has an edge, with its credential and all that the edge knows, and pushes whatever may
// help. The hub must take nothing that the policy of the edge does not allow.

// steal pushes something that the policy of an edge does not allow. The records of the hub must
// stay as they are.
func (n *node) steal() error {
	h := n.world.hub
	status := n.status()
	if status == nil || n.store == nil {
		return nil
	}
	p := status.Policy
	if p.Push >= core.PushUse && n.chance(3) {
		return n.useAhead(p)
	}
	what, c := n.forge(p)
	if c.Sealed == nil {
		return nil
	}
	s, err := n.edge.Status(n.ctx)
	if err != nil {
		return err
	}
	request := core.PushRequest{Cursor: s.Cursor, Policy: p.Version}
	if n.chance(4) {
		mac := make([]byte, 16)
		what, request.Signed = what+" with a MAC that is made up", []core.Record{{Copy: c, MAC: mac}}
	} else {
		request.Records = []record.Copy{c}
	}
	if what == "moves into its group" {
		if err := n.bug.onTheft(n, &request); err != nil {
			return err
		}
	}
	var reply core.PushReply
	crashed, err := h.attempt(func() (err error) {
		reply, err = h.hub.Push(h.ctx, n.credential, request, h.time())
		return err
	})
	if err != nil && !crashed {
		return n.refusedBy(false, err)
	}
	n.logf("a thief at %s, of the policy %v %d, %s %s: %q", n.label, p.Groups, p.Push, what, nameOf(c.Table, c.Key), reply.Refused)
	if err := h.settle(step{}); err != nil {
		return fmt.Errorf("a thief %s: %w", what, err)
	}
	return nil
}

// useAhead pushes a last use that is far in the future.
func (n *node) useAhead(p core.Policy) error {
	h := n.world.hub
	k := h.some("key")
	for _, id := range slices.Sorted(maps.Keys(k.tokens)) {
		if k.tokens[id].retired || !p.Has(h.groupOf(k)) {
			continue
		}
		key := []byte(k.id + id)
		minute := uint32(h.time().Add(24*time.Hour).Unix() / 60)
		use := record.Copy{Domain: h.store.DomainID(), Table: record.TableLastUse, Key: key, Sealed: record.Seal(record.TableLastUse, key, record.EncodeLastUse(minute))}
		_, _, err := h.take(n, core.PushRequest{Cursor: n.edge.Hello().Cursor, Policy: p.Version, Uses: []record.Copy{use}})
		return err
	}
	return nil
}

// forge makes a record that the hub must not take from an edge. Without one, it returns the zero
// Copy.
func (n *node) forge(p core.Policy) (what string, c record.Copy) {
	h := n.world.hub
	all := sorted(h.content)
	if len(all) == 0 {
		return "", c
	}
	at := pick(n.world, all)
	v, s := h.content[at], h.state(at)
	c = record.Copy{Domain: h.store.DomainID(), Table: v.table, Key: []byte(at.id)}
	foreign := !p.Has(h.groupOf(s))
	replica := n.store.ReplicaID()
	change := func(do func(*parts)) { c.Sealed = []byte(changed(c, v.sealed, do)) }
	switch x := n.random.IntN(6); {
	case s.dead:
	case x == 0 && at.kind == "user" && p.Groups[0] != core.AllGroups && foreign:
		what = "moves into its group"
		change(func(r *parts) { r.user.Groups = r.user.Groups.Set(p.Groups[0], r.user.Next(replica)) })
	case x == 1 && s.isDisabled() && (foreign || p.Push != core.PushAll):
		what = "enables"
		change(func(r *parts) { *r.flag = r.flag.Enable() })
	case x == 2 && s.isDisabled() && len(decoded(v.table, c.Key, v.sealed).flag.Writers) > 0:
		what = "enables ahead of time"
		change(func(r *parts) { r.flag.Writers[0].Enabled = r.flag.Writers[0].Disabled + 100 })
	case x == 3 && at.kind == "user" && (foreign || p.Push != core.PushAll):
		what = "writes into"
		change(func(r *parts) {
			r.user.Metadata = record.Register[record.Metadata]{Value: record.Metadata{"x": "y"}, Stamp: r.user.Next(replica)}
		})
	case x == 4 && at.kind == "user":
		what = "counts too far in"
		change(func(r *parts) {
			r.user.Metadata = record.Register[record.Metadata]{Value: record.Metadata{"x": "y"}, Stamp: record.Stamp{Counter: 1 << 50, Replica: replica}}
		})
	case x == 5 && at.kind != "group" && (foreign || p.Push != core.PushAll):
		what = "deletes"
		d := decoded(v.table, c.Key, v.sealed)
		if d.user != nil {
			c.Table, c.Sealed = record.TableDeadUsers, d.user.Tombstone().Encode()
		} else {
			c.Table, c.Sealed = record.TableDeadKeys, d.key.Tombstone().Encode()
		}
		c.Sealed = record.Seal(c.Table, c.Key, c.Sealed)
	case foreign && len(v.sealed) > 0:
		what = "disables, from another group,"
		change(func(r *parts) { *r.flag = r.flag.Disable(record.Writer{1, 2, 3}) })
	}
	return what, c
}

// groupOf returns the group that a record counts for.
func (n *node) groupOf(s *state) string {
	if s.kind == "group" {
		return s.id
	}
	if s.kind == "key" && s.owner != latchkey.ServerOwner {
		if u := n.state(name{"user", string(s.owner[:])}); u != nil {
			return u.group()
		}
	}
	return s.group()
}
