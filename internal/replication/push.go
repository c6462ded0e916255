package replication

import (
	"bytes"
	"context"
	"crypto/hmac"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/lastuse"
	"github.com/latchkeydb/latchkey/internal/merge"
	"github.com/latchkeydb/latchkey/internal/record"
)

// Push takes the request of an edge as a whole, or refuses it as a whole. Then the reply says why,
// and the hub records the refusal. The acknowledgement of a cursor alone writes nothing.
//
// Errors: [ErrUnknownEdge]; an error of the store.
func (h *Hub) Push(ctx context.Context, id uuid.UUID, r PushRequest, now time.Time) (reply PushReply, err error) {
	_, room, err := h.heard(ctx, id, r.Cursor, now)
	if err != nil || len(r.Records)+len(r.Claims)+len(r.Signed)+len(r.Uses) == 0 {
		return reply, err
	}
	sort(r.Records)
	sort(r.Claims)
	slices.SortStableFunc(r.Signed, func(a, b Record) int { return place(a.Copy) - place(b.Copy) })
	var era uuid.UUID // in which the edge pushes, if that matters
	if len(r.Records)+len(r.Claims) > 0 {
		era = r.Cursor.Era
	}
	r.Signed = slices.DeleteFunc(r.Signed, func(s Record) bool {
		own := hmac.Equal(s.MAC, macOf(*h.secret.Load(), s.Copy))
		if !own {
			r.Claims = append(r.Claims, s.Copy) // perhaps it is older than the secret
		}
		return !own
	})
	for done := (taking{}); err == nil && reply.Policy == 0 && !done.all(r); {
		done, err = h.takeSome(ctx, id, r, era, done, &reply, room, now)
	}
	var no refusal
	if errors.As(err, &no) {
		reply.Refused = shortened(string(no))
		err = h.refused(ctx, id, reply.Refused, now)
	} else if err == nil && reply.Policy == 0 {
		err = h.view(ctx, func(t *merge.Tables) error { reply.Taken = t.Sequence(); return nil })
	}
	return reply, err
}

// A taking is how much of a push was taken. What bears a MAC or is a use may come in several
// transactions, if the engine bounds them. The other records come in one.
type taking struct {
	signed, uses int
	records      bool
	rest         []record.Copy // of which a part was merged
}

// all reports whether all of a push was taken.
func (n taking) all(r PushRequest) bool {
	return n.signed == len(r.Signed) && n.records && n.uses == len(r.Uses) && len(n.rest) == 0
}

// takeSome takes as much of a push as fits into a transaction.
func (h *Hub) takeSome(ctx context.Context, id uuid.UUID, r PushRequest, era uuid.UUID, done taking, reply *PushReply, room int, now time.Time) (next taking, err error) {
	err = h.store.Update(ctx, func(t *merge.Tables) error {
		*reply, next = PushReply{}, done
		next.rest = slices.Clone(done.rest)
		// The policy may have been narrowed since, or the edge dropped, here or elsewhere.
		k, err := edgeIn(t, id)
		if err != nil {
			return err
		}
		last, err := lastEra(t)
		if err != nil {
			return err
		}
		// An edge that has not heard of the era may have to compare, and must not take anything off
		// its list before.
		other := era != uuid.Nil && era != last.id
		if r.Policy != k.policy.Version || other {
			reply.Policy = k.policy.Version
			return nil
		}
		return h.takePush(t, k, r, &next, room, now)
	})
	return next, err
}

// heard notes that an edge has spoken, and returns the edge's policy, and how many records more of
// the edge can wait to be replaced. now is the zero time if the edge has said Hello just before.
func (h *Hub) heard(ctx context.Context, id uuid.UUID, c Cursor, now time.Time) (p Policy, room int, err error) {
	var head uint64
	var stored edgeRecord
	err = h.view(ctx, func(t *merge.Tables) (err error) {
		head = t.Sequence()
		stored, err = edgeIn(t, id)
		return err
	})
	if err != nil {
		return p, 0, err
	}
	p, room, taken, err := h.hear(id, stored, c, head, now)
	if err == nil && len(taken) > 0 {
		err = h.dropReplaces(ctx, id, taken)
	}
	return p, room, err
}

// hear is heard in memory.
func (h *Hub) hear(id uuid.UUID, stored edgeRecord, c Cursor, head uint64, now time.Time) (p Policy, room int, taken []replacement, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	e := h.edges[id]
	if e == nil {
		return p, 0, nil, ErrUnknownEdge
	}
	e.learn(stored)
	if e.changes++; now.After(e.seen) {
		e.seen = now
	}
	taken = h.acknowledge(e, c, head)
	return e.policy.clone(), maxClaims - len(e.replaces) + len(taken), taken, nil
}

// refused records that a push was refused.
func (h *Hub) refused(ctx context.Context, id uuid.UUID, why string, now time.Time) error {
	h.mu.Lock()
	e := h.edges[id]
	if e == nil {
		h.mu.Unlock()
		return ErrUnknownEdge
	}
	e.refusedHere, e.refusal, e.refused = e.refusedHere+1, why, now
	e.changes++
	// Pushing all day costs the hub no more than a commit a minute. Save writes the rest.
	due := now.Sub(e.noted).Abs() >= time.Minute
	if due {
		e.noted = now
	}
	h.mu.Unlock()
	if !due {
		return nil
	}
	return h.saveSome(ctx, []uuid.UUID{id})
}

// order is the order in which the tables of a push are merged. A key comes after its owner, and
// what deletes comes last, so that each record is judged by what the push itself has brought.
var order = []string{record.TableGroups, record.TableUsers, record.TableKeys, record.TableDeadUsers, record.TableDeadKeys}

func place(c record.Copy) int { return slices.Index(order, c.Table) }

func sort(copies []record.Copy) {
	slices.SortStableFunc(copies, func(a, b record.Copy) int { return place(a) - place(b) })
}

// replacing notes in a transaction of which records an edge has to take the hub's version.
type replacing struct {
	hub    *Hub
	t      *merge.Tables
	edge   uuid.UUID
	number uint64 // of the news; 0 before the first note
	room   int    // how many more there can be
}

// note notes a record.
func (r *replacing) note(c record.Copy) (err error) {
	if r.number == 0 {
		if r.number, err = r.hub.tell(r.t, r.edge, nil); err != nil {
			return err
		}
	}
	r.room--
	var m record.Message
	m.Number(1, r.number)
	return putLocal(r.t, replaceKey(r.edge, locate(liveTable(c.Table), c.Key)), m)
}

// takePush takes what is left of a push, as far as there is room, or returns a [refusal].
func (h *Hub) takePush(t *merge.Tables, k edgeRecord, r PushRequest, next *taking, room int, now time.Time) error {
	j, err := h.newJudge(t, k.policy)
	if err != nil {
		return err
	}
	for ; len(next.rest) > 0; next.rest = next.rest[1:] {
		if more, err := mergeWhole(t, next.rest[0]); err != nil || more {
			return err
		}
	}
	for ; next.signed < len(r.Signed); next.signed++ {
		s := r.Signed[next.signed]
		if !hasRoom(t, s.Copy) {
			return nil
		}
		more, err := h.takeSigned(j, s)
		if err != nil {
			return err
		}
		if more {
			next.rest = append(next.rest, s.Copy)
		}
	}
	if !next.records {
		if t.Writes() > 0 && t.Room() < roomForPush {
			return nil // so that the records have a transaction of their own
		}
		if err := h.takeRecords(j, k, r, next, room, now); err != nil {
			return err
		}
		next.records = true
	}
	for ; next.uses < len(r.Uses); next.uses++ {
		if !hasRoom(t, r.Uses[next.uses]) {
			return nil
		}
		if err := j.use(r.Uses[next.uses]); err != nil {
			return err
		}
	}
	return nil
}

// roomForPush is more than the records of most pushes write.
const roomForPush = 1000

// writesOfKey is how many writes the deletion of a key takes at the most.
const writesOfKey = 25

// hasRoom reports whether a transaction has room to merge a record. A transaction that has written
// nothing always has.
func hasRoom(t *merge.Tables, c record.Copy) bool {
	needs := roomForOne
	if c.Table == record.TableDeadUsers {
		needs = max(needs, t.BuryAtOnce*writesOfKey)
	}
	return t.Writes() == 0 || t.Room() >= needs
}

// takeRecords takes the records and the claims of a push.
func (h *Hub) takeRecords(j *judge, k edgeRecord, r PushRequest, next *taking, room int, now time.Time) error {
	replace := &replacing{hub: h, t: j.t, edge: k.id, room: room}
	for _, c := range r.Records {
		if !hasRoom(j.t, c) {
			return tooMany
		}
		c, merges, err := j.check(c)
		if err != nil {
			return err
		}
		if merges {
			var more bool
			if more, err = mergeWhole(j.t, c); more {
				next.rest = append(next.rest, c)
			}
		} else if replace.room > 0 {
			err = h.replaceSilently(j, c, replace)
		}
		if err != nil {
			return err
		}
	}
	return h.takeClaims(j, k, r.Claims, next, replace, now)
}

// tooMany makes an edge push its records one by one.
const tooMany = refusal("the push has more records than fit into a transaction of the hub")

// replaceSilently makes an edge take the hub's version of a record that brings no news, if no
// message of the stream would tell the edge: the edge does not get the record, or the hub has
// deleted it before.
func (h *Hub) replaceSilently(j *judge, c record.Copy, replace *replacing) error {
	m, err := h.replacement(j.filter, locate(liveTable(c.Table), c.Key))
	if err != nil {
		return err
	}
	if is := m[0].(Replace).Copy; len(is.Sealed) > 0 && is.Table == c.Table {
		return nil
	}
	return replace.note(c)
}

// mergeWhole merges a copy that the hub has judged. If more is set, there was no room for all of
// it, and the rest has to be merged in another transaction. The rest are keys of a deleted user,
// with which nobody logs in any more.
func mergeWhole(t *merge.Tables, c record.Copy) (more bool, err error) {
	had, err := t.Get(c.Table, c.Key)
	if err != nil {
		return false, err
	}
	for {
		more, err := t.Record(c)
		if err == nil && !more && had == nil && c.Table == record.TableUsers {
			return false, sendKeys(t, c.Key)
		}
		if errors.Is(err, merge.ErrInvalid) || errors.Is(err, merge.ErrReserved) {
			return false, refuse("the record %s/%x cannot be merged: %v", c.Table, c.Key, err)
		}
		if err != nil || !more || t.Room() < t.BuryAtOnce*writesOfKey {
			return more, err
		}
	}
}

// sendKeys makes the keys of a new user come in the streams behind the user. A hub that was
// restored can get a signed key back before the owner, and no edge gets the key then.
func sendKeys(t *merge.Tables, user []byte) error {
	all := map[string][]byte{}
	for e, err := range t.Scan(record.TableNames, user, append(bytes.Clone(user), 0xff)) {
		if err != nil {
			return err
		}
		_, id, err := record.SplitNameKey(e.Key)
		if err != nil {
			continue // a wrong entry, which is damage
		}
		sealed, err := t.Get(record.TableKeys, id[:])
		if err != nil {
			return err
		}
		if sealed != nil {
			all[string(id[:])] = bytes.Clone(sealed)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(all)) {
		if err := t.Put(record.TableKeys, []byte(id), all[id]); err != nil {
			return err
		}
	}
	return nil
}

// takeSigned takes a record that the hub has signed, whatever the policy of the edge that brings
// it: the hub was restored from a backup, and has lost it.
func (h *Hub) takeSigned(j *judge, s Record) (more bool, err error) {
	if err := j.form(s.Copy); err != nil {
		return false, err
	}
	if gone, err := j.isGone(s.Copy); err != nil || gone {
		return false, err
	}
	delete(j.filter.owners, ownerOf(s.Copy))
	return mergeWhole(j.t, s.Copy)
}

// ownerOf returns the user of a copy. The filter may know an earlier version of the user.
func ownerOf(c record.Copy) (id uuid.UUID) {
	copy(id[:], c.Key)
	return id
}

// isGone reports whether a live record was perhaps deleted so long ago that its tombstone was
// pruned. A signed copy of it is no reason to take it back.
func (j *judge) isGone(c record.Copy) (bool, error) {
	if dead := deadTable(c.Table); dead != "" {
		for _, table := range []string{c.Table, dead} {
			if sealed, err := j.t.Get(table, c.Key); err != nil || sealed != nil {
				return false, err
			}
		}
	}
	switch c.Table {
	case record.TableUsers:
		u, err := theirs(c, record.DecodeUser)
		return err == nil && j.maybePruned(c.Table, c.Key, u.Created), err
	case record.TableKeys:
		k, err := theirs(c, record.DecodeKey)
		return err == nil && !k.Foreign && j.maybePruned(c.Table, c.Key, k.Created), err
	}
	return false, nil
}

// use takes a last use.
func (j *judge) use(c record.Copy) error {
	if err := j.needs(PushUse, c, "push last uses"); err != nil {
		return err
	}
	if err := j.form(c); err != nil {
		return err
	}
	if c.Table != record.TableLastUse || len(c.Key) != len(lastuse.ID{}) {
		return refuse("the record %s/%x is no last use", c.Table, c.Key)
	}
	id := lastuse.ID(c.Key).Key()
	k, err := ours(j.t, record.TableKeys, id[:], record.DecodeKey)
	if err != nil || k == nil {
		return err
	}
	if err := j.hasOwner(c, k.Owner, k.Groups); err != nil {
		return err
	}
	_, err = mergeWhole(j.t, c)
	return err
}

// maxClaims is how many claims of one edge can wait, and maxClaimBytes bounds the size of their
// records. Every push of a claim reads them all.
const (
	maxClaims     = 1000
	maxClaimBytes = 4 << 20
)

// takeClaims notes what an edge claims. A claim that nobody could confirm is refused at once: the
// edge has to take the hub's version of the record. A number stands for what an administrator has
// seen under it, so a record that the edge claims again with something else gets another number.
//
// After a comparison with a hub that was restored from a backup, an edge also brings what the hub
// itself had changed and has lost. If that revokes nothing, it is replaced at the edge, too.
func (h *Hub) takeClaims(j *judge, k edgeRecord, copies []record.Copy, next *taking, replace *replacing, now time.Time) error {
	if len(copies) == 0 {
		return nil
	}
	known, err := readClaims(j.t)
	if err != nil {
		return err
	}
	waiting, size := map[string]Claim{}, 0
	for _, c := range known {
		if c.Edge == k.id {
			size += len(c.Copy.Sealed)
			waiting[string(locate(c.Copy.Table, c.Copy.Key))] = c
		}
	}
	revocations := *j
	revocations.policy.Push = PushRevocations
	all := *j
	all.policy.Push, all.claims = PushAll, true
	for _, c := range copies {
		if !hasRoom(j.t, c) {
			return tooMany
		}
		judged, merges, err := all.check(c)
		var no refusal
		if errors.As(err, &no) {
			if replace.room <= 0 {
				return refuse("%d records of the edge wait to be replaced already", maxClaims)
			}
			if err := replace.note(c); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		if !merges {
			if replace.room > 0 {
				if err := h.replaceSilently(j, c, replace); err != nil {
					return err
				}
			}
			continue
		}
		if h.o.AcceptClaims {
			_, _, err := revocations.check(c)
			more := false
			if err == nil {
				more, err = mergeWhole(j.t, judged)
			}
			if more {
				next.rest = append(next.rest, judged)
			}
			if err == nil {
				continue
			}
			if !errors.As(err, &no) {
				return err
			}
		}
		claims, err := isClaimable(j.t, c, k.replica)
		if err != nil {
			return err
		}
		if !claims && replace.room > 0 {
			if err := replace.note(c); err != nil {
				return err
			}
			continue
		}
		at := string(locate(c.Table, c.Key))
		was, found := waiting[at]
		switch {
		case found && bytes.Equal(was.Copy.Sealed, judged.Sealed):
			continue
		case found:
			if err := j.t.Delete(record.TableReplica, numbered8(localClaim, was.Number)); err != nil {
				return err
			}
		case len(waiting) >= maxClaims:
			return refuse("%d claims of the edge wait already", len(waiting))
		}
		if size += len(c.Sealed) - len(was.Copy.Sealed); size > maxClaimBytes {
			return refuse("claims of the edge of more than %d bytes wait already", maxClaimBytes)
		}
		number, err := nextClaim(j.t)
		if err != nil {
			return err
		}
		is := Claim{Number: number, Edge: k.id, Came: now, Copy: judged}
		waiting[at] = is
		if err := putLocal(j.t, numbered8(localClaim, is.Number), is.encode()); err != nil {
			return fmt.Errorf("note a claim: %w", err)
		}
	}
	return nil
}

// nextClaim returns the number of a new claim.
func nextClaim(t *merge.Tables) (number uint64, err error) {
	state, err := readHubState(t)
	if err != nil {
		return 0, err
	}
	state.claims++
	return state.claims, writeHubState(t, state)
}

// isClaimable reports whether a copy revokes something, or has a change that an edge has made.
func isClaimable(t *merge.Tables, c record.Copy, replica uuid.UUID) (bool, error) {
	actions, err := actionsOf(t, c)
	if err != nil {
		return false, err
	}
	for _, a := range actions {
		switch _, did, _ := strings.Cut(a, "."); did {
		case "disabled", "deleted", "token-ended", "rotated":
			return true, nil
		}
	}
	return bytes.Contains(c.Sealed, replica[:]), nil
}
