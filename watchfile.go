package latchkey

import (
	"context"
	"errors"
	"time"

	"github.com/latchkeydb/latchkey/internal/boltengine"
	"github.com/latchkeydb/latchkey/internal/safetycopy"
)

// A store in a file looks at its file at each interval of Options.FileCheckEvery. A store that is
// open for writing only compares, because a commit has to be the first to know. A store that is
// open for reading follows its file: it goes on with the file that has been put in its place.

// refusal is the reason why all logins are refused, while there is one.
type refusal struct{ err error }

// watchFile looks at the file until the store begins to close.
func (s *Store) watchFile(every time.Duration) {
	ctx, cancel := s.untilClosed()
	defer cancel()
	ticks := time.NewTicker(every)
	defer ticks.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticks.C:
			s.lookAtFile(ctx)
		}
	}
}

// lookAtFile looks at the file once. If another file or other bytes are in its place, logins are
// refused from then on, until they are gone again.
func (s *Store) lookAtFile(ctx context.Context) {
	var finding error
	if e, ok := s.engine.(boltEngine); ok {
		var moved bool
		var err error
		if moved, finding, err = e.LookAtFile(ctx); err != nil {
			return
		}
		if moved {
			s.tokens.Reload(s.readTagSecrets)
			s.cache.Clear()      // the new file is in use, so no answer of the old one is kept
			_ = s.readClock(ctx) // Check tells about damage
			_ = s.learnHandles(ctx)
		}
	}
	var r *refusal
	if errors.Is(finding, ErrFileChanged) && !errors.Is(finding, ErrFileGone) {
		r = &refusal{wrapf(finding, "login")}
	}
	s.refused.Store(r)
}

// openFollowed opens the file at path for reading, to follow it.
func openFollowed(path string, opts *Options) (*boltengine.Follower, error) {
	return boltengine.Follow(path, func(path string) (*boltengine.Engine, boltengine.Version, error) {
		e, err := openBolt(path, opts)
		if err != nil {
			return nil, boltengine.Version{}, err
		}
		version, err := e.Version(readVersion)
		if err != nil {
			_ = e.Close()
			return nil, version, wrapOpen(safetycopy.WayOut(path, err), path)
		}
		return e, version, nil
	})
}

// readVersion reads the encoding of the domain, and the sequence of the last commit. If there is no
// store in the file, newStore reports that.
func readVersion(tx *boltengine.Tx) (domain []byte, sequence uint64, err error) {
	d, err := loadDomain(boltTx{tx})
	if err != nil || d == nil {
		return nil, 0, err
	}
	return d.Encode(), tx.Sequence(), nil
}
