package main

import "syscall"

// ownAdvice has the errors that only Linux has.
var ownAdvice = []advice{
	{"the file system is damaged; unmount it and check it (fsck)", []error{syscall.EUCLEAN, syscall.EBADMSG}},
	{"the disk fails; copy what can still be read, and see latchkey help salvage", []error{syscall.EREMOTEIO}},
	{"put the medium back, mount it, and repeat the command", []error{syscall.ENOMEDIUM}},
	{"the directory is encrypted; unlock it first", []error{syscall.ENOKEY}},
}
