package latchkey_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latchkeydb/latchkey"
)

func TestTheSafetyCopyIsKeptAndUsedWhenAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "keys.db")
		opts := &latchkey.Options{Cost: latchkey.LightCost, SafetyCopyEvery: time.Hour, FileCheckEvery: -1}
		s, err := latchkey.Open(path, opts)
		must(t, err)
		synctest.Wait()
		key, token := addKey(t, s, addUser(t, s, "ada"), "laptop")
		time.Sleep(time.Hour)
		synctest.Wait()
		_, late := addKey(t, s, key.Owner, "late")
		closeStore(t, s)

		damage(t, path)
		_, err = latchkey.Open(path, nil)
		wantError(t, err, latchkey.ErrCorrupt)

		s, err = latchkey.Open(path, &latchkey.Options{Cost: latchkey.LightCost, RecoverFromSafetyCopy: true})
		must(t, err)
		wantLogin(t, s, token, key.ID)
		wantRefused(t, s, late, latchkey.ErrInvalidToken)
		closeStore(t, s)
		wantDamaged(t, path+".damaged")
	})
}

func TestADamagedFileWithoutASafetyCopyStaysAsItIs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	closeStore(t, openFile(t, path, nil))
	damage(t, path)
	damaged := readFile(t, path)
	_, err := latchkey.Open(path, &latchkey.Options{RecoverFromSafetyCopy: true})
	wantError(t, err, latchkey.ErrCorrupt)
	if !bytes.Equal(readFile(t, path), damaged) {
		t.Error("the file was changed")
	}
}

func damage(t testing.TB, path string) {
	t.Helper()
	file, err := os.ReadFile(path)
	must(t, err)
	damage := []byte(strings.Repeat("damage ", 10_000))
	copy(damage, file[:24]) // the beginning of a store, by which it is recognized
	must(t, os.WriteFile(path, damage, 0o600))
}

func wantDamaged(t testing.TB, path string) {
	t.Helper()
	if got, err := os.ReadFile(path); err != nil || !strings.HasSuffix(string(got), "damage ") {
		t.Errorf("the damaged file was not kept: %.20q, %v", got, err)
	}
}

// keepCopy makes a store with a key, and a safety copy of the store.
func keepCopy(t testing.TB, path string) (token string) {
	t.Helper()
	s, err := latchkey.Open(path, light())
	must(t, err)
	_, token = addKey(t, s, addUser(t, s, "ada"), "laptop")
	var backup bytes.Buffer
	must(t, s.Backup(t.Context(), &backup))
	must(t, os.WriteFile(path+".safety", backup.Bytes(), 0o600))
	closeStore(t, s)
	return token
}

func TestADamagedFileReplacesTheOneThatWasKeptBefore(t *testing.T) {
	for _, earlier := range []string{"another", "the same, as a crash leaves it"} {
		t.Run(earlier, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "keys.db")
			token := keepCopy(t, path)
			damage(t, path)
			if earlier == "another" {
				must(t, os.WriteFile(path+".damaged", []byte("earlier"), 0o600))
			} else {
				must(t, os.Link(path, path+".damaged"))
			}
			s := openFile(t, path, &latchkey.Options{Cost: latchkey.LightCost, RecoverFromSafetyCopy: true})
			mustLogin(t, s, token)
			wantDamaged(t, path+".damaged")
		})
	}
}

func TestTheSafetyCopyIsUsedWhenTheFileIsGone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	token := keepCopy(t, path)
	must(t, os.Remove(path))
	s := openFile(t, path, &latchkey.Options{Cost: latchkey.LightCost, RecoverFromSafetyCopy: true})
	mustLogin(t, s, token)
}

func TestNoNewStoreIsMadeBesideASafetyCopy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	token := keepCopy(t, path)
	must(t, os.Remove(path))
	for _, opts := range []*latchkey.Options{nil, {SafetyCopyEvery: time.Hour, FileCheckEvery: -1}} {
		_, err := latchkey.Open(path, opts)
		wantError(t, err, latchkey.ErrFileGone)
	}
	_, err := latchkey.Open(path, &latchkey.Options{ReadOnly: true})
	wantError(t, err, fs.ErrNotExist)

	s, err := latchkey.Open(path, &latchkey.Options{Cost: latchkey.LightCost, RecoverFromSafetyCopy: true})
	must(t, err)
	mustLogin(t, s, token)
	closeStore(t, s)

	must(t, errors.Join(os.Remove(path), os.Remove(path+".safety")))
	wantRefused(t, openFile(t, path, nil), token, latchkey.ErrInvalidToken)
}

func TestASafetyCopyThatIsDamagedItselfIsNotUsed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	keepCopy(t, path)
	damage(t, path)
	damage(t, path+".safety")
	_, err := latchkey.Open(path, &latchkey.Options{RecoverFromSafetyCopy: true})
	wantError(t, err, latchkey.ErrCorrupt)
	must(t, os.Remove(path))
	_, err = latchkey.Open(path, &latchkey.Options{RecoverFromSafetyCopy: true})
	wantError(t, err, latchkey.ErrCorrupt)
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("there is a file now: %v", err)
	}
}

func TestAReadOnlyStoreNeitherMakesNorUsesASafetyCopy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "keys.db")
		keepCopy(t, path)
		before := fileInfo(t, path+".safety")
		opts := &latchkey.Options{ReadOnly: true, FileCheckEvery: -1, SafetyCopyEvery: time.Minute, RecoverFromSafetyCopy: true}
		s, err := latchkey.Open(path, opts)
		must(t, err)
		time.Sleep(time.Hour)
		synctest.Wait()
		must(t, s.Close())
		if !os.SameFile(before, fileInfo(t, path+".safety")) {
			t.Error("there is another safety copy")
		}
		damage(t, path)
		_, err = latchkey.Open(path, opts)
		wantError(t, err, latchkey.ErrCorrupt)
	})
}

func fileInfo(t testing.TB, path string) fs.FileInfo {
	t.Helper()
	info, err := os.Stat(path)
	must(t, err)
	return info
}

func TestASafetyCopyIsMadeOnlyAfterACommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "keys.db")
		s, err := latchkey.Open(path, &latchkey.Options{Cost: latchkey.LightCost, SafetyCopyEvery: time.Hour, FileCheckEvery: -1})
		must(t, err)
		synctest.Wait()
		first := fileInfo(t, path+".safety")
		time.Sleep(3 * time.Hour)
		synctest.Wait()
		if !os.SameFile(first, fileInfo(t, path+".safety")) {
			t.Error("there is another copy, though nothing has changed")
		}
		must(t, s.Update(t.Context(), func(tx *latchkey.Tx) error {
			return tx.AppTable("app").Put([]byte("k"), []byte("v"))
		}))
		time.Sleep(time.Hour)
		synctest.Wait()
		must(t, s.Close())
		copied := openFile(t, path+".safety", nil)
		must(t, copied.View(t.Context(), func(tx *latchkey.Tx) error {
			v, err := tx.AppTable("app").Get([]byte("k"))
			if string(v) != "v" {
				t.Errorf("the copy has %q, want v", v)
			}
			return err
		}))
	})
}

func TestACopyOfADamagedStoreDoesNotReplaceTheLastGoodOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "keys.db")
		s, err := latchkey.Open(path, &latchkey.Options{Cost: latchkey.LightCost, SafetyCopyEvery: time.Hour, FileCheckEvery: -1})
		must(t, err)
		synctest.Wait()
		first := fileInfo(t, path+".safety")
		addKey(t, s, addUser(t, s, "ada"), "laptop")
		file, err := os.ReadFile(path)
		must(t, err)
		root := int(boltMeta(file).root) * pageSize
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		must(t, err)
		_, err = f.WriteAt(make([]byte, pageSize), int64(root))
		must(t, errors.Join(err, f.Close()))
		time.Sleep(time.Hour)
		synctest.Wait()
		if !os.SameFile(first, fileInfo(t, path+".safety")) {
			t.Error("a damaged copy has replaced a good one")
		}
		_ = s.Close()
	})
}

func TestRecoveriesAtTheSameTimeLoseNoAcknowledgedWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	keepCopy(t, path)
	for round := range 30 {
		if round%2 == 0 {
			damage(t, path)
		} else {
			must(t, os.Remove(path))
		}
		var openers sync.WaitGroup
		var mu sync.Mutex
		var made []string
		for i := range 4 {
			openers.Go(func() {
				s, err := latchkey.Open(path, &latchkey.Options{Cost: lightest, RecoverFromSafetyCopy: true, LockTimeout: 20 * time.Millisecond})
				if err != nil {
					if !errors.Is(err, latchkey.ErrLocked) {
						t.Errorf("round %d: got error %v, want ErrLocked", round, err)
					}
					return
				}
				subject := fmt.Sprint("user ", i)
				addUser(t, s, subject)
				must(t, s.Close())
				mu.Lock()
				defer mu.Unlock()
				made = append(made, subject)
			})
		}
		openers.Wait()
		s, err := latchkey.Open(path, nil)
		must(t, err)
		for _, subject := range made {
			if _, err := s.UserByIdentity(t.Context(), email(subject)); err != nil {
				t.Errorf("round %d: what was acknowledged is gone: %v", round, err)
			}
		}
		closeStore(t, s)
	}
}

func TestADamagedFileThatIsOpenElsewhereIsNotReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	keepCopy(t, path)
	s, err := latchkey.Open(path, light())
	must(t, err)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	// So that the file is refused before its lock is taken.
	_, err = f.WriteAt(make([]byte, 2*pageSize), 0)
	must(t, errors.Join(err, f.Close()))
	before := fileInfo(t, path)
	_, err = latchkey.Open(path, &latchkey.Options{RecoverFromSafetyCopy: true, LockTimeout: -1})
	wantError(t, err, latchkey.ErrLocked)
	wantError(t, err, latchkey.ErrCorrupt)
	if !os.SameFile(before, fileInfo(t, path)) {
		t.Error("the file was replaced")
	}
	_ = s.Close()
}
