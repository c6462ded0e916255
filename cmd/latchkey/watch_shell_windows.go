package main

import (
	"cmp"
	"context"
	"os"
	"os/exec"
	"syscall"
)

// shell returns a command that the shell reads. The shell gets its command line as it is, because
// its rules for quotes are not those of other programs.
func shell(ctx context.Context, command string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, cmp.Or(os.Getenv("COMSPEC"), "cmd.exe"))
	cmd.SysProcAttr = &syscall.SysProcAttr{CmdLine: `cmd.exe /S /C "` + command + `"`}
	return cmd
}
