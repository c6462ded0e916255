package latchkey_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
)

const pageSize = 4096

// damagePage overwrites a page in a copy of file, and returns the path of the copy.
func damagePage(t testing.TB, file []byte, page int) string {
	t.Helper()
	damaged := bytes.Clone(file)
	copy(damaged[page*pageSize:], bytes.Repeat([]byte{0x5a}, pageSize))
	path := filepath.Join(t.TempDir(), "broken.db")
	must(t, os.WriteFile(path, damaged, 0o600))
	return path
}

// salvage salvages a file, and opens the new store.
func salvage(t testing.TB, broken string) (latchkey.SalvageReport, *latchkey.Store) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "salvaged.db")
	report, err := latchkey.Salvage(t.Context(), broken, out)
	must(t, err)
	return report, openFile(t, out, &latchkey.Options{Cost: lightest})
}

func TestSalvageLosesNoMoreThanAPageHolds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	s := openFile(t, path, &latchkey.Options{Cost: lightest})
	users := 500
	if testing.Short() {
		users = 100
	}
	_, _, tokens := fillStore(t, s, users)
	for range 10 { // so that the file has old versions of pages
		must(t, s.Update(t.Context(), func(tx *latchkey.Tx) error {
			for i := range salvageData {
				if err := tx.AppTable("app").Put(fmt.Append(nil, i), []byte("kept")); err != nil {
					return err
				}
			}
			return nil
		}))
		put(t, s, "sessions", "ada", "good")
	}
	for _, compacted := range []bool{false, true} {
		if compacted { // a compacted file has no page but those in use
			must(t, s.Compact(t.Context()))
		}
		file, err := os.ReadFile(path)
		must(t, err)
		root, pages := int(boltMeta(file).root), len(file)/pageSize
		first, step := 4, pages/10 // the first pages, the root, the last, and some of the rest
		if testing.Short() {
			first, step = 1, pages
		}
		for page := range pages {
			if page <= first || page%step == 0 || page == pages-1 || page == root {
				wantSalvaged(t, damagePage(t, file, page), users, tokens, fmt.Sprintf("compacted %t: page %d of %d", compacted, page, pages))
			}
		}
	}
}

func TestSalvageCountsTheEntriesThatAreLostInAPage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	s := openFile(t, path, &latchkey.Options{Cost: lightest})
	fillStore(t, s, 20)
	must(t, s.Compact(t.Context()))
	closeStore(t, s)
	file, err := os.ReadFile(path)
	must(t, err)
	sound, salvaged := salvage(t, path)
	closeStore(t, salvaged)
	losses := 0
	for page := 2; page < len(file)/pageSize; page++ {
		const leaf = 2
		header := file[page*pageSize:]
		if binary.LittleEndian.Uint16(header[8:]) != leaf || binary.LittleEndian.Uint16(header[10:]) < 2 {
			continue
		}
		damaged := bytes.Clone(file)
		copy(damaged[page*pageSize+24:], bytes.Repeat([]byte{'X'}, 16)) // the first two elements
		broken := filepath.Join(t.TempDir(), "broken.db")
		must(t, os.WriteFile(broken, damaged, 0o600))
		report, err := latchkey.Salvage(t.Context(), broken, filepath.Join(t.TempDir(), "salvaged.db"))
		if errors.Is(err, latchkey.ErrCorrupt) { // the domain is lost
			continue
		}
		must(t, err)
		if report.Users < sound.Users || report.Keys < sound.Keys {
			losses++
			if report.BadRecords == 0 {
				t.Errorf("page %d: got %+v, and of the sound file %+v", page, report, sound)
			}
		}
	}
	if losses == 0 {
		t.Error("no page had users or keys")
	}
}

// salvageData is the number of application records. No page has a tenth of them.
const salvageData = 2000

func wantSalvaged(t *testing.T, path string, users int, tokens []string, what string) {
	t.Helper()
	report, salvaged := salvage(t, path)
	if report.Users != users || report.Keys < len(tokens)*99/100 {
		t.Errorf("%s: %+v", what, report)
	}
	if report.Data < salvageData*9/10 {
		t.Errorf("%s: %d of %d records of an application came back", what, report.Data, salvageData)
	}
	good, disabled := 0, 0
	for _, token := range tokens[:200] {
		switch _, err := salvaged.Login(t.Context(), token); {
		case err == nil:
			good++
		case errors.Is(err, latchkey.ErrKeyDisabled), errors.Is(err, latchkey.ErrUserDisabled):
			disabled++
		}
	}
	if good+disabled < 150 || disabled > 0 && report.Uncertain+report.Orphaned == 0 {
		t.Errorf("%s: %d of 200 keys log in, %d are disabled: %+v", what, good, disabled, report)
	}
	closeStore(t, salvaged)
}

func TestSalvageOfASoundStoreKeepsEverything(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	s := openFile(t, path, light())
	ada, bob := addUser(t, s, "ada"), addUser(t, s, "bob")
	kept, keptToken := addKey(t, s, ada, "kept")
	disabled, disabledToken := addKey(t, s, ada, "disabled")
	deleted, deletedToken := addKey(t, s, ada, "deleted")
	_, bobs := addKey(t, s, bob, "bob's")
	server, serverToken := addKey(t, s, latchkey.ServerOwner, "server")
	must(t, s.DisableKey(t.Context(), ada, disabled.ID))
	must(t, s.DeleteKey(t.Context(), ada, deleted.ID))
	must(t, s.DeleteUser(t.Context(), bob))
	user, err := s.User(t.Context(), ada)
	must(t, err)
	closeStore(t, s)

	report, salvaged := salvage(t, path)
	if salvaged.DomainID() != s.DomainID() || salvaged.ReplicaID() == s.ReplicaID() {
		t.Error("the salvaged store is not another replica of the same domain")
	}
	if want := (latchkey.SalvageReport{Users: 1, Keys: 3}); report != want {
		t.Errorf("got %+v, want %+v", report, want)
	}
	wantLogin(t, salvaged, keptToken, kept.ID)
	wantLogin(t, salvaged, serverToken, server.ID)
	wantRefused(t, salvaged, disabledToken, latchkey.ErrKeyDisabled)
	wantRefused(t, salvaged, deletedToken, latchkey.ErrInvalidToken)
	wantRefused(t, salvaged, bobs, latchkey.ErrInvalidToken)
	again, err := salvaged.UserByIdentity(t.Context(), email("ada"))
	must(t, err)
	if again.ID != ada || !again.Created.Equal(user.Created) {
		t.Errorf("got %+v, want %+v", again, user)
	}
	if _, err := salvaged.CreateUser(t.Context(), latchkey.UserSpec{Identity: email("bob")}); err != nil {
		t.Error(err)
	}
}

// The last commit disabled the key. Without its meta page, bbolt would see only the commit before.
func TestSalvageWithoutAMetaPageBringsNothingRevokedBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	s := openFile(t, path, light())
	disabled, disabledToken := addKey(t, s, addUser(t, s, "ada"), "laptop")
	deleted, deletedToken := addKey(t, s, disabled.Owner, "phone")
	put(t, s, "sessions", "ada", "good")
	put(t, s, "sessions", "bob", "good")
	put(t, s, "sessions", "cleo", "good")
	must(t, s.Update(t.Context(), func(tx *latchkey.Tx) error {
		return errors.Join(tx.AppTable("sessions").Put([]byte("bob"), []byte("ended")), tx.DisableKey(disabled.Owner, disabled.ID), tx.DeleteKey(deleted.Owner, deleted.ID),
			tx.AppTable("sessions").Delete([]byte("ada")))
	}))
	closeStore(t, s)
	file, err := os.ReadFile(path)
	must(t, err)

	for page := range 2 {
		broken := damagePage(t, file, page)
		_, err := latchkey.Open(broken, nil)
		wantError(t, err, latchkey.ErrCorrupt)

		_, salvaged := salvage(t, broken)
		wantRefused(t, salvaged, disabledToken, latchkey.ErrKeyDisabled)
		wantRefused(t, salvaged, deletedToken, latchkey.ErrInvalidToken)
		for _, subject := range []string{"ada", "bob"} {
			if got := get(t, salvaged, "sessions", subject); string(got) == "good" {
				t.Errorf("page %d: the data of before the last commit is back", page)
			}
		}
		if got := get(t, salvaged, "sessions", "cleo"); string(got) != "good" {
			t.Errorf("page %d: data that did not change in the last commit is %q, want good", page, got)
		}
	}
}

func TestSalvageWithoutTheDomainIsRefused(t *testing.T) {
	broken := filepath.Join(t.TempDir(), "broken.db")
	must(t, os.WriteFile(broken, bytes.Repeat([]byte("no store "), 10_000), 0o600))
	dir := t.TempDir()
	_, err := latchkey.Salvage(t.Context(), broken, filepath.Join(dir, "salvaged.db"))
	wantError(t, err, latchkey.ErrCorrupt)
	wantEmptyDir(t, dir)
}

func TestSalvageLeavesBothFilesAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	closeStore(t, openFile(t, path, nil))
	before, err := os.ReadFile(path)
	must(t, err)
	_, err = latchkey.Salvage(t.Context(), path, path)
	wantError(t, err, fs.ErrExist)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = latchkey.Salvage(ctx, path, filepath.Join(t.TempDir(), "salvaged.db"))
	wantError(t, err, context.Canceled)
	after, err := os.ReadFile(path)
	must(t, err)
	if !bytes.Equal(before, after) {
		t.Error("the broken file was changed")
	}
}

// fileOfAnEndedSession returns the file of a store whose last commit ended a session.
func fileOfAnEndedSession(t *testing.T) (file []byte, last meta) {
	path := filepath.Join(t.TempDir(), "keys.db")
	s := openFile(t, path, light())
	put(t, s, "sessions", "ada", "good")
	put(t, s, "sessions", "bob", "good")
	put(t, s, "sessions", "ada", "ended")
	closeStore(t, s)
	file, err := os.ReadFile(path)
	must(t, err)
	return file, boltMeta(file)
}

// wantSessionEnded salvages the file without the meta page of the last commit, and fails the test
// if the session is good again.
func wantSessionEnded(t *testing.T, file []byte, last meta) {
	t.Helper()
	_, salvaged := salvage(t, damagePage(t, file, int(last.tx%2)))
	if got := get(t, salvaged, "sessions", "ada"); string(got) == "good" {
		t.Error("the data of before the last commit is back")
	}
}

// An unreadable page besides the lost meta page may have been the root of the last commit.
func TestSalvageWithoutAMetaPageAndARootBringsNothingRevokedBack(t *testing.T) {
	file, last := fileOfAnEndedSession(t)
	copy(file[last.root*pageSize:], make([]byte, 8)) // the number of the page
	wantSessionEnded(t, file, last)
}

// A failed commit leaves a root. The next commit has the same number.
func TestSalvageWithoutAMetaPageAndWithTwoRootsBringsNothingRevokedBack(t *testing.T) {
	file, last := fileOfAnEndedSession(t)
	before := boltMeta(spoilt(file, zero, int(last.tx%2)))
	failed := bytes.Clone(file[before.root*pageSize:][:pageSize])
	binary.LittleEndian.PutUint64(failed, uint64(len(file)/pageSize))
	commit := bytes.Index(failed, []byte("latchkey")) + len("latchkey") + 8
	binary.LittleEndian.PutUint64(failed[commit:], last.tx)

	wantSessionEnded(t, append(file, failed...), last)
}

// Pages that lead to each other, and that claim to have many more pages, would fill the memory if
// they were held at the same time.
func TestSalvageDoesNotHoldAChainOfPagesInMemory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	closeStore(t, openFile(t, path, light()))
	file, err := os.ReadFile(path)
	must(t, err)
	const chain, more = 1500, 64
	page, end := uint64(boltMeta(file).root), uint64(len(file)/pageSize)
	file = append(file, make([]byte, (chain+more)*pageSize)...)
	for i := range uint64(chain) {
		p := file[page*pageSize:]
		clear(p[:pageSize])
		binary.LittleEndian.PutUint64(p, page)
		p[8], p[10], p[12] = 1, 1, more // a branch with one element
		page = end + i
		binary.LittleEndian.PutUint64(p[16+8:], page)
	}
	must(t, os.WriteFile(path, file, 0o600))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, _ = latchkey.Salvage(t.Context(), path, filepath.Join(t.TempDir(), "salvaged.db"))
	runtime.ReadMemStats(&after)
	if got := int64(after.HeapSys) - int64(before.HeapSys); got > 64<<20 {
		t.Errorf("the heap has grown by %d bytes", got)
	}
}

// In the old version of a page, a user has an identity again that another user has now, or a key is
// back whose user is anonymous now.
func TestSalvageOfAFileWithAPageOfAnEarlierStateIsSound(t *testing.T) {
	for name, lose := range map[string]func(tx *latchkey.Tx, user uuid.UUID, i latchkey.Identity) error{
		"deleted users": func(tx *latchkey.Tx, user uuid.UUID, _ latchkey.Identity) error { return tx.DeleteUser(user) },
		"unlinked identities": func(tx *latchkey.Tx, user uuid.UUID, i latchkey.Identity) error {
			keys, err := tx.Keys(user)
			must(t, err)
			must(t, tx.DeleteKey(user, keys[0].ID))
			_, err = tx.UnlinkIdentity(user, i)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) { salvageAnEarlierState(t, lose) })
	}
}

// salvageAnEarlierState puts pages back to a state in which users had identities and keys that lose
// has taken from them since, and salvages the file.
func salvageAnEarlierState(t *testing.T, lose func(tx *latchkey.Tx, user uuid.UUID, i latchkey.Identity) error) {
	path := filepath.Join(t.TempDir(), "keys.db")
	s := openFile(t, path, light())
	const users = 30 // enough for a page of users alone
	minted, _, err := s.MintKeys(t.Context(), users, nil)
	must(t, err)
	must(t, s.Update(t.Context(), func(tx *latchkey.Tx) error {
		for i := range users {
			user, err := tx.CreateUser(latchkey.UserSpec{Identity: latchkey.Identity{Provider: latchkey.ProviderAnonymous}})
			must(t, err)
			_, err = tx.LinkIdentity(user.ID, email(fmt.Sprint(i)))
			must(t, err)
			_, err = tx.InsertKey(user.ID, latchkey.KeySpec{Name: "laptop"}, minted[i])
			must(t, err)
		}
		return nil
	}))
	closeStore(t, s)
	before, err := os.ReadFile(path)
	must(t, err)
	s = openFile(t, path, light())
	must(t, s.Update(t.Context(), func(tx *latchkey.Tx) error {
		for i := range users {
			user, err := tx.UserByIdentity(email(fmt.Sprint(i)))
			must(t, err)
			must(t, lose(tx, user.ID, email(fmt.Sprint(i))))
			_, err = tx.CreateUser(latchkey.UserSpec{Identity: email(fmt.Sprint(i))})
			must(t, err)
		}
		return nil
	}))
	closeStore(t, s)
	after, err := os.ReadFile(path)
	must(t, err)

	tried := 0
	for _, page := range pagesOfUsers(after) {
		for _, old := range pagesOfUsers(before) {
			damaged := bytes.Clone(after)
			// All but the number of the page.
			copy(damaged[page*pageSize+8:(page+1)*pageSize], before[old*pageSize+8:])
			broken := filepath.Join(t.TempDir(), "broken.db")
			must(t, os.WriteFile(broken, damaged, 0o600))
			_, salvaged := salvage(t, broken) // openFile checks the store when the test ends
			for i := range users {
				user, err := salvaged.UserByIdentity(t.Context(), email(fmt.Sprint(i)))
				if err != nil && !errors.Is(err, latchkey.ErrUserNotFound) {
					t.Errorf("user %d: %+v, %v", i, user, err)
				}
			}
			tried++
		}
	}
	if tried == 0 {
		t.Error("there is no page of users")
	}
}

// pagesOfUsers returns the leaf pages whose keys are as long as an ID.
func pagesOfUsers(file []byte) (pages []int) {
	for page := 2; page < len(file)/pageSize; page++ {
		p := file[page*pageSize:]
		if binary.LittleEndian.Uint16(p[8:]) == 2 && binary.LittleEndian.Uint32(p[24:]) == 16 {
			pages = append(pages, page)
		}
	}
	return pages
}
