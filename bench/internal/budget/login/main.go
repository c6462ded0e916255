// Login opens the store at a path, logs in once with the token on standard input, and prints the
// most memory that the process has had, as in "VmHWM: 20000 kB".
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/latchkeydb/latchkey"
)

func main() {
	if err := run(context.Background(), os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, path string) error {
	token, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if err != nil {
		return err
	}
	store, err := latchkey.Open(path, nil)
	if err != nil {
		return err
	}
	defer store.Close()
	if _, err := store.Login(ctx, strings.TrimSpace(token)); err != nil {
		return err
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(status)) {
		if strings.HasPrefix(line, "VmHWM:") {
			fmt.Print(line)
			return nil
		}
	}
	return errors.New("the system does not tell the memory of a process")
}
