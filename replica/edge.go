package replica

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/access"
	"github.com/latchkeydb/latchkey/internal/replication"
)

// An Edge is a store that follows a hub. It is safe for concurrent use. Close it when done.
type Edge struct {
	path  string
	opts  Options
	store *latchkey.Store
	core  atomic.Pointer[replication.Edge] // nil until the store is open
	clock *hubClock
	word  word

	turn   chan struct{} // has an element while Sync or Follow runs
	acks   [2]pace       // of confirmations, by what they confirm; for Follow alone
	closed chan struct{} // closed by Close
	ends   sync.Once
	keeper sync.WaitGroup // the goroutine that looks at the clocks
	calls  sync.WaitGroup // Sync and Follow

	mu         sync.Mutex // guards the fields below
	closing    bool
	following  bool
	credential *credential
	connected  bool
	cloned     bool
	lastErr    error
}

// Join makes the store at path an edge of the hub at hubURL, by an invitation of the hub, and
// copies what the edge gets. opts may be nil. The hub's URL begins with "https://", or with
// "http://" if the hub is on the same machine: see [Options].AllowPlainHTTP.
//
// Join makes the file. A file that exists is refused, unless it is an edge in the domain of the hub
// that the hub does not know any more, or whose credential is gone: such an edge joins again, and
// keeps what it has. If Join is interrupted, call it again with the same arguments within the hour.
// If the first copy had begun, [Open] and [Edge.Follow] go on with the copy.
//
// Errors: [ErrInvitation]; [ErrWrongHub]; [ErrJoined]; [ErrNotEdge];
// [latchkey.ErrInvalidOptions]; [ErrHub]; an error of [latchkey.Open]; ctx's error; the network's
// error.
func Join(ctx context.Context, hubURL, invitation, path string, opts *Options) (*Edge, error) {
	j, err := newJoiner(hubURL, invitation, path, opts)
	if err != nil {
		return nil, wrapf(err, "join")
	}
	e, err := j.join(ctx)
	return e, wrapf(err, "join the hub at %s with %s", hubURL, path)
}

// Open opens an edge that has joined. It needs no network. opts may be nil.
//
// Errors: [ErrNotEdge]; [latchkey.ErrInvalidOptions]; an error of [latchkey.Open].
func Open(path string, opts *Options) (*Edge, error) {
	e, err := open(path, opts)
	return e, wrapf(err, "open edge %s", path)
}

func open(path string, opts *Options) (*Edge, error) {
	o, err := opts.checked()
	if err != nil {
		return nil, err
	}
	c, err := readCredential(path)
	switch {
	case isMissing(err):
		return nil, fmt.Errorf("%w: there is no file %s", ErrNotEdge, credentialPath(path))
	case err != nil:
		return nil, err
	case c.Token == "":
		return nil, fmt.Errorf("%w: it has not joined to the end: join again", ErrNotEdge)
	}
	if o.HubURL != "" {
		c.Hub = o.HubURL
	}
	if _, err := checkURL(c.Hub, len(c.Pins) > 0, o.AllowPlainHTTP); err != nil {
		return nil, err
	}
	o.Store.MustExist = true
	return openEdge(path, o, c)
}

// checked returns a copy of the options.
//
// Errors: [latchkey.ErrInvalidOptions].
func (o *Options) checked() (Options, error) {
	if o == nil {
		return Options{}, nil
	}
	if o.Store.ReadOnly {
		return Options{}, fmt.Errorf("%w: an edge writes to its store, so it cannot be ReadOnly", latchkey.ErrInvalidOptions)
	}
	return *o, o.Staleness.validate()
}

// openEdge opens the store of an edge, and begins to look at the clocks. The credential belongs to
// the edge from then on.
func openEdge(path string, o Options, c *credential) (*Edge, error) {
	e := &Edge{
		path: path, opts: o, credential: c, clock: newHubClock(o.Store.Now),
		turn: make(chan struct{}, 1), closed: make(chan struct{}),
	}
	e.opts.sessions = tls.NewLRUClientSessionCache(4)
	e.word.bound = o.Staleness.bound
	e.word.stale.Store(e.word.bound > 0) // until the file was read
	store := o.Store
	store.Now, store.OnChange = e.clock.Now, e.onChange
	if e.word.bound > 0 {
		store.Gate = e.gate
	}
	s, err := latchkey.Open(path, &store)
	if err != nil {
		return nil, err
	}
	e.store = s
	if err := e.begin(); err != nil {
		_ = s.Close()
		return nil, err
	}
	e.keeper.Go(e.keep)
	return e, nil
}

func (e *Edge) begin() error {
	ctx := context.Background()
	c := e.credential
	if e.store.DomainID() != c.Domain {
		return fmt.Errorf("%w: the store is of domain %s, and the credential of domain %s", ErrNotEdge, e.store.DomainID(), c.Domain)
	}
	core, err := replication.OpenEdge(ctx, access.Of(e.store))
	if err != nil {
		return err
	}
	e.core.Store(core)
	if err := e.word.open(ctx, e.store, e.clock.device()); err != nil {
		return err
	}
	if c.Cloned {
		if err := access.NewReplicaID(ctx, e.store); err != nil {
			return err
		}
	}
	next := c.clone()
	if c.Before != uuid.Nil {
		next.Earlier = slices.Insert(next.Earlier, 0, c.Before)
		next.Earlier = next.Earlier[:min(len(next.Earlier), replication.MaxEarlier)]
	}
	next.Before, next.Cloned = c.Instance, false
	if next.Instance, err = uuid.NewRandom(); err != nil {
		return err
	}
	access.AddFinding(e.store, e.finding)
	return e.setCredential(next)
}

// An edge that is not strict has a finding after so much time without a word of the hub. An edge
// that syncs now and then has more time.
const (
	silentWhileFollowing = 5 * time.Minute
	silentAfter          = 36 * time.Hour
)

// finding is what an edge adds to the Health of its store.
func (e *Edge) finding(context.Context) error {
	e.mu.Lock()
	following, cloned, err := e.following, e.cloned, e.lastErr
	e.mu.Unlock()
	var findings []error
	if cloned {
		findings = append(findings, ErrCloned)
	}
	at, age := e.word.last(e.clock.device())
	bound := silentAfter
	if following {
		bound = silentWhileFollowing
	}
	if e.word.bound > 0 {
		bound = min(bound, e.word.bound/2)
	}
	var silent error
	switch {
	case e.word.stale.Load():
		silent = latchkey.ErrStale
	case at.IsZero() || age > bound:
		silent = ErrSilent
	}
	switch {
	case silent == nil:
	case at.IsZero():
		findings = append(findings, fmt.Errorf("%w: it has never said that the edge has everything", silent))
	default:
		findings = append(findings, fmt.Errorf("%w: the last word is %s old", silent, age.Round(time.Second)))
	}
	if err != nil {
		findings = append(findings, err)
	}
	return errors.Join(findings...)
}

// setCredential writes a credential and uses it.
func (e *Edge) setCredential(c *credential) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := c.write(e.path); err != nil {
		return err
	}
	e.credential = c
	return nil
}

// cred returns the credential, which must not be changed.
func (e *Edge) cred() *credential {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.credential
}

// onChange is the hook of the edge's store: it asks the core, and then calls the hook of the
// program.
func (e *Edge) onChange(tx *latchkey.Tx, c latchkey.Change) error {
	tables := access.Tables(tx)
	// Without a core, the store is being opened, and merges what a later version could not read.
	if core := e.core.Load(); core != nil && !tables.Merging {
		change := replication.Change{User: c.User, Key: c.Key, Group: c.Group, Scopes: c.Scopes.All()}
		for _, action := range c.Actions {
			change.Actions = append(change.Actions, string(action))
		}
		if err := core.Changed(tables, change); err != nil {
			return edgeError(err)
		}
	}
	if e.opts.Store.OnChange != nil {
		return e.opts.Store.OnChange(tx, c)
	}
	return nil
}

// gate is the gate of a strict edge's store.
func (e *Edge) gate() error {
	if e.opts.Store.Gate != nil {
		if err := e.opts.Store.Gate(); err != nil {
			return err
		}
	}
	if e.word.stale.Load() {
		return latchkey.ErrStale
	}
	return nil
}

// edgeError returns an error of the core as callers know it.
func edgeError(err error) error {
	switch {
	case errors.Is(err, replication.ErrNotPermitted):
		return fmt.Errorf("%w: %w", latchkey.ErrNotPermitted, err)
	case errors.Is(err, replication.ErrMessage), errors.Is(err, replication.ErrNewer), errors.Is(err, replication.ErrFormat):
		return fmt.Errorf("%w: %w", ErrHub, err)
	}
	return err
}

func (e *Edge) log(level slog.Level, text string, args ...any) {
	if e.opts.Logger != nil {
		e.opts.Logger.Log(context.Background(), level, text, args...)
	}
}

// Store returns the store of the edge. [Edge.Close] closes it.
func (e *Edge) Store() *latchkey.Store { return e.store }

// A Status is what an edge tells about itself.
type Status struct {
	HubURL string    `json:"hub_url"`
	Edge   uuid.UUID `json:"edge"` // the ID by which the hub knows the edge
	Domain uuid.UUID `json:"domain"`
	Policy Policy    `json:"policy"`
	// Connected reports whether a stream of the hub is open now.
	Connected bool `json:"connected"`
	// Copied reports whether the first copy has come in whole.
	Copied bool `json:"copied"`
	// Sequence is the last commit of the hub that the edge has taken over.
	Sequence uint64 `json:"sequence"`
	// LastWord is when the hub last said that the edge has everything, by the clock of the device.
	// It is the zero time if it never did. Age is how long ago that is.
	LastWord time.Time     `json:"last_word,omitzero"`
	Age      time.Duration `json:"age"`
	// Stale reports whether logins are refused with [latchkey.ErrStale].
	Stale bool `json:"stale"`
	// Pending is how many records were changed here that the hub does not know yet.
	Pending uint64 `json:"pending"`
	// Refused is why the hub refused the last push, or "".
	Refused string `json:"refused,omitempty"`
	// Cloned reports whether the hub has said that another device uses the edge's credential.
	Cloned bool `json:"cloned,omitempty"`
	// KeyIssued is when the edge got its present key, which it renews after 90 days.
	KeyIssued time.Time `json:"key_issued,omitzero"`
	// Err is why the last attempt to reach the hub failed, or "".
	Err string `json:"error,omitempty"`
}

// Status tells how the edge is. It asks nobody and reads a few records, so a program can ask at
// each operation that needs to be stricter than [Options].Staleness. After [Edge.Close] it tells
// less.
func (e *Edge) Status() Status {
	e.mu.Lock()
	c := e.credential
	status := Status{
		HubURL: c.Hub, Edge: c.Edge, Domain: c.Domain, KeyIssued: c.Issued,
		Connected: e.connected, Cloned: e.cloned,
	}
	if e.lastErr != nil {
		status.Err = e.lastErr.Error()
	}
	e.mu.Unlock()
	status.LastWord, status.Age = e.word.last(e.clock.device())
	status.Stale = e.word.stale.Load()
	if core, err := e.core.Load().Status(context.Background()); err == nil {
		status.Policy, status.Sequence, status.Pending = policyOf(core.Policy), core.Cursor.At.Sequence, core.Pending
		status.Copied = core.Cursor.Incarnation != uuid.Nil && !core.Copying
		status.Refused, status.Cloned = core.Refused, status.Cloned || core.Cloned
	}
	return status
}

// Digest returns the sum of the hashes of the users, keys and groups that the edge has, as
// docs/replication.md has it. Two edges with the same policy that have taken over the same commit
// have the same sum.
//
// Errors: an error of [latchkey.Store.View].
func (e *Edge) Digest(ctx context.Context) (sum [16]byte, err error) {
	sum, err = e.core.Load().Digest(ctx)
	return sum, wrapf(err, "digest")
}

// Close ends Follow and Sync, and closes the store. Closing a closed edge does nothing.
//
// Errors: those of [latchkey.Store.Close].
func (e *Edge) Close() (err error) {
	e.ends.Do(func() {
		e.mu.Lock()
		e.closing = true
		e.mu.Unlock()
		close(e.closed)
		e.calls.Wait()
		e.keeper.Wait()
		_ = e.word.write(context.Background(), e.store) // otherwise the edge is stale sooner
		err = e.store.Close()
	})
	return err
}

// enter begins a call that Close waits for and ends. The caller uses the returned context, and
// calls the returned function at the end.
//
// Errors: [latchkey.ErrClosed]; [ErrFollowing]; ctx's error.
func (e *Edge) enter(ctx context.Context, follow bool) (context.Context, func(), error) {
	e.mu.Lock()
	var err error
	switch {
	case e.closing:
		err = latchkey.ErrClosed
	case e.following:
		err = ErrFollowing
	default:
		e.following = follow
		e.calls.Add(1)
	}
	e.mu.Unlock()
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-e.closed:
			cancel(latchkey.ErrClosed)
		case <-ctx.Done():
		}
	}()
	leave := func() {
		cancel(nil)
		if follow {
			e.mu.Lock()
			e.following = false
			e.mu.Unlock()
		}
		e.calls.Done()
	}
	select {
	case e.turn <- struct{}{}:
		return ctx, func() { <-e.turn; leave() }, nil
	case <-ctx.Done():
		err := context.Cause(ctx)
		leave()
		return nil, nil, err
	}
}
