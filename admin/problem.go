package admin

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/audit"
	"github.com/latchkeydb/latchkey/internal/hide"
	"github.com/latchkeydb/latchkey/keyimport"
	"github.com/latchkeydb/latchkey/replica"
)

// A Problem is the body of an answer that is no success, as RFC 9457 describes it. It is also the
// error that a client gets. [errors.Is] finds the error of package latchkey that the problem
// stands for.
type Problem struct {
	Type   string `json:"type"`  // stable: programs branch on it
	Title  string `json:"title"` // the same for each problem of the type
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"` // what is wrong this time
	// Also has the types of the other errors that the error is.
	Also []string `json:"also,omitempty"`
	// Lines says what is wrong with which line of an import. After 100 there are no more.
	Lines []ProblemLine `json:"lines,omitempty"`

	header http.Header
}

// A ProblemLine says what is wrong with one line of a body.
type ProblemLine struct {
	Line  int    `json:"line"`
	Error string `json:"error"`
}

// Error returns the detail, or else the title.
func (p *Problem) Error() string {
	if p.Detail != "" {
		return p.Detail
	}
	return p.Title
}

// Is reports whether the problem stands for an error of package latchkey, audit or replica.
func (p *Problem) Is(target error) bool {
	for _, k := range kinds {
		if k.err == target {
			return typeOf(k.name) == p.Type || slices.Contains(p.Also, typeOf(k.name))
		}
	}
	return false
}

// typeOf returns the type of a problem with a name.
func typeOf(name string) string { return typePrefix + name }

const typePrefix = "urn:latchkey:problem:"

// Code returns the code of an error: the end of the type of the problem with which the API answers
// the error, such as "key-not-found". It is "internal" for an error that the API does not know.
func Code(err error) string { return strings.TrimPrefix(problemOf(err).Type, typePrefix) }

// Codes returns the codes of all errors that the API knows.
func Codes() []string {
	var codes []string
	for _, k := range kinds {
		codes = append(codes, k.name)
	}
	return codes
}

// A kind is a kind of problem.
type kind struct {
	err    error
	status int
	name   string // the end of the type
	retry  string // the header Retry-After, in seconds; empty for none
}

// kinds is the table of all problems. The first one that fits is the answer.
var kinds = []kind{
	// The handler's own.
	{err: errBadRequest, status: http.StatusBadRequest, name: "invalid-request"},
	{err: errBadID, status: http.StatusBadRequest, name: "invalid-id"},
	{err: errBadCursor, status: http.StatusUnprocessableEntity, name: "invalid-cursor"},
	{err: errTooLarge, status: http.StatusRequestEntityTooLarge, name: "body-too-large"},
	{err: errMediaType, status: http.StatusUnsupportedMediaType, name: "unsupported-media-type"},
	{err: errNoRoute, status: http.StatusNotFound, name: "no-such-route"},
	{err: errMethod, status: http.StatusMethodNotAllowed, name: "method-not-allowed"},
	{err: errUnconditional, status: http.StatusPreconditionRequired, name: "precondition-required"},
	{err: ErrChanged, status: http.StatusPreconditionFailed, name: "changed-meanwhile"},
	{err: errIdempotencyReused, status: http.StatusUnprocessableEntity, name: "idempotency-key-reused"},
	{err: ErrInProgress, status: http.StatusConflict, name: "in-progress", retry: "5"},
	{err: errTooManyStreams, status: http.StatusServiceUnavailable, name: "too-many-streams", retry: "5"},
	{err: errNoSecrets, status: http.StatusForbidden, name: "key-required"},
	{err: errCrossOrigin, status: http.StatusForbidden, name: "cross-origin"},
	{err: errSignedOut, status: http.StatusUnauthorized, name: "signed-out"},
	{err: errLinkUsed, status: http.StatusForbidden, name: "sign-in-url-used"},
	{err: errWrongHost, status: http.StatusMisdirectedRequest, name: "wrong-host"},
	{err: errNoTLS, status: http.StatusForbidden, name: "tls-required"},
	{err: ErrNoPage, status: http.StatusNotFound, name: "no-page"},
	{err: ErrTokenUnknown, status: http.StatusNotFound, name: "token-unknown"},
	{err: ErrManifest, status: http.StatusUnprocessableEntity, name: "invalid-manifest"},
	{err: ErrWrongLines, status: http.StatusUnprocessableEntity, name: "wrong-lines"},
	{err: ErrKeysLeft, status: http.StatusConflict, name: "keys-left"},
	{err: ErrTrail, status: http.StatusConflict, name: "audit-begun"},
	{err: ErrNoHub, status: http.StatusNotFound, name: "no-hub"},
	{err: ErrNoEdge, status: http.StatusNotFound, name: "no-edge"},
	{err: ErrPolicy, status: http.StatusUnprocessableEntity, name: "invalid-policy"},
	{err: keyimport.ErrInvalidScheme, status: http.StatusUnprocessableEntity, name: "invalid-scheme"},

	// Errors of a hub, and of an edge.
	{err: replica.ErrEdgeNotFound, status: http.StatusNotFound, name: "edge-not-found"},
	{err: replica.ErrClaimNotFound, status: http.StatusNotFound, name: "claim-not-found"},
	{err: replica.ErrFollowing, status: http.StatusConflict, name: "follows-already"},
	{err: replica.ErrUnknownEdge, status: http.StatusConflict, name: "unknown-edge"},
	{err: replica.ErrRevoked, status: http.StatusConflict, name: "edge-revoked"},
	{err: replica.ErrRefused, status: http.StatusConflict, name: "push-refused"},
	{err: replica.ErrWrongHub, status: http.StatusBadGateway, name: "wrong-hub"},
	{err: replica.ErrHub, status: http.StatusBadGateway, name: "hub-failed"},
	{err: ErrUnreachable, status: http.StatusBadGateway, name: "hub-unreachable"},
	{err: replica.ErrInvitation, status: http.StatusConflict, name: "invalid-invitation"},
	{err: replica.ErrJoined, status: http.StatusConflict, name: "joined-already"},
	{err: replica.ErrNotEdge, status: http.StatusConflict, name: "not-an-edge"},

	// Errors of the store that the request is about.
	{err: latchkey.ErrUserNotFound, status: http.StatusNotFound, name: "user-not-found"},
	{err: latchkey.ErrKeyNotFound, status: http.StatusNotFound, name: "key-not-found"},
	{err: latchkey.ErrIdentityNotFound, status: http.StatusNotFound, name: "identity-not-found"},
	{err: latchkey.ErrIdentityConflict, status: http.StatusConflict, name: "identity-conflict"},
	{err: latchkey.ErrInvalidRecord, status: http.StatusConflict, name: "invalid-record"},
	{err: latchkey.ErrNotPermitted, status: http.StatusConflict, name: "not-permitted"},
	{err: latchkey.ErrKeyDeleted, status: http.StatusGone, name: "key-deleted"},
	{err: latchkey.ErrKeyNameTaken, status: http.StatusConflict, name: "key-name-taken"},
	{err: latchkey.ErrIdentityTaken, status: http.StatusConflict, name: "identity-taken"},
	{err: latchkey.ErrLastIdentity, status: http.StatusConflict, name: "last-identity"},
	{err: latchkey.ErrUserHasKeys, status: http.StatusConflict, name: "user-has-keys"},
	{err: latchkey.ErrTooManyKeys, status: http.StatusConflict, name: "too-many-keys"},
	{err: latchkey.ErrTooManyIdentities, status: http.StatusConflict, name: "too-many-identities"},
	{err: latchkey.ErrAnonymousUser, status: http.StatusConflict, name: "anonymous-user"},
	{err: latchkey.ErrInvalidTagSecret, status: http.StatusConflict, name: "invalid-tag-secret"},
	{err: latchkey.ErrReadOnly, status: http.StatusConflict, name: "read-only"},
	{err: latchkey.ErrInvalidName, status: http.StatusUnprocessableEntity, name: "invalid-name"},
	{err: latchkey.ErrInvalidScope, status: http.StatusUnprocessableEntity, name: "invalid-scope"},
	{err: latchkey.ErrInvalidNetwork, status: http.StatusUnprocessableEntity, name: "invalid-network"},
	{err: latchkey.ErrInvalidMetadata, status: http.StatusUnprocessableEntity, name: "invalid-metadata"},
	{err: latchkey.ErrInvalidGroup, status: http.StatusUnprocessableEntity, name: "invalid-group"},
	{err: latchkey.ErrInvalidIdentity, status: http.StatusUnprocessableEntity, name: "invalid-identity"},
	{err: latchkey.ErrInvalidExpiry, status: http.StatusUnprocessableEntity, name: "invalid-expiry"},
	{err: latchkey.ErrInvalidRotation, status: http.StatusUnprocessableEntity, name: "invalid-rotation"},
	{err: latchkey.ErrInvalidMintedKey, status: http.StatusUnprocessableEntity, name: "invalid-minted-key"},

	// Why a token that was found is refused.
	{err: latchkey.ErrInvalidToken, status: http.StatusNotFound, name: "invalid-token"},
	{err: latchkey.ErrKeyDisabled, status: http.StatusConflict, name: "key-disabled"},
	{err: latchkey.ErrKeyExpired, status: http.StatusConflict, name: "key-expired"},
	{err: latchkey.ErrUserDisabled, status: http.StatusConflict, name: "user-disabled"},
	{err: latchkey.ErrGroupDisabled, status: http.StatusConflict, name: "group-disabled"},
	{err: latchkey.ErrNetworkNotAllowed, status: http.StatusConflict, name: "network-not-allowed"},

	// Findings about the health of the store, before the errors that can be their causes.
	{err: latchkey.ErrReaderHoldsUp, status: http.StatusServiceUnavailable, name: "reader-holds-up"},
	{err: latchkey.ErrSafetyCopyFailed, status: http.StatusServiceUnavailable, name: "safety-copy-failed"},
	{err: latchkey.ErrLastUseFailed, status: http.StatusServiceUnavailable, name: "last-use-failed"},
	{err: latchkey.ErrRotationNotDurable, status: http.StatusServiceUnavailable, name: "rotation-not-durable"},
	{err: latchkey.ErrClockBehind, status: http.StatusServiceUnavailable, name: "clock-behind"},
	{err: latchkey.ErrNoIdentity, status: http.StatusServiceUnavailable, name: "no-identity"},
	{err: latchkey.ErrRecovered, status: http.StatusServiceUnavailable, name: "recovered"},

	// The store cannot do it now.
	{err: latchkey.ErrStale, status: http.StatusServiceUnavailable, name: "stale", retry: "30"},
	{err: latchkey.ErrBusy, status: http.StatusServiceUnavailable, name: "busy", retry: "1"},
	{err: latchkey.ErrInterrupted, status: http.StatusServiceUnavailable, name: "interrupted", retry: "1"},
	{err: latchkey.ErrUnavailable, status: http.StatusServiceUnavailable, name: "unavailable", retry: "5"},
	{err: latchkey.ErrNoSpace, status: http.StatusInsufficientStorage, name: "no-space"},
	{err: latchkey.ErrClosed, status: http.StatusServiceUnavailable, name: "closed", retry: "5"},
	// ErrCommitUnknown comes first, because it alone leaves open whether the change happened.
	{err: latchkey.ErrCommitUnknown, status: http.StatusInternalServerError, name: "commit-unknown"},
	{err: latchkey.ErrSyncFailed, status: http.StatusInternalServerError, name: "sync-failed"},
	{err: latchkey.ErrFileGone, status: http.StatusServiceUnavailable, name: "file-gone"},
	{err: latchkey.ErrFileChanged, status: http.StatusServiceUnavailable, name: "file-changed"},
	{err: latchkey.ErrLocked, status: http.StatusServiceUnavailable, name: "locked"},
	{err: latchkey.ErrUnfinished, status: http.StatusServiceUnavailable, name: "unfinished"},

	// The store is broken, or the program has a fault.
	{err: latchkey.ErrNumbering, status: http.StatusInternalServerError, name: "numbering"},
	{err: latchkey.ErrCorrupt, status: http.StatusInternalServerError, name: "corrupt"},
	{err: latchkey.ErrNewerFormat, status: http.StatusInternalServerError, name: "newer-format"},
	{err: latchkey.ErrNotStore, status: http.StatusInternalServerError, name: "not-a-store"},
	{err: latchkey.ErrCostTooHigh, status: http.StatusInternalServerError, name: "cost-too-high"},
	{err: latchkey.ErrTransactionTooLarge, status: http.StatusInternalServerError, name: "transaction-too-large"},
	{err: latchkey.ErrInTransaction, status: http.StatusInternalServerError, name: "in-transaction"},
	{err: latchkey.ErrInvalidData, status: http.StatusInternalServerError, name: "invalid-data"},
	{err: latchkey.ErrInvalidOptions, status: http.StatusInternalServerError, name: "invalid-options"},

	// Findings about edges and the audit trail.
	{err: replica.ErrSilent, status: http.StatusServiceUnavailable, name: "hub-silent"},
	{err: replica.ErrCloned, status: http.StatusServiceUnavailable, name: "edge-cloned"},
	{err: replica.ErrClaims, status: http.StatusServiceUnavailable, name: "claims-wait"},
	{err: audit.ErrBroken, status: http.StatusInternalServerError, name: "audit-broken"},
	{err: audit.ErrPruned, status: http.StatusConflict, name: "audit-pruned"},
	{err: audit.ErrChain, status: http.StatusUnprocessableEntity, name: "audit-chain"},

	{err: errors.ErrUnsupported, status: http.StatusNotImplemented, name: "unsupported"},
	{err: context.Canceled, status: http.StatusServiceUnavailable, name: "canceled"},
	{err: context.DeadlineExceeded, status: http.StatusServiceUnavailable, name: "timeout"},
	{err: errOther, status: http.StatusInternalServerError, name: "internal"},
}

// ErrInProgress means that the same work is in progress for another request, such as a backup. Wait
// for its end.
var ErrInProgress = errors.New("the same work is in progress already")

// ErrTokenUnknown means that a string is no token of the store, or no longer one.
var ErrTokenUnknown = errors.New("the token is none of this store")

// ErrChanged means that something was changed after the ETag was read that the change was given.
// Read it again, and decide anew.
var ErrChanged = errors.New("it was changed meanwhile: read it again")

// The handler's own errors. Their texts are the titles of problems.
var (
	errBadRequest        = errors.New("the request is not as openapi.yaml describes it")
	errBadID             = errors.New("the path has something else where an ID is expected")
	errBadCursor         = errors.New("the cursor is not one that the API has given")
	errTooLarge          = errors.New("the body is too large")
	errMediaType         = errors.New("the body has another media type than it should")
	errNoRoute           = errors.New("the API has no such path")
	errMethod            = errors.New("the path does not have the method")
	errUnconditional     = errors.New("the change needs the header If-Match with the ETag of what it changes, or a star")
	errIdempotencyReused = errors.New("the Idempotency-Key was used for another request")
	errTooManyStreams    = errors.New("too many streams of changes are open")
	errNoSecrets         = errors.New("secrets, and keys that could get them, need a key with the scope " + ScopeAdmin)
	errCrossOrigin       = errors.New("the page of another site cannot administer the store")
	errSignedOut         = errors.New("the page is not signed in: open the URL that latchkey page prints")
	errLinkUsed          = errors.New("the sign-in URL was used before, or is too old: latchkey page prints another one")
	errWrongHost         = errors.New("the page is not reached by this host name")
	errNoTLS             = errors.New("the page needs TLS for requests of other machines")
	errOther             = errors.New("something went wrong")
)

// problemOf returns the problem of an error.
func problemOf(err error) *Problem {
	var p *Problem
	if errors.As(err, &p) {
		return p
	}
	k := kindOf(err)
	p = &Problem{Type: typeOf(k.name), Title: k.err.Error(), Status: k.status}
	if text := hide.Tokens(err.Error()); text != p.Title {
		p.Detail = text
	}
	for _, other := range kinds {
		if other != k && errors.Is(err, other.err) {
			p.Also = append(p.Also, typeOf(other.name))
		}
	}
	if k.retry != "" {
		p.header = http.Header{"Retry-After": {k.retry}}
	}
	return p
}

func kindOf(err error) kind {
	for _, k := range kinds {
		if errors.Is(err, k.err) {
			return k
		}
	}
	return kinds[len(kinds)-1]
}
