package keyimport

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
)

// An exported entry is a line of an export: a scheme, a user or a key.
type exported struct {
	Scheme *Scheme `json:"scheme,omitempty"`
	User   *User   `json:"user,omitempty"`

	// The owner of a key is the identity of its user. A server key has none.
	ID       uuid.UUID          `json:"id,omitzero"`
	Owner    *latchkey.Identity `json:"owner,omitempty"`
	Name     string             `json:"name,omitempty"`
	Created  time.Time          `json:"created,omitzero"`
	Expires  time.Time          `json:"expires,omitzero"`
	Scopes   []string           `json:"scopes,omitempty"`
	Networks []netip.Prefix     `json:"networks,omitempty"`
	Metadata map[string]string  `json:"metadata,omitempty"`
	Group    string             `json:"group,omitempty"`
	Disabled bool               `json:"disabled,omitempty"`
	LastUsed time.Time          `json:"last_used,omitzero"`
	// Minted has the verifier of the newest token, as [latchkey.MintedKey.Export] writes it.
	Minted string `json:"minted,omitempty"`
}

// ExportOptions changes what [Export] writes. A nil *ExportOptions, or one with only zero fields,
// is the safe choice.
type ExportOptions struct {
	// WithVerifiers writes the stored verifiers of keys. Only with them can the keys be imported.
	// Nobody can log in with a verifier that a store made. But a verifier of another system may be
	// of a token that can be guessed, so keep the export as safe as the store.
	WithVerifiers bool
}

// Export writes what a store has, as JSON lines that [Read] reads in the format [Latchkey]:
// schemes, users, and keys in the order of their IDs. opts may be nil.
//
// It does not write what has no meaning elsewhere or cannot be had: secrets, the older token of a
// rotation with an overlap, tombstones, groups that are disabled, the records of applications, and
// anonymous users. Each user and each key is as it is at one moment, but the moments are not the
// same for all of them if the store changes meanwhile. A backup has everything.
//
// Errors: an error of w, or of the store.
func Export(ctx context.Context, s *latchkey.Store, w io.Writer, opts *ExportOptions) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	schemes, err := StoredSchemes(ctx, s)
	if err != nil {
		return err
	}
	for _, scheme := range schemes {
		if err := encoder.Encode(exported{Scheme: &scheme}); err != nil {
			return err
		}
	}
	for u, err := range s.Users(ctx, uuid.Nil) {
		if err != nil {
			return err
		}
		user := &User{Identities: named(u.Identities), Group: u.Group, Metadata: u.Metadata, Disabled: u.Disabled}
		if len(user.Identities) == 0 {
			continue
		}
		if err := encoder.Encode(exported{User: user}); err != nil {
			return err
		}
	}
	withVerifiers := opts != nil && opts.WithVerifiers
	for k, err := range s.AllKeys(ctx, latchkey.KeyFilter{}, uuid.Nil) {
		if err != nil {
			return err
		}
		line, err := exportKey(ctx, s, k.ID, withVerifiers)
		if errors.Is(err, latchkey.ErrKeyNotFound) {
			continue // it was deleted meanwhile
		}
		if err == nil {
			err = encoder.Encode(line)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// named returns the identities that are not anonymous.
func named(identities []latchkey.Identity) []latchkey.Identity {
	return slices.DeleteFunc(slices.Clone(identities), func(i latchkey.Identity) bool { return i.Provider == latchkey.ProviderAnonymous })
}

// exportKey reads a key and its user at one moment.
func exportKey(ctx context.Context, s *latchkey.Store, id uuid.UUID, withVerifiers bool) (line exported, err error) {
	err = s.View(ctx, func(tx *latchkey.Tx) error {
		k, err := tx.KeyByID(id)
		if err != nil {
			return err
		}
		line = exported{
			ID: k.ID, Name: k.Name, Created: k.Created, Expires: k.Expires, Scopes: k.Scopes.All(), Networks: k.Networks,
			Metadata: k.Metadata, Group: k.Group, Disabled: k.Disabled, LastUsed: k.LastUsed,
		}
		if k.Owner != latchkey.ServerOwner {
			u, err := tx.User(k.Owner)
			if err != nil {
				return err
			}
			if identities := named(u.Identities); len(identities) > 0 {
				line.Owner = &identities[0]
			}
		}
		if !withVerifiers {
			return nil
		}
		minted, err := tx.ExportKey(id)
		if errors.Is(err, latchkey.ErrInvalidRotation) {
			return nil // no token of the key is good
		}
		line.Minted = minted.Export()
		return err
	})
	return line, err
}

// Latchkey returns the format of what [Export] writes with verifiers. Keys that a store made can
// only be imported into another store of its domain, and keep their IDs.
func Latchkey() Format {
	return Format{own: true, read: func(r *row) Entry {
		switch {
		case r.get("scheme") != nil:
			e := Entry{Scheme: &Scheme{}}
			r.decode("scheme", e.Scheme)
			if err := e.Scheme.validate(); err != nil {
				r.fail("scheme", "%v", err)
			}
			return e
		case r.get("user") != nil:
			e := Entry{User: &User{}}
			r.decode("user", e.User)
			if len(e.User.Identities) == 0 {
				r.fail("user", "there is no identity")
			}
			return e
		}
		r.without("id", "created", "last_used")
		e := Entry{
			Key:      r.minted("minted"),
			Name:     r.text("name"),
			Expires:  r.time("expires"),
			Scopes:   latchkey.NewScopes(r.texts("scopes")...),
			Networks: r.networks("networks"),
			Metadata: r.metadata("metadata"),
			Group:    r.text("group"),
			Disabled: r.boolean("disabled", false),
		}
		if r.get("owner") != nil {
			e.User = &User{Identities: make([]latchkey.Identity, 1)}
			r.decode("owner", &e.User.Identities[0])
		}
		return e
	}}
}

// decode reads an object.
func (r *row) decode(name string, into any) {
	b, err := json.Marshal(r.get(name))
	if err == nil {
		decoder := json.NewDecoder(strings.NewReader(string(b)))
		decoder.DisallowUnknownFields()
		err = decoder.Decode(into)
	}
	if err != nil {
		r.fail(name, "it is not what an export has there")
	}
}

// minted returns a key as [latchkey.MintedKey.Export] writes it.
func (r *row) minted(name string) latchkey.MintedKey {
	text := r.text(name)
	if text == "" {
		r.fail(name, "there is none; only an export with verifiers can be imported")
		return latchkey.MintedKey{}
	}
	key, err := latchkey.ParseMintedKey(text)
	if rest, foreign := strings.CutPrefix(text, "foreign/"); err == nil && foreign {
		_, err = parseVerifier(strings.SplitN(rest, "/", 3)[2])
	}
	if err != nil {
		r.fail(name, "it is damaged")
		return latchkey.MintedKey{}
	}
	return key
}
