package admin

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/audit"
	"github.com/latchkeydb/latchkey/replica"
)

// A Client calls the API. Its methods return a [*Problem] for an answer that is no success, so that
// [errors.Is] finds the errors of package latchkey. It is safe for concurrent use.
//
// The argument match of a method is the ETag of what the method changes, AnyETag for whatever is
// there, or "" for no such header; docs/admin.md says which changes need it.
type Client struct {
	http  *http.Client
	base  string
	token string
	actor string
	dry   bool
	chain *audit.Chain // nil for all chains
}

// Format keeps the token out of anything that prints a Client.
func (c Client) Format(f fmt.State, _ rune) { fmt.Fprint(f, "admin.Client of ", c.base) }

// AnyETag lets a change go through whatever was changed meanwhile.
const AnyETag = "*"

// NewClient returns a client of the API at a base URL, such as "https://keys.example.com". It sends
// requests with client, or with [http.DefaultClient] if client is nil, and with a token unless that
// is empty.
func NewClient(client *http.Client, base, token string) *Client {
	if client == nil {
		client = http.DefaultClient
	}
	return &Client{http: client, base: strings.TrimSuffix(base, "/"), token: token}
}

// As returns a client whose changes have an actor in the audit trail, where callers have no key: on
// a socket, and with [Local]. Other handlers name the actor by the key.
func (c *Client) As(actor string) *Client {
	as := *c
	as.actor = actor
	return &as
}

// DryRun returns a client that deletes and unlinks nothing. Its methods return what they would
// return if they did. It makes no other change.
func (c *Client) DryRun() *Client {
	dry := *c
	dry.dry = true
	return &dry
}

// Chain returns a client whose methods about the audit trail are about one chain. Those of other
// clients are about all chains, unless they say otherwise.
func (c *Client) Chain(chain audit.Chain) *Client {
	one := *c
	one.chain = &chain
	return &one
}

// auditQuery returns the parameters of a request about the audit trail.
func (c *Client) auditQuery() url.Values {
	q := url.Values{}
	if c.chain != nil {
		q.Set("chain", string(*c.chain))
	}
	return q
}

// errNotDry means that a client of DryRun was asked for a change that cannot be tried.
var errNotDry = errors.New("only deleting and unlinking can be tried")

// ErrNoAnswer means that the program which serves the API could not be reached, or that it did not
// answer to the end. If the request was for a change, and the program may have got it, the error is
// also [latchkey.ErrCommitUnknown].
var ErrNoAnswer = errors.New("the program that has the store open does not answer")

// maxAnswer bounds an answer that a client reads into memory.
const maxAnswer = 64 << 20

// A request is one request of a client.
type request struct {
	method, path string
	query        url.Values
	match        string    // If-Match
	idempotency  string    // Idempotency-Key
	lastEvent    string    // Last-Event-ID
	body         any       // is sent as JSON
	raw          io.Reader // is sent in place of body, with the media type
	media        string
	trailers     bool // the client reads the trailer of the answer
	reads        bool // the request changes nothing, whatever its method is
}

// unanswered returns the error for a request that got no answer, or a part of one. sent says that
// the program may have got the request.
func (q request) unanswered(ctx context.Context, err error, sent bool) error {
	var inURL *url.Error
	if errors.As(err, &inURL) { // it repeats the method and the URL
		err = inURL.Err
	}
	switch changes := !q.reads && q.method != http.MethodGet; {
	case sent && changes:
		return perhapsDone{fmt.Errorf("%w: %w", ErrNoAnswer, err)}
	case ctx.Err() != nil: // nobody waits for the answer
		return ctx.Err()
	}
	return fmt.Errorf("%w: %w", ErrNoAnswer, err)
}

// perhapsDone is an error after which a change may have been made.
type perhapsDone struct{ error }

func (e perhapsDone) Unwrap() error        { return e.error }
func (e perhapsDone) Is(target error) bool { return target == latchkey.ErrCommitUnknown }

// send sends a request, and returns the answer if it is a success. The caller closes the body.
func (c *Client) send(ctx context.Context, q request) (*http.Response, error) {
	if c.dry && q.method == http.MethodDelete {
		q.query = maps.Clone(q.query)
		if q.query == nil {
			q.query = url.Values{}
		}
		q.query.Set("dry_run", "true")
	} else if c.dry && !q.reads && q.method != http.MethodGet {
		return nil, errNotDry
	}
	target := c.base + q.path
	if len(q.query) > 0 {
		target += "?" + q.query.Encode()
	}
	body := q.raw
	if q.body != nil {
		q.media = "application/json"
		text, err := json.Marshal(q.body)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(text)
	}
	r, err := http.NewRequestWithContext(ctx, q.method, target, body)
	if err != nil {
		return nil, err
	}
	for name, value := range map[string]string{"If-Match": q.match, "Idempotency-Key": q.idempotency, "Last-Event-ID": q.lastEvent} {
		if value != "" {
			r.Header.Set(name, value)
		}
	}
	if body != nil {
		r.Header.Set("Content-Type", q.media)
	}
	if q.trailers {
		r.Header.Set("TE", "trailers")
	}
	if c.token != "" {
		r.Header.Set("Authorization", "Bearer "+c.token)
	}
	if c.actor != "" {
		r.Header.Set(actorHeader, url.PathEscape(c.actor))
	}
	sent := false
	trace := &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { sent = true }}
	res, err := c.http.Do(r.WithContext(httptrace.WithClientTrace(ctx, trace)))
	if err != nil {
		return nil, q.unanswered(ctx, err, sent)
	}
	if res.StatusCode < 300 {
		return res, nil
	}
	defer finish(res)
	var p Problem
	if err := json.NewDecoder(io.LimitReader(res.Body, maxBody)).Decode(&p); err != nil || p.Type == "" {
		return nil, fmt.Errorf("%w as the API does: status %d", ErrNoAnswer, res.StatusCode)
	}
	return nil, &p
}

// finish waits for the end of an answer, and closes it. At the end the program has released what
// the request held, such as the right to be the only check, which the next request may need.
func finish(res *http.Response) {
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, maxAnswer))
	_ = res.Body.Close()
}

// send sends a request, and decodes the answer.
func send[T any](ctx context.Context, c *Client, q request) (v T, err error) {
	res, err := c.send(ctx, q)
	if err != nil {
		return v, err
	}
	defer finish(res)
	if res.StatusCode == http.StatusNoContent {
		return v, nil
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, maxAnswer)).Decode(&v); err != nil {
		return v, q.unanswered(ctx, err, true)
	}
	return v, nil
}

// none is the answer without a body.
type none struct{}

// all yields the items of all pages of a list.
func all[T any](ctx context.Context, c *Client, path string, query url.Values) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		q := url.Values{"limit": {strconv.Itoa(maxLimit)}}
		for name, values := range query {
			q[name] = values
		}
		for {
			page, err := send[List[T]](ctx, c, request{method: "GET", path: path, query: q})
			if err != nil {
				var zero T
				yield(zero, err)
				return
			}
			for _, item := range page.Items {
				if !yield(item, nil) {
					return
				}
			}
			if page.Next == "" {
				return
			}
			q.Set("cursor", page.Next)
		}
	}
}

// A Request is a request of a route, with the JSON of its body. It is for programs that pass on
// what others ask for. Other programs use the method of the client for the route.
type Request struct {
	Method string
	// Path has the parts of the path below /v1, such as "keys" and an ID. They are not escaped.
	Path           []string
	Query          url.Values
	Match          string // as the argument match of the other methods
	IdempotencyKey string
	Body           json.RawMessage // nil for none
	Reads          bool            // the request changes nothing, although its method is not GET
}

// Do sends a request, and returns the JSON of the answer, which is nil if the answer has no body.
//
// Errors: those of the method of the client for the route.
func (c *Client) Do(ctx context.Context, r Request) (json.RawMessage, error) {
	q := request{method: r.Method, path: "/v1", query: r.Query, match: r.Match, idempotency: r.IdempotencyKey, reads: r.Reads}
	for _, part := range r.Path {
		q.path += "/" + escapePart(part)
	}
	if r.Body != nil {
		q.body = r.Body
	}
	return send[json.RawMessage](ctx, c, q)
}

// escapePart escapes a part of a path. A dot is escaped, too, because ".." would be taken for the
// path above.
func escapePart(part string) string {
	return strings.ReplaceAll(url.PathEscape(part), ".", "%2E")
}

func pathOf(kind string, id uuid.UUID, rest string) string {
	return "/v1/" + kind + "/" + id.String() + rest
}

// Store returns which store it is.
func (c *Client) Store(ctx context.Context) (StoreInfo, error) {
	return send[StoreInfo](ctx, c, request{method: "GET", path: "/v1/store"})
}

// SignInURL returns a URL that signs one browser in on the page of the program. It is a secret.
//
// Errors: [ErrNoPage].
func (c *Client) SignInURL(ctx context.Context) (string, error) {
	answer, err := send[SignInURL](ctx, c, request{method: "POST", path: "/v1/page/sign-in-url"})
	return answer.URL, err
}

// Users yields the users that the parameters of the route allow, which can be nil for all.
func (c *Client) Users(ctx context.Context, query url.Values) iter.Seq2[User, error] {
	return all[User](ctx, c, "/v1/users", query)
}

// UserByIdentity returns the user of an identity.
//
// Errors: [latchkey.ErrUserNotFound].
func (c *Client) UserByIdentity(ctx context.Context, i latchkey.Identity) (User, error) {
	for u, err := range c.Users(ctx, identityQuery(i)) {
		return u, err
	}
	return User{}, latchkey.ErrUserNotFound
}

func identityQuery(i latchkey.Identity) url.Values {
	return url.Values{"provider": {string(i.Provider)}, "subject": {i.Subject}}
}

// User returns a user.
func (c *Client) User(ctx context.Context, id uuid.UUID) (User, error) {
	return send[User](ctx, c, request{method: "GET", path: pathOf("users", id, "")})
}

// CreateUser makes a user. idempotencyKey may be empty.
func (c *Client) CreateUser(ctx context.Context, n NewUser, idempotencyKey string) (User, error) {
	return send[User](ctx, c, request{method: "POST", path: "/v1/users", body: n, idempotency: idempotencyKey})
}

// ChangeUser changes a user.
func (c *Client) ChangeUser(ctx context.Context, id uuid.UUID, change UserChange, match string) (User, error) {
	return send[User](ctx, c, request{method: "PATCH", path: pathOf("users", id, ""), body: change, match: match})
}

// DeleteUser deletes a user and all keys of the user.
func (c *Client) DeleteUser(ctx context.Context, id uuid.UUID, match string) error {
	_, err := send[none](ctx, c, request{method: "DELETE", path: pathOf("users", id, ""), match: match})
	return err
}

// LinkIdentity gives a user another identity.
func (c *Client) LinkIdentity(ctx context.Context, id uuid.UUID, i latchkey.Identity) (User, error) {
	return send[User](ctx, c, request{method: "POST", path: pathOf("users", id, "/identities"), body: i})
}

// UnlinkIdentity takes an identity from a user.
func (c *Client) UnlinkIdentity(ctx context.Context, id uuid.UUID, i latchkey.Identity) (User, error) {
	return send[User](ctx, c, request{method: "DELETE", path: pathOf("users", id, "/identities"), query: identityQuery(i)})
}

// Keys yields the keys that a filter lists, in the order of their IDs.
func (c *Client) Keys(ctx context.Context, f latchkey.KeyFilter) iter.Seq2[Key, error] {
	return c.KeysAfter(ctx, f, uuid.Nil)
}

// KeysAfter is [Client.Keys] for the keys after one.
func (c *Client) KeysAfter(ctx context.Context, f latchkey.KeyFilter, after uuid.UUID) iter.Seq2[Key, error] {
	query := filterQuery(f)
	if after != uuid.Nil {
		query.Set("cursor", after.String())
	}
	return all[Key](ctx, c, "/v1/keys", query)
}

// filterQuery returns the parameters of a filter.
func filterQuery(f latchkey.KeyFilter) url.Values {
	q := url.Values{}
	set := func(name, value string) {
		if value != "" {
			q.Set(name, value)
		}
	}
	if f.Owner != uuid.Nil {
		owner, _ := Owner(f.Owner).MarshalText()
		set("owner", string(owner))
	}
	set("group", f.Group)
	set("name_prefix", f.NamePrefix)
	set("state", map[latchkey.KeyState]string{latchkey.KeyEnabled: "enabled", latchkey.KeyDisabled: "disabled", latchkey.KeyExpired: "expired"}[f.State])
	if !f.ExpiringBefore.IsZero() {
		set("expiring_before", f.ExpiringBefore.Format(time.RFC3339Nano))
	}
	if !f.UnusedSince.IsZero() {
		set("unused_since", f.UnusedSince.Format(time.RFC3339Nano))
	}
	if f.TagSecretBefore > 0 {
		set("tag_secret_before", strconv.FormatUint(f.TagSecretBefore, 10))
	}
	return q
}

// Key returns a key.
func (c *Client) Key(ctx context.Context, id uuid.UUID) (Key, error) {
	return send[Key](ctx, c, request{method: "GET", path: pathOf("keys", id, "")})
}

// CreateKey makes a key of owner, which is a user or [latchkey.ServerOwner]. It returns the key and
// its token. idempotencyKey may be empty. If the key was made by an earlier call with the same
// idempotencyKey, token is empty: rotate the key if nobody has its token.
func (c *Client) CreateKey(ctx context.Context, owner uuid.UUID, n NewKey, idempotencyKey string) (key Key, token string, err error) {
	path := pathOf("users", owner, "/keys")
	if owner == latchkey.ServerOwner {
		path = "/v1/server-keys"
	}
	made, err := send[KeyWithToken](ctx, c, request{method: "POST", path: path, body: n, idempotency: idempotencyKey})
	return made.Key, made.Token, err
}

// ChangeKey changes a key.
func (c *Client) ChangeKey(ctx context.Context, id uuid.UUID, change KeyChange, match string) (Key, error) {
	return send[Key](ctx, c, request{method: "PATCH", path: pathOf("keys", id, ""), body: change, match: match})
}

// DeleteKey deletes a key.
func (c *Client) DeleteKey(ctx context.Context, id uuid.UUID, match string) error {
	_, err := send[none](ctx, c, request{method: "DELETE", path: pathOf("keys", id, ""), match: match})
	return err
}

// RotateKey gives a key a new token, and returns the key and the token.
func (c *Client) RotateKey(ctx context.Context, id uuid.UUID, r Rotation, match string) (key Key, token string, err error) {
	made, err := send[KeyWithToken](ctx, c, request{method: "POST", path: pathOf("keys", id, "/rotate"), body: r, match: match})
	return made.Key, made.Token, err
}

// ExportKey returns a key with its stored verifier.
func (c *Client) ExportKey(ctx context.Context, id uuid.UUID) (latchkey.MintedKey, error) {
	e, err := send[ExportedKey](ctx, c, request{method: "GET", path: pathOf("keys", id, "/export")})
	if err != nil {
		return latchkey.MintedKey{}, err
	}
	return latchkey.ParseMintedKey(e.Minted)
}

// Login checks a token as [latchkey.Store.LoginFrom] does. The token does not count as used, unless
// l.Use is true.
//
// Errors: those of LoginFrom.
func (c *Client) Login(ctx context.Context, l Login) (latchkey.Principal, error) {
	return send[latchkey.Principal](ctx, c, request{method: "POST", path: "/v1/login", body: l, reads: true})
}

// FindToken returns the key of a token.
//
// Errors: [ErrTokenUnknown].
func (c *Client) FindToken(ctx context.Context, token string) (FoundToken, error) {
	return send[FoundToken](ctx, c, request{method: "POST", path: "/v1/find-token", body: map[string]string{"token": token}, reads: true})
}

// Groups yields the groups.
func (c *Client) Groups(ctx context.Context) iter.Seq2[Group, error] {
	return all[Group](ctx, c, "/v1/groups", nil)
}

// Group returns a group.
func (c *Client) Group(ctx context.Context, name string) (Group, error) {
	return send[Group](ctx, c, request{method: "GET", path: groupPath(name)})
}

// ChangeGroup disables or enables a group.
func (c *Client) ChangeGroup(ctx context.Context, name string, change GroupChange, match string) (Group, error) {
	return send[Group](ctx, c, request{method: "PATCH", path: groupPath(name), body: change, match: match})
}

func groupPath(name string) string { return "/v1/groups/" + escapePart(name) }

// Audit yields the entries of the audit trail behind a position, in the order of [audit.All].
func (c *Client) Audit(ctx context.Context, after audit.Position) iter.Seq2[audit.Entry, error] {
	q := c.auditQuery()
	q.Set("cursor", after.String())
	return all[audit.Entry](ctx, c, "/v1/audit", q)
}

// AuditHeads returns the heads of the audit trail, in the order of the names of their chains. A
// chain that has not begun has none.
func (c *Client) AuditHeads(ctx context.Context) ([]audit.Head, error) {
	page, err := c.AuditPage(ctx, nil, 1)
	return page.Heads, err
}

// AuditPage returns at most limit entries of the audit trail behind a position, and the heads.
func (c *Client) AuditPage(ctx context.Context, after audit.Position, limit int) (AuditPage, error) {
	q := c.auditQuery()
	q.Set("cursor", after.String())
	q.Set("limit", strconv.Itoa(limit))
	return send[AuditPage](ctx, c, request{method: "GET", path: "/v1/audit", query: q})
}

// VerifyAudit looks whether the audit trail is whole and has the heads.
//
// Errors: [audit.ErrChain] if the client is about one chain, and a head is the one of another
// chain.
func (c *Client) VerifyAudit(ctx context.Context, heads ...audit.Head) (AuditVerdict, error) {
	body := struct {
		Heads []audit.Head `json:"heads"`
	}{append([]audit.Head{}, heads...)}
	return send[AuditVerdict](ctx, c, request{method: "POST", path: "/v1/audit/verify", query: c.auditQuery(), body: body, reads: true})
}

// Health returns what is wrong with the store.
func (c *Client) Health(ctx context.Context) (Health, error) {
	return send[Health](ctx, c, request{method: "GET", path: "/v1/health"})
}

// Stats returns the counters of the store.
func (c *Client) Stats(ctx context.Context) (Stats, error) {
	return send[Stats](ctx, c, request{method: "GET", path: "/v1/stats"})
}

// Check returns the damage in the store.
func (c *Client) Check(ctx context.Context) (Findings, error) {
	return send[Findings](ctx, c, request{method: "POST", path: "/v1/check", reads: true})
}

// Compact gives unused space back to the file system.
func (c *Client) Compact(ctx context.Context) error {
	_, err := send[none](ctx, c, request{method: "POST", path: "/v1/compact", reads: true})
	return err
}

// Backup writes a backup to w. When Backup returns an error, what w has is of no use.
func (c *Client) Backup(ctx context.Context, w io.Writer) error {
	return c.download(ctx, w, request{method: "GET", path: "/v1/backup"})
}

// download sends a request, and writes the body of the answer to w.
func (c *Client) download(ctx context.Context, w io.Writer, q request) error {
	q.trailers = true
	res, err := c.send(ctx, q)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if _, err := io.Copy(w, res.Body); errors.Is(err, io.ErrUnexpectedEOF) {
		return q.unanswered(ctx, err, true)
	} else if err != nil {
		return err
	}
	failure := res.Trailer.Get(failureTrailer)
	if failure == "" {
		return nil
	}
	var p Problem
	if err := json.Unmarshal([]byte(failure), &p); err != nil {
		return q.unanswered(ctx, err, true)
	}
	return &p
}

// Export writes users and keys to w, as JSON lines. When Export returns an error, what w has is not
// all of them.
func (c *Client) Export(ctx context.Context, w io.Writer, withVerifiers bool) error {
	return c.download(ctx, w, request{method: "GET", path: "/v1/export", query: flags("with_verifiers", withVerifiers)})
}

// flags returns parameters that are true: each is a name and whether it is set.
func flags(pairs ...any) url.Values {
	q := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1].(bool) {
			q.Set(pairs[i].(string), "true")
		}
	}
	return q
}

// Import makes the keys in a file that another system has exported. When lines are wrong, the error
// is [ErrWrongLines], and a [*Problem] whose Lines says what is wrong.
func (c *Client) Import(ctx context.Context, file io.Reader, i Import) (Imported, error) {
	return send[Imported](ctx, c, request{
		method: "POST", path: "/v1/import", query: i.query(), raw: file, media: "application/octet-stream", reads: i.DryRun,
	})
}

// Apply brings users and keys in line with a manifest, which is YAML or JSON.
//
// Errors: [ErrManifest] if the manifest is wrong; those of users and keys, with the line.
func (c *Client) Apply(ctx context.Context, manifest []byte, opts ApplyOptions) (Applied, error) {
	return send[Applied](ctx, c, request{
		method: "POST", path: "/v1/apply", query: flags("prune", opts.Prune, "dry_run", opts.DryRun),
		raw: bytes.NewReader(manifest), media: "application/yaml", reads: opts.DryRun,
	})
}

// DomainSecrets returns the secrets of the domain, for another store.
func (c *Client) DomainSecrets(ctx context.Context) (latchkey.DomainSecrets, error) {
	var text bytes.Buffer
	if err := c.download(ctx, &text, request{method: "GET", path: "/v1/domain-secrets"}); err != nil {
		return latchkey.DomainSecrets{}, err
	}
	return latchkey.ParseDomainSecrets(text.Bytes())
}

// TakeTagSecrets takes the steps that another store of the domain has taken with its tag secrets.
func (c *Client) TakeTagSecrets(ctx context.Context, d latchkey.DomainSecrets) (TagSecrets, error) {
	return send[TagSecrets](ctx, c, request{method: "POST", path: "/v1/domain-secrets", raw: bytes.NewReader(d.Export()), media: "application/octet-stream"})
}

// TagSecrets returns the tag secrets, and with count also how many keys have a token under each,
// for which the store reads all keys.
func (c *Client) TagSecrets(ctx context.Context, count bool) (TagSecrets, error) {
	return send[TagSecrets](ctx, c, request{method: "GET", path: "/v1/tag-secrets", query: flags("count", count)})
}

// AddTagSecret adds a tag secret. Each call adds another one.
func (c *Client) AddTagSecret(ctx context.Context) (latchkey.TagSecret, error) {
	return send[latchkey.TagSecret](ctx, c, request{method: "POST", path: "/v1/tag-secrets"})
}

// UseTagSecret makes the store use a tag secret for new tokens.
func (c *Client) UseTagSecret(ctx context.Context, number uint64) (latchkey.TagSecret, error) {
	return send[latchkey.TagSecret](ctx, c, request{method: "POST", path: tagSecretPath(number, "use")})
}

// RetireTagSecret ends all tokens under a tag secret, for good.
//
// Errors: [ErrKeysLeft] if keys would be left without a good token, unless force is true.
func (c *Client) RetireTagSecret(ctx context.Context, number uint64, force bool) (latchkey.TagSecret, error) {
	return send[latchkey.TagSecret](ctx, c, request{method: "POST", path: tagSecretPath(number, "retire"), body: map[string]bool{"force": force}})
}

func tagSecretPath(number uint64, step string) string {
	return fmt.Sprintf("/v1/tag-secrets/%d/%s", number, step)
}

// Clock returns the store's time.
func (c *Client) Clock(ctx context.Context) (Clock, error) {
	return send[Clock](ctx, c, request{method: "GET", path: "/v1/clock"})
}

// ResetClock sets the store's time to the clock of the machine.
func (c *Client) ResetClock(ctx context.Context) (ClockReset, error) {
	return send[ClockReset](ctx, c, request{method: "POST", path: "/v1/clock/reset"})
}

// Repair repairs what can be derived from users and keys, and returns the number of findings that
// it has repaired.
func (c *Client) Repair(ctx context.Context) (int, error) {
	r, err := send[Repaired](ctx, c, request{method: "POST", path: "/v1/repair"})
	return r.Repaired, err
}

// BeginAudit begins a chain of the audit trail, or with anew begins it another time in place of the
// one that is there. Unless the client is about one chain, it is the chain to which the program
// appends. BeginAudit returns the head.
//
// Errors: [ErrTrail] if the chain has begun, unless anew is true.
func (c *Client) BeginAudit(ctx context.Context, anew bool) (audit.Head, error) {
	begun, err := send[AuditBegun](ctx, c, request{method: "POST", path: "/v1/audit/begin", query: c.auditQuery(), body: map[string]bool{"anew": anew}})
	return begun.Head, err
}

// PruneAudit removes all entries of each chain of the audit trail but the last keep.
func (c *Client) PruneAudit(ctx context.Context, keep uint64) (AuditPruned, error) {
	return send[AuditPruned](ctx, c, request{method: "POST", path: "/v1/audit/prune", query: c.auditQuery(), body: map[string]uint64{"keep": keep}})
}

// Hub returns how the hub is.
//
// Errors: [ErrNoHub].
func (c *Client) Hub(ctx context.Context) (replica.HubStatus, error) {
	return send[replica.HubStatus](ctx, c, request{method: "GET", path: "/v1/hub"})
}

// Replicas yields the edges of the hub, in the order of their names.
//
// Errors: [ErrNoHub].
func (c *Client) Replicas(ctx context.Context) iter.Seq2[replica.EdgeInfo, error] {
	return all[replica.EdgeInfo](ctx, c, "/v1/replicas", nil)
}

// Replica returns an edge of the hub.
//
// Errors: [ErrNoHub]; [replica.ErrEdgeNotFound].
func (c *Client) Replica(ctx context.Context, id uuid.UUID) (replica.EdgeInfo, error) {
	return send[replica.EdgeInfo](ctx, c, request{method: "GET", path: pathOf("replicas", id, "")})
}

// SetPolicy gives an edge another policy.
//
// Errors: [ErrNoHub]; [ErrPolicy]; [replica.ErrEdgeNotFound].
func (c *Client) SetPolicy(ctx context.Context, id uuid.UUID, p replica.Policy) (replica.EdgeInfo, error) {
	body := struct {
		Policy replica.Policy `json:"policy"`
	}{p}
	return send[replica.EdgeInfo](ctx, c, request{method: "PATCH", path: pathOf("replicas", id, ""), body: body})
}

// RevokeReplica cuts an edge off.
//
// Errors: [ErrNoHub]; [replica.ErrEdgeNotFound].
func (c *Client) RevokeReplica(ctx context.Context, id uuid.UUID) (replica.EdgeInfo, error) {
	return send[replica.EdgeInfo](ctx, c, request{method: "POST", path: pathOf("replicas", id, "/revoke")})
}

// Invite returns an invitation, with which one edge can join the hub within an hour. It is a
// secret.
//
// Errors: [ErrNoHub]; [ErrPolicy].
func (c *Client) Invite(ctx context.Context, p replica.Policy) (string, error) {
	made, err := send[Invitation](ctx, c, request{method: "POST", path: "/v1/invitations", body: p})
	return made.Invitation, err
}

// Claims yields the claims that wait, in the order in which they came.
//
// Errors: [ErrNoHub].
func (c *Client) Claims(ctx context.Context) iter.Seq2[replica.Claim, error] {
	return all[replica.Claim](ctx, c, "/v1/claims", nil)
}

// ConfirmClaim makes the change of a claim at the hub.
//
// Errors: [ErrNoHub]; [replica.ErrClaimNotFound].
func (c *Client) ConfirmClaim(ctx context.Context, number uint64) error {
	_, err := send[none](ctx, c, request{method: "POST", path: claimPath(number, "confirm")})
	return err
}

// RefuseClaim drops a claim. The edge that made it takes over what the hub has.
//
// Errors: [ErrNoHub]; [replica.ErrClaimNotFound].
func (c *Client) RefuseClaim(ctx context.Context, number uint64) error {
	_, err := send[none](ctx, c, request{method: "POST", path: claimPath(number, "refuse")})
	return err
}

func claimPath(number uint64, step string) string {
	return fmt.Sprintf("/v1/claims/%d/%s", number, step)
}

// Confirmed returns how many edges have taken over a commit of the hub. [Client.Stats] tells the
// last commit.
//
// Errors: [ErrNoHub].
func (c *Client) Confirmed(ctx context.Context, sequence uint64) (Confirmed, error) {
	q := url.Values{"sequence": {strconv.FormatUint(sequence, 10)}}
	return send[Confirmed](ctx, c, request{method: "GET", path: "/v1/confirmed", query: q})
}

// KeyConfirmed returns how many edges have taken over the last change of a key.
//
// Errors: [ErrNoHub]; [latchkey.ErrKeyNotFound].
func (c *Client) KeyConfirmed(ctx context.Context, id uuid.UUID) (Confirmed, error) {
	return send[Confirmed](ctx, c, request{method: "GET", path: pathOf("keys", id, "/confirmed")})
}

// UserConfirmed returns how many edges have taken over the last change of a user.
//
// Errors: [ErrNoHub]; [latchkey.ErrUserNotFound].
func (c *Client) UserConfirmed(ctx context.Context, id uuid.UUID) (Confirmed, error) {
	return send[Confirmed](ctx, c, request{method: "GET", path: pathOf("users", id, "/confirmed")})
}

// GroupConfirmed returns how many edges have taken over the last change of a group.
//
// Errors: [ErrNoHub].
func (c *Client) GroupConfirmed(ctx context.Context, name string) (Confirmed, error) {
	return send[Confirmed](ctx, c, request{method: "GET", path: groupPath(name) + "/confirmed"})
}

// Edge returns how the edge is.
//
// Errors: [ErrNoEdge].
func (c *Client) Edge(ctx context.Context) (replica.Status, error) {
	return send[replica.Status](ctx, c, request{method: "GET", path: "/v1/edge"})
}

// SyncEdge takes over what is new at the hub of the edge, and pushes what is new at the edge. It
// returns how the edge is then.
//
// Errors: [ErrNoEdge]; [ErrUnreachable]; those of [replica.Edge.Sync].
func (c *Client) SyncEdge(ctx context.Context) (replica.Status, error) {
	return send[replica.Status](ctx, c, request{method: "POST", path: "/v1/edge/sync"})
}

// An Event is an event of the stream of changes. openapi.yaml lists them.
type Event struct {
	Name string // "ready", "change", "commit", "lost" or "problem"
	ID   string // of a change: the [audit.Position] of its entry
	Data json.RawMessage
}

// Changes yields the events of the stream of changes. If last is not empty, the stream goes on
// after the change with that ID. The last element is an error: [io.EOF] if the program has ended
// the stream.
func (c *Client) Changes(ctx context.Context, last string) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		q := request{method: "GET", path: "/v1/changes", lastEvent: last}
		res, err := c.send(ctx, q)
		if err != nil {
			yield(Event{}, err)
			return
		}
		defer res.Body.Close()
		lines := bufio.NewScanner(res.Body)
		lines.Buffer(nil, maxBody)
		var e Event
		for lines.Scan() {
			name, value, _ := strings.Cut(lines.Text(), ": ")
			switch name {
			case "event":
				e.Name = value
			case "id":
				e.ID = value
			case "data":
				e.Data = json.RawMessage(value)
			case "":
				if e.Name != "" && !yield(e, nil) {
					return
				}
				e = Event{}
			}
		}
		yield(Event{}, cmp.Or(ctx.Err(), lines.Err(), io.EOF))
	}
}
