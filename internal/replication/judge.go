package replication

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/merge"
	"github.com/latchkeydb/latchkey/internal/record"
)

// maxAhead is how much greater a number of an edge can be than the hub's own. Nothing honest comes
// so far, and a greater number could use all of them up.
const maxAhead = 1 << 32

// A refusal says why a push is refused. Nothing of the push is taken then.
type refusal string

func (r refusal) Error() string { return string(r) }

func refuse(format string, args ...any) error { return refusal(fmt.Sprintf(format, args...)) }

// A judge decides in the transaction of a push whether an edge may push a record. It looks at what
// the record would change at the hub, so a push that brings no news is always taken.
type judge struct {
	t      *merge.Tables
	domain uuid.UUID
	// replica is the hub's replica ID.
	replica uuid.UUID
	policy  Policy
	filter  *filter
	state   hubState
	// claims says that the records are claims. A claim may be of a record that was in a group of
	// the edge and has moved.
	claims bool
}

func (h *Hub) newJudge(t *merge.Tables, p Policy) (*judge, error) {
	state, err := readHubState(t)
	return &judge{t: t, domain: h.store.DomainID(), replica: h.store.ReplicaID(), policy: p, filter: newFilter(t, p), state: state}, err
}

// check checks a pushed copy, and returns the copy to merge. merges is false if there is nothing to
// merge, because the hub has it all.
//
// Errors: a [refusal]; an error of the tables.
func (j *judge) check(c record.Copy) (merged record.Copy, merges bool, err error) {
	if err := j.form(c); err != nil {
		return c, false, err
	}
	switch c.Table {
	case record.TableGroups:
		merges, err = j.group(c)
	case record.TableUsers:
		return j.user(c)
	case record.TableKeys:
		return j.key(c)
	case record.TableDeadUsers:
		merges, err = j.deadUser(c)
	case record.TableDeadKeys:
		merges, err = j.deadKey(c)
	default:
		err = refuse("the records of table %q cannot be pushed", c.Table)
	}
	return c, merges, err
}

// form checks what a copy is, whatever the policy.
func (j *judge) form(c record.Copy) error {
	switch _, err := record.Open(c.Table, c.Key, c.Sealed); {
	case c.Domain != j.domain:
		return refuse("a record is of domain %s, and the hub is of domain %s", c.Domain, j.domain)
	case errors.Is(err, record.ErrNewer):
		return refuse("the record %s/%x is of a later version than the hub knows", c.Table, c.Key)
	case err != nil:
		return refuse("the record %s/%x is damaged", c.Table, c.Key)
	}
	return nil
}

func theirs[T any](c record.Copy, decode func(uuid.UUID, []byte) (T, error)) (*T, error) {
	r, err := record.Unseal(c.Table, c.Key, c.Sealed, decode)
	if err != nil {
		return nil, refuse("the record %s/%x cannot be read: %v", c.Table, c.Key, err)
	}
	return r, nil
}

// ours returns the hub's record, or nil.
func ours[T any](t *merge.Tables, table string, key []byte, decode func(uuid.UUID, []byte) (T, error)) (*T, error) {
	sealed, err := t.Get(table, key)
	if err != nil || sealed == nil {
		return nil, err
	}
	return record.Unseal(table, key, sealed, decode)
}

func outside(c record.Copy) error {
	return refuse("the record %s/%x is in no group of the edge", c.Table, c.Key)
}

// needs returns a refusal unless the policy lets the edge push something.
func (j *judge) needs(p Push, c record.Copy, what string) error {
	if j.policy.Push < p {
		return refuse("the policy does not let the edge %s: %s/%x", what, c.Table, c.Key)
	}
	return nil
}

func (j *judge) group(c record.Copy) (merges bool, err error) {
	if !j.policy.Has(string(c.Key)) {
		return false, outside(c)
	}
	pushed, err := record.UnsealGroup(string(c.Key), c.Sealed)
	if err != nil {
		return false, refuse("the record %s/%x cannot be read: %v", c.Table, c.Key, err)
	}
	was := &record.Group{Name: pushed.Name}
	sealed, err := j.t.Get(c.Table, c.Key)
	if err != nil {
		return false, err
	}
	if sealed != nil {
		if was, err = record.UnsealGroup(pushed.Name, sealed); err != nil {
			return false, err
		}
	}
	is := was.Merge(*pushed)
	if bytes.Equal(is.Encode(), was.Encode()) {
		return false, nil
	}
	if err := j.flag(c, was.Flag, is.Flag); err != nil {
		return false, err
	}
	was.Flag = is.Flag
	if !bytes.Equal(is.Encode(), was.Encode()) {
		return true, j.needs(PushAll, c, "change the group")
	}
	return true, nil
}

func (j *judge) user(c record.Copy) (record.Copy, bool, error) {
	pushed, err := theirs(c, record.DecodeUser)
	if err != nil {
		return c, false, err
	}
	dead, err := ours(j.t, record.TableDeadUsers, c.Key, record.DecodeUserTombstone)
	if err != nil {
		return c, false, err
	}
	if dead != nil {
		merges, err := j.moreGroups(c, dead.Groups, dead.Merge(pushed.Tombstone()).Groups)
		return c, merges, err
	}
	was, err := ours(j.t, c.Table, c.Key, record.DecodeUser)
	if err != nil {
		return c, false, err
	}
	is := *pushed
	before := record.Stamp{} // the hub's last one; of a record that the hub does not have, none
	if was == nil {
		if err := j.creates(c, pushed.Created, "make users"); err != nil {
			return c, false, err
		}
		// Also in a claim, because its writer can name any former group.
		if !j.policy.Has(pushed.Groups.Now()) {
			return c, false, outside(c)
		}
		was = &record.User{ID: pushed.ID, Created: pushed.Created, Groups: pushed.Groups}
	} else {
		if !j.has(was.Groups) {
			return c, false, outside(c)
		}
		is, before = was.Merge(*pushed), was.Next(uuid.Nil)
		if bytes.Equal(is.Encode(), was.Encode()) {
			return c, false, nil
		}
	}
	derived := pushed.ID.Version() == 8 // so two replicas can have made the user
	if !is.Created.Equal(was.Created) && !derived {
		return c, false, otherCreation(c)
	}
	if err := j.flag(c, was.Flag, is.Flag); err != nil {
		return c, false, err
	}
	delete(j.filter.owners, pushed.ID)
	if err := j.counters(c, before, is.Next(uuid.Nil)); err != nil {
		return c, false, err
	}
	rest := *was
	rest.Flag = is.Flag
	if bytes.Equal(is.Encode(), rest.Encode()) {
		return c, true, nil
	}
	if err := j.needs(PushAll, c, "change users"); err != nil {
		return c, false, err
	}
	if _, err := j.moreGroups(c, was.Groups, is.Groups); err != nil {
		return c, false, err
	}
	if is.Groups.Now() != was.Groups.Now() {
		// The hub's group stays, and is written again under a higher counter.
		again := *pushed
		again.Groups = is.Groups.Set(was.Groups.Now(), is.Next(j.replica))
		c.Sealed = record.Seal(c.Table, c.Key, again.Encode())
	}
	return c, true, j.identities(c, was, &is)
}

// identities refuses an identity of a user in no group of the edge. The identity would belong to
// neither user from then on.
func (j *judge) identities(c record.Copy, was, is *record.User) error {
	for _, i := range is.Linked() {
		if was.Has(i.Provider, i.Subject) {
			continue
		}
		holders, err := j.t.Get(record.TableIdentities, record.IdentityKey(i.Provider, i.Subject))
		if err != nil {
			return err
		}
		for _, id := range record.Holders(holders) {
			o, err := j.filter.owner(id)
			if err != nil {
				return err
			}
			if id != is.ID && !j.policy.Has(o.groups.Now()) {
				return refuse("an identity of the record %s/%x belongs to a user in no group of the edge", c.Table, c.Key)
			}
		}
	}
	return nil
}

// creates checks a record that the hub does not have.
func (j *judge) creates(c record.Copy, created time.Time, what string) error {
	if err := j.needs(PushAll, c, what); err != nil {
		return err
	}
	if j.maybePruned(c.Table, c.Key, created) {
		return refuse("the record %s/%x is so old that it may have been deleted, and its tombstone may be gone", c.Table, c.Key)
	}
	return nil
}

// maybePruned reports whether a record that the hub does not have can have been deleted so long ago
// that the tombstone is gone. An ID that begins with a time tells when the record was made. The
// tombstones of users with other IDs stay for good.
func (j *judge) maybePruned(table string, key []byte, created time.Time) bool {
	id, err := uuid.FromBytes(key)
	switch {
	case err != nil || table == record.TableGroups || j.state.floorTime.IsZero():
		return false
	case id.Version() == 7:
		created = time.UnixMilli(int64(id[0])<<40 | int64(id[1])<<32 | int64(id[2])<<24 | int64(id[3])<<16 | int64(id[4])<<8 | int64(id[5]))
	case table == record.TableUsers || created.IsZero():
		return false
	}
	return !created.After(j.state.floorTime)
}

func otherCreation(c record.Copy) error {
	return refuse("the record %s/%x has another time of creation", c.Table, c.Key)
}

// has reports whether the edge gets records of these groups.
func (j *judge) has(groups record.Groups) bool {
	if j.claims {
		return j.filter.hasAny(groups)
	}
	return j.policy.Has(groups.Now())
}

// moreGroups reports whether a push brings other groups of a record, or other stamps of them. Only
// the hub moves a record. But two replicas can have made one user in different groups, and a hub
// that was restored from a backup has lost moves. So the groups come in beside those that the hub
// has, as long as none of these has to go.
func (j *judge) moreGroups(c record.Copy, was, is record.Groups) (more bool, err error) {
	if slices.Equal(was, is) {
		return false, nil
	}
	for _, g := range was {
		if !slices.ContainsFunc(is, func(r record.Register[string]) bool { return r.Value == g.Value }) {
			return false, refuse("the record %s/%x was in too many other groups than at the hub", c.Table, c.Key)
		}
	}
	if !j.has(was) {
		return false, outside(c)
	}
	return true, j.needs(PushAll, c, "bring other groups")
}

// counters checks that a Lamport counter does not jump.
func (j *judge) counters(c record.Copy, was, is record.Stamp) error {
	if is.Counter > was.Counter && is.Counter-was.Counter > maxAhead {
		return refuse("the record %s/%x has a counter that is too far ahead", c.Table, c.Key)
	}
	return nil
}

// flag checks a change of a flag.
func (j *judge) flag(c record.Copy, was, is record.Flag) error {
	ahead := func(was, is uint64) bool { return is > was && is-was > maxAhead }
	if is.Sealed != was.Sealed || is.Base != was.Base {
		if err := j.needs(PushAll, c, "seal what is disabled"); err != nil {
			return err
		}
	}
	if ahead(was.Base, is.Base) {
		return refuse("the record %s/%x was disabled too many times", c.Table, c.Key)
	}
	for _, w := range is.Writers {
		had := countOf(was, w.Writer)
		if w.Disabled > had.Disabled {
			if err := j.needs(PushRevocations, c, "disable"); err != nil {
				return err
			}
		}
		if w.Enabled > had.Enabled {
			if err := j.needs(PushAll, c, "enable"); err != nil {
				return err
			}
			if w.Enabled > w.Disabled {
				return refuse("the record %s/%x has an enabling of a disabling that nobody knows", c.Table, c.Key)
			}
		}
		if ahead(had.Disabled, w.Disabled) {
			return refuse("the record %s/%x was disabled too many times", c.Table, c.Key)
		}
	}
	return nil
}

// countOf returns what a flag has of a writer.
func countOf(f record.Flag, w record.Writer) record.WriterCount {
	for _, c := range f.Writers {
		if c.Writer == w {
			return c
		}
	}
	return record.WriterCount{Writer: w}
}

// hasOwner checks that the edge gets the keys of an owner.
func (j *judge) hasOwner(c record.Copy, id uuid.UUID, groups record.Groups) error {
	if id == record.ServerOwner {
		if !j.has(groups) {
			return outside(c)
		}
		return nil
	}
	o, err := j.filter.owner(id)
	switch {
	case err != nil:
		return err
	case !o.known:
		return refuse("the owner of the key %x is unknown", c.Key)
	case !j.has(o.groups):
		return outside(c)
	}
	return nil
}

func (j *judge) key(c record.Copy) (record.Copy, bool, error) {
	pushed, err := theirs(c, record.DecodeKey)
	if err != nil {
		return c, false, err
	}
	if merge.IsReserved(pushed.Scopes.Value) {
		return c, false, refuse("the key %x has reserved scopes", c.Key)
	}
	dead, err := ours(j.t, record.TableDeadKeys, c.Key, record.DecodeKeyTombstone)
	if err != nil {
		return c, false, err
	}
	if dead != nil {
		merged, err := dead.Merge(pushed.Tombstone())
		switch {
		case err != nil:
			return c, false, refuse("the key %x has another owner at the hub", c.Key)
		case merged.Foreign != dead.Foreign:
			return c, false, refuse("the key %x came from elsewhere, and not so at the hub", c.Key)
		}
		merges, err := j.moreGroups(c, dead.Groups, merged.Groups)
		return c, merges, err
	}
	was, err := ours(j.t, c.Table, c.Key, record.DecodeKey)
	if err != nil {
		return c, false, err
	}
	is := *pushed
	before := record.Stamp{}
	if was == nil {
		if err := j.creates(c, pushed.Created, "make keys"); err != nil {
			return c, false, err
		}
		if pushed.Owner == record.ServerOwner && !j.policy.Has(pushed.Groups.Now()) {
			return c, false, outside(c)
		}
		was = &record.Key{ID: pushed.ID, Owner: pushed.Owner, Created: pushed.Created, Groups: pushed.Groups}
	} else if merge.IsReserved(was.Scopes.Value) {
		return c, false, refuse("the key %x has reserved scopes", c.Key)
	} else if is, err = was.Merge(*pushed); err != nil {
		return c, false, refuse("the key %x has another owner at the hub", c.Key)
	} else {
		before = was.Next(uuid.Nil)
	}
	if err := j.hasOwner(c, was.Owner, was.Groups); err != nil {
		return c, false, err
	}
	if bytes.Equal(is.Encode(), was.Encode()) {
		return c, false, nil
	}
	if !is.Created.Equal(was.Created) && !is.Foreign { // which two replicas can have taken in
		return c, false, otherCreation(c)
	}
	if err := j.flag(c, was.Flag, is.Flag); err != nil {
		return c, false, err
	}
	if err := j.counters(c, before, is.Next(uuid.Nil)); err != nil {
		return c, false, err
	}
	rest := *was
	rest.Flag = is.Flag
	if used, byUse := firstUse(rest, is); byUse {
		if err := j.needs(PushUse, c, "end a token by the first use of the next one"); err != nil {
			return c, false, err
		}
		rest = used
	}
	if bytes.Equal(is.Encode(), rest.Encode()) {
		return c, true, nil
	}
	if err := j.needs(PushAll, c, "change keys"); err != nil {
		return c, false, err
	}
	if _, err := j.moreGroups(c, was.Groups, is.Groups); err != nil {
		return c, false, err
	}
	return j.superseded(c, was, pushed, &is)
}

// firstUse returns the key with the tokens ended that are ended in another version, as far as the
// first use of the next token ends them. It reports whether there are any.
func firstUse(was, is record.Key) (used record.Key, byUse bool) {
	for _, v := range is.Verifiers.All {
		before, found := was.Verifiers.Find(v.ID)
		if !v.Retired || !found || before.Retired {
			continue
		}
		if slices.ContainsFunc(was.Verifiers.All, func(next record.Verifier) bool { return next.UntilUsed && next.Replaces == v.ID }) {
			was.Verifiers = was.Verifiers.Retire(v.ID)
			byUse = true
		}
	}
	return was, byUse
}

// outdated reports whether a pushed value did not know of the hub's value, which was written by
// another replica.
func outdated[T any](was, pushed record.Register[T]) bool {
	return was.Stamp.Counter > 0 && pushed.Stamp.Compare(was.Stamp) > 0 &&
		pushed.Stamp.Replica != was.Stamp.Replica && pushed.Replaces < was.Stamp.Counter
}

// superseded returns the copy to merge. Where the push did not know of a newer expiry, of newer
// scopes or networks at the hub, the hub's value stays, and is written again under a higher
// counter, so that the edge takes it, too.
func (j *judge) superseded(c record.Copy, was, pushed, is *record.Key) (record.Copy, bool, error) {
	at, again, changed := is.Next(j.replica), *pushed, false
	if outdated(was.Expires, pushed.Expires) {
		again.Expires, changed = was.Expires.Set(was.Expires.Value, at), true
	}
	if outdated(was.Scopes, pushed.Scopes) {
		again.Scopes, changed = was.Scopes.Set(was.Scopes.Value, at), true
	}
	if outdated(was.Networks, pushed.Networks) {
		again.Networks, changed = was.Networks.Set(was.Networks.Value, at), true
	}
	if is.Groups.Now() != was.Groups.Now() {
		again.Groups, changed = is.Groups.Set(was.Groups.Now(), at), true
	}
	if changed {
		c.Sealed = record.Seal(c.Table, c.Key, again.Encode())
	}
	return c, true, nil
}

func (j *judge) deadUser(c record.Copy) (merges bool, err error) {
	pushed, err := theirs(c, record.DecodeUserTombstone)
	if err != nil {
		return false, err
	}
	was, err := ours(j.t, c.Table, c.Key, record.DecodeUserTombstone)
	if err != nil {
		return false, err
	}
	if was != nil {
		is := was.Merge(*pushed)
		if bytes.Equal(is.Encode(), was.Encode()) {
			return false, nil
		}
		if !j.has(was.Groups) {
			return false, outside(c)
		}
		if err := j.needs(PushAll, c, "delete users"); err != nil {
			return false, err
		}
		_, err := j.moreGroups(c, was.Groups, is.Groups)
		return true, err
	}
	if err := j.needs(PushAll, c, "delete users"); err != nil {
		return false, err
	}
	live, err := ours(j.t, record.TableUsers, c.Key, record.DecodeUser)
	if err != nil {
		return false, err
	}
	delete(j.filter.owners, pushed.ID)
	if live == nil {
		if !j.has(pushed.Groups) {
			return false, outside(c)
		}
		return true, nil
	}
	if !j.has(live.Groups) {
		return false, outside(c)
	}
	_, err = j.moreGroups(c, live.Groups, live.Tombstone().Merge(*pushed).Groups)
	return true, err
}

func (j *judge) deadKey(c record.Copy) (merges bool, err error) {
	pushed, err := theirs(c, record.DecodeKeyTombstone)
	if err != nil {
		return false, err
	}
	live, err := ours(j.t, record.TableKeys, c.Key, record.DecodeKey)
	if err != nil {
		return false, err
	}
	was, err := ours(j.t, c.Table, c.Key, record.DecodeKeyTombstone)
	if err != nil {
		return false, err
	}
	news := was == nil
	switch {
	case live != nil && merge.IsReserved(live.Scopes.Value):
		return false, refuse("the key %x has reserved scopes", c.Key)
	case live != nil:
		d := live.Tombstone()
		was = &d
	case was == nil:
		was = pushed
	}
	is, err := was.Merge(*pushed)
	if err != nil {
		return false, refuse("the key %x has another owner at the hub", c.Key)
	}
	if !news && bytes.Equal(is.Encode(), was.Encode()) {
		return false, nil
	}
	if err := j.needs(PushAll, c, "delete keys"); err != nil {
		return false, err
	}
	if err := j.hasOwner(c, was.Owner, was.Groups); err != nil {
		return false, err
	}
	_, err = j.moreGroups(c, was.Groups, is.Groups)
	return true, err
}
