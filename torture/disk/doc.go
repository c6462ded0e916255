// Package disk is a disk that fails: a file system in memory whose power can be cut, which can be full or broken, and
// which counts what is written to it. The tests of the package run a store on it; README.md tells how.
//
// A [Disk] keeps what programs write in a cache until they sync it, and after a cut has lost what was not: all of it, or
// a random part. [Disk.Mount], on Linux, makes it a directory that programs can use.
//
// # What it is faithful to, and what not
//
// Written data is in the cache until fsync or fdatasync of the file, and names are until fsync of the directory; no
// sync of one file is a sync of anything else. What is not synced at a cut is lost or kept, each write for itself, whole
// or in sectors of 512 bytes, whatever the order in which it was written; a sector is never half written. A file that was
// lengthened can keep its length and lose its data, which then are zeros. A rename leaves the old or the new file under
// the new name, but can leave the old name too.
//
// When a sync of a file fails, the disk has got none, all or a random part of what it was to write, and the kernel takes
// the rest for written: another sync helps nothing. What is lost is gone from the file at once, as if it had left the
// system's cache already; or after [Disk.Cache] programs go on seeing it, as they do on ext4 and XFS, unless the file
// changes its length, for then FUSE drops what it has cached of it. Each open file is told of the failure once.
//
// A sector that cannot be read, after [Disk.Spoil], is EIO to who reads it and a fault to who has it mapped. Writing it
// does not mend it.
//
// There is one directory, no permissions, no times.
package disk
