package replication

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/access"
	"github.com/latchkeydb/latchkey/internal/record"
	core "github.com/latchkeydb/latchkey/internal/replication"
)

// A node is a hub or an edge: a machine with a disk, a clock and a store.
type node struct {
	*world
	label string
	disk  *disk
	store *latchkey.Store // nil while the machine is off
	below access.Store
	skew  time.Duration // of the machine's clock

	hub  *core.Hub  // one of both
	edge *core.Edge //

	credential uuid.UUID // of an edge
	instance   uuid.UUID // of the process
	cloned     bool      // another device has or had the same credential
	line       *line     // to the hub, or nil

	content map[name]version
	backups []backup

	signed    map[name]*state   // what has come with the hub's MAC, and the edge must have
	leaving   map[name]bool     // what of that the edge was told to forget
	brings    bool              // what has the hub's MAC, because the hub has perhaps lost it
	had       []string          // the groups that an edge ever got
	held      map[name]*state   // entries of a first copy, which an edge may write later
	forgotten map[name]bool     // what the hub has told an edge to forget
	permitted core.Policy       // what an edge thought at the last change
	undone    map[name]bool     // changes that a backup does not have, and that people make again
	unheard   *core.PushRequest // to which the hub has replied before the edge crashed
}

// A backup is what a disk had.
type backup struct {
	disk *disk
	made time.Time
}

func (w *world) newNode(label string, d *disk) *node {
	return &node{world: w, label: label, disk: d, content: map[name]version{}, signed: map[name]*state{}, leaving: map[name]bool{}, forgotten: map[name]bool{}}
}

// clock returns what the machine takes the time to be.
func (n *node) clock() time.Time { return n.now.Add(n.skew) }

// time returns the time of the store.
func (n *node) time() time.Time {
	if n.edge != nil {
		return n.clock().Add(n.edge.Offset())
	}
	return n.clock()
}

// start switches the machine on.
func (n *node) start() error {
	n.disk = n.disk.copy()
	opts := &latchkey.Options{
		Cost: latchkey.Cost{Memory: 8, Passes: 1, Lanes: 1}, CacheSize: 256,
		InsecureRand: n.entropy, Now: n.time, TestClock: true, LastUseEvery: 1000 * time.Hour,
	}
	if n.secrets != nil {
		opts.Domain = *n.secrets
	}
	isHub := n == n.world.hub
	if !isHub {
		opts.OnChange = n.changed
	}
	n.nameWriter()
	s, err := latchkey.OpenWith(n.disk, opts)
	n.entropy.writer = nil
	if err != nil {
		return fmt.Errorf("opening %s: %w", n.label, err)
	}
	n.store, n.below, n.instance = s, access.Of(s), uuid.New()
	if isHub {
		n.hub, err = core.OpenHub(n.ctx, n.below, n.hubOptions())
	} else {
		n.edge, err = core.OpenEdge(n.ctx, n.below)
	}
	if err != nil {
		return fmt.Errorf("opening %s: %w", n.label, err)
	}
	if err := n.settle(step{}); err != nil {
		return err
	}
	if r := n.unheard; r != nil {
		n.unheard = nil
		if err := n.bug.afterRestart(n, *r); err != nil {
			return err
		}
	}
	return n.settle(step{})
}

// sequence returns the number of the last commit.
func (n *node) sequence() (sequence uint64) {
	_ = n.store.View(n.ctx, func(tx *latchkey.Tx) error {
		sequence = tx.Sequence()
		return nil
	})
	return sequence
}

// stop switches the machine off, in good order unless it has crashed.
func (n *node) stop() error {
	if n.store == nil {
		return nil
	}
	n.hangUp()
	if n == n.world.hub {
		for _, e := range n.edges {
			e.hangUp()
		}
	}
	err := n.store.Close()
	if n.disk.crashed {
		err = nil
	}
	n.store = nil
	return err
}

// changed is the hook of an edge.
func (n *node) changed(tx *latchkey.Tx, c latchkey.Change) error {
	t := access.Tables(tx)
	if t.Merging || n.edge == nil {
		return nil
	}
	change := core.Change{User: c.User, Key: c.Key, Group: c.Group, Scopes: c.Scopes.All()}
	for _, a := range c.Actions {
		change.Actions = append(change.Actions, string(a))
	}
	return n.edge.Changed(t, change)
}

// renew gives the store on a disk a new replica ID, as latchkey.Restore does.
func (n *node) renew(d *disk) error {
	return d.Update(n.ctx, func(tx latchkey.EngineTx) error {
		key := []byte(record.MetaReplica)
		sealed, err := tx.Get(record.TableMeta, key)
		if err != nil {
			return err
		}
		message, err := record.Open(record.TableMeta, key, sealed)
		if err != nil {
			return err
		}
		r, err := record.DecodeReplica(message)
		if err != nil {
			return err
		}
		r.ID = uuid.New()
		return tx.Put(record.TableMeta, key, record.Seal(record.TableMeta, key, r.Encode()))
	})
}

// attempt does something on the machine, which may crash in the middle. If it crashes, it is
// switched off.
func (n *node) attempt(do func() error) (crashed bool, err error) {
	n.disk.after = -1
	if n.faults && n.chance(30) {
		n.disk.after, n.disk.commits = n.random.IntN(3), n.chance(2)
	}
	err = do()
	n.disk.after = -1
	if !n.disk.crashed {
		return false, err
	}
	n.logf("%s crashes", n.label)
	return true, cmp.Or(n.stop(), err)
}

// read returns the records of the store.
func (n *node) read() (map[name]version, error) {
	content := map[name]version{}
	err := n.disk.copy().View(n.ctx, func(tx latchkey.EngineTx) error {
		for table := range kinds {
			for e, err := range scan(tx, table) {
				if err != nil {
					return err
				}
				at := nameOf(table, e.Key)
				if was, twice := content[at]; twice {
					return fmt.Errorf("%s has %s in the tables %s and %s", n.label, at, was.table, table)
				}
				content[at] = version{table, string(e.Value)}
			}
		}
		return nil
	})
	return content, err
}

func scan(tx latchkey.EngineTx, table string) func(func(latchkey.Entry, error) bool) {
	return tx.Scan(table, nil, nil)
}

// state returns what a node knows of a record, or nil.
func (n *node) state(at name) *state {
	v, ok := n.content[at]
	if !ok {
		return nil
	}
	return n.known[place{at, v}]
}

// A step says what may have happened to the records of a node.
type step struct {
	local   bool // somebody has made changes here
	crashed bool // perhaps only a part has happened
	// merged has the states that a record has gone through, the last one last. nil means that the
	// record is gone.
	merged  map[name][]*state
	perhaps map[name]bool // records that may also stay as they are for now
}

// settle looks at what has become of the records of a node, and compares that with what should have
// happened.
func (n *node) settle(s step) error {
	after, err := n.read()
	if err != nil {
		return err
	}
	names := map[name]bool{}
	for at, v := range after {
		if n.content[at] != v {
			names[at] = true
		}
	}
	for at := range n.content {
		if _, ok := after[at]; !ok {
			names[at] = true
		}
	}
	for at := range s.merged {
		names[at] = true
	}
	before := n.content
	n.content = after
	for _, at := range sorted(names) {
		if err := n.settleRecord(s, at, before[at], after[at]); err != nil {
			return fmt.Errorf("%s: %s: %w", n.label, at, err)
		}
		if is := n.state(at); is != nil && n == n.world.hub {
			n.wereIn[at] = append(n.wereIn[at], is.group())
			for _, g := range is.groups {
				n.wereIn[at] = append(n.wereIn[at], g.value)
			}
		}
	}
	return nil
}

func (n *node) settleRecord(s step, at name, was, is version) error {
	before := n.known[place{at, was}]
	var found *state
	var flag record.Flag
	if is.table != "" {
		var err error
		if found, flag, err = read(is.table, []byte(at.id), is.sealed); err != nil {
			return err
		}
	}
	if may, ok := s.merged[at]; ok {
		switch {
		case (s.crashed || s.perhaps[at]) && is == was:
			return nil
		case s.crashed || s.perhaps[at]:
			// Only a part has happened. Several parts can look alike, but not have the same bytes.
			may = slices.DeleteFunc(slices.Clone(may), func(m *state) bool { return m != nil && n.contradicts(place{at, is}, m) })
		}
		if !s.crashed && !s.perhaps[at] || len(may) == 0 {
			may = s.merged[at][len(s.merged[at])-1:]
		}
		for i := len(may) - 1; i >= 0; i-- {
			if may[i].looksLike(found, flag) {
				return n.learn(at, is, may[i])
			}
		}
		want := may[len(may)-1]
		return fmt.Errorf("after the merge it is\n  %s disabled=%t\nand should be\n  %s\nbefore it was\n  %s", found.view(), flag.IsDisabled(), want.view(), before.view())
	}
	if is == was {
		return nil
	}
	if !s.local {
		return fmt.Errorf("it has changed by itself from\n  %s\nto\n  %s", before.view(), found.view())
	}
	if found == nil {
		return errors.New("it is gone after a change that was made here")
	}
	if err := n.observe(before, found, was, flag); err != nil {
		return err
	}
	if err := n.checkPermitted(before, found); err != nil {
		return err
	}
	return n.learn(at, is, found)
}

// looksLike reports whether a record that was read is what the state says.
func (s *state) looksLike(found *state, f record.Flag) bool {
	if s == nil || found == nil {
		return s == nil && found == nil
	}
	f2 := *found
	f2.seen, f2.cancelled = s.seen, s.cancelled
	disabled, enabled := sum(f)
	counts := disabled == uint64(len(s.seen)) && enabled == uint64(len(s.cancelled))
	return f2.view() == s.view() && (s.dead || f.IsDisabled() == s.isDisabled() && counts)
}

// observe completes a record that was changed here by what is known of its disablings.
func (n *node) observe(before, found *state, was version, flag record.Flag) error {
	var old record.Flag
	if before != nil {
		found.seen, found.cancelled = before.seen, before.cancelled
		var err error
		if _, old, err = read(was.table, []byte(found.id), was.sealed); err != nil {
			return err
		}
		if before.dead && !found.dead {
			return errors.New("a deleted record is back")
		}
	}
	if found.dead {
		found.seen, found.cancelled = nil, nil
		return nil
	}
	disabled, enabled := sum(old)
	nowDisabled, nowEnabled := sum(flag)
	if nowDisabled > disabled {
		n.events++
		found.seen = union(found.seen, set{n.events: true})
	}
	if nowEnabled > enabled {
		found.cancelled = union(found.cancelled, found.seen)
	}
	if found.isDisabled() != flag.IsDisabled() {
		return fmt.Errorf("after a change here, disabled is %t: %s", flag.IsDisabled(), found.all())
	}
	return nil
}

// checkPermitted returns an error if a change that was made at an edge is neither a disabling nor
// one that the policy of the edge allows it to push.
func (n *node) checkPermitted(before, found *state) error {
	if n.edge == nil {
		return nil
	}
	p := n.permitted
	if p.Push == core.PushAll && p.Has(n.groupOf(found)) && (before == nil || p.Has(n.groupOf(before))) {
		return nil
	}
	if before == nil && found.kind == "group" {
		before = &state{kind: "group", id: found.id}
	}
	if before != nil && !found.dead {
		same := *before
		same.seen = found.seen
		same.tokens = mergeMaps(same.tokens, found.tokens, func(was, is token) token {
			// The first use of the next token ends a token.
			was.retired, was.untilUsed = is.retired, is.untilUsed
			return was
		})
		if same.all() == found.all() {
			return nil
		}
	}
	return fmt.Errorf("the policy %v %d has let through a change from\n  %s\nto\n  %s", p.Groups, p.Push, before.all(), found.all())
}
