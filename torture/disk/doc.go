// Package disk is a disk that fails: a file system in memory. Its power can be cut, it can be full
// or broken, and it counts what is written to it. The tests of this package run a store on it.
// README.md says how to run them.
//
// A [Disk] keeps written data in a cache until the program syncs it. A power cut loses data that
// was not synced: all of it, or a random part. On Linux, [Disk.Mount] makes the disk a directory
// that programs can use.
//
// # How faithful the disk is
//
// Written data stays in the cache until fsync or fdatasync of the file, and names stay there until
// fsync of the directory. A sync of one file syncs nothing else. A cut loses or keeps each unsynced
// write independently, whatever the order of the writes. A write is kept or lost as a whole or in
// sectors of 512 bytes. A sector is never half written. A lengthened file can keep its new length
// and lose its new data, which then reads as zeros. A rename leaves the old or the new file under
// the new name, but may leave the old name too.
//
// When a sync of a file fails, the disk has received none, all or a random part of the data. The
// kernel takes the rest for written, so another sync does not help. The lost data is gone from the
// file at once, as if the system's cache had already dropped it. After [Disk.Cache], programs still
// see the lost data, as on ext4 and XFS. They see it until the file changes its length, because
// FUSE then drops its cache of the file. Each open file is told of the failure once.
//
// After [Disk.Spoil], a sector cannot be read. Reading it fails with EIO, and access to its map is
// a fault. Writing the sector does not mend it.
//
// The disk has one directory, no permissions and no times.
package disk
