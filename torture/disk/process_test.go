package disk_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/netip"
	"net/rpc"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
)

// A separate program uses the stores, so that the test sees a crash and survives it. Besides, a
// program must not map files of a file system that it serves itself; see [disk.Disk.Mount]. The
// program is this test binary. An environment variable makes it answer calls on its standard input
// and output.

const programVariable = "LATCHKEY_DISK_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(programVariable) == "" {
		os.Exit(m.Run())
	}
	server := rpc.NewServer()
	if err := server.Register(&Program{stores: make(map[string]*latchkey.Store)}); err != nil {
		panic(err)
	}
	server.ServeConn(struct {
		io.Reader
		io.WriteCloser
	}{os.Stdin, os.Stdout})
}

// Call is a request to the program. Each kind of call uses the fields that it needs.
type Call struct {
	Do                    string
	Path                  string
	ReadOnly              bool
	RecoverFromSafetyCopy bool
	Cost                  latchkey.Cost // zero stands for lightest
	Ahead                 time.Duration // of the store's clock
	Rotation              latchkey.Rotation

	Subject string // of a user
	User    uuid.UUID
	Name    string // of a key
	Key     uuid.UUID
	Names   []string // of keys to make; in a renaming, the new name
	Tokens  []string
	To      string // another path
	State   State
}

// Answer is the result of a call.
type Answer struct {
	Failure  Failure
	User     uuid.UUID
	Keys     []uuid.UUID
	Tokens   []string
	State    State
	Logins   []Login
	Findings []string
	Stats    latchkey.Stats
	Stages   []Stage
}

// Login is the result of a login with one token.
type Login struct {
	Key     uuid.UUID
	Owner   uuid.UUID
	Failure Failure
}

// Failure is an error in another program.
type Failure struct {
	Text string
	Kind []string // texts of the errors in errorKinds that it wraps
}

// errorKinds has the errors that tests tell apart.
var errorKinds = []error{
	latchkey.ErrInvalidToken, latchkey.ErrKeyDisabled, latchkey.ErrUserDisabled, latchkey.ErrCorrupt, latchkey.ErrNotStore, latchkey.ErrNewerFormat,
	latchkey.ErrClosed, latchkey.ErrCommitUnknown, latchkey.ErrSyncFailed, latchkey.ErrUserNotFound, latchkey.ErrKeyNotFound,
	fs.ErrNotExist, fs.ErrExist, syscall.EIO, syscall.ENOSPC,
}

func failure(err error) (f Failure) {
	if err == nil {
		return f
	}
	f.Text = err.Error()
	for _, kind := range errorKinds {
		if errors.Is(err, kind) {
			f.Kind = append(f.Kind, kind.Error())
		}
	}
	return f
}

// err returns the error, for which errors.Is gives the same answers as in the other program. It
// returns nil if there was none.
func (f Failure) err() error {
	if f.Text == "" {
		return nil
	}
	return f
}

func (f Failure) Error() string        { return f.Text }
func (f Failure) Is(target error) bool { return slices.Contains(f.Kind, target.Error()) }

// Program has the stores of the program and its methods.
type Program struct {
	mu     sync.Mutex
	stores map[string]*latchkey.Store // by path
}

func (p *Program) store(path string) *latchkey.Store {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stores[path]
}

// lightest is the lowest cost that a store accepts.
var lightest = latchkey.Cost{Memory: 8, Passes: 1, Lanes: 1}

// Do serves one call.
func (p *Program) Do(c Call, a *Answer) error {
	a.Failure = failure(p.do(context.Background(), c, a))
	return nil
}

func (p *Program) do(ctx context.Context, c Call, a *Answer) error {
	if c.Do == "open" {
		opts := &latchkey.Options{Cost: cmp.Or(c.Cost, lightest), ReadOnly: c.ReadOnly, RecoverFromSafetyCopy: c.RecoverFromSafetyCopy}
		if c.Ahead > 0 {
			opts.Now = func() time.Time { return time.Now().Add(c.Ahead) }
		}
		s, err := latchkey.Open(c.Path, opts)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.stores[c.Path] = s
		return err
	}
	switch c.Do {
	case "restore":
		return restore(ctx, c.Path, c.To)
	case "examine":
		return examine(ctx, c, a)
	}
	s := p.store(c.Path)
	if s == nil {
		return errors.New("the store is not open")
	}
	switch c.Do {
	case "close":
		return s.Close()
	case "create user":
		u, err := s.CreateUser(ctx, latchkey.UserSpec{Identity: email(c.Subject)})
		a.User = u.ID
		return err
	case "create user with keys":
		return createUserWithKeys(ctx, s, c, a)
	case "create keys":
		if c.User == latchkey.ServerOwner {
			return createServerKeys(ctx, s, c, a)
		}
		var requests []latchkey.KeyRequest
		for _, name := range c.Names {
			requests = append(requests, latchkey.KeyRequest{Owner: c.User, KeySpec: latchkey.KeySpec{Name: name}})
		}
		keys, tokens, err := s.CreateKeys(ctx, requests, nil)
		a.created(keys, tokens)
		return err
	case "rename key":
		return s.RenameKey(ctx, c.User, c.Key, c.Names[0])
	case "disable key":
		return s.DisableKey(ctx, c.User, c.Key)
	case "enable key":
		return s.EnableKey(ctx, c.User, c.Key)
	case "delete key":
		return s.DeleteKey(ctx, c.User, c.Key)
	case "set expiry":
		return s.SetExpiry(ctx, c.User, c.Key, time.Now().Add(24*time.Hour))
	case "set scopes":
		return s.SetScopes(ctx, c.User, c.Key, latchkey.NewScopes("files:read", "mail:send"))
	case "set networks":
		return s.SetNetworks(ctx, c.User, c.Key, []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")})
	case "set metadata":
		return s.SetMetadata(ctx, c.User, c.Key, map[string]string{"room": "4"})
	case "set key group":
		return s.SetKeyGroup(ctx, c.Key, c.Names[0])
	case "rotate key":
		_, token, err := s.RotateKey(ctx, c.User, c.Key, c.Rotation)
		a.Tokens = []string{token}
		return err
	case "set user metadata":
		return s.SetUserMetadata(ctx, c.User, map[string]string{"room": "4"})
	case "set user group":
		return s.SetUserGroup(ctx, c.User, c.Names[0])
	case "disable group":
		return s.DisableGroup(ctx, c.Names[0])
	case "enable group":
		return s.EnableGroup(ctx, c.Names[0])
	case "disable user":
		return s.DisableUser(ctx, c.User)
	case "enable user":
		return s.EnableUser(ctx, c.User)
	case "delete user":
		return s.DeleteUser(ctx, c.User)
	case "compact":
		return s.Compact(ctx)
	case "backup":
		return backUp(ctx, s, c.To)
	case "look":
		return look(ctx, s, a)
	case "log in":
		a.Logins = logIn(ctx, s, c.Tokens)
		return nil
	case "stats":
		st, err := s.Stats(ctx)
		a.Stats = st
		return err
	}
	return fmt.Errorf("cannot %s", c.Do)
}

// email returns the identity of a user with the email address subject.
func email(subject string) latchkey.Identity {
	return latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: subject}
}

func (a *Answer) created(keys []latchkey.Key, tokens []string) {
	for _, k := range keys {
		a.Keys = append(a.Keys, k.ID)
	}
	a.Tokens = tokens
}

// createServerKeys makes the keys of a call in one transaction.
func createServerKeys(ctx context.Context, s *latchkey.Store, c Call, a *Answer) error {
	minted, tokens, err := s.MintKeys(ctx, len(c.Names), nil)
	if err != nil {
		return err
	}
	var keys []latchkey.Key
	err = s.Update(ctx, func(tx *latchkey.Tx) error {
		keys = nil
		for i, name := range c.Names {
			key, err := tx.InsertServerKey(latchkey.KeySpec{Name: name}, minted[i])
			if err != nil {
				return err
			}
			keys = append(keys, key)
		}
		return nil
	})
	if err != nil {
		return err
	}
	a.created(keys, tokens)
	return nil
}

func createUserWithKeys(ctx context.Context, s *latchkey.Store, c Call, a *Answer) error {
	minted, tokens, err := s.MintKeys(ctx, len(c.Names), nil)
	if err != nil {
		return err
	}
	var keys []latchkey.Key
	err = s.Update(ctx, func(tx *latchkey.Tx) error {
		keys = nil
		u, err := tx.CreateUser(latchkey.UserSpec{Identity: email(c.Subject)})
		if err != nil {
			return err
		}
		a.User = u.ID
		for i, name := range c.Names {
			k, err := tx.InsertKey(u.ID, latchkey.KeySpec{Name: name}, minted[i])
			if err != nil {
				return err
			}
			keys = append(keys, k)
		}
		return nil
	})
	a.created(keys, tokens)
	return err
}

// backUp makes a backup. When it returns nil, the backup survives a power cut.
func backUp(ctx context.Context, s *latchkey.Store, to string) error {
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := s.Backup(ctx, f); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(to))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

func restore(ctx context.Context, backup, to string) error {
	if err := os.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.Open(backup)
	if err != nil {
		return err
	}
	defer f.Close()
	return latchkey.Restore(ctx, f, to)
}

// look reads the state of the store and the findings of Check.
func look(ctx context.Context, s *latchkey.Store, a *Answer) error {
	for finding := range s.Check(ctx) {
		a.Findings = append(a.Findings, finding.Error())
	}
	st, err := s.Stats(ctx)
	if err != nil {
		return err
	}
	if a.State, err = readState(ctx, s); err != nil {
		return err
	}
	if users, keys := a.State.users(), a.State.keys(); st.Users != uint64(users) || st.Keys != uint64(keys) {
		a.Findings = append(a.Findings, fmt.Sprintf("Stats has %d users and %d keys, and there are %d and %d", st.Users, st.Keys, users, keys))
	}
	return nil
}

func logIn(ctx context.Context, s *latchkey.Store, tokens []string) (logins []Login) {
	for _, token := range tokens {
		who, err := s.Login(ctx, token)
		if who.ServerKey {
			who.UserID = latchkey.ServerOwner
		}
		logins = append(logins, Login{who.KeyID, who.UserID, failure(err)})
	}
	return logins
}

// process is a running program.
type process struct {
	cmd    *exec.Cmd
	client *rpc.Client
	stderr *bytes.Buffer
	ended  chan struct{} // closed when the program has ended
	where  string        // the place in the test, for its messages
}

func start(t testing.TB, where string) *process {
	t.Helper()
	p := startAlone(t, where)
	t.Cleanup(p.kill)
	return p
}

// startAlone starts a program, which the caller must kill.
func startAlone(t testing.TB, where string) *process {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	p := &process{cmd: exec.Command(self), stderr: &bytes.Buffer{}, ended: make(chan struct{}), where: where}
	// A race must end the program at once, because otherwise the kill comes before the race
	// detector's report.
	p.cmd.Env = append(os.Environ(), programVariable+"=1", "GORACE=halt_on_error=1")
	p.cmd.Stderr = p.stderr
	in, err := p.cmd.StdinPipe()
	must(t, err)
	out, err := p.cmd.StdoutPipe()
	must(t, err)
	must(t, p.cmd.Start())
	p.client = rpc.NewClient(struct {
		io.Reader
		io.WriteCloser
	}{out, in})
	go func() {
		_ = p.cmd.Wait()
		close(p.ended)
	}()
	return p
}

func (p *process) running() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// kill ends the program at once, as a power cut does.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.ended
	_ = p.client.Close()
}

// patience is how long a call may take before the program counts as hanging. No call takes a
// hundredth of it, unless the machine stands still.
const patience = 3 * time.Minute

// call makes a call of the program. It ends the test if the program crashes or hangs.
func (p *process) call(t testing.TB, c Call) Answer {
	t.Helper()
	a, err := p.wait(p.begin(c))
	if err != nil {
		t.Fatalf("%s: %s: %v", p.where, c.Do, err)
	}
	return a
}

func (p *process) begin(c Call) *rpc.Call { return p.client.Go("Program.Do", c, &Answer{}, nil) }

func (p *process) wait(pending *rpc.Call) (Answer, error) {
	hung := time.AfterFunc(patience, func() { _ = p.cmd.Process.Signal(syscall.SIGQUIT) })
	<-pending.Done
	if pending.Error == nil {
		hung.Stop()
		return *pending.Reply.(*Answer), nil
	}
	<-p.ended
	what := "the program crashed"
	if !hung.Stop() {
		what = "the program hung"
	}
	return Answer{}, fmt.Errorf("%s: %s\n%s", what, p.cmd.ProcessState, firstLines(p.stderr.String(), 600))
}

func firstLines(text string, n int) string {
	lines := strings.SplitAfterN(text, "\n", n+1)
	return strings.Join(lines[:min(n, len(lines))], "")
}

// visit checks an open store, which must be sound and in one of some states. It logs in with every
// token of that state and with the tokens of deleted keys. It returns the state, or the error of a
// call that failed.
func (p *process) visit(t testing.TB, path string, states []State, gone []string) (State, error) {
	t.Helper()
	seen := p.call(t, Call{Do: "look", Path: path})
	if err := seen.Failure.err(); err != nil {
		return nil, err
	}
	if len(seen.Findings) > 0 {
		t.Fatalf("%s: Check of %s: %q", p.where, filepath.Base(path), seen.Findings)
	}
	for _, state := range states {
		if found, ok := state.found(seen.State); ok {
			return found, p.logIn(t, path, found, gone)
		}
	}
	t.Fatalf("%s: found in %s\n%+v\nwant one of\n%+v", p.where, filepath.Base(path), seen.State, states)
	return nil, nil
}

// logIn logs in with every token of a state and with the tokens of deleted keys.
func (p *process) logIn(t testing.TB, path string, state State, gone []string) error {
	t.Helper()
	want := state.logins(gone)
	tokens := slices.Collect(maps.Keys(want))
	got := p.call(t, Call{Do: "log in", Path: path, Tokens: tokens})
	for i, login := range got.Logins {
		w := want[tokens[i]]
		if login.Key != w.Key || login.Owner != w.Owner || !slices.Equal(login.Failure.Kind, w.Failure.Kind) {
			t.Fatalf("%s: login in %s: got %+v, want %+v", p.where, filepath.Base(path), login, w)
		}
	}
	return got.Failure.err()
}

// must ends the test for any error.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
