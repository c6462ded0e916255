package replica

import (
	"bufio"
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/replication"
)

const (
	// silence is how long a hub can say nothing. It speaks every beatEvery.
	silence = 3 * beatEvery
	// An edge that lost its hub waits between firstPause and lastPause before it tries again.
	firstPause = time.Second
	lastPause  = time.Minute
	// ackWithin is within which time an edge confirms what it has taken over, at a random moment,
	// so that edges that have heard of a change at once do not all answer at once.
	ackWithin = 2 * time.Second
	// afterRefusal is how long an edge does not push after the hub has refused a push.
	afterRefusal = time.Minute
	// usesEvery is how often an edge that follows pushes last uses, which its store writes as
	// often.
	usesEvery = time.Hour
	// maxReceive bounds the bytes of messages in memory, and pushSize those of a push.
	maxReceive = 2 << 20
	pushSize   = 1 << 20
	readBuffer = 64 << 10
	// maxRounds bounds how often a Sync begins again, because the hub has ended a stream early.
	maxRounds = 16
)

// errSilent means that nothing came from the hub for too long.
var errSilent = fmt.Errorf("%w: it was silent for %s", ErrHub, silence)

// Sync takes over what is new at the hub, pushes what is new here and may be pushed, and takes over
// what the push has brought. It leaves no connection open. A Sync waits for another one to end.
//
// Errors: [ErrFollowing]; [ErrUnknownEdge]; [ErrRevoked]; [ErrWrongHub]; [ErrRefused]; [ErrHub];
// [latchkey.ErrClosed]; an error of [latchkey.Store.Update]; ctx's error; the network's error.
func (e *Edge) Sync(ctx context.Context) error {
	ctx, leave, err := e.enter(ctx, false)
	if err != nil {
		return wrapf(err, "sync")
	}
	defer leave()
	err = e.sync(ctx)
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	e.noteErr(err)
	return wrapf(err, "sync")
}

func (e *Edge) sync(ctx context.Context) error {
	s, err := e.newSession()
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.pullAll(ctx); err != nil {
		return err
	}
	e.writeUses(ctx)
	pushed, err := s.push(ctx, true)
	if err == nil && pushed {
		err = s.pullAll(ctx)
	}
	return err
}

// writeUses writes the last uses of tokens that are in memory alone, if the edge pushes them.
func (e *Edge) writeUses(ctx context.Context) {
	status, err := e.core.Load().Status(ctx)
	if err != nil || status.Policy.Push < replication.PushUse {
		return
	}
	for range e.store.LastUses(ctx, e.store.Now()) { // which writes them first
		break
	}
	e.core.Load().UsesDue()
}

// Follow keeps the edge like the hub until ctx ends: it takes over what is new at the hub as it
// comes, and pushes what is new here. When the connection is lost, Follow connects again, after
// pauses that grow to a minute.
//
// Errors: ctx's error when ctx has ended; [ErrUnknownEdge]; [ErrRevoked]; [ErrFollowing];
// [latchkey.ErrClosed]; an error of the store that will not go away by itself:
// [latchkey.ErrCorrupt], [latchkey.ErrFileChanged], [latchkey.ErrSyncFailed],
// [latchkey.ErrNewerFormat] or [latchkey.ErrReadOnly].
func (e *Edge) Follow(ctx context.Context) error {
	ctx, leave, err := e.enter(ctx, true)
	if err != nil {
		return wrapf(err, "follow")
	}
	defer leave()
	for pause := firstPause; ; {
		began := time.Now()
		err := e.followOnce(ctx)
		e.setConnected(false)
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		e.noteErr(err)
		if ctx.Err() != nil || isFinal(err) {
			return wrapf(err, "follow")
		}
		if err != nil {
			e.log(slog.LevelWarn, "the edge has lost its hub, and tries again", "error", err)
		}
		if time.Since(began) > lastPause {
			pause = firstPause
		}
		select {
		case <-time.After(rand.N(pause)):
		case <-ctx.Done():
			e.noteErr(nil)
			return wrapf(context.Cause(ctx), "follow")
		}
		pause = min(2*pause, lastPause)
	}
}

// isFinal reports whether an error will not go away by itself.
func isFinal(err error) bool {
	for _, final := range []error{
		ErrUnknownEdge, ErrRevoked, latchkey.ErrClosed, latchkey.ErrCorrupt, latchkey.ErrFileChanged,
		latchkey.ErrSyncFailed, latchkey.ErrNewerFormat, latchkey.ErrReadOnly,
	} {
		if errors.Is(err, final) {
			return true
		}
	}
	return false
}

func (e *Edge) followOnce(ctx context.Context) error {
	s, err := e.newSession()
	if err != nil {
		return err
	}
	defer s.close()
	// A stream ends when it was a first copy, or when the edge has to compare.
	for range maxRounds {
		if err := s.pull(ctx, true); err != nil || !s.more {
			return err
		}
	}
	return nil
}

func (e *Edge) setConnected(connected bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.connected = connected
	if connected {
		e.lastErr = nil
	}
}

func (e *Edge) noteErr(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.lastErr = err
}

// A session is what an edge sends its requests in: some connections to the hub.
type session struct {
	e    *Edge
	core *replication.Edge
	*client

	more  bool        // the last stream has ended, and another one should begin
	moved atomic.Bool // something has come, and the hub does not know that it has
	first progress
}

func (e *Edge) newSession() (*session, error) {
	c := e.cred()
	u, err := checkURL(c.Hub, len(c.Pins) > 0, e.opts.AllowPlainHTTP)
	if err != nil {
		return nil, err
	}
	return &session{e: e, core: e.core.Load(), client: newClient(&e.opts, u, c.Pins, e.seenPin)}, nil
}

// send sends a request with the edge's token. If the hub does not know the token, send tries the
// former one. If the token has expired, send exchanges it.
//
// Errors: those of the client.
func (s *session) send(ctx context.Context, path string, body []byte, compress bool) (answer *http.Response, err error) {
	c := s.e.cred()
	for _, token := range []string{c.Token, c.Former} {
		if token == "" {
			continue
		}
		answer, err = s.post(ctx, path, token, typeMessages, body, compress)
		if isCode(err, codeExpired) {
			if token, err = s.renew(ctx, token); err == nil {
				return s.post(ctx, path, token, typeMessages, body, compress)
			}
		}
		if isCode(err, codeUnknown) {
			continue
		}
		if err == nil && token != c.Token {
			s.e.log(slog.LevelWarn, "the hub knows only the edge's former key, perhaps because it was restored")
			next := c.clone()
			next.Token, next.Former = c.Former, c.Token
			if err := s.e.setCredential(next); err != nil {
				_ = answer.Body.Close()
				return nil, err
			}
		}
		return answer, err
	}
	return nil, err
}

// ask is send, and returns the body of the answer.
func (s *session) ask(ctx context.Context, path string, body []byte) ([]byte, error) {
	answer, err := s.send(ctx, path, body, true)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(io.LimitReader(answer.Body, maxReply+1))
	if err == nil && len(b) > maxReply {
		err = fmt.Errorf("%w: its answer has more than %d bytes", ErrHub, maxReply)
	}
	return b, err
}

// maxReply bounds the answers to pushes and comparisons.
const maxReply = 16 << 20

// renew exchanges a token for a new one, and keeps both.
func (s *session) renew(ctx context.Context, old string) (token string, err error) {
	b, err := s.client.ask(ctx, pathRenew, old, typeJSON, nil, false, maxAnswer)
	if err != nil {
		return "", err
	}
	var answer renewAnswer
	if json.Unmarshal(b, &answer) != nil || answer.Token == "" {
		return "", fmt.Errorf("%w: its answer has no new token", ErrHub)
	}
	next := s.e.cred().clone()
	next.Token, next.Former, next.Issued = answer.Token, old, answer.Issued
	return answer.Token, s.e.setCredential(next)
}

// renewIfDue exchanges the token of the edge when it is 90 days old, by the time of the hub.
func (s *session) renewIfDue(ctx context.Context, now time.Time) {
	c := s.e.cred()
	if now.Before(c.Issued.Add(renewAfter)) {
		return
	}
	if _, err := s.renew(ctx, c.Token); err != nil {
		s.e.log(slog.LevelWarn, "the edge could not renew its key", "error", err)
	}
}

// pullAll takes over everything that the hub has.
func (s *session) pullAll(ctx context.Context) error {
	for range maxRounds {
		if err := s.pull(ctx, false); err != nil || !s.more {
			return err
		}
	}
	return fmt.Errorf("%w: it has ended %d streams in a row", ErrHub, maxRounds)
}

// pull takes over what a stream brings, until the stream ends.
func (s *session) pull(ctx context.Context, follow bool) error {
	s.more = false
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watchdog := time.AfterFunc(answerTimeout, func() { cancel(errSilent) })
	defer watchdog.Stop()
	hello := s.core.Hello()
	c := s.e.cred()
	hello.Build, hello.Follow, hello.Instance, hello.Before = build(), follow, c.Instance, c.Before
	hello.Earlier = c.Earlier
	answer, err := s.send(ctx, pathPull, hello.Encode(), false)
	if err == nil {
		r := receiver{session: s, follow: follow, watchdog: watchdog, cancel: cancel, body: bufio.NewReaderSize(answer.Body, readBuffer)}
		err = r.run(ctx)
		_ = answer.Body.Close()
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if err == nil && s.more {
		return s.compareIfAsked(ctx, watchdog)
	}
	return err
}

// A receiver takes over the messages of a stream. One goroutine reads messages while another one
// applies those that came before, so that a first copy keeps hub and edge busy.
type receiver struct {
	*session
	follow   bool
	watchdog *time.Timer // stands while the reader waits for the other goroutine
	cancel   context.CancelCauseFunc
	body     *bufio.Reader

	how     replication.How
	beaten  bool           // the hub has said that the edge has everything
	uses    time.Time      // when last uses were last pushed
	revoked bool           // a revocation has come since the last Mark
	pushing chan kick      // nil unless changes here are pushed
	stop    func()         // ends the pushing
	pushers sync.WaitGroup // the goroutines that push
}

// A batch is what a stream has brought, or the error that ended it.
type batch struct {
	messages   []replication.Message
	at, device time.Time // when the last message came
	err        error
}

// A kick makes the pusher do something.
type kick int

const (
	confirmSoon  kick = iota // that a revocation has come
	confirmLater             // that something else has come
	retry                    // to push, because the policy is another one, or last uses are due
)

func (r *receiver) run(ctx context.Context) error {
	batches := make(chan batch, 1)
	var reader sync.WaitGroup
	reader.Go(func() { r.read(ctx, batches) })
	defer reader.Wait()
	defer r.endPushing()
	for {
		b := <-batches
		err := r.receive(ctx, b)
		if err != nil {
			r.cancel(err) // the reader may wait for the hub
			for b.err == nil {
				b = <-batches
			}
			return err
		}
		if b.err != nil {
			return r.end(b.err)
		}
	}
}

// read reads messages until the stream ends. The last batch has the error.
func (r *receiver) read(ctx context.Context, batches chan<- batch) {
	var b batch
	send := func() bool {
		r.watchdog.Stop() // the disk may be slow
		b.at, b.device = time.Now(), r.e.clock.device()
		select {
		case batches <- b:
		case <-ctx.Done():
			b.err = context.Cause(ctx)
			batches <- b // run receives until the error
		}
		ended := b.err != nil
		b = batch{}
		return !ended
	}
	follows := false
	for first, size := true, 0; ; first = false {
		r.watchdog.Reset(silence)
		m, err := replication.ReadMessage(r.body)
		w, isWelcome := m.(replication.Welcome)
		if err == nil && isWelcome != first {
			err = fmt.Errorf("%w: a stream begins with a welcome, and has no other", ErrHub)
		}
		if err != nil {
			b.err = edgeError(err)
			send()
			return
		}
		if isWelcome {
			follows = r.follow && w.How == replication.Resume
		}
		b.messages = append(b.messages, m)
		size += sizeOf(m)
		if size >= maxReceive || isWelcome || follows && r.body.Buffered() == 0 {
			if size = 0; !send() {
				return
			}
		}
	}
}

// end is called when everything was applied that came.
func (r *receiver) end(err error) error {
	if !errors.Is(err, io.EOF) {
		return err
	}
	// A stream that does not follow ends with a beat. Without one, there is more.
	r.more = r.how != replication.Resume || !r.follow && !r.beaten
	r.first.tell(r.e.opts.Progress, true)
	return nil
}

// receive takes over what has come.
func (r *receiver) receive(ctx context.Context, b batch) error {
	for _, m := range b.messages { // the core resets the store's time if the hub's was reset
		switch m := m.(type) {
		case replication.Welcome:
			r.e.clock.hear(m.Time, b.at, b.device)
		case replication.Beat:
			r.e.clock.hear(m.Time, b.at, b.device)
		}
	}
	if len(b.messages) > 0 {
		if err := r.core.Receive(ctx, b.messages, b.device); err != nil {
			return edgeError(err)
		}
	}
	for _, m := range b.messages {
		if err := r.note(ctx, m, b); err != nil {
			return err
		}
	}
	r.first.tell(r.e.opts.Progress, false)
	return nil
}

// note does what a message asks for besides what the core does.
func (r *receiver) note(ctx context.Context, m replication.Message, b batch) error {
	switch m := m.(type) {
	case replication.Welcome:
		r.how = m.How
		r.e.setConnected(true)
		r.renewIfDue(ctx, m.Time)
		if r.follow && r.how == replication.Resume {
			r.beginPushing(ctx)
		}
	case replication.Entry:
		r.first.add(m)
	case replication.Beat:
		r.beaten = true
		r.renewIfDue(ctx, m.Time)
		if r.follow && time.Since(r.uses) >= usesEvery {
			r.uses = time.Now()
			r.core.UsesDue()
			r.kick(retry)
		}
		return r.e.heardWord(ctx, b)
	case replication.Record:
		r.moved.Store(true)
		r.revoked = r.revoked || len(m.MAC) > 0
	case replication.Forget, replication.Replace:
		r.moved.Store(true)
	case replication.Mark:
		if r.revoked {
			r.kick(confirmSoon)
		} else if r.moved.Load() {
			r.kick(confirmLater)
		}
		r.revoked = false
	case replication.NewPolicy:
		r.kick(retry)
	case replication.NextPin:
		return r.e.nextPin(m.Pin)
	case replication.Cloned:
		r.e.mu.Lock()
		r.e.cloned = true
		r.e.mu.Unlock()
		r.e.log(slog.LevelError, "another device uses the credential of this edge")
		next := r.e.cred().clone()
		next.Cloned = true
		return r.e.setCredential(next)
	}
	return nil
}

// sizeOf returns about how many bytes a message takes.
func sizeOf(m replication.Message) int {
	const rest = 128
	switch m := m.(type) {
	case replication.Entry:
		return rest + len(m.Key) + len(m.Value)
	case replication.Record:
		return rest + len(m.Copy.Key) + len(m.Copy.Sealed)
	case replication.Replace:
		return rest + len(m.Copy.Key) + len(m.Copy.Sealed)
	case replication.Secrets:
		return rest + len(m.Export)
	}
	return rest
}

// heardWord notes that the edge has everything.
func (e *Edge) heardWord(ctx context.Context, b batch) error {
	if e.word.hear(e.store.Now().Add(-time.Since(b.at)), b.device, b.at) {
		return e.word.write(ctx, e.store)
	}
	return nil
}

// nextPin accepts another key of the hub beside the present one.
func (e *Edge) nextPin(pin []byte) error {
	c := e.cred()
	if len(pin) != pinSize || len(c.Pins) == 0 || hasPin(c.Pins, pin) {
		return nil
	}
	next := c.clone()
	next.Pins = append(next.Pins[:1], pin)
	return e.setCredential(next)
}

func hasPin(pins [][]byte, pin []byte) bool {
	for _, p := range pins {
		if subtle.ConstantTimeCompare(p, pin) == 1 {
			return true
		}
	}
	return false
}

// seenPin puts the pin of the key that the hub has shown first. The first one stays when the hub
// announces another.
func (e *Edge) seenPin(pin []byte) {
	c := e.cred()
	if subtle.ConstantTimeCompare(c.Pins[0], pin) == 1 {
		return
	}
	next := c.clone()
	next.Pins = [][]byte{pin}
	for _, p := range c.Pins {
		if subtle.ConstantTimeCompare(p, pin) == 0 {
			next.Pins = append(next.Pins, p)
		}
	}
	if err := e.setCredential(next); err != nil {
		e.log(slog.LevelError, "the edge could not write that the hub has its next key", "error", err)
	}
}

// compareIfAsked compares what the edge has with what the hub has, if the hub has asked for that.
func (s *session) compareIfAsked(ctx context.Context, watchdog *time.Timer) error {
	status, err := s.core.Status(ctx)
	if err != nil || !status.Compare {
		return err
	}
	watchdog.Stop()
	request, err := s.core.Compare(ctx)
	if err != nil {
		return edgeError(err)
	}
	for next := &request; next != nil; {
		b, err := s.ask(ctx, pathCompare, next.Encode())
		if err != nil {
			return err
		}
		reply, err := replication.DecodeCompareReply(b)
		if err == nil {
			next, err = s.core.Compared(ctx, *next, reply, s.e.clock.device())
		}
		if err != nil {
			return edgeError(err)
		}
	}
	_, err = s.push(ctx, false)
	return err
}

// push pushes what the hub does not know. If ack is set, it says how far the edge has come even if
// there is nothing to push. pushed reports whether there was something.
//
// Errors: [ErrRefused]; those of the client and of the core.
func (s *session) push(ctx context.Context, ack bool) (pushed bool, err error) {
	for {
		request, taken, err := s.core.Pending(ctx, pushSize)
		if err != nil {
			return pushed, edgeError(err)
		}
		empty := request.IsEmpty()
		if empty && !ack {
			return pushed, nil
		}
		s.moved.Store(false)
		ack = false
		b, err := s.ask(ctx, pathPush, request.Encode())
		if err != nil {
			return pushed, err
		}
		reply, err := replication.DecodePushReply(b)
		if err == nil {
			err = s.core.Pushed(ctx, taken, reply)
		}
		switch {
		case err != nil:
			return pushed, edgeError(err)
		case reply.Refused != "":
			return pushed, fmt.Errorf("%w: %.500q", ErrRefused, reply.Refused)
		case reply.Policy != 0:
			return true, nil // the next stream has the new policy
		case empty:
			return pushed, nil
		}
		pushed = true
	}
}

// beginPushing begins to push what changes here, and to confirm what has come.
func (r *receiver) beginPushing(ctx context.Context) {
	ctx, r.stop = context.WithCancel(ctx)
	r.pushing = make(chan kick, 16)
	local := make(chan struct{}, 1)
	r.pushers.Go(func() { r.e.watchLocal(ctx, local) })
	r.pushers.Go(func() { r.pushLocal(ctx, local) })
}

func (r *receiver) endPushing() {
	if r.stop != nil {
		r.stop()
		r.pushers.Wait()
	}
}

// kick makes the pusher do something, unless it has enough to do.
func (r *receiver) kick(k kick) {
	select {
	case r.pushing <- k:
	default:
	}
}

// watchLocal tells when there was a commit.
func (e *Edge) watchLocal(ctx context.Context, local chan<- struct{}) {
	var seen uint64
	for ctx.Err() == nil {
		select {
		case local <- struct{}{}:
		default:
		}
		err := e.store.View(ctx, func(tx *latchkey.Tx) error { seen = tx.Sequence(); return nil })
		if err == nil {
			err = e.store.Wait(ctx, seen)
		}
		if err != nil {
			return
		}
	}
}

// pushLocal pushes what changes here at once, and confirms what has come within ackWithin. After a
// failure it waits.
func (r *receiver) pushLocal(ctx context.Context, local <-chan struct{}) {
	later := time.NewTimer(time.Hour)
	later.Stop()
	waits, pause := false, firstPause
	var due time.Time
	hold := func(d time.Duration) { waits, due = true, time.Now().Add(d); later.Reset(d) }
	failed := false // nothing is pushed until later
	for {
		ack := false
		select {
		case <-ctx.Done():
			return
		case <-local:
			if failed {
				continue
			}
		case k := <-r.pushing:
			if k != retry {
				// A confirmation that is due later does not hold a revocation back.
				if !waits || k == confirmSoon && time.Until(due) > ackWithin {
					hold(rand.N(ackWithin) + r.e.acks[k].next(time.Now()))
				}
				continue
			}
		case <-later.C:
			ack, waits = true, false
		}
		_, err := r.push(ctx, ack)
		failed = err != nil
		switch {
		case err == nil:
			pause = firstPause
		case ctx.Err() != nil:
			return
		case isFinal(err):
			r.cancel(err)
			return
		case errors.Is(err, ErrRefused):
			r.e.log(slog.LevelWarn, "the hub has refused a push", "error", err)
			hold(afterRefusal)
		default:
			r.e.log(slog.LevelWarn, "the edge could not push, and tries again", "error", err)
			hold(pause + rand.N(pause))
			pause = min(2*pause, lastPause)
		}
	}
}

// A pace lets some things happen at once, and more of them at intervals. It keeps the day of an
// edge within a megabyte, because each confirmation takes a connection of its own, which is some
// kilobytes.
type pace struct{ full time.Time } // when ackBurst things may happen at once again

const (
	ackBurst = 10
	ackEvery = 20 * time.Minute
)

// next returns how long the next thing has to wait.
func (p *pace) next(now time.Time) time.Duration {
	if p.full.Before(now) {
		p.full = now
	}
	p.full = p.full.Add(ackEvery)
	return max(0, p.full.Sub(now)-ackBurst*ackEvery)
}

// progress counts what a first copy has brought.
type progress struct {
	Progress
	told time.Time
	news bool
}

func (p *progress) add(m replication.Entry) {
	p.Entries++
	p.Bytes += uint64(len(m.Key) + len(m.Value))
	p.Table, p.news = m.Table, true
}

// tell calls fn about once a second, and at the end.
func (p *progress) tell(fn func(Progress), end bool) {
	if fn == nil || !p.news || !end && time.Since(p.told) < time.Second {
		return
	}
	p.told, p.news = time.Now(), false
	fn(p.Progress)
}

// build returns the version of the library.
func build() string {
	const path = "github.com/latchkeydb/latchkey"
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, m := range append(info.Deps, &info.Main) {
		if m.Path == path && m.Version != "" {
			return m.Version
		}
	}
	return "(devel)"
}
