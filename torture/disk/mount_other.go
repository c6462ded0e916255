//go:build !linux

package disk

import "errors"

// Mount returns an error that wraps [errors.ErrUnsupported], because only Linux has FUSE.
func (d *Disk) Mount(string) (unmount func() error, err error) {
	return nil, errors.Join(errors.New("mount: this is not Linux"), errors.ErrUnsupported)
}
