package replication

import "slices"

// AllGroups stands for every record in a policy, also for those without a group.
const AllGroups = "*"

// Has reports whether the policy gives its edge the records of a group. An empty name is no group.
func (p Policy) Has(group string) bool {
	return slices.Contains(p.Groups, AllGroups) || group != "" && slices.Contains(p.Groups, group)
}
