package replication

import (
	"bytes"
	"slices"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/access"
	"github.com/latchkeydb/latchkey/internal/merge"
	"github.com/latchkeydb/latchkey/internal/record"
	core "github.com/latchkeydb/latchkey/internal/replication"
)

// A Bug is a fault that is planted into a run, so that a test sees that the run finds it. It
// changes what travels, or what a store has after a merge, to what a wrong implementation would
// send or have. The zero Bug is none.
type Bug struct {
	Name string

	writers bool                                           // a writer has the name of its machine
	hello   func(n *node, hello *core.Hello)               // by an edge
	message func(n *node, m core.Message) []core.Message   // on its way to an edge
	theft   func(n *node, request *core.PushRequest) error // moves a user
	merged  func(n *node, copies []record.Copy) error      // the node has its earlier content
	restart func(n *node, request core.PushRequest) error  // of an edge that crashed
}

func (b Bug) onHello(n *node, hello *core.Hello) {
	if b.hello != nil {
		b.hello(n, hello)
	}
}

func (b Bug) onTheWay(n *node, m core.Message) []core.Message {
	if b.message == nil {
		return []core.Message{m}
	}
	return b.message(n, m)
}

func (b Bug) onTheft(n *node, request *core.PushRequest) error {
	if b.theft == nil {
		return nil
	}
	return b.theft(n, request)
}

func (b Bug) afterMerge(n *node, copies []record.Copy) error {
	if b.merged == nil {
		return nil
	}
	return b.merged(n, copies)
}

func (b Bug) afterRestart(n *node, request core.PushRequest) error {
	if b.restart == nil {
		return nil
	}
	return b.restart(n, request)
}

// nameWriter makes the writer that the next opening draws.
func (n *node) nameWriter() {
	if n.bug.writers {
		n.entropy.writer = []byte((n.label + "        ")[:8])
	}
}

// Bugs are the planted bugs.
var Bugs = []Bug{
	{Name: "the greater number of disablings and enablings wins", merged: eachRecord(func(n *node, c record.Copy, was, is string) string {
		return changed(c, is, func(r *parts) {
			ours, theirs := decoded(c.Table, c.Key, was), decoded(c.Table, c.Key, string(c.Sealed))
			if epoch(*theirs.flag) > epoch(*ours.flag) {
				*r.flag = *theirs.flag
			} else {
				*r.flag = *ours.flag
			}
		})
	})},
	{Name: "a writer is named by its replica, also after a backup", writers: true},
	{Name: "the filter drops tombstones", message: func(n *node, m core.Message) []core.Message {
		if r, ok := m.(core.Record); ok && isDead(r.Copy.Table) && len(n.content) > 0 {
			return nil
		}
		return []core.Message{m}
	}},
	{Name: "of two equal stamps the one that came last wins", merged: eachRecord(func(n *node, c record.Copy, was, is string) string {
		return changed(c, is, func(r *parts) {
			theirs := decoded(c.Table, c.Key, string(c.Sealed))
			if r.user != nil {
				lastWins(&r.user.Metadata, theirs.user.Metadata)
			}
			if r.key != nil {
				lastWins(&r.key.Name, theirs.key.Name)
				lastWins(&r.key.Expires, theirs.key.Expires)
				lastWins(&r.key.Scopes, theirs.key.Scopes)
				lastWins(&r.key.Networks, theirs.key.Networks)
				lastWins(&r.key.Metadata, theirs.key.Metadata)
			}
		})
	})},
	{Name: "two replicas delete a record, and one of the two stays", merged: func(n *node, copies []record.Copy) error {
		for _, c := range copies {
			at := nameOf(c.Table, c.Key)
			if !isDead(c.Table) || !isDead(n.content[at].table) {
				continue
			}
			for p, s := range n.known {
				if p.name != at || s.dead {
					continue
				}
				return n.tamper(func(t *merge.Tables) error {
					if err := t.Delete(c.Table, c.Key); err != nil {
						return err
					}
					return t.Put(p.table, c.Key, []byte(p.sealed))
				})
			}
		}
		return nil
	}},
	{Name: "of two rotations at once one token is lost", merged: eachRecord(func(n *node, c record.Copy, was, is string) string {
		if c.Table != record.TableKeys {
			return is
		}
		return changed(c, is, func(r *parts) {
			ours, theirs := decoded(c.Table, c.Key, was).key, decoded(c.Table, c.Key, string(c.Sealed)).key
			news := func(a, b *record.Key) bool {
				return slices.ContainsFunc(a.Verifiers.All, func(v record.Verifier) bool { _, ok := b.Verifiers.Find(v.ID); return !ok })
			}
			if news(ours, theirs) && news(theirs, ours) {
				r.key.Verifiers = ours.Verifiers
			}
		})
	})},
	{Name: "a thief's rotation outlives one without overlap", merged: eachRecord(func(n *node, c record.Copy, was, is string) string {
		if c.Table != record.TableKeys {
			return is
		}
		return changed(c, is, func(r *parts) {
			ours, theirs := decoded(c.Table, c.Key, was).key, decoded(c.Table, c.Key, string(c.Sealed)).key
			for _, v := range append(slices.Clone(ours.Verifiers.All), theirs.Verifiers.All...) {
				_, a := ours.Verifiers.Find(v.ID)
				_, b := theirs.Verifiers.Find(v.ID)
				if i := slices.IndexFunc(r.key.Verifiers.All, func(m record.Verifier) bool { return m.ID == v.ID }); i >= 0 && a != b {
					r.key.Verifiers.All[i] = v
					r.key.Verifiers.Superseded = slices.DeleteFunc(slices.Clone(r.key.Verifiers.Superseded), func(s record.Base) bool { return s == v.Base })
				}
			}
		})
	})},
	{Name: "a cursor survives a restored hub", hello: func(n *node, hello *core.Hello) {
		if era := n.world.era; era.Incarnation != uuid.Nil && hello.Cursor.Incarnation != uuid.Nil {
			hello.Cursor.Incarnation, hello.Cursor.Era = era.Incarnation, era.Era
			hello.Cursor.At.Sequence = min(hello.Cursor.At.Sequence, n.world.hub.sequence())
		}
	}},
	{Name: "a record that was forgotten comes back without its revocation", merged: func(n *node, copies []record.Copy) error {
		for _, c := range copies {
			if at := nameOf(c.Table, c.Key); !n.forgotten[at] || isDead(c.Table) {
				continue
			}
			err := n.tamper(func(t *merge.Tables) error {
				is, err := t.Get(c.Table, c.Key)
				if err != nil || is == nil {
					return err
				}
				return t.Put(c.Table, c.Key, []byte(changed(c, string(is), func(p *parts) { *p.flag = record.Flag{} })))
			})
			if err != nil {
				return err
			}
		}
		return nil
	}},
	{Name: "an edge moves a user into its group", theft: func(n *node, request *core.PushRequest) error {
		return n.world.hub.tamper(func(t *merge.Tables) error {
			for _, c := range request.Records {
				if _, err := t.Record(c); err != nil {
					return err
				}
			}
			return nil
		})
	}},
	{Name: "an edge's clock is believed", message: func(n *node, m core.Message) []core.Message {
		switch b := m.(type) {
		case core.Beat:
			b.Time = n.clock()
			return []core.Message{b}
		case core.Welcome:
			b.Time = n.clock()
			return []core.Message{b}
		}
		return []core.Message{m}
	}},
	{Name: "a last use from the future counts", merged: func(n *node, copies []record.Copy) error {
		return n.tamper(func(t *merge.Tables) error {
			for _, c := range copies {
				if c.Table == record.TableLastUse {
					if err := t.Put(c.Table, c.Key, c.Sealed); err != nil {
						return err
					}
				}
			}
			return nil
		})
	}},
	{Name: "a change is made again after a crash", restart: func(n *node, request core.PushRequest) error {
		for _, c := range request.Records {
			s := n.state(nameOf(c.Table, c.Key))
			if s == nil || s.dead || s.kind == "group" {
				continue
			}
			err := n.tamper(func(t *merge.Tables) error {
				is, err := t.Get(c.Table, c.Key)
				if err != nil || is == nil {
					return err
				}
				return t.Put(c.Table, c.Key, []byte(changed(c, string(is), func(p *parts) { *p.flag = p.flag.Disable(record.Writer{1}) })))
			})
			if err != nil {
				return err
			}
		}
		return nil
	}},
}

func lastWins[T any](ours *record.Register[T], theirs record.Register[T]) {
	if ours.Stamp == theirs.Stamp {
		*ours = theirs
	}
}

// tamper changes the tables of a store behind the back of everything.
func (n *node) tamper(change func(t *merge.Tables) error) error {
	return access.Of(n.store).Update(n.ctx, change)
}

// eachRecord makes a Bug.merged of a function that returns what a live record becomes, when a
// node had it already.
func eachRecord(become func(n *node, c record.Copy, was, is string) string) func(*node, []record.Copy) error {
	return func(n *node, copies []record.Copy) error {
		for _, c := range copies {
			was := n.content[nameOf(c.Table, c.Key)]
			if was.table != c.Table || isDead(c.Table) {
				continue
			}
			err := n.tamper(func(t *merge.Tables) error {
				is, err := t.Get(c.Table, c.Key)
				if err != nil || is == nil {
					return err
				}
				wrong := become(n, c, was.sealed, string(is))
				if wrong == string(is) {
					return nil
				}
				return t.Put(c.Table, c.Key, []byte(wrong))
			})
			if err != nil {
				return err
			}
		}
		return nil
	}
}

// parts are a decoded record.
type parts struct {
	user  *record.User
	key   *record.Key
	group *record.Group
	flag  *record.Flag
}

func decoded(table string, key []byte, sealed string) (p parts) {
	message, err := record.Open(table, key, []byte(sealed))
	if err != nil {
		return parts{flag: &record.Flag{}}
	}
	id, _ := uuid.FromBytes(key)
	switch table {
	case record.TableUsers:
		u, _ := record.DecodeUser(id, message)
		p.user, p.flag = &u, &u.Flag
	case record.TableKeys:
		k, _ := record.DecodeKey(id, message)
		p.key, p.flag = &k, &k.Flag
	case record.TableGroups:
		g, _ := record.DecodeGroup(string(key), message)
		p.group, p.flag = &g, &g.Flag
	}
	return p
}

// changed returns a record after a change.
func changed(c record.Copy, sealed string, change func(*parts)) string {
	p := decoded(c.Table, c.Key, sealed)
	change(&p)
	var message []byte
	switch {
	case p.user != nil:
		message = p.user.Encode()
	case p.key != nil:
		message = p.key.Encode()
	case p.group != nil:
		message = p.group.Encode()
	}
	if is := record.Seal(c.Table, c.Key, message); !bytes.Equal(is, []byte(sealed)) {
		return string(is)
	}
	return sealed
}

// epoch is what the rule of before counted.
func epoch(f record.Flag) uint64 {
	disabled, enabled := sum(f)
	return disabled + enabled
}
