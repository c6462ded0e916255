package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/latchkeydb/latchkey"
)

// The exit statuses. Scripts depend on them; the manual, in doc.go, lists them.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitConflict    = 4
	exitRefused     = 5
	exitLocked      = 6
	exitDamaged     = 7
	exitNewerFormat = 8
	exitInterrupted = 130 // what a shell tells of a command that was interrupted
)

// outcomes says, for every error that has one, its exit status, and what to do about it. The first that fits counts.
var outcomes = []struct {
	err    error
	status int
	advice string
}{
	{errNoStore, exitNotFound, "make one with latchkey init, or correct --store"},
	{errNoFile, exitNotFound, "correct its name"},
	{errFileExists, exitConflict, "use it, or give --store another name"},
	{errAddress, exitFailed, "give --addr another; port 0 is any that is free"},
	{errNotConfirmed, exitFailed, "answer y, or give --yes"},
	{errRepaired, exitInterrupted, "latchkey check shows what is left"},
	{context.Canceled, exitInterrupted, "it was interrupted, and nothing was changed"},

	{latchkey.ErrUserNotFound, exitNotFound, "see latchkey user list"},
	{latchkey.ErrKeyNotFound, exitNotFound, "see latchkey key list"},
	{latchkey.ErrKeyNameTaken, exitConflict, "choose another name, or rename or delete that key"},
	{latchkey.ErrIdentityTaken, exitConflict, "see latchkey user show"},
	{latchkey.ErrTooManyKeys, exitConflict, "delete a key, or raise --max-keys"},
	{latchkey.ErrTooManyIdentities, exitConflict, "add another user"},
	{latchkey.ErrAnonymousUser, exitConflict, "give the user an identity with latchkey user link"},

	{latchkey.ErrInvalidToken, exitRefused, "see that it was copied whole, and belongs to this store"},
	{latchkey.ErrKeyDisabled, exitRefused, "latchkey key enable restores it"},
	{latchkey.ErrKeyExpired, exitRefused, "create another key"},
	{latchkey.ErrUserDisabled, exitRefused, "latchkey user enable restores it"},

	{latchkey.ErrInvalidName, exitUsage, "choose another name"},
	{latchkey.ErrInvalidIdentity, exitUsage, "an identity is an e-mail address or PROVIDER:SUBJECT, as latchkey help says"},
	{latchkey.ErrInvalidExpiry, exitUsage, "give --expires a time that is to come"},
	{latchkey.ErrInvalidOptions, exitUsage, "see latchkey help"},

	{latchkey.ErrLocked, exitLocked, "close the program that has it open, or wait longer with --wait"},
	{latchkey.ErrFileGone, exitConflict, "latchkey restore puts the copy in its place; remove the copy to start a new store"},
	{latchkey.ErrNewerFormat, exitNewerFormat, "use a newer latchkey"},
	{latchkey.ErrCorrupt, exitDamaged, "see that the file is right; if it is, latchkey check shows the damage, and latchkey restore or salvage is the way out"},
	{latchkey.ErrReadOnly, exitDamaged, "its making was interrupted: delete the file, and make it again with latchkey init"},
	{latchkey.ErrCommitUnknown, exitFailed, "look whether the change is there before you repeat it"},
	{latchkey.ErrSyncFailed, exitFailed, "see to the disk before you repeat it"},

	{errOutput, exitFailed, "the output is not whole, and what was changed stays changed"},
	{syscall.ENOSPC, exitFailed, "make room on the disk"},
	{syscall.EDQUOT, exitFailed, "make room within the quota"},
	{syscall.EROFS, exitFailed, "have the file system mounted for writing, or name a file on another"},
	{syscall.EIO, exitFailed, "the disk fails: copy what can be read of it, and see latchkey salvage"},
	{fs.ErrNotExist, exitNotFound, "make the directory first"},
	{fs.ErrPermission, exitFailed, "see who may read and write the file and its directory"},
}

var (
	// errRepaired: what could be repaired was, before it was interrupted.
	errRepaired = errors.New("interrupted after the repair")
	// errOutput: the command has done its work, but for showing it. It is found by where the error comes from.
	errOutput = errors.New("output failed")
)

// isOutput tells whether an error comes of writing to standard output.
func isOutput(err error) bool {
	var e *fs.PathError
	return errors.As(err, &e) && e.Op == "write" && e.Path == os.Stdout.Name()
}

// usageError is a mistake on the command line, found before anything was done.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// report tells of an error, in one line that says what to do, and returns the exit status.
func report(w io.Writer, cmd *cobra.Command, err error) int {
	if err == nil {
		return exitDone
	}
	status, advice := outcome(cmd, err)
	message := strings.TrimPrefix(err.Error(), "latchkey: ")
	if advice != "" {
		message += "; " + advice
	}
	fmt.Fprintf(w, "latchkey: %s\n", redact(plain(strings.Join(strings.Fields(message), " "))))
	return status
}

func outcome(cmd *cobra.Command, err error) (status int, advice string) {
	if errors.As(err, &usageError{}) {
		return exitUsage, "see " + cmd.CommandPath() + " --help"
	}
	for _, o := range outcomes {
		if errors.Is(err, o.err) || o.err == errOutput && isOutput(err) {
			return o.status, o.advice
		}
	}
	return exitFailed, ""
}

// tokenForm is the form that every token has, whatever its store's prefix.
var tokenForm = regexp.MustCompile(`[0-9A-Za-z]{1,16}_[0-9A-Za-z]{77}`)

// redact takes tokens out of a message. An argument that was a token by mistake must not get into a log.
func redact(message string) string { return tokenForm.ReplaceAllString(message, "[token]") }
