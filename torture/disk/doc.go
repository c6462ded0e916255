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
// the new name, but can leave the old name too. After a failed sync of a file the cache is clean and the disk has not
// got the data, as on Linux: syncing again helps nothing.
//
// There is one directory, no permissions, no times.
package disk
