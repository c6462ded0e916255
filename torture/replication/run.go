package replication

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	core "github.com/latchkeydb/latchkey/internal/replication"
)

// A Report says what happened in a run.
type Report struct {
	Trace    uint64   // is the same in every run of a seed
	History  []string // what happened
	Replicas int
	Rounds   int // until all replicas agreed
}

// Rounds is in how many rounds without faults all replicas agree. In a round every edge speaks with
// the hub once. The first brings the hub what the edges know, and the administrator decides the
// claims. The second brings every edge what the hub then has.
const Rounds = 3

// Run runs the simulation of a seed, with a fault planted unless bug is the zero Bug. It returns
// the first violation of a rule.
func Run(seed uint64, bug Bug) (r Report, err error) {
	e, restore := seeded(seed)
	defer restore()
	w := newWorld(seed, bug, e)
	defer w.end()
	err = w.run()
	return Report{w.trace.Sum64(), w.history, 1 + w.made, w.rounds}, err
}

func (w *world) end() {
	for _, n := range w.nodes() {
		if n.store != nil {
			_ = n.store.Close()
		}
	}
}

func (w *world) nodes() []*node { return append([]*node{w.hub}, w.edges...) }

func (w *world) run() error {
	w.hub = w.newNode("hub", newDisk())
	if err := w.hub.start(); err != nil {
		return err
	}
	secrets := w.hub.store.DomainSecrets()
	w.secrets = &secrets
	edges := 2 + w.random.IntN(4)
	if w.chance(20) {
		edges = 6 + w.random.IntN(24)
	}
	for range edges {
		if err := w.join(); err != nil {
			return err
		}
	}
	w.faults = true
	for range 60 + w.random.IntN(30*(edges+1)) {
		if err := w.step(); err != nil {
			return err
		}
	}
	w.faults = false
	return w.settleDown()
}

// step does one thing somewhere.
func (w *world) step() error {
	n := pick(w, w.nodes())
	if n.store == nil {
		if w.chance(2) {
			return nil
		}
		w.logf("%s starts", n.label)
		return n.start()
	}
	switch x := w.random.IntN(1000); {
	case x < 400:
		return n.operate()
	case x < 860:
		e := pick(w, w.edges)
		for range 1 + w.random.IntN(6) {
			if err := e.advance(); err != nil {
				return err
			}
		}
		return nil
	case x < 875:
		w.logf("%s stops", n.label)
		return n.stop()
	case x < 890:
		n.hangUp()
		return nil
	case x < 910:
		n.backUp()
		return nil
	case x < 930:
		return n.comeBack()
	case x < 935:
		return w.clone()
	case x < 940:
		return w.join()
	case x < 945:
		return w.depart()
	case x < 955:
		return w.changePolicy()
	case x < 965:
		return w.decideClaims()
	case x < 970:
		return w.prune()
	case x < 978:
		return w.moveClocks()
	case x < 994:
		return pick(w, w.edges).steal()
	default:
		return w.replaceTagSecret()
	}
}

// join makes an edge.
func (w *world) join() error {
	if w.hub.store == nil {
		return nil
	}
	w.made++
	n := w.newNode(fmt.Sprintf("edge %d", w.made), newDisk())
	n.skew = w.skew()
	w.edges = append(w.edges, n)
	if err := n.start(); err != nil {
		return err
	}
	return n.enlist()
}

// enlist gives an edge a credential.
func (n *node) enlist() error {
	n.credential = uuid.New()
	policy := n.policy()
	n.had = append(n.had, policy.Groups...)
	n.logf("%s joins: %v %d", n.label, policy.Groups, policy.Push)
	crashed, err := n.world.hub.attempt(func() error {
		return n.world.hub.hub.AddEdge(n.ctx, n.credential, n.label, policy, n.world.hub.time())
	})
	if err != nil && !crashed {
		return fmt.Errorf("%s joins: %w", n.label, err)
	}
	return n.world.hub.settle(step{})
}

// policy draws a policy.
func (w *world) policy() core.Policy {
	groups := [][]string{{"*"}, {"*"}, {"red"}, {"green"}, {"blue"}, {"green", "red"}, {"blue", "red"}}
	return core.Policy{Groups: pick(w, groups), Push: pick(w, []core.Push{core.PushNothing, core.PushUse, core.PushRevocations, core.PushAll, core.PushAll, core.PushAll})}
}

// skew draws how wrong the clock of a machine is: it may stand anywhere from 1970 to 2099.
func (w *world) skew() time.Duration {
	switch w.random.IntN(3) {
	case 0:
		return 0
	case 1:
		return time.Duration(w.random.IntN(7200)-3600) * time.Second
	}
	return time.Date(1970+w.random.IntN(130), 1, 2, 0, 0, 0, 0, time.UTC).Sub(w.now)
}

// status returns what the hub knows of an edge, or nil.
func (n *node) status() *core.EdgeStatus {
	if n.world.hub.store == nil {
		return nil
	}
	all, err := n.world.hub.hub.Edges(n.ctx, n.world.now)
	if err != nil {
		return nil
	}
	for i := range all {
		if all[i].ID == n.credential {
			return &all[i]
		}
	}
	return nil
}

// unknown reports whether the hub does not know an edge.
func (n *node) unknown() bool { return n.status() == nil }

// advance takes an edge one step further in its conversation with the hub.
func (n *node) advance() error {
	if n.store == nil || n.world.hub.store == nil {
		return nil
	}
	l := n.line
	switch {
	case l == nil:
		return n.dial()
	case len(l.queue) > 0:
		count := len(l.queue)
		if n.faults {
			count = 1 + n.random.IntN(count)
		}
		err := n.deliver(count)
		if err == nil && n.faults && n.chance(10) {
			n.logf("%s is cut off", n.label)
			n.hangUp()
		}
		return err
	}
	s, err := n.edge.Status(n.ctx)
	if err != nil {
		return err
	}
	switch {
	case s.Compare:
		done, err := n.compare()
		if err == nil && done {
			_, err = n.give()
			n.hangUp()
		}
		return err
	case l.idle && n.chance(2):
		_, err := n.give()
		return err
	}
	return n.pull()
}

// A backup can become the store of a machine again as it is, as the disk of a virtual machine does,
// or be restored, which gives it a new replica ID.

func (n *node) backUp() {
	if n == n.world.hub && n.era.Incarnation == uuid.Nil {
		return // the secret of its MACs is drawn when the first edge comes
	}
	n.logf("%s is backed up", n.label)
	n.backups = append(n.backups, backup{n.disk.copy(), n.now})
}

// comeBack makes a machine go on from a backup.
func (n *node) comeBack() error {
	fresh := slices.DeleteFunc(slices.Clone(n.backups), func(b backup) bool {
		return n == n.world.hub && n.now.Sub(b.made) > n.world.hubOptions().KeepTombstones/2
	})
	if len(fresh) == 0 {
		return nil
	}
	b := pick(n.world, fresh)
	if err := n.operateAs("disable key"); err != nil {
		return err
	}
	if err := n.stop(); err != nil {
		return err
	}
	n.disk = b.disk.copy()
	w := n.world
	w.hubCameBack = w.hubCameBack || n == w.hub
	restored := n.chance(2)
	if restored {
		if err := n.renew(n.disk); err != nil {
			return err
		}
	}
	n.logf("%s goes on from a backup of %s, restored: %t", n.label, b.made, restored)
	if err := n.reread(); err != nil {
		return err
	}
	if n == w.hub && n.store != nil {
		// A file that is put back has to be served before anything else is done to it. Otherwise no
		// era begins where the file stood.
		_, err := n.hub.Hello(n.ctx, uuid.New(), core.Hello{Formats: []uint64{core.Format}}, n.time())
		if !errors.Is(err, core.ErrUnknownEdge) {
			return err
		}
	}
	for range 2 { // what people have done is undone, so they do it again
		if n.store != nil {
			if err := n.operateAs("disable key"); err != nil {
				return err
			}
		}
	}
	return nil
}

// reread takes over what a disk has that did not come from the last store of the machine.
func (n *node) reread() error {
	content, err := n.read()
	if err != nil {
		return err
	}
	n.undone = map[name]bool{}
	for at, v := range n.content {
		if content[at] != v {
			n.undone[at] = true
		}
	}
	n.content, n.unheard = content, nil
	n.signed, n.leaving, n.brings = map[name]*state{}, map[name]bool{}, false
	return n.start()
}

// clone copies the disk of an edge into another machine. Both have the same credential.
func (w *world) clone() error {
	n := pick(w, w.edges)
	w.made++
	c := w.newNode(fmt.Sprintf("edge %d (%s)", w.made, n.label), n.disk.copy())
	n.cloned, c.cloned = true, true
	c.credential, c.skew, c.had = n.credential, w.skew(), slices.Clone(n.had)
	w.logf("%s is cloned: %s", n.label, c.label)
	w.edges = append(w.edges, c)
	if err := c.reread(); err != nil || n.store == nil {
		return err
	}
	// People at both devices think of the same.
	same := map[name]bool{}
	for _, at := range sorted(n.content) {
		if !isDead(n.content[at].table) && w.chance(4) {
			same[at] = true
		}
	}
	n.undone, c.undone = same, same
	for _, what := range []string{"metadata", "scopes", "user metadata"} {
		for _, twin := range []*node{n, c} {
			if err := twin.operateAs(what); err != nil || twin.store == nil {
				return err
			}
		}
	}
	return nil
}

// depart takes an edge away, whose credential is revoked or not.
func (w *world) depart() error {
	if len(w.edges) < 3 || w.hub.store == nil {
		return nil
	}
	n := pick(w, w.edges)
	w.logf("%s departs", n.label)
	if w.chance(2) {
		crashed, err := w.hub.attempt(func() error { return w.hub.hub.DropEdge(w.ctx, n.credential) })
		if err != nil && !crashed && !errors.Is(err, core.ErrUnknownEdge) {
			return err
		}
		if err := w.hub.settle(step{}); err != nil {
			return err
		}
	}
	w.edges = slices.DeleteFunc(w.edges, func(e *node) bool { return e == n })
	return n.stop()
}

func (w *world) changePolicy() error {
	n := pick(w, w.edges)
	if n.unknown() {
		return nil
	}
	p := w.policy()
	for _, e := range w.edges {
		if e.credential == n.credential {
			e.had = append(e.had, p.Groups...)
		}
	}
	w.logf("%s gets the policy %v %d", n.label, p.Groups, p.Push)
	crashed, err := w.hub.attempt(func() error { return w.hub.hub.SetPolicy(w.ctx, n.credential, p.Groups, p.Push) })
	if err != nil && !crashed {
		return err
	}
	return w.hub.settle(step{})
}

// decideClaims confirms or refuses each claim.
func (w *world) decideClaims() error {
	if w.hub.store == nil {
		return nil
	}
	claims, err := w.hub.hub.Claims(w.ctx)
	if err != nil {
		return err
	}
	for _, c := range claims {
		_, known := w.copied(c.Copy)
		confirm := known != nil && w.chance(2) // an administrator knows a thief's claims
		w.logf("claim %d, %s %s: confirmed %t", c.Number, c.Actions, nameOf(c.Copy.Table, c.Copy.Key), confirm)
		s := step{}
		if confirm {
			merged := w.hub.states()
			merged.push(w.copied(c.Copy))
			s.merged = merged.gone
		}
		s.crashed, err = w.hub.attempt(func() error {
			if confirm {
				return w.hub.hub.ConfirmClaim(w.ctx, c.Number)
			}
			return w.hub.hub.RefuseClaim(w.ctx, c.Number)
		})
		if err != nil && !s.crashed {
			return fmt.Errorf("claim %d: %w", c.Number, err)
		}
		if err := w.hub.settle(s); err != nil || s.crashed {
			return err
		}
	}
	return nil
}

// prune lets the hub forget tombstones.
func (w *world) prune() error {
	if w.hub.store == nil {
		return nil
	}
	may := w.hub.states()
	crashed, err := w.hub.attempt(func() error {
		pruned, err := w.hub.hub.Prune(w.ctx, w.hub.time())
		w.logf("%d tombstones are pruned", pruned)
		return err
	})
	if err != nil && !crashed {
		return err
	}
	content, err := w.hub.read()
	if err != nil {
		return err
	}
	for at := range w.hub.content {
		if _, ok := content[at]; ok {
			continue
		}
		if was := may.now[at]; !was.dead || was.foreign {
			return fmt.Errorf("the hub has pruned %s", was.view())
		}
		may.set(at, nil)
	}
	return w.hub.settle(step{crashed: crashed, merged: may.gone})
}

// moveClocks lets time pass, or sets the clock of a machine.
func (w *world) moveClocks() error {
	for _, n := range w.edges {
		n.hangUp() // no message is on its way for hours
	}
	if w.chance(2) {
		w.now = w.now.Add(time.Duration(1+w.random.IntN(100)) * time.Hour)
	} else {
		pick(w, w.edges).skew = w.skew()
	}
	w.logf("it is %s", w.now)
	return nil
}

// replaceTagSecret takes a step of the replacement of a tag secret at the hub. A hub that went on
// from a backup takes none, because it may have lost a step that an edge knows. Then two secrets
// have one number, and the model knows secrets by their numbers.
func (w *world) replaceTagSecret() error {
	if w.hub.store == nil || w.hubCameBack {
		return nil
	}
	s := w.hub.store
	crashed, err := w.hub.attempt(func() error {
		all, err := s.TagSecrets(w.ctx)
		if err != nil {
			return err
		}
		last := all[len(all)-1]
		switch {
		case last.State == latchkey.TagSecretAccepted:
			err = s.UseTagSecret(w.ctx, last.Number)
		case len(all) > 1 && all[0].State != latchkey.TagSecretRetired:
			err = s.RetireTagSecret(w.ctx, all[0].Number)
		default:
			_, err = s.AddTagSecret(w.ctx)
		}
		w.logf("tag secret after %+v: %v", last, err)
		return err
	})
	if err != nil && !crashed && !errors.Is(err, latchkey.ErrInvalidTagSecret) {
		return err
	}
	return w.hub.settle(step{})
}
