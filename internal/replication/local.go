package replication

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/merge"
	"github.com/latchkeydb/latchkey/internal/record"
)

// A hub keeps records in the table replica, under keys that begin with "hub/".
const (
	localSecret = "hub/secret"    // of MACs
	localState  = record.HubState // a hubState
	localEra    = record.HubEra   // a number → an era
	localEdge   = record.HubEdge  // the ID of an edge → an edge
	localClaim  = "hub/claim/"    // a number → a claim
	localNews   = "hub/news/"     // a number → a piece of news
	// An edge takes the hub's version of a record: the ID of the edge, table 0 key → the number of
	// the news.
	localReplace = "hub/replace/"
	localDay     = record.HubDay // a sequence → when it was the last one
	// A tombstone that was pruned: the number of the news, table 0 key → the sealed tombstone.
	localPruned = record.HubPruned
	// A process that serves edges: its ID → when it said so last. Only engines that several
	// processes write to have such records.
	localProcess = record.HubProcess
)

func numbered8(prefix string, n uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte(prefix), n)
}

// after returns the first key that does not begin with a prefix that ends in '/'.
func after(prefix string) []byte { return append([]byte(prefix[:len(prefix)-1]), '/'+1) }

// decodeNumber returns the number in a message that has nothing else.
func decodeNumber(message []byte) (n uint64, err error) {
	for f, err := range record.Fields(message) {
		if err != nil {
			return n, err
		}
		if f.Num == 1 {
			n = f.Number
		}
	}
	return n, nil
}

// getLocal returns the message of a local record, or nil.
func getLocal(t *merge.Tables, key []byte) ([]byte, error) {
	sealed, err := t.Get(record.TableReplica, key)
	if err != nil || sealed == nil {
		return nil, err
	}
	return record.Open(record.TableReplica, key, sealed)
}

func putLocal(t *merge.Tables, key []byte, message record.Message) error {
	return t.Put(record.TableReplica, key, record.Seal(record.TableReplica, key, message))
}

// scanLocal calls fn with the local records whose keys begin with a prefix, without the prefix, in
// order, until fn returns an error.
func scanLocal(t *merge.Tables, prefix string, fn func(key, message []byte) error) error {
	return scanLocalFrom(t, prefix, []byte(prefix), fn)
}

// scanLocalFrom is scanLocal from a key on.
func scanLocalFrom(t *merge.Tables, prefix string, from []byte, fn func(key, message []byte) error) error {
	for e, err := range t.Scan(record.TableReplica, from, after(prefix)) {
		if err != nil {
			return err
		}
		message, err := record.Open(record.TableReplica, e.Key, e.Value)
		if err == nil {
			err = fn(bytes.TrimPrefix(e.Key, []byte(prefix)), message)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// A hubState is what a hub keeps beside its lists.
type hubState struct {
	claims uint64 // the number of the last claim
	eras   uint64 // the number of the last era
	// floor is the sequence of the last tombstone that was pruned. A cursor before it has to
	// compare. No record that was pruned is younger than floorTime.
	floor     uint64
	floorTime time.Time
	// news is the number of the last piece of news, and random are bytes that were drawn with
	// it. Two histories of a store can have the same number, and not the same bytes.
	news   uint64
	random [8]byte
}

func (s hubState) encode() (m record.Message) {
	m.Number(1, s.claims)
	m.Number(2, s.eras)
	m.Number(3, s.floor)
	m.Number(4, unixMilli(s.floorTime))
	m.Number(5, s.news)
	m.Bytes(6, s.random[:])
	return m
}

func decodeHubState(message []byte) (s hubState, err error) {
	for f, err := range record.Fields(message) {
		if err != nil {
			return s, err
		}
		switch f.Num {
		case 1:
			s.claims = f.Number
		case 2:
			s.eras = f.Number
		case 3:
			s.floor = f.Number
		case 4:
			s.floorTime = timeOf(f.Number)
		case 5:
			s.news = f.Number
		case 6:
			copy(s.random[:], f.Bytes)
		}
	}
	return s, nil
}

func readHubState(t *merge.Tables) (s hubState, err error) {
	message, err := getLocal(t, []byte(localState))
	if err != nil {
		return s, err
	}
	return decodeHubState(message)
}

func writeHubState(t *merge.Tables, s hubState) error {
	return putLocal(t, []byte(localState), s.encode())
}

// unixMilli returns a time as it is stored: 0 for the zero time.
func unixMilli(t time.Time) uint64 {
	if t.IsZero() {
		return 0
	}
	return uint64(max(t.UnixMilli(), 1))
}

func timeOf(ms uint64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(int64(ms)).UTC()
}

// An era is the time from one opening of a hub to the next, in whatever process.
type era struct {
	id    uuid.UUID
	began uint64 // the sequence of the last commit before it, or of one shortly before that
	// back says that the era was drawn because the store went back to an earlier state.
	back bool
	// reached is a sequence of a time at which a hub still served in the era. It is only written on
	// an engine that several processes share.
	reached uint64
	// unseen says that the era is from before this process knew the store. It is not stored.
	unseen bool
}

// end returns up to which sequence the commits of an era are sure to be those that the store has
// now, if the next era is next. Somebody may have restored an earlier state before this process
// knew the store. Then the next era can have begun at a greater sequence than the restored state
// had. Until the sequence that a hub noted in the era, the store has the commits of the era.
func (e era) end(next era) uint64 {
	if e.unseen {
		return min(next.began, max(e.began, e.reached))
	}
	return next.began
}

func (e era) encode() (m record.Message) {
	m.Bytes(1, e.id[:])
	m.Number(2, e.began)
	m.Bool(3, e.back)
	m.Number(4, e.reached)
	return m
}

func decodeEra(message []byte) (e era, err error) {
	for f, err := range record.Fields(message) {
		if err != nil {
			return e, err
		}
		switch f.Num {
		case 1:
			e.id, err = record.DecodeID(f.Bytes)
		case 2:
			e.began = f.Number
		case 3:
			e.back = f.Number != 0
		case 4:
			e.reached = f.Number
		}
		if err != nil {
			return e, err
		}
	}
	return e, nil
}

// An edgeRecord is what a hub keeps of an edge.
type edgeRecord struct {
	id       uuid.UUID
	name     string
	policy   Policy
	groupsAt uint64 // the version of the policy with which the groups changed last
	joined   time.Time
	seen     time.Time
	build    string
	cursor   Cursor // the last one that the edge has acknowledged
	// confirmed is the sequence up to which the edge has everything that concerns it.
	confirmed uint64
	heard     uint64 // the same for the hub's news
	dropped   bool
	cloned    time.Time
	compared  time.Time
	matched   bool
	refusals  uint64
	refusal   string
	refused   time.Time
	replica   uuid.UUID // the replica ID of the edge's store
	// visits is how often the edge has begun anew: at another process, or with less than it had
	// confirmed. An earlier visit's confirmations do not count any more.
	visits uint64
	stream uuid.UUID // the process that has a stream of the edge, as far as one has noted that
}

func (k *edgeRecord) encode() (m record.Message) {
	m.Bytes(1, []byte(k.name))
	for _, g := range k.policy.Groups {
		m.Bytes(2, []byte(g))
	}
	m.Number(3, uint64(k.policy.Push))
	m.Number(4, k.policy.Version)
	m.Number(5, k.groupsAt)
	m.Number(6, unixMilli(k.joined))
	m.Number(7, unixMilli(k.seen))
	m.Bytes(8, []byte(k.build))
	m.Bytes(9, encodeCursor(k.cursor))
	m.Number(10, k.confirmed)
	m.Bool(11, k.dropped)
	m.Number(12, unixMilli(k.cloned))
	m.Number(13, unixMilli(k.compared))
	m.Bool(14, k.matched)
	m.Number(15, k.refusals)
	m.Bytes(16, []byte(k.refusal))
	m.Number(17, unixMilli(k.refused))
	putID(&m, 18, k.replica)
	m.Number(19, k.visits)
	putID(&m, 20, k.stream)
	m.Number(21, k.heard)
	return m
}

func putID(m *record.Message, number int, id uuid.UUID) {
	if id != uuid.Nil {
		m.Bytes(number, id[:])
	}
}

func decodeEdge(id, message []byte) (k edgeRecord, err error) {
	if k.id, err = record.DecodeID(id); err != nil {
		return k, err
	}
	for f, err := range record.Fields(message) {
		if err != nil {
			return k, err
		}
		switch f.Num {
		case 1:
			k.name = string(f.Bytes)
		case 2:
			k.policy.Groups = append(k.policy.Groups, string(f.Bytes))
		case 3:
			k.policy.Push = Push(f.Number)
		case 4:
			k.policy.Version = f.Number
		case 5:
			k.groupsAt = f.Number
		case 6:
			k.joined = timeOf(f.Number)
		case 7:
			k.seen = timeOf(f.Number)
		case 8:
			k.build = string(f.Bytes)
		case 9:
			k.cursor, err = decodeCursor(f.Bytes)
		case 10:
			k.confirmed = f.Number
		case 11:
			k.dropped = f.Number != 0
		case 12:
			k.cloned = timeOf(f.Number)
		case 13:
			k.compared = timeOf(f.Number)
		case 14:
			k.matched = f.Number != 0
		case 15:
			k.refusals = f.Number
		case 16:
			k.refusal = string(f.Bytes)
		case 17:
			k.refused = timeOf(f.Number)
		case 18:
			k.replica, err = record.DecodeID(f.Bytes)
		case 19:
			k.visits = f.Number
		case 20:
			k.stream, err = record.DecodeID(f.Bytes)
		case 21:
			k.heard = f.Number
		}
		if err != nil {
			return k, fmt.Errorf("the record of edge %s: %w", k.id, err)
		}
	}
	return k, nil
}

func edgeKey(id uuid.UUID) []byte { return append([]byte(localEdge), id[:]...) }

// edgeIn returns what a transaction has of an edge.
//
// Errors: [ErrUnknownEdge]; an error of the tables.
func edgeIn(t *merge.Tables, id uuid.UUID) (edgeRecord, error) {
	message, err := getLocal(t, edgeKey(id))
	if err == nil && message == nil {
		err = ErrUnknownEdge
	}
	if err != nil {
		return edgeRecord{}, err
	}
	return decodeEdge(id[:], message)
}

func putEdge(t *merge.Tables, k edgeRecord) error { return putLocal(t, edgeKey(k.id), k.encode()) }

// learn takes what the store has of an edge, or had a moment ago. Several processes hear of an
// edge, and each writes now and then what it has heard. So the later part of what was heard stays.
func (k *edgeRecord) learn(stored edgeRecord) {
	was := *k
	*k = stored
	if was.policy.Version > stored.policy.Version {
		k.policy, k.groupsAt = was.policy, was.groupsAt
	}
	k.refusals = max(was.refusals, stored.refusals)
	switch {
	case was.visits > stored.visits:
		k.visits, k.replica, k.stream = was.visits, was.replica, was.stream
		k.cursor, k.confirmed, k.heard = was.cursor, was.confirmed, was.heard
	case was.visits == stored.visits:
		k.confirmed, k.heard = max(was.confirmed, stored.confirmed), max(was.heard, stored.heard)
		if isBehind(stored.cursor, was.cursor) {
			k.cursor = was.cursor
		}
	}
	switch was.seen.Compare(stored.seen) {
	case 1:
		k.seen, k.build, k.dropped = was.seen, was.build, was.dropped
	case 0:
		k.build, k.dropped = cmp.Or(was.build, stored.build), was.dropped || stored.dropped
	}
	if !was.cloned.Before(stored.cloned) {
		k.cloned = was.cloned
	}
	if !was.compared.Before(stored.compared) {
		k.compared, k.matched = was.compared, was.matched
	}
	if !was.refused.Before(stored.refused) {
		k.refusal, k.refused = was.refusal, was.refused
	}
}

// isBehind reports whether a cursor is behind another one.
func isBehind(a, b Cursor) bool {
	return cmp.Or(cmp.Compare(a.At.Sequence, b.At.Sequence), cmp.Compare(a.News, b.News)) < 0
}

// locate returns the bytes that name a record in a key of the table replica.
func locate(table string, key []byte) []byte { return append(append([]byte(table), 0), key...) }

// located returns what locate was called with.
func located(b []byte) (table string, key []byte) {
	of, key, _ := bytes.Cut(b, []byte{0})
	return string(of), key
}
