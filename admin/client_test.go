package admin_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
	"github.com/latchkeydb/latchkey/audit"
	"github.com/latchkeydb/latchkey/keyimport"
)

// newClient returns a client that sends every request with the token of an administrator.
func newClient(t *testing.T, a *api) (*admin.Client, string) {
	_, token := a.newServerKey(latchkey.KeySpec{Name: "admin", Scopes: latchkey.NewScopes(admin.ScopeAdmin)})
	server := serveAPI(t, a)
	return admin.NewClient(server.Client(), server.URL+"/", token), token
}

func collect[T any](t *testing.T, all iter.Seq2[T, error]) (items []T) {
	t.Helper()
	for item, err := range all {
		if err != nil {
			t.Fatal(err)
		}
		items = append(items, item)
	}
	return items
}

func TestAClientDoesWhatTheAPICan(t *testing.T) {
	a := newAPI(t, &admin.Options{})
	c, _ := newClient(t, a)
	ctx := t.Context()
	ok := func(err error) { t.Helper(); a.must(err) }

	ada := latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: "ada"}
	other := latchkey.Identity{Provider: latchkey.ProviderCustomToken, Subject: "1 &/ü"}
	user, err := c.CreateUser(ctx, admin.NewUser{Identity: ada, Group: "a/.."}, "u")
	ok(err)
	again, err := c.CreateUser(ctx, admin.NewUser{Identity: ada, Group: "a/.."}, "u")
	ok(err)
	_, err = c.LinkIdentity(ctx, user.ID, other)
	ok(err)
	found, err := c.UserByIdentity(ctx, other)
	ok(err)
	if again.ID != user.ID || found.ID != user.ID || len(found.Identities) != 2 {
		t.Errorf("got %+v and %+v", again, found)
	}
	user, err = c.UnlinkIdentity(ctx, user.ID, other)
	ok(err)
	user, err = c.ChangeUser(ctx, user.ID, admin.UserChange{Metadata: admin.Some(map[string]string{"room": "4"})}, user.ETag)
	ok(err)
	if user.Metadata["room"] != "4" || user.Group != "a/.." {
		t.Errorf("got %+v", user)
	}

	expires := time.Date(2090, 1, 1, 0, 0, 0, 0, time.UTC)
	made, old, err := c.CreateKey(ctx, user.ID, admin.NewKey{Name: "laptop", Expires: expires, Scopes: []string{"a"}}, "")
	ok(err)
	a.loginIs(old, nil)
	job, _, err := c.CreateKey(ctx, latchkey.ServerOwner, admin.NewKey{Name: "job"}, "j")
	ok(err)
	repeated, none, err := c.CreateKey(ctx, latchkey.ServerOwner, admin.NewKey{Name: "job"}, "j")
	ok(err)
	if none != "" || repeated.ID != job.ID {
		t.Errorf("got %+v and the token %q", repeated, none)
	}
	key, err := c.ChangeKey(ctx, made.ID, admin.KeyChange{Expires: admin.Some[*time.Time](nil), Name: admin.Some("phone")}, admin.AnyETag)
	ok(err)
	if key.Name != "phone" || !key.Expires.IsZero() || len(key.Scopes) != 1 {
		t.Errorf("got %+v", key)
	}
	_, err = c.ChangeKey(ctx, key.ID, admin.KeyChange{Expires: admin.Some(&expires)}, made.ETag)
	var problem *admin.Problem
	if !errors.As(err, &problem) || problem.Status != http.StatusPreconditionFailed {
		t.Errorf("got %v", err)
	}
	rotated, token, err := c.RotateKey(ctx, key.ID, admin.Rotation{OverlapSeconds: 60}, key.ETag)
	ok(err)
	a.loginIs(token, nil)
	a.loginIs(old, nil)
	f, err := c.FindToken(ctx, token)
	ok(err)
	minted, err := c.ExportKey(ctx, key.ID)
	ok(err)
	if len(rotated.Tokens) != 2 || f.Key.ID != key.ID || minted.ID() != key.ID {
		t.Errorf("got %+v, %v", f, minted)
	}
	for _, tt := range []struct {
		filter latchkey.KeyFilter
		want   int
	}{
		{latchkey.KeyFilter{}, 3},
		{latchkey.KeyFilter{Owner: user.ID}, 1},
		{latchkey.KeyFilter{Owner: latchkey.ServerOwner, NamePrefix: "jo"}, 1},
		{latchkey.KeyFilter{Group: "a/.."}, 1},
		{latchkey.KeyFilter{State: latchkey.KeyDisabled}, 0},
		{latchkey.KeyFilter{ExpiringBefore: expires.Add(time.Hour)}, 0},
		{latchkey.KeyFilter{UnusedSince: expires}, 3},
		{latchkey.KeyFilter{TagSecretBefore: 1}, 3},
	} {
		if keys := collect(t, c.Keys(ctx, tt.filter)); len(keys) != tt.want {
			t.Errorf("%+v: got %+v", tt.filter, keys)
		}
	}

	group, err := c.ChangeGroup(ctx, "a/..", admin.GroupChange{Disabled: admin.Some(true)}, "")
	ok(err)
	a.loginIs(token, latchkey.ErrGroupDisabled)
	read, err := c.Group(ctx, "a/..")
	ok(err)
	if groups := collect(t, c.Groups(ctx)); !group.Disabled || group != read || len(groups) != 1 || groups[0] != group {
		t.Errorf("got %+v, %+v, %+v", group, read, groups)
	}

	entries := collect(t, c.Audit(ctx, audit.Position{"": 2}))
	verdict, err := c.VerifyAudit(ctx, entries[len(entries)-1].Head())
	ok(err)
	if entries[0].Number != 3 || !verdict.OK || verdict.Heads[0].Number != entries[len(entries)-1].Number {
		t.Errorf("got %+v, %+v", entries, verdict)
	}
	ok(c.DeleteKey(ctx, key.ID, ""))
	if _, err := c.Key(ctx, key.ID); !errors.Is(err, latchkey.ErrKeyNotFound) {
		t.Errorf("got %v", err)
	}
	ok(c.DeleteUser(ctx, user.ID, ""))
	if _, err := c.User(ctx, user.ID); !errors.Is(err, latchkey.ErrUserNotFound) {
		t.Errorf("got %v", err)
	}
	if _, err := c.UserByIdentity(ctx, ada); !errors.Is(err, latchkey.ErrUserNotFound) {
		t.Errorf("got %v", err)
	}

	info, err := c.Store(ctx)
	ok(err)
	stats, err := c.Stats(ctx)
	ok(err)
	health, err := c.Health(ctx)
	ok(err)
	damage, err := c.Check(ctx)
	ok(err)
	ok(c.Compact(ctx))
	if info.Domain != a.store.DomainID() || stats.Keys != 2 || !health.OK || len(damage.Findings) > 0 {
		t.Errorf("got %+v, %+v, %+v, %+v", info, stats, health, damage)
	}
	var backup bytes.Buffer
	ok(c.Backup(ctx, &backup))
	ok(latchkey.Restore(ctx, &backup, filepath.Join(t.TempDir(), "restored.db")))
}

func TestAClientFollowsChanges(t *testing.T) {
	a := newAPI(t, &admin.Options{})
	c, _ := newClient(t, a)
	var names []string
	for e, err := range c.Changes(t.Context(), "") {
		if err != nil {
			if !errors.Is(err, io.EOF) {
				t.Error(err)
			}
			break
		}
		switch names = append(names, fmt.Sprint(e.Name, e.ID)); e.Name {
		case "ready":
			a.newUser("ada")
		case "commit":
			a.handler.Close()
		}
	}
	if got := strings.Join(names, " "); got != "ready change2 commit" {
		t.Errorf("got %s", got)
	}
	for _, err := range c.Changes(t.Context(), "") { // the handler is closed
		if !errors.Is(err, latchkey.ErrClosed) {
			t.Errorf("got %v", err)
		}
	}
}

func TestAClientGoesOnToTheNextPage(t *testing.T) {
	a := newAPI(t, &admin.Options{})
	c, _ := newClient(t, a)
	for i := range 5 {
		a.newUser(fmt.Sprint(i))
	}
	if users := collect(t, c.Users(t.Context(), url.Values{"limit": {"2"}})); len(users) != 5 {
		t.Errorf("got %d users, want 5", len(users))
	}
	var ids []string
	for e, err := range c.Changes(t.Context(), "3") {
		a.must(err)
		if e.Name == "change" {
			ids = append(ids, e.ID)
		}
		if e.ID == "6" {
			break
		}
	}
	if fmt.Sprint(ids) != "[4 5 6]" {
		t.Errorf("got the changes %v", ids)
	}
	if g, err := c.Group(t.Context(), ".."); err != nil || g.Name != ".." {
		t.Errorf("got %+v, %v", g, err)
	}
}

func TestABackupThatFailsTellsAClientWhy(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows does not cut a file that is in memory")
	}
	a := newAPI(t, nil)
	a.newServerKey(latchkey.KeySpec{Name: "job"})
	server := serveAPI(t, a)
	a.must(os.Truncate(a.path, 8192)) // the store cannot be read to its end
	for name, c := range map[string]*admin.Client{
		"over a network": admin.NewClient(server.Client(), server.URL, ""), "local": admin.Local(a.store, nil),
	} {
		var got bytes.Buffer
		if err := c.Backup(t.Context(), &got); !errors.Is(err, latchkey.ErrCorrupt) || got.Len() == 0 {
			t.Errorf("%s: got %v after %d bytes", name, err, got.Len())
		}
	}
}

func TestABackupThatBreaksOffIsAnError(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(make([]byte, 5000))
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}))
	defer server.Close()
	if err := admin.NewClient(nil, server.URL, "").Backup(t.Context(), io.Discard); !errors.Is(err, admin.ErrNoAnswer) {
		t.Errorf("half of a backup: got %v", err)
	}
}

func TestAClientTellsThatAnotherServerAnswers(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	_, err := admin.NewClient(nil, server.URL, "").Health(t.Context())
	if err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("got %v", err)
	}
}

func TestAClientPrintsWithoutItsToken(t *testing.T) {
	a := newAPI(t, &admin.Options{})
	c, token := newClient(t, a)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		answer := admin.KeyWithToken{Token: token}
		if text := fmt.Sprintf(verb, c) + fmt.Sprintf(verb, *c) + fmt.Sprintf(verb, answer) + fmt.Sprintf(verb, &answer); strings.Contains(text, token[20:]) {
			t.Errorf("%s prints %s", verb, text)
		}
	}
}

func TestAClientMovesManifestsImportsAndExports(t *testing.T) {
	a := newAPI(t, &admin.Options{})
	c, _ := newClient(t, a)
	ctx := t.Context()
	minted, token := a.mint()
	text := []byte(a.manifest(minted))
	for _, tt := range []struct {
		opts admin.ApplyOptions
		want int
	}{{admin.ApplyOptions{DryRun: true}, 2}, {admin.ApplyOptions{}, 2}, {admin.ApplyOptions{Prune: true}, 0}} {
		got, err := c.Apply(ctx, text, tt.opts)
		a.must(err)
		if len(got.Changes) != tt.want || got.DryRun != tt.opts.DryRun {
			t.Errorf("%+v: got %+v", tt.opts, got)
		}
	}
	a.loginIs(token, nil)
	if _, err := c.Apply(ctx, []byte("a: 1"), admin.ApplyOptions{}); !errors.Is(err, admin.ErrManifest) || !strings.HasPrefix(err.Error(), "line 1: ") {
		t.Errorf("got %v", err)
	}

	i := admin.Import{
		Format: "general", Ignore: []string{"a,b", "c&d"}, Provider: latchkey.ProviderLocalUserpass,
		Scheme: keyimport.Scheme{Name: "old", Hash: keyimport.Bcrypt, Handle: keyimport.Handle{Separator: "&", Count: 2}, Prefix: "p=", MinLength: 20, MaxLength: 40},
	}
	const hash = "$2a$04$abcdefghijklmnopqrstuuWz1KuOGQ7/QKLkmBpK8QhYqeUZ2Xk4e"
	file := "hash,handle,owner,\"a,b\",c&d\n" + hash + ",p=1&2,bob,x,y\n"
	dry := i
	dry.DryRun = true
	for _, i := range []admin.Import{dry, i} {
		got, err := c.Import(ctx, strings.NewReader(file), i)
		a.must(err)
		if len(got.Keys) != 1 || len(got.Users) != 1 || got.DryRun != i.DryRun {
			t.Errorf("got %+v", got)
		}
	}
	schemes, err := keyimport.StoredSchemes(ctx, a.store)
	if err != nil || len(schemes) != 1 || schemes[0] != i.Scheme {
		t.Errorf("the store has %+v, %v", schemes, err)
	}
	if _, err := c.UserByIdentity(ctx, latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: "bob"}); err != nil {
		t.Error(err)
	}
	i.Scheme = keyimport.Scheme{Name: "older", Hash: keyimport.Bcrypt, Handle: keyimport.Handle{Last: 8}}
	if _, err := c.Import(ctx, strings.NewReader("hash,handle\n"+hash+",12345678\n"), i); err != nil {
		t.Error(err)
	}
	var p *admin.Problem
	if _, err := c.Import(ctx, strings.NewReader("hash\nx\n"), i); !errors.Is(err, admin.ErrWrongLines) || !errors.As(err, &p) || p.Lines[0].Line != 2 {
		t.Errorf("got %v", err)
	}

	for with, want := range map[bool]bool{true: true, false: false} {
		var out bytes.Buffer
		a.must(c.Export(ctx, &out, with))
		if strings.Contains(out.String(), "minted") != want || !strings.Contains(out.String(), "laptop") {
			t.Errorf("got %s", &out)
		}
	}
}

func TestAClientTakesCareOfTheStore(t *testing.T) {
	a := newAPI(t, &admin.Options{})
	c, _ := newClient(t, a)
	ctx := t.Context()
	added, err := c.AddTagSecret(ctx)
	a.must(err)
	used, err := c.UseTagSecret(ctx, added.Number)
	a.must(err)
	if used.State != latchkey.TagSecretUsed {
		t.Errorf("got %+v", used)
	}
	if _, err := c.RetireTagSecret(ctx, 0, false); !errors.Is(err, admin.ErrKeysLeft) {
		t.Errorf("got %v", err)
	}
	counted, err := c.TagSecrets(ctx, true)
	a.must(err)
	plain, err := c.TagSecrets(ctx, false)
	a.must(err)
	if *counted.Secrets[0].Keys != 1 || plain.Secrets[0].Keys != nil || len(plain.Secrets) != 2 {
		t.Errorf("got %+v and %+v", counted, plain)
	}
	secrets, err := c.DomainSecrets(ctx)
	a.must(err)
	if secrets.ID() != a.store.DomainID() {
		t.Errorf("got %v", secrets)
	}
	if _, err := c.TakeTagSecrets(ctx, secrets); err != nil {
		t.Error(err)
	}
	if _, err := c.TakeTagSecrets(ctx, latchkey.DomainSecrets{}); !errors.Is(err, latchkey.ErrInvalidTagSecret) {
		t.Errorf("got %v", err)
	}

	clock, err := c.Clock(ctx)
	a.must(err)
	reset, err := c.ResetClock(ctx)
	a.must(err)
	if clock.Now.IsZero() || reset.After.IsZero() {
		t.Errorf("got %+v and %+v", clock, reset)
	}
	if n, err := c.Repair(ctx); n != 0 || err != nil {
		t.Errorf("got %d, %v", n, err)
	}

	if _, err := c.BeginAudit(ctx, false); !errors.Is(err, admin.ErrTrail) {
		t.Errorf("got %v", err)
	}
	head, err := c.BeginAudit(ctx, true)
	a.must(err)
	pruned, err := c.PruneAudit(ctx, 0)
	a.must(err)
	if head.Number == 0 || pruned.Entries != 1 {
		t.Errorf("got %v and %+v", head, pruned)
	}

	// At last, because it ends the token of the client.
	if _, err := c.RetireTagSecret(ctx, 0, true); err != nil {
		t.Error(err)
	}
	if _, err := c.Clock(ctx); err == nil {
		t.Error("a token under a retired secret is good")
	}
}

func TestAClientPassesRequestsOn(t *testing.T) {
	a := newAPI(t, &admin.Options{})
	c, _ := newClient(t, a)
	ctx := t.Context()
	answer, err := c.Do(ctx, admin.Request{Method: "POST", Path: []string{"server-keys"}, Body: []byte(`{"name":"<job>"}`), IdempotencyKey: "k"})
	a.must(err)
	var made admin.KeyWithToken
	a.must(json.Unmarshal(answer, &made))
	if made.Key.Name != "<job>" || made.Token == "" {
		t.Errorf("got %+v", made.Key)
	}
	answer, err = c.Do(ctx, admin.Request{Method: "PATCH", Path: []string{"groups", "../keys/ü"}, Body: []byte(`{"disabled":true}`), Match: admin.AnyETag})
	if err != nil || !strings.Contains(string(answer), `"name":"../keys/ü","disabled":true`) {
		t.Errorf("got %s, %v", answer, err)
	}
	answer, err = c.Do(ctx, admin.Request{Method: "GET", Path: []string{"keys"}, Query: url.Values{"search": {"nothing"}}})
	if err != nil || string(answer) != `{"items":[]}` {
		t.Errorf("got %s, %v", answer, err)
	}
	key := []string{"keys", made.Key.ID.String()}
	if answer, err = c.Do(ctx, admin.Request{Method: "DELETE", Path: key}); err != nil || answer != nil {
		t.Errorf("got %s, %v", answer, err)
	}
	_, err = c.Do(ctx, admin.Request{Method: "GET", Path: key})
	if !errors.Is(err, latchkey.ErrKeyNotFound) || admin.Code(err) != "key-not-found" {
		t.Errorf("got %v with the code %s", err, admin.Code(err))
	}
	for want, err := range map[string]error{
		"key-disabled": latchkey.ErrKeyDisabled, "internal": errors.New("other"), "newer": &admin.Problem{Type: "urn:latchkey:problem:newer"},
		"safety-copy-failed": fmt.Errorf("%w since now: %w", latchkey.ErrSafetyCopyFailed, latchkey.ErrCorrupt),
		"last-use-failed":    fmt.Errorf("%w since now: %w", latchkey.ErrLastUseFailed, latchkey.ErrCommitUnknown),
	} {
		if got := admin.Code(err); got != want {
			t.Errorf("%v has the code %s, want %s", err, got, want)
		}
	}
	if codes := admin.Codes(); !slices.Contains(codes, "key-not-found") || !slices.Contains(codes, "internal") {
		t.Errorf("got the codes %v", codes)
	}
}
