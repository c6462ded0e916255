package latchkey_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latchkeydb/latchkey"
)

func TestAnEmptyPathIsAMistakeOfTheProgram(t *testing.T) {
	t.Chdir(t.TempDir())
	_, err := latchkey.Open("", nil)
	wantError(t, err, latchkey.ErrInvalidOptions)
	_, err = latchkey.Open("", &latchkey.Options{RecoverFromSafetyCopy: true})
	wantError(t, err, latchkey.ErrInvalidOptions)
	_, err = latchkey.OpenBoltEngine("", nil)
	wantError(t, err, latchkey.ErrInvalidOptions)
	wantError(t, latchkey.Restore(t.Context(), strings.NewReader("x"), ""), latchkey.ErrInvalidOptions)
	store := filepath.Join(t.TempDir(), "keys.db")
	closeStore(t, openFile(t, store, nil))
	_, err = latchkey.Salvage(t.Context(), store, "")
	wantError(t, err, latchkey.ErrInvalidOptions)
	wantFiles(t, ".")
}

func TestAStoreThatMustExistIsNotMade(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "keys.db")
	opts := light()
	opts.MustExist = true
	_, err := latchkey.Open(path, opts)
	wantError(t, err, fs.ErrNotExist)
	_, err = latchkey.OpenBoltEngine(path, opts)
	wantError(t, err, fs.ErrNotExist)
	wantFiles(t, dir)

	e, err := latchkey.OpenBoltEngine(path, nil) // as when the making of a store was interrupted
	must(t, err)
	must(t, e.Close())
	_, err = latchkey.Open(path, opts)
	wantError(t, err, fs.ErrNotExist)
	must(t, os.Remove(path))

	closeStore(t, openFile(t, path, nil))
	closeStore(t, openFile(t, path, opts))

	must(t, os.Rename(path, path+".safety"))
	_, err = latchkey.Open(path, opts)
	wantError(t, err, fs.ErrNotExist)
	wantError(t, err, latchkey.ErrFileGone)
	opts.RecoverFromSafetyCopy = true
	closeStore(t, openFile(t, path, opts))
}

func TestAPathToNoFileIsNotAStoreAndIsRecoveredFromTheSafetyCopy(t *testing.T) {
	for _, tt := range []struct {
		name string
		make func(path string) error
	}{
		{"a directory", func(path string) error { return os.Mkdir(path, 0o700) }},
		{"an empty file", func(path string) error { return os.WriteFile(path, nil, 0o600) }},
		{"a text", func(path string) error { return os.WriteFile(path, []byte("no store"), 0o600) }},
		{"a pipe", makePipe},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "keys.db")
			if err := tt.make(path); errors.Is(err, errors.ErrUnsupported) {
				t.Skip("there are no pipes in directories here")
			} else {
				must(t, err)
			}
			for _, opts := range []*latchkey.Options{nil, {ReadOnly: true}, {RecoverFromSafetyCopy: true}, {MustExist: true}} {
				_, err := latchkey.Open(path, opts)
				wantError(t, err, latchkey.ErrNotStore)
				if errors.Is(err, latchkey.ErrCorrupt) {
					t.Errorf("it is called damaged: %v", err)
				}
			}
			wantFiles(t, filepath.Dir(path), "keys.db")

			old := filepath.Join(t.TempDir(), "old.db")
			token := keepCopy(t, old)
			must(t, os.Rename(old+".safety", path+".safety"))
			opts := light()
			opts.RecoverFromSafetyCopy = true
			s := openFile(t, path, opts)
			mustLogin(t, s, token)
			wantError(t, s.Health(t.Context()), latchkey.ErrRecovered)
			closeStore(t, s)
			s = openFile(t, path, opts)
			must(t, s.Health(t.Context()))
		})
	}
}

func TestAStoreThatGoesOnFromACopyIsAnotherReplica(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "keys.db")
	keepCopy(t, path)
	s := openFile(t, path, nil)
	domain, replicas := s.DomainID(), map[string]string{s.ReplicaID().String(): "the store"}
	closeStore(t, s)
	seen := func(what, path string) {
		t.Helper()
		s := openFile(t, path, nil)
		id := s.ReplicaID().String()
		if s.DomainID() != domain || replicas[id] != "" {
			t.Errorf("%s has the domain %s and the replica ID of %s", what, s.DomainID(), replicas[id])
		}
		replicas[id] = what
		if !isShared(t, s) {
			t.Errorf("%s does not know of the other replicas", what)
		}
		closeStore(t, s)
	}
	backup, err := os.Open(path + ".safety")
	must(t, err)
	defer backup.Close()
	for _, what := range []string{"a restored backup", "the same backup restored again"} {
		_, err := backup.Seek(0, 0)
		must(t, err)
		restored := filepath.Join(t.TempDir(), "restored.db")
		must(t, latchkey.Restore(t.Context(), backup, restored))
		seen(what, restored)
	}
	for _, lose := range []func(){func() { damage(t, path) }, func() { must(t, os.Remove(path)) }} {
		lose()
		opts := light()
		opts.RecoverFromSafetyCopy = true
		closeStore(t, openFile(t, path, opts))
		seen("a recovered store", path)
	}
}

func TestHealthTellsOfASafetyCopyThatCannotBeMade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "keys.db")
		// A directory is in the place where the copy is written.
		must(t, os.MkdirAll(filepath.Join(path+".safety.new", "full"), 0o700))
		s, err := latchkey.Open(path, &latchkey.Options{Cost: latchkey.LightCost, SafetyCopyEvery: time.Hour, FileCheckEvery: -1, TestClock: true})
		must(t, err)
		defer closeStore(t, s)
		began := time.Now().UTC().Format(time.RFC3339)
		synctest.Wait()
		for range 2 { // it names the first failure
			err = s.Health(t.Context())
			wantError(t, err, latchkey.ErrSafetyCopyFailed)
			if !strings.Contains(err.Error(), "since "+began) {
				t.Errorf("Health says %q, want since %s", err, began)
			}
			addUser(t, s, time.Now().String())
			time.Sleep(time.Hour)
			synctest.Wait()
		}
		must(t, os.RemoveAll(path+".safety.new"))
		time.Sleep(time.Hour)
		synctest.Wait()
		must(t, s.Health(t.Context()))
		if _, err := os.Stat(path + ".safety"); err != nil {
			t.Error(err)
		}
	})
}

func TestAnErrorOfOpeningSaysAThingOnceAndNamesNoTemporaryFile(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{filepath.Join(dir, "missing", "keys.db"), filepath.Join(dir, "file", "keys.db"), filepath.Join(dir, strings.Repeat("n", 300))} {
		must(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
		for _, opts := range []*latchkey.Options{nil, {ReadOnly: true}, {RecoverFromSafetyCopy: true}, {MustExist: true}} {
			_, err := latchkey.Open(path, opts)
			if err == nil {
				t.Fatalf("opened %s", path)
			}
			if n := strings.Count(err.Error(), path); n != 1 || strings.Contains(err.Error(), ".new") {
				t.Errorf("the error names the path %d times, want once: %v", n, err)
			}
		}
	}
}

func TestAStoreWithANameNearTheLimitIsCompactedAndLeavesNothingBehind(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, strings.Repeat("n", 252)+".db")
	s := openFile(t, path, nil)
	token := ""
	_, token = addKey(t, s, addUser(t, s, "ada"), "laptop")
	must(t, s.Compact(t.Context()))
	mustLogin(t, s, token)
	closeStore(t, s)
	wantFiles(t, dir, filepath.Base(path))
}
