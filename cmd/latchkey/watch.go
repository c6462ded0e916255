package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
	"github.com/latchkeydb/latchkey/audit"
	"github.com/latchkeydb/latchkey/internal/durable"
)

// watcher is one run of the command watch. It delivers the entries of the audit trail: those of the
// program that has the file open, through its socket, or else those in the file. watch_outbox.go
// delivers the messages of an outbox.
type watcher struct {
	*cli
	file    string // of the store
	command string
	state   string // the file that remembers heads
	after   string // empty without --after
	outbox  string
	once    bool

	known bool // whether heads are known
	// heads says what was delivered. A chain of which nothing was delivered has no head.
	heads   map[audit.Chain]audit.Head
	unsaved error  // why the state file has older heads
	deaf    bool   // whether standard output takes nothing any more
	told    string // the trouble that was reported last
	look    look   // the last look at the file
	acked   uint64 // the last message of the outbox that was delivered and is not acknowledged
}

// Tests change the pauses.
var (
	// watchEvery is how often watch looks for a program and for a change of the file.
	watchEvery = time.Second
	// firstRetry is the pause before a command that failed runs again. Each further pause is twice
	// as long, up to longestRetry.
	firstRetry = time.Second
)

const longestRetry = time.Minute

//go:embed watch.txt
var watchHelp string

func watchCommand(c *cli) *cobra.Command {
	w := &watcher{cli: c}
	cmd := &cobra.Command{
		Use:   "watch",
		Short: "Follow the changes to a store",
		Long:  strings.TrimSpace(watchHelp),
		Example: examples(
			"latchkey watch",
			"latchkey watch --state watch.state --exec 'curl --fail --max-time 30 --json @- https://hooks.example.com/keys'",
			"latchkey watch --state watch.state --once >> changes.jsonl",
		),
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error { return w.run(cmd.Context()) },
	}
	flags := cmd.Flags()
	flags.StringVar(&w.command, "exec", "", "run `COMMAND` for each change, with the change on its standard input, until it succeeds")
	flags.StringVar(&w.state, "state", "", "the `FILE` that remembers the last change that was delivered")
	flags.StringVar(&w.after, "after", "", "without a state, begin after the entry with this `NUMBER`; 0 is the beginning (default from now on)")
	flags.StringVar(&w.outbox, "outbox", "", "deliver the messages of the outbox with this `NAME`, while no program has the store open")
	flags.BoolVar(&w.once, "once", false, "deliver the changes that are there, and end")
	_ = cmd.RegisterFlagCompletionFunc("state", cobra.FixedCompletions(nil, cobra.ShellCompDirectiveDefault))
	return cmd
}

// run delivers changes until ctx ends, or until there is nobody to deliver them to.
func (w *watcher) run(ctx context.Context) (err error) {
	if w.file, err = w.cli.file(); err != nil {
		return err
	}
	if _, err := audit.ParsePosition(w.after); err != nil {
		return usagef("--after takes the number of an entry, as latchkey audit show does")
	}
	if w.outbox != "" && (w.state != "" || w.after != "") {
		return usagef("an outbox remembers by itself what was delivered; leave out --state and --after")
	}
	if err := w.readState(); err != nil {
		return err
	}
	for {
		err := w.pass(ctx)
		switch {
		case ctx.Err() != nil: // the usual end
			return w.saveAtLast()
		case w.once, w.deaf, !w.known && !errors.Is(err, latchkey.ErrLocked):
			return errors.Join(err, w.saveAtLast())
		}
		w.tell(err)
		sleep(ctx, watchEvery)
	}
}

// sleep waits for d, or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// pass delivers what there is. If a program serves the store, pass follows the program until one of
// them ends.
func (w *watcher) pass(ctx context.Context) error {
	if w.outbox != "" {
		return w.drainOutbox(ctx)
	}
	client, end, err := w.dial(ctx, w.file)
	if err == nil {
		return errors.Join(w.follow(ctx, client), end())
	}
	fileErr := w.readFile(ctx)
	if errors.Is(fileErr, latchkey.ErrLocked) && !errors.Is(err, admin.ErrNotServed) {
		return err
	}
	return fileErr
}

// follow delivers changes while a program makes them.
func (w *watcher) follow(ctx context.Context, client *admin.Client) error {
	for e, err := range client.Changes(ctx, "") {
		switch {
		case errors.Is(err, io.EOF): // the program has ended
			return nil
		case err != nil:
			return err
		case e.Name == "problem":
			var p admin.Problem
			if err := json.Unmarshal(e.Data, &p); err != nil {
				return err
			}
			return &p
		case e.Name == "commit", e.Name == "change" && w.has(e.ID):
			continue // the entry came with an earlier one
		}
		// The stream says when to read the trail. Reading it shows what is lost, too.
		if err := w.catchUp(ctx, client); err != nil {
			return err
		}
		w.tell(nil)
		if w.once {
			break
		}
	}
	return nil
}

// has reports whether everything up to the change with an ID was delivered.
func (w *watcher) has(id string) bool {
	p, err := audit.ParsePosition(id)
	for chain, number := range p {
		if number > w.heads[chain].Number {
			return false
		}
	}
	return err == nil
}

// catchUp delivers the entries after heads.
func (w *watcher) catchUp(ctx context.Context, client *admin.Client) error {
	for {
		b, err := w.next(ctx, client)
		if err == nil {
			err = w.deliverBatch(ctx, b)
		}
		if err != nil || !b.more {
			return err
		}
	}
}

// readFile delivers the entries in the file, if the file has changed. The file is not open during
// the deliveries, so no program has to wait for them.
func (w *watcher) readFile(ctx context.Context) error {
	now, changed, err := w.look.again(w.file)
	if err != nil || !changed {
		return err
	}
	for {
		client, end, err := w.openHere(ctx, w.file, true, 0)
		if err != nil {
			return err
		}
		b, err := w.next(ctx, client)
		if err = errors.Join(err, end()); err == nil {
			err = w.deliverBatch(ctx, b)
		}
		if err != nil {
			return err
		}
		if !b.more {
			w.look = now
			return nil
		}
	}
}

// look is what the file of a store looked like at some time.
type look struct {
	id   durable.Identity
	info fs.FileInfo
	at   time.Time
}

// again looks at a file, and reports whether it may have changed since the last look.
//
// Errors: errNoStore; the operating system's error.
func (l look) again(file string) (now look, changed bool, err error) {
	now.at = time.Now()
	if now.info, err = os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		return now, false, fmt.Errorf("%s: %w", file, errNoStore)
	}
	if err == nil {
		now.id, err = durable.IdentityAt(file)
	}
	if err != nil {
		return now, false, err
	}
	// Some file systems tell the time of a change only to 2 seconds.
	const coarse = 3 * time.Second
	same := l.info != nil && l.id.Is(now.id) && l.info.Size() == now.info.Size() &&
		l.info.ModTime().Equal(now.info.ModTime()) && l.at.Sub(l.info.ModTime()) > coarse
	return now, !same, nil
}

// A batch is some entries that follow heads.
type batch struct {
	lost    bool // entries before these are missing
	entries []audit.Entry
	heads   map[audit.Chain]audit.Head // where to go on
	more    bool
}

// batchSize is how many entries are read before they are delivered.
const batchSize = 500

// next returns the entries that follow heads. If heads are not known yet, the batch is empty, and
// has the heads at which to begin.
func (w *watcher) next(ctx context.Context, client *admin.Client) (b batch, err error) {
	if !w.known {
		return w.first(ctx, client)
	}
	b.heads = maps.Clone(w.heads)
	after := audit.Position{}
	unmet := map[audit.Chain]bool{} // chains whose entry of the head was not met
	for chain, head := range w.heads {
		after[chain], unmet[chain] = head.Number-1, true
	}
	for e, err := range client.Audit(ctx, after) {
		last := b.heads[e.Chain]
		switch {
		case err != nil:
			return batch{}, err
		case unmet[e.Chain] && e.Head() == last:
			delete(unmet, e.Chain)
			continue
		case unmet[e.Chain] && e.Number == last.Number:
			return w.anew(ctx, client) // the trail of a backup, which went on in another way
		}
		b.lost = b.lost || e.Number != last.Number+1 || unmet[e.Chain]
		delete(unmet, e.Chain)
		b.entries, b.heads[e.Chain] = append(b.entries, e), e.Head()
		if b.more = len(b.entries) == batchSize; b.more {
			return b, nil
		}
	}
	if len(unmet) > 0 {
		return w.anew(ctx, client) // the trail of a backup, which is shorter
	}
	return b, nil
}

// first returns an empty batch with the heads at which to begin without a state.
func (w *watcher) first(ctx context.Context, client *admin.Client) (batch, error) {
	if w.after == "" {
		heads, err := w.current(ctx, client)
		return batch{heads: heads}, err
	}
	b := batch{heads: map[audit.Chain]audit.Head{}, more: true}
	after, err := audit.ParsePosition(w.after)
	for chain, number := range after {
		if number == 0 {
			continue
		}
		page, err := client.Chain(chain).AuditPage(ctx, audit.Position{chain: number - 1}, 1)
		if err != nil {
			return batch{}, err
		}
		// If the entry was pruned, next says so.
		if len(page.Items) > 0 && page.Items[0].Number == number {
			b.heads[chain] = page.Items[0].Head()
		}
	}
	return b, err
}

// current returns the heads that the trail has now.
func (w *watcher) current(ctx context.Context, client *admin.Client) (map[audit.Chain]audit.Head, error) {
	all, err := client.AuditHeads(ctx)
	heads := map[audit.Chain]audit.Head{}
	for _, head := range all {
		heads[head.Chain] = head
	}
	return heads, err
}

// anew returns an empty batch behind which nothing of the trail was delivered.
func (w *watcher) anew(ctx context.Context, client *admin.Client) (batch, error) {
	heads, err := w.current(ctx, client)
	return batch{lost: true, heads: heads}, err
}

// lostLine is delivered in place of changes that can no longer be had.
type lostLine struct {
	Lost bool `json:"lost"`
}

// deliverBatch delivers a batch and remembers its heads.
func (w *watcher) deliverBatch(ctx context.Context, b batch) error {
	if b.lost {
		if err := w.deliver(ctx, lostLine{true}); err != nil {
			return err
		}
	}
	for _, e := range b.entries {
		if err := w.deliver(ctx, e); err != nil {
			return err
		}
		heads := maps.Clone(w.heads)
		heads[e.Chain] = e.Head()
		w.remember(heads)
	}
	if !w.known && len(b.heads) == 0 && w.after == "" {
		w.warn("the store has no audit trail, and without one there are no changes to follow", "latchkey audit begin begins a trail")
	}
	if !w.known || !maps.Equal(w.heads, b.heads) {
		w.remember(b.heads)
	}
	if !w.known && w.unsaved != nil {
		return w.unsaved
	}
	w.known = true
	return nil
}

// deliver prints one change, or runs the command for it until the command succeeds.
//
// Errors: the operating system's error of standard output; ctx's error.
func (w *watcher) deliver(ctx context.Context, change any) error {
	var text bytes.Buffer
	if err := writeJSON(&text, change); err != nil {
		return err
	}
	if w.command == "" {
		_, err := w.stdout.Write(text.Bytes())
		w.deaf = err != nil
		return err
	}
	for pause := firstRetry; ; pause = min(2*pause, longestRetry) {
		err := w.runCommand(ctx, text.Bytes())
		if err == nil || ctx.Err() != nil {
			return err
		}
		w.warn(fmt.Sprintf("the command of --exec failed: %v; it runs again for the same change in %v", err, pause), "")
		sleep(ctx, pause)
	}
}

// killAfter is how long the command has to end when watch is told to end.
const killAfter = 5 * time.Second

// runCommand runs the command for one change.
func (w *watcher) runCommand(ctx context.Context, change []byte) error {
	cmd := shell(ctx, w.command)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(change), w.stdout, w.stderr
	cmd.Env = append(cmd.Environ(), "LATCHKEY_STORE="+w.file)
	cmd.Cancel = func() error {
		if err := cmd.Process.Signal(os.Interrupt); err != nil { // as on Windows
			return cmd.Process.Kill()
		}
		return nil
	}
	cmd.WaitDelay = killAfter
	err := cmd.Run()
	if cmd.ProcessState != nil && cmd.ProcessState.Success() && !errors.Is(err, exec.ErrWaitDelay) {
		return nil // also if ctx has ended meanwhile
	}
	return err
}

// readState reads where to go on.
func (w *watcher) readState() error {
	if w.state == "" {
		return nil
	}
	text, err := os.ReadFile(w.state)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	w.heads = map[audit.Chain]audit.Head{}
	lines := strings.Fields(string(text))
	if len(lines) == 0 {
		return fmt.Errorf("%s: %w", w.state, errState)
	}
	for _, line := range lines {
		head, err := audit.ParseHead(line)
		if err != nil {
			return fmt.Errorf("%s: %w: %w", w.state, errState, err)
		}
		if head.Number > 0 {
			w.heads[head.Chain] = head
		}
	}
	w.known = true
	return nil
}

// errState means that the state file of watch has something else in it.
var errState = errors.New("the file is no state of latchkey watch")

// remember notes that everything up to heads was delivered. If the state cannot be written, because
// the disk is full for example, watch goes on: changes are then delivered again after a restart.
func (w *watcher) remember(heads map[audit.Chain]audit.Head) {
	before := w.unsaved
	w.heads = heads
	if w.unsaved = w.save(); w.unsaved != nil && before == nil && w.known {
		w.warn(line(text(w.unsaved)), "see that the state can be written, or changes are delivered again after a restart")
	}
}

// save writes the state file, with a head on each line. Before the first entry, the file has the
// zero head.
func (w *watcher) save() error {
	if w.state == "" {
		return nil
	}
	return durable.Replace(w.state, func(tmp *os.File) (err error) {
		if len(w.heads) == 0 {
			_, err = fmt.Fprintln(tmp, audit.Head{})
		}
		for _, chain := range slices.Sorted(maps.Keys(w.heads)) {
			_, lineErr := fmt.Fprintln(tmp, w.heads[chain])
			err = errors.Join(err, lineErr)
		}
		return err
	})
}

// saveAtLast writes the state once more if it could not be written before.
func (w *watcher) saveAtLast() error {
	if w.unsaved == nil {
		return nil
	}
	return w.save()
}

// tell warns of err, unless it was the last thing that tell warned of.
func (w *watcher) tell(err error) {
	message, advice := "", ""
	if err != nil {
		message = line(text(err))
		_, advice = outcome(&cobra.Command{Use: "watch"}, err)
	}
	if errors.Is(err, latchkey.ErrLocked) {
		message += ", and that program serves no socket"
		advice = "have it call admin.Listen; until it ends, no change can be seen"
	}
	if message != "" && message != w.told {
		w.warn(message, advice)
	}
	w.told = message
}

// warn writes a warning to standard error.
func (c *cli) warn(message, advice string) {
	if c.json {
		_ = writeJSON(c.stderr, struct {
			Warning string `json:"warning"`
			Advice  string `json:"advice,omitempty"`
		}{message, advice})
		return
	}
	if advice != "" {
		message += "; " + advice
	}
	fmt.Fprintf(c.stderr, "latchkey: warning: %s\n", message)
}
