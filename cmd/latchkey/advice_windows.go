package main

import "syscall"

// ownAdvice has the numbers of Windows, which are none of the errors that package syscall names
// alike on every system.
var ownAdvice = []advice{
	{"make the directory first", []error{errPathNotFound}},
	{"make room on the disk", []error{errHandleDiskFull, errDiskFull}},
	{"make room within the quota", []error{errDiskQuota}},
	{"the disk or the file is protected against writing; remove the protection, or name a file on another disk", []error{errWriteProtect}},
	{"the disk fails; copy what can still be read, and see latchkey help salvage", []error{errCRC, errIODevice, errDeviceHardware}},
	{"the file system is damaged; check it (chkdsk)", []error{errFileCorrupt, errDiskCorrupt}},
	{"another program has the file open, perhaps a virus scanner or a backup; close it, and repeat the command", []error{errSharing, errLock, errMappedFile}},
	{"the disk is not ready, or the network share is gone; connect it, and repeat the command", []error{errNotReady, errBadNetPath, errNetNameGone, errNetNameUnknown, errNetBusy}},
	{"let the process have more memory, or end other programs", []error{errNotEnoughMemory, errOutOfMemory, errCommitLimit}},
	{"end programs that have many files open", []error{errTooManyOpenFiles}},
	{"the file system lacks a call that a store needs; move the store to a local disk", []error{errInvalidFunction, errNotSupported, errInvalidParameter}},
	{"choose a name that Windows accepts", []error{errInvalidName}},
	{"choose a shorter name or a shorter path", []error{errNameTooLong}},
	{"a part of the path is a file; correct the path", []error{errBadDirectory}},
	{"the virus scanner refuses the file; make an exception for it", []error{errVirus}},
	{"the file is only in the cloud; have its provider keep it on this machine", []error{errCloudNotRunning, errCloudOffline}},
	{"check who may read and write the file and its directory, and whether another program has the file open", []error{errAccessDenied}},
}

// The numbers are those of winerror.h.
const (
	errInvalidFunction  = syscall.Errno(1)
	errPathNotFound     = syscall.Errno(3)
	errTooManyOpenFiles = syscall.Errno(4)
	errAccessDenied     = syscall.Errno(5)
	errNotEnoughMemory  = syscall.Errno(8)
	errOutOfMemory      = syscall.Errno(14)
	errWriteProtect     = syscall.Errno(19)
	errNotReady         = syscall.Errno(21)
	errCRC              = syscall.Errno(23)
	errSharing          = syscall.Errno(32)
	errLock             = syscall.Errno(33)
	errHandleDiskFull   = syscall.Errno(39)
	errNotSupported     = syscall.Errno(50)
	errBadNetPath       = syscall.Errno(53)
	errNetBusy          = syscall.Errno(54)
	errNetNameGone      = syscall.Errno(64)
	errNetNameUnknown   = syscall.Errno(67)
	errInvalidParameter = syscall.Errno(87)
	errDiskFull         = syscall.Errno(112)
	errInvalidName      = syscall.Errno(123)
	errNameTooLong      = syscall.Errno(206)
	errVirus            = syscall.Errno(225)
	errBadDirectory     = syscall.Errno(267)
	errCloudNotRunning  = syscall.Errno(362)
	errDeviceHardware   = syscall.Errno(483)
	errIODevice         = syscall.Errno(1117)
	errMappedFile       = syscall.Errno(1224)
	errDiskQuota        = syscall.Errno(1295)
	errFileCorrupt      = syscall.Errno(1392)
	errDiskCorrupt      = syscall.Errno(1393)
	errCommitLimit      = syscall.Errno(1455)
	errCloudOffline     = syscall.Errno(404)
)
