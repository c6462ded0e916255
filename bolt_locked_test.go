package latchkey_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/latchkeydb/latchkey"
)

func TestAStoreThatThisProcessHasOpenSaysSo(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "keys.db")
	names := []string{path}
	link := filepath.Join(dir, "link.db")
	if os.Symlink("keys.db", link) == nil {
		if _, err := os.Readlink(link); err == nil { // Wine 8 reports links that it does not make
			names = append(names, link)
		}
	}
	want := func(what string) {
		t.Helper()
		for _, name := range names {
			for _, opts := range []*latchkey.Options{
				{LockTimeout: -1}, {LockTimeout: -1, RecoverFromSafetyCopy: true},
			} {
				_, err := latchkey.Open(name, opts)
				wantError(t, err, latchkey.ErrLocked)
				if !strings.HasSuffix(err.Error(), "store is open elsewhere: this process has it open") {
					t.Errorf("%s, %s: %v", what, name, err)
				}
			}
			_, err := latchkey.OpenBoltEngine(name, &latchkey.Options{LockTimeout: -1})
			if wantError(t, err, latchkey.ErrLocked); !strings.HasSuffix(err.Error(), "this process has it open") {
				t.Errorf("%s, %s: %v", what, name, err)
			}
		}
	}
	s := openFile(t, path, light())
	want("a writer")
	must(t, s.Compact(t.Context()))
	want("after a compaction")
	closeStore(t, s)
	a, b := openFile(t, path, &latchkey.Options{ReadOnly: true}), openFile(t, path, &latchkey.Options{ReadOnly: true})
	want("two readers")
	closeStore(t, a)
	want("a reader")
	closeStore(t, b)
	closeStore(t, openFile(t, path, light()))
}

func TestAnErrorHasThePathAsTheCallerGaveIt(t *testing.T) {
	t.Chdir(t.TempDir())
	must(t, os.WriteFile("empty.db", nil, 0o600))
	for _, opts := range []*latchkey.Options{nil, {ReadOnly: true}, {RecoverFromSafetyCopy: true}} {
		_, err := latchkey.Open("empty.db", opts)
		wantError(t, err, latchkey.ErrNotStore)
		if want := "latchkey: open empty.db: not a store: the file is empty"; !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}
