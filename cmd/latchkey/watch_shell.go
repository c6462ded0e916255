//go:build !windows

package main

import (
	"context"
	"os/exec"
)

// shell returns a command that the shell reads.
func shell(ctx context.Context, command string) *exec.Cmd {
	return exec.CommandContext(ctx, "sh", "-c", command)
}
