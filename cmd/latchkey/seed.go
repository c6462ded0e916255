package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/appservices"
)

// readSeed reads the file that --seed names, if there is one, and refuses a seed that would do harm
// or be of no use.
func (s *server) readSeed() error {
	if s.seedFile == "" {
		return nil
	}
	data, err := readOwn(s.seedFile)
	if err != nil {
		return explainMissing(err, s.seedFile)
	}
	if s.seed, err = parseSeed(data); err != nil {
		return usagef("%s: %w", s.seedFile, err)
	}
	switch {
	case s.seed.Value != "" && !s.ephemeral:
		return usagef("%s has the field seed, and everybody who knows its value can make the tokens; remove the field, or give --ephemeral", s.seedFile)
	case s.seed.Value == "" && s.tokenFile == "" && s.seed.HasKeys():
		return usagef("the tokens of the seed's keys would be lost; give --tokens FILE")
	}
	return nil
}

// seedMistakes are the errors that a seed causes, because it is planted only in a store that is
// empty.
var seedMistakes = []error{
	appservices.ErrInvalidSeed, latchkey.ErrIdentityTaken, latchkey.ErrInvalidIdentity, latchkey.ErrTooManyIdentities,
	latchkey.ErrKeyNameTaken, latchkey.ErrInvalidName, latchkey.ErrTooManyKeys,
}

// plant makes the users and keys of the seed, and writes their tokens to the file of --tokens. It
// does nothing if the store is in use already.
func (s *server) plant(ctx context.Context, handler *appservices.Handler) error {
	appID := ""
	if len(s.opts.AppIDs) > 0 {
		appID = s.opts.AppIDs[0]
	}
	empty, err := handler.IsEmpty(ctx, appID)
	if err != nil {
		return err
	}
	if !empty {
		s.log.Warn("the seed was ignored, because the store already has users, registered addresses or server keys", "seed", s.seedFile)
		return nil
	}
	seeded, err := handler.Seed(ctx, appID, s.seed.Seed)
	for _, mistake := range seedMistakes {
		if errors.Is(err, mistake) {
			return usagef("%s: %w", s.seedFile, s.seed.locate(err))
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", s.seedFile, err)
	}
	if s.tokenFile == "" {
		return nil
	}
	return writeTokens(s.tokenFile, seeded)
}
