// Package check finds what is wrong in the tables of a store: records that cannot be read, indexes
// that disagree with records, and broken rules.
package check

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/boltengine"
	"github.com/latchkeydb/latchkey/internal/lastuse"
	"github.com/latchkeydb/latchkey/internal/names"
	"github.com/latchkeydb/latchkey/internal/record"
)

// Tables are the tables of a store, in one transaction.
type Tables struct {
	// Get returns the value of a key, or nil if there is none.
	Get func(table string, key []byte) ([]byte, error)
	// Scan yields the entries of a table from a key on, in the order of their keys. The table may
	// be written to on the way.
	Scan func(table string, from []byte) iter.Seq2[Entry, error]
	// NextReadable finds the next part of a table, at the key from or later, that cannot be read.
	// It returns the first key after that part from which the table can be read again, or nil.
	NextReadable func(table string, from []byte) []byte
	// Verifier returns an error unless a verifier that is not retired can be used.
	Verifier func(v record.Verifier) error
	// Hash returns an error unless an entry of the table of hashes can be used.
	Hash func(key, value []byte) error
	// Shared says that the store has or had replicas. Merging replicas can make records that no
	// call makes.
	Shared bool
	// Unfinished says that a record can be gone before the entries in indexes that belong to it.
	Unfinished bool
}

// An Entry is an entry of a table.
type Entry struct{ Key, Value []byte }

// A Finding is something that is wrong.
type Finding struct {
	Err error
	// Fix says how Entry or Key put it right, if it can be made again from the records.
	Fix   Fix
	Entry record.IndexEntry
	Key   *record.Key
}

// A Fix is a way to put something right.
type Fix int

// The ways to put something right.
const (
	NoFix     Fix = iota
	Put           // the entry is missing
	Delete        // the entry must go
	DeleteKey     // the key must go, as a call deletes it
)

// Findings yields everything that is wrong in the tables. The body of the loop may fix a finding
// before the next one is looked for. If a part of a table cannot be read, that is a finding, and
// nothing is compared with the part.
//
// An error that means no damage is yielded once, as the last element.
func Findings(ctx context.Context, t Tables) iter.Seq2[Finding, error] {
	return func(yield func(Finding, error) bool) {
		c := &checker{Tables: t, ctx: ctx, yield: yield}
		c.each(record.TableDeadUsers, c.inspectDeadUser)
		c.each(record.TableUsers, c.inspectUser)
		c.each(record.TableIdentities, c.inspectIdentity)
		c.each(record.TableDeadKeys, c.inspectDeadKey)
		c.each(record.TableKeys, c.inspectKey)
		c.each(record.TableNames, c.inspectName)
		c.each(record.TableGroups, c.inspectGroup)
		c.each(record.TableMembers, c.inspectMember)
		c.each(record.TableHandles, c.inspectHandle)
		c.each(record.TableHashes, c.inspectHash)
		c.each(record.TableLastUse, c.inspectLastUse)
		c.each(record.TableLater, c.inspectLater)
		c.each(record.TableReplica, func(e Entry) { c.inspectSealed(record.TableReplica, e) })
		c.each(record.TableData, func(e Entry) { c.inspectSealed(record.TableData, e) })
		if c.err != nil && c.err != errStopped {
			yield(Finding{}, c.err)
		}
	}
}

// errStopped means that the body of the loop has left it.
var errStopped = errors.New("stopped")

// checker is a run of Findings.
type checker struct {
	Tables
	ctx   context.Context
	yield func(Finding, error) bool

	previousName []byte // owner and name in the last entry of the index of names
	err          error  // ends the run
}

// report yields a finding, unless the run has ended.
func (c *checker) report(f Finding) {
	if c.err == nil && !c.yield(f, nil) {
		c.err = errStopped
	}
}

// reportError yields a finding that cannot be put right.
func (c *checker) reportError(err error) { c.report(Finding{Err: err}) }

// reportText yields a finding that cannot be put right.
func (c *checker) reportText(format string, args ...any) { c.reportError(fmt.Errorf(format, args...)) }

// reportMissing yields the finding that an index has no entry.
func (c *checker) reportMissing(e record.IndexEntry, format string, args ...any) {
	c.report(Finding{Err: fmt.Errorf(format, args...), Fix: Put, Entry: e})
}

// reportWrong yields the finding that a table has an entry that must go.
func (c *checker) reportWrong(table string, key []byte, format string, args ...any) {
	c.report(Finding{Err: fmt.Errorf(format, args...), Fix: Delete, Entry: record.IndexEntry{Table: table, Key: key}})
}

// each calls inspect with every entry of a table that can be read, until an error ends the run.
func (c *checker) each(table string, inspect func(Entry)) {
	for from, more := []byte(nil), true; more; {
		more = false
		for e, err := range c.Scan(table, from) {
			if c.err == nil {
				c.err = c.ctx.Err()
			}
			if c.err != nil {
				return
			}
			if err != nil {
				c.failed(fmt.Errorf("table %s: %w", table, err))
				from = c.NextReadable(table, from)
				more = from != nil
				break
			}
			from = e.Key
			inspect(e)
		}
	}
}

// failed yields err as a finding if it means damage. Any other error ends the run.
func (c *checker) failed(err error) {
	switch {
	case errors.Is(err, boltengine.ErrCorrupt):
		c.reportError(err)
	case c.err == nil:
		c.err = err
	}
}

// get returns the value of an entry, and reports whether the entry could be read. It yields no
// finding if the entry could not be read, because each yields one for all entries in that place.
func (c *checker) get(table string, key []byte) (value []byte, ok bool) {
	value, err := c.Get(table, key)
	if err != nil && !errors.Is(err, boltengine.ErrCorrupt) {
		c.failed(err)
	}
	return value, err == nil
}

// user returns a user, or nil if there is none. It reports whether the record could be read. If
// not, there is a finding about the record, or the record may be gone because of a deletion that is
// not finished.
func (c *checker) user(id []byte) (u *record.User, ok bool) {
	return look(c, record.TableUsers, id, record.DecodeUser)
}

// key returns a key, as user returns a user.
func (c *checker) key(id []byte) (k *record.Key, ok bool) {
	return look(c, record.TableKeys, id, record.DecodeKey)
}

func look[T any](c *checker, table string, id []byte, decode func(uuid.UUID, []byte) (T, error)) (r *T, ok bool) {
	if _, err := record.DecodeID(id); err != nil {
		return nil, true
	}
	sealed, ok := c.get(table, id)
	if !ok || sealed == nil {
		return nil, ok && !c.Unfinished
	}
	r, err := record.Unseal(table, id, sealed, decode)
	return r, err == nil
}

// inspectDeadUser inspects the tombstone of a user. Deletion wins over a record.
func (c *checker) inspectDeadUser(e Entry) {
	if _, err := record.Unseal(record.TableDeadUsers, e.Key, e.Value, record.DecodeUserTombstone); err != nil {
		c.reportError(err)
		return
	}
	if value, ok := c.get(record.TableUsers, e.Key); ok && value != nil {
		c.reportWrong(record.TableUsers, e.Key, "user %s has a record and a tombstone", uuid.UUID(e.Key))
	}
}

// inspectDeadKey inspects the tombstone of a key. Deletion wins over a record.
func (c *checker) inspectDeadKey(e Entry) {
	if _, err := record.Unseal(record.TableDeadKeys, e.Key, e.Value, record.DecodeKeyTombstone); err != nil {
		c.reportError(err)
		return
	}
	if value, ok := c.get(record.TableKeys, e.Key); ok && value != nil {
		c.reportWrong(record.TableKeys, e.Key, "key %s has a record and a tombstone", uuid.UUID(e.Key))
	}
}

func (c *checker) inspectUser(e Entry) {
	u, err := record.Unseal(record.TableUsers, e.Key, e.Value, record.DecodeUser)
	if err != nil {
		c.reportError(err)
		return
	}
	if len(u.Linked()) == 0 && !c.Shared {
		c.reportText("user %s has no identity", u.ID)
	}
	for _, entry := range u.Index() {
		value, ok := c.get(entry.Table, entry.Key)
		provider, subject, _ := record.SplitIdentityKey(entry.Key)
		switch {
		case !ok:
		case entry.Table != record.TableIdentities:
			c.inspectIndexed(entry, value, "user", u.ID)
		case c.Shared && slices.Contains(record.Holders(value), u.ID), bytes.Equal(value, u.ID[:]):
		case c.Shared:
			entry.Value = record.WithHolder(value, u.ID)
			c.reportMissing(entry, "identity (%s, %q) of user %s is not in the index", provider, subject, u.ID)
		case !c.hasIdentity(value, entry.Key):
			c.reportMissing(entry, "identity (%s, %q) of user %s is not in the index", provider, subject, u.ID)
		default:
			c.reportText("identity (%s, %q) of user %s is also user %x's", provider, subject, u.ID, value)
		}
	}
}

// inspectIndexed inspects whether an index has an entry of a user or key.
func (c *checker) inspectIndexed(e record.IndexEntry, value []byte, kind string, id uuid.UUID) {
	if value == nil {
		c.reportMissing(e, "%s %s is not in the index of %s", kind, id, e.Table)
	}
}

// hasIdentity reports whether a user exists and has the identity with this key in the index.
func (c *checker) hasIdentity(user, identity []byte) bool {
	u, _ := c.user(user)
	return u != nil && has(u.Index(), record.TableIdentities, identity)
}

func has(index []record.IndexEntry, table string, key []byte) bool {
	return slices.ContainsFunc(index, func(e record.IndexEntry) bool { return e.Table == table && bytes.Equal(e.Key, key) })
}

func (c *checker) inspectIdentity(e Entry) {
	if c.Shared && len(e.Value) > len(uuid.UUID{}) {
		c.inspectConflict(e)
		return
	}
	if _, ok := c.user(e.Value); ok && !c.hasIdentity(e.Value, e.Key) {
		id, _ := uuid.FromBytes(e.Value)
		c.reportWrong(record.TableIdentities, e.Key, "the index of identities has %q for user %s, who has no such identity", e.Key, id)
	}
}

// inspectConflict inspects the entry of an identity that several users have.
func (c *checker) inspectConflict(e Entry) {
	whole := e.Value
	for _, user := range record.Holders(e.Value) {
		if _, ok := c.user(user[:]); ok && !c.hasIdentity(user[:], e.Key) {
			whole, _ = record.WithoutHolder(whole, user)
		}
	}
	whole = whole[:len(whole)/len(uuid.UUID{})*len(uuid.UUID{})]
	switch {
	case len(whole) == len(e.Value):
	case len(whole) == 0:
		c.reportWrong(record.TableIdentities, e.Key, "the index of identities has %q for users who have no such identity", e.Key)
	default:
		c.reportMissing(record.IndexEntry{Table: record.TableIdentities, Key: e.Key, Value: whole},
			"the index of identities has %q also for users who have no such identity", e.Key)
	}
}

func (c *checker) inspectKey(e Entry) {
	k, err := record.Unseal(record.TableKeys, e.Key, e.Value, record.DecodeKey)
	if err != nil {
		c.reportError(err)
		return
	}
	for _, v := range k.Verifiers.All {
		if v.Retired {
			continue
		}
		if err := c.Verifier(v); err != nil {
			c.reportError(fmt.Errorf("key %s: %w", k.ID, err))
		}
	}
	if len(k.Verifiers.All) == 0 && !c.Shared {
		c.reportText("key %s has no verifier", k.ID)
	}
	if problem := names.Problem(names.Stored, k.Name.Value); problem != "" {
		c.reportText("key %s: its name %s %s", k.ID, names.Quote(k.Name.Value), problem)
	}
	for _, entry := range k.Index() {
		if value, ok := c.get(entry.Table, entry.Key); ok {
			c.inspectIndexed(entry, value, "key", k.ID)
		}
	}
	if k.Owner == record.ServerOwner || c.Shared {
		return
	}
	switch u, ok := c.user(k.Owner[:]); {
	case !ok:
	case u == nil:
		c.inspectOrphan(k)
	case u.IsAnonymous():
		c.reportText("key %s belongs to user %s, who is anonymous", k.ID, k.Owner)
	}
}

// inspectOrphan inspects a key whose user does not exist. A deleted user takes the keys along.
func (c *checker) inspectOrphan(k *record.Key) {
	dead, ok := c.get(record.TableDeadUsers, k.Owner[:])
	switch {
	case !ok:
	case dead != nil:
		err := fmt.Errorf("key %s belongs to user %s, who was deleted", k.ID, k.Owner)
		c.report(Finding{Err: err, Fix: DeleteKey, Key: k})
	default:
		c.reportText("key %s belongs to user %s, who does not exist", k.ID, k.Owner)
	}
}

func (c *checker) inspectName(e Entry) {
	name, id, err := record.SplitNameKey(e.Key)
	if err != nil {
		c.reportWrong(record.TableNames, e.Key, "the index of names has the entry %x", e.Key)
		return
	}
	ownerAndName := e.Key[:len(e.Key)-len(id)]
	if bytes.Equal(ownerAndName, c.previousName) && !c.Shared {
		c.reportText("key %s has the name %q, like another key of its owner", id, name)
	}
	c.previousName = bytes.Clone(ownerAndName)
	if k, ok := c.key(id[:]); ok && (k == nil || !has(k.Index(), record.TableNames, e.Key)) {
		c.reportWrong(record.TableNames, e.Key, "the index of names has %q for key %s, which has another name or owner, or is gone", name, id)
	}
}

// inspectLater inspects a record of a later version, of which only the checksum can be judged.
func (c *checker) inspectLater(e Entry) {
	table, key, _ := bytes.Cut(e.Key, []byte{0})
	if _, err := record.Open(string(table), key, e.Value); err != nil && !errors.Is(err, record.ErrNewer) {
		c.reportError(err)
	}
}

// inspectSealed inspects a record of which only the checksum can be judged.
func (c *checker) inspectSealed(table string, e Entry) {
	if _, err := record.Open(table, e.Key, e.Value); err != nil {
		c.reportError(err)
	}
}

func (c *checker) inspectGroup(e Entry) {
	if _, err := record.UnsealGroup(string(e.Key), e.Value); err != nil {
		c.reportError(err)
	}
}

func (c *checker) inspectMember(e Entry) {
	group, id, err := record.SplitMemberKey(e.Key)
	if err != nil {
		c.reportWrong(record.TableMembers, e.Key, "the index of members has the entry %x", e.Key)
		return
	}
	if u, ok := c.user(id[:]); !ok || u != nil && has(u.Index(), record.TableMembers, e.Key) {
		return
	}
	if k, ok := c.key(id[:]); !ok || k != nil && has(k.Index(), record.TableMembers, e.Key) {
		return
	}
	c.reportWrong(record.TableMembers, e.Key, "the index of members has %s in group %q, but it is in another or is gone", id, group)
}

func (c *checker) inspectHandle(e Entry) {
	_, id, err := record.SplitHandleKey(e.Key)
	if err != nil {
		c.reportWrong(record.TableHandles, e.Key, "the index of handles has the entry %x", e.Key)
		return
	}
	if k, ok := c.key(id[:]); ok && (k == nil || !has(k.Index(), record.TableHandles, e.Key)) {
		c.reportWrong(record.TableHandles, e.Key, "the index of handles has an entry for key %s, which has another handle or is gone", id)
	}
}

// inspectHash inspects a hash at the store's own cost. It can be made again by a login.
func (c *checker) inspectHash(e Entry) {
	c.inspectOfVerifier(record.TableHashes, "hash", e, c.Hash(e.Key, e.Value))
}

// inspectLastUse inspects the last use of a token. A damaged one cannot be made again, but a use
// that is not known does no harm.
func (c *checker) inspectLastUse(e Entry) {
	message, err := record.Open(record.TableLastUse, e.Key, e.Value)
	if err == nil {
		_, err = record.DecodeLastUse(message)
	}
	c.inspectOfVerifier(record.TableLastUse, "last use", e, err)
}

// inspectOfVerifier inspects an entry of a table that keeps something of each verifier. err says
// why the entry cannot be read.
func (c *checker) inspectOfVerifier(table, what string, e Entry, err error) {
	if err != nil || len(e.Key) != len(lastuse.ID{}) {
		c.reportWrong(table, e.Key, "the %s %x cannot be read", what, e.Key)
		return
	}
	id := lastuse.ID(e.Key).Key()
	if k, ok := c.key(id[:]); ok && k == nil {
		c.reportWrong(table, e.Key, "there is a %s of key %s, which is gone", what, id)
	}
}
