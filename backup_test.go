package latchkey_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/record"
)

// lightest is the cheapest valid cost, for tests with many keys.
var lightest = latchkey.Cost{Memory: 8, Passes: 1, Lanes: 1}

// fillStore makes users, and for each user as many keys as a user can have. It inserts the keys of
// a hundred users in one transaction.
func fillStore(t testing.TB, s *latchkey.Store, users int) (owners []uuid.UUID, keys []latchkey.Key, tokens []string) {
	t.Helper()
	var requests []latchkey.KeyRequest
	for i := range users {
		owner := addUser(t, s, fmt.Sprintf("user-%d", i))
		owners = append(owners, owner)
		for j := range 20 {
			requests = append(requests, latchkey.KeyRequest{Owner: owner, KeySpec: latchkey.KeySpec{Name: fmt.Sprint("key-", j)}})
		}
		if len(requests) < 2000 && i < users-1 {
			continue
		}
		k, tk, err := s.CreateKeys(t.Context(), requests, nil)
		must(t, err)
		keys, tokens, requests = append(keys, k...), append(tokens, tk...), nil
	}
	return owners, keys, tokens
}

func TestABackupIsTheStoreAsItWasAtOneMoment(t *testing.T) {
	s := open(t)
	key, token := addKey(t, s, addUser(t, s, "ada"), "laptop")

	var backup bytes.Buffer
	must(t, s.Backup(t.Context(), &backup))
	must(t, s.DeleteKey(t.Context(), key.Owner, key.ID))

	path := filepath.Join(t.TempDir(), "restored.db")
	must(t, latchkey.Restore(t.Context(), &backup, path))
	wantLogin(t, openFile(t, path, nil), token, key.ID)
	wantRefused(t, s, token, latchkey.ErrInvalidToken)
}

func TestLoginsAndWritesGoOnDuringABackup(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("on Windows a file that has to grow waits for the backup")
	}
	s := openWith(t, &latchkey.Options{Cost: lightest, CacheSize: -1})
	owner := addUser(t, s, "ada")
	key, token := addKey(t, s, owner, "laptop")

	r, w := io.Pipe()
	var backup bytes.Buffer
	done := make(chan error)
	go func() { done <- w.CloseWithError(s.Backup(context.Background(), w)) }()
	_, err := io.CopyN(&backup, r, 5000) // the backup has begun, and waits for its reader
	must(t, err)

	wantLogin(t, s, token, key.ID)
	_, _, late := fillStore(t, s, 50) // the file grows
	wantLogin(t, s, late[0], mustLogin(t, s, late[0]).KeyID)

	_, err = io.Copy(&backup, r)
	must(t, err)
	must(t, <-done)
	path := filepath.Join(t.TempDir(), "restored.db")
	must(t, latchkey.Restore(t.Context(), &backup, path))
	restored := openFile(t, path, nil)
	wantLogin(t, restored, token, key.ID)
	wantRefused(t, restored, late[0], latchkey.ErrInvalidToken)
}

func mustLogin(t testing.TB, s *latchkey.Store, token string) latchkey.Principal {
	t.Helper()
	who, err := s.Login(t.Context(), token)
	must(t, err)
	return who
}

func TestABackupThatWasCutShortIsNotRestored(t *testing.T) {
	s := open(t)
	addKey(t, s, addUser(t, s, "ada"), "laptop")
	var backup bytes.Buffer
	must(t, s.Backup(t.Context(), &backup))

	dir := t.TempDir()
	for n := 0; n < backup.Len(); n += 1000 {
		err := latchkey.Restore(t.Context(), bytes.NewReader(backup.Bytes()[:n]), filepath.Join(dir, "restored.db"))
		if !errors.Is(err, latchkey.ErrCorrupt) {
			t.Fatalf("Restore of %d bytes of %d: got %v, want ErrCorrupt", n, backup.Len(), err)
		}
	}
	wantEmptyDir(t, dir)
}

func wantEmptyDir(t testing.TB, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		t.Errorf("%s was left behind", e.Name())
	}
}

func TestADamagedBackupIsNotRestored(t *testing.T) {
	s := openWith(t, &latchkey.Options{Cost: lightest})
	fillStore(t, s, 5)
	var backup bytes.Buffer
	must(t, s.Backup(t.Context(), &backup))

	dir := t.TempDir()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range 50 {
		damaged := bytes.Clone(backup.Bytes())
		at := random.IntN(len(damaged))
		damaged[at] ^= 1 << random.IntN(8)
		path := filepath.Join(dir, "restored.db")
		err := latchkey.Restore(t.Context(), bytes.NewReader(damaged), path)
		if err == nil { // the bit has no meaning, because it is in free space
			must(t, os.Remove(path))
			continue
		}
		// A bit of the name of the store's bucket makes the file one of another program.
		if !errors.Is(err, latchkey.ErrCorrupt) && !errors.Is(err, latchkey.ErrNewerFormat) && !errors.Is(err, latchkey.ErrNotStore) {
			t.Fatalf("bit of byte %d flipped: got %v, want ErrCorrupt", at, err)
		}
	}
	wantEmptyDir(t, dir)
}

// bbolt has two meta pages, which it writes in turn. The file opens only if they are of two
// successive commits.
func TestABackupMadeAfterAnyNumberOfCommitsIsRestored(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	s := openFile(t, path, light())
	for i := range 4 {
		addUser(t, s, fmt.Sprint("before ", i))
		var backup bytes.Buffer
		must(t, s.Backup(t.Context(), &backup))
		restored := filepath.Join(t.TempDir(), "restored.db")
		must(t, latchkey.Restore(t.Context(), &backup, restored))
		for j := range 3 {
			r, err := latchkey.Open(restored, light())
			must(t, err)
			addUser(t, r, fmt.Sprint("after ", j))
			closeStore(t, r)
		}
	}
}

func TestRestoreLeavesAFileThatIsThereAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	s := openFile(t, path, light())
	var backup bytes.Buffer
	must(t, s.Backup(t.Context(), &backup))
	key, token := addKey(t, s, addUser(t, s, "ada"), "laptop")

	wantError(t, latchkey.Restore(t.Context(), &backup, path), fs.ErrExist)
	wantLogin(t, s, token, key.ID)
}

func TestRestoreFollowsALinkToAFileThatDoesNotExist(t *testing.T) {
	var backup bytes.Buffer
	must(t, open(t).Backup(t.Context(), &backup))
	for _, tt := range []struct {
		name string
		make func(path string) error
	}{
		{"Restore", func(path string) error { return latchkey.Restore(t.Context(), bytes.NewReader(backup.Bytes()), path) }},
		{"Salvage", func(path string) error {
			broken := filepath.Join(t.TempDir(), "broken.db")
			must(t, os.WriteFile(broken, backup.Bytes(), 0o600))
			_, err := latchkey.Salvage(t.Context(), broken, path)
			return err
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			link := filepath.Join(dir, "link.db")
			must(t, os.Mkdir(filepath.Join(dir, "volume"), 0o700))
			symlink(t, filepath.Join("volume", "keys.db"), link)
			must(t, tt.make(link))
			closeStore(t, openFile(t, link, &latchkey.Options{ReadOnly: true}))
			wantFiles(t, dir, "link.db", "volume")
			wantFiles(t, filepath.Join(dir, "volume"), "keys.db")
			wantError(t, tt.make(link), fs.ErrExist)
		})
	}
}

func TestABackupEndsWithItsContextOrItsWriter(t *testing.T) {
	s := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	wantError(t, s.Backup(ctx, io.Discard), context.Canceled)
	wantError(t, s.Backup(t.Context(), brokenWriter{}), errBrokenWriter)
}

type panickingWriter struct{}

func (panickingWriter) Write([]byte) (int, error) { panic("the caller's own") }

func TestAPanicOfTheWriterReachesTheCallerOfBackupAndIsNoDamage(t *testing.T) {
	s := open(t)
	defer func() {
		if r := recover(); r != "the caller's own" {
			t.Errorf("recovered %v, want the panic of the writer", r)
		}
		addUser(t, s, "ada")
	}()
	err := s.Backup(t.Context(), panickingWriter{})
	t.Errorf("Backup: got %v, want the panic of the writer", err)
}

var errBrokenWriter = errors.New("broken writer")

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errBrokenWriter }

func TestCompactGivesSpaceBackAndKeepsEverything(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	s := openFile(t, path, &latchkey.Options{Cost: lightest, CacheSize: -1})
	owners, _, tokens := fillStore(t, s, 60)
	for _, owner := range owners[1:] {
		must(t, s.DeleteUser(t.Context(), owner))
	}
	for i := range byte(100) { // a file on Windows is never smaller than 1 MiB
		must(t, s.Update(t.Context(), func(tx *latchkey.Tx) error {
			return tx.AppTable("notes").Put([]byte{i}, make([]byte, 30_000))
		}))
	}
	must(t, s.Update(t.Context(), func(tx *latchkey.Tx) (err error) {
		for i := range byte(100) {
			err = errors.Join(err, tx.AppTable("notes").Delete([]byte{i}))
		}
		return err
	}))
	before := fileSize(t, path)
	must(t, s.Compact(t.Context()))
	if after := fileSize(t, path); after > before/2 {
		t.Errorf("the file has %d bytes after, %d before", after, before)
	}
	for _, token := range tokens[:20] {
		mustLogin(t, s, token)
	}
	wantRefused(t, s, tokens[20], latchkey.ErrInvalidToken)

	// Changes from now on are in the new file.
	key, token := addKey(t, s, latchkey.ServerOwner, "late")
	closeStore(t, s)
	s = openFile(t, path, nil)
	wantLogin(t, s, token, key.ID)
	mustLogin(t, s, tokens[0])
}

func fileSize(t testing.TB, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	must(t, err)
	return info.Size()
}

func TestLoginsAndWritesGoOnWhileTheStoreIsCompacted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	s := openFile(t, path, &latchkey.Options{Cost: lightest, CacheSize: -1})
	_, _, tokens := fillStore(t, s, 10)
	stop := make(chan struct{})
	var made []string
	var others sync.WaitGroup
	others.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				mustLogin(t, s, tokens[rand.IntN(len(tokens))])
			}
		}
	})
	others.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				_, token, err := s.CreateServerKey(context.Background(), latchkey.KeySpec{Name: fmt.Sprint(i)})
				if err != nil {
					t.Error(err)
					return
				}
				made = append(made, token)
			}
		}
	})
	rounds := 10
	if testing.Short() {
		rounds = 3
	}
	for compacted, attempts := 0, 0; compacted < rounds; attempts++ {
		err := s.Compact(t.Context())
		if errors.Is(err, latchkey.ErrInterrupted) && attempts < 1000 { // as writers need room
			continue
		}
		must(t, err)
		compacted++
	}
	close(stop)
	others.Wait()
	closeStore(t, s)
	s = openFile(t, path, nil)
	for _, token := range made {
		mustLogin(t, s, token)
	}
}

func TestCompactKeepsTheModeAndTheOwnerOfTheFile(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows has neither such modes nor such owners")
	}
	path := filepath.Join(t.TempDir(), "keys.db")
	s := openFile(t, path, light())
	must(t, os.Chmod(path, 0o640))
	if os.Getuid() == 0 {
		must(t, os.Chown(path, 12345, 54321))
	}
	before := accessOf(t, path)
	must(t, s.Compact(t.Context()))
	if after := accessOf(t, path); after != before {
		t.Errorf("it is %s after, and was %s before", after, before)
	}
}

// accessOf returns the mode and the owner of a file.
func accessOf(t testing.TB, path string) string {
	t.Helper()
	info, err := os.Stat(path)
	must(t, err)
	owner := reflect.Indirect(reflect.ValueOf(info.Sys()))
	return fmt.Sprint(info.Mode(), " ", owner.FieldByName("Uid"), ":", owner.FieldByName("Gid"))
}

func TestCompactLeavesAnotherFileInTheStoresPlaceAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	s := openFile(t, path, light())
	must(t, os.Rename(path, path+".away"))
	wantError(t, s.Compact(t.Context()), latchkey.ErrFileGone)
	must(t, os.WriteFile(path, []byte("somebody's"), 0o600))
	wantError(t, s.Compact(t.Context()), latchkey.ErrFileChanged)
	got, err := os.ReadFile(path)
	must(t, err)
	if string(got) != "somebody's" {
		t.Error("the file was replaced")
	}
	wantError(t, s.Compact(t.Context()), latchkey.ErrFileChanged) // until it is opened again
}

func TestACompactionUnderABackupThatNobodyReadsMakesNobodyWait(t *testing.T) {
	if os.Getenv("LATCHKEY_WINE") != "" {
		t.Skip("Wine cannot replace a file while somebody reads it")
	}
	s := openFile(t, filepath.Join(t.TempDir(), "keys.db"), &latchkey.Options{Cost: lightest, CacheSize: -1})
	owner := addUser(t, s, "ada")
	key, token := addKey(t, s, owner, "laptop")
	r, w := io.Pipe()
	var others sync.WaitGroup
	others.Go(func() { _ = s.Backup(t.Context(), w) })
	_, err := io.ReadFull(r, make([]byte, 100)) // the backup has begun, and waits for its reader
	must(t, err)
	viewing, end := make(chan struct{}), make(chan struct{})
	others.Go(func() {
		must(t, s.View(t.Context(), func(*latchkey.Tx) error {
			close(viewing)
			<-end
			return nil
		}))
	})
	<-viewing
	must(t, s.Compact(t.Context()))
	wantLogin(t, s, token, key.ID)
	must(t, s.DisableKey(t.Context(), owner, key.ID))
	wantRefused(t, s, token, latchkey.ErrKeyDisabled)
	must(t, s.Compact(t.Context()))
	wantRefused(t, s, token, latchkey.ErrKeyDisabled)
	close(end)
	must(t, r.Close())
	others.Wait()
}

func TestOpenRemovesAFileThatACompactionLeftBehind(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	closeStore(t, openFile(t, path, nil))
	left := path + ".compact"
	must(t, os.WriteFile(left, []byte("half a file"), 0o600))
	closeStore(t, openFile(t, path, nil))
	if _, err := os.Stat(left); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is still there: %v", left, err)
	}
}

// docs/reliability.md has the numbers that this test prints.
func TestADeletedKeyTakesLittleSpaceForGoodAndNoneInAStoreThatIsAlone(t *testing.T) {
	const batch = 1000
	batches := 20
	if testing.Short() {
		batches = 1
	}
	for name, most := range map[string]int64{"alone": 10, "shared": 300} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "keys.db")
			s := openFile(t, path, light())
			ada := addUser(t, s, "ada")
			if name == "shared" {
				recordsOf(t, s)
			}
			compactedSize := func() int64 {
				must(t, s.Compact(t.Context()))
				return int64(len(readFile(t, path)))
			}
			before := compactedSize()
			for range batches {
				minted, _, err := s.MintKeys(t.Context(), batch, nil)
				must(t, err)
				must(t, s.Update(t.Context(), func(tx *latchkey.Tx) error {
					for _, m := range minted {
						key, err := tx.InsertKey(ada, latchkey.KeySpec{Name: "job"}, m)
						must(t, err)
						must(t, tx.DeleteKey(ada, key.ID))
					}
					return nil
				}))
			}
			perKey := (compactedSize() - before) / int64(batches*batch)
			t.Logf("a compacted file keeps %d bytes for each of %d deleted keys", perKey, batches*batch)
			if perKey > most { // few keys fill their last pages less
				t.Errorf("a deleted key takes %d bytes for good, want %d or less", perKey, most)
			}
		})
	}
}

func TestCompactKeepsTheTombstonesOfWhatMayComeAgain(t *testing.T) {
	s := open(t)
	ada := addUser(t, s, "ada")
	own, ownToken := addKey(t, s, ada, "own")
	ensured, _, err := s.MintKey(t.Context())
	must(t, err)
	_, _, err = s.EnsureKey(t.Context(), ada, latchkey.KeySpec{Name: "ensured"}, ensured)
	must(t, err)
	minted, _, err := s.MintKey(t.Context())
	must(t, err)
	parsed, err := latchkey.ParseMintedKey(minted.Export())
	must(t, err)
	foreign := latchkey.MintForeign(latchkey.ForeignHandle{1}, "verifier", time.Time{})
	must(t, s.Update(t.Context(), func(tx *latchkey.Tx) error {
		for i, m := range []latchkey.MintedKey{parsed, foreign} {
			_, err := tx.InsertKey(ada, latchkey.KeySpec{Name: fmt.Sprint("from outside ", i)}, m)
			must(t, err)
		}
		return nil
	}))
	guest, err := s.CreateUser(t.Context(), latchkey.UserSpec{Identity: latchkey.Identity{Provider: latchkey.ProviderAnonymous}})
	must(t, err)
	bob := addUser(t, s, "bob")
	for _, id := range []uuid.UUID{own.ID, ensured.ID(), parsed.ID(), foreign.ID()} {
		must(t, s.DeleteKey(t.Context(), ada, id))
	}
	must(t, s.DeleteUser(t.Context(), guest.ID))
	must(t, s.DeleteUser(t.Context(), bob))

	must(t, s.Compact(t.Context()))
	has := func(table string, id uuid.UUID) bool { return sealed(t, s, table, id).Sealed != nil }
	if has(record.TableDeadKeys, own.ID) || has(record.TableDeadUsers, guest.ID) {
		t.Error("a tombstone that nobody needs is left")
	}
	if !has(record.TableDeadUsers, bob) {
		t.Error("the next user of an identity would get the ID of a deleted one")
	}
	wantRefused(t, s, ownToken, latchkey.ErrInvalidToken)
	for _, m := range []latchkey.MintedKey{ensured, parsed, foreign} {
		_, _, err := s.EnsureKey(t.Context(), ada, latchkey.KeySpec{Name: "again"}, m)
		wantError(t, err, latchkey.ErrKeyDeleted)
	}

	shared := open(t)
	key, _ := addKey(t, shared, latchkey.ServerOwner, "key")
	recordsOf(t, shared)
	must(t, shared.DeleteKey(t.Context(), latchkey.ServerOwner, key.ID))
	must(t, shared.Compact(t.Context()))
	if sealed(t, shared, record.TableDeadKeys, key.ID).Sealed == nil {
		t.Error("a store that is not alone has forgotten that a key was deleted")
	}
}
