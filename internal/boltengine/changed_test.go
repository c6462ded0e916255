package boltengine

import (
	"errors"
	"os"
	"runtime"
	"testing"
)

func TestAFileThatIsReplacedWhileItIsCommittedToLeavesTheCommitUnknown(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows replaces no file that is mapped")
	}
	e := openInside(t)
	must(t, e.set("a", "1"))
	err := e.Update(t.Context(), func(tx *Tx) error {
		tx.tx.OnCommit(func() { must(t, os.Rename(e.path, e.path+".old")) })
		return tx.Put("table", []byte("a"), []byte("2"))
	})
	if !errors.Is(err, ErrFileChanged) || !errors.Is(err, ErrCommitUnknown) {
		t.Errorf("got %v, want ErrFileChanged and ErrCommitUnknown", err)
	}
	if err := e.set("a", "3"); !errors.Is(err, ErrFileChanged) || errors.Is(err, ErrCommitUnknown) {
		t.Errorf("a later Update: got %v, want ErrFileChanged alone", err)
	}
	must(t, e.Close())
}
