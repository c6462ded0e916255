package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
	"github.com/latchkeydb/latchkey/replica"
)

// This file has the commands of an edge: join and sync.

// edgeFlags adds the flags of an edge that speaks to its hub.
func (c *cli) edgeFlags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&c.replica.AllowPlainHTTP, "allow-plain-http", false, "speak to a hub on another machine without TLS; whoever is on the way can then make every token good")
}

func joinCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "join URL",
		Short: "Make a store that is an edge of a hub, with an invitation",
		Long: `Make a new store that is an edge of the hub at URL, and copy the users and keys that the edge gets. join
reads the invitation from standard input, because every process on the machine can see arguments. On a
terminal, join asks for it and does not show what is typed. Make one with latchkey replica invite.

The credential of the edge is in a file of its own, which has the name of the store and ".edge". It is
not in backups of the store.

If the hub does not know the edge any more, or if the file of the credential is lost, join again with a
new invitation and the same store. What the store has stays. If join is interrupted during the first
copy, latchkey sync goes on with it.`,
		Example: examples(
			"latchkey join https://hub.example:7443 --store till.db < invitation",
			"latchkey join https://hub.example:7443 --store till.db --name till-17 < invitation",
		),
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return errors.New("join takes the URL alone, and reads the invitation from standard input, because every process on the machine can see arguments")
			}
			return takes("URL")(cmd, args)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := c.file()
			if err != nil {
				return err
			}
			invitation, err := c.readSecret(cmd.Context(), "invitation: ")
			if err != nil {
				return err
			}
			opts := c.replica
			opts.Store = c.opts
			withWaiting(&opts.Store, c.wait)
			trail := keepTrail(&opts.Store, c.chainFor(path))
			var end func()
			opts.Progress, end = c.showCopy()
			e, err := replica.Join(cmd.Context(), args[0], invitation, path, &opts)
			end()
			if err != nil {
				return err
			}
			s := &openedStore{Store: e.Store(), trail: trail, edge: e}
			status := e.Status()
			users, keys := 0, 0
			stats, err := s.Stats(cmd.Context())
			if err == nil {
				users, keys = int(stats.Users), int(stats.Keys)
			}
			if err := errors.Join(err, s.close()); err != nil {
				return err
			}
			return c.print(status, func(w io.Writer) {
				fmt.Fprintf(w, "joined %s as edge %s, with %s\n", plain(status.HubURL), status.Edge, formatContents(users, keys))
			})
		},
	}
	cmd.Flags().StringVar(&c.replica.Name, "name", "", "the `NAME` by which the hub lists the edge (default the name of the machine)")
	c.edgeFlags(cmd)
	return cmd
}

// readSecret reads a line from standard input, without the white space around it. On a terminal, it
// asks with prompt, and does not show what is typed.
func (c *cli) readSecret(ctx context.Context, prompt string) (string, error) {
	if !c.onTerminal() {
		text, err := await(ctx, func() ([]byte, error) { return io.ReadAll(io.LimitReader(c.stdin, 64<<10)) })
		return strings.TrimSpace(string(text)), err
	}
	fd := int(c.stdin.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return "", err
	}
	defer func() { _ = term.Restore(fd, before) }() // also if ctx ends while ReadPassword waits
	fmt.Fprint(c.stderr, prompt)
	defer fmt.Fprintln(c.stderr)
	text, err := await(ctx, func() ([]byte, error) { return term.ReadPassword(fd) })
	return strings.TrimSpace(string(text)), err
}

// showCopy returns a function that shows on a terminal how far a first copy has come, and one that
// ends this.
func (c *cli) showCopy() (show func(replica.Progress), end func()) {
	if !c.stderrIsTerminal() {
		return nil, func() {}
	}
	s := &status{terminal: c.stderr}
	var mu sync.Mutex
	return func(p replica.Progress) {
			mu.Lock()
			defer mu.Unlock()
			s.show(copyLine(p))
		}, func() {
			mu.Lock()
			defer mu.Unlock()
			s.erase()
		}
}

// copyLine says how far a first copy has come.
func copyLine(p replica.Progress) string {
	return fmt.Sprintf("copying %s... %d entries, %d MiB", p.Table, p.Entries, p.Bytes>>20)
}

func syncCommand(c *cli) *cobra.Command {
	f := &follower{cli: c, logFormat: newLogFormat()}
	var once, follow bool
	cmd := &cobra.Command{
		Use:   "sync",
		Short: "Bring an edge in line with its hub, once or all the time",
		Long: `Bring an edge in line with its hub. With --once, sync takes over what is new at the hub, pushes what is
new here and may be pushed, and ends. With --follow, it goes on until an interrupt or SIGTERM: what
changes at the hub is here at once, and the other way round. If the hub cannot be reached, it tries
again, and the edge goes on checking tokens meanwhile.

While sync --follow runs, other commands go through its socket beside the store's file. A Go program that
has the edge open does the same with replica.Open and Edge.Follow. sync --once then has nothing to do,
and says so with status 4.

--strict is for those commands: they refuse tokens when the hub was silent for longer.`,
		Example: examples(
			"latchkey sync --once --store till.db",
			"latchkey sync --follow --store till.db",
		),
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case once == follow:
				return usagef("sync needs one of --once and --follow")
			case once && (f.strict != 0 || f.noSocket || cmd.Flags().Changed("log-format") || c.quiet):
				return usagef("--strict, --no-socket, --log-format and --quiet are for --follow")
			case follow:
				return f.run(cmd.Context())
			}
			return c.syncOnce(cmd.Context())
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&once, "once", false, "synchronize once, and end")
	flags.BoolVar(&follow, "follow", false, "follow the hub until an interrupt")
	flags.StringVar(&c.replica.HubURL, "hub-url", "", "the `URL` where the hub is now (default where the edge joined it)")
	c.edgeFlags(cmd)
	flags.Var((*lifeFlag)(&f.strict), "strict", "with --follow, refuse logins when the hub was silent for longer than this, at least 90s (default never)")
	flags.BoolVar(&f.noSocket, "no-socket", false, "with --follow, open no socket beside the store's file, by which this user can administer the store meanwhile")
	flags.Var(&f.logFormat, "log-format", "the format of the log of --follow: text or json")
	flags.BoolVarP(&c.quiet, "quiet", "q", false, "with --follow, log only warnings and errors")
	_ = cmd.RegisterFlagCompletionFunc("log-format", cobra.FixedCompletions(f.logFormat.choices, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// syncOnce synchronizes the edge once.
func (c *cli) syncOnce(ctx context.Context) error {
	if _, err := c.file(); err != nil {
		return err
	}
	var end func()
	c.replica.Progress, end = c.showCopy()
	var status replica.Status
	err := c.changing(ctx, func(client *admin.Client) (err error) {
		status, err = client.SyncEdge(ctx)
		return err
	})
	end()
	if err != nil {
		return err
	}
	return c.print(status, func(w io.Writer) {
		fmt.Fprintf(w, "synchronized with %s, up to its commit %d\n", plain(status.HubURL), status.Sequence)
		if status.Pending > 0 {
			fmt.Fprintf(w, "%d changes wait here, because the hub has not taken them\n", status.Pending)
		}
	})
}

// follower is one run of sync --follow.
type follower struct {
	*cli
	strict    time.Duration
	noSocket  bool
	logFormat choiceFlag

	log *slog.Logger
}

// run follows the hub until ctx ends or a signal comes.
func (f *follower) run(ctx context.Context) error {
	path, err := f.existing()
	if err == nil {
		err = inFile(path)
	}
	if err != nil {
		return err
	}
	f.log = f.newLog(f.logFormat)
	opts := f.replica
	opts.Store, opts.Logger = latchkey.Options{}, f.log
	if f.strict != 0 {
		opts.Staleness = replica.Strict(f.strict)
	}
	var endCopy func()
	opts.Progress, endCopy = f.showCopy()
	defer endCopy()
	if !isEdge(path) {
		return fmt.Errorf("%s: %w", path, replica.ErrNotEdge)
	}
	s, err := openTrailed(ctx, path, opts, f.chainFor(path), f.wait)
	if err != nil {
		return err
	}
	return errors.Join(f.follow(ctx, s), s.close())
}

// follow follows the hub until ctx ends or a signal comes, and serves the socket.
func (f *follower) follow(ctx context.Context, s *openedStore) error {
	ctx, _, stop := onSignals(ctx)
	defer stop()
	defer s.watch(ctx, f.log)()
	served := s.served()
	served.Logger = f.log
	if !f.noSocket {
		defer openSocket(s.Store, f.store, served, f.log)()
	}
	status := s.edge.Status()
	err := f.print(status, func(w io.Writer) { fmt.Fprintf(w, "following %s as edge %s\n", plain(status.HubURL), status.Edge) })
	if err != nil {
		return err
	}
	if err := s.edge.Follow(ctx); ctx.Err() == nil {
		return err
	}
	f.log.Info("ending")
	return nil
}
