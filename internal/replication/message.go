// Package replication is the core of replication: what a hub and an edge say to each other, and
// what each does about it. It has no goroutine, no clock, no randomness and no network of its own,
// so that a simulator can replay any run.
//
//   - message.go has the messages, wire.go their bytes, and body.go those of requests and replies.
//   - policy.go says what an edge may push, and filter.go which records it gets.
//   - hub.go has the state of a hub; feed.go what an edge gets; push.go what it gives; claims.go
//     the revocations that only an edge knows; digest.go the sums by which stores compare.
//   - edge.go has the state of an edge, pending.go its changes that the hub does not know, and
//     compare.go how the edge compares what it has with the hub.
package replication

import (
	"errors"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/merge"
	"github.com/latchkeydb/latchkey/internal/record"
)

// The errors of an edge and a hub.
var (
	// ErrNotPermitted means that the policy of an edge does not let it push a change, so the change
	// was not made.
	ErrNotPermitted = errors.New("the hub does not permit this change here")
	// ErrMessage means that bytes are no message, or that a message contradicts what came before.
	ErrMessage = errors.New("bad message of replication")
	// ErrNewer means that a message is of a later version, which must not be skipped.
	ErrNewer = errors.New("message of a later version of replication")
)

// Push says what an edge may push. Each value includes those before it.
type Push uint8

// The values of Push.
const (
	PushNothing     Push = iota
	PushUse              // last uses, and the end of a token by the first use of the next one
	PushRevocations      // disablings
	PushAll
)

// A Policy says what an edge gets and what it may push.
type Policy struct {
	Groups  []string // in order, each once; "*" alone is every record
	Push    Push
	Version uint64 // grows with each change of the edge's policy
}

// A Cursor says how far an edge has come in the commits of a hub. The zero Cursor is the beginning.
type Cursor struct {
	Incarnation uuid.UUID // the replica ID of the hub
	// Era is what the hub drew at random when it was opened. Two copies of one file that both
	// serve as hubs have the same incarnation, and different eras.
	Era uuid.UUID
	At  merge.Position
	// Policy is the version of the policy with which the edge got its groups. If they have changed
	// since, the edge has to compare.
	Policy uint64
	// Copying is the table of the first copy that is under way, and CopyKey the last key that came.
	// At is then where the changes after the copy begin.
	Copying string
	CopyKey []byte
	// Taken is the sequence of the hub after the last push of the edge that the hub took in the
	// era, or the one up to which a first copy has come, or 0. A hub that is restored from a backup
	// can have all up to At, and still lack what it took or copied.
	Taken uint64
	// Ahead says that the edge has some of what came behind At. A hub that is restored can lack it.
	Ahead bool
	// News is the number of the hub's last piece of news that has come. It is about tombstones that
	// were pruned and records that the edge has to replace, which no commit of a record tells.
	News uint64
}

// A Message is one of the types below: what a stream from the hub has.
type Message interface{ kind() byte }

// The messages of a stream, by the hub. A Welcome comes first.
type (
	// Welcome begins a stream.
	Welcome struct {
		Format uint64 // of the messages that follow
		Time   time.Time
		Resets uint64 // how often the time of the domain was reset
		Policy Policy
		Edge   uuid.UUID // the ID by which the hub knows the edge
		// How says what follows: the changes after the edge's cursor, a first copy, or nothing,
		// because the edge has to compare first.
		How How
		At  Cursor // where the stream begins, or where the hub stands if the edge has to compare
	}
	// Entry is an entry of a table of the edge, in a first copy. Entries of one table come in the
	// order of their keys. MAC is as in a Record.
	Entry struct {
		Table           string
		Key, Value, MAC []byte
	}
	// Record is a record as the hub has it. MAC is not empty if the record is a tombstone or was
	// ever disabled: a later hub that has lost the record believes the copy by its MAC.
	Record struct {
		Copy record.Copy
		MAC  []byte
	}
	// Forget says that the edge no longer gets a record, or that a tombstone is needed no longer.
	// It takes the keys of a user along.
	Forget struct {
		Table string
		Key   []byte
	}
	// Replace says that the edge's version of a record is to be dropped in favour of the hub's,
	// because an administrator has refused a claim. An empty Sealed means that the hub has none.
	Replace struct {
		Copy record.Copy
		MAC  []byte
	}
	// Mark says that everything up to a cursor has come.
	Mark struct{ At Cursor }
	// Secrets has the domain's tag secrets, as an export.
	Secrets struct{ Export []byte }
	// NewPolicy is the edge's policy from now on. If the groups are others, the stream ends with
	// it, and the Welcome of the next one tells the edge to compare.
	NewPolicy struct{ Policy Policy }
	// Beat says that the hub is there, and what time it has.
	Beat struct {
		Time   time.Time
		Resets uint64
	}
	// NextPin is the SHA-256 of the public key that the hub will have next. An edge accepts both.
	NextPin struct{ Pin []byte }
	// Cloned says that another device uses the edge's credential. The receiver draws a new replica
	// ID.
	Cloned struct{}
)

// How says what follows a [Welcome].
type How uint8

// The values of How.
const (
	Resume How = iota
	FirstCopy
	CompareFirst
)

// A Hello is what an edge asks a stream with.
type Hello struct {
	Formats []uint64 // of messages that the edge reads
	Build   string   // the version of the program's library, for Status
	// Instance is drawn each time the edge is opened, and Before is the one of the last opening. So
	// a device that has restarted is no clone of itself, although the hub may not have noticed yet
	// that its old stream is over. Earlier are those of the openings before that, the latest first,
	// because the hub may be a process that has not heard of the device since.
	Instance, Before uuid.UUID
	Earlier          []uuid.UUID
	Replica          uuid.UUID // the edge's replica ID
	// Edge is the ID by which a hub knew the edge last. Under another ID, the edge has joined
	// again.
	Edge   uuid.UUID
	Cursor Cursor
	Policy uint64 // the version of the policy that the edge has
	Tags   []byte // what [tagsOf] says of the edge's tag secrets
	Follow bool
}

// A Push request is what an edge gives to the hub, and how far it has come.
type PushRequest struct {
	Cursor Cursor
	Policy uint64
	// Records are changed here, within the policy. Claims are revocations and other changes outside
	// the policy. Signed bear the MAC of the hub.
	Records, Claims []record.Copy
	Signed          []Record
	Uses            []record.Copy
}

// A PushReply is the hub's answer. A push is taken whole or refused whole, except for claims.
type PushReply struct {
	// Refused says why the push was refused. It is empty if it was taken.
	Refused string
	// Policy is not zero if the edge pushed under an outdated policy, or has not asked for a stream
	// since the hub was opened. The edge must do so first.
	Policy uint64
	// Taken is the sequence of the hub after the push, which the edge keeps in its cursor.
	Taken uint64
}

// A Summary is the sum of the hashes of some live records, by the kind of record and the number
// that [RangeOf] returns.
type Summary struct {
	Table string
	Range byte
	Count uint64
	Sum   [16]byte // modulo 2¹²⁸, big-endian
}

// A CompareRequest gives the edge's sums, or, in a later step, what the edge has in some of the
// ranges that differ. A later step has Listed, and no Summaries.
type CompareRequest struct {
	Cursor    Cursor // the edge's own, all the time
	Policy    uint64
	Summaries []Summary
	Listed    []Summary // ranges that Items list in whole
	Items     []Item
}

// An Item is a record of an edge: a live one, or a tombstone. A tombstone is in the range of the
// record that it is of.
type Item struct {
	Table string
	Key   []byte
	Hash  [16]byte
	Own   bool // changed here, and not yet known to the hub
	// Signed says that the edge has a copy of the record with the hub's MAC.
	Signed bool
}

// A CompareReply has in the first step the ranges that differ, and a Mark of where the hub stood
// before it summed. The edge takes the Mark when it has gone through all of these ranges. In a
// later step the reply has the messages that make the edge agree, and which records the hub wants.
// Nothing of that moves the cursor.
type CompareReply struct {
	Differ   []Summary // without sums
	Messages []Message // in the first step the Mark alone; later Records, Forgets and Replaces
	Wanted   []Item    // which the edge pushes, as Signed if it can, else as Records or Claims
	// More says that not everything fitted in. The edge then lists the same ranges again.
	More bool
	// Refused is not empty if the edge must ask again from the beginning, because it has an
	// outdated policy or compares with another hub by now.
	Refused string
}
