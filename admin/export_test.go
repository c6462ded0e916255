package admin

import (
	"net/http"
	"slices"
)

// Within returns a client whose requests a handler answers, as those of [Local].
func Within(handler http.Handler) *Client {
	return NewClient(&http.Client{Transport: within{handler}}, "http://latchkey", "")
}

// Routes returns the method and path of each route.
func Routes() (all []string) {
	for _, r := range routes {
		all = append(all, r.method+" "+r.path)
	}
	slices.Sort(all)
	return all
}

// Kinds returns the errors in the table of problems, and the name of each.
func Kinds() map[string]error {
	all := map[string]error{}
	for _, k := range kinds {
		all[k.name] = k.err
	}
	return all
}

// ProblemOf returns the problem of an error.
var ProblemOf = problemOf

// MaxBody and MaxScan are bounds.
const (
	MaxBody = maxBody
	MaxScan = maxScan
)

// HoldBackup makes a backup be in progress until the function is called.
func (h *Handler) HoldBackup() (done func()) {
	h.backup.Lock()
	return h.backup.Unlock
}

// PageFiles are the files of the page.
var PageFiles = pageFiles

// SetMaxImport changes the bound of an import until the function is called.
func SetMaxImport(most int64) (done func()) {
	before := maxImport
	maxImport = most
	return func() { maxImport = before }
}

// SetPruneStep changes how many entries one transaction removes until the function is called.
func SetPruneStep(n uint64) (done func()) {
	before := pruneStep
	pruneStep = n
	return func() { pruneStep = before }
}
