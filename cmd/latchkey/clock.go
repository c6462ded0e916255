package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/latchkeydb/latchkey/admin"
)

func clockCommands(c *cli) *cobra.Command {
	cmd := parentCommand("clock", "Put the store's time right")
	cmd.AddCommand(clockResetCommand(c))
	return cmd
}

func clockResetCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "reset",
		Short: "Set the store's time to the time of this machine's clock",
		Long: `Set the store's time to the time of this machine's clock. The store's time goes by the clock, but it
never goes back by itself, also while the clock is set back. So a clock that was far ahead once leaves
a wrong time in the store, and latchkey doctor warns about it. If the clock is right now, reset puts
the store's time right. First see that the clock is right.

A key that has expired by the wrong time can log in again until its expiry date comes. Users and keys
that were made in the meantime keep their creation times. The store counts the resets, and latchkey
stats shows the number.`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.changing(cmd.Context(), func(client *admin.Client) error { return c.resetClock(cmd.Context(), client) })
		},
	}
}

func (c *cli) resetClock(ctx context.Context, client *admin.Client) error {
	doc, err := client.ResetClock(ctx)
	if err != nil {
		return err
	}
	return c.print(doc, func(w io.Writer) {
		fmt.Fprintf(w, "the store's time was %s, and is %s now\n", formatTime(doc.Before), formatTime(doc.After))
	})
}
