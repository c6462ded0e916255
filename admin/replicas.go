package admin

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/replica"
)

// This file serves what a hub knows of its edges, and how an edge is.

var (
	// ErrNoHub means that the store is not administered as a hub. See [Options].Hub.
	ErrNoHub = errors.New("the program does not serve the store as a hub")

	// ErrNoEdge means that the store is not administered as an edge. See [Options].Edge.
	ErrNoEdge = errors.New("the program does not have the store open as an edge of a hub")

	// ErrPolicy means that a policy is not one that an edge can have. The text says why.
	ErrPolicy = errors.New("no edge can have the policy")

	// ErrUnreachable means that an edge has not reached its hub. The text says why.
	ErrUnreachable = errors.New("the edge cannot reach its hub")
)

// hub returns the hub, or ErrNoHub.
func (c *call) hub() (*replica.Hub, error) {
	if c.opts.Hub == nil {
		return nil, ErrNoHub
	}
	return c.opts.Hub, nil
}

// showHub answers with the status of the hub.
func (c *call) showHub() error {
	if _, err := c.query(); err != nil {
		return err
	}
	hub, err := c.hub()
	if err != nil {
		return err
	}
	status, err := hub.Status(c.r.Context())
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, status)
}

// edgePlace returns the place of an edge in the list, which is in the order of the names. The place
// is in base64, because a name can have any character.
func edgePlace(e replica.EdgeInfo) string {
	return base64.RawURLEncoding.EncodeToString(append([]byte(e.Name+"\x00"), e.ID[:]...))
}

// compareEdges orders edges by their names, and edges of one name by their IDs.
func compareEdges(a, b replica.EdgeInfo) int {
	if n := strings.Compare(a.Name, b.Name); n != 0 {
		return n
	}
	return bytes.Compare(a.ID[:], b.ID[:])
}

// edgesOf returns the edges of a hub. The groups of each are a list, also if they are empty, as
// those of an edge that was revoked.
func edgesOf(ctx context.Context, hub *replica.Hub) ([]replica.EdgeInfo, error) {
	edges, err := hub.Edges(ctx)
	for i := range edges {
		edges[i].Policy.Groups = append([]string{}, edges[i].Policy.Groups...)
	}
	return edges, err
}

// listReplicas answers with a page of the edges of the hub.
func (c *call) listReplicas() error {
	w, q, err := c.window("search")
	if err != nil {
		return err
	}
	hub, err := c.hub()
	if err != nil {
		return err
	}
	place, err := base64.RawURLEncoding.DecodeString(w.cursor)
	end := len(place) - len(uuid.Nil) - 1 // where the name ends
	if err != nil || w.cursor != "" && (end < 0 || place[end] != 0 || !utf8.Valid(place[:end])) {
		return errBadCursor
	}
	edges, err := edgesOf(c.r.Context(), hub)
	if err != nil {
		return err
	}
	slices.SortFunc(edges, compareEdges)
	if w.cursor != "" {
		last := replica.EdgeInfo{Name: string(place[:end]), ID: uuid.UUID(place[end+1:])}
		edges = edges[firstAfter(edges, func(e replica.EdgeInfo) bool { return compareEdges(e, last) > 0 }):]
	}
	search := strings.ToLower(q.Get("search"))
	has := func(e replica.EdgeInfo) bool {
		return strings.Contains(strings.ToLower(e.Name), search) || strings.Contains(e.ID.String(), search)
	}
	items, next, err := take(w, without(edges), has, edgePlace)
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, List[replica.EdgeInfo]{Items: append([]replica.EdgeInfo{}, items...), Next: next})
}

// firstAfter returns the index of the first element for which is returns true, or the length.
func firstAfter[T any](all []T, is func(T) bool) int {
	if i := slices.IndexFunc(all, is); i >= 0 {
		return i
	}
	return len(all)
}

// without yields the elements of a list, without an error.
func without[T any](all []T) func(func(T, error) bool) {
	return func(yield func(T, error) bool) {
		for _, item := range all {
			if !yield(item, nil) {
				return
			}
		}
	}
}

func (c *call) showReplica() error {
	hub, err := c.hub()
	if err != nil {
		return err
	}
	id, err := c.pathID("replica")
	if err != nil {
		return err
	}
	return c.answerReplica(c.r.Context(), hub, id)
}

// answerReplica answers with an edge of the hub.
func (c *call) answerReplica(ctx context.Context, hub *replica.Hub, id uuid.UUID) error {
	edges, err := edgesOf(ctx, hub)
	if err != nil {
		return err
	}
	for _, e := range edges {
		if e.ID == id {
			return c.answer(http.StatusOK, e)
		}
	}
	return replica.ErrEdgeNotFound
}

// changeReplica gives an edge another policy.
func (c *call) changeReplica() error {
	var change struct {
		Policy Optional[policyBody] `json:"policy"`
	}
	if err := c.decode(&change, false); err != nil {
		return err
	}
	if !change.Policy.Set {
		return fmt.Errorf("%w: the body must have the field policy", errBadRequest)
	}
	policy, err := change.Policy.Value.policy()
	if err != nil {
		return err
	}
	return c.withReplica(func(hub *replica.Hub, id uuid.UUID) error { return hub.SetPolicy(c.r.Context(), id, policy) })
}

// revokeReplica cuts an edge off.
func (c *call) revokeReplica() error {
	if _, err := c.query(); err != nil {
		return err
	}
	return c.withReplica(func(hub *replica.Hub, id uuid.UUID) error { return hub.Revoke(c.r.Context(), id) })
}

// withReplica runs fn with the edge in the path, and answers with the edge.
func (c *call) withReplica(fn func(hub *replica.Hub, id uuid.UUID) error) error {
	hub, err := c.hub()
	if err != nil {
		return err
	}
	id, err := c.pathID("replica")
	if err != nil {
		return err
	}
	if err := policyProblem(fn(hub, id)); err != nil {
		return err
	}
	return c.answerReplica(c.afterChange(), hub, id)
}

// A policyBody is a policy in the body of a request.
type policyBody struct {
	Groups []string         `json:"groups"`
	Push   Optional[string] `json:"push"`
}

// policy returns the policy.
//
// Errors: errBadRequest.
func (b policyBody) policy() (p replica.Policy, err error) {
	if len(b.Groups) == 0 {
		return p, fmt.Errorf(`%w: the field groups must name a group, or "*" for all`, errBadRequest)
	}
	if b.Push.Set && p.Push.UnmarshalText([]byte(b.Push.Value)) != nil {
		return p, fmt.Errorf("%w: the field push must be nothing, use, revocations or all", errBadRequest)
	}
	p.Groups = b.Groups
	return p, nil
}

// policyProblem returns ErrPolicy for an error that a policy is not valid, and else err.
func policyProblem(err error) error {
	if errors.Is(err, latchkey.ErrInvalidOptions) {
		return fmt.Errorf("%w: %w", ErrPolicy, err)
	}
	return err
}

// createInvitation answers with an invitation. The holder of an invitation gets the secrets of the
// domain, and the stored verifiers of the groups.
func (c *call) createInvitation() error {
	hub, err := c.hub()
	if err != nil {
		return err
	}
	var body policyBody
	if err := c.decode(&body, false); err != nil {
		return err
	}
	policy, err := body.policy()
	if err != nil {
		return err
	}
	text, err := hub.Invite(c.r.Context(), policy)
	if err != nil {
		return policyProblem(err)
	}
	return c.answer(http.StatusCreated, Invitation{Invitation: text})
}

// listClaims answers with a page of the claims that wait.
func (c *call) listClaims() error {
	w, _, err := c.window()
	if err != nil {
		return err
	}
	hub, err := c.hub()
	if err != nil {
		return err
	}
	after := uint64(0)
	if w.cursor != "" {
		if after, err = strconv.ParseUint(w.cursor, 10, 64); err != nil {
			return errBadCursor
		}
	}
	claims, err := hub.Claims(c.r.Context())
	if err != nil {
		return err
	}
	if w.cursor != "" {
		claims = claims[firstAfter(claims, func(cl replica.Claim) bool { return cl.Number > after }):]
	}
	items, next, err := take(w, without(claims), func(replica.Claim) bool { return true }, func(cl replica.Claim) string {
		return strconv.FormatUint(cl.Number, 10)
	})
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, List[replica.Claim]{Items: append([]replica.Claim{}, items...), Next: next})
}

func (c *call) confirmClaim() error { return c.decideClaim((*replica.Hub).ConfirmClaim) }

func (c *call) refuseClaim() error { return c.decideClaim((*replica.Hub).RefuseClaim) }

// decideClaim decides the claim in the path.
func (c *call) decideClaim(decide func(*replica.Hub, context.Context, uint64) error) error {
	hub, err := c.hub()
	if err != nil {
		return err
	}
	number, err := strconv.ParseUint(c.r.PathValue("number"), 10, 64)
	if err != nil || number > uint64(maxNumber) {
		return fmt.Errorf("%w: it is the number of a claim", errBadID)
	}
	if _, err := c.query(); err != nil {
		return err
	}
	if err := decide(hub, c.r.Context(), number); err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

// showConfirmed answers how many edges have taken over a commit.
func (c *call) showConfirmed() error {
	q, err := c.query("sequence")
	if err != nil {
		return err
	}
	if !q.Has("sequence") {
		return fmt.Errorf("%w: the parameter sequence is missing", errBadRequest)
	}
	sequence, err := numberParameter(q, "sequence", 0, uint64(maxNumber), 0)
	if err != nil {
		return err
	}
	return c.answerConfirmed(func(*latchkey.Tx) (uint64, error) { return sequence, nil })
}

// answerConfirmed answers how many edges have taken over the commit whose sequence a function
// reads.
func (c *call) answerConfirmed(read func(*latchkey.Tx) (uint64, error)) error {
	hub, err := c.hub()
	if err != nil {
		return err
	}
	answer := Confirmed{}
	err = c.store.View(c.r.Context(), func(tx *latchkey.Tx) (err error) {
		answer.Sequence, err = read(tx)
		return err
	})
	if err != nil {
		return err
	}
	if answer.Have, answer.All, err = hub.Confirmed(c.r.Context(), answer.Sequence); err != nil {
		return err
	}
	return c.answer(http.StatusOK, answer)
}

// showKeyConfirmed answers how many edges have taken over the last change of a key.
func (c *call) showKeyConfirmed() error {
	return c.answerEntryConfirmed("key", (*latchkey.Tx).KeySequence, latchkey.ErrKeyNotFound)
}

// showUserConfirmed answers how many edges have taken over the last change of a user.
func (c *call) showUserConfirmed() error {
	return c.answerEntryConfirmed("user", (*latchkey.Tx).UserSequence, latchkey.ErrUserNotFound)
}

// answerEntryConfirmed answers how many edges have taken over the last change of the key or the
// user in the path. sequence returns 0 if there is no such entry.
func (c *call) answerEntryConfirmed(name string, sequence func(*latchkey.Tx, uuid.UUID) (uint64, error), none error) error {
	id, err := c.pathID(name)
	if err != nil {
		return err
	}
	if _, err := c.query(); err != nil {
		return err
	}
	return c.answerConfirmed(func(tx *latchkey.Tx) (uint64, error) {
		n, err := sequence(tx, id)
		if err == nil && n == 0 {
			err = none
		}
		return n, err
	})
}

// showGroupConfirmed answers how many edges have taken over the last change of a group. A group
// that was never disabled has no change.
func (c *call) showGroupConfirmed() error {
	if _, err := c.query(); err != nil {
		return err
	}
	return c.answerConfirmed(func(tx *latchkey.Tx) (uint64, error) { return tx.GroupSequence(c.r.PathValue("group")) })
}

// edge returns the edge, or ErrNoEdge.
func (c *call) edge() (*replica.Edge, error) {
	if _, err := c.query(); err != nil {
		return nil, err
	}
	if c.opts.Edge == nil {
		return nil, ErrNoEdge
	}
	return c.opts.Edge, nil
}

// showEdge answers with the status of the edge.
func (c *call) showEdge() error {
	edge, err := c.edge()
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, edgeStatus(edge))
}

// edgeStatus returns the status of an edge, whose list of groups is there even if it is empty.
func edgeStatus(edge *replica.Edge) replica.Status {
	s := edge.Status()
	if s.Policy.Groups == nil {
		s.Policy.Groups = []string{}
	}
	return s
}

// syncEdge takes over what is new at the hub, and pushes what is new here.
func (c *call) syncEdge() error {
	edge, err := c.edge()
	if err != nil {
		return err
	}
	if err := edge.Sync(c.r.Context()); err != nil {
		if kindOf(err).err == errOther { // an error of the network
			err = fmt.Errorf("%w: %w", ErrUnreachable, err)
		}
		return err
	}
	return c.answer(http.StatusOK, edgeStatus(edge))
}
