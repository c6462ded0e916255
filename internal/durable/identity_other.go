//go:build !linux

package durable

import "os"

// Identity tells a file from every other file that exists at the same time.
type Identity struct{ info os.FileInfo }

// IdentityOf returns the identity of a file that is open.
func IdentityOf(f *os.File) (Identity, error) {
	info, err := f.Stat()
	return Identity{info}, err
}

// IdentityAt returns the identity of the file at path.
func IdentityAt(path string) (Identity, error) {
	info, err := os.Stat(path)
	if err == nil {
		// On Windows the first comparison reads the identity, by the path. Later the path may lead
		// to another file.
		os.SameFile(info, info)
	}
	return Identity{info}, err
}

// Is reports whether two identities are of one file.
func (i Identity) Is(other Identity) bool { return os.SameFile(i.info, other.info) }
