package durable

import (
	"fmt"
	"strings"
	"unicode"
)

// A Holder is a process that has the lock on a file.
type Holder struct {
	PID     int
	Name    string // what the system calls the process; may be empty
	Writing bool   // whether the process has the lock for itself alone, as a writer
}

// String returns the process as a person would look for it.
func (h Holder) String() string {
	name := strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, h.Name)
	if name == "" {
		return fmt.Sprint("process ", h.PID)
	}
	return fmt.Sprintf("process %d (%s)", h.PID, name)
}
