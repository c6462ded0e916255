package latchkey

import (
	"context"
	"errors"
	"slices"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/access"
	"github.com/latchkeydb/latchkey/internal/merge"
	"github.com/latchkeydb/latchkey/internal/phc"
	"github.com/latchkeydb/latchkey/internal/record"
)

func init() {
	access.Of = func(store any) access.Store { return below{store.(*Store)} }
	access.AddFinding = func(store any, finding func(context.Context) error) {
		s := store.(*Store)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.findings = append(slices.Clone(s.findings), finding)
	}
	access.MintLight = func(ctx context.Context, store any, key uuid.UUID) (any, string, error) {
		return store.(*Store).mintLight(ctx, key)
	}
	access.NewReplicaID = func(ctx context.Context, store any) error {
		s := store.(*Store)
		return s.changeReplica(ctx, func(t *merge.Tables) (record.Replica, error) { return t.BeginIncarnation(s.random.UUID()) })
	}
	access.Tables = func(tx any) *merge.Tables { return tx.(*Tx).tables() }
}

// below is what the packages of this module can do with a store besides its public methods.
type below struct{ s *Store }

func (b below) DomainID() uuid.UUID             { return b.s.DomainID() }
func (b below) ReplicaID() uuid.UUID            { return b.s.ReplicaID() }
func (b below) Share(ctx context.Context) error { return b.s.share(ctx) }
func (b below) SharesEngine() bool              { return b.s.follower != nil }

func (b below) TakeTagSecrets(ctx context.Context, export []byte) error {
	d, err := ParseDomainSecrets(export)
	if err != nil {
		return err
	}
	return b.s.takeTagSecrets(ctx, d, true)
}

func (b below) ResetClock(ctx context.Context) error {
	err := b.s.resetClock(ctx, true)
	if errors.Is(err, ErrClockBehind) {
		return nil // nothing has to wait until somebody sets the clock
	}
	return err
}

func (b below) View(ctx context.Context, fn func(*merge.Tables) error) error {
	return b.s.View(ctx, func(tx *Tx) error { return fn(tx.tables()) })
}

func (b below) Update(ctx context.Context, fn func(*merge.Tables) error) error {
	return b.s.Update(ctx, func(tx *Tx) error {
		tx.merging = true
		return fn(tx.tables())
	})
}

// mintLight is [Store.MintKey] at the least cost, or [Store.MintToken] for the server key with an
// ID.
func (s *Store) mintLight(ctx context.Context, key uuid.UUID) (MintedKey, string, error) {
	d, err := s.draw(1)[0], s.canWait()
	if key != uuid.Nil && err == nil {
		d, err = s.drawToken(ctx, ServerOwner, key)
	}
	if err != nil {
		return MintedKey{}, "", err
	}
	d.cost = Cost(phc.Least)
	return s.mint(ctx, d)
}
