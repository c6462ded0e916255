package replication

import (
	"errors"
	"slices"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/merge"
	"github.com/latchkeydb/latchkey/internal/record"
)

// A verdict says what an edge gets of a record.
type verdict uint8

const (
	// passOver is for a record that the edge does not get and does not have, as far as it was never
	// in a group of the edge.
	passOver verdict = iota
	send
	// forget is for a record that the edge may have, because it was in a group of the edge.
	forget
)

// A filter decides which records an edge gets. It is for one transaction.
//
// The group of a user is its own, that of a user's key is the owner's, and a server key has one of
// its own. Records without a group go to edges that get everything.
type filter struct {
	t      *merge.Tables
	policy Policy
	owners map[uuid.UUID]owner
}

// An owner is what the filter needs of the owner of a key.
type owner struct {
	groups record.Groups
	alive  bool
	known  bool
}

func newFilter(t *merge.Tables, p Policy) *filter {
	return &filter{t: t, policy: p, owners: map[uuid.UUID]owner{}}
}

// of returns the verdict on a record. The record of a key with reserved scopes must not be asked
// for, because it does not travel.
//
// Errors: [record.ErrDamaged], [record.ErrNewer]; an error of the tables.
func (f *filter) of(table string, key, sealed []byte) (verdict, error) {
	if f.policy.isAll() {
		return send, nil
	}
	switch table {
	case record.TableGroups:
		return f.present(f.policy.Has(string(key))), nil
	case record.TableUsers:
		u, err := record.Unseal(table, key, sealed, record.DecodeUser)
		if err != nil {
			return passOver, err
		}
		return f.live(u.Groups), nil
	case record.TableDeadUsers:
		d, err := record.Unseal(table, key, sealed, record.DecodeUserTombstone)
		if err != nil {
			return passOver, err
		}
		return f.present(f.hasAny(d.Groups)), nil
	case record.TableKeys:
		k, err := record.Unseal(table, key, sealed, record.DecodeKey)
		if err != nil {
			return passOver, err
		}
		if k.Owner == record.ServerOwner {
			return f.live(k.Groups), nil
		}
		o, err := f.owner(k.Owner)
		return f.present(o.alive && f.policy.Has(o.groups.Now())), err
	case record.TableDeadKeys:
		d, err := record.Unseal(table, key, sealed, record.DecodeKeyTombstone)
		if err != nil {
			return passOver, err
		}
		if d.Owner == record.ServerOwner {
			return f.present(f.hasAny(d.Groups)), nil
		}
		o, err := f.owner(d.Owner)
		if o.alive {
			// When the owner left a group of the edge, the edge forgot all keys of the owner.
			return f.present(f.policy.Has(o.groups.Now())), err
		}
		return f.present(f.hasAny(o.groups)), err
	}
	return passOver, nil
}

func (f *filter) present(has bool) verdict {
	if has {
		return send
	}
	return passOver
}

// live returns the verdict on a live record with groups of its own.
func (f *filter) live(groups record.Groups) verdict {
	switch {
	case f.policy.Has(groups.Now()):
		return send
	case f.hasAny(groups):
		return forget
	}
	return passOver
}

// hasAny reports whether the edge gets the records of one of some groups.
func (f *filter) hasAny(groups record.Groups) bool {
	return f.policy.isAll() || slices.ContainsFunc(groups, func(g record.Register[string]) bool { return f.policy.Has(g.Value) })
}

// owner returns what is known of the owner of a key.
func (f *filter) owner(id uuid.UUID) (o owner, err error) {
	if o, found := f.owners[id]; found {
		return o, nil
	}
	sealed, err := f.t.Get(record.TableUsers, id[:])
	if err != nil {
		return o, err
	}
	if sealed != nil {
		u, err := record.Unseal(record.TableUsers, id[:], sealed, record.DecodeUser)
		if err != nil {
			return o, err
		}
		o = owner{u.Groups, true, true}
	} else if sealed, err = f.t.Get(record.TableDeadUsers, id[:]); err != nil {
		return o, err
	} else if sealed != nil {
		d, err := record.Unseal(record.TableDeadUsers, id[:], sealed, record.DecodeUserTombstone)
		if err != nil {
			return o, err
		}
		o = owner{d.Groups, false, true}
	}
	f.owners[id] = o
	return o, nil
}

// hasMoved reports whether a user that the edge gets may have come from a group that the edge does
// not get, so that the edge needs the keys of the user, too.
func (f *filter) hasMoved(key, sealed []byte) (bool, error) {
	if f.policy.isAll() {
		return false, nil
	}
	u, err := record.Unseal(record.TableUsers, key, sealed, record.DecodeUser)
	if err != nil || len(u.Groups) < 1 {
		return false, err
	}
	// A user that was in one group alone can have been in none before.
	created := len(u.Groups) == 1 && u.Groups[0].Stamp.Counter <= 1
	return !created, nil
}

// travels reports whether a record can go to an edge. A damaged one cannot, and keeps back no
// other.
func travels(t *merge.Tables, table string, key, sealed []byte) (bool, error) {
	goes, err := t.Travels(table, key, sealed)
	if errors.Is(err, record.ErrDamaged) {
		return false, nil
	}
	return goes, err
}

// needsMAC reports whether a hub signs a record: a tombstone, a record that was ever disabled, one
// that has moved to another group, and a key with tokens that were ended. A hub that was restored
// from a backup takes these back from any edge.
func needsMAC(table string, key, sealed []byte) (bool, error) {
	switch table {
	case record.TableDeadUsers, record.TableDeadKeys:
		return true, nil
	case record.TableUsers:
		u, err := record.Unseal(table, key, sealed, record.DecodeUser)
		return err == nil && (wasDisabled(u.Flag) || len(u.Groups) > 1), err
	case record.TableKeys:
		if message, err := record.Open(table, key, sealed); err != nil || record.IsFreshKey(message) {
			return false, err
		}
		k, err := record.Unseal(table, key, sealed, record.DecodeKey)
		return err == nil && (wasDisabled(k.Flag) || len(k.Groups) > 1 || hasEnded(k.Verifiers)), err
	case record.TableGroups:
		g, err := record.UnsealGroup(string(key), sealed)
		return err == nil && wasDisabled(g.Flag), err
	}
	return false, nil
}

func wasDisabled(f record.Flag) bool { return f.Disablings() > 0 }

// hasEnded reports whether a token of a key was ended.
func hasEnded(vs record.Verifiers) bool {
	return vs.Sealed || vs.Floor > 0 || vs.BaseFloor > 0 || len(vs.Superseded) > 0 ||
		slices.ContainsFunc(vs.All, func(v record.Verifier) bool { return v.Retired })
}
