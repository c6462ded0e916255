package latchkey_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
)

// overwriteFile writes to the file at path in place, as cp does.
func overwriteFile(t testing.TB, path string, contents []byte) {
	t.Helper()
	must(t, os.WriteFile(path, contents, 0o600))
}

// replace puts a file in the place of the file at path, as rename does.
func replace(t testing.TB, path string, contents []byte) {
	t.Helper()
	must(t, os.WriteFile(path+".tmp", contents, 0o600))
	must(t, os.Rename(path+".tmp", path))
}

// needsOpenFiles skips a test that deletes, moves, replaces or overwrites a file that is open.
func needsOpenFiles(t testing.TB) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows lets nobody touch a file that is mapped")
	}
}

// fork returns the contents of a copy of the store in which change was made, and leaves the store
// as it was.
func fork(t testing.TB, path string, change func(s *latchkey.Store)) []byte {
	t.Helper()
	forked := filepath.Join(t.TempDir(), "fork.db")
	must(t, os.WriteFile(forked, readFile(t, path), 0o600))
	s, err := latchkey.Open(forked, light())
	must(t, err)
	change(s)
	closeStore(t, s)
	return readFile(t, forked)
}

func TestAFileThatAnotherProgramHasWrittenTakesNoMoreWrites(t *testing.T) {
	needsOpenFiles(t)
	for n := range 12 {
		path := filepath.Join(t.TempDir(), "keys.db")
		s := openFile(t, path, light())
		for i := range n + 1 {
			addUser(t, s, fmt.Sprint("user ", i))
		}
		closeStore(t, s)
		other := fork(t, path, func(s *latchkey.Store) {
			for i := range 10 {
				addUser(t, s, fmt.Sprint("later ", i))
			}
		})
		s, err := latchkey.Open(path, light())
		must(t, err)
		overwriteFile(t, path, other)
		for range 2 {
			_, err := s.CreateUser(t.Context(), latchkey.UserSpec{Identity: email("lost")})
			wantError(t, err, latchkey.ErrFileChanged)
			wantError(t, s.Compact(t.Context()), latchkey.ErrFileChanged)
		}
		must(t, s.Close())
		if got := readFile(t, path); string(got) != string(other) {
			t.Fatal("the other program's file was changed")
		}
		s = openFile(t, path, light())
		addUser(t, s, "kept")
	}
}

func TestAForkOfTheFileWithTheSameMetaPagesIsNoticed(t *testing.T) {
	needsOpenFiles(t)
	path := filepath.Join(t.TempDir(), "keys.db")
	s := openFile(t, path, light())
	ada := addUser(t, s, "ada")
	lost, lostToken := addKey(t, s, ada, "lost")
	other, _ := addKey(t, s, ada, "other")
	closeStore(t, s)
	forked := fork(t, path, func(s *latchkey.Store) { must(t, s.DisableKey(t.Context(), ada, other.ID)) })

	s, err := latchkey.Open(path, light())
	must(t, err)
	must(t, s.DisableKey(t.Context(), ada, lost.ID))
	mine := readFile(t, path)
	if string(mine[:2*pageSize]) != string(forked[:2*pageSize]) {
		t.Log("the forks have other meta pages, so this test shows less")
	}
	overwriteFile(t, path, forked)
	_, err = s.CreateUser(t.Context(), latchkey.UserSpec{Identity: email("bob")})
	wantError(t, err, latchkey.ErrFileChanged)
	wantRefused(t, s, lostToken, latchkey.ErrFileChanged)
	must(t, s.Close())
}

func TestAFileThatIsGoneTakesNoMoreWritesAndLoginsGoOn(t *testing.T) {
	needsOpenFiles(t)
	for _, tt := range []struct {
		name string
		lose func(path string) error
	}{
		{"deleted", os.Remove},
		{"moved", func(path string) error { return os.Rename(path, path+".old") }},
		{"with its directory", func(path string) error { return os.RemoveAll(filepath.Dir(path)) }},
		{"with a link", func(path string) error { return os.Remove(filepath.Join(filepath.Dir(path), "link.db")) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "data", "keys.db")
				must(t, os.Mkdir(filepath.Dir(path), 0o700))
				link := filepath.Join(filepath.Dir(path), "link.db")
				must(t, os.Symlink(path, link))
				opts := light()
				opts.TestClock = true // the clock here is in the year 2000, which Health would say
				s, err := latchkey.Open(link, opts)
				must(t, err)
				ada := addUser(t, s, "ada")
				key, token := addKey(t, s, ada, "laptop")
				_, cold := addKey(t, s, ada, "phone")
				wantLogin(t, s, token, key.ID)
				must(t, s.Health(t.Context()))

				must(t, tt.lose(path))
				time.Sleep(time.Second + time.Millisecond)
				synctest.Wait()
				for range 2 {
					err = s.DisableKey(t.Context(), ada, key.ID)
					wantError(t, err, latchkey.ErrFileChanged)
					wantError(t, err, latchkey.ErrFileGone)
					wantError(t, s.Health(t.Context()), latchkey.ErrFileGone)
					wantLogin(t, s, token, key.ID)
					mustLogin(t, s, cold)
				}
				must(t, s.Close())
			})
		})
	}
}

func TestLoginsAreRefusedWhileAnotherFileIsInThePlace(t *testing.T) {
	needsOpenFiles(t)
	for _, tt := range []struct {
		name string
		put  func(testing.TB, string, []byte)
	}{{"by rename", replace}, {"in place", overwriteFile}} {
		for _, every := range []time.Duration{0, -1} {
			t.Run(fmt.Sprint(tt.name, " every ", every), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					path := filepath.Join(t.TempDir(), "keys.db")
					opts := light()
					opts.FileCheckEvery = every
					s, err := latchkey.Open(path, opts)
					must(t, err)
					ada := addUser(t, s, "ada")
					key, token := addKey(t, s, ada, "laptop")
					wantLogin(t, s, token, key.ID)
					mine := readFile(t, path)
					other := fork(t, path, func(s *latchkey.Store) { must(t, s.DisableKey(t.Context(), ada, key.ID)) })

					tt.put(t, path, other)
					time.Sleep(time.Second + time.Millisecond)
					synctest.Wait()
					if every < 0 { // then the next write notices
						wantLogin(t, s, token, key.ID)
						wantError(t, s.DisableUser(t.Context(), ada), latchkey.ErrFileChanged)
					}
					wantRefused(t, s, token, latchkey.ErrFileChanged)
					wantRefused(t, s, "lk_x", latchkey.ErrFileChanged)
					wantError(t, s.Health(t.Context()), latchkey.ErrFileChanged)
					wantError(t, s.EnableUser(t.Context(), ada), latchkey.ErrFileChanged)

					if every == 0 && tt.name == "in place" { // put back, as it was
						overwriteFile(t, path, mine)
						time.Sleep(time.Second + time.Millisecond)
						synctest.Wait()
						wantLogin(t, s, token, key.ID)
						wantError(t, s.EnableUser(t.Context(), ada), latchkey.ErrFileChanged)
					}
					must(t, s.Close())
				})
			})
		}
	}
}

// edge has a store for reading at a path, whose file comes from a centre.
type edge struct {
	*testing.T
	path   string
	centre *latchkey.Store
	store  *latchkey.Store
	ada    uuid.UUID
}

func newEdge(t *testing.T) *edge {
	e := &edge{T: t, path: filepath.Join(t.TempDir(), "edge.db")}
	var err error
	e.centre, err = latchkey.Open(filepath.Join(t.TempDir(), "centre.db"), light())
	must(t, err)
	e.ada = addUser(t, e.centre, "ada")
	overwriteFile(t, e.path, e.backup())
	opts := light()
	opts.ReadOnly = true
	opts.TestClock = true // the clock here is in the year 2000, which Health would say
	e.store, err = latchkey.Open(e.path, opts)
	must(t, err)
	return e
}

func (e *edge) backup() []byte {
	e.Helper()
	var b strings.Builder
	must(e, e.centre.Backup(e.Context(), &b))
	return []byte(b.String())
}

func (e *edge) look() {
	time.Sleep(time.Second + time.Millisecond)
	synctest.Wait()
}

func (e *edge) close() {
	closeStore(e, e.store)
	closeStore(e, e.centre)
}

func TestAStoreForReadingFollowsItsFile(t *testing.T) {
	needsOpenFiles(t)
	synctest.Test(t, func(t *testing.T) {
		e := newEdge(t)
		defer e.close()
		key, token := addKey(t, e.centre, e.ada, "laptop")
		wantRefused(t, e.store, token, latchkey.ErrInvalidToken)

		replace(t, e.path, e.backup())
		e.look()
		wantLogin(t, e.store, token, key.ID) // and it is cached
		wantLogin(t, e.store, token, key.ID)

		must(t, e.centre.DisableKey(t.Context(), e.ada, key.ID))
		replace(t, e.path, e.backup())
		e.look()
		wantRefused(t, e.store, token, latchkey.ErrKeyDisabled)
		must(t, e.store.Health(t.Context()))

		must(t, e.centre.EnableKey(t.Context(), e.ada, key.ID))
		overwriteFile(t, e.path, e.backup())
		e.look()
		wantRefused(t, e.store, token, latchkey.ErrFileChanged) // it was changed a moment ago
		wantError(t, e.store.Health(t.Context()), latchkey.ErrFileChanged)
		e.look()
		wantLogin(t, e.store, token, key.ID)
		must(t, e.store.Health(t.Context()))

		must(t, os.Remove(e.path))
		e.look()
		wantLogin(t, e.store, token, key.ID)
		wantError(t, e.store.Health(t.Context()), latchkey.ErrFileGone)
		must(t, e.centre.DeleteKey(t.Context(), e.ada, key.ID))
		replace(t, e.path, e.backup())
		e.look()
		wantRefused(t, e.store, token, latchkey.ErrInvalidToken)
		for finding := range e.store.Check(t.Context()) {
			t.Error(finding)
		}
	})
}

func TestAStoreForReadingFollowsNoOlderAndNoForeignFile(t *testing.T) {
	needsOpenFiles(t)
	synctest.Test(t, func(t *testing.T) {
		e := newEdge(t)
		defer e.close()
		older := e.backup()
		key, token := addKey(t, e.centre, e.ada, "laptop")
		replace(t, e.path, e.backup())
		e.look()
		wantLogin(t, e.store, token, key.ID)

		foreign := filepath.Join(t.TempDir(), "foreign.db")
		s, err := latchkey.Open(foreign, light())
		must(t, err)
		for i := range 20 {
			addUser(t, s, fmt.Sprint(i))
		}
		closeStore(t, s)
		for what, file := range map[string][]byte{
			"an older file": older, "another domain's": readFile(t, foreign), "no store": []byte("no store"), "nothing": nil,
			"a part of a store": older[:3*pageSize],
		} {
			for _, put := range []func(testing.TB, string, []byte){replace, overwriteFile} {
				put(t, e.path, file)
				e.look()
				e.look()
				if _, err := e.store.Login(t.Context(), token); !errors.Is(err, latchkey.ErrFileChanged) {
					t.Errorf("%s: got %v, want ErrFileChanged", what, err)
				}
				replace(t, e.path, e.backup())
				e.look()
				wantLogin(t, e.store, token, key.ID)
			}
		}
	})
}
