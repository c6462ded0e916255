// Package access lets packages of this module reach what a store has below its public API. Package
// latchkey sets the functions. It is the only one that does.
package access

import (
	"context"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/merge"
)

// A Store is a store as replication needs it. Its transactions are those of the store: a change
// drops cached answers and calls the hook, which finds Tables.Merging set.
type Store interface {
	// View runs fn in a read transaction. Tables that write return an error.
	View(ctx context.Context, fn func(*merge.Tables) error) error
	// Update runs fn in a write transaction, perhaps more than once.
	Update(ctx context.Context, fn func(*merge.Tables) error) error
	// Share writes that the domain has several stores, unless the store knows it.
	Share(ctx context.Context) error
	// TakeTagSecrets takes the steps of a replacement of tag secrets from an export of them, and
	// ResetClock makes the store believe its clock. Both do it as something that comes from
	// elsewhere.
	TakeTagSecrets(ctx context.Context, export []byte) error
	ResetClock(ctx context.Context) error
	DomainID() uuid.UUID
	ReplicaID() uuid.UUID
	// SharesEngine reports whether other processes can write to the store's engine.
	SharesEngine() bool
}

// Of returns the store behind a *latchkey.Store.
var Of func(store any) Store

// Tables returns the tables of the transaction behind a *latchkey.Tx.
var Tables func(tx any) *merge.Tables

// AddFinding makes a finding of a *latchkey.Store's Health out of what a function returns, unless
// that is nil.
var AddFinding func(store any, finding func(context.Context) error)

// MintLight mints a server key, or a new token for the key with an ID unless that is Nil, whose
// verifier has the least cost. It returns a latchkey.MintedKey. If the key has reserved scopes, a
// login with the token does not wait for other logins, and is not hashed anew.
var MintLight func(ctx context.Context, store any, key uuid.UUID) (minted any, token string, err error)

// NewReplicaID gives a *latchkey.Store another replica ID, because somebody has copied its file.
// Nobody else may use the store yet.
var NewReplicaID func(ctx context.Context, store any) error
