package replica

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/access"
	"github.com/latchkeydb/latchkey/internal/record"
	"github.com/latchkeydb/latchkey/internal/replication"
)

// HubOptions changes what a hub does. A nil *HubOptions, and one whose fields are all zero, is the
// safe choice. [NewHub] copies them.
type HubOptions struct {
	// Certificate is the certificate that the hub's server shows. Invitations then have the SHA-256
	// of its public key, and edges accept no other key. A certificate of a new date with the same
	// key needs nothing. Without Certificate, invitations have no such hash: edges then accept what
	// the authorities of their system have signed for the name in the URL.
	Certificate *x509.Certificate
	// NextCertificate is the one that the server will show later, with another key. The hub
	// announces the key to its edges, which accept both from then on. When all edges have been
	// there, use NextCertificate as Certificate.
	NextCertificate *x509.Certificate
	// AcceptClaims makes a hub accept the disablings that only an edge knows, in place of listing
	// them as claims.
	AcceptClaims bool
	// KeepTombstones is how long the hub keeps at least what is left of deleted keys. The default
	// is 400 days. Never restore the hub from a backup that is older.
	KeepTombstones time.Duration
	// DropAfter is how long an edge can be silent. After that, the hub waits for it no longer, and
	// the edge compares its records with those of the hub when it returns. The default is 180 days.
	DropAfter time.Duration
	// Logger gets a line when an edge joins, is refused, or is cloned, and for failures of the hub.
	// The default is no log.
	Logger *slog.Logger
}

// A Hub serves the edges of a store. It is an [http.Handler] for the paths that begin with
// /latchkey/v1/, and is safe for concurrent use. It has nothing to close: when its store is closed,
// its streams end.
type Hub struct {
	store   *latchkey.Store
	opts    HubOptions
	streams streams
	bodies  chan struct{} // has an element for each large request in memory
	bulk    chan struct{} // has an element for each batch that is being compressed and sent

	mu      sync.Mutex // guards the fields below
	opened  *replication.Hub
	renewed map[uuid.UUID]renewal // of edges that have not used their new keys yet
	swept   time.Time             // when old invitations were removed
	larges  map[uuid.UUID]int     // how many large requests of an edge are under way
}

// maxBodies and maxBulk bound the memory for large requests and answers: 8 bodies of maxPush bytes,
// and 32 batches of some hundred kilobytes.
const (
	maxBodies = 8
	maxBulk   = 32
)

// NewHub returns a hub over an open store. opts may be nil. Do not make two hubs over one open
// store at a time. Several processes can each have a hub of one store, behind one address, if the
// store is on an engine that they share. Edges can ask any of them. Give them the same options.
//
// NewHub writes nothing. The hub opens its part of the store when it is first used. A failure is
// then the error of the call, and a finding of [Hub.Health].
func NewHub(store *latchkey.Store, opts *HubOptions) *Hub {
	h := &Hub{
		store: store, bodies: make(chan struct{}, maxBodies), bulk: make(chan struct{}, maxBulk),
		renewed: map[uuid.UUID]renewal{}, larges: map[uuid.UUID]int{},
	}
	if opts != nil {
		h.opts = *opts
	}
	h.streams.init()
	return h
}

// core returns the core of the hub, which it opens at the first call.
func (h *Hub) core(ctx context.Context) (*replication.Hub, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.opened == nil {
		opened, err := replication.OpenHub(ctx, access.Of(h.store), replication.HubOptions{
			Random: rand.Reader, KeepTombstones: h.opts.KeepTombstones,
			AcceptClaims: h.opts.AcceptClaims, DropAfter: h.opts.DropAfter,
		})
		if err != nil {
			return nil, err
		}
		h.opened = opened
		access.AddFinding(h.store, h.finding)
	}
	return h.opened, nil
}

// pinOf returns the SHA-256 of the public key of a certificate, or nil if there is none.
func pinOf(c *x509.Certificate) []byte {
	if c == nil {
		return nil
	}
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return sum[:]
}

func (h *Hub) log(level slog.Level, text string, args ...any) {
	if h.opts.Logger != nil {
		h.opts.Logger.Log(context.Background(), level, text, args...)
	}
}

// hubError returns an error of the core as callers know it.
func hubError(err error) error {
	switch {
	case errors.Is(err, replication.ErrUnknownEdge):
		return fmt.Errorf("%w: %w", ErrEdgeNotFound, err)
	case errors.Is(err, replication.ErrNoClaim):
		return fmt.Errorf("%w: %w", ErrClaimNotFound, err)
	case errors.Is(err, replication.ErrPolicy):
		return fmt.Errorf("%w: %w", latchkey.ErrInvalidOptions, err)
	}
	return err
}

// An EdgeInfo is what a hub tells about one of its edges.
type EdgeInfo struct {
	ID     uuid.UUID `json:"id"` // of the edge's server key
	Name   string    `json:"name"`
	Policy Policy    `json:"policy"`
	Joined time.Time `json:"joined,omitzero"`
	// LastSeen is when the hub last heard of the edge. Connected reports whether the edge follows
	// now, this process or another one that serves the same store. What another process has heard
	// of an edge is known after five minutes at the latest.
	LastSeen  time.Time `json:"last_seen,omitzero"`
	Connected bool      `json:"connected"`
	Build     string    `json:"build,omitempty"` // the version of the edge's library
	// Sequence is the commit of the hub up to which the edge has confirmed to have everything that
	// it gets.
	Sequence uint64 `json:"sequence"`
	// Compared is when hub and edge last compared what they have, and Matched reports whether
	// nothing differed.
	Compared time.Time `json:"compared,omitzero"`
	Matched  bool      `json:"matched,omitempty"`
	// Revoked reports whether the edge was cut off. The hub lists the edge until its key is
	// deleted, and has forgotten the policy.
	Revoked bool `json:"revoked,omitempty"`
	// Dropped reports whether the edge was silent for longer than [HubOptions].DropAfter.
	Dropped bool `json:"dropped,omitempty"`
	// Cloned reports whether two devices have used the credential of the edge.
	Cloned bool `json:"cloned,omitempty"`
	Claims int  `json:"claims,omitempty"` // that wait
	// Refused is why the hub refused the last push that it has refused, or "".
	Refused string `json:"refused,omitempty"`
}

// Edges returns what the hub knows of its edges, in the order of their names.
//
// Errors: an error of [latchkey.Store.View].
func (h *Hub) Edges(ctx context.Context) ([]EdgeInfo, error) {
	core, err := h.core(ctx)
	if err != nil {
		return nil, wrapf(err, "edges")
	}
	known, err := core.Edges(ctx, h.store.Now())
	if err != nil {
		return nil, wrapf(err, "edges")
	}
	edges := make([]EdgeInfo, 0, len(known))
	for _, e := range known {
		edges = append(edges, EdgeInfo{
			ID: e.ID, Name: e.Name, Policy: policyOf(e.Policy), Joined: e.Joined, LastSeen: e.Seen, Connected: e.Streaming,
			Build: e.Build, Sequence: e.Confirmed, Compared: e.Compared, Matched: e.Matched, Dropped: e.Dropped,
			Cloned: !e.Cloned.IsZero(), Claims: e.Claims, Refused: e.Refusal,
		})
	}
	edges, err = h.withRevoked(ctx, edges)
	if err != nil {
		return nil, wrapf(err, "edges")
	}
	slices.SortFunc(edges, func(a, b EdgeInfo) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), slices.Compare(a.ID[:], b.ID[:]))
	})
	return edges, nil
}

// revokedTable is the application table of the hub's store with the names of the edges that were
// cut off, by their IDs. The core has forgotten them.
const revokedTable = "latchkey-revoked-edges"

// withRevoked marks the edges whose keys are disabled or deleted, and adds those that were cut off
// and whose keys are still there.
func (h *Hub) withRevoked(ctx context.Context, known []EdgeInfo) (edges []EdgeInfo, err error) {
	err = h.store.View(ctx, func(tx *latchkey.Tx) error {
		edges = slices.Clone(known)
		has := map[uuid.UUID]bool{}
		for i, e := range edges {
			has[e.ID] = true
			key, err := tx.Key(latchkey.ServerOwner, e.ID)
			if err != nil && !errors.Is(err, latchkey.ErrKeyNotFound) {
				return err
			}
			edges[i].Revoked = err != nil || key.Disabled
		}
		for e, err := range tx.AppTable(revokedTable).Scan(nil, nil) {
			if err != nil {
				return err
			}
			id, _ := uuid.FromBytes(e.Key)
			key, err := tx.Key(latchkey.ServerOwner, id)
			switch {
			case errors.Is(err, latchkey.ErrKeyNotFound):
			case err != nil:
				return err
			case !has[id] && key.Disabled:
				edges = append(edges, EdgeInfo{ID: id, Name: string(e.Value), Joined: key.Created, Revoked: true})
			}
		}
		return nil
	})
	return edges, err
}

// SetPolicy gives an edge another policy. The edge learns of it at once if it follows. It forgets
// what it may not have any more, although the holder of the device may have kept a copy.
//
// Errors: [ErrEdgeNotFound]; [latchkey.ErrInvalidOptions]; an error of [latchkey.Store.Update].
func (h *Hub) SetPolicy(ctx context.Context, edge uuid.UUID, p Policy) error {
	policy, err := p.core()
	var core *replication.Hub
	if err == nil {
		core, err = h.core(ctx)
	}
	if err == nil {
		err = hubError(core.SetPolicy(ctx, edge, policy.Groups, policy.Push))
	}
	return wrapf(err, "set the policy of edge %s", edge)
}

// Revoke cuts an edge off: its key is disabled, and its stream ends. What
// the edge has, it keeps: see docs/threat-model.md for what to do when a device was stolen.
//
// Errors: [ErrEdgeNotFound]; an error of [latchkey.Store.Update].
func (h *Hub) Revoke(ctx context.Context, edge uuid.UUID) error {
	err := h.store.Update(ctx, func(tx *latchkey.Tx) error {
		key, err := tx.Key(latchkey.ServerOwner, edge)
		if err == nil && !key.Scopes.Has(Scope) {
			err = ErrEdgeNotFound
		}
		if err != nil {
			return err
		}
		if err := tx.AppTable(revokedTable).Put(edge[:], []byte(edgeName(key))); err != nil {
			return err
		}
		return tx.DisableKey(latchkey.ServerOwner, edge)
	})
	if errors.Is(err, latchkey.ErrKeyNotFound) {
		err = nil // somebody has deleted the key, and the edge is left
	} else if err != nil {
		return wrapf(err, "revoke edge %s", edge)
	}
	h.streams.check(edge)
	core, err := h.core(ctx)
	if err == nil {
		err = hubError(core.DropEdge(ctx, edge))
	}
	return wrapf(err, "revoke edge %s", edge)
}

// Scope is the scope of the keys of edges.
const Scope = "latchkey:replica"

// A Claim is a change that only an edge knows, and that its policy does not let it push: most often
// that a user, a key or a group was disabled there. It is in effect at the edge.
type Claim struct {
	Number  uint64    `json:"number"`
	Edge    uuid.UUID `json:"edge"`
	Arrived time.Time `json:"arrived,omitzero"`
	// Table is "users", "keys", "groups", "deadusers" or "deadkeys".
	Table string    `json:"table"`
	ID    uuid.UUID `json:"id,omitzero"`     // of the user or the key
	Group string    `json:"group,omitempty"` // the name of the group
	// What are the actions that the claim stands for, such as "key.disabled", with commas between
	// them.
	What string `json:"what"`
}

// Claims returns the claims that wait, in the order in which they came.
//
// Errors: an error of [latchkey.Store.View].
func (h *Hub) Claims(ctx context.Context) ([]Claim, error) {
	core, err := h.core(ctx)
	if err != nil {
		return nil, wrapf(err, "claims")
	}
	known, err := core.Claims(ctx)
	if err != nil {
		return nil, wrapf(err, "claims")
	}
	claims := make([]Claim, 0, len(known))
	for _, c := range known {
		claim := Claim{Number: c.Number, Edge: c.Edge, Arrived: c.Came, Table: c.Copy.Table, What: strings.Join(c.Actions, ", ")}
		if c.Copy.Table == record.TableGroups {
			claim.Group = string(c.Copy.Key)
		} else {
			claim.ID, _ = uuid.FromBytes(c.Copy.Key)
		}
		claims = append(claims, claim)
	}
	return claims, nil
}

// ConfirmClaim makes the change of a claim at the hub, from where all edges get it.
//
// Errors: [ErrClaimNotFound]; an error of [latchkey.Store.Update].
func (h *Hub) ConfirmClaim(ctx context.Context, number uint64) error {
	core, err := h.core(ctx)
	if err == nil {
		err = hubError(core.ConfirmClaim(ctx, number))
	}
	return wrapf(err, "confirm claim %d", number)
}

// RefuseClaim drops a claim. The edge that made the claim takes over what the hub has.
//
// Errors: [ErrClaimNotFound]; an error of [latchkey.Store.Update].
func (h *Hub) RefuseClaim(ctx context.Context, number uint64) error {
	core, err := h.core(ctx)
	if err == nil {
		err = hubError(core.RefuseClaim(ctx, number))
	}
	return wrapf(err, "refuse claim %d", number)
}

// Confirmed returns how many edges have confirmed that they have what the commits of the hub up to
// a sequence have changed, and how many edges there are. A program that has disabled a key reads
// [latchkey.Tx.Sequence] in a View afterwards, and passes it.
//
// Errors: an error of [latchkey.Store.View].
func (h *Hub) Confirmed(ctx context.Context, sequence uint64) (have, all int, err error) {
	core, err := h.core(ctx)
	if err == nil {
		have, all, err = core.Confirmed(ctx, sequence)
	}
	return have, all, wrapf(err, "edges that have confirmed %d", sequence)
}

// A HubStatus is what a hub tells about itself.
type HubStatus struct {
	Sequence uint64 `json:"sequence"` // of the last commit
	Edges    int    `json:"edges"`
	Streams  int    `json:"streams"` // edges that follow now
	Claims   int    `json:"claims"`  // that wait
	// Invitations is how many invitations are good now.
	Invitations int `json:"invitations"`
}

// Status tells how the hub is.
//
// Errors: an error of [latchkey.Store.View]; why the hub could not begin.
func (h *Hub) Status(ctx context.Context) (status HubStatus, err error) {
	claims, err := h.Claims(ctx)
	if err != nil {
		return HubStatus{}, err
	}
	edges, err := h.Edges(ctx)
	if err != nil {
		return HubStatus{}, err
	}
	status = HubStatus{Edges: len(edges), Claims: len(claims)}
	for _, e := range edges {
		if e.Connected {
			status.Streams++
		}
	}
	err = h.store.View(ctx, func(tx *latchkey.Tx) (err error) {
		status.Sequence = tx.Sequence()
		status.Invitations, err = openInvitations(tx)
		return err
	})
	return status, wrapf(err, "status")
}

// finding is what the hub adds to the Health of its store. Within a transaction it finds nothing.
func (h *Hub) finding(ctx context.Context) error {
	if err := h.Health(ctx); !errors.Is(err, latchkey.ErrInTransaction) {
		return err
	}
	return nil
}

// Health tells what an administrator of the hub should look at: [ErrClaims], [ErrCloned], or why
// the hub cannot work. It returns nil if there is nothing. [latchkey.Store.Health] of the hub's
// store has these findings, too, once the hub was used.
func (h *Hub) Health(ctx context.Context) error {
	core, err := h.core(ctx)
	if err != nil {
		return err
	}
	edges, err := core.Edges(ctx, h.store.Now())
	if err != nil {
		return err
	}
	var findings []error
	claims := 0
	for _, e := range edges {
		claims += e.Claims
		if !e.Cloned.IsZero() {
			findings = append(findings, fmt.Errorf("%w: edge %s (%s)", ErrCloned, e.Name, e.ID))
		}
	}
	if claims > 0 {
		findings = append(findings, fmt.Errorf("%w: %d", ErrClaims, claims))
	}
	return errors.Join(findings...)
}
