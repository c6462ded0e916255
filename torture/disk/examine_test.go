package disk_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
)

// Stage is a part of an examination, with the results of the logins in it.
type Stage struct {
	Name    string
	Failure Failure
	Logins  []Login
	Revoked []uuid.UUID // keys that the examination has disabled or deleted so far
	Grown   int64       // growth of the heap in bytes
}

// examination makes every kind of call on the store in a damaged file. It expects errors.
type examination struct {
	call    Call
	stages  []Stage
	revoked []uuid.UUID
}

// examine salvages the file, opens it, reads, logs in, writes, repairs, compacts, and salvages the
// file again.
func examine(ctx context.Context, c Call, a *Answer) error {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	x := &examination{call: c}
	x.salvage(ctx, "salvaged")
	x.use("read-only", c.Path, &latchkey.Options{ReadOnly: true}, func(s *latchkey.Store) { x.read(ctx, s) })
	x.use("open", c.Path, nil, func(s *latchkey.Store) {
		x.read(ctx, s)
		x.backUp(ctx, s)
		x.write(ctx, s)
		x.logIn(ctx, s, "written")
		_, err := s.Repair(ctx)
		x.note("repair", err)
		for range s.Check(ctx) {
		}
		x.logIn(ctx, s, "repaired")
		x.note("compact", s.Compact(ctx))
		x.logIn(ctx, s, "compacted")
	})
	x.use("again", c.Path, nil, func(s *latchkey.Store) { x.read(ctx, s) })
	x.salvage(ctx, "salvaged again")
	runtime.ReadMemStats(&after)
	x.stages = append(x.stages, Stage{Name: "memory", Grown: int64(after.HeapSys) - int64(before.HeapSys)})
	a.Stages = x.stages
	return nil
}

func (x *examination) note(name string, err error) {
	x.stages = append(x.stages, Stage{Name: name, Failure: failure(err)})
}

func (x *examination) logIn(ctx context.Context, s *latchkey.Store, name string) {
	x.stages = append(x.stages, Stage{Name: name, Logins: logIn(ctx, s, x.call.Tokens), Revoked: slices.Clone(x.revoked)})
}

// use opens a store, calls use with it, logs in, and closes the store.
func (x *examination) use(name, path string, opts *latchkey.Options, use func(*latchkey.Store)) {
	o := latchkey.Options{Cost: lightest}
	if opts != nil {
		o.ReadOnly = opts.ReadOnly
	}
	s, err := latchkey.Open(path, &o)
	x.note(name, err)
	if err != nil {
		return
	}
	use(s)
	x.logIn(context.Background(), s, name)
	x.note("close "+name, s.Close())
}

// salvage salvages the file to another store, which must be sound.
func (x *examination) salvage(ctx context.Context, name string) {
	out := x.call.Path + ".salvaged"
	defer os.Remove(out)
	_, err := latchkey.Salvage(ctx, x.call.Path, out)
	x.note("salvage: "+name, err)
	if err != nil {
		return
	}
	x.use(name, out, nil, func(s *latchkey.Store) {
		var findings []error
		for finding := range s.Check(ctx) {
			findings = append(findings, finding)
		}
		_, err := s.CreateUser(ctx, latchkey.UserSpec{Identity: email("somebody else")})
		if err := errors.Join(append(findings, err)...); err != nil {
			x.note("unsound "+name, err)
		}
	})
}

// read makes each call that reads.
func (x *examination) read(ctx context.Context, s *latchkey.Store) {
	for range s.Check(ctx) {
	}
	_, _ = s.Stats(ctx)
	for u, err := range s.Users(ctx, uuid.Nil) {
		if err == nil {
			_, _ = s.Keys(ctx, u.ID)
		}
	}
	for subject, h := range x.call.State {
		_, _ = s.User(ctx, h.ID)
		_, _ = s.UserByIdentity(ctx, email(subject))
		_, _ = s.Keys(ctx, h.ID)
		for _, k := range h.Keys {
			_, _ = s.Key(ctx, h.ID, k.ID)
		}
	}
}

// backUp makes a backup, and restores it.
func (x *examination) backUp(ctx context.Context, s *latchkey.Store) {
	backup, restored := x.call.Path+".backup", x.call.Path+".restored"
	defer os.Remove(backup)
	defer os.Remove(restored)
	err := backUp(ctx, s, backup)
	x.note("backup", err)
	if err != nil {
		return
	}
	err = restore(ctx, backup, restored)
	x.note("restore", err)
	if err == nil {
		x.use("restored", restored, nil, func(*latchkey.Store) {})
	}
}

// write makes each call that writes, except calls that could make a bad token good.
func (x *examination) write(ctx context.Context, s *latchkey.Store) {
	_, err := s.CreateUser(ctx, latchkey.UserSpec{Identity: email("somebody new")})
	x.note("create user", err)
	done := 0
	for subject, h := range x.call.State {
		_, _, err := s.CreateKeys(ctx, []latchkey.KeyRequest{
			{Owner: h.ID, KeySpec: latchkey.KeySpec{Name: "new 1"}}, {Owner: h.ID, KeySpec: latchkey.KeySpec{Name: "new 2"}},
		}, nil)
		x.note("create keys", err)
		if subject != "" {
			_, err = s.LinkIdentity(ctx, h.ID, email("also "+subject))
			x.note("link identity", err)
			if err == nil {
				_, err = s.UnlinkIdentity(ctx, h.ID, email(subject))
				x.note("unlink identity", err)
			}
		}
		for name, k := range h.Keys {
			switch done++; done % 4 {
			case 0:
				x.revoke(k.ID, s.DisableKey(ctx, h.ID, k.ID))
			case 1:
				x.revoke(k.ID, s.DeleteKey(ctx, h.ID, k.ID))
			case 2:
				x.note("rename key", s.RenameKey(ctx, h.ID, k.ID, name+" renamed"))
			}
			if done == 40 {
				return
			}
		}
	}
}

func (x *examination) revoke(key uuid.UUID, err error) {
	x.note("revoke key", err)
	if err == nil {
		x.revoked = append(x.revoked, key)
	}
}

func (s Stage) String() string {
	return fmt.Sprintf("%s: %d logins, error %q", s.Name, len(s.Logins), s.Failure.Text)
}
