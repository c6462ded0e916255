package replica

import (
	"errors"
	"fmt"
)

// The errors that callers can branch on, beside those of package latchkey.
var (
	// ErrInvitation means that the hub does not take the invitation: it is not whole, was used,
	// is older than an hour, or is not of this hub. The hub does not tell which. Ask the
	// administrator of the hub for a new one.
	ErrInvitation = errors.New("the invitation is not good (any more): ask for a new one")
	// ErrJoined means that the file belongs to an edge that the hub knows. Use [Open].
	ErrJoined = errors.New("the edge has joined already: open it")
	// ErrNotEdge means that the file has not joined a hub: it is a store of another kind or of
	// another domain, or the file of its credential is missing or damaged. Join with a new
	// invitation.
	ErrNotEdge = errors.New("the file is no edge of the hub")
	// ErrWrongHub means that what answered is not the hub: it has another key than the invitation
	// or the hub has named. The edge has sent it nothing. Look for what is between the edge
	// and the hub. If the hub has lost its key, join again.
	ErrWrongHub = errors.New("what answers there is not the hub that was joined")
	// ErrUnknownEdge means that the hub does not know the edge (any more), for example because the
	// hub was restored from a backup from before the edge joined. [Join] with a new invitation, on
	// the same file: what the edge has stays.
	ErrUnknownEdge = errors.New("the hub does not know the edge: join again with a new invitation")
	// ErrRevoked means that an administrator of the hub has cut the edge off, or that the edge was
	// away for so long that its key cannot be exchanged. [Join] with a new invitation, on the same
	// file, if the edge shall go on.
	ErrRevoked = errors.New("the hub has cut the edge off")
	// ErrRefused means that the hub has refused what the edge has pushed. The text says why. The
	// change stays at the edge, and the hub's administrator sees the refusal.
	ErrRefused = errors.New("the hub refused what the edge has pushed")
	// ErrHub means that the hub has answered with something that is no answer, or with a failure of
	// its own. [Edge.Follow] tries again.
	ErrHub = errors.New("the hub did not answer as it should")
	// ErrFollowing means that [Edge.Follow] is running, which does all that the call would do.
	ErrFollowing = errors.New("the edge follows the hub already")
	// ErrSilent is a finding of [latchkey.Store.Health] of an edge: it has not heard of the hub for
	// longer than it should. The text says since when.
	ErrSilent = errors.New("the edge has heard nothing of the hub")
	// ErrCloned is a finding of [latchkey.Store.Health]: two devices use the credential of one
	// edge. Revoke the edge, and let each of the devices join with an invitation of its own.
	ErrCloned = errors.New("two devices use the credential of one edge")
	// ErrClaims is a finding of [latchkey.Store.Health] of a hub: claims wait for an administrator.
	// See [Hub.Claims].
	ErrClaims = errors.New("claims of edges wait to be confirmed or refused")
	// ErrEdgeNotFound means that the hub has no such edge.
	ErrEdgeNotFound = errors.New("edge not found")
	// ErrClaimNotFound means that there is no such claim (any more).
	ErrClaimNotFound = errors.New("claim not found")
)

// wrapf adds to err the operation that failed. It returns nil for nil.
func wrapf(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("replica: "+format+": %w", append(args, err)...)
}
