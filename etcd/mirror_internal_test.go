package etcd

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/latchkeydb/latchkey"
)

// ReadsMirror reports whether a View reads the mirror now.
func ReadsMirror(e latchkey.Engine) bool {
	_, ok := e.(*engine).mirror.ready(context.Background())
	return ok
}

// A deletion at a full quota removes the commit key. The file can have that a moment before the
// mirror knows.
func TestAFileWithoutTheNumberOfTheLastCommitIsNotRead(t *testing.T) {
	e := NewWith(nil, "prefix", Options{WatchAge: time.Hour, Mirror: filepath.Join(t.TempDir(), "mirror")}).(*engine)
	m := e.mirror
	var err error
	if m.db, err = latchkey.OpenBoltEngine(m.path, nil); err != nil {
		t.Fatal(err)
	}
	defer m.close()
	e.feed.know(time.Now())
	m.usable, m.numbered = true, true
	for _, commit := range []commitSeen{{revision: 5, random: "12345678"}, {}} {
		m.saved.commit = commit
		if err := m.write(m.db, 6, nil, nil); err != nil {
			t.Fatal(err)
		}
		read, err := m.view(context.Background(), func(tx latchkey.EngineTx) error {
			if n := tx.Sequence(); n != uint64(commit.revision) || n == 0 {
				t.Errorf("the sequence is %d, and the last commit has %d", n, commit.revision)
			}
			return nil
		})
		if err != nil || read != (commit.revision != 0) {
			t.Errorf("with the last commit at %d the file was read: %t, %v", commit.revision, read, err)
		}
	}
}
