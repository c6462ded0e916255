package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/latchkeydb/latchkey"
)

// Budgets measures what small machines have little of: space for programs, memory, and time to
// start a process.
var Budgets = Group{
	Name:   "budgets",
	Title:  "How large does the package make a program, and what do a login on a small device and the command cost?",
	Time:   200 * time.Millisecond,
	Rounds: 5,
	Open: func(e *Env) ([]Case, error) {
		dir, err := e.tempDir()
		if err != nil {
			return nil, err
		}
		cases, err := sizes(dir)
		if err != nil {
			return nil, err
		}
		command, err := commandLogin(dir)
		if err != nil {
			return nil, err
		}
		cases = append(cases, command)
		if _, err := exec.LookPath(qemu); err != nil {
			e.Logf("the memory on ARM is left out, because it needs %s", qemu)
			return cases, nil
		}
		memory, err := memoryOnARM(dir)
		return append(cases, memory), err
	},
}

// qemu runs programs for 32-bit ARM on Linux.
const qemu = "qemu-arm-static"

// sizes compares the sizes of programs for linux/amd64. A web server has most of the standard
// library already, so the difference is the package and its libraries. To a program that does next
// to nothing, the package also brings the clock, files and cryptography of the standard library.
func sizes(dir string) ([]Case, error) {
	file := func(program string) string { return filepath.Join(dir, program) }
	for _, program := range []string{"hello", "opened", "server", "libraries", "root"} {
		if err := build(file(program), "bench", "./internal/budget/"+program, "GOOS=linux", "GOARCH=amd64"); err != nil {
			return nil, err
		}
	}
	difference := func(larger, smaller string) func(b *testing.B) error {
		return func(b *testing.B) error {
			var with, without os.FileInfo
			var err, err2 error
			for b.Loop() {
				with, err = os.Stat(file(larger))
				without, err2 = os.Stat(file(smaller))
			}
			if err := errors.Join(err, err2); err != nil {
				return err
			}
			b.ReportMetric(float64(with.Size()-without.Size())/1e6, "MB")
			return nil
		}
	}
	return []Case{
		{Name: "size/added-to=server", Unit: "MB", Body: difference("root", "server"), Max: 2, Steady: true},
		{Name: "size/added-to=server+libraries", Unit: "MB", Body: difference("root", "libraries")},
		{Name: "size/added-to=hello", Unit: "MB", Body: difference("opened", "hello")},
	}, nil
}

// commandLogin measures a whole process of the command that checks the token of a light key. After
// the first one, the operating system has the program and the store in memory.
func commandLogin(dir string) (Case, error) {
	command, store := filepath.Join(dir, "latchkey"), filepath.Join(dir, "light.db")
	token, err := oneKey(store, latchkey.LightCost)
	if err == nil {
		err = build(command, "cmd/latchkey", ".")
	}
	return Case{Name: "command/login/cost=light", Max: 15e6, Body: func(b *testing.B) error {
		for b.Loop() {
			if _, err := withToken(b.Context(), token, command, "login", "--store", store); err != nil {
				return err
			}
		}
		return nil
	}}, err
}

// memoryOnARM measures a process that opens a store and logs in with a key at the default cost. The
// memory of the emulator counts, too.
func memoryOnARM(dir string) (Case, error) {
	program, store := filepath.Join(dir, "login"), filepath.Join(dir, "default.db")
	token, err := oneKey(store, latchkey.DefaultCost)
	if err == nil {
		err = build(program, "bench", "./internal/budget/login", "GOOS=linux", "GOARCH=arm", "GOARM=6")
	}
	return Case{Name: "memory/open+login/cpu=armv6", Unit: "MB", Max: 64, Steady: true, Body: func(b *testing.B) error {
		var kib float64
		for b.Loop() {
			out, err := withToken(b.Context(), token, qemu, program, store)
			if err != nil {
				return err
			}
			if _, err := fmt.Sscanf(out, "VmHWM: %f kB", &kib); err != nil {
				return fmt.Errorf("%q: %w", out, err)
			}
		}
		b.ReportMetric(kib*1024/1e6, "MB")
		return nil
	}}, err
}

// oneKey makes a store with a server key, and returns the key's token.
func oneKey(path string, cost latchkey.Cost) (string, error) {
	s, err := latchkey.Open(path, &latchkey.Options{Cost: cost})
	if err != nil {
		return "", err
	}
	_, token, err := s.CreateServerKey(context.Background(), latchkey.KeySpec{Name: "device"})
	return token, errors.Join(err, s.Close())
}

// withToken runs a program with a token on its standard input, and returns what it prints.
func withToken(ctx context.Context, token, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdin = strings.NewReader(token + "\n")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", program, err, out)
	}
	return string(out), nil
}
