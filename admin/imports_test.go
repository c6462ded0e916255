package admin_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
	"github.com/latchkeydb/latchkey/keyimport"
	"github.com/latchkeydb/latchkey/latchkeytest"
)

const csvType = "text/csv"

// general is the beginning of an import of digests.
const general = "/v1/import?format=general&scheme=old&hash=sha256"

func digest(token string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(token))) }

func TestAnImportMakesKeys(t *testing.T) {
	foreign, err := keyimport.New(keyimport.Scheme{Name: "old", Hash: keyimport.SHA256})
	if err != nil {
		t.Fatal(err)
	}
	a := newAPIWith(t, latchkey.Options{Foreign: foreign}, nil)
	const token = "a-token-of-another-system"
	file := "hash,name,owner,comment\n" + digest(token) + ",laptop,ada,x\n"
	target := general + "&provider=custom-token&ignore=comment&ignore=other"
	if got := get[admin.Imported](a.do("POST", target+"&dry_run=true", file, "Content-Type", csvType).is(200)); !got.DryRun || len(got.Keys) != 1 || len(got.Users) != 1 {
		t.Errorf("got %+v", got)
	}
	a.loginIs(token, latchkey.ErrInvalidToken)
	if got := get[admin.Imported](a.do("POST", target, file, "Content-Type", csvType).is(200)); got.DryRun || len(got.Keys) != 1 || got.Known != 0 {
		t.Errorf("got %+v", got)
	}
	a.loginIs(token, nil)
	if got := get[admin.Imported](a.do("POST", target, file, "Content-Type", csvType).is(200)); len(got.Keys) != 0 || got.Known != 1 {
		t.Errorf("the second import: got %+v", got)
	}
}

func TestAnImportThatIsWrongChangesNothing(t *testing.T) {
	a := newAPI(t, nil)
	_, lost := a.newServerKey(latchkey.KeySpec{Name: "job"})
	good := "hash,name\n" + digest("a") + ",a\n"
	for _, tt := range []struct {
		name, target, body string
		status             int
		problem            string
	}{
		{"no format", "/v1/import", good, 400, "invalid-request"},
		{"an unknown format", "/v1/import?format=x", good, 400, "invalid-request"},
		{"an unknown parameter", general + "&x=y", good, 400, "invalid-request"},
		{"a parameter twice", general + "&hash=sha256", good, 400, "invalid-request"},
		{"a negative length", general + "&token_min=-1", good, 400, "invalid-request"},
		{"a scheme of a system that has its own", "/v1/import?format=unkey&scheme=x", good, 422, "invalid-scheme"},
		{"a prefix of a file that has schemes", "/v1/import?format=latchkey&token_prefix=x", good, 422, "invalid-scheme"},
		{"an unknown hash", "/v1/import?format=general&scheme=old&hash=md5", good, 422, "invalid-scheme"},
		{"a name that is long", "/v1/import?format=general&hash=sha256&scheme=" + strings.Repeat("x", 100), good, 422, "invalid-scheme"},
		{"a hash that is none", general, "hash\nx\n", 422, "wrong-lines"},
		{"a column that is a token", general, "hash," + lost + "\n" + digest("a") + ",b\n", 422, "wrong-lines"},
		{"a long line", general, "{" + strings.Repeat(" ", 2<<20) + "}\n", 422, "wrong-lines"},
		{"an array", general, "[]", 422, "wrong-lines"},
		{"quotes without an end", general, "hash\n\"" + strings.Repeat("x\n", 1000), 422, "wrong-lines"},
	} {
		w := a.do("POST", tt.target, tt.body, "Content-Type", csvType).problem(tt.status, tt.problem)
		if p := get[admin.Problem](w); (len(p.Lines) > 0) != (tt.problem == "wrong-lines") || strings.Contains(w.Body.String(), lost[20:]) {
			t.Errorf("%s: got %.300s", tt.name, w.Body)
		}
	}
	a.do("POST", general, good, "Content-Type", "text/plain").problem(415, "unsupported-media-type")
	many := "hash\n" + strings.Repeat("x\n", 300)
	if p := get[admin.Problem](a.do("POST", general, many, "Content-Type", csvType).problem(422, "wrong-lines")); len(p.Lines) != 100 || p.Lines[0].Line != 2 {
		t.Errorf("the problem has %d lines, from %+v on", len(p.Lines), p.Lines[0])
	}
	if page := get[admin.List[admin.Key]](a.do("GET", "/v1/keys", nil)); len(page.Items) != 1 {
		t.Errorf("there are %d keys", len(page.Items))
	}
}

// blank is a body of empty lines that breaks off in the end.
type blank struct{ left int }

func (b *blank) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n := min(len(p), b.left)
	copy(p, bytes.Repeat([]byte("\n"), n))
	b.left -= n
	return n, nil
}

func TestTheBodyOfAnImportIsBounded(t *testing.T) {
	a := newAPI(t, nil)
	c := admin.Local(a.store, nil)
	defer admin.SetMaxImport(1 << 20)()
	for left, want := range map[int]string{1 << 10: "urn:latchkey:problem:invalid-request", 2 << 20: "urn:latchkey:problem:body-too-large"} {
		const user = `{"user":{"identities":[{"provider":"custom-token","subject":"a"}]}}`
		_, err := c.Import(t.Context(), io.MultiReader(strings.NewReader(user), &blank{left}), admin.Import{Format: "latchkey"})
		var p *admin.Problem
		if !errors.As(err, &p) || p.Type != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// deadlines is a writer and a body of a connection that stands still after the first bytes.
type deadlines struct {
	*httptest.ResponseRecorder
	first *strings.Reader
	at    time.Time // when reading fails
}

func (d *deadlines) SetReadDeadline(t time.Time) error {
	d.at = t
	return nil
}

func (d *deadlines) Read(p []byte) (int, error) {
	if n, err := d.first.Read(p); err == nil {
		return n, nil
	}
	time.Sleep(time.Until(d.at))
	return 0, os.ErrDeadlineExceeded
}

func TestAnImportThatStandsStillIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		handler := admin.New(latchkeytest.New(t), &admin.Options{Authenticate: everybody})
		d := &deadlines{ResponseRecorder: httptest.NewRecorder(), first: strings.NewReader("hash\n")}
		r := httptest.NewRequest("POST", general, d)
		r.Header.Set("Content-Type", csvType)
		before := time.Now()
		handler.ServeHTTP(d, r)
		if took := time.Since(before); d.Code != 400 || took != 30*time.Second {
			t.Errorf("got %d %s after %s", d.Code, d.Body, took)
		}
		// The server reads the rest of the body after the answer, and then sets the deadline anew.
		if d.at.IsZero() {
			t.Error("the rest of the body has no deadline")
		}
	})
}

func TestAnImportThatIsCancelledChangesNothing(t *testing.T) {
	a := newAPI(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	file := &cancelling{strings.NewReader("hash,name\n" + digest("a") + ",a\n"), cancel}
	c := admin.Local(a.store, nil)
	_, err := c.Import(ctx, file, admin.Import{Format: "general", Scheme: keyimport.Scheme{Name: "old", Hash: keyimport.SHA256}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	for k, err := range a.store.AllKeys(t.Context(), latchkey.KeyFilter{}, uuid.Nil) {
		t.Errorf("there is %v, %v", k, err)
	}
}

// cancelling cancels a context when it was read to its end.
type cancelling struct {
	r      io.Reader
	cancel func()
}

func (c *cancelling) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if err != nil {
		c.cancel()
	}
	return n, err
}

func TestAnExportIsWhatAnImportTakes(t *testing.T) {
	a := newAPI(t, nil)
	user := a.newUser("ada")
	_, token := a.newKey(user, "laptop")
	plain := a.do("GET", "/v1/export", nil).is(200)
	if text := plain.Body.String(); strings.Contains(text, "minted") || !strings.Contains(text, `"laptop"`) || plain.Header().Get("Content-Type") != "application/jsonl" {
		t.Errorf("got %s", text)
	}
	a.do("GET", "/v1/export?with_verifiers=1", nil).problem(400, "invalid-request")
	file := a.do("GET", "/v1/export?with_verifiers=true", nil).is(200).Body.String()

	b := &api{TB: t}
	var err error
	b.store, err = latchkey.Open(t.TempDir()+"/b.db", &latchkey.Options{Cost: latchkey.LightCost, Domain: a.store.DomainSecrets()})
	b.must(err)
	defer b.store.Close()
	b.handler = admin.New(b.store, &admin.Options{Authenticate: everybody})
	if got := get[admin.Imported](b.do("POST", "/v1/import?format=latchkey", file, "Content-Type", "application/jsonl").is(200)); len(got.Keys) != 1 || len(got.Users) != 1 {
		t.Errorf("got %+v", got)
	}
	b.loginIs(token, nil)

	empty := newAPI(t, nil)
	if w := empty.do("GET", "/v1/export", nil).is(200); w.Body.Len() > 0 {
		t.Errorf("the export of an empty store is %s", w.Body)
	}
}
