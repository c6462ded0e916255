package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/appservices"
	"github.com/latchkeydb/latchkey/internal/durable"
)

// readSeed reads the file that --seed names, if there is one, and refuses a seed that would do harm
// or be of no use.
func (s *server) readSeed() error {
	if s.seedFile == "" {
		return nil
	}
	data, err := os.ReadFile(s.seedFile)
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

// writeTokens writes the file in one step, so that a program that waits for the file never reads a
// part of it. writeTokens writes to a pipe or a device, such as /dev/stdout, and does not replace
// it. A link stays a link.
func writeTokens(path string, seeded appservices.Seeded) error {
	data, err := json.MarshalIndent(seeded, "", "  ")
	if err != nil {
		return err
	}
	data = append(data, '\n')
	if file, err := filepath.EvalSymlinks(path); err == nil {
		path = file
	}
	if info, err := os.Lstat(path); err == nil && !info.Mode().IsRegular() {
		return os.WriteFile(path, data, 0o600)
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new-*") // with mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = durable.Remove(f.Name()) }()
	_, err = f.Write(data)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	return durable.Rename(f.Name(), path)
}
