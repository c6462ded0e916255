package main

import "golang.org/x/sys/unix"

// sharedFileSystem returns the name of the file system of dir if other machines use it, too, or "".
func sharedFileSystem(dir string) string {
	var s unix.Statfs_t
	if unix.Statfs(dir, &s) != nil {
		return ""
	}
	return map[uint32]string{
		unix.NFS_SUPER_MAGIC:  "NFS",
		unix.SMB_SUPER_MAGIC:  "SMB",
		unix.SMB2_SUPER_MAGIC: "SMB",
		unix.CIFS_SUPER_MAGIC: "CIFS",
		unix.V9FS_MAGIC:       "9p",
		unix.AFS_SUPER_MAGIC:  "AFS",
		unix.CEPH_SUPER_MAGIC: "Ceph",
		unix.FUSE_SUPER_MAGIC: "FUSE",
		0x786f4256:            "a shared folder of VirtualBox", // VBSF_SUPER_MAGIC of its driver
	}[uint32(s.Type)]
}
