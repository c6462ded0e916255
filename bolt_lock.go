package latchkey

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/latchkeydb/latchkey/internal/durable"
)

// openHere has the paths of the files that this process has open, with the number of engines that
// have each of them open. No system tells a process about its own locks in a way that works
// everywhere.
var openHere = struct {
	sync.Mutex
	paths map[string]int
}{paths: map[string]int{}}

func addOpenHere(path string) {
	openHere.Lock()
	defer openHere.Unlock()
	openHere.paths[path]++
}

func removeOpenHere(path string) {
	openHere.Lock()
	defer openHere.Unlock()
	if openHere.paths[path]--; openHere.paths[path] == 0 {
		delete(openHere.paths, path)
	}
}

// isOpenHere reports whether this process has the file at path open, under whatever name.
func isOpenHere(path string) bool {
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

// nameHolders adds to [ErrLocked] which process has the file at path open, where that is known. It
// leaves every other error alone.
func nameHolders(err error, path string) error {
	if !errors.Is(err, ErrLocked) {
		return err
	}
	here := isOpenHere(path)
	var names []string
	for _, h := range durable.Holders(path) {
		if h.PID == os.Getpid() {
			here = true
		}
		names = append(names, h.String())
	}
	if here {
		return fmt.Errorf("%w: this process has it open", err)
	}
	switch len(names) {
	case 0:
		return err
	case 1:
		return fmt.Errorf("%w: %s has it open", err, names[0])
	}
	return fmt.Errorf("%w: %s have it open", err, strings.Join(names, ", "))
}
