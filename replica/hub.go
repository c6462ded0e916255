package replica

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
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
	store *latchkey.Store
	opts  HubOptions
}

// NewHub returns a hub over an open store. opts may be nil. Do not make two hubs over one store.
// The hub writes to the store when it is first used, and a failure then is the error of the call,
// and of [Hub.Health].
func NewHub(store *latchkey.Store, opts *HubOptions) *Hub {
	h := &Hub{store: store}
	if opts != nil {
		h.opts = *opts
	}
	return h
}

// ServeHTTP serves the requests of edges.
func (h *Hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	http.Error(w, "not built yet", http.StatusNotImplemented)
}

var errNotBuilt = errors.New("not built yet")

// Invite makes an invitation, with which one edge can join within an hour, by the time of the
// store. The invitation is secret. It cannot be seen again.
//
// Errors: [latchkey.ErrInvalidOptions] if the policy is not valid; an error of
// [latchkey.Store.Update].
func (h *Hub) Invite(ctx context.Context, p Policy) (invitation string, err error) {
	if _, err := p.core(); err != nil {
		return "", wrapf(err, "invite")
	}
	return "", errNotBuilt
}

// An EdgeInfo is what a hub tells about one of its edges.
type EdgeInfo struct {
	ID     uuid.UUID `json:"id"` // of the edge's server key
	Name   string    `json:"name"`
	Policy Policy    `json:"policy"`
	Joined time.Time `json:"joined,omitzero"`
	// LastSeen is when the hub last heard of the edge, and Connected reports whether the edge
	// follows now.
	LastSeen  time.Time `json:"last_seen,omitzero"`
	Connected bool      `json:"connected"`
	Build     string    `json:"build,omitempty"` // the version of the edge's library
	// Sequence is the last commit of the hub that the edge has confirmed to have taken over.
	Sequence uint64 `json:"sequence"`
	// Revoked, Dropped and Cloned: the edge was cut off; was silent for too long; or two devices
	// use its credential.
	Revoked bool `json:"revoked,omitempty"`
	Dropped bool `json:"dropped,omitempty"`
	Cloned  bool `json:"cloned,omitempty"`
	// Claims is how many claims of the edge wait, and Refused why the hub last refused a push of
	// the edge.
	Claims  int    `json:"claims,omitempty"`
	Refused string `json:"refused,omitempty"`
}

// Edges returns what the hub knows of its edges, in the order of their names.
//
// Errors: an error of [latchkey.Store.View].
func (h *Hub) Edges(ctx context.Context) ([]EdgeInfo, error) { return nil, errNotBuilt }

// SetPolicy gives an edge another policy. The edge learns of it at once if it follows. It forgets
// what it may not have any more, although whoever has the device may have kept it.
//
// Errors: [ErrEdgeNotFound]; [latchkey.ErrInvalidOptions]; an error of [latchkey.Store.Update].
func (h *Hub) SetPolicy(ctx context.Context, edge uuid.UUID, p Policy) error { return errNotBuilt }

// Revoke cuts an edge off: its key is disabled, and its stream ends. What the edge has, it keeps.
//
// Errors: [ErrEdgeNotFound]; an error of [latchkey.Store.Update].
func (h *Hub) Revoke(ctx context.Context, edge uuid.UUID) error { return errNotBuilt }

// A Claim is a change that only an edge knows, and that its policy does not let it push: most often
// that a user, a key or a group was disabled there.
type Claim struct {
	Number  uint64    `json:"number"`
	Edge    uuid.UUID `json:"edge"`
	Arrived time.Time `json:"arrived,omitzero"`
	// Table is "users", "keys", "groups", "deadusers" or "deadkeys".
	Table string    `json:"table"`
	ID    uuid.UUID `json:"id,omitzero"`     // of the user or the key
	Group string    `json:"group,omitempty"` // the name of the group
	What  string    `json:"what"`            // such as "disabled"
}

// Claims returns the claims that wait, in the order in which they came.
//
// Errors: an error of [latchkey.Store.View].
func (h *Hub) Claims(ctx context.Context) ([]Claim, error) { return nil, errNotBuilt }

// ConfirmClaim makes the change of a claim at the hub, from where all edges get it.
//
// Errors: [ErrClaimNotFound]; an error of [latchkey.Store.Update].
func (h *Hub) ConfirmClaim(ctx context.Context, number uint64) error { return errNotBuilt }

// RefuseClaim drops a claim. The edge that made it takes over what the hub has.
//
// Errors: [ErrClaimNotFound]; an error of [latchkey.Store.Update].
func (h *Hub) RefuseClaim(ctx context.Context, number uint64) error { return errNotBuilt }

// Confirmed returns how many edges have confirmed that they have taken over a commit of the hub,
// and how many edges there are. A program that has disabled a key reads [latchkey.Tx.Sequence] in a
// View afterwards, and passes it.
//
// Errors: an error of [latchkey.Store.View].
func (h *Hub) Confirmed(ctx context.Context, sequence uint64) (have, all int, err error) {
	return 0, 0, errNotBuilt
}

// A HubStatus is what a hub tells about itself.
type HubStatus struct {
	Sequence uint64 `json:"sequence"` // of the last commit
	Edges    int    `json:"edges"`
	Streams  int    `json:"streams"` // edges that follow now
	Claims   int    `json:"claims"`
	// Invitations is how many invitations are good now.
	Invitations int `json:"invitations"`
}

// Status tells how the hub is.
//
// Errors: an error of [latchkey.Store.View]; why the hub could not begin.
func (h *Hub) Status(ctx context.Context) (HubStatus, error) { return HubStatus{}, errNotBuilt }
