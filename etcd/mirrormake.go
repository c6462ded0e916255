package etcd

import (
	"context"
	"errors"
	"fmt"
	"os"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/latchkeydb/latchkey"
)

// make makes a new file. When it returns nil, the file has the state of one revision.
func (m *mirror) make() error {
	db, err := m.replaceFile()
	if err != nil {
		return err
	}
	newest, cluster, err := m.copyAll(db)
	if err != nil {
		return err
	}
	for m.saved.revision < newest {
		if err := m.applyNext(); err != nil {
			return err
		}
		m.mu.Lock()
		m.saved.revision = m.applied
		m.mu.Unlock()
	}
	if err := m.write(db, m.saved.revision, nil, m.identity(cluster)); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.lost {
		return errMirrorLost
	}
	m.usable, m.err, m.numbered = true, nil, m.saved.commit.revision != 0
	m.announceLocked()
	return nil
}

// replaceFile makes an empty file in the place of the one that was there. What arrives from then on
// is for the new file.
func (m *mirror) replaceFile() (latchkey.Engine, error) {
	m.mu.Lock()
	old := m.db
	m.db = nil
	m.mu.Unlock()
	if old != nil {
		_ = old.Close()
	}
	if err := m.clear(); err != nil {
		return nil, err
	}
	db, err := latchkey.OpenBoltEngine(m.path, nil)
	if err != nil {
		return nil, err
	}
	err = db.Update(m.e.ctx, func(tx latchkey.EngineTx) error { return tx.Put(mirrorMeta, mirrorMark, nil) })
	if err != nil {
		_ = db.Close()
		return nil, err
	}
	m.saved = mirrorState{}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.db, m.lost, m.applied, m.numbered, m.behind = db, false, 0, false, false
	m.arrived, m.size = nil, 0
	return db, nil
}

// clear removes the file if it is a mirror. A file that is too damaged to tell can be a store that
// was there by mistake, so clear gives it another name.
func (m *mirror) clear() error {
	there, err := m.openFile() // the file may have been replaced since open
	if err == nil {
		_ = there.Close()
		return os.Remove(m.path)
	}
	if !errors.Is(err, latchkey.ErrCorrupt) {
		return err
	}
	kept := m.path + ".damaged"
	if _, statErr := os.Lstat(kept); !errors.Is(statErr, os.ErrNotExist) {
		return fmt.Errorf("%s is damaged, and is kept because there is already a file %s: delete it if it was a mirror", m.path, kept)
	}
	return os.Rename(m.path, kept)
}

// copyAll copies the commit key and all entries to the file, page by page. It returns the newest
// revision that it has read.
func (m *mirror) copyAll(db latchkey.Engine) (newest int64, cluster uint64, err error) {
	r, err := m.read(m.e.keys.commit())
	if err != nil {
		return 0, 0, err
	}
	if len(r.Kvs) > 0 {
		m.saved.commit = commitSeen{r.Kvs[0].ModRevision, string(r.Kvs[0].Value)}
	}
	newest, cluster = r.Header.Revision, r.Header.ClusterId
	for pages := newPager(m.e.keys.entries(), clientv3.GetPrefixRangeEnd(m.e.keys.entries()), mostPage); !pages.done(); {
		page, err := pages.read(m.read)
		if err != nil {
			return 0, 0, err
		}
		newest = max(newest, page.Header.Revision)
		err = db.Update(m.e.ctx, func(tx latchkey.EngineTx) error {
			for _, kv := range page.Kvs {
				if err := m.apply(tx, string(kv.Key), kv.Value, kv.ModRevision, false); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return 0, 0, err
		}
		if err := m.applyBetweenPages(); err != nil {
			return 0, 0, err
		}
	}
	return newest, cluster, nil
}

// applyBetweenPages applies what has arrived, without waiting.
func (m *mirror) applyBetweenPages() error {
	for {
		m.mu.Lock()
		lost, n := m.lost, len(m.arrived)
		m.mu.Unlock()
		switch {
		case lost:
			return errMirrorLost
		case n == 0:
			return nil
		}
		if err := m.applyArrived(); err != nil {
			return err
		}
	}
}

// read reads the newest state.
func (m *mirror) read(key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	return ask(m.e.ctx, m.e, func(ctx context.Context) (*clientv3.GetResponse, error) { return m.e.client.Get(ctx, key, opts...) })
}
