package latchkey

import (
	"fmt"
	"slices"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/names"
	"github.com/latchkeydb/latchkey/internal/record"
)

// MaxGroup is how many bytes the name of a group can have.
const MaxGroup = record.MaxGroup

// checkGroup returns ErrInvalidGroup unless group can be the name of a group, or is "", which is no
// group.
func checkGroup(group string) error {
	problem := ""
	switch {
	case group == "":
		return nil
	case group == "*":
		problem = "stands for all groups"
	case len(group) > MaxGroup:
		problem = fmt.Sprintf("has %d bytes; the most is %d", len(group), MaxGroup)
	default:
		problem = names.Problem(names.Subject, group)
	}
	if problem != "" {
		return fmt.Errorf("%w: %s %s", ErrInvalidGroup, names.Quote(group), problem)
	}
	return nil
}

// getGroup returns the record of a group, or nil if there is none.
func (tx *Tx) getGroup(name string) (*record.Group, error) {
	sealed, err := tx.etx.Get(tableGroups, []byte(name))
	if err != nil || sealed == nil {
		return nil, err
	}
	return decodeGroup(name, sealed)
}

func decodeGroup(name string, sealed []byte) (*record.Group, error) {
	message, err := openRecord(tableGroups, []byte(name), sealed)
	if err != nil {
		return nil, err
	}
	g, err := record.DecodeGroup(name, message)
	if err != nil {
		return nil, fmt.Errorf("table %s, record of %s: %w", tableGroups, names.Quote(name), recordError(err))
	}
	return &g, nil
}

// setGroup moves a user or a server key to a group, and reports whether it was in another. An empty
// group is none.
func (tx *Tx) setGroup(groups *record.Groups, id uuid.UUID, group string, at record.Stamp) (changed bool, err error) {
	if groups.Now() == group {
		return false, nil
	}
	if err := tx.deleteMember(groups.Now(), id); err != nil {
		return false, err
	}
	*groups = groups.Set(group, at)
	if group == "" {
		return true, nil
	}
	return true, tx.put(tableMembers, memberIndexKey(group, id), nil)
}

// deleteMember takes a user or a server key out of the index of members.
func (tx *Tx) deleteMember(group string, id uuid.UUID) error {
	if group == "" {
		return nil
	}
	return tx.delete(tableMembers, memberIndexKey(group, id))
}

// memberIndexKey returns the key of an entry in the index of members: group, a zero byte, the ID of
// a user or a server key. No group has a zero byte in its name.
func memberIndexKey(group string, id uuid.UUID) []byte {
	return slices.Concat([]byte(group), []byte{0}, id[:])
}

func splitMemberIndexKey(key []byte) (group string, id uuid.UUID, err error) {
	if len(key) < 1+1+len(id) || key[len(key)-len(id)-1] != 0 {
		return "", id, fmt.Errorf("%w: bad entry in the index of members", ErrCorrupt)
	}
	copy(id[:], key[len(key)-len(id):])
	return string(key[:len(key)-len(id)-1]), id, nil
}
