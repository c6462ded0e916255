package latchkey

import "testing"

// OtherEngine opens the engine of the store at path, which is only a name there. It is nil, which
// means bbolt in a file. Module etcd adds a file to package latchkey_test that sets OtherEngine. So
// the tests of both packages run on etcd.
//
// This name and the others in this file are exported because the tests outside the package use
// them.
var OtherEngine func(t testing.TB, path string, opts *Options) Engine

// AboutFile skips a test about files where the tests run on another engine than bbolt.
func AboutFile(t testing.TB) {
	t.Helper()
	if OtherEngine != nil {
		t.Skip("the test is about the file of bbolt")
	}
}

// TryOpen opens the store at path.
func TryOpen(t testing.TB, path string, opts *Options) (*Store, error) {
	t.Helper()
	if OtherEngine == nil {
		return Open(path, opts)
	}
	e := OtherEngine(t, path, opts)
	s, err := OpenWith(e, opts)
	if err != nil {
		_ = e.Close()
	}
	return s, err
}

// EngineAt opens the engine of the store at path, and closes the engine when the test ends. Windows
// does not delete a file that is open.
func EngineAt(t testing.TB, path string, opts *Options) (e Engine) {
	t.Helper()
	if OtherEngine != nil {
		e = OtherEngine(t, path, opts)
	} else {
		var err error
		if e, err = OpenBoltEngine(path, opts); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = e.Close() })
	return e
}
