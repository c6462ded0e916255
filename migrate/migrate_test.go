package migrate_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/big"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/memory"
	"github.com/latchkeydb/latchkey/internal/record"
	"github.com/latchkeydb/latchkey/migrate"
)

// A place is an engine that can be closed and opened again.
type place struct {
	name string
	open func(t testing.TB) latchkey.Engine
}

// places returns a new place of each kind.
func places(t testing.TB) []place {
	path := filepath.Join(t.TempDir(), "copy.db")
	kept := memory.NewEngine()
	reopened := func(testing.TB) latchkey.Engine {
		kept = memory.CopyEngine(kept)
		return kept
	}
	return []place{
		{"memory", reopened},
		{"file", func(t testing.TB) latchkey.Engine { return openFile(t, path, nil) }},
	}
}

func openFile(t testing.TB, path string, opts *latchkey.Options) latchkey.Engine {
	t.Helper()
	e, err := latchkey.OpenBoltEngine(path, opts)
	must(t, err)
	return e
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantError(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got the error %v, want %v", err, want)
	}
}

// A filled is a store with something in each table, and the tokens of its keys.
type filled struct {
	engine                 latchkey.Engine
	good, disabled, gone   string
	user                   uuid.UUID
	goodKey, toBeDeleted   uuid.UUID
	sometime, toBeDisabled string
}

var light = latchkey.Options{Cost: latchkey.LightCost}

// fill makes a store with n further users on e.
func fill(t testing.TB, e latchkey.Engine, n int) filled {
	t.Helper()
	f := filled{engine: e}
	s, err := latchkey.OpenWith(keepOpen{e}, &light)
	must(t, err)
	ctx := t.Context()
	u, err := s.CreateUser(ctx, latchkey.UserSpec{Identity: latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: "ada@example.com"}, Group: "site"})
	must(t, err)
	f.user = u.ID
	key := func(name string) (id uuid.UUID, token string) {
		k, token, err := s.CreateKey(ctx, u.ID, latchkey.KeySpec{Name: name})
		must(t, err)
		return k.ID, token
	}
	f.goodKey, f.good = key("good")
	_, f.toBeDisabled = key("to be disabled")
	f.toBeDeleted, f.sometime = key("to be deleted")
	id, token := key("disabled")
	f.disabled = token
	must(t, s.DisableKey(ctx, u.ID, id))
	id, token = key("gone")
	f.gone = token
	must(t, s.DeleteKey(ctx, u.ID, id))
	must(t, s.DisableGroup(ctx, "closed"))
	must(t, s.Update(ctx, func(tx *latchkey.Tx) error {
		for i := range 40 {
			if err := tx.AppTable("big").Put(fmt.Appendf(nil, "%d", i), bytes.Repeat([]byte{byte(i)}, latchkey.MaxAppValue)); err != nil {
				return err
			}
		}
		return nil
	}))
	for i := range n {
		_, err := s.CreateUser(ctx, latchkey.UserSpec{Identity: latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: fmt.Sprintf("user %d", i)}})
		must(t, err)
	}
	_, err = s.Login(ctx, f.good) // a last use
	must(t, err)
	must(t, s.Close())
	return f
}

// keepOpen is an engine that a store does not close.
type keepOpen struct{ latchkey.Engine }

func (keepOpen) Close() error { return nil }

// entries returns all entries of an engine, but those that a copy has of its own.
func entries(t testing.TB, e latchkey.Engine) map[string]string {
	t.Helper()
	all := map[string]string{}
	must(t, e.View(t.Context(), func(tx latchkey.EngineTx) error {
		for _, table := range record.Tables() {
			for entry, err := range tx.Scan(table, nil, nil) {
				if err != nil {
					return err
				}
				all[table+"/"+string(entry.Key)] = string(entry.Value)
			}
		}
		return nil
	}))
	delete(all, "meta/replica")
	return all
}

// meta returns what the store on e knows of its domain and of itself.
func meta(t testing.TB, e latchkey.Engine) (m *record.Meta) {
	t.Helper()
	must(t, e.View(t.Context(), func(tx latchkey.EngineTx) (err error) {
		m, err = record.ReadMeta(func(key []byte) ([]byte, error) { return tx.Get(record.TableMeta, key) })
		return err
	}))
	return m
}

// wantCopy checks that the store on to is a copy of f.
func wantCopy(t testing.TB, f filled, to latchkey.Engine) {
	t.Helper()
	if has, want := entries(t, to), entries(t, f.engine); !maps.Equal(has, want) {
		t.Errorf("the copy has %d entries, and they are not the %d of the store", len(has), len(want))
	}
	before, after := meta(t, f.engine), meta(t, to)
	if after.ID != before.ID || after.Replica.ID == before.Replica.ID || after.Replica.ID == uuid.Nil || !after.Replica.Shared {
		t.Errorf("the replica %+v was copied as %+v", before.Replica, after.Replica)
	}
	s, err := latchkey.OpenWith(keepOpen{to}, &light)
	must(t, err)
	defer s.Close()
	for finding := range s.Check(t.Context()) {
		t.Errorf("Check: %v", finding)
	}
	for _, tt := range []struct {
		what, token string
		want        error
	}{
		{"good", f.good, nil},
		{"disabled", f.disabled, latchkey.ErrKeyDisabled},
		{"gone", f.gone, latchkey.ErrInvalidToken},
	} {
		if _, err := s.Login(t.Context(), tt.token); !errors.Is(err, tt.want) {
			t.Errorf("the %s key: got %v, want %v", tt.what, err, tt.want)
		}
	}
}

func TestACopyHasEverythingAndIsAReplicaOfItsOwn(t *testing.T) {
	from := filepath.Join(t.TempDir(), "keys.db")
	e := openFile(t, from, nil)
	fill(t, e, 100)
	must(t, e.Close())
	for _, to := range places(t) {
		t.Run(to.name, func(t *testing.T) {
			f := fill(t, memory.NewEngine(), 100)
			e := to.open(t)
			report, err := migrate.Copy(t.Context(), f.engine, e, nil)
			must(t, err)
			n := uint64(len(entries(t, f.engine)) - 1) // the format is not counted
			if report.Entries != n || report.Written != n || report.Resumed || report.Bytes < 40*latchkey.MaxAppValue || report.Digest == (migrate.Digest{}) {
				t.Errorf("the report is %+v, and there are %d entries", report, n)
			}
			must(t, e.Close())
			e = to.open(t)
			wantCopy(t, f, e)
			must(t, e.Close())
		})
	}
	t.Run("from a file that is open for reading", func(t *testing.T) {
		e := openFile(t, from, &latchkey.Options{ReadOnly: true})
		defer e.Close()
		to := memory.NewEngine()
		_, err := migrate.Copy(t.Context(), e, to, nil)
		must(t, err)
		if has, want := entries(t, to), entries(t, e); !maps.Equal(has, want) {
			t.Errorf("the copy has %d entries, and the file has %d", len(has), len(want))
		}
	})
}

// errCut is the end of a process in the middle of its work.
var errCut = errors.New("cut")

// A cutEngine runs each function twice, as an engine does that has lost a race, and bounds its
// transactions. It fails at one commit, before or after it.
type cutEngine struct {
	latchkey.Engine
	writes  int // that a transaction can make; 0 means any number
	left    int // commits until the cut
	after   bool
	updates int
}

func (e *cutEngine) MaxWrites() int {
	if e.writes == 0 {
		return 1 << 30
	}
	return e.writes
}

func (e *cutEngine) Update(ctx context.Context, fn func(latchkey.EngineTx) error) error {
	e.updates++
	lost := errors.New("lost a race")
	err := e.Engine.Update(ctx, func(tx latchkey.EngineTx) error {
		if err := fn(&boundedTx{EngineTx: tx, writes: e.MaxWrites(), bytes: 1 << 20}); err != nil {
			return err
		}
		return lost
	})
	if !errors.Is(err, lost) {
		return err
	}
	if e.left--; e.left == 0 && !e.after {
		return errCut
	}
	if err = e.Engine.Update(ctx, fn); err == nil && e.left == 0 {
		return errCut
	}
	return err
}

type boundedTx struct {
	latchkey.EngineTx
	writes, bytes int
}

func (tx *boundedTx) write(key, value []byte) error {
	tx.writes, tx.bytes = tx.writes-1, tx.bytes-len(key)-len(value)
	if tx.writes < 0 || tx.bytes < 0 {
		return latchkey.ErrTransactionTooLarge
	}
	return nil
}

func (tx *boundedTx) Put(table string, key, value []byte) error {
	if err := tx.write(key, value); err != nil {
		return err
	}
	return tx.EngineTx.Put(table, key, value)
}

func (tx *boundedTx) Delete(table string, key []byte) error {
	if err := tx.write(key, nil); err != nil {
		return err
	}
	return tx.EngineTx.Delete(table, key)
}

func TestACopyThatIsCutAtAnyCommitIsNoStoreAndGoesOn(t *testing.T) {
	f := fill(t, memory.NewEngine(), 40)
	for _, writes := range []int{0, 100} {
		for _, after := range []bool{false, true} {
			cuts := 0
			for cut := 1; ; cut++ {
				done := true
				for _, to := range places(t) {
					e := &cutEngine{Engine: to.open(t), writes: writes, left: cut, after: after}
					_, err := migrate.Copy(t.Context(), f.engine, e, nil)
					must(t, e.Close())
					if err == nil {
						continue
					}
					done = false
					cuts++
					wantError(t, err, errCut)
					goOn(t, f, to, writes, cut, after)
				}
				if done {
					break
				}
			}
			if cuts < 10 {
				t.Errorf("only %d cuts, so this test shows little", cuts)
			}
		}
	}
}

// goOn copies to a place where a copying was cut.
func goOn(t *testing.T, f filled, to place, writes, cut int, after bool) {
	t.Helper()
	e := &cutEngine{Engine: to.open(t), writes: writes}
	defer func() { must(t, e.Close()) }()
	_, err := latchkey.OpenWith(keepOpen{e.Engine}, &latchkey.Options{MustExist: true})
	switch {
	case err == nil && after: // the last commit
		wantCopy(t, f, e.Engine)
		return
	case cut == 1 && !after:
		wantError(t, err, fs.ErrNotExist)
	default:
		wantError(t, err, latchkey.ErrUnfinished)
		_, err := migrate.Copy(t.Context(), e.Engine, memory.NewEngine(), nil)
		wantError(t, err, latchkey.ErrUnfinished)
	}
	report, err := migrate.Copy(t.Context(), f.engine, e, nil)
	must(t, err)
	if begun := cut > 1 || after; report.Resumed != begun {
		t.Errorf("after the cut at commit %d, Resumed is %t", cut, report.Resumed)
	}
	if cut > 4 && report.Written == report.Entries {
		t.Errorf("after the cut at commit %d, everything was written again", cut)
	}
	wantCopy(t, f, e.Engine)
}

func TestACopyThatGoesOnHasWhatWasChangedMeanwhile(t *testing.T) {
	for _, to := range places(t) {
		t.Run(to.name, func(t *testing.T) {
			f := fill(t, memory.NewEngine(), 300)
			e := &cutEngine{Engine: to.open(t), writes: 100, left: lastButOne(t, f)}
			_, err := migrate.Copy(t.Context(), f.engine, e, nil)
			wantError(t, err, errCut)

			s, err := latchkey.OpenWith(keepOpen{f.engine}, &light)
			must(t, err)
			must(t, s.DeleteKey(t.Context(), f.user, f.toBeDeleted))
			must(t, s.DisableKey(t.Context(), f.user, f.goodKey))
			must(t, s.EnableKey(t.Context(), f.user, f.goodKey))
			for i := range 250 {
				u, err := s.UserByIdentity(t.Context(), latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: fmt.Sprintf("user %d", i)})
				must(t, err)
				must(t, s.DeleteUser(t.Context(), u.ID))
			}
			must(t, s.Close())

			report, err := migrate.Copy(t.Context(), f.engine, e, nil)
			must(t, err)
			if !report.Resumed {
				t.Error("it was not resumed")
			}
			wantCopy(t, f, e.Engine)
			must(t, e.Close())
		})
	}
}

// lastButOne returns the number of the last commit that copies something.
func lastButOne(t testing.TB, f filled) int {
	t.Helper()
	e := &cutEngine{Engine: memory.NewEngine(), writes: 100}
	_, err := migrate.Copy(t.Context(), f.engine, e, nil)
	must(t, err)
	return e.updates - 1
}

func TestAStoreThatChangesIsNotCopied(t *testing.T) {
	f := fill(t, memory.NewEngine(), 150)
	n := lastButOne(t, f) + 1
	for at := 1; at <= n; at++ {
		to := memory.NewEngine()
		change := func() {
			must(t, f.engine.Update(t.Context(), func(tx latchkey.EngineTx) error { return tx.Put("data", []byte("a\x00b"), []byte{byte(at)}) }))
		}
		e := &hookedEngine{Engine: to, writes: 100, left: at, hook: change}
		_, err := migrate.Copy(t.Context(), f.engine, e, nil)
		if at == n { // the last commit finishes the copy
			must(t, err)
			return
		}
		wantError(t, err, migrate.ErrChanged)
		if e.left != 0 {
			t.Errorf("there were %d commits after the change", -e.left)
		}
		_, err = latchkey.OpenWith(to, nil)
		wantError(t, err, latchkey.ErrUnfinished)
	}
}

// A hookedEngine calls a function before one of its commits.
type hookedEngine struct {
	latchkey.Engine
	writes, left int
	hook         func()
}

func (e *hookedEngine) MaxWrites() int { return e.writes }

func (e *hookedEngine) Update(ctx context.Context, fn func(latchkey.EngineTx) error) error {
	if e.left--; e.left == 0 {
		e.hook()
	}
	return e.Engine.Update(ctx, fn)
}

func TestOfTwoCopyingsToOnePlaceTheLaterOneGoesOn(t *testing.T) {
	f := fill(t, memory.NewEngine(), 150)
	for at := 2; at <= lastButOne(t, f)+1; at++ {
		to := memory.NewEngine()
		var want map[string]string
		other := func() {
			_, err := migrate.Copy(t.Context(), f.engine, to, nil)
			must(t, err)
			wantCopy(t, f, to)
			must(t, to.Update(t.Context(), func(tx latchkey.EngineTx) error { // the store is in use
				for at := range entries(t, f.engine) {
					table, key, _ := strings.Cut(at, "/")
					if err := tx.Delete(table, []byte(key)); err != nil {
						return err
					}
				}
				return nil
			}))
			want = entries(t, to)
		}
		_, err := migrate.Copy(t.Context(), f.engine, &hookedEngine{Engine: to, writes: 100, left: at, hook: other}, nil)
		wantError(t, err, migrate.ErrTakenOver)
		if !maps.Equal(want, entries(t, to)) {
			t.Errorf("the call that ended at commit %d has written to the store", at)
		}
	}
}

// A lossyEngine loses one of its puts.
type lossyEngine struct {
	latchkey.Engine
	changed bool // the value is changed instead
}

type lossyTx struct {
	latchkey.EngineTx
	changed bool
}

func (e lossyEngine) Update(ctx context.Context, fn func(latchkey.EngineTx) error) error {
	return e.Engine.Update(ctx, func(tx latchkey.EngineTx) error { return fn(lossyTx{tx, e.changed}) })
}

func (tx lossyTx) Put(table string, key, value []byte) error {
	if table == "data" && strings.HasSuffix(string(key), "17") {
		if !tx.changed {
			return nil
		}
		value = append(bytes.Clone(value[1:]), value[0]+1)
	}
	return tx.EngineTx.Put(table, key, value)
}

func TestACopyThatDiffersDoesNotBecomeAStore(t *testing.T) {
	f := fill(t, memory.NewEngine(), 10)
	for _, changed := range []bool{false, true} {
		to := memory.NewEngine()
		_, err := migrate.Copy(t.Context(), f.engine, lossyEngine{to, changed}, nil)
		wantError(t, err, migrate.ErrDiffers)
		_, err = latchkey.OpenWith(to, nil)
		wantError(t, err, latchkey.ErrUnfinished)
		_, err = migrate.Copy(t.Context(), f.engine, to, nil)
		must(t, err)
		wantCopy(t, f, to)
	}
}

func TestOnlyAnEmptyPlaceTakesACopy(t *testing.T) {
	f, other := fill(t, memory.NewEngine(), 0), fill(t, memory.NewEngine(), 0)
	before := entries(t, other.engine)
	_, err := migrate.Copy(t.Context(), f.engine, other.engine, nil)
	wantError(t, err, migrate.ErrNotEmpty)
	if !maps.Equal(before, entries(t, other.engine)) {
		t.Error("the other store has changed")
	}
	_, err = migrate.Copy(t.Context(), memory.NewEngine(), memory.NewEngine(), nil)
	wantError(t, err, fs.ErrNotExist)

	unfinished := &cutEngine{Engine: memory.NewEngine(), left: 3}
	_, err = migrate.Copy(t.Context(), other.engine, unfinished, nil)
	wantError(t, err, errCut)
	before = entries(t, unfinished.Engine)
	_, err = migrate.Copy(t.Context(), f.engine, unfinished.Engine, nil)
	wantError(t, err, migrate.ErrNotEmpty)
	if !maps.Equal(before, entries(t, unfinished.Engine)) {
		t.Error("the unfinished copy has changed")
	}
}

func TestADryRunCountsAndWritesNothing(t *testing.T) {
	f := fill(t, memory.NewEngine(), 10)
	to := memory.NewEngine()
	report, err := migrate.Copy(t.Context(), f.engine, to, &migrate.Options{DryRun: true})
	must(t, err)
	if n := len(entries(t, to)); n != 0 {
		t.Errorf("it has written %d entries", n)
	}
	if n := uint64(len(entries(t, f.engine)) - 1); report.Entries != n || report.Resumed {
		t.Errorf("the report is %+v, and there are %d entries", report, n)
	}
	_, err = migrate.Copy(t.Context(), f.engine, f.engine, &migrate.Options{DryRun: true})
	wantError(t, err, migrate.ErrNotEmpty)
}

func TestProgressComesToItsEndTwice(t *testing.T) {
	f := fill(t, memory.NewEngine(), 150)
	var last [2]migrate.Progress
	progress := func(p migrate.Progress) {
		i := 0
		if p.Comparing {
			i = 1
		}
		if p.Done < last[i].Done || p.Done > p.Total || i == 0 && last[1].Done > 0 {
			t.Errorf("%+v came after %+v", p, last)
		}
		last[i] = p
	}
	report, err := migrate.Copy(t.Context(), f.engine, memory.NewEngine(), &migrate.Options{Progress: progress})
	must(t, err)
	for _, p := range last {
		if p.Done != report.Entries {
			t.Errorf("the last progress is %+v, and there are %d entries", p, report.Entries)
		}
	}
}

func TestTheDigestIsTheSumOfThoseOfTheEntries(t *testing.T) {
	f := fill(t, memory.NewEngine(), 10)
	report, err := migrate.Copy(t.Context(), f.engine, memory.NewEngine(), nil)
	must(t, err)
	sum := new(big.Int)
	for at, value := range entries(t, f.engine) {
		if at == "meta/format" {
			continue
		}
		table, key, _ := strings.Cut(at, "/")
		h := sha256.New()
		fmt.Fprintf(h, "\x00\x00\x00%c%s\x00\x00%s%s%s", len(table), table, binary.BigEndian.AppendUint16(nil, uint16(len(key))), key, value)
		sum.Add(sum, new(big.Int).SetBytes(h.Sum(nil)))
	}
	sum.Mod(sum, new(big.Int).Lsh(big.NewInt(1), 256))
	if want := fmt.Sprintf("%064x", sum); report.Digest.String() != want {
		t.Errorf("the digest is %s, want %s", report.Digest, want)
	}
}
