package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"
)

func main() { os.Exit(runUntilSignal(os.Stderr)) }

// runUntilSignal runs the command of this process and returns its exit status. The first interrupt
// or SIGTERM cancels the command. The second one ends the process at once.
func runUntilSignal(stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	return run(ctx, os.Args[1:], os.Stdin, os.Stdout, stderr)
}

// run runs the command with args and returns its exit status.
func run(ctx context.Context, args []string, stdin *os.File, stdout, stderr io.Writer) int {
	c := &cli{stdin: stdin, stdout: stdout, stderr: stderr}
	root := newRoot(c)
	prepareCompletion(root, args)
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err != nil && !c.begun {
		err = usageError{err}
		c.json = c.json || asksForJSON(args)
	}
	return c.report(cmd, err)
}
