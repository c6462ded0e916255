package boltengine

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// openFollower follows the file at path.
func openFollower(t *testing.T, path string) *Follower {
	t.Helper()
	f, err := Follow(path, func(path string) (*Engine, Version, error) {
		e, err := Open(path, Options{ReadOnly: true})
		if err != nil {
			return nil, Version{}, err
		}
		v, err := e.Version(func(tx *Tx) ([]byte, uint64, error) { return nil, tx.Sequence(), nil })
		return e, v, err
	})
	must(t, err)
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// publish puts a copy of the engine's file at path.
func (e inside) publish(path string) {
	e.t.Helper()
	file, err := os.Create(path + ".new")
	must(e.t, err)
	must(e.t, e.WriteBackup(context.Background(), file))
	must(e.t, file.Close())
	must(e.t, os.Rename(path+".new", path))
}

func TestAReaderThatWaitsForACommitHearsOfAFileThatTakesThePlace(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows replaces no file that is mapped")
	}
	e := openTracked(t)
	path := filepath.Join(t.TempDir(), "followed.db")
	e.publish(path)
	f := openFollower(t, path)
	f.Track("t")
	first, _, err := f.Commit(t.Context())
	if err != nil || first != 4 {
		t.Fatalf("Commit: got %d, %v, want 4", first, err)
	}
	must(t, f.Wait(t.Context(), first-1))
	waited := make(chan error)
	go func() { waited <- f.Wait(context.Background(), first) }()

	must(t, e.set("d", "1"))
	e.publish(path)
	moved, finding, err := f.LookAtFile(t.Context())
	if !moved || finding != nil || err != nil {
		t.Fatalf("LookAtFile: got %t, %v, %v", moved, finding, err)
	}
	must(t, <-waited)
	now, random, err := f.Commit(t.Context())
	_, want, _ := e.Commit(t.Context())
	if err != nil || now != 5 || random != want {
		t.Errorf("Commit: got %d, %x, %v, want 5, %x", now, random, err, want)
	}
	must(t, f.View(t.Context(), func(tx *Tx) error {
		n, err := tx.SequenceOf("t", []byte("d"))
		if n != 5 {
			t.Errorf("SequenceOf: got %d, want 5", n)
		}
		return err
	}))

	go func() { waited <- f.Wait(context.Background(), now) }()
	must(t, f.Close())
	if err := <-waited; !errors.Is(err, ErrClosed) {
		t.Errorf("Wait after Close: got %v, want ErrClosed", err)
	}
}
