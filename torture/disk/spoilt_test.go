package disk_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/torture/disk"
	"github.com/latchkeydb/latchkey/torture/internal/form"
)

// Worn flash has sectors that cannot be read any more. There, reading the file fails with EIO, and
// reading its map is a fault.
func TestAnUnreadablePageIsAnErrorAndNeverACrashAndTheSafetyCopyReplacesIt(t *testing.T) {
	t.Parallel()
	w := newWritten(t, form.NewRandom(form.NewSeed(t), 0), 40, 0)
	d := disk.New()
	dir, _ := mount(t, d)
	p := start(t, "")
	refused := 0
	for page := range len(w.file) / pageSize {
		p.where = fmt.Sprintf("page %d of %d", page, len(w.file)/pageSize)
		write := func(name string) (path string) {
			path = filepath.Join(dir, fmt.Sprint(page, name))
			d.Put(filepath.Base(path), w.file)
			return path
		}
		spoil := func(path string) { d.Spoil(filepath.Base(path), int64(page)*pageSize) }

		path := write(".db")
		spoil(path)
		x := &damaged{written: w, what: p.where, good: w.logins}
		c := Call{Do: "examine", Path: path, State: w.state, Tokens: x.sample()}
		for _, s := range p.call(t, c).Stages {
			x.judge(t, c.Tokens, s)
		}

		path = write("-copied.db")
		write("-copied.db.safety")
		spoil(path)
		if err := p.call(t, Call{Do: "open", Path: path}).Failure.err(); err == nil {
			must(t, p.call(t, Call{Do: "close", Path: path}).Failure.err())
			continue
		} else if !errors.Is(err, latchkey.ErrCorrupt) && !errors.Is(err, latchkey.ErrNotStore) {
			t.Errorf("%s: open: got %v, want ErrCorrupt or ErrNotStore", p.where, err)
		}
		refused++
		if err := p.call(t, Call{Do: "open", Path: path, RecoverFromSafetyCopy: true}).Failure.err(); err != nil {
			t.Errorf("%s: open with the safety copy: %v", p.where, err)
			continue
		}
		_, err := p.visit(t, path, []State{w.state}, w.gone)
		must(t, err)
		must(t, p.call(t, Call{Do: "close", Path: path}).Failure.err())
	}
	if refused < 4 { // both meta pages, the root, and the list of free pages
		t.Errorf("%d of %d pages kept the store from opening", refused, len(w.file)/pageSize)
	}
}
