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

// The function may have failed because of what it read in the file that has changed.
func TestAFunctionThatFailsOnAFileThatHasChangedIsToldOfTheChange(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows replaces no file that is mapped")
	}
	e := openInside(t)
	must(t, e.set("a", "1"))
	must(t, os.Rename(e.path, e.path+".old"))
	for _, err := range []error{
		e.Update(t.Context(), func(*Tx) error { return errors.New("not found") }),
		e.Update(t.Context(), func(*Tx) error { return nil }),
	} {
		if !errors.Is(err, ErrFileChanged) {
			t.Errorf("got %v, want ErrFileChanged", err)
		}
	}
	must(t, e.Close())
}
