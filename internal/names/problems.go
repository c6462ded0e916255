package names

import (
	"fmt"
	"unicode/utf8"
)

// MetadataProblem returns the rule that metadata break, or "" if they can be stored: at most so
// many entries, with so many bytes in all names and values.
func MetadataProblem(metadata map[string]string, entries, bytes int) string {
	if len(metadata) > entries {
		return fmt.Sprintf("%d entries are more than %d", len(metadata), entries)
	}
	size := 0
	for name, value := range metadata {
		if problem := Problem(Stored, name); problem != "" {
			return fmt.Sprintf("the name %s %s", Quote(name), problem)
		}
		if !utf8.ValidString(value) {
			return fmt.Sprintf("the value of %s is not UTF-8", Quote(name))
		}
		size += len(name) + len(value)
	}
	if size > bytes {
		return fmt.Sprintf("%d bytes of names and values are more than %d", size, bytes)
	}
	return ""
}

// GroupProblem returns the rule that the name of a group breaks, or "" if it can be the name of a
// group, or is empty, which is no group. A name has at most so many bytes.
func GroupProblem(group string, most int) (problem string) {
	switch {
	case group == "":
		return ""
	case group == "*":
		problem = "stands for all groups"
	case len(group) > most:
		problem = fmt.Sprintf("has %d bytes; the most is %d", len(group), most)
	default:
		problem = Problem(Subject, group)
	}
	if problem == "" {
		return ""
	}
	return Quote(group) + " " + problem
}
