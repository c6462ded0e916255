package replication

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/merge"
	"github.com/latchkeydb/latchkey/internal/record"
)

// A Change is a change that was made in the store of an edge, as the hook of the store tells it.
type Change struct {
	Actions   []string // such as "key.disabled"
	User, Key uuid.UUID
	Group     string
	Scopes    []string
}

// A pending is a record that the hub does not know as it is, or that the hub has asked for.
type pending struct {
	what what
	// kept is the record as it was when the edge had to forget it.
	kept *record.Copy
	// stuck is the version of the policy under which the hub has refused the claim. The claim is
	// pushed again under another one.
	stuck uint64
}

// what says what was done to a pending record.
type what uint64

const (
	whatUse    what = 1 << iota // a token was ended by the first use of the next one
	whatRevoke                  // disabled
	whatChange                  // anything else
	whatWanted                  // the hub has asked for the record
	whatClaim                   // the hub has refused the change as one within the policy
	whatAlive                   // it was deleted, and the hub has sent it alive since
)

// permitted returns what a policy lets an edge push.
func permitted(p Push) what {
	return [...]what{PushNothing: 0, PushUse: whatUse, PushRevocations: whatUse | whatRevoke, PushAll: whatUse | whatRevoke | whatChange | whatWanted | whatAlive}[p]
}

func (p pending) encode() (m record.Message) {
	m.Number(1, uint64(p.what))
	if p.kept != nil {
		m.Bytes(2, p.kept.Encode())
	}
	m.Number(3, p.stuck)
	return m
}

func decodePending(message []byte) (p pending, err error) {
	for f, err := range fields(message) {
		if err != nil {
			return p, err
		}
		switch f.Num {
		case 1:
			p.what = what(f.Number)
		case 2:
			c, err := decodeCopy(f.Bytes)
			if err != nil {
				return p, err
			}
			p.kept = &c
		case 3:
			p.stuck = f.Number
		}
	}
	return p, nil
}

// keptPending begins the place, behind edgePending, of a pending record that the edge has
// forgotten. The record can come back and change again. Then it is pending in the usual place, too.
const keptPending = "kept/"

// pendingKey returns the place where a record is pending, or its tombstone.
func pendingKey(table string, key []byte) []byte {
	return append([]byte(edgePending), locate(liveTable(table), key)...)
}

// Changed decides about a change that was made here, in the transaction of the change. It notes
// what the hub must hear of. It must not be called for a change with [merge.Tables].Merging.
//
// A disabling is permitted whatever the policy says, and so is the end of an old token by the first
// use of the new one, which is no call that could be refused. Where the policy does not let the
// edge push them, they become claims.
//
// Errors: [ErrNotPermitted], and then the transaction must not commit; an error of t.
func (e *Edge) Changed(t *merge.Tables, c Change) error {
	table, key := record.TableGroups, []byte(c.Group)
	switch {
	case c.User != uuid.Nil:
		table, key = record.TableUsers, c.User[:]
	case c.Key != uuid.Nil:
		if merge.IsReserved(c.Scopes) {
			return nil // the key does not travel
		}
		table, key = record.TableKeys, c.Key[:]
	case c.Group == "":
		return ErrNotPermitted // tag secrets and the time are the hub's
	}
	policy := e.now().policy
	done := what(0)
	for _, action := range c.Actions {
		switch _, did, _ := strings.Cut(action, "."); did {
		case "disabled":
			done |= whatRevoke
		case "token-ended":
			done |= whatUse
		case "group":
			return ErrNotPermitted
		default:
			done |= whatChange
		}
	}
	if done&whatChange != 0 {
		group, err := groupOf(t, table, key)
		if err != nil {
			return err
		}
		if permitted(policy.Push)&whatChange == 0 || !policy.Has(group) {
			return ErrNotPermitted
		}
	}
	return note(t, table, key, done)
}

// note notes that a record is pending.
func note(t *merge.Tables, table string, key []byte, done what) error {
	if done == 0 {
		return nil
	}
	at := pendingKey(table, key)
	message, err := getLocal(t, at)
	if err != nil {
		return err
	}
	p, err := decodePending(message)
	if err != nil {
		return err
	}
	was := p
	p.what |= done
	if done&^(whatWanted|whatAlive) != 0 {
		p.what &^= whatClaim // the hub may take the record as it is now
		p.stuck = 0
	}
	if was == p {
		return nil
	}
	return putLocal(t, at, p.encode())
}

// keepPending keeps the present version of a record that the edge forgets, if the record is
// pending.
func (e *Edge) keepPending(t *merge.Tables, table string, key []byte) error {
	at := pendingKey(table, key)
	message, err := getLocal(t, at)
	if err != nil || message == nil {
		return err
	}
	if err := t.Delete(record.TableReplica, at); err != nil {
		return err
	}
	p, err := decodePending(message)
	if err != nil || p.what&^(whatWanted|whatAlive) == 0 {
		return err
	}
	if p.kept, err = e.current(t, table, key); err != nil || p.kept == nil {
		return err
	}
	return putLocal(t, append([]byte(edgePending+keptPending), at[len(edgePending):]...), p.encode())
}

// current returns a copy of a record that travels, or of its tombstone. It returns nil if there is
// neither, or if this build cannot read the record.
func (e *Edge) current(t *merge.Tables, table string, key []byte) (*record.Copy, error) {
	tables := []string{liveTable(table)}
	switch tables[0] {
	case record.TableUsers:
		tables = append(tables, record.TableDeadUsers)
	case record.TableKeys:
		tables = append(tables, record.TableDeadKeys)
	}
	for _, of := range tables {
		sealed, err := t.Get(of, key)
		if err != nil {
			return nil, err
		}
		if sealed == nil {
			continue
		}
		if travels, err := t.Travels(of, key, sealed); err != nil || !travels {
			return nil, err
		}
		return &record.Copy{Domain: e.store.DomainID(), Table: of, Key: key, Sealed: sealed}, nil
	}
	return nil, nil
}

// groupOf returns the group of a record, or of its tombstone. It is "" for none.
func groupOf(t *merge.Tables, table string, key []byte) (string, error) {
	groups, owner, err := groupsOf(t, table, key)
	if err == nil && owner != uuid.Nil && owner != record.ServerOwner {
		groups, _, err = groupsOf(t, record.TableUsers, owner[:])
	}
	return groups.Now(), err
}

// groupsOf returns the groups in a record or its tombstone, and the owner of a key.
func groupsOf(t *merge.Tables, table string, key []byte) (groups record.Groups, owner uuid.UUID, err error) {
	get := func(table string) (sealed []byte) {
		if err == nil {
			sealed, err = t.Get(table, key)
		}
		return sealed
	}
	switch liveTable(table) {
	case record.TableGroups:
		return record.Groups{{Value: string(key)}}, owner, nil
	case record.TableUsers:
		if sealed := get(record.TableUsers); sealed != nil {
			u, err := record.Unseal(record.TableUsers, key, sealed, record.DecodeUser)
			if err != nil {
				return nil, owner, err
			}
			return u.Groups, owner, nil
		}
		if sealed := get(record.TableDeadUsers); sealed != nil {
			d, err := record.Unseal(record.TableDeadUsers, key, sealed, record.DecodeUserTombstone)
			if err != nil {
				return nil, owner, err
			}
			return d.Groups, owner, nil
		}
	case record.TableKeys:
		if sealed := get(record.TableKeys); sealed != nil {
			k, err := record.Unseal(record.TableKeys, key, sealed, record.DecodeKey)
			if err != nil {
				return nil, owner, err
			}
			return k.Groups, k.Owner, nil
		}
		if sealed := get(record.TableDeadKeys); sealed != nil {
			d, err := record.Unseal(record.TableDeadKeys, key, sealed, record.DecodeKeyTombstone)
			if err != nil {
				return nil, owner, err
			}
			return d.Groups, d.Owner, nil
		}
	}
	return nil, owner, err
}

// Pushing is what a push has taken along.
type Pushing struct {
	pending []pushed
	// brought is the last signed copy that the push brings, and broughtAll says that there are no
	// more.
	brought    []byte
	broughtAll bool
	copies     []record.Copy // the records of the signed copies, without their bytes
	// used is the minute of the latest use so far, and usedTo the last one of the push.
	used    uint32
	usedTo  []byte
	usedAll bool
}

// settles reports whether the edge has something to note when the hub has replied.
func (p *Pushing) settles() bool {
	return len(p.pending) > 0 || p.brought != nil || p.broughtAll || p.usedTo != nil || p.usedAll
}

// A pushed is a pending record in a push.
type pushed struct {
	at, message []byte // where and what was pending
	sequence    uint64 // of the record
	claimed     bool   // it cannot be pushed in another way any more
	table       string
	key         []byte
}

// IsEmpty reports whether a push has no records. Then it says how far the edge has come.
func (p PushRequest) IsEmpty() bool {
	return len(p.Records)+len(p.Claims)+len(p.Signed)+len(p.Uses) == 0
}

// UsesDue makes the next pushes take along the last uses since the last time.
func (e *Edge) UsesDue() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.uses = true
}

// Pending returns what the hub does not know, up to some number of bytes. The request has no
// records if there is nothing. Then a push says how far the edge has come. When the hub has
// replied, the caller calls [Edge.Pushed] with the same Pushing, and Pending again until there is
// nothing.
func (e *Edge) Pending(ctx context.Context, most int) (PushRequest, *Pushing, error) {
	for {
		r, p, err := e.nextPush(ctx, most)
		if err != nil || !r.IsEmpty() || !p.settles() {
			return r, p, err
		}
		// There was something, and nothing of it has to be pushed.
		if err := e.Pushed(ctx, p, PushReply{}); err != nil {
			return r, p, err
		}
	}
}

func (e *Edge) nextPush(ctx context.Context, most int) (r PushRequest, p *Pushing, err error) {
	e.mu.Lock()
	s, alone, uses, usedTo := e.state, e.alone, e.uses, e.usedTo
	used := max(e.state.used, e.usedMost)
	e.mu.Unlock()
	err = e.store.View(ctx, func(t *merge.Tables) error {
		r, p = PushRequest{Cursor: s.cursor, Policy: s.policy.Version}, &Pushing{used: used}
		size := 0
		err := scanPending(t, func(at, message []byte) error {
			n, err := e.addPending(t, s.policy, &r, p, at, message)
			if size += n; err == nil && (size >= most || alone && n > 0) {
				err = errFull
			}
			return err
		})
		if err == nil && r.IsEmpty() && s.bring {
			err = e.addSigned(t, s.brought, most, &r, p)
		}
		if err == nil && r.IsEmpty() && uses && s.policy.Push >= PushUse {
			err = e.addUses(t, s.used, usedTo, most, &r, p)
		}
		if errors.Is(err, errFull) {
			err = nil
		}
		return err
	})
	return r, p, err
}

// scanPending calls fn with each pending record, as [scanLocal] does. Owners come before their
// keys, because the hub refuses a key whose owner it does not know. What the edge has forgotten
// comes before what it has, because a later claim of a record takes the place of an earlier one.
func scanPending(t *merge.Tables, fn func(at, message []byte) error) error {
	for _, table := range summed {
		for _, prefix := range [][]byte{locate(keptPending+table, nil), locate(table, nil)} {
			err := scanLocal(t, edgePending, func(at, message []byte) error {
				if !bytes.HasPrefix(at, prefix) {
					return nil
				}
				return fn(at, message)
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// errFull ends a scan.
var errFull = errors.New("the push is full")

// addPending adds a pending record to a push, and returns the size of what it has added.
func (e *Edge) addPending(t *merge.Tables, policy Policy, r *PushRequest, p *Pushing, at, message []byte) (size int, err error) {
	held, err := decodePending(message)
	if err != nil || held.stuck != 0 && held.stuck == policy.Version {
		return 0, err
	}
	table, key := located(bytes.TrimPrefix(at, []byte(keptPending)))
	entry := pushed{at: append([]byte(edgePending), at...), message: message, table: table, key: key}
	c := held.kept
	if c == nil {
		if c, err = e.current(t, table, key); err != nil {
			return 0, err
		}
	}
	if c == nil {
		p.pending = append(p.pending, entry) // nothing is left to push
		return 1, nil
	}
	entry.table = c.Table
	if entry.sequence, err = t.SequenceOf(c.Table, key); err != nil {
		return 0, err
	}
	p.pending = append(p.pending, entry)
	if held.what&whatWanted != 0 {
		signed, err := getSigned(t, table, key)
		if err != nil {
			return 0, err
		}
		if signed != nil {
			r.Signed = append(r.Signed, *signed)
			size += len(signed.Copy.Sealed) + record.MaxGroup
		}
		// The edge may have more than the hub has ever signed, such as a claim that the hub has
		// lost.
		same := signed != nil && signed.Copy.Table == c.Table && bytes.Equal(signed.Copy.Sealed, c.Sealed)
		if same && permitted(policy.Push)&whatWanted == 0 {
			if held.what &^= whatWanted; held.what&^whatClaim == 0 {
				p.pending[len(p.pending)-1].claimed = true
				return size, nil
			}
		}
	}
	group := ""
	if held.kept == nil {
		group, err = groupOf(t, table, key)
	}
	if err != nil {
		return 0, err
	}
	if held.kept == nil && held.what&^permitted(policy.Push) == 0 && policy.Has(group) {
		r.Records = append(r.Records, *c)
	} else {
		r.Claims = append(r.Claims, *c)
		p.pending[len(p.pending)-1].claimed = true
	}
	return size + len(c.Sealed) + record.MaxGroup, nil
}

// addSigned adds signed copies behind a key to a push.
func (e *Edge) addSigned(t *merge.Tables, behind []byte, most int, r *PushRequest, p *Pushing) error {
	p.broughtAll = true
	size := 0
	from := append([]byte(edgeSigned), behind...)
	for entry, err := range t.Scan(record.TableReplica, append(from, 0), after(edgeSigned)) {
		if err != nil {
			return err
		}
		if size >= most {
			p.broughtAll = false
			break
		}
		p.brought = entry.Key[len(edgeSigned):]
		message, err := record.Open(record.TableReplica, entry.Key, entry.Value)
		if err != nil {
			continue // a damaged one holds back no other
		}
		signed, err := decodeSigned(message)
		if err != nil {
			continue
		}
		r.Signed = append(r.Signed, signed)
		size += len(signed.Copy.Sealed) + record.MaxGroup
		p.copies = append(p.copies, record.Copy{Table: signed.Copy.Table, Key: signed.Copy.Key})
	}
	return nil
}

// addUses adds last uses behind a key to a push.
func (e *Edge) addUses(t *merge.Tables, since uint32, behind []byte, most int, r *PushRequest, p *Pushing) error {
	p.usedAll = true
	size := 0
	for c, err := range t.LastUses(e.store.DomainID(), string(behind), time.Unix(int64(since)*60, 0)) {
		if err != nil {
			return err
		}
		if size >= most {
			p.usedAll = false
			break
		}
		p.usedTo = c.Key
		if message, err := record.Open(c.Table, c.Key, c.Sealed); err == nil {
			minute, _ := record.DecodeLastUse(message)
			p.used = max(p.used, minute)
		}
		r.Uses = append(r.Uses, c)
		size += len(c.Sealed) + len(c.Key) + len(c.Domain)
	}
	return nil
}

// Pushed notes that the hub has replied to a push. A record that has changed again since the push
// stays pending.
//
// If the hub has refused a push, the edge pushes its records again, one at a time, so that one
// record keeps back no other. A record that is refused alone becomes a claim.
func (e *Edge) Pushed(ctx context.Context, p *Pushing, reply PushReply) error {
	e.work.Lock()
	defer e.work.Unlock()
	e.mu.Lock()
	e.refused = reply.Refused
	e.mu.Unlock()
	refused := reply.Refused != ""
	if reply.Policy != 0 {
		return nil // the new policy comes first
	}
	if refused && len(p.pending) > 1 || !p.settles() {
		e.setAlone(refused)
		return nil
	}
	err := e.update(ctx, func(t *merge.Tables, s *state) error {
		for _, entry := range p.pending {
			if err := settle(t, entry, refused, s.policy.Version); err != nil {
				return err
			}
			if err := e.forgetOutside(t, entry, s.policy); err != nil {
				return err
			}
		}
		s.cursor.Taken = max(s.cursor.Taken, reply.Taken)
		for _, c := range p.copies {
			if err := dropForgotten(t, c); err != nil {
				return err
			}
		}
		if p.brought != nil || p.broughtAll {
			s.brought = p.brought
			if p.broughtAll {
				s.bring, s.brought = false, nil
			}
		}
		if p.usedAll {
			s.used = p.used
		}
		return nil
	})
	if err != nil {
		return err
	}
	if len(p.pending) == 0 {
		e.setAlone(false)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case p.usedAll:
		e.uses, e.usedTo, e.usedMost = false, nil, 0
	case p.usedTo != nil:
		e.usedTo, e.usedMost = p.usedTo, p.used
	}
	return nil
}

// forgetOutside forgets a record that is in no group of the edge, and that the edge had only for a
// hub that had lost it.
func (e *Edge) forgetOutside(t *merge.Tables, entry pushed, policy Policy) error {
	if liveTable(entry.table) != entry.table {
		return nil
	}
	if message, err := getLocal(t, entry.at); err != nil || message != nil {
		return err // it is pending still
	}
	if sealed, err := t.Get(entry.table, entry.key); err != nil || sealed == nil {
		return err
	}
	group, err := groupOf(t, entry.table, entry.key)
	if err != nil || policy.Has(group) {
		return err
	}
	return e.forget(t, entry.table, entry.key)
}

// dropForgotten removes the signed copy of a record that the edge has forgotten, see [Edge.forget].
func dropForgotten(t *merge.Tables, c record.Copy) error {
	live := liveTable(c.Table)
	for _, table := range []string{live, deadTable(live)} {
		if table == "" {
			continue
		}
		if sealed, err := t.Get(table, c.Key); err != nil || sealed != nil {
			return err
		}
	}
	return t.Delete(record.TableReplica, signedKey(c.Table, c.Key))
}

func (e *Edge) setAlone(alone bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.alone = alone
}

// settle takes a pending record off the list, or notes that the hub has refused it under a policy.
func settle(t *merge.Tables, entry pushed, refused bool, policy uint64) error {
	message, err := getLocal(t, entry.at)
	if err != nil || message == nil || !slices.Equal(message, entry.message) {
		return err // more has happened to it
	}
	p, err := decodePending(message)
	if err != nil {
		return err
	}
	if sequence, err := t.SequenceOf(entry.table, entry.key); err != nil || p.kept == nil && sequence != entry.sequence {
		return err
	}
	if !refused {
		return t.Delete(record.TableReplica, entry.at)
	}
	if entry.claimed {
		p.stuck = policy
	}
	p.what |= whatClaim
	return putLocal(t, entry.at, p.encode())
}
