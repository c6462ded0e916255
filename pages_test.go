package latchkey_test

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/latchkeydb/latchkey"
)

// Where things are in a page of a bbolt file.
const (
	pageFlags      = 8
	branchFlag     = 0x01
	firstPageBelow = 16 + 8
)

// bbolt would follow such a page until the program has no stack left, which nothing can contain.
func TestAPageThatLeadsBackIsRefusedWhenTheFileIsOpened(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	s := openFile(t, path, &latchkey.Options{Cost: lightest})
	fillStore(t, s, 40)
	closeStore(t, s)
	file, err := os.ReadFile(path)
	must(t, err)

	branches := 0
	for page := 2; page < len(file)/pageSize; page++ {
		at := page * pageSize
		if binary.LittleEndian.Uint16(file[at+pageFlags:]) != branchFlag {
			continue
		}
		branches++
		for _, to := range []uint64{uint64(page), 0, 2, 1 << 40, binary.LittleEndian.Uint64(file[at+firstPageBelow+16:])} {
			damaged := bytes.Clone(file)
			binary.LittleEndian.PutUint64(damaged[at+firstPageBelow:], to)
			broken := filepath.Join(t.TempDir(), "broken.db")
			must(t, os.WriteFile(broken, damaged, 0o600))
			s, err := latchkey.Open(broken, nil)
			if err == nil { // a page of an earlier commit, which nothing leads to
				checkAtEnd(t, s)
				continue
			}
			wantError(t, err, latchkey.ErrCorrupt)
		}
	}
	if branches == 0 {
		t.Fatal("the file has no branch page")
	}
}
