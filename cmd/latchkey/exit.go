package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
	"github.com/latchkeydb/latchkey/audit"
	"github.com/latchkeydb/latchkey/etcd"
	"github.com/latchkeydb/latchkey/internal/hide"
	"github.com/latchkeydb/latchkey/keyimport"
	"github.com/latchkeydb/latchkey/migrate"
	"github.com/latchkeydb/latchkey/replica"
)

// The exit statuses, on which scripts depend. The manual in doc.go lists them.
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
	exitWarned      = 9
	exitLeaked      = 10
	exitInterrupted = 130 // the status that a shell gives to an interrupted command
)

// outcomes lists the errors of the command and of the library, with their exit status and with
// advice on what to do. The first error that fits counts. If none fits, advice.go may have advice.
var outcomes = []struct {
	err    error
	status int
	advice string
}{
	{errNoStore, exitNotFound, "make one with latchkey init, or correct --store"},
	{errNoFile, exitNotFound, "correct its name"},
	{errStoreExists, exitConflict, "choose another place"},
	{etcd.ErrURL, exitUsage, "see latchkey help"},
	{etcd.ErrFaultyServer, exitFailed, "upgrade that server of etcd"},
	{errFileExists, exitConflict, "choose another name, or move that file away"},
	{errDirectory, exitConflict, "name a file"},
	{errLink, exitConflict, "choose another name, or remove the link"},
	{errAddress, exitFailed, "give --addr another address; port 0 is any free port"},
	{errAdminAddress, exitFailed, "give --admin another address; port 0 is any free port"},
	{errHubAddress, exitFailed, "give --addr another address; port 0 is any free port"},
	{errMetricsAddress, exitFailed, "give --metrics another address; port 0 is any free port"},
	{errNotConfirmed, exitFailed, "answer y, or give --yes"},
	{errPruned, exitInterrupted, "repeat the command to delete the others"},
	{errMigrating, exitInterrupted, "repeat the command to go on"},
	{errEdgeStays, exitConflict, "make another edge with latchkey join, or move the file and the one beside it that ends in .edge together"},
	{errEdgeThere, exitConflict, "choose another place"},
	{migrate.ErrNotEmpty, exitConflict, "choose another place"},
	{migrate.ErrChanged, exitFailed, "stop the programs that write to it, and repeat the command to go on"},
	{migrate.ErrTakenOver, exitConflict, "wait for the other command"},
	{migrate.ErrDiffers, exitDamaged, "look for a fault of the disk or of the server, and repeat the command"},
	{latchkey.ErrUnfinished, exitDamaged, "repeat latchkey migrate, which goes on"},
	{admin.ErrKeysLeft, exitConflict, "rotate the keys that latchkey key list --tag-secret-before shows, or give --yes"},
	{errState, exitConflict, "name another file with --state, or remove that one"},
	{errDiffers, exitWarned, "leave out --dry-run to make the changes"},
	{errRepaired, exitInterrupted, "latchkey check shows the damage that is left"},
	{errLeaked, exitLeaked, "a token that others can read is no secret; disable its key, or rotate the key without overlap"},
	{errUnread, exitFailed, "the output says why"},
	{admin.ErrInProgress, exitFailed, "repeat the command when it has ended"},
	{admin.ErrWrongLines, exitUsage, "correct the lines that the output names, or leave a field out with --ignore"},
	{latchkey.ErrCommitUnknown, exitFailed, "check whether the change was made before you repeat it"},
	{context.Canceled, exitInterrupted, "nothing was changed"},

	{admin.ErrNotServed, exitNotFound, "start latchkey serve --admin or latchkey hub --admin with this store"},
	{admin.ErrNoPage, exitNotFound, "start latchkey serve --admin or latchkey hub --admin with this store"},
	{admin.ErrPageURL, exitUsage, "give another --admin-url"},

	{admin.ErrNoHub, exitNotFound, "the command is for the store of a hub; latchkey replica show tells how an edge is"},
	{admin.ErrNoEdge, exitNotFound, "make an edge with latchkey join"},
	{admin.ErrPolicy, exitUsage, "see latchkey help replica invite"},
	{replica.ErrEdgeNotFound, exitNotFound, "see latchkey replica list"},
	{replica.ErrClaimNotFound, exitNotFound, "see latchkey replica claims"},
	{replica.ErrInvitation, exitRefused, "make another one with latchkey replica invite at the hub"},
	{replica.ErrRevoked, exitRefused, "make an invitation with latchkey replica invite at the hub, and join again with the same store"},
	{replica.ErrUnknownEdge, exitRefused, "make an invitation with latchkey replica invite at the hub, and join again with the same store"},
	{replica.ErrRefused, exitRefused, "latchkey replica show at the hub says why"},
	{replica.ErrJoined, exitConflict, "synchronize it with latchkey sync; for an edge that the hub has forgotten, move FILE.edge away first"},
	{replica.ErrNotEdge, exitConflict, "make an edge with latchkey join, from a new invitation"},
	{replica.ErrFollowing, exitConflict, "there is nothing to do; latchkey replica show tells how the edge is"},
	{replica.ErrWrongHub, exitFailed, "check the URL, and what is between here and the hub; if the hub has lost its key, join again with a new invitation"},
	{replica.ErrHub, exitFailed, "see the log of the hub"},
	{admin.ErrUnreachable, exitFailed, "check that the hub runs, and the network; the edge goes on with what it has"},
	{latchkey.ErrNotPermitted, exitRefused, "make the change at the hub, or give the edge another policy there with latchkey replica policy"},
	{latchkey.ErrStale, exitFailed, "see that the edge reaches its hub: latchkey replica show says what failed"},
	{latchkey.ErrIdentityConflict, exitConflict, "name the user by an ID, and unlink the identity at the others"},

	{latchkey.ErrUserNotFound, exitNotFound, "see latchkey user list"},
	{latchkey.ErrKeyNotFound, exitNotFound, "see latchkey key list"},
	{latchkey.ErrKeyNameTaken, exitConflict, "choose another name, or rename or delete that key"},
	{latchkey.ErrIdentityTaken, exitConflict, "see latchkey user show"},
	{latchkey.ErrIdentityNotFound, exitNotFound, "see latchkey user show"},
	{latchkey.ErrLastIdentity, exitConflict, "link another identity first, or delete the user"},
	{latchkey.ErrUserHasKeys, exitConflict, "link another identity first, or delete the keys"},
	{latchkey.ErrTooManyKeys, exitConflict, "delete a key, or raise --max-keys"},
	{latchkey.ErrTooManyIdentities, exitConflict, "add another user"},
	{latchkey.ErrAnonymousUser, exitConflict, "give the user an identity with latchkey user link"},

	{errUTF16, exitRefused, "write it as UTF-8; in PowerShell, give it with Get-Content FILE | latchkey login"},
	{latchkey.ErrInvalidToken, exitRefused, "check that it was copied whole and belongs to this store"},
	{latchkey.ErrKeyDisabled, exitRefused, "latchkey key enable restores it"},
	{latchkey.ErrKeyExpired, exitRefused, "create another key, or set a later date with latchkey key set --expires"},
	{latchkey.ErrUserDisabled, exitRefused, "latchkey user enable restores it"},
	{latchkey.ErrGroupDisabled, exitRefused, "latchkey group enable restores it"},
	{latchkey.ErrNetworkNotAllowed, exitRefused, "--from gives the caller's address, and latchkey key set --networks changes the networks"},

	{latchkey.ErrKeyDeleted, exitConflict, "mint another key; a deleted key never comes back"},
	{keyimport.ErrInvalidScheme, exitUsage, "see latchkey help import"},
	{latchkey.ErrInvalidMintedKey, exitConflict, "see latchkey help import or latchkey help mint"},
	{latchkey.ErrInvalidName, exitUsage, "choose another name"},
	{latchkey.ErrInvalidIdentity, exitUsage, "an identity is an e-mail address or PROVIDER:SUBJECT; see latchkey help"},
	{latchkey.ErrInvalidRotation, exitConflict, "see latchkey key show"},
	{latchkey.ErrInvalidTagSecret, exitConflict, "see latchkey domain secret list"},
	{latchkey.ErrInvalidExpiry, exitUsage, "give a time in the future"},
	{latchkey.ErrInvalidScope, exitUsage, "see latchkey help key create"},
	{latchkey.ErrInvalidNetwork, exitUsage, "see latchkey help key create"},
	{latchkey.ErrInvalidMetadata, exitUsage, "see latchkey help key create"},
	{latchkey.ErrInvalidGroup, exitUsage, "choose another group"},
	{latchkey.ErrInvalidOptions, exitUsage, "see latchkey help"},

	{admin.ErrTrail, exitConflict, "latchkey audit show shows it, and begin --anew removes its entries"},
	{audit.ErrBroken, exitDamaged, trailAdvice},
	{audit.ErrPruned, exitConflict, "give a later HEAD"},
	{audit.ErrChain, exitUsage, "latchkey audit verify prints the names of the chains"},

	{errOwnOptions, exitLocked, "leave the flag out, or close the program"},
	{admin.ErrTokenUnknown, exitNotFound, "check that it was copied whole and belongs to this store"},
	{admin.ErrUntrusted, exitLocked, "run the command as the user of the program that has the store open"},
	{admin.ErrNoAnswer, exitFailed, "look whether that program still runs, and repeat the command"},
	{latchkey.ErrLocked, exitLocked, "close the program that has it open, have it call admin.Listen, or wait longer with --wait"},
	{latchkey.ErrFileChanged, exitFailed, "another program has deleted, replaced or changed the file; latchkey doctor says what to do"},
	{latchkey.ErrFileGone, exitConflict, "latchkey restore puts the copy in its place; to start a new store, remove the copy"},
	{latchkey.ErrNewerFormat, exitNewerFormat, "use a newer latchkey"},
	{latchkey.ErrCorrupt, exitDamaged, "latchkey doctor shows the damage and the ways out"},
	{latchkey.ErrNotStore, exitDamaged, "check that it is the right file"},
	{latchkey.ErrReadOnly, exitDamaged, "latchkey init was interrupted; delete the file, and run latchkey init again"},
	{latchkey.ErrInterrupted, exitFailed, "repeat the command"},
	{latchkey.ErrClockBehind, exitFailed, "set the clock before you repeat the command"},
	{latchkey.ErrUnavailable, exitFailed, "see that this machine reaches the servers of the store, and that most of them run"},
	{latchkey.ErrNoSpace, exitFailed, "delete keys or users that are not needed, or enlarge the quota of the servers"},
	{latchkey.ErrSyncFailed, exitFailed, "check the disk before you repeat the command"},

	{errOutput, exitFailed, "the output is incomplete; what the command changed stays changed"},
}

// damageAdvice has the advice of the commands that are themselves the advice for a damaged store.
var damageAdvice = map[string]string{
	"check":   "latchkey restore makes a store from a backup, and latchkey salvage makes one from what can be read",
	"restore": "use another backup; latchkey salvage makes a store from what can be read of this one",
	"salvage": "use a backup; latchkey restore makes a store from it",
}

var (
	// errRepaired means that check --repair was interrupted after it had repaired the store.
	errRepaired = errors.New("interrupted after the repair")
	// errOutput stands in outcomes for every error of writing to standard output. The command has
	// then done its work, and only the output is missing. No error wraps errOutput; see isOutput.
	errOutput = errors.New("output failed")
)

// usageError is a mistake on the command line that was found before anything was done.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// report writes err to standard error and returns the exit status. It writes one line, which says
// what to do. With --json the line is a JSON document.
func (c *cli) report(cmd *cobra.Command, err error) int {
	if err == nil {
		return exitDone
	}
	status, advice := outcome(cmd, err)
	message := line(text(err))
	if c.json {
		_ = writeJSON(c.stderr, struct {
			Error  string `json:"error"`
			Advice string `json:"advice,omitempty"`
			Status int    `json:"status"`
		}{message, advice, status})
		return status
	}
	if advice != "" {
		message += "; " + advice
	}
	fmt.Fprintf(c.stderr, "latchkey: %s\n", message)
	return status
}

// text returns the text of err without the name of the library, and without the ways out of the
// library, which are for Go programs.
func text(err error) string {
	message := strings.TrimPrefix(err.Error(), "latchkey: ")
	if errors.Is(err, context.Canceled) {
		message = strings.ReplaceAll(message, context.Canceled.Error(), "interrupted")
		if strings.HasPrefix(message, "interrupted") { // as errPruned does, which tells more
			message = strings.TrimSuffix(message, ": interrupted")
		}
	}
	var way interface {
		error
		WayOut() string
	}
	if errors.As(err, &way) {
		message = strings.ReplaceAll(message, " ("+way.WayOut()+")", "")
	}
	return message
}

// line returns message as one line that a terminal shows as it is, without tokens, and with long
// names shortened.
func line(message string) string {
	words := strings.Fields(hide.Tokens(message))
	for i, word := range words {
		words[i] = shorten(plain(word))
	}
	return strings.Join(words, " ")
}

// shorten replaces the middle of a long word, such as a name of 300 letters, by an ellipsis.
func shorten(word string) string {
	const most, kept = 120, 50 // most paths are shorter than 120 characters
	runes := []rune(word)
	if len(runes) <= most {
		return word
	}
	return string(runes[:kept]) + "…" + string(runes[len(runes)-kept:])
}

// outcome returns the exit status of err, and the advice if there is one.
func outcome(cmd *cobra.Command, err error) (status int, advice string) {
	if errors.As(err, &usageError{}) {
		return exitUsage, "see " + strings.TrimSuffix(cmd.CommandPath(), " help") + " --help"
	}
	var sick *sickError
	if errors.As(err, &sick) {
		return sick.status, "see what to do above"
	}
	if advice := damageAdvice[cmd.Name()]; advice != "" && errors.Is(err, latchkey.ErrCorrupt) {
		return exitDamaged, advice
	}
	if errors.Is(err, errNeedsFile) {
		return exitUsage, etcdAdvice[cmd.Name()]
	}
	for _, o := range outcomes {
		if errors.Is(err, o.err) || o.err == errOutput && isOutput(err) {
			return o.status, o.advice
		}
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return exitNotFound, adviceFor(err)
	}
	return exitFailed, adviceFor(err)
}

// asksForJSON reports whether args have the flag --json. It is for a command line that is wrong,
// because its flags may not have been read.
func asksForJSON(args []string) bool {
	if end := slices.Index(args, "--"); end >= 0 {
		args = args[:end]
	}
	return slices.Contains(args, "--json") || slices.Contains(args, "--json=true")
}
