package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/latchkeydb/latchkey/admin"
)

// keyRotation is one run of the command key rotate.
type keyRotation struct {
	tokenMaker
	arg       keyArg
	overlap   string
	untilUsed bool
}

func keyRotateCommand(c *cli) *cobra.Command {
	r := &keyRotation{tokenMaker: tokenMaker{cli: c}, arg: keyArg{cli: c}}
	cmd := &cobra.Command{
		Use:   "rotate [USER | --server] KEY",
		Short: "Give a key a new token, and show the token once",
		Long: `Give a key a new token, and show the token. Everything else of the key stays. Nothing can show the
token again, because the store does not keep it.

` + keyHelp + `

Without --overlap, the old token stops logging in at once. --overlap says how long the old token
stays good beside the new one, as a duration in years, weeks, days, hours or minutes (2w, 7d, 24h, 30m).
With --until-used, the first login with the new token ends the old one before that. latchkey login
is no such login, because it changes nothing.

A key has at most two good tokens. A rotation during an overlap ends the older one at once.

--cost is as in latchkey key create.`,
		Example: examples(
			"latchkey key rotate ada@example.com laptop",
			"latchkey key rotate --overlap 24h --until-used ada@example.com laptop",
			"latchkey key rotate --quiet --server --overlap 7d backup-job > token",
		),
		Args:              r.arg.takes(),
		ValidArgsFunction: r.arg.completer(c, true),
		RunE:              func(cmd *cobra.Command, args []string) error { return r.run(cmd.Context(), args) },
	}
	r.arg.addFlag(cmd)
	r.addFlags(cmd)
	cmd.Flags().StringVar(&r.overlap, "overlap", "", "the `DURATION` for which the old token stays good (default none)")
	cmd.Flags().BoolVar(&r.untilUsed, "until-used", false, "end the old token at the first login with the new one; needs --overlap")
	_ = cmd.RegisterFlagCompletionFunc("overlap", cobra.FixedCompletions([]string{"1h", "24h", "7d"}, cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveKeepOrder))
	return cmd
}

// run rotates the key and prints its token.
func (r *keyRotation) run(ctx context.Context, args []string) error {
	rotation := admin.Rotation{UntilUsed: r.untilUsed}
	switch now := time.Now(); {
	case r.overlap != "":
		end, ok := parseDuration(r.overlap, now)
		if rotation.OverlapSeconds = int64((end.Sub(now) + time.Second - 1) / time.Second); !ok || !end.After(now) {
			return usagef("--overlap takes a duration (1y, 2w, 7d, 24h)")
		}
	case r.untilUsed:
		return usagef("--until-used needs --overlap, which ends the old token if nobody uses the new one")
	}
	return r.arg.changing(ctx, args, func(client *admin.Client, key admin.Key, _ []string) error {
		key, token, err := client.RotateKey(ctx, key.ID, rotation, key.ETag)
		if err != nil {
			return err
		}
		done := fmt.Sprintf("rotated key %s (%s)\n%s", plain(key.Name), key.ID, r.oldToken(key))
		return r.show(key, token, done, "has a new token, but it could not be shown (rotate the key again)")
	})
}

// oldToken tells what becomes of the old token of a key that was just rotated.
func (r *keyRotation) oldToken(key admin.Key) string {
	if len(key.Tokens) < 2 {
		return "The old token has ended."
	}
	text := "The old token is good until " + formatTime(key.Tokens[0].Ends)
	if r.untilUsed {
		text += ", or until the new one logs in"
	}
	return text + "."
}
