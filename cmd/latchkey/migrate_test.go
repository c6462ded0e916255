package main

import (
	"bytes"
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/migrate"
)

func TestAnInterruptedMigrationSaysHowToGoOn(t *testing.T) {
	from, to := filepath.Join(t.TempDir(), "keys.db"), filepath.Join(t.TempDir(), "new.db")
	s, err := latchkey.Open(from, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var stderr bytes.Buffer
	c := &cli{stderr: &stderr}
	_, err = c.migrate(ctx, from, to)
	status := c.report(migrateCommand(c), err)
	if want := "latchkey: interrupted after 0 entries were copied; repeat the command to go on"; status != exitInterrupted || strings.TrimSpace(stderr.String()) != want {
		t.Errorf("status %d, and %q; want %q", status, stderr.String(), want)
	}
}

func TestTheProgressOfAMigrationIsShown(t *testing.T) {
	var terminal bytes.Buffer
	s := status{terminal: &terminal}
	shown := migrationBar(migrate.Progress{Done: 50, Total: 200})
	s.show(shown)
	if want := "copying   [#######                       ] 25 % of 200 entries"; shown != want {
		t.Errorf("got %q, want %q", shown, want)
	}
	shown = migrationBar(migrate.Progress{Comparing: true, Done: 200, Total: 200})
	s.show(shown)
	if want := "comparing [##############################] 100 % of 200 entries"; screen(terminal.String()) != want {
		t.Errorf("the terminal shows %q, want %q", screen(terminal.String()), want)
	}
}
