package record

import (
	"bytes"
	"slices"
)

// The keys of a hub's records in the table replica that have numbers of commits begin with these.
// Package replication knows what the records are.
const (
	HubState   = "hub/state"
	HubEra     = "hub/era/"
	HubEdge    = "hub/edge/"
	HubDay     = "hub/day/"
	HubPruned  = "hub/pruned/"
	HubProcess = "hub/process/"
)

// Renumbered returns the value that an entry of the table replica has in a copy of the store whose
// engine numbers its commits anew, or nil if the copy does not get the entry. There, no number of a
// commit of the store means anything: a tombstone would seem to be old, and every edge to have it.
//
// Errors: [ErrDamaged] or [ErrNewer].
func Renumbered(key, sealed []byte) ([]byte, error) {
	of := func(prefix string) bool { return bytes.HasPrefix(key, []byte(prefix)) }
	var numbers []int // the fields of the record that the copy does not get
	switch {
	case of(HubDay), of(HubPruned), of(HubEra), of(HubProcess):
		return nil, nil
	case of(HubEdge):
		numbers = []int{9, 10, 20, 21} // the cursor, confirmed, stream and heard
	case string(key) == HubState:
		numbers = []int{3} // the floor
	default:
		return sealed, nil
	}
	message, err := Open(TableReplica, key, sealed)
	if err != nil {
		return nil, err
	}
	var kept Unknown
	for f, err := range Fields(message) {
		if err != nil {
			return nil, err
		}
		if !slices.Contains(numbers, f.Num) {
			kept.add(f)
		}
	}
	return Seal(TableReplica, key, kept), nil
}
