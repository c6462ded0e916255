package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/hide"
	"github.com/latchkeydb/latchkey/migrate"
)

// TestMain lets the scripts run the command as a process of its own. The process ends with status
// 99 if it has written a token to standard error.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"latchkey": func() {
			end := serveFirst(os.Args[1:])
			stderr := &tokenGuard{Writer: os.Stderr}
			status := runUntilSignal(stderr)
			end()
			if stderr.met {
				status = 99
			}
			os.Exit(status)
		},
	})
}

// tokenGuard passes writes on to Writer and remembers whether one of them had a token in it.
type tokenGuard struct {
	io.Writer
	met bool
}

func (g *tokenGuard) Write(p []byte) (int, error) {
	g.met = g.met || hide.Tokens(string(p)) != string(p)
	return g.Writer.Write(p)
}

// TestScripts runs each file in testdata as a shell session. The store is keys.db unless a script
// names another one. The store must be sound when the script ends.
func TestScripts(t *testing.T) { testScripts(t, false) }

// TestScriptsThroughTheSocket runs the same files while a server has the store open, for all
// commands but those in direct. See serveFirst.
func TestScriptsThroughTheSocket(t *testing.T) {
	if os.Getenv("LATCHKEY_WINE") != "" {
		t.Skip("in Wine 8 a client connects to the instance of a pipe that only keeps its name")
	}
	testScripts(t, true)
}

func testScripts(t *testing.T, socket bool) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("LATCHKEY_STORE", "keys.db")
			env.Setenv("LATCHKEY_COST", "light")
			env.Setenv("GORACE", "atexit_sleep_ms=0") // no pause at the end, with -race
			if socket {
				env.Setenv(socketEnv, strings.TrimPrefix(filepath.Base(env.WorkDir), "script-"))
			}
			env.Values[holder{}] = &holder{}
			env.Values[serving{}] = &serving{}
			env.Values[programsKey{}] = programs{}
			env.Defer(func() { checkStore(t, filepath.Join(env.WorkDir, "keys.db")) })
			return nil
		},
		Condition: func(name string) (bool, error) {
			switch name {
			case "wine":
				return os.Getenv("LATCHKEY_WINE") != "", nil
			case "socket": // the commands go through a socket
				return socket, nil
			}
			return false, fmt.Errorf("unknown condition %q", name)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits":      exits,
			"cat":        cat,
			"extract":    extract,
			"mask":       mask,
			"setenv":     setenv,
			"hold":       hold,
			"release":    release,
			"expiredkey": expiredKey,
			"clockahead": clockAhead,
			"usedby":     usedBy,
			"halfmade":   halfmade,
			"damage":     damage,
			"breaktrail": breakTrail,
			"cutmigrate": cutMigrate,
			"truncate":   truncate,
			"postdate":   postdate,
			"serve":      serve,
			"request":    request,
			"replied":    replied,
			"mailed":     mailed,
			"glob":       glob,
			"shutdown":   shutdown,
			"metrics":    metricsURL,

			"hub":        hub,
			"follow":     follow,
			"stop":       stop,
			"ended":      ended,
			"eventually": eventually,

			"administer":  administer,
			"stalesocket": staleSocket,
		},
	})
}

// checkStore fails the test if there is a store at path and it is not sound.
func checkStore(t *testing.T, path string) {
	if _, err := os.Stat(path); err != nil {
		return // the script made no store
	}
	s, err := latchkey.Open(path, &latchkey.Options{ReadOnly: true})
	if err != nil {
		t.Error(err)
		return
	}
	defer s.Close()
	for finding := range s.Check(context.Background()) {
		t.Errorf("%s: %v", path, finding)
	}
}

// exits runs a command as exec does, and fails unless the command ends with the given status and
// one line on standard error: exits 3 latchkey user show bob.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		ts.Fatalf("%s: status 0, or %v; want %s", args[1], err, args[0])
	}
	if got := strconv.Itoa(exit.ExitCode()); got != args[0] {
		ts.Fatalf("%s: status %s, want %s", args[1], got, args[0])
	}
	said := ts.ReadFile("stderr")
	if !oneLine.MatchString(said) {
		ts.Fatalf("standard error is not one line of latchkey's: %q", said)
	}
	if strings.HasSuffix(said, "}\n") && !strings.HasSuffix(said, `"status":`+args[0]+"}\n") {
		ts.Fatalf("standard error has another status than %s: %q", args[0], said)
	}
}

var oneLine = regexp.MustCompile(`\A(\S.*\? \[y/N\] |token: \n)?(latchkey: .*|\{"error":.*"status":\d+\})\n\z`)

// mask prints the last output again, with a word in place of each part that differs between runs.
func mask(ts *testscript.TestScript, _ bool, _ []string) {
	out := ts.ReadFile("stdout")
	out = regexp.MustCompile(`lk_[0-9A-Za-z]{77}`).ReplaceAllString(out, "TOKEN")
	out = regexp.MustCompile(`"[0-9a-f]{16}"`).ReplaceAllString(out, `"HEX"`)
	out = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[78][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}`).ReplaceAllString(out, "ID")
	out = regexp.MustCompile(`20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`).ReplaceAllString(out, "TIME")
	fmt.Fprint(ts.Stdout(), out)
}

// cat prints files one after the other. Windows has no program of this name.
func cat(ts *testscript.TestScript, _ bool, args []string) {
	for _, file := range args {
		fmt.Fprint(ts.Stdout(), ts.ReadFile(file))
	}
}

// extract prints the part of a file that the group of a regular expression matches: extract PATTERN
// FILE.
func extract(ts *testscript.TestScript, _ bool, args []string) {
	match := regexp.MustCompile(args[0]).FindStringSubmatch(ts.ReadFile(args[1]))
	if match == nil {
		ts.Fatalf("%s does not match %s", args[1], args[0])
	}
	fmt.Fprint(ts.Stdout(), match[1])
}

// setenv sets a variable to the content of a file, or to the last output: setenv NAME FILE.
func setenv(ts *testscript.TestScript, _ bool, args []string) {
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile(args[1])))
}

// holder is a store that a script has opened in this process. The command runs in another process.
type holder struct{ store *latchkey.Store }

// hold opens a store in this process: hold [--read-only] FILE.
func hold(ts *testscript.TestScript, _ bool, args []string) {
	s, err := latchkey.Open(ts.MkAbs(args[len(args)-1]), &latchkey.Options{ReadOnly: args[0] == "--read-only"})
	ts.Check(err)
	ts.Defer(func() { s.Close() })
	ts.Value(holder{}).(*holder).store = s
}

// release closes the store that hold has opened.
func release(ts *testscript.TestScript, _ bool, _ []string) {
	ts.Check(ts.Value(holder{}).(*holder).store.Close())
}

// expiredKey makes a key that expired long ago, and writes its token to a file. Without an address,
// the key is a server key: expiredkey FILE NAME [ADDRESS].
func expiredKey(ts *testscript.TestScript, _ bool, args []string) {
	then := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
	ctx := context.Background()
	s, err := latchkey.Open(ts.MkAbs("keys.db"), &latchkey.Options{Cost: latchkey.LightCost, Now: func() time.Time { return then }, TestClock: true})
	ts.Check(err)
	spec := latchkey.KeySpec{Name: args[1], Expires: then.Add(time.Hour)}
	var token string
	if len(args) < 3 {
		_, token, err = s.CreateServerKey(ctx, spec)
	} else {
		var user latchkey.User
		user, err = s.UserByIdentity(ctx, latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: args[2]})
		ts.Check(err)
		_, token, err = s.CreateKey(ctx, user.ID, spec)
	}
	ts.Check(errors.Join(err, s.Close()))
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(token), 0o600))
}

// clockAhead makes a change while the clock is ahead: clockahead FILE DURATION.
func clockAhead(ts *testscript.TestScript, _ bool, args []string) {
	by, err := time.ParseDuration(args[1])
	ts.Check(err)
	opts := &latchkey.Options{Cost: latchkey.LightCost, Now: func() time.Time { return time.Now().Add(by) }}
	s, err := latchkey.Open(ts.MkAbs(args[0]), opts)
	ts.Check(err)
	_, err = s.CreateUser(context.Background(), latchkey.UserSpec{Identity: latchkey.Identity{Provider: latchkey.ProviderAnonymous}})
	ts.Check(errors.Join(err, s.Close()))
}

// usedBy adds a user with an e-mail address, and a key of the user, without changing the text, as
// a program does: usedby ADDRESS NAME.
func usedBy(ts *testscript.TestScript, _ bool, args []string) {
	s, err := latchkey.Open(ts.MkAbs("keys.db"), &latchkey.Options{Cost: latchkey.LightCost})
	ts.Check(err)
	identity := latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: args[0]}
	user, err := s.CreateUser(context.Background(), latchkey.UserSpec{Identity: identity})
	ts.Check(err)
	_, _, err = s.CreateKey(context.Background(), user.ID, latchkey.KeySpec{Name: args[1]})
	ts.Check(errors.Join(err, s.Close()))
}

// halfmade makes a file like one that an interrupted init leaves behind: halfmade FILE.
func halfmade(ts *testscript.TestScript, _ bool, args []string) {
	rewrite(ts, args[0], func(latchkey.EngineTx) error { return nil })
}

// damage removes all users from the index of identities: damage FILE.
func damage(ts *testscript.TestScript, _ bool, args []string) {
	rewrite(ts, args[0], func(tx latchkey.EngineTx) error {
		for e, err := range tx.Scan("identities", nil, nil) {
			if err != nil {
				return err
			}
			if err := tx.Delete("identities", e.Key); err != nil {
				return err
			}
		}
		return nil
	})
}

// breakTrail damages the head of the audit trail: breaktrail FILE.
func breakTrail(ts *testscript.TestScript, _ bool, args []string) {
	rewrite(ts, args[0], func(tx latchkey.EngineTx) error { return tx.Put("data", []byte("audit\x00h"), []byte("no record")) })
}

// cutMigrate copies a store, and ends after the first entries: cutmigrate FROM TO.
func cutMigrate(ts *testscript.TestScript, _ bool, args []string) {
	from, err := latchkey.OpenBoltEngine(ts.MkAbs(args[0]), &latchkey.Options{ReadOnly: true})
	ts.Check(err)
	to, err := latchkey.OpenBoltEngine(ts.MkAbs(args[1]), nil)
	ts.Check(err)
	ctx, cancel := context.WithCancel(context.Background())
	_, err = migrate.Copy(ctx, from, to, &migrate.Options{Progress: func(migrate.Progress) { cancel() }})
	if !errors.Is(err, context.Canceled) {
		ts.Fatalf("got the error %v", err)
	}
	ts.Check(errors.Join(from.Close(), to.Close()))
}

// truncate makes a file of the first bytes of another file: truncate FILE NEW SIZE.
func truncate(ts *testscript.TestScript, _ bool, args []string) {
	size, err := strconv.Atoi(args[2])
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(ts.ReadFile(args[0]))[:size], 0o600))
}

// postdate gives the store a newer format than this build knows: postdate FILE. The record is
// described in docs/formats.md.
func postdate(ts *testscript.TestScript, _ bool, args []string) {
	rewrite(ts, args[0], func(tx latchkey.EngineTx) error {
		record := []byte{2, 1 << 3, 2}
		sum := crc32.Checksum(append([]byte("metaformat"), record...), crc32.MakeTable(crc32.Castagnoli))
		return tx.Put("meta", []byte("format"), binary.BigEndian.AppendUint32(record, sum))
	})
}

// rewrite changes the tables of a store without the store's knowledge.
func rewrite(ts *testscript.TestScript, file string, fn func(latchkey.EngineTx) error) {
	e, err := latchkey.OpenBoltEngine(ts.MkAbs(file), nil)
	ts.Check(err)
	err = e.Update(context.Background(), fn)
	ts.Check(errors.Join(err, e.Close()))
}
