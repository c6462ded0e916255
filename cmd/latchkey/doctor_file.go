package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/durable"
)

// This file looks at the file of a store and its directory, for doctor.

// storeFile is the file that a path leads to.
type storeFile struct {
	path string // without links
	info fs.FileInfo
}

// lookAtFile looks at what is at path. It returns nil if there is no file that could be a store.
func lookAtFile(path string) (*storeFile, []finding) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, []finding{missing(path)}
	case err != nil:
		return nil, []finding{problem("file", err)}
	case !info.Mode().IsRegular():
		return nil, []finding{problem("file", fmt.Errorf("%w: it is %s", latchkey.ErrNotStore, durable.Kind(info.Mode())))}
	}
	file := &storeFile{path, info}
	if resolved, err := filepath.EvalSymlinks(path); err == nil {
		file.path = resolved
	}
	text := fmt.Sprintf("%d bytes", info.Size())
	if link, err := os.Lstat(path); err == nil && link.Mode()&fs.ModeSymlink != 0 {
		text += ", by a link to " + file.path
	}
	return file, append([]finding{good("file", "%s", text)}, lookAtPermissions(file)...)
}

// missing returns the finding for a path at which there is nothing.
func missing(path string) finding {
	f := problem("file", errNoStore)
	if link, err := os.Readlink(path); err == nil {
		f.Text = fmt.Sprintf("the link leads to nothing: %s", link)
		f.Advice = "latchkey init and latchkey restore make the store where the link leads"
	}
	if dir := filepath.Dir(durable.Resolve(path)); !isDirectory(dir) {
		f.Text = fmt.Sprintf("there is no directory %s", dir)
		f.Advice = "correct --store, mount the file system, or make the directory"
	}
	return f
}

func isDirectory(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// lookAtPermissions looks at the permissions of the file, and at its owner.
func lookAtPermissions(file *storeFile) []finding {
	owner, ok := ownerOf(file.info)
	if !ok {
		return []finding{skipped("permissions", "this system keeps them in access lists, which are not looked at")}
	}
	mode := file.info.Mode().Perm()
	text := fmt.Sprintf("%v, owner %s, group %s", mode, owner.user, owner.group)
	const secrets = "the file has the verifiers of all keys and the secrets of the domain"
	switch {
	case mode&0o002 != 0:
		return []finding{warning("permissions", text+": everybody can write to it", "chmod 600 "+file.path)}
	case mode&0o004 != 0:
		return []finding{warning("permissions", text+": everybody can read it", "chmod 600 "+file.path+", because "+secrets)}
	case canRead(file.path) != nil:
		text += ": this user can neither read it nor write to it"
	case canWrite(file.path) != nil:
		text += ": this user can only read it"
	case mode&0o077 != 0:
		text += ": the group can read it"
	}
	dir, err := os.Stat(filepath.Dir(file.path))
	if err == nil {
		if dirOwner, ok := ownerOf(dir); ok && owner.uid == 0 && dirOwner.uid != 0 {
			return []finding{warning("permissions", text+fmt.Sprintf(", but the directory's owner is %s", dirOwner.user),
				fmt.Sprintf("if the program that uses the store runs as %s: chown %[1]s %s", dirOwner.user, file.path))}
		}
	}
	return []finding{good("permissions", "%s", text)}
}

// lookAtDirectory looks at the directory of the file, in which compactions and safety copies make
// files.
func lookAtDirectory(file *storeFile) []finding {
	dir := filepath.Dir(file.path)
	info, err := os.Stat(dir)
	if err != nil {
		return []finding{problem("directory", err)}
	}
	if system := sharedFileSystem(dir); system != "" {
		return []finding{warning("directory", dir+" is on "+system, "move the store to a local disk, because locks and shared maps do not work on every "+system)}
	}
	owner, ok := ownerOf(info)
	switch mode := info.Mode(); {
	case !ok:
		return []finding{good("directory", "%s", dir)}
	case mode&0o002 != 0 && mode&fs.ModeSticky == 0:
		return []finding{warning("directory", fmt.Sprintf("%s, %v: everybody can replace the file", dir, mode), "chmod o-w "+dir)}
	case canWrite(dir) != nil && isMe(file.info):
		return []finding{warning("directory", fmt.Sprintf("%s, %v, owner %s: the owner of the file cannot make files in it", dir, mode, owner.user),
			"let the owner of the file write to the directory; without that there are no safety copies and no compactions")}
	}
	return []finding{good("directory", "%s, %v, owner %s", dir, info.Mode(), owner.user)}
}

// lookAtSpace looks at the free space of the file's disk.
func lookAtSpace(file *storeFile) []finding {
	free, err := freeSpace(filepath.Dir(file.path))
	if errors.Is(err, errors.ErrUnsupported) {
		return []finding{skipped("free space", "this system does not tell")}
	}
	if err != nil {
		return []finding{problem("free space", err)}
	}
	return []finding{judgeSpace(free, uint64(file.info.Size()))}
}

// leastSpace is the free space below which changes soon fail. A store grows by 128 KiB at a time,
// and a large transaction by more.
const leastSpace = 1 << 20

// judgeSpace says whether the free space is enough for a file of a size.
func judgeSpace(free, size uint64) finding {
	text := fmt.Sprintf("%d MiB", free>>20)
	switch {
	case free < leastSpace:
		return finding{Name: "free space", State: stateProblem, Text: text, Advice: "make room on the disk; changes fail without it", status: exitFailed}
	case free < size:
		return warning("free space", text, "make room on the disk, as much as the file is long, for compactions and safety copies")
	}
	return good("free space", "%s", text)
}

// lookAtLeftovers looks for files that a crash or a recovery left beside the file.
func lookAtLeftovers(file *storeFile) (findings []finding) {
	dir, base := filepath.Split(file.path)
	entries, err := os.ReadDir(filepath.Dir(file.path))
	if err != nil {
		return nil
	}
	var left []string
	for _, e := range entries {
		switch suffix, ok := strings.CutPrefix(e.Name(), base); {
		case !ok:
		case suffix == ".damaged":
			findings = append(findings, warning("recovery", e.Name()+" is there: the store was recovered from its safety copy, and changes after the copy are missing",
				"disable and delete again what was revoked in that time; latchkey salvage "+dir+e.Name()+" --out FILE may show it; then delete the file"))
		case strings.HasPrefix(suffix, ".new-"), suffix == ".new", suffix == ".compact", suffix == ".safety.new":
			left = append(left, e.Name())
		}
	}
	if len(left) > 0 && !slices.ContainsFunc(durable.Holders(file.path), func(h durable.Holder) bool { return h.Writing }) {
		findings = append(findings, good("leftovers", "%s: a crash left it, and the next opening for writing removes it", strings.Join(left, ", ")))
	}
	return findings
}
