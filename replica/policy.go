package replica

import (
	"fmt"
	"slices"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/replication"
)

// A Policy says which records an edge gets, and what it may push to the hub.
type Policy struct {
	// Groups are the groups of users and server keys that the edge gets. "*" stands for all of
	// them, and for what has no group. An empty list is refused.
	Groups []string `json:"groups"`
	Push   Push     `json:"push"`
}

// Push says what an edge may push to the hub. Each value includes those before it.
type Push int

// The values of Push. The zero value is PushNothing.
const (
	PushNothing     Push = iota
	PushUse              // last uses, and the end of an old token by the first use of the new one
	PushRevocations      // disablings of users, keys and groups
	PushAll              // everything but groups, tag secrets and what only the hub has
)

var pushNames = []string{"nothing", "use", "revocations", "all"}

// String returns "nothing", "use", "revocations" or "all".
func (p Push) String() string {
	if p < 0 || int(p) >= len(pushNames) {
		return fmt.Sprintf("Push(%d)", int(p))
	}
	return pushNames[p]
}

// MarshalText returns the text of [Push.String].
//
// Errors: [latchkey.ErrInvalidOptions] if p is none of the values.
func (p Push) MarshalText() ([]byte, error) {
	if p < 0 || int(p) >= len(pushNames) {
		return nil, fmt.Errorf("%w: Push %d is none of the values", latchkey.ErrInvalidOptions, int(p))
	}
	return []byte(p.String()), nil
}

// UnmarshalText reads the text of [Push.String].
//
// Errors: [latchkey.ErrInvalidOptions].
func (p *Push) UnmarshalText(text []byte) error {
	i := slices.Index(pushNames, string(text))
	if i < 0 {
		return fmt.Errorf("%w: %.40q is none of nothing, use, revocations and all", latchkey.ErrInvalidOptions, text)
	}
	*p = Push(i)
	return nil
}

// core returns the policy as the core has it, with the groups in order and each once.
//
// Errors: [latchkey.ErrInvalidOptions].
func (p Policy) core() (replication.Policy, error) {
	if p.Push < PushNothing || p.Push > PushAll {
		return replication.Policy{}, fmt.Errorf("%w: Push %d is none of the values", latchkey.ErrInvalidOptions, int(p.Push))
	}
	if len(p.Groups) == 0 {
		return replication.Policy{}, fmt.Errorf(`%w: the policy names no group; "*" stands for all of them`, latchkey.ErrInvalidOptions)
	}
	groups := slices.Clone(p.Groups)
	slices.Sort(groups)
	groups = slices.Compact(groups)
	if slices.Contains(groups, "*") {
		groups = []string{"*"}
	}
	for _, g := range groups {
		if g == "" || len(g) > latchkey.MaxGroup {
			return replication.Policy{}, fmt.Errorf("%w: the policy has a group of %d bytes, and a group has 1 to %d", latchkey.ErrInvalidOptions, len(g), latchkey.MaxGroup)
		}
	}
	if len(groups) > maxGroups {
		return replication.Policy{}, fmt.Errorf("%w: the policy has %d groups, and the most is %d", latchkey.ErrInvalidOptions, len(groups), maxGroups)
	}
	return replication.Policy{Groups: groups, Push: replication.Push(p.Push)}, nil
}

// maxGroups bounds the groups of a policy, which the hub looks through for each record.
const maxGroups = 256

func policyOf(p replication.Policy) Policy {
	return Policy{Groups: slices.Clone(p.Groups), Push: Push(p.Push)}
}
