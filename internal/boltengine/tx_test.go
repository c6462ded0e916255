package boltengine

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/latchkeydb/latchkey/internal/boltpage"
)

// These constants say where things are in a page of a bbolt file. The tests do not read pages with
// package boltpage, on purpose: a mistake about the format in that package would be in the tests
// too.
const (
	pageFlags   = 8
	pageLeaf    = 2
	pageMore    = 12
	pageHeader  = 16
	elementSize = 16
)

// deepEngine opens an engine that has many small tables and the table "t". The tree of "t" is deep,
// or its branches are so empty that bbolt merges several at once. keys are the keys of "t", in
// order.
func deepEngine(t testing.TB, random *rand.Rand) (e inside, keys [][]byte) {
	t.Helper()
	e = openInside(t)
	e.db.NoSync, e.db.MaxSize = true, 0 // the map need not have room
	fill, size := []float64{0.1, 0.5, 1}[random.IntN(3)], []int{20, 100, 400}[random.IntN(3)]
	for i := range 3000 {
		key := binary.BigEndian.AppendUint32(nil, uint32(i))
		keys = append(keys, append(key, make([]byte, random.IntN(size))...))
	}
	tracked := random.IntN(2) == 0
	if tracked {
		e.Track("t")
	}
	for part := range slices.Chunk(random.Perm(len(keys)), 800) {
		e.plant(func(tx *bbolt.Tx) error {
			for _, table := range []string{"t", boltpage.Changes} {
				b, err := tx.CreateBucketIfNotExists([]byte(table))
				if err != nil {
					return err
				}
				b.FillPercent = fill
			}
			for _, i := range part {
				w := write{table: "t", key: keys[i], value: make([]byte, random.IntN(200)), tracked: tracked}
				if tracked {
					place := boltpage.NewPlace(0, uint64(i))
					w.value = boltpage.JoinTracked(place, w.value)
					if err := (write{table: boltpage.Changes, key: place.Key(), value: boltpage.ChangedEntry("t", keys[i])}).apply(tx); err != nil {
						return err
					}
				}
				if err := w.apply(tx); err != nil {
					return err
				}
			}
			return nil
		})
	}
	must(t, e.Update(t.Context(), func(tx *Tx) error {
		for i := range 300 {
			if err := tx.Put(smallTable(i), []byte("k"), make([]byte, random.IntN(100))); err != nil {
				return err
			}
		}
		return nil
	}))
	return e, keys
}

func smallTable(i int) string { return fmt.Sprintf("small %03d", i) }

// drawChanges draws a transaction, which does the same each time that it runs. It removes entries,
// some next to each other and some not, puts others, and scans.
func drawChanges(random *rand.Rand, keys [][]byte) func(tx *Tx) error {
	seed := random.Uint64()
	return func(tx *Tx) error {
		random := rand.New(rand.NewPCG(seed, 0))
		for range 1 + random.IntN(4) {
			from := random.IntN(len(keys))
			to := min(len(keys), from+1+random.IntN([]int{1, 20, 200, 1000}[random.IntN(4)]))
			step, remove := 1+random.IntN(3), random.IntN(3) > 0
			for i := from; i < to; i += step {
				err := tx.Put(smallTable(random.IntN(400)), keys[i], nil)
				if remove {
					err = errors.Join(err, tx.Delete("t", keys[i]))
				} else {
					err = errors.Join(err, tx.Put("t", keys[i], make([]byte, random.IntN(300))))
				}
				if err != nil {
					return err
				}
			}
			steps := random.IntN(300)
			for _, err := range tx.Scan("t", keys[from], nil) {
				if err != nil {
					return err
				}
				if steps--; steps < 0 {
					break
				}
			}
		}
		return nil
	}
}

// checkedBy runs a transaction, does not commit it, and returns the pages that it has checked.
func (e inside) checkedBy(do func(tx *Tx) error) map[uint64]bool {
	e.t.Helper()
	batch, err := e.join()
	must(e.t, err)
	e.batch = nil
	must(e.t, do(&Tx{tx: batch.tx, tables: batch.tables, batch: batch, mark: batch.before}))
	must(e.t, readPages(func() error { return batch.tables.CheckCommit(uint64(batch.tx.ID()), batch.removed) }))
	must(e.t, batch.tx.Rollback())

	m, _ := boltpage.ReadMeta(e.file)
	checked := map[uint64]bool{0: true, 1: true, m.Freelist: true}
	for id := range batch.tables.Visited() {
		more := binary.LittleEndian.Uint32(e.page(id)[pageMore:])
		for i := range uint64(more) + 1 {
			checked[id+i] = true
		}
	}
	return checked
}

// page returns a page of the file.
func (e inside) page(id uint64) []byte {
	e.t.Helper()
	page := make([]byte, boltpage.PageSize)
	_, err := e.file.ReadAt(page, int64(id)*boltpage.PageSize)
	must(e.t, err)
	return page
}

// withoutOthers runs do while only the pages in some can be read. It returns the number of the
// other pages.
func (e inside) withoutOthers(some map[uint64]bool, do func()) (spoilt int) {
	e.t.Helper()
	garbage := bytes.Repeat([]byte{0xff}, boltpage.PageSize)
	before, err := os.ReadFile(e.path)
	must(e.t, err)
	m, _ := boltpage.ReadMeta(e.file)
	write := func(id uint64, page []byte) {
		_, err := e.file.WriteAt(page, int64(id)*boltpage.PageSize)
		must(e.t, err)
	}
	for id := range m.End {
		if !some[id] {
			write(id, garbage)
			spoilt++
		}
	}
	do()
	after, err := os.ReadFile(e.path)
	must(e.t, err)
	for id := range m.End {
		// A page that has been written anew stays.
		if at := id * boltpage.PageSize; bytes.Equal(after[at:at+boltpage.PageSize], garbage) {
			write(id, before[at:at+boltpage.PageSize])
		}
	}
	return spoilt
}

// A page that was not checked could make bbolt do what no program survives.
func TestBboltReadsNoPageThatWasNotCheckedInTheSameTransaction(t *testing.T) {
	engines := 16
	if testing.Short() {
		engines = 2
	}
	levels, spoilt := 0, 0
	for seed := range engines {
		random := rand.New(rand.NewPCG(uint64(seed), 0))
		e, keys := deepEngine(t, random)
		for range 6 {
			do := drawChanges(random, keys)
			checked := e.checkedBy(func(tx *Tx) error {
				err := do(tx)
				levels = max(levels, tx.tx.Bucket([]byte("t")).Stats().Depth)
				return err
			})
			spoilt += e.withoutOthers(checked, func() {
				if err := e.Update(t.Context(), do); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
			})
			for finding := range e.CheckEngine(t.Context()) {
				t.Fatalf("seed %d: %v", seed, finding)
			}
		}
		must(t, e.Close())
	}
	if levels < 4 || spoilt < 100*engines {
		t.Errorf("the trees had %d levels, and %d pages could not be read: too few", levels, spoilt)
	}
}

// leafWith returns the page that has a key of a table. The table must have more than one page.
func (e inside) leafWith(table, key string) (page uint64) {
	e.t.Helper()
	must(e.t, e.Update(e.t.Context(), func(tx *Tx) error {
		if _, err := tx.getRaw(table, []byte(key)); err != nil {
			return err
		}
		for id := range tx.tables.Visited() {
			if p := e.page(id); p[pageFlags] == pageLeaf && bytes.Contains(p, []byte(key)) {
				page = id
			}
		}
		return nil
	}))
	return page
}

// spoil changes bytes of a page of the file.
func (e inside) spoil(page uint64, at int, bytes ...byte) {
	e.t.Helper()
	_, err := e.file.WriteAt(bytes, int64(page)*boltpage.PageSize+int64(at))
	must(e.t, err)
}

// number returns the key of the ith entry that openNumbered puts.
func number(i int) string { return fmt.Sprintf("%04d", i) }

// openNumbered opens an engine with a table "numbers". Each of its leaves has some ten entries.
func openNumbered(t testing.TB) inside {
	e := openInside(t)
	e.db.NoSync = true
	for i := range 300 {
		must(t, e.Update(t.Context(), func(tx *Tx) error {
			return tx.Put("numbers", []byte(number(i)), make([]byte, 150))
		}))
	}
	return e
}

func TestAMemberThatMeetsADamagedPageFailsAndTheOthersCommit(t *testing.T) {
	e := openNumbered(t)
	e.spoil(e.leafWith("numbers", number(150)), pageHeader+elementSize, make([]byte, elementSize)...)
	meet := func(do func(tx *Tx, key []byte) error) func() {
		return func() {
			err := e.Update(t.Context(), func(tx *Tx) error {
				return errors.Join(tx.Put("t", []byte("damaged"), nil), do(tx, []byte(number(150))))
			})
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("Update: got %v, want ErrCorrupt", err)
			}
		}
	}
	for range 2 {
		e.together(
			e.mustSet("a", "1"),
			meet(func(tx *Tx, key []byte) error { return tx.Put("numbers", key, nil) }),
			meet(func(tx *Tx, key []byte) error { return tx.Delete("numbers", key) }),
			meet(func(tx *Tx, key []byte) error {
				for _, err := range tx.Scan("numbers", key, nil) {
					return err
				}
				return nil
			}),
			e.mustSet("b", "1"),
		)
		e.want("a=1 b=1")
	}
}

func TestADamagedPageIsNotMergedWithAnother(t *testing.T) {
	for _, beside := range []int{+1, -1} {
		e := openNumbered(t)
		first := 150 // of a leaf
		for leaf := e.leafWith("numbers", number(first)); e.leafWith("numbers", number(first-1)) == leaf; {
			first--
		}
		last := first
		for leaf := e.leafWith("numbers", number(last)); e.leafWith("numbers", number(last+1)) == leaf; {
			last++
		}
		other := first - 1
		if beside > 0 {
			other = last + 1
		}
		// The key then has 512 MiB.
		e.spoil(e.leafWith("numbers", number(other)), pageHeader+elementSize+8+3, 0x20)
		for range 2 {
			err := e.Update(t.Context(), func(tx *Tx) error {
				for i := first; i < last; i++ {
					if err := tx.Delete("numbers", []byte(number(i))); err != nil {
						return err
					}
				}
				return nil
			})
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("Update beside a damaged page: got %v, want ErrCorrupt", err)
			}
			must(t, e.set("a", "1")) // bbolt has not got stuck
		}
	}
}

// interrupted is a file to which meanwhile writes, before the list of free pages is read for the
// first time.
type interrupted struct {
	*os.File
	meanwhile func()
}

func (f *interrupted) ReadAt(p []byte, at int64) (int, error) {
	if at >= 2*boltpage.PageSize && f.meanwhile != nil {
		f.meanwhile()
		f.meanwhile = nil
	}
	return f.File.ReadAt(p, at)
}

func TestAFileThatIsWrittenWhileItIsCheckedIsNotTakenForDamaged(t *testing.T) {
	e := openNumbered(t)
	for commits := range 10 {
		f := &interrupted{File: e.file, meanwhile: func() {
			for range commits {
				must(t, e.set("a", "1"))
			}
		}}
		must(t, boltpage.CheckUnlocked(f, false))
	}
}

func TestWritesInTheOrderOfTheirKeysAreCountedAndUndone(t *testing.T) {
	for seed := range uint64(15) {
		random := rand.New(rand.NewPCG(seed, 14))
		e := openInside(t)
		e.db.NoSync = true
		e.Track("tracked")
		model := map[string]map[string]string{"tracked": {}, "plain": {}}
		key := func(i int) []byte { return binary.BigEndian.AppendUint16(nil, uint16(i)) }
		for range 12 {
			after := map[string]map[string]string{"tracked": maps.Clone(model["tracked"]), "plain": maps.Clone(model["plain"])}
			refused := errors.New("refused")
			fails := random.IntN(4) == 0
			err := e.Update(t.Context(), func(tx *Tx) error {
				for range 1 + random.IntN(4) {
					table := []string{"tracked", "plain"}[random.IntN(2)]
					from := random.IntN(1000)
					if random.IntN(2) == 0 { // behind all others, or beginning with the last one
						for k := range after[table] {
							from = max(from, int(binary.BigEndian.Uint16([]byte(k)))+random.IntN(2))
						}
					}
					for i := range random.IntN(300) {
						k := key(from + i)
						if random.IntN(40) == 0 {
							k = key(max(0, from+i-random.IntN(20)))
						}
						if random.IntN(20) == 0 {
							must(t, tx.Delete(table, k))
							delete(after[table], string(k))
						}
						value := fmt.Sprint(random.IntN(1000))
						must(t, tx.Put(table, k, []byte(value)))
						after[table][string(k)] = value
					}
				}
				if fails {
					return refused
				}
				return nil
			})
			if fails {
				if !errors.Is(err, refused) {
					t.Fatalf("seed %d: %v", seed, err)
				}
			} else {
				must(t, err)
				model = after
			}
			must(t, e.View(t.Context(), func(tx *Tx) error {
				for table, want := range model {
					got := map[string]string{}
					for entry, err := range tx.Scan(table, nil, nil) {
						must(t, err)
						got[string(entry.Key)] = string(entry.Value)
					}
					n, err := tx.Count(table)
					must(t, err)
					if !maps.Equal(got, want) || n != uint64(len(want)) {
						t.Fatalf("seed %d: table %s has %d entries, counts %d, and should have %d", seed, table, len(got), n, len(want))
					}
				}
				changed := 0
				for c, err := range tx.Changes(0) {
					must(t, err)
					if _, there := model[c.Table][string(c.Key)]; there {
						changed++
					}
				}
				if changed != len(model["tracked"]) {
					t.Fatalf("seed %d: %d entries have changed, want %d", seed, changed, len(model["tracked"]))
				}
				return nil
			}))
		}
	}
}
