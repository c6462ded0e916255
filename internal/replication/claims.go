package replication

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/merge"
	"github.com/latchkeydb/latchkey/internal/record"
)

// A Claim is a change that an edge made or knows of, and that its policy does not let it push. It
// is in effect at the edge.
type Claim struct {
	Number  uint64
	Edge    uuid.UUID
	Came    time.Time
	Copy    record.Copy
	Actions []string // what the claim would change at the hub, such as "key.disabled"
}

func (c Claim) encode() (m record.Message) {
	m.Bytes(1, c.Edge[:])
	m.Number(2, unixMilli(c.Came))
	m.Bytes(3, c.Copy.Encode())
	return m
}

func decodeClaim(number uint64, message []byte) (c Claim, err error) {
	c.Number = number
	for f, err := range record.Fields(message) {
		if err != nil {
			return c, err
		}
		switch f.Num {
		case 1:
			c.Edge, err = record.DecodeID(f.Bytes)
		case 2:
			c.Came = timeOf(f.Number)
		case 3:
			c.Copy, err = record.DecodeCopy(f.Bytes)
		}
		if err != nil {
			return c, err
		}
	}
	return c, nil
}

// readClaims returns the claims that wait, without their actions.
func readClaims(t *merge.Tables) (claims []Claim, err error) {
	err = scanLocal(t, localClaim, func(key, message []byte) error {
		if len(key) != 8 {
			return nil
		}
		c, err := decodeClaim(binary.BigEndian.Uint64(key), message)
		claims = append(claims, c)
		return err
	})
	return claims, err
}

// Claims returns the claims that wait, in the order of their numbers. A claim that would change
// nothing any more is left out.
func (h *Hub) Claims(ctx context.Context) (claims []Claim, err error) {
	err = h.store.View(ctx, func(t *merge.Tables) error {
		claims = nil
		all, err := readClaims(t)
		if err != nil {
			return err
		}
		for _, c := range all {
			if c.Actions, err = actionsOf(t, c.Copy); err != nil {
				return err
			}
			if len(c.Actions) > 0 {
				claims = append(claims, c)
			}
		}
		return nil
	})
	return claims, err
}

// actionsOf returns what the merge of a copy would change, in words.
func actionsOf(t *merge.Tables, c record.Copy) (actions []string, err error) {
	dead := deadTable(c.Table)
	if dead != "" {
		sealed, err := t.Get(dead, c.Key)
		if err != nil || sealed != nil {
			return nil, err
		}
	}
	has, err := t.Get(liveTable(c.Table), c.Key)
	if err != nil {
		return nil, err
	}
	var before []byte
	if has != nil {
		if before, err = record.Open(liveTable(c.Table), c.Key, has); err != nil {
			return nil, err
		}
	}
	var d record.Difference
	switch c.Table {
	case record.TableGroups:
		g, err := record.UnsealGroup(string(c.Key), c.Sealed)
		if err != nil {
			return nil, err
		}
		was, err := record.DecodeGroup(g.Name, before)
		if err != nil {
			return nil, err
		}
		is := was.Merge(*g).Encode()
		if string(is) == string(before) {
			return nil, nil
		}
		d, err = record.GroupDifference(c.Key, before, is)
		return d.Actions, err
	case record.TableUsers:
		u, err := record.Unseal(c.Table, c.Key, c.Sealed, record.DecodeUser)
		if err != nil {
			return nil, err
		}
		is := *u
		if before != nil {
			was, err := record.DecodeUser(u.ID, before)
			if err != nil {
				return nil, err
			}
			is = was.Merge(*u)
		}
		if string(is.Encode()) == string(before) {
			return nil, nil
		}
		d, err = record.UserDifference(c.Key, before, is.Encode())
		return d.Actions, err
	case record.TableKeys:
		k, err := record.Unseal(c.Table, c.Key, c.Sealed, record.DecodeKey)
		if err != nil {
			return nil, err
		}
		is := *k
		if before != nil {
			was, err := record.DecodeKey(k.ID, before)
			if err != nil {
				return nil, err
			}
			if is, err = was.Merge(*k); err != nil {
				return nil, nil // which cannot be merged
			}
		}
		if string(is.Encode()) == string(before) {
			return nil, nil
		}
		d, err = record.KeyDifference(c.Key, before, is.Encode())
		return d.Actions, err
	case record.TableDeadUsers:
		if has != nil {
			return []string{"user.deleted"}, nil
		}
	case record.TableDeadKeys:
		if has != nil {
			return []string{"key.deleted"}, nil
		}
	}
	return nil, nil
}

// claim returns a claim that waits.
//
// Errors: [ErrNoClaim].
func (h *Hub) claim(t *merge.Tables, n uint64) (c Claim, err error) {
	message, err := getLocal(t, numbered8(localClaim, n))
	if err != nil {
		return c, err
	}
	if message == nil {
		return c, ErrNoClaim
	}
	return decodeClaim(n, message)
}

// ConfirmClaim merges what a claim has, as if an edge with every permission had pushed it. The
// group of a record stays as it is at the hub. The edge takes the hub's version, because it may not
// get the record any more.
//
// Errors: [ErrNoClaim]; [merge.ErrInvalid] if the record cannot be merged; an error of the store.
func (h *Hub) ConfirmClaim(ctx context.Context, n uint64) error {
	var rest *record.Copy
	err := h.decide(ctx, n, func(t *merge.Tables, c Claim) error {
		rest = nil
		j, err := h.newJudge(t, Policy{Groups: []string{AllGroups}, Push: PushAll})
		if err != nil {
			return err
		}
		judged, merges, err := j.check(c.Copy)
		if err == nil && merges {
			var more bool
			if more, err = mergeWhole(t, judged); more {
				rest = &judged
			}
		}
		var no refusal
		if errors.As(err, &no) {
			return fmt.Errorf("%w: %s", merge.ErrInvalid, no)
		}
		return err
	})
	for more := rest != nil; err == nil && more; {
		err = h.store.Update(ctx, func(t *merge.Tables) (err error) {
			more, err = mergeWhole(t, *rest)
			return err
		})
	}
	return err
}

// RefuseClaim makes the edge take the hub's version of the record, and of the keys of a user.
//
// Errors: [ErrNoClaim]; an error of the store.
func (h *Hub) RefuseClaim(ctx context.Context, n uint64) error {
	return h.decide(ctx, n, func(*merge.Tables, Claim) error { return nil })
}

// dropIdleClaims refuses the claims of an edge that would change nothing any more, for example
// because the hub has deleted the user. The list of claims leaves them out, so no administrator
// decides them, and the edge would keep the records. A deletion waits if the hub does not know the
// record, because another edge can bring the record.
func (h *Hub) dropIdleClaims(ctx context.Context, edge uuid.UUID) error {
	var idle []uint64
	err := h.store.View(ctx, func(t *merge.Tables) error {
		idle = nil
		all, err := readClaims(t)
		if err != nil {
			return err
		}
		for _, c := range all {
			if c.Edge != edge {
				continue
			}
			actions, err := actionsOf(t, c.Copy)
			if err != nil {
				return err
			}
			if len(actions) > 0 {
				continue
			}
			if c.Copy.Table != liveTable(c.Copy.Table) {
				if dead, err := t.Get(c.Copy.Table, c.Copy.Key); err != nil {
					return err
				} else if dead == nil {
					continue
				}
			}
			idle = append(idle, c.Number)
		}
		return nil
	})
	for _, n := range idle {
		if err == nil {
			err = h.RefuseClaim(ctx, n)
		}
		if errors.Is(err, ErrNoClaim) {
			err = nil // somebody has decided it meanwhile
		}
	}
	return err
}

// decide takes a claim off the list after fn, and makes the edge take the hub's version.
func (h *Hub) decide(ctx context.Context, n uint64, fn func(*merge.Tables, Claim) error) error {
	return h.change(ctx, func(t *merge.Tables) error {
		c, err := h.claim(t, n)
		if err != nil {
			return err
		}
		if err := fn(t, c); err != nil {
			return err
		}
		switch _, err := edgeIn(t, c.Edge); {
		case err == nil:
			replace := &replacing{hub: h, t: t, edge: c.Edge}
			if err := replace.note(c.Copy); err != nil {
				return err
			}
		case !errors.Is(err, ErrUnknownEdge):
			return err
		}
		return t.Delete(record.TableReplica, numbered8(localClaim, n))
	})
}
