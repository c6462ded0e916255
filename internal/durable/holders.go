package durable

import (
	"fmt"
	"os"
	"strings"
	"sync"
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

// openHere has the paths of the files that this process has open, with the number of times that it
// has each of them open. Not every system tells a process about its own locks.
var openHere = struct {
	sync.Mutex
	paths map[string]int
}{paths: map[string]int{}}

// MarkOpen marks the file at path as open in this process, until unmark is called. path must be
// absolute.
func MarkOpen(path string) (unmark func()) {
	openHere.Lock()
	defer openHere.Unlock()
	openHere.paths[path]++
	return sync.OnceFunc(func() {
		openHere.Lock()
		defer openHere.Unlock()
		if openHere.paths[path]--; openHere.paths[path] == 0 {
			delete(openHere.paths, path)
		}
	})
}

// IsOpenHere reports whether this process has the file at path open, under whatever name.
func IsOpenHere(path string) bool {
	file, err := os.Stat(path)
	if err != nil {
		return false
	}
	openHere.Lock()
	defer openHere.Unlock()
	for other := range openHere.paths {
		if info, err := os.Stat(other); err == nil && os.SameFile(file, info) {
			return true
		}
	}
	return false
}

// WhoHas says which process has the lock on the file at path, as in "process 7 (serve) has it
// open", and whether it is this process. It returns "" if that is not known.
func WhoHas(path string) string {
	here := IsOpenHere(path)
	var names []string
	for _, h := range Holders(path) {
		here = here || h.PID == os.Getpid()
		names = append(names, h.String())
	}
	switch {
	case here:
		return "this process has it open"
	case len(names) == 0:
		return ""
	case len(names) == 1:
		return names[0] + " has it open"
	}
	return strings.Join(names, ", ") + " have it open"
}
