package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/durable"
	"github.com/latchkeydb/latchkey/replica"
)

// This file looks at a store, sound or sick, and says what to do. doctor_file.go looks at the file
// and what surrounds it. Nothing here changes a file.

// The states of a finding.
const (
	stateGood    = "good"
	stateSkipped = "skipped" // it could not be looked at, for a reason that is no fault
	stateWarning = "warning" // the store works, but somebody should do something
	stateProblem = "problem" // the store does not work, or not for long
)

// finding is what doctor says about one thing.
type finding struct {
	Name   string `json:"name"`
	State  string `json:"state"`
	Text   string `json:"text"`
	Advice string `json:"advice,omitempty"`

	status int // the exit status of a problem
}

func good(name, format string, args ...any) finding {
	return finding{Name: name, State: stateGood, Text: fmt.Sprintf(format, args...)}
}

func skipped(name, format string, args ...any) finding {
	return finding{Name: name, State: stateSkipped, Text: fmt.Sprintf(format, args...)}
}

func warning(name, text, advice string) finding {
	return finding{Name: name, State: stateWarning, Text: text, Advice: advice}
}

// problem returns a finding for err, with the advice of the command's errors.
func problem(name string, err error) finding {
	status, advice := outcome(&cobra.Command{}, err)
	return finding{Name: name, State: stateProblem, Text: line(text(err)), Advice: advice, status: status}
}

// diagnosis is what doctor says about a store.
type diagnosis struct {
	File     string    `json:"file"`
	State    string    `json:"state"` // the worst state of the findings
	Findings []finding `json:"findings"`

	colour bool // of the marks before problems and warnings
}

// add adds findings to d.
func (d *diagnosis) add(findings ...finding) {
	for _, f := range findings {
		d.Findings = append(d.Findings, f)
		if f.State == stateProblem || f.State == stateWarning && d.State == stateGood {
			d.State = f.State
		}
	}
}

// count returns the number of the findings with a state.
func (d *diagnosis) count(state string) (n int) {
	for _, f := range d.Findings {
		if f.State == state {
			n++
		}
	}
	return n
}

// sickError means that doctor has found something. It has the exit status.
type sickError struct {
	text   string
	status int
}

func (e *sickError) Error() string { return e.text }

// err returns a *sickError unless all is well. The status is that of the first problem that has a
// status of its own.
func (d *diagnosis) err() error {
	problems, warnings := d.count(stateProblem), d.count(stateWarning)
	if problems+warnings == 0 {
		return nil
	}
	sick := &sickError{fmt.Sprintf("doctor %s: problems: %d, warnings: %d", d.File, problems, warnings), exitWarned}
	for _, f := range d.Findings {
		if f.State == stateProblem && (sick.status == exitWarned || sick.status == exitFailed) {
			sick.status = f.status
		}
	}
	return sick
}

func doctorCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Look at a store, sound or sick, and say what to do",
		Long: `Look at the store's file and at what surrounds it, and say what to do: the file's kind, its owner and
who may read it, its directory, the programs that have it open, the free space, the clock, the format,
damage, and the safety copy. doctor never changes a file, and works on every file: a store that is
damaged or locked, a file that is no store, a directory, and a name without a file.

While another program has the store open for writing, doctor does not look into the file. It asks the
program, through its socket, how it is, what the store has, and whether there is damage. It says so if
the program serves no socket, if it does not answer, and if somebody else has the name of the socket. A
store that is free is opened for reading, so a program that starts in this moment waits for doctor, for
as long as it reads the whole file.

Each finding is good, skipped (it could not be looked at, and that is no fault), a warning (the store
works, but somebody should do something), or a problem. A monitor can use the exit status: 0 if there
is no warning and no problem, 9 if there are only warnings, and otherwise the status of the first
problem: 3 if there is no store, 7 if the store is damaged or the file is no store, 8 if its format is
newer, and 1 for any other problem. A program that has the store open is no problem.`,
		Example: examples("latchkey doctor", "latchkey doctor --json --store /var/lib/app/keys.db"),
		Args:    takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			path, err := c.file()
			if err != nil {
				return err
			}
			d, err := diagnose(cmd.Context(), path)
			if err != nil {
				return err
			}
			d.colour = c.inColour()
			return errors.Join(c.print(d, d.write), d.err())
		},
	}
}

// write writes d for people.
func (d *diagnosis) write(w io.Writer) {
	widest := 0
	for _, f := range d.Findings {
		widest = max(widest, len(f.Name))
	}
	for i, f := range d.Findings {
		mark := "  "
		switch {
		case f.State == stateProblem && d.colour:
			mark = "\x1b[31m!\x1b[0m " // red
		case f.State == stateWarning && d.colour:
			mark = "\x1b[33m!\x1b[0m " // yellow
		case f.State == stateProblem, f.State == stateWarning:
			mark = "! "
		}
		fmt.Fprintf(w, "%s%-*s  %s\n", mark, widest, f.Name, plain(f.Text))
		isRepeated := i+1 < len(d.Findings) && d.Findings[i+1].Advice == f.Advice
		if f.Advice != "" && !isRepeated {
			fmt.Fprintf(w, "  %-*s  what to do: %s\n", widest, "", plain(f.Advice))
		}
	}
}

// diagnose looks at the store at path. It returns an error only if ctx ends.
func diagnose(ctx context.Context, path string) (*diagnosis, error) {
	d := &diagnosis{File: path, State: stateGood}
	file, findings := lookAtFile(path)
	if file == nil {
		asked, _ := lookAtSocket(ctx, path, false)
		if slices.ContainsFunc(asked, func(f finding) bool { return f.Name == "contents" }) {
			findings[0].Text = "the file is gone, and a program still has the store open"
			findings[0].Advice = "make no other store there before that one is saved; see below"
		}
		d.add(findings...)
		d.add(asked...)
		d.add(lookAtSafetyCopy(ctx, path, nil)...)
		return d, ctx.Err()
	}
	d.add(findings...)
	d.add(lookAtDirectory(file)...)
	d.add(lookAtSpace(file)...)
	findings, behind := lookInside(ctx, path)
	d.add(findings...)
	d.add(lookAtClock(time.Now(), file.info.ModTime(), behind))
	d.add(lookAtSafetyCopy(ctx, path, file.info)...)
	d.add(lookAtLeftovers(file)...)
	return d, ctx.Err()
}

// lookAtLock says which programs have the file open. holders were known before it was opened here
// with the error openErr.
func lookAtLock(holders []durable.Holder, openErr error) []finding {
	locked := errors.Is(openErr, latchkey.ErrLocked)
	switch {
	case len(holders) > 0:
		var names []string
		for _, h := range holders {
			names = append(names, h.String())
		}
		how := "reading"
		if holders[0].Writing {
			how = "writing"
		}
		return []finding{good("lock", "open for %s in %s", how, strings.Join(names, ", "))}
	case locked:
		return []finding{good("lock", "open for writing in another program")}
	case openErr == nil:
		return []finding{good("lock", "no program has the file open for writing")}
	}
	return nil
}

// lookInside opens the store for reading, and looks for damage. If the store says that the clock is
// behind, behind is that error.
func lookInside(ctx context.Context, path string) (findings []finding, behind error) {
	holders := durable.Holders(path)
	s, err := latchkey.Open(path, &latchkey.Options{ReadOnly: true, LockTimeout: -1})
	findings = lookAtLock(holders, err)
	switch {
	case errors.Is(err, latchkey.ErrLocked):
		asked, behind := lookAtSocket(ctx, path, true)
		if !slices.ContainsFunc(asked, func(f finding) bool { return f.Name == "contents" }) {
			asked = append(asked, skipped("contents", "not looked at, because another program has the store open for writing"))
		}
		return append(findings, asked...), behind
	case errors.Is(err, latchkey.ErrNewerFormat):
		return append(findings, problem("format", err)), nil
	case errors.Is(err, latchkey.ErrCorrupt):
		return append(findings, damaged(path, err)), nil
	case errors.Is(err, latchkey.ErrNotStore):
		return append(findings, notStore(path, err)), nil
	case err != nil:
		return append(findings, problem("contents", err)), nil
	}
	defer s.Close()
	findings = append(findings, good("format", "this latchkey can read and write it"))
	findings = append(findings, countContents(ctx, s)...)
	findings = append(findings, lookAtReplication(ctx, path, s)...)
	sound := true
	for err := range s.Check(ctx) {
		switch {
		case ctx.Err() != nil:
		case errors.Is(err, latchkey.ErrCorrupt):
			findings = append(findings, damaged(path, err))
		default:
			findings = append(findings, problem("damage", err))
		}
		sound = false
	}
	if sound {
		findings = append(findings, good("damage", "none"))
	}
	more, behind := lookAtHealth(ctx, s)
	findings = append(findings, more...)
	more, _ = lookAtSocket(ctx, path, false)
	return append(findings, more...), behind
}

// notStore returns the finding of a file that never was a store.
func notStore(path string, err error) finding {
	f := problem("contents", err)
	if info, err := os.Stat(path); err == nil && info.Size() == 0 {
		f.Advice = "for a new store, delete the empty file, or mount its directory in place of it, and run latchkey init; if there was a store, use a backup with latchkey restore"
	}
	return f
}

// damaged returns the finding of a store that is damaged.
func damaged(path string, err error) finding {
	f := problem("damage", err)
	f.status = exitDamaged
	f.Advice = "close the programs that use the store; latchkey check --repair mends indexes and counts; for other damage, make a store from a backup with latchkey restore, or from what can be read with latchkey salvage " + path + " --out FILE"
	if _, err := os.Stat(durable.Resolve(path) + ".safety"); err == nil {
		f.Advice += "; the safety copy beside the file is a backup"
	}
	return f
}

// countContents counts what is in the store. It leaves damage to Check.
func countContents(ctx context.Context, s *latchkey.Store) (findings []finding) {
	users, keys, expired := 0, 0, 0
	err := s.View(ctx, func(tx *latchkey.Tx) error {
		readKeys := func(owner uuid.UUID) error {
			owned, err := tx.Keys(owner)
			for _, key := range owned {
				keys++
				if isExpired(key, tx.Now()) {
					expired++
				}
			}
			return err
		}
		for user, err := range tx.Users(uuid.Nil) {
			if err == nil {
				users++
				err = readKeys(user.ID)
			}
			if err != nil {
				return err
			}
		}
		return readKeys(latchkey.ServerOwner)
	})
	switch {
	case err == nil:
		findings = []finding{good("contents", "%s; expired keys: %d", formatContents(users, keys), expired)}
	case ctx.Err() == nil && !errors.Is(err, latchkey.ErrCorrupt):
		findings = []finding{problem("contents", err)}
	}
	return findings
}

// lookAtHealth returns what the open store says about itself. If the store says that the clock is
// behind, behind is that error.
func lookAtHealth(ctx context.Context, s *latchkey.Store) (findings []finding, behind error) {
	for _, err := range splitError(s.Health(ctx)) {
		switch {
		case ctx.Err() != nil:
		case errors.Is(err, latchkey.ErrClockBehind):
			behind = err
		default:
			findings = append(findings, unhealthy(err))
		}
	}
	return findings, behind
}

// healthAdvice has what to do about the findings of [latchkey.Store.Health] that no command returns
// as its error. The store works with all of them. A program that has the store open finds them.
var healthAdvice = []struct {
	err    error
	advice string
}{
	{latchkey.ErrSafetyCopyFailed, "make room where the copy is to be, and see that the program can write there; it tries again by itself"},
	{latchkey.ErrNoIdentity, "give the user an identity with latchkey user link, or delete the user"},
	{latchkey.ErrLastUseFailed, "make room on the disk, and see that it works; the program tries again by itself"},
	{latchkey.ErrRotationNotDurable, "see that the disk works; until something is written, a restart of the program lets the old token in again"},
	{latchkey.ErrReaderHoldsUp, "have the program end its long View; changes wait for it"},
	{replica.ErrSilent, "see that the hub runs and can be reached from here; latchkey replica show says what failed"},
	{replica.ErrCloned, "revoke the edge at the hub with latchkey replica revoke, and let each of the devices join with an invitation of its own"},
	{replica.ErrClaims, "look at them with latchkey replica claims, and confirm or refuse each"},
	{latchkey.ErrRecovered, "disable and delete again what was revoked after the safety copy was made; the finding goes with a restart of the program"},
}

// unhealthy returns the finding for a finding of [latchkey.Store.Health].
func unhealthy(err error) finding {
	for _, a := range healthAdvice {
		if errors.Is(err, a.err) {
			return warning("health", line(text(err)), a.advice)
		}
	}
	f := problem("health", err)
	switch {
	case errors.Is(err, latchkey.ErrSyncFailed):
		f.Advice = "see that the disk works and has room, and start the program again; until then it accepts no changes"
	case f.Advice == "":
		f.Advice = "see the log of the program"
	}
	return f
}

// splitError returns the errors that [errors.Join] has joined.
func splitError(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	if err == nil {
		return nil
	}
	return []error{err}
}

// clockSlack is how far a clock may be behind the file before doctor warns. Clocks that are set by
// network differ by less.
const clockSlack = time.Minute

// lookAtClock compares the clock with the time of the file's last change. behind is what the store
// says about the clock, or nil.
func lookAtClock(now, changed time.Time, behind error) finding {
	const advice = "set the clock; the store's time goes on from the time that it remembers"
	switch {
	case now.Before(oldestTime):
		return warning("clock", fmt.Sprintf("%s, before this latchkey was made", formatTime(now)), advice)
	case behind != nil:
		return warning("clock", fmt.Sprintf("%s, but %s", formatTime(now), line(text(behind))), advice+". If the clock is right, it was far ahead once: see latchkey clock reset --help")
	case changed.After(now.Add(clockSlack)):
		return warning("clock", fmt.Sprintf("%s, but the file was changed at %s", formatTime(now), formatTime(changed)), advice)
	}
	return good("clock", "%s, not behind the store", formatTime(now))
}

// oldestTime is before the first release of latchkey.
var oldestTime = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// lookAtSafetyCopy looks at the copy beside the file. info is nil if there is no file.
func lookAtSafetyCopy(ctx context.Context, path string, info fs.FileInfo) []finding {
	copied := durable.Resolve(path) + ".safety"
	made, err := os.Stat(copied)
	switch {
	case errors.Is(err, fs.ErrNotExist) && info == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return []finding{good("safety copy", "none; a program that has the store open can make one, see Options.SafetyCopyEvery")}
	case err != nil:
		return []finding{problem("safety copy", err)}
	case info == nil:
		return []finding{warning("safety copy", fmt.Sprintf("%s, made at %s", copied, formatTime(made.ModTime())),
			"make the store from it with latchkey restore "+copied+"; keys that were disabled or deleted after it was made can then log in again")}
	}
	if err := checkCopy(ctx, copied); err != nil && ctx.Err() == nil {
		return []finding{warning("safety copy", line(text(err)), "find out why the copy is bad, and have the program make another")}
	}
	age := info.ModTime().Sub(made.ModTime())
	if age > maxCopyAge {
		return []finding{warning("safety copy", fmt.Sprintf("made at %s, and the file was changed %d days later", formatTime(made.ModTime()), age/(24*time.Hour)),
			"find out whether the program still makes copies, and why they fail; Store.Health tells")}
	}
	return []finding{good("safety copy", "sound, made at %s", formatTime(made.ModTime()))}
}

// maxCopyAge is how much older than the file a safety copy may be before doctor warns. Programs
// make copies each minute to each day.
const maxCopyAge = 7 * 24 * time.Hour

// checkCopy returns the first damage that it finds in the store at path.
func checkCopy(ctx context.Context, path string) error {
	s, err := latchkey.Open(path, &latchkey.Options{ReadOnly: true, LockTimeout: -1})
	if err != nil {
		return err
	}
	defer s.Close()
	for finding := range s.Check(ctx) {
		return finding
	}
	return nil
}
