package replication

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	core "github.com/latchkeydb/latchkey/internal/replication"
)

// This file is the end of a run: there are no faults any more, and after some rounds all replicas
// must have what they should have.

func (w *world) settleDown() error {
	for _, n := range w.nodes() {
		if n.store == nil {
			if err := n.start(); err != nil {
				return err
			}
		}
	}
	if err := w.endClones(); err != nil {
		return err
	}
	for _, n := range w.edges {
		if n.unknown() {
			if err := n.enlist(); err != nil {
				return err
			}
		}
	}
	promised := w.promises()
	var disagreement error
	for w.rounds = 1; w.rounds <= Rounds; w.rounds++ {
		w.logf("round %d", w.rounds)
		for _, n := range w.edges {
			if err := n.converse(); err != nil {
				return err
			}
		}
		if err := w.decideClaims(); err != nil {
			return err
		}
		if disagreement = w.disagreement(); disagreement == nil {
			break
		}
	}
	if disagreement != nil {
		return fmt.Errorf("after %d rounds without faults: %w", Rounds, disagreement)
	}
	if err := w.checkPromises(promised); err != nil {
		return err
	}
	for _, n := range w.nodes() {
		if err := n.examine(); err != nil {
			return err
		}
	}
	return nil
}

// endClones does what an administrator must do about cloned devices: one of them goes on, and joins
// again.
func (w *world) endClones() error {
	goesOn := map[uuid.UUID]bool{}
	for _, n := range slices.Clone(w.edges) {
		if !n.cloned {
			continue
		}
		if goesOn[n.credential] {
			w.edges = slices.DeleteFunc(w.edges, func(e *node) bool { return e == n })
			if err := n.stop(); err != nil {
				return err
			}
			continue
		}
		goesOn[n.credential] = true
	}
	for _, n := range w.edges {
		if !n.cloned {
			continue
		}
		if err := w.hub.hub.DropEdge(w.ctx, n.credential); err != nil && !errors.Is(err, core.ErrUnknownEdge) {
			return err
		}
	}
	return nil
}

// promises returns what the hub must know in the end: every revocation that an edge has with the
// hub's MAC, even if the hub was restored from a backup since.
func (w *world) promises() map[name]*state {
	all := map[name]*state{}
	for _, n := range w.edges {
		for at, s := range n.signed {
			all[at] = joined(all[at], s)
		}
	}
	return all
}

func (w *world) checkPromises(promised map[name]*state) error {
	for _, at := range sorted(promised) {
		must, has := promised[at], w.hub.state(at)
		switch {
		case has == nil && must.dead: // pruned
		case has == nil:
			return fmt.Errorf("the hub has lost %s", must.all())
		case has.dead:
		case must.dead:
			return fmt.Errorf("at the hub a deleted record is back: %s", has.all())
		default:
			for event := range must.seen {
				if !has.seen[event] {
					return fmt.Errorf("the hub has lost disabling %d of %s\n%s", event, must.all(), has.all())
				}
			}
		}
	}
	return nil
}

// converse lets an edge say and hear everything.
func (n *node) converse() error {
	if err := n.dial(); err != nil {
		return err
	}
	for range 10_000 {
		s, err := n.edge.Status(n.ctx)
		if err != nil {
			return err
		}
		switch {
		case n.line == nil:
			err = n.dial()
		case len(n.line.queue) > 0:
			err = n.deliver(len(n.line.queue))
		case s.Compare:
			var done bool
			if done, err = n.compare(); err == nil && done {
				if _, err = n.giveAll(); err == nil {
					err = n.dial()
				}
			}
		case !n.line.idle:
			err = n.pull()
		default:
			gave := false
			if gave, err = n.giveAll(); err == nil && !gave {
				return nil
			}
			n.line.idle = false // the hub may have an answer
		}
		if err != nil {
			return err
		}
	}
	return fmt.Errorf("%s and the hub do not come to an end", n.label)
}

func (n *node) giveAll() (gave bool, err error) {
	for range 1000 {
		more, err := n.give()
		if err != nil || !more {
			return gave, err
		}
		gave = true
	}
	return gave, fmt.Errorf("%s pushes without end", n.label)
}

// gets reports whether an edge must have a record of the hub, and whether it may. An edge may keep
// the tombstone of a record that it could have. The hub may have lost the group by which it could:
// the hub went on from a backup, and the next user with an identity has the same ID.
func (n *node) gets(p core.Policy, s *state) (must, may bool) {
	if s.kind == "group" {
		return p.Has(s.id), p.Has(s.id)
	}
	of := s
	if s.kind == "key" && s.owner != latchkey.ServerOwner {
		if of = n.world.hub.state(name{"user", string(s.owner[:])}); of == nil {
			// The tombstone of the owner was pruned. Or the hub was restored, and has lost the
			// owner of a key whose disabling an edge has brought.
			return false, s.dead || p.Has("")
		}
	}
	must = p.Has(of.group())
	if !s.dead {
		return must, must
	}
	had := func(group string) bool { return slices.Contains(n.had, group) }
	return false, must || had(core.AllGroups) || slices.ContainsFunc(n.wereIn[of.name()], had)
}

// disagreement returns what an edge has that it should not have, or lacks.
func (w *world) disagreement() error {
	for _, n := range w.edges {
		status := n.status()
		if status == nil {
			return fmt.Errorf("the hub does not know %s", n.label)
		}
		names := map[name]bool{}
		for at := range w.hub.content {
			names[at] = true
		}
		for at := range n.content {
			names[at] = true
		}
		for _, at := range sorted(names) {
			if err := n.disagrees(status.Policy, at); err != nil {
				return err
			}
		}
		s, err := n.edge.Status(w.ctx)
		switch {
		case err != nil:
			return err
		case s.Pending > 0:
			return fmt.Errorf("%s has %d changes that are pending", n.label, s.Pending)
		case s.Policy.Push != status.Policy.Push || !slices.Equal(s.Policy.Groups, status.Policy.Groups):
			return fmt.Errorf("%s has the policy %v and the hub has %v", n.label, s.Policy, status.Policy)
		}
	}
	claims, err := w.hub.hub.Claims(w.ctx)
	if err == nil && len(claims) > 0 {
		err = fmt.Errorf("the hub has %d claims", len(claims))
	}
	return err
}

func (n *node) disagrees(p core.Policy, at name) error {
	hub, edge := n.world.hub.content[at], n.content[at]
	if hub == edge {
		s := n.state(at)
		if _, may := n.gets(p, s); !may && !n.cloned {
			return fmt.Errorf("%s has %s, which its policy %v does not give it: %s", n.label, at, p.Groups, s.view())
		}
		return nil
	}
	theirs := n.world.hub.state(at)
	must, may := false, false
	if theirs != nil {
		must, may = n.gets(p, theirs)
	}
	switch {
	case edge.table == "" && !must:
		return nil // it may have a tombstone, and needs none
	case isDead(edge.table) && (theirs == nil || theirs.dead && may):
		return nil // the hub has pruned it, or has learned of more groups since
	case isDead(edge.table) && !must && n.cloned:
		return nil // its claim was that of the credential that is revoked
	}
	return fmt.Errorf("%s, of the policy %v, has of %s\n  %s\nand the hub has\n  %s", n.label, p.Groups, at, n.state(at).all(), theirs.all())
}

// examine looks at the bookkeeping of a node, and tries every token.
func (n *node) examine() error {
	for finding := range n.store.Check(n.ctx) {
		return fmt.Errorf("a check of %s: %w", n.label, finding)
	}
	for _, t := range n.tokens {
		if err := n.login(t); err != nil {
			return fmt.Errorf("%s: %w", n.label, err)
		}
	}
	return n.settle(step{local: true})
}
