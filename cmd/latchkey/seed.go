package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"sigs.k8s.io/yaml"

	"github.com/latchkeydb/latchkey/appservices"
)

func (s *server) readSeed() error {
	if s.seedFile == "" {
		return nil
	}
	data, err := os.ReadFile(s.seedFile)
	if err != nil {
		return explainMissing(err, s.seedFile)
	}
	if data, err = yaml.YAMLToJSONStrict(data); err == nil {
		s.seed = &appservices.Seed{}
		*s.seed, err = appservices.ParseSeed(data)
	}
	switch {
	case err != nil:
		return usagef("%s: %w", s.seedFile, err)
	case s.seed.Value != "" && !s.ephemeral:
		return usagef("%s has a value that its tokens are made from, and whoever knows it could make them too: leave it out, or give --ephemeral", s.seedFile)
	case s.seed.Value == "" && s.tokenFile == "" && s.seed.HasKeys():
		return usagef("nobody would learn the tokens of the seed's keys: give --tokens FILE")
	}
	return nil
}

// plant makes what the seed says, unless the store is somebody's already, and writes the tokens.
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
		s.log.Warn("there are users, registered addresses or server keys in the store already: the seed was left out", "seed", s.seedFile)
		return nil
	}
	seeded, err := handler.Seed(ctx, appID, *s.seed)
	if err != nil {
		return fmt.Errorf("%s: %w", s.seedFile, err)
	}
	if s.tokenFile == "" {
		return nil
	}
	return writeTokens(s.tokenFile, seeded)
}

// writeTokens writes the file in one step, so that nobody who waits for it reads a part. A pipe or a device, such as
// /dev/stdout, is written to, and not replaced; a link stays a link.
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
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
