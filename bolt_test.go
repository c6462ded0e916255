package latchkey_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/enginetest"
)

func TestBoltKeepsTheLawsOfEngines(t *testing.T) {
	enginetest.Run(t, func(dir string, opts *latchkey.Options) (latchkey.Engine, error) {
		return latchkey.OpenBoltEngine(filepath.Join(dir, "keys.db"), opts)
	})
}

// boltFile opens the engine on a file, and closes it when the test ends.
func boltFile(t testing.TB, path string, opts *latchkey.Options) latchkey.Engine {
	t.Helper()
	e, err := latchkey.OpenBoltEngine(path, opts)
	must(t, err)
	t.Cleanup(func() { _ = e.Close() })
	return e
}

func setEntry(t testing.TB, e latchkey.Engine, key, value string) {
	t.Helper()
	must(t, e.Update(t.Context(), func(tx latchkey.EngineTx) error { return tx.Put("t", []byte(key), []byte(value)) }))
}

func wantEntry(t testing.TB, e latchkey.Engine, key, value string) {
	t.Helper()
	must(t, e.View(t.Context(), func(tx latchkey.EngineTx) error {
		v, err := tx.Get("t", []byte(key))
		if err == nil && string(v) != value {
			t.Errorf("entry %s is %q, want %q", key, v, value)
		}
		return err
	}))
}

// wantFiles fails the test unless a directory has the named files and no others.
func wantFiles(t testing.TB, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if !slices.Equal(got, names) {
		t.Errorf("the directory has %q, want %q", got, names)
	}
}

// childVariable is the environment variable that tells a test that it runs in a process of its own,
// which the test itself has started. Its value says what for.
const childVariable = "LATCHKEY_TEST_CHILD"

// newChild returns a command that runs the calling test again in a process of its own.
func newChild(t testing.TB, arg string) *exec.Cmd {
	child := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.timeout=600s", fmt.Sprint("-test.short=", testing.Short()))
	child.Env = append(os.Environ(), childVariable+"="+arg)
	return child
}

// startChild starts a child. The test reads its output. The child goes on when goOn is called,
// which ends its input and waits for it.
func startChild(t testing.TB, arg string) (output *bufio.Reader, goOn func() error) {
	t.Helper()
	child := newChild(t, arg)
	child.Stderr = os.Stderr
	in, err := child.StdinPipe()
	must(t, err)
	out, err := child.StdoutPipe()
	must(t, err)
	if err := child.Start(); errors.Is(err, syscall.ENOEXEC) {
		t.Skip("the tests run in an emulator that cannot start processes")
	} else if err != nil {
		t.Fatal(err)
	}
	output = bufio.NewReader(out)
	return output, func() error {
		_ = in.Close()
		rest, _ := io.ReadAll(output)
		if err := child.Wait(); err != nil {
			return fmt.Errorf("%w\n%s", err, rest)
		}
		return nil
	}
}

// inChild reports whether the test runs in a process of its own. If not, inChild runs the test in
// such a process, so that a crash ends no other test, and fails the test if that process fails. In
// an emulator that cannot start processes, inChild reports true.
func inChild(t testing.TB) bool {
	t.Helper()
	if os.Getenv(childVariable) != "" {
		return true
	}
	out, err := newChild(t, "alone").CombinedOutput()
	if errors.Is(err, syscall.ENOEXEC) {
		return true
	}
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	return false
}

func TestOnlyItsOwnerCanOpenTheFile(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no modes of files")
	}
	path := filepath.Join(t.TempDir(), "keys.db")
	e := boltFile(t, path, nil)
	setEntry(t, e, "a", "1")
	info, err := os.Stat(path)
	must(t, err)
	if got := info.Mode(); got != 0o600 {
		t.Errorf("the file's mode is %v, want -rw-------", got)
	}
	wantFiles(t, filepath.Dir(path), "keys.db")
}

// wantLocked fails the test unless a file can be opened neither for writing nor for reading, and
// the error names the file.
func wantLocked(t testing.TB, path string) {
	t.Helper()
	for _, opts := range []*latchkey.Options{
		{LockTimeout: -1}, {LockTimeout: -1, ReadOnly: true}, {LockTimeout: 100 * time.Millisecond},
	} {
		_, err := latchkey.OpenBoltEngine(path, opts)
		wantError(t, err, latchkey.ErrLocked)
		if !strings.Contains(err.Error(), path) {
			t.Errorf("the error %q does not name the file", err)
		}
	}
}

func TestAFileThatIsOpenForWritingIsLockedForAllOthers(t *testing.T) {
	if path := os.Getenv(childVariable); path != "" {
		wantLocked(t, path)
		return
	}
	path := filepath.Join(t.TempDir(), "keys.db")
	e := boltFile(t, path, nil)
	setEntry(t, e, "a", "1")
	wantLocked(t, path)
	_, wait := startChild(t, path)
	must(t, wait())

	// A process that waits for long enough gets the file.
	opened := make(chan error)
	go func() {
		next, err := latchkey.OpenBoltEngine(path, &latchkey.Options{LockTimeout: time.Hour})
		if err == nil {
			err = next.Close()
		}
		opened <- err
	}()
	must(t, e.Close())
	must(t, <-opened)
}

func TestManyReadAFileAtOnceAndNobodyWritesMeanwhile(t *testing.T) {
	readOnly := &latchkey.Options{ReadOnly: true}
	if path := os.Getenv(childVariable); path != "" {
		e := boltFile(t, path, readOnly)
		wantEntry(t, e, "a", "1")
		fmt.Println("reading")
		_, _ = io.ReadAll(os.Stdin)
		wantEntry(t, e, "a", "1")
		return
	}
	path := filepath.Join(t.TempDir(), "keys.db")
	e := boltFile(t, path, nil)
	setEntry(t, e, "a", "1")
	must(t, e.Close())
	before := readFile(t, path)

	var ends []func() error
	for range 3 {
		output, end := startChild(t, path)
		if line, err := output.ReadString('\n'); line != "reading\n" {
			t.Fatalf("the child says %q, %v\n%v", line, err, end())
		}
		ends = append(ends, end)
	}
	reader := boltFile(t, path, readOnly)
	wantEntry(t, reader, "a", "1")
	_, err := latchkey.OpenBoltEngine(path, &latchkey.Options{LockTimeout: -1})
	wantError(t, err, latchkey.ErrLocked)
	for _, end := range ends {
		must(t, end())
	}
	must(t, reader.Close())
	if !bytes.Equal(readFile(t, path), before) {
		t.Error("reading has changed the file")
	}
	setEntry(t, boltFile(t, path, nil), "a", "2")
}

func TestOpeningForReadingMakesNothing(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{filepath.Join(dir, "keys.db"), filepath.Join(dir, "no directory", "keys.db")} {
		_, err := latchkey.OpenBoltEngine(path, &latchkey.Options{ReadOnly: true})
		wantError(t, err, fs.ErrNotExist)
	}
	wantFiles(t, dir)
}

func TestProcessesThatMakeTheSameFileAtOnceShareIt(t *testing.T) {
	patient := &latchkey.Options{LockTimeout: time.Hour}
	write := func(path, key string) {
		e, err := latchkey.OpenBoltEngine(path, patient)
		if err == nil {
			err = e.Update(t.Context(), func(tx latchkey.EngineTx) error { return tx.Put("t", []byte(key), []byte(key)) })
			err = errors.Join(err, e.Close())
		}
		if err != nil {
			t.Errorf("%s: %v", key, err)
		}
	}
	if arg := os.Getenv(childVariable); arg != "" {
		key, path, _ := strings.Cut(arg, " ")
		_, _ = io.ReadAll(os.Stdin)
		write(path, key)
		return
	}
	for round := range 4 {
		path := filepath.Join(t.TempDir(), "keys.db")
		var keys []string
		var group sync.WaitGroup
		if round == 0 {
			for i := range 3 {
				keys = append(keys, fmt.Sprint("process", i))
				_, goOn := startChild(t, keys[i]+" "+path)
				group.Go(func() {
					if err := goOn(); err != nil {
						t.Error(err)
					}
				})
			}
		}
		for i := range 8 {
			key := fmt.Sprint("goroutine", i)
			keys = append(keys, key)
			group.Go(func() { write(path, key) })
		}
		group.Wait()
		e := boltFile(t, path, nil)
		for _, key := range keys {
			wantEntry(t, e, key, key)
		}
		wantFiles(t, filepath.Dir(path), "keys.db")
	}
}

// The power can fail after a file was made and before the store's first record was written.
func TestAFileWithoutAnyRecordIsANewStore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	must(t, boltFile(t, path, nil).Close())
	before := readFile(t, path)

	_, err := latchkey.Open(path, &latchkey.Options{ReadOnly: true})
	wantError(t, err, latchkey.ErrReadOnly)
	if !bytes.Equal(readFile(t, path), before) {
		t.Error("opening for reading has changed the file")
	}
	s := openFile(t, path, light())
	addUser(t, s, "ada")
	closeStore(t, s)
	openFile(t, path, light())
}

func TestALinkLeadsToTheFile(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	path, link := filepath.Join(dir, "keys.db"), filepath.Join(other, "link.db")
	setEntry(t, boltFile(t, path, nil), "seed", "1")
	symlink(t, path, link)
	wantLocked(t, link)
}

// On some devices the root file system is read-only, and a link leads to a partition that is empty
// at first.
func TestALinkToNothingLeadsToANewFile(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	path, link := filepath.Join(dir, "data", "keys.db"), filepath.Join(other, "link.db")
	must(t, os.Mkdir(filepath.Dir(path), 0o700))
	symlink(t, filepath.Join(dir, "data"), filepath.Join(other, "here"))
	symlink(t, filepath.Join("here", "middle.db"), link)
	// Beside other/here there is no directory data, so the link must be resolved from the directory
	// that it is really in.
	symlink(t, "../data/keys.db", filepath.Join(dir, "data", "middle.db"))
	_, err := latchkey.Open(link, &latchkey.Options{ReadOnly: true})
	wantError(t, err, fs.ErrNotExist)
	closeStore(t, openFile(t, link, light()))
	token := keepCopy(t, path)
	must(t, os.Remove(path))
	mustLogin(t, openFile(t, link, &latchkey.Options{Cost: latchkey.LightCost, RecoverFromSafetyCopy: true}), token)
	wantFiles(t, other, "here", "link.db")
	wantFiles(t, filepath.Dir(path), "keys.db", "keys.db.safety", "middle.db")
}

// filledBolt makes a file that has branch pages, several tables, values that are larger than a
// page, and free pages.
func filledBolt(t testing.TB, path string) []byte {
	t.Helper()
	e := boltFile(t, path, nil)
	for round := range 3 {
		must(t, e.Update(t.Context(), func(tx latchkey.EngineTx) error {
			for i := range 600 {
				key, value := fmt.Appendf(nil, "key %05d", i*7%1000), bytes.Repeat([]byte{byte(round)}, 50+round*20)
				if err := tx.Put(fmt.Sprint("table ", i%3), key, value); err != nil {
					return err
				}
			}
			return tx.Put("large", []byte{byte(round)}, make([]byte, latchkey.MaxEngineValue))
		}))
	}
	must(t, e.Close())
	return readFile(t, path)
}

// foreignBolt makes a bbolt file that is no store.
func foreignBolt(t testing.TB, opts *bbolt.Options) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "foreign.db")
	db, err := bbolt.Open(path, 0o600, opts)
	must(t, err)
	must(t, db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucket([]byte("theirs"))
		if err != nil {
			return err
		}
		return b.Put([]byte("a"), make([]byte, 10*pageSize))
	}))
	must(t, db.Close())
	return readFile(t, path)
}

// spoilt returns a copy of a file in which spoil has changed pages.
func spoilt(file []byte, spoil func(page []byte), pages ...int) []byte {
	file = bytes.Clone(file)
	for _, p := range pages {
		spoil(file[p*pageSize : (p+1)*pageSize])
	}
	return file
}

func zero(page []byte) { clear(page) }

func TestAFileThatIsNoStoreIsRefusedAndStaysAsItIs(t *testing.T) {
	store := filledBolt(t, filepath.Join(t.TempDir(), "keys.db"))
	text := bytes.Repeat([]byte("What is this, that was never a store?\n"), 10_000)
	last := boltMeta(store)
	for _, tt := range []struct {
		name string
		file []byte
		want error
	}{
		{"nothing", nil, latchkey.ErrNotStore},
		{"a byte", text[:1], latchkey.ErrNotStore},
		{"a short text", text[:1000], latchkey.ErrNotStore},
		{"a text of most of a page", text[:3000], latchkey.ErrNotStore},
		{"a text of a page", text[:pageSize], latchkey.ErrNotStore},
		{"a text of more than a page", text[:pageSize+1000], latchkey.ErrNotStore},
		{"a text of two pages", text[:2*pageSize], latchkey.ErrNotStore},
		{"a long text", text, latchkey.ErrNotStore},
		{"zeros", make([]byte, 20*pageSize), latchkey.ErrNotStore},
		{"a foreign bbolt file", foreignBolt(t, nil), latchkey.ErrNotStore},
		{"a foreign bbolt file without a list of free pages", foreignBolt(t, &bbolt.Options{NoFreelistSync: true}), latchkey.ErrNotStore},
		{"a foreign bbolt file of larger pages", foreignBolt(t, &bbolt.Options{PageSize: 4 * pageSize}), latchkey.ErrNotStore},
		{"a store cut within its first page", store[:1000], latchkey.ErrCorrupt},
		{"a store cut after its first page", store[:pageSize], latchkey.ErrCorrupt},
		{"a store cut within its second page", store[:pageSize+1000], latchkey.ErrCorrupt},
		{"a store cut after two pages", store[:2*pageSize], latchkey.ErrCorrupt},
		{"a store cut after three pages", store[:3*pageSize], latchkey.ErrCorrupt},
		{"a store cut in half", store[:len(store)/2], latchkey.ErrCorrupt},
		{"a store cut by its last page", store[:(last.end-1)*pageSize], latchkey.ErrCorrupt},
		{"a store without its first page", spoilt(store, zero, 0), latchkey.ErrCorrupt},
		{"a store without its second page", spoilt(store, zero, 1), latchkey.ErrCorrupt},
		{"a store without both", spoilt(store, zero, 0, 1), latchkey.ErrCorrupt},
		{"a store without its root", spoilt(store, zero, int(last.root)), latchkey.ErrCorrupt},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "keys.db")
			must(t, os.WriteFile(path, tt.file, 0o644))
			for _, opts := range []*latchkey.Options{nil, {ReadOnly: true}, nil} {
				_, err := latchkey.OpenBoltEngine(path, opts)
				wantError(t, err, tt.want)
				if !strings.Contains(err.Error(), path) {
					t.Errorf("the error %q does not name the file", err)
				}
				if !bytes.Equal(readFile(t, path), tt.file) {
					t.Fatal("the file was changed")
				}
				wantFiles(t, filepath.Dir(path), "keys.db")
			}
			// A file that was refused is not locked, and can be mended.
			must(t, os.WriteFile(path, store, 0o600))
			must(t, boltFile(t, path, &latchkey.Options{LockTimeout: -1}).Close())
		})
	}
}

func TestADirectoryOrADeviceIsNoStore(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{dir, os.DevNull} {
		for _, opts := range []*latchkey.Options{nil, {ReadOnly: true}, {RecoverFromSafetyCopy: true}} {
			_, err := latchkey.Open(path, opts)
			wantError(t, err, latchkey.ErrNotStore)
		}
		_, err := latchkey.Salvage(t.Context(), path, filepath.Join(dir, "out.db"))
		wantError(t, err, latchkey.ErrNotStore)
	}
	wantFiles(t, dir)
}

// The tests of the engine read pages themselves, and do not use package boltpage, on purpose: a
// mistake about the format in that package would be in the tests too.

// meta is what the newer meta page of a file says: the pages of the root and of the list of free
// pages, the first page that was never in use, and the number of the transaction.
type meta struct{ root, freelist, end, tx uint64 }

func boltMeta(file []byte) (newest meta) {
	for page := range 2 {
		number := func(at int) uint64 { return binary.LittleEndian.Uint64(file[page*pageSize+16+at:]) }
		if m := (meta{root: number(16), freelist: number(32), end: number(40), tx: number(48)}); m.tx > newest.tx {
			newest = m
		}
	}
	return newest
}

// pageKinds are bbolt's flags of pages.
const (
	branchPage   = 1
	leafPage     = 2
	freelistPage = 16
)

// pagesOf returns the pages of a file that are of a kind.
func pagesOf(file []byte, kind uint16) (pages []int) {
	for p := 2; p < len(file)/pageSize; p++ {
		if binary.LittleEndian.Uint16(file[p*pageSize+8:]) == kind {
			pages = append(pages, p)
		}
	}
	return pages
}

// filledTables are the tables that filledBolt makes.
var filledTables = []string{"table 0", "table 1", "table 2", "large"}

func readByScan(table string) func(tx latchkey.EngineTx) error {
	return func(tx latchkey.EngineTx) error {
		var last []byte
		for entry, err := range tx.Scan(table, nil, nil) {
			if err != nil {
				return err
			}
			if last != nil && bytes.Compare(entry.Key, last) <= 0 {
				return fmt.Errorf("Scan went from %q to %q", last, entry.Key)
			}
			last = entry.Key
		}
		return nil
	}
}

func readByGet(table string) func(tx latchkey.EngineTx) error {
	return func(tx latchkey.EngineTx) error {
		for i := range 100 {
			if _, err := tx.Get(table, fmt.Appendf(nil, "key %05d", i*10)); err != nil {
				return err
			}
		}
		return nil
	}
}

func writeByPut(table string) func(tx latchkey.EngineTx) error {
	return func(tx latchkey.EngineTx) error {
		for i := range 10 {
			if err := tx.Put(table, fmt.Appendf(nil, "key %05d", i*100+1), []byte("changed")); err != nil {
				return err
			}
		}
		return nil
	}
}

// use reads all tables, writes to them, and checks the file. It fails the test for any error but
// ErrCorrupt.
func use(t testing.TB, e latchkey.Engine, damage string) {
	t.Helper()
	allow := func(call string, err error) {
		t.Helper()
		if err != nil && !errors.Is(err, latchkey.ErrCorrupt) {
			t.Errorf("%s: %s: got %v, want ErrCorrupt", damage, call, err)
		}
		// In an emulator of another processor, a fault does not say where it was, and reads like a
		// nil pointer.
		if err != nil && runtime.GOARCH == "amd64" && strings.Contains(err.Error(), "memory") {
			t.Errorf("%s: %s: %v: the fault of a file reads as one of the program", damage, call, err)
		}
	}
	for _, table := range filledTables {
		allow("Scan", e.View(t.Context(), readByScan(table)))
		allow("Get", e.View(t.Context(), readByGet(table)))
		allow("Update", e.Update(t.Context(), writeByPut(table)))
	}
	for finding := range e.(latchkey.EngineChecker).CheckEngine(t.Context()) {
		allow("CheckEngine", finding)
	}
}

func TestADamagedPageIsAnErrorAndNeverAPanic(t *testing.T) {
	if !inChild(t) {
		return
	}
	path := filepath.Join(t.TempDir(), "keys.db")
	file := filledBolt(t, path)
	random := rand.New(rand.NewPCG(1, 2))
	damages := []struct {
		name  string
		spoil func(page []byte)
	}{
		{"zeros", zero},
		{"ones", func(page []byte) { copy(page, bytes.Repeat([]byte{0xff}, len(page))) }},
		{"another kind", func(page []byte) { page[8] ^= branchPage | leafPage }},
		{"another number", func(page []byte) { page[1]++ }},
		{"more elements than fit", func(page []byte) { page[11] = 0xff }},
		{"elements past the end", func(page []byte) { copy(page[16+4:], "\xff\xff\xff\x7f") }},
		{"sizes past the end", func(page []byte) { copy(page[16+8:], "\xff\xff\xff\x7f\xff\xff\xff\x7f") }},
		{"a way to itself", func(page []byte) { copy(page[16+8:], page[:8]) }},
		{"noise", func(page []byte) {
			for i := range page[16:] {
				page[16+i] = byte(random.Uint32())
			}
		}},
	}
	branches, lists, leaves := pagesOf(file, branchPage), pagesOf(file, freelistPage), pagesOf(file, leafPage)[:8]
	if testing.Short() {
		branches, lists, leaves = branches[:1], lists[:1], leaves[:2]
	}
	pages := slices.Concat(branches, lists, leaves)
	for _, page := range pages {
		for _, damage := range damages {
			must(t, os.WriteFile(path, spoilt(file, damage.spoil, page), 0o600))
			e, err := latchkey.OpenBoltEngine(path, &latchkey.Options{LockTimeout: -1})
			if err != nil {
				wantError(t, err, latchkey.ErrCorrupt)
				continue
			}
			use(t, e, fmt.Sprintf("%s in page %d", damage.name, page))
			if err := e.Close(); err != nil && !errors.Is(err, latchkey.ErrCorrupt) {
				t.Errorf("%s in page %d: Close: %v", damage.name, page, err)
			}
		}
	}
}

// overwrite changes a file in place, as another program would while a program has it open.
func overwrite(t testing.TB, path string, content []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteAt(content, 0)
	must(t, errors.Join(err, f.Close()))
}

func TestDamageUnderAnOpenFileIsAnErrorAndNeverAPanic(t *testing.T) {
	if !inChild(t) {
		return
	}
	for _, tt := range []struct {
		name  string
		spoil func(t testing.TB, path string, file []byte)
	}{
		{"all branch pages", func(t testing.TB, path string, file []byte) {
			overwrite(t, path, spoilt(file, zero, pagesOf(file, branchPage)...))
		}},
		{"all leaf pages", func(t testing.TB, path string, file []byte) {
			overwrite(t, path, spoilt(file, zero, pagesOf(file, leafPage)...))
		}},
		{"the root", func(t testing.TB, path string, file []byte) {
			overwrite(t, path, spoilt(file, zero, int(boltMeta(file).root)))
		}},
		{"the list of free pages", func(t testing.TB, path string, file []byte) {
			overwrite(t, path, spoilt(file, zero, int(boltMeta(file).freelist)))
		}},
		{"both meta pages", func(t testing.TB, path string, file []byte) { overwrite(t, path, spoilt(file, zero, 0, 1)) }},
		{"everything", func(t testing.TB, path string, file []byte) { overwrite(t, path, make([]byte, len(file))) }},
		{"the second half", func(t testing.TB, path string, file []byte) { truncate(t, path, len(file)/2) }},
		{"all but the meta pages", func(t testing.TB, path string, file []byte) { truncate(t, path, 2*pageSize) }},
		{"the whole file", func(t testing.TB, path string, file []byte) { truncate(t, path, 0) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "keys.db")
			file := filledBolt(t, path)
			e, err := latchkey.OpenBoltEngine(path, nil)
			must(t, err)
			defer e.Close()
			tt.spoil(t, path, file)
			for range 2 { // what was found once must not be waited for the second time
				use(t, e, "without "+tt.name)
			}
			if err := e.Close(); err != nil && !errors.Is(err, latchkey.ErrCorrupt) {
				t.Errorf("Close: %v", err)
			}
			must(t, os.WriteFile(path, file, 0o600))
			must(t, boltFile(t, path, &latchkey.Options{LockTimeout: -1}).Close())
		})
	}
}

// When bbolt can read neither meta page, it panics with a lock held. Transactions under way want
// that lock.
func TestTransactionsUnderWayEndWhenAnotherMeetsTheDamage(t *testing.T) {
	if !inChild(t) {
		return
	}
	for _, tt := range []struct {
		name string
		run  func(e latchkey.Engine, fn func(tx latchkey.EngineTx) error) error
	}{
		{"View", func(e latchkey.Engine, fn func(tx latchkey.EngineTx) error) error { return e.View(t.Context(), fn) }},
		{"Update", func(e latchkey.Engine, fn func(tx latchkey.EngineTx) error) error { return e.Update(t.Context(), fn) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "keys.db")
			file := filledBolt(t, path)
			e, err := latchkey.OpenBoltEngine(path, nil)
			must(t, err)
			err = tt.run(e, func(tx latchkey.EngineTx) error {
				if tt.name == "Update" {
					must(t, tx.Put("t", []byte("a"), []byte("1")))
				}
				overwrite(t, path, spoilt(file, zero, 0, 1))
				var other sync.WaitGroup
				other.Go(func() {
					if err := e.View(t.Context(), readByGet("large")); !errors.Is(err, latchkey.ErrCorrupt) {
						t.Errorf("another View: got %v, want ErrCorrupt", err)
					}
				})
				other.Wait()
				return nil
			})
			if tt.name == "Update" || err != nil {
				wantError(t, err, latchkey.ErrCorrupt)
			}
			_ = e.Close()
			must(t, os.WriteFile(path, file, 0o600))
			must(t, boltFile(t, path, &latchkey.Options{LockTimeout: -1}).Close())
		})
	}
}

func truncate(t testing.TB, path string, size int) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("Windows does not shorten a file that is mapped")
	}
	must(t, os.Truncate(path, int64(size)))
}

// A few bits of a damaged page could say how much memory is copied. A program that runs out of
// memory ends.
func TestADamagedSizeIsNotBelieved(t *testing.T) {
	if !inChild(t) {
		return
	}
	path := filepath.Join(t.TempDir(), "keys.db")
	file := filledBolt(t, path)
	entries := slices.DeleteFunc(pagesOf(file, leafPage), func(page int) bool { return page == int(boltMeta(file).root) })
	must(t, os.WriteFile(path, spoilt(file, func(page []byte) {
		for i := range int(binary.LittleEndian.Uint16(page[10:])) {
			copy(page[16+16*i+12:], "\x00\x00\x00\x40") // each value has 1 GiB
		}
	}, entries...), 0o600))
	e := boltFile(t, path, &latchkey.Options{ReadOnly: true})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for _, table := range filledTables {
		for _, read := range []func(tx latchkey.EngineTx) error{readByScan(table), readByGet(table)} {
			if err := e.View(t.Context(), read); err != nil {
				wantError(t, err, latchkey.ErrCorrupt)
			}
		}
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 64<<20 {
		t.Errorf("reading a damaged file allocated %d bytes", got)
	}
}

// If a damaged number were taken for the length of the list of free pages, the list would take more
// memory than there is.
func TestAListOfFreePagesWithoutEndIsNotBelieved(t *testing.T) {
	if !inChild(t) {
		return
	}
	path := filepath.Join(t.TempDir(), "keys.db")
	file := filledBolt(t, path)
	for _, length := range []uint64{1, 1 << 16, 1 << 27, 1 << 40, 1 << 61, 1<<64 - 1} {
		must(t, os.WriteFile(path, spoilt(file, func(page []byte) {
			binary.LittleEndian.PutUint16(page[10:], 0xffff)
			binary.LittleEndian.PutUint64(page[16:], length)
		}, int(boltMeta(file).freelist)), 0o600))
		_, err := latchkey.OpenBoltEngine(path, nil)
		wantError(t, err, latchkey.ErrCorrupt)
		reader := boltFile(t, path, &latchkey.Options{ReadOnly: true})
		for _, table := range filledTables {
			must(t, reader.View(t.Context(), readByScan(table)))
		}
		must(t, reader.Close())
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	if m.HeapSys > 256<<20 {
		t.Errorf("the heap has %d bytes", m.HeapSys)
	}
}

// An engine checks a file before it has the lock. Another process may be writing then, and nothing
// is damaged.
func TestAFileThatIsBeingWrittenIsLockedAndNotDamaged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	e := boltFile(t, path, nil)
	setEntry(t, e, "a", "1")
	updates := 200
	if testing.Short() {
		updates = 50
	}
	done := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		defer close(done)
		for range updates {
			err := e.Update(t.Context(), func(tx latchkey.EngineTx) error {
				return errors.Join(tx.Delete("large", []byte("a")), tx.Put("large", []byte("a"), make([]byte, 50_000)))
			})
			if err != nil {
				t.Errorf("Update: %v", err)
			}
		}
	})
	for written := false; !written; {
		_, err := latchkey.OpenBoltEngine(path, &latchkey.Options{LockTimeout: -1})
		wantError(t, err, latchkey.ErrLocked)
		select {
		case <-done:
			written = true
		default:
		}
	}
	writer.Wait()
}

// bbolt would go on with the commit before the last, in which a key may be enabled that was
// disabled since.
func TestTheLastCommitIsNotForgottenWhenItsMetaPageIsLost(t *testing.T) {
	for _, written := range []bool{false, true} {
		path := filepath.Join(t.TempDir(), "keys.db")
		e := boltFile(t, path, nil)
		setEntry(t, e, "a", "1")
		setEntry(t, e, "a", "2")
		must(t, e.Close())
		e = boltFile(t, path, nil)
		if written {
			setEntry(t, e, "a", "3")
		}
		file := readFile(t, path)
		overwrite(t, path, spoilt(file, zero, int(boltMeta(file).tx%2)))
		wantError(t, e.View(t.Context(), readByScan("t")), latchkey.ErrCorrupt)
		ran := func(tx latchkey.EngineTx) error { return tx.Put("t", []byte("b"), nil) }
		wantError(t, e.Update(t.Context(), ran), latchkey.ErrCorrupt)
		overwrite(t, path, file)
		must(t, e.Update(t.Context(), ran))
		want := "2"
		if written {
			want = "3"
		}
		wantEntry(t, e, "a", want)
	}
}

// A damaged file cannot be opened for writing. A file that is opened for reading can be read where
// it is not damaged.
func TestADamagedLeafHidesNoOtherPage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	file := filledBolt(t, path)
	damaged, unread := 0, 0
	for _, page := range pagesOf(file, leafPage) {
		must(t, os.WriteFile(path, spoilt(file, zero, page), 0o600))
		e, err := latchkey.OpenBoltEngine(path, nil)
		if err == nil { // a page of an earlier commit
			must(t, e.Close())
			continue
		}
		wantError(t, err, latchkey.ErrCorrupt)
		if page == int(boltMeta(file).root) { // which leads to all others
			continue
		}
		damaged++
		e = boltFile(t, path, &latchkey.Options{ReadOnly: true})
		for _, table := range filledTables {
			if err := e.View(t.Context(), readByScan(table)); err != nil {
				wantError(t, err, latchkey.ErrCorrupt)
				unread++
			}
		}
		must(t, e.Close())
	}
	if damaged == 0 || unread != damaged {
		t.Errorf("of %d damaged pages, each in one table, %d kept a table from being read", damaged, unread)
	}
}

func TestAnEntryThatIsTooLargeIsNotPut(t *testing.T) {
	e := boltFile(t, filepath.Join(t.TempDir(), "keys.db"), nil)
	long := string(make([]byte, latchkey.MaxEngineKey+1))
	for _, put := range []struct {
		table, key string
		value      int
	}{{long, "a", 1}, {"t", long, 1}, {"t", "a", latchkey.MaxEngineValue + 1}, {"t", "", 1}, {"", "a", 1}} {
		err := e.Update(t.Context(), func(tx latchkey.EngineTx) error {
			return tx.Put(put.table, []byte(put.key), make([]byte, put.value))
		})
		if err == nil || errors.Is(err, latchkey.ErrCorrupt) {
			t.Errorf("Put of %d bytes under a key of %d in a table of %d: got %v", put.value, len(put.key), len(put.table), err)
		}
	}
	setEntry(t, e, "a", "1")
	wantEntry(t, e, "a", "1")
}

// compact compacts the file of an engine on bbolt.
func compact(t testing.TB, e latchkey.Engine) {
	t.Helper()
	must(t, e.(interface{ Compact(context.Context) error }).Compact(t.Context()))
}

// A process that waits for the lock has the old file open, which no longer has the name when the
// lock is free.
func TestAProcessThatWaitsForAFileThatIsCompactedGetsTheNewFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	e := boltFile(t, path, nil)
	setEntry(t, e, "before", "1")
	opened := make(chan error, 1)
	go func() {
		next, err := latchkey.OpenBoltEngine(path, &latchkey.Options{LockTimeout: time.Hour})
		if err == nil {
			err = next.Update(t.Context(), func(tx latchkey.EngineTx) error { return tx.Put("t", []byte("next"), []byte("1")) })
			err = errors.Join(err, next.Close())
		}
		opened <- err
	}()
	for len(opened) == 0 && e.(latchkey.CommitCounter).Commits() < 200 {
		err := e.(latchkey.EngineCompacter).Compact(t.Context())
		// Windows cannot replace the file while the other process looks whether the lock is free.
		if runtime.GOOS != "windows" || !errors.Is(err, fs.ErrPermission) {
			must(t, err)
		}
		setEntry(t, e, "after", "1")
	}
	must(t, e.Close())
	must(t, <-opened)
	e = boltFile(t, path, nil)
	for _, key := range []string{"before", "after", "next"} {
		wantEntry(t, e, key, "1")
	}
}

func TestACompactedFileStaysWhereItWas(t *testing.T) {
	dir, elsewhere := t.TempDir(), t.TempDir()
	path, link := filepath.Join(dir, "keys.db"), filepath.Join(elsewhere, "link.db")
	for _, tt := range []struct {
		name string
		open func(t *testing.T) latchkey.Engine
	}{
		{"opened by a relative path, and the directory changed", func(t *testing.T) latchkey.Engine {
			t.Chdir(dir)
			e := boltFile(t, "keys.db", nil)
			t.Chdir(elsewhere)
			return e
		}},
		{"opened by a link", func(t *testing.T) latchkey.Engine {
			symlink(t, path, link)
			return boltFile(t, link, nil)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := tt.open(t)
			setEntry(t, e, "a", tt.name)
			compact(t, e)
			setEntry(t, e, "b", tt.name)
			must(t, e.Close())
			wantFiles(t, dir, "keys.db")
			e = boltFile(t, path, nil)
			wantEntry(t, e, "a", tt.name)
			wantEntry(t, e, "b", tt.name)
			must(t, e.Close())
		})
	}
}
