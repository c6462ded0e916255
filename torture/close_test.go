package torture_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/torture/internal/form"
)

// Close is called while many other calls are in progress. Each of these calls ends. Either it
// succeeds and its change is there, or it returns ErrClosed and its change is not.
func TestCallsInProgressAtCloseSucceedOrReturnErrClosed(t *testing.T) {
	// Each call makes a backup, so a file that grows slows the rounds down.
	const roundsOfAFile = 50
	for rounds := form.Amount(30, 2000); rounds > 0; rounds -= roundsOfAFile {
		closeInTheMiddle(t, min(rounds, roundsOfAFile))
	}
}

// closeInTheMiddle opens one file some times, and closes it each time while calls are in progress.
func closeInTheMiddle(t *testing.T, rounds int) {
	path := filepath.Join(t.TempDir(), "keys.db")
	acknowledged := make(map[uuid.UUID]bool)
	for range rounds {
		// The cost does not matter to the calls. It changes so that logins hash their keys anew in
		// the background.
		s, err := latchkey.Open(path, &latchkey.Options{Cost: []latchkey.Cost{light, dearer}[len(acknowledged)%2]})
		must(t, err)
		var all sync.WaitGroup
		var mu sync.Mutex
		var closed atomic.Bool
		started := make(chan struct{}, 16)
		for range cap(started) {
			all.Go(func() {
				for n, last := 0, false; !last; n++ {
					last = closed.Load()
					id, err := useOnce(s)
					if last && err == nil {
						t.Error("a call that began after Close succeeded")
					}
					if err == nil {
						mu.Lock()
						acknowledged[id] = true
						mu.Unlock()
					} else if !errors.Is(err, latchkey.ErrClosed) {
						t.Errorf("got error %v, want ErrClosed", err)
					}
					if n == 0 {
						started <- struct{}{}
					}
					if err != nil {
						return
					}
				}
			})
		}
		for range cap(started) {
			<-started
		}
		var closers sync.WaitGroup
		for range 2 {
			closers.Go(func() {
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			})
		}
		closers.Wait()
		closed.Store(true)
		all.Wait()
	}
	s := openFile(t, path, nil)
	found := 0
	for u, err := range s.Users(t.Context(), uuid.Nil) {
		must(t, err)
		if !acknowledged[u.ID] {
			t.Errorf("user %s is there, but no call returned it", u.ID)
		}
		found++
	}
	if found != len(acknowledged) {
		t.Errorf("%d users are there, want %d", found, len(acknowledged))
	}
}

// useOnce makes a user with a key, logs in, and makes a backup. It returns the user's ID if the
// user was made.
func useOnce(s *latchkey.Store) (uuid.UUID, error) {
	ctx := context.Background()
	minted, token, err := s.MintKey(ctx)
	if err != nil {
		return uuid.Nil, err
	}
	var user latchkey.User
	err = s.Update(ctx, func(tx *latchkey.Tx) (err error) {
		user, err = tx.CreateUser(latchkey.UserSpec{Identity: email(uuid.NewString())})
		if err == nil {
			_, err = tx.InsertKey(user.ID, latchkey.KeySpec{Name: "laptop"}, minted)
		}
		return err
	})
	if err != nil {
		return uuid.Nil, err
	}
	// Close may come before the calls below.
	if _, err := s.Login(ctx, token); err != nil && !errors.Is(err, latchkey.ErrClosed) {
		return uuid.Nil, err
	}
	if err := s.Backup(ctx, io.Discard); !mayEnd(err) && !errors.Is(err, latchkey.ErrClosed) {
		return uuid.Nil, fmt.Errorf("backup: %w", err)
	}
	return user.ID, nil
}
