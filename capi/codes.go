package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"syscall"

	"github.com/latchkeydb/latchkey"
)

// Errors of calls that never reach a store.
var (
	errArgument = errors.New("invalid argument")
	errHandle   = errors.New("there is no such store: lk_open never returned it")
	errABI      = errors.New("the header and the library do not fit")
	errForked   = errors.New("the process is a child of fork, in which the library does not work: call exec first")
	errNoMemory = errors.New("no memory for the result; a change may have been made")
	errInternal = errors.New("a fault of the library; please report it")
	errOther    = errors.New("an error without a code of its own")
	errSystem   = errors.New("an error of the operating system")
	errNoScope  = errors.New("the key does not permit this")
)

// A coded is a code of latchkey.h, and the error that it stands for.
type coded struct {
	code int32
	name string // in latchkey.h
	err  error
}

// codes are all codes but LK_OK. An error that is several of these errors gets the code that comes
// first, so a general error comes after the special ones.
var codes = []coded{
	{1, "LK_INVALID_ARGUMENT", errArgument},
	{2, "LK_INVALID_HANDLE", errHandle},
	{3, "LK_CLOSED", latchkey.ErrClosed},
	{4, "LK_ABI", errABI},
	{5, "LK_FORKED", errForked},
	{6, "LK_NO_MEMORY", errNoMemory},
	{7, "LK_INTERNAL", errInternal},
	{107, "LK_NO_SCOPE", errNoScope},

	{100, "LK_INVALID_TOKEN", latchkey.ErrInvalidToken},
	{101, "LK_KEY_DISABLED", latchkey.ErrKeyDisabled},
	{102, "LK_KEY_EXPIRED", latchkey.ErrKeyExpired},
	{103, "LK_USER_DISABLED", latchkey.ErrUserDisabled},
	{104, "LK_GROUP_DISABLED", latchkey.ErrGroupDisabled},
	{105, "LK_NETWORK_NOT_ALLOWED", latchkey.ErrNetworkNotAllowed},
	{106, "LK_BUSY", latchkey.ErrBusy},

	{200, "LK_USER_NOT_FOUND", latchkey.ErrUserNotFound},
	{201, "LK_KEY_NOT_FOUND", latchkey.ErrKeyNotFound},
	{202, "LK_KEY_NAME_TAKEN", latchkey.ErrKeyNameTaken},
	{203, "LK_IDENTITY_TAKEN", latchkey.ErrIdentityTaken},
	{204, "LK_IDENTITY_CONFLICT", latchkey.ErrIdentityConflict},
	{205, "LK_IDENTITY_NOT_FOUND", latchkey.ErrIdentityNotFound},
	{206, "LK_LAST_IDENTITY", latchkey.ErrLastIdentity},
	{207, "LK_USER_HAS_KEYS", latchkey.ErrUserHasKeys},
	{208, "LK_TOO_MANY_KEYS", latchkey.ErrTooManyKeys},
	{209, "LK_TOO_MANY_IDENTITIES", latchkey.ErrTooManyIdentities},
	{210, "LK_ANONYMOUS_USER", latchkey.ErrAnonymousUser},
	{211, "LK_INVALID_NAME", latchkey.ErrInvalidName},
	{212, "LK_INVALID_SCOPE", latchkey.ErrInvalidScope},
	{213, "LK_INVALID_NETWORK", latchkey.ErrInvalidNetwork},
	{214, "LK_INVALID_METADATA", latchkey.ErrInvalidMetadata},
	{215, "LK_INVALID_GROUP", latchkey.ErrInvalidGroup},
	{216, "LK_INVALID_IDENTITY", latchkey.ErrInvalidIdentity},
	{217, "LK_INVALID_EXPIRY", latchkey.ErrInvalidExpiry},
	{218, "LK_INVALID_ROTATION", latchkey.ErrInvalidRotation},

	// Findings come before the errors that can be their causes.
	{400, "LK_READER_HOLDS_UP", latchkey.ErrReaderHoldsUp},
	{401, "LK_SAFETY_COPY_FAILED", latchkey.ErrSafetyCopyFailed},
	{402, "LK_LAST_USE_FAILED", latchkey.ErrLastUseFailed},
	{403, "LK_ROTATION_NOT_DURABLE", latchkey.ErrRotationNotDurable},
	{404, "LK_CLOCK_BEHIND", latchkey.ErrClockBehind},
	{405, "LK_RECOVERED", latchkey.ErrRecovered},
	{406, "LK_NO_IDENTITY", latchkey.ErrNoIdentity},

	{300, "LK_INVALID_OPTIONS", latchkey.ErrInvalidOptions},
	{301, "LK_LOCKED", latchkey.ErrLocked},
	{302, "LK_FILE_GONE", latchkey.ErrFileGone}, // comes with ErrFileChanged
	{303, "LK_FILE_CHANGED", latchkey.ErrFileChanged},
	{304, "LK_READ_ONLY", latchkey.ErrReadOnly},
	{305, "LK_NOT_STORE", latchkey.ErrNotStore},
	{306, "LK_NEWER_FORMAT", latchkey.ErrNewerFormat},
	{307, "LK_NUMBERING", latchkey.ErrNumbering}, // comes with ErrCorrupt
	{308, "LK_CORRUPT", latchkey.ErrCorrupt},
	{309, "LK_UNFINISHED", latchkey.ErrUnfinished},
	{310, "LK_COST_TOO_HIGH", latchkey.ErrCostTooHigh},
	{311, "LK_COMMIT_UNKNOWN", latchkey.ErrCommitUnknown},
	{312, "LK_SYNC_FAILED", latchkey.ErrSyncFailed},
	{313, "LK_INTERRUPTED", latchkey.ErrInterrupted},

	{10, "LK_NO_FILE", fs.ErrNotExist},
	{11, "LK_FILE_EXISTS", fs.ErrExist},
	{9, "LK_SYSTEM", errSystem},
	{8, "LK_OTHER", errOther},
}

// codeOf returns the code of an error, and 0 for nil.
func codeOf(err error) int32 {
	if err == nil {
		return 0
	}
	for _, c := range codes {
		if err == c.err { // without the cost of errors.Is, because outsiders cause refused logins
			return c.code
		}
	}
	for _, c := range codes {
		if errors.Is(err, c.err) {
			return c.code
		}
	}
	if isSystem(err) {
		return codeOf(errSystem)
	}
	return codeOf(errOther)
}

// isSystem reports whether an error is the operating system's.
func isSystem(err error) bool {
	var number syscall.Errno
	var path *fs.PathError
	var call *os.SyscallError
	return errors.As(err, &number) || errors.As(err, &path) || errors.As(err, &call)
}

// codeText returns a text for a code.
func codeText(code int32) string {
	if code == 0 {
		return "no error"
	}
	for _, c := range codes {
		if c.code == code {
			return c.err.Error()
		}
	}
	return "unknown code; the library is older than the program"
}

// panicError returns the error for a panic. The text of a panic that is no runtime.Error may have
// anything in it, so only its type is told.
func panicError(value any) error {
	if err, ok := value.(runtime.Error); ok {
		return fmt.Errorf("%w: %w", errInternal, err)
	}
	return fmt.Errorf("%w: panic with a value of type %T", errInternal, value)
}

// findingsOf returns the errors that errors.Join has joined, also in several layers.
func findingsOf(err error) []error {
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok || isWrapped(err) {
		return []error{err}
	}
	var all []error
	for _, e := range joined.Unwrap() {
		all = append(all, findingsOf(e)...)
	}
	return all
}

// isWrapped reports whether an error with several causes was made by fmt.Errorf. Such an error is
// one finding, whose text is more than those of its causes.
func isWrapped(err error) bool {
	return fmt.Sprintf("%T", err) == "*fmt.wrapErrors"
}
