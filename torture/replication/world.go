package replication

import (
	"cmp"
	"context"
	"fmt"
	"hash"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	core "github.com/latchkeydb/latchkey/internal/replication"
)

// A world is a hub, its edges, the network between them, and everything that is known about them.
type world struct {
	ctx     context.Context
	random  *rand.Rand // of the simulator
	entropy *entropy   // of the stores
	now     time.Time  // the true time
	faults  bool
	// hubCameBack says that the hub has gone on from a backup.
	hubCameBack bool
	bug         Bug

	secrets *latchkey.DomainSecrets
	hub     *node
	edges   []*node
	made    int         // how many edges were made
	era     core.Cursor // of the hub, as it has told an edge last
	rounds  int         // without faults

	known  map[place]*state  // what is known of each version of each record that there ever was
	looks  map[string]place  // the other way round
	wereIn map[name][]string // the groups of each record at the hub, also those that it has lost
	events int               // how many disablings there were
	tokens []issued

	history []string
	trace   hash.Hash64
}

// A version is a record as a store has it.
type version struct{ table, sealed string }

// A place is a version of a record.
type place struct {
	name
	version
}

// issued is a token.
type issued struct {
	token    string
	key      uuid.UUID
	verifier string
}

func newWorld(seed uint64, bug Bug, e *entropy) *world {
	w := &world{
		ctx: context.Background(), random: rand.New(rand.NewPCG(seed, 14)), entropy: e, bug: bug,
		known: map[place]*state{}, looks: map[string]place{}, wereIn: map[name][]string{}, trace: fnv.New64a(),
	}
	w.now = time.Date(1970+w.random.IntN(130), 1, 2, 0, 0, 0, 0, time.UTC)
	return w
}

// chance reports true once in n times.
func (w *world) chance(n int) bool { return w.random.IntN(n) == 0 }

func pick[T any](w *world, list []T) T { return list[w.random.IntN(len(list))] }

// logf notes what has happened.
func (w *world) logf(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	w.history = append(w.history, line)
	w.trace.Write([]byte(line))
}

// learn notes what is known of a version of a record. The same version must always be known in the
// same way, and what is known must always have the same bytes.
func (w *world) learn(at name, is version, s *state) error {
	if is.table == "" {
		return nil
	}
	p := place{at, is}
	all := s.all()
	if was, ok := w.known[p]; ok && was.all() != all {
		return fmt.Errorf("two histories have left the same record:\n  %s\n  %s", was.all(), all)
	}
	if was, ok := w.looks[all]; ok && was != p {
		return fmt.Errorf("one history has left two records:\n  %s %x\n  %s %x\n%s", was.table, was.sealed, p.table, p.sealed, all)
	}
	w.known[p], w.looks[all] = s, p
	return nil
}

// contradicts reports whether a version of a record cannot be a state, because of what is known
// already.
func (w *world) contradicts(p place, s *state) bool {
	was, known := w.known[p]
	at, looked := w.looks[s.all()]
	return known && was.all() != s.all() || looked && at != p
}

func (w *world) hubOptions() core.HubOptions {
	return core.HubOptions{Random: w.entropy, KeepTombstones: 20 * 24 * time.Hour, DropAfter: 10 * 24 * time.Hour}
}

// sorted returns the names in a map, owners before their keys.
func sorted[V any](m map[name]V) []name {
	names := make([]name, 0, len(m))
	for at := range m {
		names = append(names, at)
	}
	slices.SortFunc(names, func(a, b name) int { return cmp.Or(cmp.Compare(b.kind, a.kind), cmp.Compare(a.id, b.id)) })
	return names
}
