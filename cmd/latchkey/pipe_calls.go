package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
	"github.com/latchkeydb/latchkey/internal/loggable"
)

// This file has the calls of latchkey pipe. Each call is a request of package admin, so a call has
// the rules and the errors of the API, whether the pipe has the file open or goes through a socket.

// A pipeCall is a call of latchkey pipe.
type pipeCall struct {
	name   string
	method string
	path   string // below /v1; {user} stands for the field user
	reads  bool   // the call changes nothing, although its method is not GET
	fields []pipeField
	body   map[string]any // what the body has besides the fields
	// run does what the request alone cannot do. If run is nil, the result is the answer to the
	// request.
	run func(*pipe, context.Context, *admin.Client, pipeArguments) (any, error)
}

// A pipeField is a field of a call.
type pipeField struct {
	name     string
	in       fieldPlace
	form     fieldForm
	optional bool
}

// A fieldPlace says where the API has a field.
type fieldPlace int

const (
	inBody fieldPlace = iota // the API checks the form of the field
	inPath
	inQuery
	inCall // the field is for the function run
	inWholeBody
	inETag
	inIdempotencyKey
	inActor
)

// A fieldForm says what a field outside the body of a request must be.
type fieldForm int

const (
	aText fieldForm = iota
	anID
	anOwner
	aBool
	aLimit
	anIdentity
)

// formTexts describes the forms of fields in errors.
var formTexts = map[fieldForm]string{
	aText: "a text that is not empty", anID: "an ID such as 01890a5d-ac96-774b-bcce-b302099a8057",
	anOwner: `the ID of a user, or "server"`, aBool: "true or false",
	aLimit: "a whole number from 1 to " + strconv.Itoa(maxPage), anIdentity: `an object with the texts "provider" and "subject"`,
}

// maxPage is the most items of a page, and how many there are without the field limit.
const maxPage = 100

// Fields that several calls have.
var (
	userField  = pipeField{name: "user", in: inPath, form: anID}
	keyField   = pipeField{name: "key", in: inPath, form: anID}
	ownerField = pipeField{name: "owner", in: inCall, form: anOwner}
	groupField = pipeField{name: "group", in: inPath}
	etagField  = pipeField{name: "etag", in: inETag, optional: true}
	actorField = pipeField{name: "actor", in: inActor, optional: true}

	changeFields = []pipeField{etagField, actorField}
	createFields = []pipeField{{name: "idempotency_key", in: inIdempotencyKey, optional: true}, actorField}
	pageFields   = []pipeField{{name: "limit", in: inQuery, form: aLimit, optional: true}, {name: "cursor", in: inQuery, optional: true}}
	ownedKey     = []pipeField{ownerField, keyField}
	carried      = optional(inBody, "expires", "scopes", "networks", "metadata")
)

// needed returns fields of a form that a call must have.
func needed(in fieldPlace, form fieldForm, names ...string) (fields []pipeField) {
	for _, name := range names {
		fields = append(fields, pipeField{name: name, in: in, form: form})
	}
	return fields
}

// optional returns texts, or fields of the body, that a call can have.
func optional(in fieldPlace, names ...string) (fields []pipeField) {
	for _, name := range names {
		fields = append(fields, pipeField{name: name, in: in, optional: true})
	}
	return fields
}

// pipeCalls is the table of all calls. docs/pipe.md has the same table, and a test compares them.
var pipeCalls = []pipeCall{
	{name: "login", method: http.MethodPost, path: "login", reads: true, body: map[string]any{"use": true},
		fields: slices.Concat(needed(inBody, aText, "token"), optional(inBody, "address"))},
	{name: "find_token", method: http.MethodPost, path: "find-token", reads: true, fields: needed(inBody, aText, "token"), run: (*pipe).findToken},

	{name: "create_user", method: http.MethodPost, path: "users", fields: slices.Concat(needed(inBody, anIdentity, "identity"), optional(inBody, "group", "metadata"), createFields)},
	{name: "fetch_user", method: http.MethodGet, path: "users/{user}", fields: []pipeField{userField}},
	{name: "find_user", method: http.MethodGet, path: "users", fields: needed(inQuery, anIdentity, "identity"), run: (*pipe).findUser},
	{name: "fetch_users", method: http.MethodGet, path: "users",
		fields: slices.Concat(optional(inQuery, "group", "search"), []pipeField{{name: "disabled", in: inQuery, form: aBool, optional: true}}, pageFields)},
	{name: "change_user", method: http.MethodPatch, path: "users/{user}", fields: slices.Concat([]pipeField{userField}, optional(inBody, "group", "metadata"), changeFields)},
	{name: "enable_user", method: http.MethodPatch, path: "users/{user}", body: map[string]any{"disabled": false}, fields: slices.Concat([]pipeField{userField}, changeFields)},
	{name: "disable_user", method: http.MethodPatch, path: "users/{user}", body: map[string]any{"disabled": true}, fields: slices.Concat([]pipeField{userField}, changeFields)},
	{name: "delete_user", method: http.MethodDelete, path: "users/{user}", fields: slices.Concat([]pipeField{userField}, changeFields)},
	{name: "link_identity", method: http.MethodPost, path: "users/{user}/identities", fields: slices.Concat([]pipeField{userField}, needed(inWholeBody, anIdentity, "identity"), changeFields)},
	{name: "unlink_identity", method: http.MethodDelete, path: "users/{user}/identities", fields: slices.Concat([]pipeField{userField}, needed(inQuery, anIdentity, "identity"), changeFields)},

	{name: "create_key", method: http.MethodPost, path: "users/{owner}/keys",
		fields: slices.Concat(needed(inPath, anID, "owner"), needed(inBody, aText, "name"), carried, createFields)},
	{name: "create_server_key", method: http.MethodPost, path: "server-keys", fields: slices.Concat(needed(inBody, aText, "name"), carried, optional(inBody, "group"), createFields)},
	{name: "fetch_key", method: http.MethodGet, path: "keys/{key}", fields: ownedKey, run: (*pipe).onlyOfOwner},
	{name: "fetch_keys", method: http.MethodGet, path: "keys", fields: slices.Concat(needed(inQuery, anOwner, "owner"), pageFields)},
	{name: "find_keys", method: http.MethodGet, path: "keys",
		fields: slices.Concat(optional(inQuery, "group", "name_prefix", "search", "state", "expiring_before", "unused_since"), pageFields)},
	{name: "change_key", method: http.MethodPatch, path: "keys/{key}", fields: slices.Concat(ownedKey, optional(inBody, "name"), carried, optional(inBody, "group"), changeFields), run: (*pipe).onlyOfOwner},
	{name: "enable_key", method: http.MethodPatch, path: "keys/{key}", body: map[string]any{"disabled": false}, fields: slices.Concat(ownedKey, changeFields), run: (*pipe).onlyOfOwner},
	{name: "disable_key", method: http.MethodPatch, path: "keys/{key}", body: map[string]any{"disabled": true}, fields: slices.Concat(ownedKey, changeFields), run: (*pipe).onlyOfOwner},
	{name: "delete_key", method: http.MethodDelete, path: "keys/{key}", fields: slices.Concat(ownedKey, changeFields), run: (*pipe).onlyOfOwner},
	{name: "rotate_key", method: http.MethodPost, path: "keys/{key}/rotate", body: map[string]any{}, fields: slices.Concat(ownedKey, optional(inBody, "overlap_seconds", "until_used"), changeFields), run: (*pipe).onlyOfOwner},

	{name: "fetch_group", method: http.MethodGet, path: "groups/{group}", fields: []pipeField{groupField}},
	{name: "fetch_groups", method: http.MethodGet, path: "groups", fields: slices.Concat(optional(inQuery, "search"), pageFields)},
	{name: "enable_group", method: http.MethodPatch, path: "groups/{group}", body: map[string]any{"disabled": false}, fields: slices.Concat([]pipeField{groupField}, changeFields)},
	{name: "disable_group", method: http.MethodPatch, path: "groups/{group}", body: map[string]any{"disabled": true}, fields: slices.Concat([]pipeField{groupField}, changeFields)},

	{name: "store", method: http.MethodGet, path: "store"},
	{name: "health", method: http.MethodGet, path: "health", run: (*pipe).health},
	{name: "stats", method: http.MethodGet, path: "stats"},
	{name: "backup", fields: needed(inCall, aText, "file"), run: (*pipe).backup},
}

var pipeCallsByName = func() map[string]*pipeCall {
	byName := map[string]*pipeCall{}
	for i := range pipeCalls {
		byName[pipeCalls[i].name] = &pipeCalls[i]
	}
	return byName
}()

var (
	// errNoCall means that there is no call of a name.
	errNoCall = errors.New("there is no such call")
	// errBadCall means that a request is not as docs/pipe.md describes it.
	errBadCall = errors.New("the request is wrong")
	// errBadPipeID means that a field has something else where an ID is expected.
	errBadPipeID = errors.New("an ID is expected")
)

// pipeArguments are the fields of one request.
type pipeArguments struct {
	request admin.Request
	body    map[string]any // of the request; nil for none
	actor   string
	call    map[string]string // the fields for run, and those in the path
}

// arguments returns the fields of a request in the places where the API has them. No error has the
// value of a field, because the value may be a token in the wrong place.
//
// Errors: errBadCall; errBadPipeID.
func (c *pipeCall) arguments(given map[string]json.RawMessage) (pipeArguments, error) {
	a := pipeArguments{
		request: admin.Request{Method: c.method, Query: url.Values{}, Reads: c.reads},
		body:    maps.Clone(c.body),
		call:    map[string]string{},
	}
	for _, f := range c.fields {
		value, ok := given[f.name]
		switch {
		case ok:
			if err := f.put(&a, value); err != nil {
				return a, err
			}
		case f.optional:
			f.leaveOut(&a)
		default:
			return a, fmt.Errorf("%w: the call %s needs the field %s", errBadCall, c.name, f.name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if !slices.ContainsFunc(c.fields, func(f pipeField) bool { return f.name == name }) {
			return a, fmt.Errorf("%w: the call %s has no field %s", errBadCall, c.name, loggable.Text(name))
		}
	}
	// A change without a field to change is one of nothing.
	if a.body == nil && c.method == http.MethodPatch {
		a.body = map[string]any{}
	}
	if a.body != nil {
		var err error
		if a.request.Body, err = json.Marshal(a.body); err != nil {
			return a, err
		}
	}
	for part := range strings.SplitSeq(c.path, "/") {
		if name, ok := strings.CutPrefix(part, "{"); ok {
			part = a.call[strings.TrimSuffix(name, "}")]
		}
		a.request.Path = append(a.request.Path, part)
	}
	return a, nil
}

// put puts the value of a field into the place where the API has it.
//
// Errors: errBadCall; errBadPipeID.
func (f pipeField) put(a *pipeArguments, value json.RawMessage) error {
	switch {
	case f.in == inBody:
		if a.body == nil {
			a.body = map[string]any{}
		}
		a.body[f.name] = value
		return nil
	case f.in == inWholeBody:
		a.request.Body = value
		return nil
	case f.form == anIdentity:
		identity, err := readIdentity(value)
		a.request.Query.Set("provider", string(identity.Provider))
		a.request.Query.Set("subject", identity.Subject)
		return err
	}
	text, err := f.text(value)
	switch f.in {
	case inPath, inCall:
		a.call[f.name] = text
	case inQuery:
		a.request.Query.Set(f.name, text)
	case inETag:
		a.request.Match = text
	case inIdempotencyKey:
		a.request.IdempotencyKey = text
	case inActor:
		a.actor = text
	}
	return err
}

// leaveOut puts in place what a field stands for that the request leaves out.
func (f pipeField) leaveOut(a *pipeArguments) {
	switch {
	case f.in == inETag:
		a.request.Match = admin.AnyETag
	case f.form == aLimit:
		a.request.Query.Set(f.name, strconv.Itoa(maxPage))
	}
}

// text returns the value of a field outside the body as the API has it.
//
// Errors: errBadCall; errBadPipeID.
func (f pipeField) text(value json.RawMessage) (string, error) {
	bad := fmt.Errorf("%w: the field %s must be %s", errBadCall, f.name, formTexts[f.form])
	var text string
	switch f.form {
	case aBool:
		text = string(value)
		if text != "true" && text != "false" {
			return "", bad
		}
		return text, nil
	case aLimit:
		text = string(value)
		if n, err := strconv.Atoi(text); err != nil || n < 1 || n > maxPage {
			return "", bad
		}
		return text, nil
	}
	if value[0] != '"' || json.Unmarshal(value, &text) != nil || text == "" {
		return "", bad
	}
	if f.form != anID && f.form != anOwner || f.form == anOwner && text == "server" {
		return text, nil
	}
	id, isID := parseID(text)
	if !isID {
		return "", fmt.Errorf("%w: the field %s must be %s", errBadPipeID, f.name, formTexts[f.form])
	}
	return id.String(), nil // because some languages write IDs in upper case
}

// readIdentity reads an identity that goes into the parameters of a request.
//
// Errors: errBadCall.
func readIdentity(value json.RawMessage) (i latchkey.Identity, err error) {
	bad := fmt.Errorf("%w: the field identity must be %s", errBadCall, formTexts[anIdentity])
	object, err := readObject(value)
	if err != nil || len(object) != 2 {
		return i, bad
	}
	var texts [2]string
	for n, name := range []string{"provider", "subject"} {
		if text := object[name]; len(text) == 0 || text[0] != '"' || json.Unmarshal(text, &texts[n]) != nil {
			return i, bad
		}
	}
	return latchkey.Identity{Provider: latchkey.Provider(texts[0]), Subject: texts[1]}, nil
}

// readObject reads an object of valid JSON. Unlike package json, it refuses a field that is there
// twice.
//
// Errors: errBadCall.
func readObject(text []byte) (map[string]json.RawMessage, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		return nil, fmt.Errorf("%w: it is no object", errBadCall)
	}
	object := map[string]json.RawMessage{}
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return object, fmt.Errorf("%w: it is no JSON", errBadCall)
		}
		name := token.(string)
		if _, twice := object[name]; twice {
			return object, fmt.Errorf("%w: the field %s is there twice", errBadCall, loggable.Text(name))
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return object, fmt.Errorf("%w: it is no JSON", errBadCall)
		}
		object[name] = value
	}
	return object, nil
}

// do makes the call with a client, and returns the result.
func (c *pipeCall) do(ctx context.Context, p *pipe, client *admin.Client, a pipeArguments) (any, error) {
	client = client.As(cmp.Or(a.actor, p.actor))
	if c.run != nil {
		return c.run(p, ctx, client, a)
	}
	return client.Do(ctx, a.request)
}

// onlyOfOwner makes a call for a key if the key belongs to the owner that the call names. A key
// never has another owner, so the owner cannot change between the two requests.
//
// Errors: [latchkey.ErrKeyNotFound], also for a key of somebody else; those of the call.
func (p *pipe) onlyOfOwner(ctx context.Context, client *admin.Client, a pipeArguments) (any, error) {
	key, err := client.Do(ctx, admin.Request{Method: http.MethodGet, Path: a.request.Path[:2]})
	var found struct {
		Owner string `json:"owner"`
	}
	if err == nil {
		err = json.Unmarshal(key, &found)
	}
	switch {
	case errors.Is(err, latchkey.ErrKeyNotFound), err == nil && found.Owner != a.call["owner"]:
		return nil, fmt.Errorf("key %s: %w", a.call["key"], latchkey.ErrKeyNotFound)
	case err != nil:
		return nil, err
	case a.request.Method == http.MethodGet:
		return key, nil
	}
	return client.Do(ctx, a.request)
}

// findUser returns the user of an identity.
//
// Errors: [latchkey.ErrUserNotFound].
func (p *pipe) findUser(ctx context.Context, client *admin.Client, a pipeArguments) (any, error) {
	text, err := client.Do(ctx, a.request)
	if err != nil {
		return nil, err
	}
	var list admin.List[json.RawMessage]
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, err
	}
	if len(list.Items) == 0 {
		return nil, latchkey.ErrUserNotFound
	}
	return list.Items[0], nil
}

// findToken returns the key of a token that was found. The reason is the code of an error.
func (p *pipe) findToken(ctx context.Context, client *admin.Client, a pipeArguments) (any, error) {
	text, err := client.Do(ctx, a.request)
	if err != nil {
		return nil, err
	}
	var found map[string]any
	if err := json.Unmarshal(text, &found); err != nil {
		return nil, err
	}
	if reason, ok := found["reason"].(string); ok {
		found["reason"] = admin.Code(&admin.Problem{Type: reason})
	}
	return found, nil
}

// pipeError is an error as the pipe tells it.
type pipeError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// pipeHealth is the result of the call health.
type pipeHealth struct {
	OK       bool        `json:"ok"`
	Findings []pipeError `json:"findings"`
}

// health returns the findings about the store, with the code of each.
func (p *pipe) health(ctx context.Context, client *admin.Client, _ pipeArguments) (any, error) {
	health, err := client.Health(ctx)
	if err != nil {
		return nil, err
	}
	answer := pipeHealth{OK: health.OK, Findings: []pipeError{}}
	for _, finding := range health.Findings {
		answer.Findings = append(answer.Findings, pipeError{admin.Code(&finding), line(text(&finding))})
	}
	return answer, nil
}

// backup writes a backup to a new file.
//
// Errors: errFileExists; the operating system's error.
func (p *pipe) backup(ctx context.Context, client *admin.Client, a pipeArguments) (any, error) {
	written, err := p.backUp(ctx, client, a.call["file"])
	if err != nil {
		return nil, err
	}
	return struct {
		File  string `json:"file"`
		Bytes int64  `json:"bytes"`
	}{a.call["file"], written}, nil
}

// ownCodes has the codes of the errors that package admin does not know. The first error that fits
// counts.
var ownCodes = []struct {
	err  error
	code string
}{
	{latchkey.ErrCommitUnknown, "commit-unknown"}, // also if there was no answer
	{errBadCall, "invalid-request"},
	{errBadPipeID, "invalid-id"},
	{errNoCall, "no-such-call"},
	{errLongLine, "line-too-long"},
	{admin.ErrNoAnswer, "no-answer"},
	{admin.ErrUntrusted, "untrusted"},
	{errNoStore, "no-store"},
	{errFileExists, "file-exists"},
	{os.ErrNotExist, "no-file"},
}

// errorOf returns an error as the pipe tells it.
func errorOf(err error) pipeError {
	code := ""
	for _, own := range ownCodes {
		if errors.Is(err, own.err) {
			code = own.code
			break
		}
	}
	if code == "" {
		code = admin.Code(err)
	}
	message := text(err)
	var p *admin.Problem
	if code == "invalid-request" && errors.As(err, &p) { // the title is about the API
		message = errBadCall.Error() + strings.TrimPrefix(message, p.Title)
	}
	return pipeError{code, line(message)}
}
