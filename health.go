package latchkey

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
)

// Health tells whether the store can do its work: whether its file and its disk are in order, and
// whether its background work succeeds. Health returns nil if nothing is wrong. Otherwise it joins
// the findings with [errors.Join], and [errors.Is] tells which findings there are:
//
//   - [ErrSafetyCopyFailed] means that the last safety copy could not be made. Logins and changes
//     go on.
//   - [ErrLastUseFailed] means that the last uses of keys could not be written. The store tries
//     again.
//   - [ErrRotationNotDurable] means that the store could not write that an old token has ended.
//     This process refuses the token.
//   - [ErrRecovered] means that this opening recovered the store from its safety copy.
//   - [ErrReaderHoldsUp] means that a writer waits for a [Store.View] that does not end.
//   - [ErrClockBehind] means that the clock is more than ten minutes behind the store's time.
//   - [ErrNoIdentity] means that merging has left users without an identity. At most ten are named.
//   - [ErrFileChanged] means that the file is no longer as this store left it. [ErrFileGone] comes
//     with it if there is no file.
//   - [ErrSyncFailed] means that the store accepts no more changes.
//   - [ErrCorrupt] means that the store has met damage, and accepts no more changes, or no calls at
//     all.
//   - Hubs and edges of package replica have findings of their own, such as how long ago an edge
//     has heard of its hub.
//   - Other engines than the one of [Open] have findings of their own; see [EngineHealther].
//
// Health reads no keys. If another call holds up readers, Health waits at most a second. It returns
// [ErrClosed] alone after Close, and ctx's error alone if ctx has ended.
func (s *Store) Health(ctx context.Context) error {
	if s.closed.Load() {
		return ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	var findings []error
	if e, ok := s.engine.(EngineHealther); ok {
		findings = append(findings, e.EngineHealth(ctx))
	}
	findings = append(findings, s.safetyCopy.Finding(ErrSafetyCopyFailed), s.lastUses.state.Finding(ErrLastUseFailed), s.unendedFinding())
	if s.recovered {
		findings = append(findings, ErrRecovered)
	}
	s.mu.Lock()
	others := s.findings
	s.mu.Unlock()
	for _, finding := range others {
		findings = append(findings, finding(ctx))
	}
	findings = append(findings, s.clockFinding())
	if errors.Join(findings...) == nil {
		findings = append(findings, s.identityFinding(ctx))
	}
	return errors.Join(findings...)
}

// identityFinding returns a finding if there are users without an identity.
func (s *Store) identityFinding(ctx context.Context) error {
	if !s.replica.Load().Shared {
		return nil
	}
	short, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	users, err := read(short, s, func(tx *Tx) ([]uuid.UUID, error) { return tx.tables().WithoutIdentity(10) })
	switch {
	case errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrInTransaction):
		return nil
	case err == nil && len(users) > 0:
		err = fmt.Errorf("%w: %s", ErrNoIdentity, strings.Trim(fmt.Sprint(users), "[]"))
	}
	return err
}
