package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"time"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
	"github.com/latchkeydb/latchkey/internal/durable"
)

// This file asks the program that has the store open, through its socket, for doctor.

// answerWithin is how long a program may take to say how it is. Tests change it.
var answerWithin = 10 * time.Second

// lookAtSocket looks at the socket of the store, and asks the program behind it. If the program
// says that the clock is behind, behind is that error. locked says whether a program has the file
// open for writing.
func lookAtSocket(ctx context.Context, path string, locked bool) (findings []finding, behind error) {
	limited, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	conn, err := admin.Dial(limited, path)
	if err == nil {
		_ = conn.Close()
		transport := admin.Transport(path)
		defer transport.CloseIdleConnections()
		return askProgram(ctx, admin.NewClient(&http.Client{Transport: transport}, "http://latchkey", ""), path, conn.RemoteAddr().String())
	}
	beside := durable.Resolve(path) + ".sock"
	info, statErr := os.Lstat(beside)
	isSocket := statErr == nil && info.Mode()&fs.ModeSocket != 0
	switch {
	case ctx.Err() != nil:
		return nil, nil
	case statErr == nil && !isSocket:
		return []finding{warning("socket", fmt.Sprintf("%s is %s, and no socket", beside, kindOfFile(info.Mode())),
			"find out what it is and move it away; until then, no program can serve administrators here")}, nil
	case errors.Is(err, admin.ErrUntrusted):
		return []finding{warning("socket", line(text(err)), "run latchkey as the user who runs the program; if that user should not have the store, find out what the program is")}, nil
	case !errors.Is(err, admin.ErrNotServed):
		return []finding{problem("socket", err)}, nil
	case locked && isSocket:
		return []finding{warning("socket", beside+": a crash left it, and the program that has the store open serves none",
			"have the program call admin.Listen; to administer the store now, stop the program")}, nil
	case locked:
		f := skipped("socket", "none: the program that has the store open cannot be administered")
		f.Advice = "have the program call admin.Listen; to administer the store now, stop the program"
		return []finding{f}, nil
	case isSocket:
		return []finding{good("socket", "%s: a crash left it, and the next program that serves the store replaces it", beside)}, nil
	}
	return nil, nil
}

// kindOfFile says what has the name of the socket.
func kindOfFile(mode fs.FileMode) string {
	switch {
	case mode.IsRegular():
		return "a file"
	case mode&fs.ModeSymlink != 0:
		return "a symbolic link"
	}
	return durable.Kind(mode)
}

// askProgram asks a program how it is, what its store has, and whether the store is damaged.
func askProgram(ctx context.Context, client *admin.Client, path, socket string) (findings []finding, behind error) {
	limited, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	health, err := client.Health(limited)
	if ctx.Err() != nil {
		return nil, nil
	}
	if errors.Is(err, context.DeadlineExceeded) {
		f := problem("socket", fmt.Errorf("the program behind %s has not answered for %v", socket, answerWithin))
		f.Advice = "find out what the program is doing; it may be stopped or out of memory. A restart of it ends this"
		return []finding{f}, nil
	}
	if errors.Is(err, latchkey.ErrFileChanged) {
		f := problem("socket", err)
		f.Advice = "if the file that is there now is the right one, restart the program behind " + socket + ", which refuses all logins until then; if the earlier file is the right one, move it back"
		return []finding{f}, nil
	}
	if err != nil {
		return []finding{problem("socket", err)}, nil
	}
	findings = []finding{good("socket", "a program answers at %s", socket)}
	for _, found := range health.Findings {
		if errors.Is(&found, latchkey.ErrClockBehind) {
			behind = &found
			continue
		}
		f := unhealthy(&found)
		if errors.Is(&found, latchkey.ErrFileGone) {
			f.Advice = "save the store before the program ends: latchkey backup --store " + path + " FILE. Then stop the program, and make the store from FILE: latchkey restore --store " + path + " FILE"
		}
		findings = append(findings, f)
	}
	if health.OK {
		findings = append(findings, good("health", "the program finds nothing wrong"))
	}
	s, err := client.Stats(limited)
	if err != nil {
		return append(findings, problem("contents", err)), behind
	}
	findings = append(findings,
		good("contents", "%s", formatContents(s.Users, s.Keys)),
		good("program", "logins by the cache: %d; hashes: %d; refused tokens: %d forged or malformed, %d unknown, %d revoked; refused because it was busy: %d",
			s.Hits, s.Hashes, s.Forged+s.Malformed, s.Unknown, s.Refused, s.Busy))
	findings = append(findings, askReplication(limited, client)...)
	return append(findings, checkByProgram(ctx, client, path)...), behind
}

// checkByProgram has the program look for damage.
func checkByProgram(ctx context.Context, client *admin.Client, path string) (findings []finding) {
	found, err := client.Check(ctx)
	switch {
	case ctx.Err() != nil:
		return nil
	case isInProgress(err):
		return []finding{skipped("damage", "not looked for, because the program is looking for it already")}
	case err != nil:
		return []finding{problem("damage", err)}
	case len(found.Findings) == 0:
		return []finding{good("damage", "none")}
	}
	for _, p := range found.Findings {
		findings = append(findings, damaged(path, &p))
	}
	return findings
}

func isInProgress(err error) bool {
	var p *admin.Problem
	return errors.As(err, &p) && p.Type == "urn:latchkey:problem:in-progress"
}
