package main

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/etcd"
)

// This file is about stores on etcd. They are named by a URL in the place of a FILE. Several
// processes can have such a store open, so the command opens it itself, and needs no socket.

// errNeedsFile means that a command works on a file, and the store is on etcd.
var errNeedsFile = errors.New("the command works on a file, and the store is on etcd")

// etcdAdvice says what to do in the place of a command that works on a file.
var etcdAdvice = map[string]string{
	"backup":  "take a snapshot with etcdctl snapshot save, or copy the store to a file with latchkey migrate",
	"restore": "restore to a file, and copy that to etcd with latchkey migrate; a snapshot of etcd is restored with etcdutl snapshot restore",
	"compact": "etcd gives space back by its own compaction and by etcdctl defrag",
	"salvage": "salvage to a file, and copy that to etcd with latchkey migrate",
	"doctor":  "latchkey stats says how the store is, latchkey check looks for damage, and etcdctl endpoint status shows the servers",
	"watch":   "a program that has the store open can serve its changes with package admin for Go",
	"page":    "latchkey serve --admin and latchkey hub --admin print the URL when they begin",
	"join":    "an edge has its store in a file; name one with --store",
	"sync":    "an edge has its store in a file; name one with --store",
}

// openEtcd makes an engine from a URL.
func openEtcd(url string, opts etcd.Options) (latchkey.Engine, error) {
	e, err := etcd.Open(url, opts)
	var missing *fs.PathError
	if errors.As(err, &missing) { // a file that the URL names
		err = explainMissing(err, missing.Path)
	}
	return e, err
}

// checkURL returns etcd.ErrURL if a place is no file, and no URL of a store either. Without this
// check, a URL with a mistake would be the name of a file.
func checkURL(place string) error {
	begin := strings.ToLower(place)
	if etcd.IsURL(place) || !strings.Contains(place, "://") && !strings.HasPrefix(begin, "etcd:") && !strings.HasPrefix(begin, "etcds:") {
		return nil
	}
	return fmt.Errorf("%w: it must begin with etcd:// or etcds://, as in etcd://host:2379/latchkey", etcd.ErrURL)
}

// inFile returns errNeedsFile if the store at place is on etcd.
func inFile(place string) error {
	if etcd.IsURL(place) {
		return errNeedsFile
	}
	return nil
}

// openOnEtcd opens the store that a URL names. Unless make is set, the store must be there.
func openOnEtcd(url string, opts latchkey.Options, make bool) (*latchkey.Store, error) {
	opts.MustExist = !make
	e, err := openEtcd(url, etcd.Options{ReadOnly: opts.ReadOnly})
	if err != nil {
		return nil, err
	}
	s, err := latchkey.OpenWith(e, &opts)
	if err != nil {
		err = errors.Join(err, e.Close())
	}
	if errors.Is(err, fs.ErrNotExist) || opts.ReadOnly && errors.Is(err, latchkey.ErrReadOnly) {
		err = fmt.Errorf("%s: %w", url, errNoStore)
	}
	return s, err
}

// initOnEtcd makes the store that a URL names, which must not be there.
func initOnEtcd(url string, opts latchkey.Options) error {
	s, err := openOnEtcd(url, latchkey.Options{ReadOnly: true, HashMemory: opts.HashMemory}, false)
	switch {
	case err == nil:
		return errors.Join(fmt.Errorf("%s: %w", url, errStoreExists), s.Close())
	case !errors.Is(err, errNoStore):
		return err
	}
	if s, err = openOnEtcd(url, opts, true); err != nil {
		return err
	}
	return s.Close()
}
