package admin

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin/internal/manifest"
	"github.com/latchkeydb/latchkey/audit"
	"github.com/latchkeydb/latchkey/keyimport"
	"github.com/latchkeydb/latchkey/tokenscan"
)

// This file has what goes over the wire, for the handler and for clients. openapi.yaml explains the
// fields.

// A List is one page of a list. Without Next it is the last page. A page can be short, or empty,
// and still have a Next.
type List[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty"` // the parameter cursor of the next page
}

// An Owner is the owner of a key: the ID of a user, or [latchkey.ServerOwner], which is "server" as
// a text.
type Owner uuid.UUID

// MarshalText returns the ID, or "server".
func (o Owner) MarshalText() ([]byte, error) {
	if uuid.UUID(o) == latchkey.ServerOwner {
		return []byte("server"), nil
	}
	return []byte(uuid.UUID(o).String()), nil
}

// UnmarshalText reads an ID, or "server".
func (o *Owner) UnmarshalText(text []byte) error {
	if string(text) == "server" {
		*o = Owner(latchkey.ServerOwner)
		return nil
	}
	id, err := parseID(string(text))
	*o = Owner(id)
	return err
}

// A User is a user as the API shows it.
type User struct {
	latchkey.User
	ETag string `json:"etag"`
}

// A Key is a key as the API shows it.
type Key struct {
	ID       uuid.UUID         `json:"id"`
	Owner    Owner             `json:"owner"`
	Identity latchkey.Identity `json:"identity,omitzero"` // the first one of the owner
	Name     string            `json:"name"`
	Created  time.Time         `json:"created"`
	Expires  time.Time         `json:"expires,omitzero"`
	Expired  bool              `json:"expired"` // by the store's time
	Disabled bool              `json:"disabled"`
	Stopped  string            `json:"stopped,omitempty"` // "user" or "group": which is disabled
	Scopes   []string          `json:"scopes"`
	Networks []netip.Prefix    `json:"networks"`
	Metadata map[string]string `json:"metadata"`
	Group    string            `json:"group,omitempty"`
	Tokens   []Token           `json:"tokens"`
	LastUsed time.Time         `json:"last_used,omitzero"`
	ETag     string            `json:"etag"`
}

// Stored returns the key as package latchkey has it. The number of its disablings is unknown.
func (k Key) Stored() latchkey.Key {
	key := latchkey.Key{
		ID: k.ID, Owner: uuid.UUID(k.Owner), Name: k.Name, Created: k.Created, Expires: k.Expires, Disabled: k.Disabled,
		Scopes: latchkey.NewScopes(k.Scopes...), Networks: k.Networks, Metadata: k.Metadata, Group: k.Group, LastUsed: k.LastUsed,
	}
	for _, t := range k.Tokens {
		key.Tokens = append(key.Tokens, latchkey.KeyToken(t))
	}
	return key
}

// A Token is what the API shows of one token of a key. It is not the token itself.
type Token struct {
	ID        string    `json:"id"`
	Ends      time.Time `json:"ends,omitzero"`
	TagSecret uint64    `json:"tag_secret"`
	Foreign   bool      `json:"foreign,omitempty"`
	LastUsed  time.Time `json:"last_used,omitzero"`
}

// A Group is a group as the API shows it.
type Group struct {
	latchkey.Group
	ETag string `json:"etag"`
}

// A NewUser is the body of the creation of a user.
type NewUser struct {
	Identity latchkey.Identity `json:"identity"`
	Group    string            `json:"group,omitempty"`
	Metadata map[string]string `json:"metadata,omitempty"`
}

// A NewKey is the body of the creation of a key.
type NewKey struct {
	Name     string            `json:"name"`
	Expires  time.Time         `json:"expires,omitzero"`
	Scopes   []string          `json:"scopes,omitempty"`
	Networks []netip.Prefix    `json:"networks,omitempty"`
	Metadata map[string]string `json:"metadata,omitempty"`
	Group    string            `json:"group,omitempty"` // of a server key
}

// A KeyWithToken is the answer to the creation or the rotation of a key. If the creation was a
// repetition, Repeated is true and there is no token.
type KeyWithToken struct {
	Key      Key    `json:"key"`
	Token    string `json:"token,omitempty"`
	Repeated bool   `json:"repeated,omitempty"`
	Advice   string `json:"advice,omitempty"`
}

// Format keeps the token out of anything that prints the answer.
func (k KeyWithToken) Format(f fmt.State, _ rune) { fmt.Fprint(f, "a token of the key ", k.Key.ID) }

// A Rotation is the body of a rotation.
type Rotation struct {
	OverlapSeconds int64 `json:"overlap_seconds,omitempty"`
	UntilUsed      bool  `json:"until_used,omitempty"`
}

// An Optional is a field of a change. A field that is not set stays as it is.
type Optional[T any] struct {
	Set   bool
	Value T
}

// Some returns an Optional that is set.
func Some[T any](value T) Optional[T] { return Optional[T]{true, value} }

// IsZero reports whether the field is not set.
func (o Optional[T]) IsZero() bool { return !o.Set }

// MarshalJSON returns the value.
func (o Optional[T]) MarshalJSON() ([]byte, error) { return json.Marshal(o.Value) }

// optional is what decodeValue knows of an [Optional].
type optional interface {
	// set notes that the field is there. It returns the value, and reports whether it can be null.
	set() (value reflect.Value, nullable bool)
}

func (o *Optional[T]) set() (reflect.Value, bool) {
	o.Set = true
	v := reflect.ValueOf(&o.Value).Elem()
	return v, v.Kind() == reflect.Pointer
}

// A UserChange is the body of a change of a user.
type UserChange struct {
	Disabled Optional[bool]              `json:"disabled,omitzero"`
	Group    Optional[string]            `json:"group,omitzero"`
	Metadata Optional[map[string]string] `json:"metadata,omitzero"`
}

// A KeyChange is the body of a change of a key. An expiry date of nil is none.
type KeyChange struct {
	Name     Optional[string]            `json:"name,omitzero"`
	Disabled Optional[bool]              `json:"disabled,omitzero"`
	Expires  Optional[*time.Time]        `json:"expires,omitzero"`
	Scopes   Optional[[]string]          `json:"scopes,omitzero"`
	Networks Optional[[]netip.Prefix]    `json:"networks,omitzero"`
	Metadata Optional[map[string]string] `json:"metadata,omitzero"`
	Group    Optional[string]            `json:"group,omitzero"`
}

// A GroupChange is the body of a change of a group.
type GroupChange struct {
	Disabled Optional[bool] `json:"disabled,omitzero"`
}

// A Login is a token to check, and the address that its sender has, if it is known.
type Login struct {
	Token   string     `json:"token"`
	Address netip.Addr `json:"address,omitzero"`
	// Use makes the token count as used, as in a login within the program.
	Use bool `json:"use,omitempty"`
}

// Format keeps the token out of anything that prints the body.
func (l Login) Format(f fmt.State, _ rune) { fmt.Fprint(f, "a token") }

// A FoundToken is the answer about a token that somebody has found.
type FoundToken struct {
	Key    Key    `json:"key"`
	State  string `json:"state"`            // "live" or "refused"
	Reason string `json:"reason,omitempty"` // the type of a problem
	// Principal is the holder of a token that is live and has no Reason.
	Principal *latchkey.Principal `json:"principal,omitempty"`
}

// Answer returns what [tokenscan.Ask] has answered about the token.
func (f FoundToken) Answer() tokenscan.Answer {
	a := tokenscan.Answer{State: tokenscan.State(f.State)}
	for _, k := range kinds {
		if f.Reason == typeOf(k.name) {
			a.Reason = k.err
		}
	}
	if f.Principal != nil {
		a.Principal = *f.Principal
	}
	return a
}

// An ExportedKey is a key for another store of the domain, as [latchkey.MintedKey.Export] has it.
type ExportedKey struct {
	Minted string `json:"minted"`
}

// Format keeps the verifier out of anything that prints the answer.
func (ExportedKey) Format(f fmt.State, _ rune) { fmt.Fprint(f, "an exported key") }

// A SignInURL signs one browser in on the page.
type SignInURL struct {
	URL string `json:"url"` // a secret
}

// Format keeps the URL out of anything that prints the answer.
func (SignInURL) Format(f fmt.State, _ rune) { fmt.Fprint(f, "a sign-in URL") }

// AuditPage is one page of the audit trail.
type AuditPage struct {
	List[audit.Entry]
	// Heads are the heads of the chains when the page was read, in the order of their names. A
	// chain that has not begun has none.
	Heads []audit.Head `json:"heads"`
}

// AuditVerdict says whether the chains of the audit trail are whole, and have the heads that were
// given.
type AuditVerdict struct {
	OK      bool         `json:"ok"`
	Entries uint64       `json:"entries"` // of all chains, if all are whole
	Heads   []audit.Head `json:"heads"`   // as in AuditPage; of the chains whose head can be read
	Problem *Problem     `json:"problem,omitempty"`
}

// Health says how the store is.
type Health struct {
	OK       bool      `json:"ok"`
	Findings []Problem `json:"findings"`
}

// Findings are what is wrong in the store.
type Findings struct {
	Findings []Problem `json:"findings"`
	More     bool      `json:"more"` // there are findings beyond those
}

// StoreInfo says which store it is.
type StoreInfo struct {
	Domain  uuid.UUID `json:"domain"`
	Replica uuid.UUID `json:"replica"`
	Now     time.Time `json:"now"` // the store's time
	// TokenPrefix begins every token that the store makes, before an underscore.
	TokenPrefix string `json:"token_prefix"`
}

// Stats are the counters of the store, see [latchkey.Stats].
type Stats struct {
	Sequence        uint64  `json:"sequence"`
	Users           uint64  `json:"users"`
	Keys            uint64  `json:"keys"`
	ClockResets     uint64  `json:"clock_resets"`
	Hits            uint64  `json:"hits"`
	Misses          uint64  `json:"misses"`
	Malformed       uint64  `json:"malformed"`
	Forged          uint64  `json:"forged"`
	Unknown         uint64  `json:"unknown"`
	Refused         uint64  `json:"refused"`
	Busy            uint64  `json:"busy"`
	CacheSize       int     `json:"cache_size"`
	Hashes          uint64  `json:"hashes"`
	HashWaitSeconds float64 `json:"hash_wait_seconds"`
	HashPeak        int64   `json:"hash_peak"`
	Rehashed        uint64  `json:"rehashed"`
	Commits         uint64  `json:"commits"`
}

// ApplyOptions changes how a manifest is applied.
type ApplyOptions struct {
	Prune  bool // delete what manifests of the name have made, and this one no longer has
	DryRun bool // change nothing
}

// Applied is the answer to a manifest.
type Applied struct {
	DryRun  bool            `json:"dry_run"`
	Changes []AppliedChange `json:"changes"`
}

// An AppliedChange is one change to a user or a key, with the fields Action, Kind, ID, Owner, Name
// and Fields. A field in Fields has a Name, and the values Before and After.
type AppliedChange = manifest.Change

// An Import says how an import is read and made. docs/import.md explains it.
type Import struct {
	Format string // "general", or the name of a system
	// Scheme is the scheme of the format general. In other formats only its prefix and its lengths
	// count, if they are set.
	Scheme   keyimport.Scheme
	Ignore   []string          // names of fields that are not looked at
	Provider latchkey.Provider // of the identities of owners; the default is custom-token
	DryRun   bool              // change nothing
}

// Imported is the answer to an import, as [keyimport.Report] explains it.
type Imported struct {
	DryRun   bool        `json:"dry_run"`
	Users    []uuid.UUID `json:"users"`
	Keys     []uuid.UUID `json:"keys"`
	Disabled []uuid.UUID `json:"disabled"`
	Known    int         `json:"known"`
	Expired  []int       `json:"expired"`
}

// TagSecrets are the tag secrets of the domain, but not the secrets themselves.
type TagSecrets struct {
	Secrets []TagSecret `json:"secrets"`
	// WithoutToken is how many keys have no good token, if they were counted.
	WithoutToken *int `json:"without_token,omitempty"`
}

// A TagSecret is a tag secret as the API shows it.
type TagSecret struct {
	latchkey.TagSecret
	// Keys is how many keys have their newest token under the secret, if they were counted.
	Keys *int `json:"keys,omitempty"`
}

// A Clock is the store's time.
type Clock struct {
	Now    time.Time `json:"now"`
	Resets uint64    `json:"resets"` // how often the time was reset
}

// A ClockReset is the answer to a reset of the store's time.
type ClockReset struct {
	Before time.Time `json:"before"`
	After  time.Time `json:"after"`
}

// Repaired is the answer to a repair.
type Repaired struct {
	Repaired int `json:"repaired"` // the number of findings
}

// AuditBegun is the answer to the beginning of an audit trail.
type AuditBegun struct {
	Head audit.Head `json:"head"`
}

// AuditPruned is the answer to the removal of the oldest entries of the audit trail.
type AuditPruned struct {
	Entries uint64 `json:"entries"` // of all chains, before
	Removed uint64 `json:"removed"`
}

// An Invitation is the answer to a request for an invitation.
type Invitation struct {
	Invitation string `json:"invitation"` // a secret
}

// Format keeps the invitation out of anything that prints an Invitation.
func (Invitation) Format(f fmt.State, _ rune) { fmt.Fprint(f, "admin.Invitation") }

// Confirmed tells how many edges have taken over a commit of the hub.
type Confirmed struct {
	Sequence uint64 `json:"sequence"` // of the commit
	Have     int    `json:"have"`
	All      int    `json:"all"`
}
