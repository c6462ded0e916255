package latchkey

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"testing"

	"github.com/latchkeydb/latchkey/internal/safetycopy"
)

func TestAnErrorNamesTheFileThatCouldNotBeOpenedOnce(t *testing.T) {
	abs, err := filepath.Abs("keys.db")
	must(t, err)
	for _, path := range []string{"keys.db", abs} {
		err := wrapOpen(&fs.PathError{Op: "open", Path: path, Err: fs.ErrPermission}, "keys.db")
		if want := "latchkey: open keys.db: permission denied"; err.Error() != want || !errors.Is(err, fs.ErrPermission) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	other := &fs.PathError{Op: "open", Path: "/volume/keys.db", Err: fs.ErrPermission}
	if got, want := wrapOpen(other, "keys.db").Error(), "latchkey: open keys.db: "+other.Error(); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestAWayOutIsSaidAndCanBeFound(t *testing.T) {
	err := wrapf(safetycopy.WayOut("keys.db", fmt.Errorf("%w: page 3", ErrCorrupt)), "open keys.db")
	const way = "Restore a backup, or Salvage what is left"
	if want := "latchkey: open keys.db: store is damaged: page 3 (" + way + ")"; err.Error() != want || !errors.Is(err, ErrCorrupt) {
		t.Errorf("got %v, want %s", err, want)
	}
	var e interface {
		error
		WayOut() string
	}
	if !errors.As(err, &e) || e.WayOut() != way {
		t.Errorf("got %v, want the way out %q", e, way)
	}
}
