package disk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// Mount makes the disk appear as the directory dir until unmount is called. It needs /dev/fuse,
// root, and Linux 6.6.
//
// The program that has mounted the disk must not use the directory itself, because it can hang. A
// goroutine that waits for a mapped page keeps its processor, a garbage collection then waits for
// the goroutine, and the answer for the page waits for the collection. The program also hangs if it
// starts another program while it has a file of the directory open, because the new program closes
// that file.
func (d *Disk) Mount(dir string) (unmount func() error, err error) {
	syscall.ForkLock.RLock()
	server, err := fuse.NewServer(&files{fuse.NewDefaultRawFileSystem(), d}, dir, &fuse.MountOptions{
		FsName:            "latchkey-torture",
		Name:              "disk",
		DirectMountStrict: true,
		DisableXAttrs:     true,
		ExtraCapabilities: fuse.CAP_DIRECT_IO_ALLOW_MMAP,
		// The kernel must not drop anything from its cache by itself.
		ExplicitDataCacheControl: true,
	})
	closeDeviceOnExec()
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, mountError(err)
	}
	go server.Serve()
	if server.KernelSettings().Flags64()&fuse.CAP_DIRECT_IO_ALLOW_MMAP == 0 {
		err := errors.New("mount: the kernel maps no files of direct I/O: it is older than Linux 6.6")
		return nil, errors.Join(err, server.Unmount())
	}
	return server.Unmount, nil
}

// closeDeviceOnExec keeps the device from programs that are started later. While a program has the
// device open, calls that wait for an answer go on waiting, even when nobody is left to answer.
func closeDeviceOnExec() {
	const dir = "/proc/self/fd"
	fds, _ := os.ReadDir(dir)
	for _, fd := range fds {
		if to, _ := os.Readlink(filepath.Join(dir, fd.Name())); to == "/dev/fuse" {
			if n, err := strconv.Atoi(fd.Name()); err == nil {
				syscall.CloseOnExec(n)
			}
		}
	}
}

func mountError(err error) error {
	switch {
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ENODEV), errors.Is(err, syscall.ENXIO):
		return fmt.Errorf("mount: the kernel has no FUSE, or there is no /dev/fuse: %w", err)
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EACCES):
		return fmt.Errorf("mount: only root can (user ID 0, with CAP_SYS_ADMIN, and with /dev/fuse among its devices): %w", err)
	}
	return fmt.Errorf("mount: %w", err)
}

// files answers the kernel. Unless the disk is cached, the I/O of each file is direct: written data
// goes to the disk at once, the kernel drops its map of that data, and nobody ever sees a write
// that the disk refuses. With the kernel's cache in between, a refused write would still show in
// every map of the file.
type files struct {
	fuse.RawFileSystem
	disk *Disk
}

func (f *files) Lookup(_ <-chan struct{}, _ *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	id, size, err := f.disk.lookUp(name)
	if err == 0 {
		setEntry(out, id, size)
	}
	return fuse.Status(err)
}

func setEntry(out *fuse.EntryOut, id uint64, size int) {
	out.NodeId = id
	setAttr(&out.Attr, id, size)
}

func setAttr(out *fuse.Attr, id uint64, size int) {
	*out = fuse.Attr{
		Ino: id, Mode: syscall.S_IFREG | 0o600, Nlink: 1, Size: uint64(size), Blocks: uint64(size+511) / 512, Blksize: 4096,
		Owner: fuse.Owner{Uid: uint32(os.Getuid()), Gid: uint32(os.Getgid())},
	}
	if id == rootID {
		out.Mode = syscall.S_IFDIR | 0o700
	}
}

func (f *files) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	return f.attr(in.NodeId, out)
}

func (f *files) attr(id uint64, out *fuse.AttrOut) fuse.Status {
	if id == rootID {
		setAttr(&out.Attr, id, 0)
		return fuse.OK
	}
	size, err := f.disk.size(id)
	setAttr(&out.Attr, id, size)
	return fuse.Status(err)
}

func (f *files) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	if size, ok := in.GetSize(); ok {
		if err := f.disk.truncate(in.NodeId, int64(size)); err != 0 {
			return fuse.Status(err)
		}
	}
	return f.attr(in.NodeId, out)
}

func (f *files) Create(_ <-chan struct{}, _ *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	id, err := f.disk.create(name)
	if err != 0 {
		return fuse.Status(err)
	}
	setEntry(&out.EntryOut, id, 0)
	return f.open(id, &out.OpenOut)
}

func (f *files) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	return f.open(in.NodeId, out)
}

func (f *files) open(id uint64, out *fuse.OpenOut) fuse.Status {
	handle, cached, err := f.disk.open(id)
	out.Fh, out.OpenFlags = handle, fuse.FOPEN_DIRECT_IO
	if cached {
		out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	}
	return fuse.Status(err)
}

func (f *files) Release(_ <-chan struct{}, in *fuse.ReleaseIn) { f.disk.close(in.NodeId, in.Fh) }

func (f *files) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	n, err := f.disk.read(in.NodeId, int64(in.Offset), buf)
	return fuse.ReadResultData(buf[:n]), fuse.Status(err)
}

func (f *files) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	err := f.disk.write(in.NodeId, int64(in.Offset), data)
	if err != 0 {
		return 0, fuse.Status(err)
	}
	return uint32(len(data)), fuse.OK
}

func (f *files) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	return fuse.Status(f.disk.sync(in.NodeId, in.Fh))
}

func (f *files) FsyncDir(<-chan struct{}, *fuse.FsyncIn) fuse.Status {
	return fuse.Status(f.disk.syncDirectory())
}

func (f *files) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	size, err := f.disk.link(in.Oldnodeid, name)
	setEntry(out, in.Oldnodeid, size)
	return fuse.Status(err)
}

func (f *files) Unlink(_ <-chan struct{}, _ *fuse.InHeader, name string) fuse.Status {
	return fuse.Status(f.disk.unlink(name))
}

func (f *files) Rename(_ <-chan struct{}, in *fuse.RenameIn, from, to string) fuse.Status {
	if in.Flags != 0 {
		return fuse.EINVAL
	}
	return fuse.Status(f.disk.move(from, to))
}

func (f *files) OpenDir(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status { return fuse.OK }

func (f *files) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	names, err := f.disk.list()
	for _, name := range names[min(int(in.Offset), len(names)):] {
		if !out.AddDirEntry(fuse.DirEntry{Name: name, Mode: syscall.S_IFREG}) {
			break
		}
	}
	return fuse.Status(err)
}

func (f *files) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	*out = fuse.StatfsOut{Bsize: 4096, NameLen: 255}
	return fuse.OK
}
