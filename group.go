package latchkey

import (
	"context"
	"fmt"
	"iter"
	"strings"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/names"
	"github.com/latchkeydb/latchkey/internal/record"
)

// MaxGroup is how many bytes the name of a group can have.
const MaxGroup = record.MaxGroup

// A Group is a tenant, a site or a project to which users and server keys belong. The keys of a
// user belong to the user's group. A group exists by its name alone: it need not be made, and
// cannot be deleted.
type Group struct {
	Name     string `json:"name"`
	Disabled bool   `json:"disabled"` // the keys in a disabled group do not log in
}

// DisableGroup stops the server keys in a group, and the keys of the users in it, from logging in,
// until the group is enabled. This holds for members that come later, too. DisableGroup takes no
// longer for many keys than for one, because it changes none of them. When DisableGroup returns
// nil, the change is on disk, and no login with a key in the group that begins afterwards succeeds.
//
// It returns [ErrInvalidGroup], or an error of [Store.Update].
func (s *Store) DisableGroup(ctx context.Context, name string) error {
	err := s.Update(ctx, func(tx *Tx) error { return tx.DisableGroup(name) })
	return wrapf(err, "disable group %s", names.Quote(name))
}

// DisableGroup is [Store.DisableGroup] in a transaction.
func (tx *Tx) DisableGroup(name string) error { return tx.setGroupDisabled(name, true) }

// EnableGroup lets the keys in a disabled group log in again, unless they or their users are
// disabled. Enabling an enabled group changes nothing.
//
// It returns [ErrInvalidGroup], or an error of [Store.Update].
func (s *Store) EnableGroup(ctx context.Context, name string) error {
	err := s.Update(ctx, func(tx *Tx) error { return tx.EnableGroup(name) })
	return wrapf(err, "enable group %s", names.Quote(name))
}

// EnableGroup is [Store.EnableGroup] in a transaction.
func (tx *Tx) EnableGroup(name string) error { return tx.setGroupDisabled(name, false) }

func (tx *Tx) setGroupDisabled(name string, disable bool) (err error) {
	defer tx.wholeSince(tx.writes, &err)
	if name == "" {
		return fmt.Errorf("%w: the name is empty", ErrInvalidGroup)
	}
	if err := checkGroup(name); err != nil {
		return err
	}
	g, err := tx.getGroup(name)
	if err != nil {
		return err
	}
	if g == nil {
		g = &record.Group{}
	}
	if !tx.setDisabled(&g.Flag, disable) {
		return nil
	}
	tx.forgetGroup(name)
	return tx.putRecord(tableGroups, []byte(name), g.Encode())
}

// Group returns the state of a group. A group that was never disabled is enabled, even if it has no
// members. So is the group "", which stands for no group.
//
// It returns an error of [Store.View].
func (s *Store) Group(ctx context.Context, name string) (Group, error) {
	g, err := read(ctx, s, func(tx *Tx) (Group, error) { return tx.Group(name) })
	return g, wrapf(err, "group %s", names.Quote(name))
}

// Group is [Store.Group] in a transaction.
func (tx *Tx) Group(name string) (Group, error) {
	g, err := tx.getGroup(name)
	if err != nil || g == nil {
		return Group{Name: name}, err
	}
	return Group{name, g.Flag.IsDisabled()}, nil
}

// Groups yields all groups that have members or were disabled, in the order of their names, and
// only the groups with a name greater than after. Pass "" to begin. No transaction is open while
// the body of the loop runs, so the body may call the store.
//
// An error, one of [Store.View], is yielded once, as the last element.
func (s *Store) Groups(ctx context.Context, after string) iter.Seq2[Group, error] {
	return inPages(ctx, s, "groups", after, (*Tx).Groups, func(g Group) string { return g.Name })
}

// Groups is [Store.Groups] in a transaction.
func (tx *Tx) Groups(after string) iter.Seq2[Group, error] {
	return func(yield func(Group, error) bool) {
		for next := ""; ; after, next = next, "" {
			for _, table := range []string{tableMembers, tableGroups} {
				// Behind after and its members, and before a longer name that begins with after.
				for e, err := range tx.etx.Scan(table, append([]byte(after), 1), nil) {
					if err != nil {
						yield(Group{}, err)
						return
					}
					if name, _, _ := strings.Cut(string(e.Key), "\x00"); next == "" || name < next {
						next = name
					}
					break
				}
			}
			if next == "" {
				return
			}
			if g, err := tx.Group(next); !yield(g, err) || err != nil {
				return
			}
		}
	}
}

// SetKeyGroup moves a server key to a group, or out of its group if group is "". A login that
// begins after SetKeyGroup has returned is judged by the state of the new group. The keys of a user
// follow [Store.SetUserGroup].
//
// It returns [ErrKeyNotFound] if there is no such server key, even if a user has it;
// [ErrInvalidGroup]; or an error of [Store.Update].
func (s *Store) SetKeyGroup(ctx context.Context, id uuid.UUID, group string) error {
	err := s.Update(ctx, func(tx *Tx) error { return tx.SetKeyGroup(id, group) })
	return wrapf(err, "set the group of key %s", id)
}

// SetKeyGroup is [Store.SetKeyGroup] in a transaction.
func (tx *Tx) SetKeyGroup(id uuid.UUID, group string) error {
	return tx.changeKey(ServerOwner, id, func(k *record.Key, at record.Stamp) (bool, error) {
		return tx.setGroup(&k.Groups, id, group, at)
	})
}

// SetUserGroup moves a user, and so the user's keys, to a group, or out of the user's group if
// group is "". A login that begins after SetUserGroup has returned is judged by the state of the
// new group.
//
// It returns [ErrUserNotFound], [ErrInvalidGroup], or an error of [Store.Update].
func (s *Store) SetUserGroup(ctx context.Context, user uuid.UUID, group string) error {
	err := s.Update(ctx, func(tx *Tx) error { return tx.SetUserGroup(user, group) })
	return wrapf(err, "set the group of user %s", user)
}

// SetUserGroup is [Store.SetUserGroup] in a transaction.
func (tx *Tx) SetUserGroup(user uuid.UUID, group string) error {
	_, err := tx.changeUser(user, func(u *record.User, at record.Stamp) (bool, error) {
		return tx.setGroup(&u.Groups, user, group, at)
	})
	return err
}

// checkGroup returns ErrInvalidGroup unless group can be the name of a group, or is "", which is no
// group.
func checkGroup(group string) error {
	return problemError(ErrInvalidGroup, names.GroupProblem(group, MaxGroup))
}

// getGroup returns the record of a group, or nil if there is none.
func (tx *Tx) getGroup(name string) (*record.Group, error) {
	if name == "" || len(name) > MaxGroup {
		return nil, nil
	}
	sealed, err := tx.etx.Get(tableGroups, []byte(name))
	if err != nil || sealed == nil {
		return nil, err
	}
	g, err := record.UnsealGroup(name, sealed)
	return g, recordError(err)
}

// setGroup moves a user or a server key to a group, and reports whether it was in another. An empty
// group is none.
//
// It returns ErrInvalidGroup.
func (tx *Tx) setGroup(groups *record.Groups, id uuid.UUID, group string, at record.Stamp) (changed bool, err error) {
	if groups.Now() == group {
		return false, nil
	}
	if err := checkGroup(group); err != nil {
		return false, err
	}
	if was := groups.Now(); was != "" {
		if err := tx.delete(tableMembers, record.MemberKey(was, id)); err != nil {
			return false, err
		}
	}
	*groups = groups.Set(group, at)
	if group == "" {
		return true, nil
	}
	return true, tx.put(tableMembers, record.MemberKey(group, id), nil)
}

// membersOf returns the IDs of the users and the server keys in a group.
func (tx *Tx) membersOf(group string) ([]uuid.UUID, error) {
	ids, err := tx.tables().MembersOf(group)
	return ids, recordError(err)
}
