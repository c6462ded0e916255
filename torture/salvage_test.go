package torture_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/torture/internal/form"
)

// One page of a store of 10,000 keys is lost, in the long form each page in turn. Salvage must
// bring back everything outside that page, and no revoked key may be good afterwards.
func TestSalvageOfAStoreThatLostOnePageLosesOnlyThatPageAndRevivesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	want := fillForSalvage(t, path)
	file, err := os.ReadFile(path)
	must(t, err)
	random := form.NewRandom(form.NewSeed(t), 0)
	const pageSize = 4096
	pages := len(file) / pageSize
	for page := 0; page < pages; page++ {
		noise := byte(random.IntN(256))
		t.Run(fmt.Sprintf("page=%d,of=%d,noise=%d", page, pages, noise), func(t *testing.T) {
			damaged := bytes.Clone(file)
			copy(damaged[page*pageSize:], bytes.Repeat([]byte{noise}, pageSize))
			want.check(t, damaged)
		})
		if page > 8 { // the first pages are of every kind
			page += random.IntN(form.Amount(pages/10, 1))
		}
	}
}

// salvageable has the data of a store.
type salvageable struct {
	users    []uuid.UUID
	disabled map[uuid.UUID]bool // of each key
	data     int
}

func fillForSalvage(t *testing.T, path string) *salvageable {
	t.Helper()
	s := openFile(t, path, &latchkey.Options{Cost: light})
	w := &salvageable{disabled: make(map[uuid.UUID]bool)}
	var requests []latchkey.KeyRequest
	for i := range 500 {
		u, err := s.CreateUser(t.Context(), latchkey.UserSpec{Identity: email(fmt.Sprint(i))})
		must(t, err)
		w.users = append(w.users, u.ID)
		for n := range 20 {
			requests = append(requests, latchkey.KeyRequest{Owner: u.ID, KeySpec: latchkey.KeySpec{Name: fmt.Sprint(n)}})
		}
	}
	keys, _, err := s.CreateKeys(t.Context(), requests, nil)
	must(t, err)
	for round := range 10 { // so that most pages have earlier states
		must(t, s.Update(t.Context(), func(tx *latchkey.Tx) error {
			for i := round; i < len(keys); i += 40 {
				must(t, tx.DisableKey(keys[i].Owner, keys[i].ID))
				must(t, tx.DeleteKey(keys[i+10].Owner, keys[i+10].ID))
				must(t, tx.AppTable(dataName).Put(fmt.Append(nil, i), []byte("kept")))
			}
			return nil
		}))
	}
	// A lost meta page also loses the application data of the last commit. So the last commit
	// changes only this entry.
	must(t, s.Update(t.Context(), func(tx *latchkey.Tx) error {
		return tx.AppTable(dataName).Put([]byte("last"), nil)
	}))
	for i, k := range keys {
		switch i % 40 / 10 {
		case 0:
			w.disabled[k.ID] = true
			w.data++
		case 1: // deleted
		default:
			w.disabled[k.ID] = false
		}
	}
	return w
}

// check salvages a damaged file, and compares the result with the data that was in the file.
func (w *salvageable) check(t *testing.T, damaged []byte) {
	t.Helper()
	dir := t.TempDir()
	broken, out := filepath.Join(dir, "broken.db"), filepath.Join(dir, "salvaged.db")
	must(t, os.WriteFile(broken, damaged, 0o600))
	report, err := latchkey.Salvage(t.Context(), broken, out)
	must(t, err)
	s := openFile(t, out, nil)
	back := 0
	for _, u := range w.users {
		keys, err := s.Keys(t.Context(), u)
		must(t, err)
		for _, k := range keys {
			disabled, ok := w.disabled[k.ID]
			switch {
			case !ok:
				t.Errorf("key %s, which was deleted, is back", k.ID)
			case disabled && !k.Disabled:
				t.Errorf("key %s, which was disabled, is enabled", k.ID)
			}
			back++
		}
	}
	// A page has at most one in a hundred of the keys. It may have more of the application's
	// records, which are small.
	if back < len(w.disabled)*99/100 || report.Data < w.data*95/100 {
		t.Errorf("%d of %d keys and %d of %d records of an application are back: %+v", back, len(w.disabled), report.Data, w.data, report)
	}
}
