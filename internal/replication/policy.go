package replication

import (
	"fmt"
	"slices"
	"strings"

	"github.com/latchkeydb/latchkey/internal/names"
)

// AllGroups stands for every record in a policy, also for those without a group.
const AllGroups = "*"

// MaxGroups is how many groups a policy can name.
const MaxGroups = maxGroups

// Has reports whether the policy gives its edge the records of a group. An empty name is no group.
func (p Policy) Has(group string) bool {
	return p.isAll() || group != "" && slices.Contains(p.Groups, group)
}

func (p Policy) isAll() bool { return len(p.Groups) == 1 && p.Groups[0] == AllGroups }

// checkPolicy returns the groups of a policy in order, each once.
//
// Errors: [ErrPolicy].
func checkPolicy(groups []string, push Push) ([]string, error) {
	if push > PushAll {
		return nil, fmt.Errorf("%w: there is no push %d", ErrPolicy, push)
	}
	groups = slices.Compact(slices.Sorted(slices.Values(groups)))
	switch {
	case len(groups) == 0:
		return nil, fmt.Errorf("%w: it names no group; %q stands for all of them", ErrPolicy, AllGroups)
	case len(groups) > MaxGroups:
		return nil, fmt.Errorf("%w: it names %d groups, and the most is %d", ErrPolicy, len(groups), MaxGroups)
	case slices.Contains(groups, AllGroups):
		if len(groups) > 1 {
			return nil, fmt.Errorf("%w: %q stands for all groups, so it must be alone", ErrPolicy, AllGroups)
		}
		return groups, nil
	}
	for _, g := range groups {
		if problem := names.Problem(names.Stored, g); problem != "" {
			return nil, fmt.Errorf("%w: the name of a group %s", ErrPolicy, problem)
		}
	}
	return groups, nil
}

// set returns a string that is the same for policies with the same groups.
func (p Policy) set() string { return strings.Join(p.Groups, "\x00") }
