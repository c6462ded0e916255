package tokenscan

import (
	"context"
	"errors"
	"net/netip"

	"github.com/latchkeydb/latchkey"
)

// A State tells whether a string in the form of a token is a good token of a store.
type State string

// The states.
const (
	// Live means that the token logs in, perhaps only from certain networks.
	Live State = "live"
	// Refused means that the token is one of the store, but does not log in now: its key has
	// expired, or its key, user or group is disabled. It may log in again later.
	Refused State = "refused"
	// Unknown means that the token is not one of the store, or that it is no longer one: its key
	// was deleted, or has another token by now.
	Unknown State = "unknown"
)

// An Answer is what a store knows of a string in the form of a token.
type Answer struct {
	State State
	// Reason is why a token is refused: [latchkey.ErrKeyDisabled], [latchkey.ErrKeyExpired],
	// [latchkey.ErrUserDisabled] or [latchkey.ErrGroupDisabled]. For a token that is live only from
	// certain networks, Reason is [latchkey.ErrNetworkNotAllowed].
	Reason error
	// Principal is the holder of a token that is live and has no Reason.
	Principal latchkey.Principal
}

// answers has the errors of a login that say something about the token.
var answers = []Answer{
	{State: Unknown, Reason: latchkey.ErrInvalidToken},
	{State: Refused, Reason: latchkey.ErrKeyDisabled},
	{State: Refused, Reason: latchkey.ErrKeyExpired},
	{State: Refused, Reason: latchkey.ErrUserDisabled},
	{State: Refused, Reason: latchkey.ErrGroupDisabled},
	{State: Live, Reason: latchkey.ErrNetworkNotAllowed},
}

// Ask returns what a store knows of a token that was found.
//
// Ask leaves no trace, also in a store that is open for writing: see [latchkey.Store.Inspect]. The
// key counts as unused if it was, and a rotation goes on as if the token had not been presented.
//
// A token of the store costs one argon2 hash. Any other string costs less than a microsecond.
//
// Errors: those of [latchkey.Store.Login] that say nothing about the token.
func Ask(ctx context.Context, store *latchkey.Store, f Found) (Answer, error) {
	who, err := store.Inspect(ctx, f.Token(), netip.Addr{})
	if err == nil {
		return Answer{State: Live, Principal: who}, nil
	}
	for _, a := range answers {
		if errors.Is(err, a.Reason) {
			if a.State == Unknown {
				a.Reason = nil
			}
			return a, nil
		}
	}
	return Answer{}, err
}
