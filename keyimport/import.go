package keyimport

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
)

// ImportOptions changes how [Import] makes keys. A nil *ImportOptions, or one with only zero
// fields, is the safe choice.
type ImportOptions struct {
	// Provider is the provider of the identities that the owners of keys have in the store. Their
	// subjects are what the other system calls the owners. The default is
	// [latchkey.ProviderCustomToken].
	Provider latchkey.Provider
	// DryRun makes Import report what it would do, and change nothing.
	DryRun bool
}

func (o *ImportOptions) provider() latchkey.Provider {
	if o == nil || o.Provider == "" {
		return latchkey.ProviderCustomToken
	}
	return o.Provider
}

// A Report says what an import did.
type Report struct {
	Users    []uuid.UUID // that were made
	Keys     []uuid.UUID // that were made
	Disabled []uuid.UUID // that the store had already, and that are disabled now
	Known    int         // keys that the store had already
	Expired  []int       // lines of keys that have expired, and were passed over
}

// Import makes the keys of entries that [Read] has read in a format, with their users, in one
// transaction. If anything is wrong, it changes nothing. A second import of the same entries
// changes nothing. opts may be nil.
//
// If the engine bounds its transactions, and the entries are too many for one, Import takes as many
// transactions as it needs. Then entries before a wrong one may be in the store already, and a dry
// run fails.
//
// A user that has no key yet and does not exist is made. A key that the store has already stays as
// it is, also if it was renamed, rotated or given other scopes. But if its entry is disabled, the
// key is disabled, too. A key that has expired is passed over. A key that was deleted in the store
// is an error, [latchkey.ErrKeyDeleted], because it never comes back.
//
// Import also writes the scheme of the keys into the store, for [StoredSchemes]. The holders of the
// keys can log in when the store was opened with the scheme, in [latchkey.Options].Foreign.
//
// Errors: [Errors], with what is wrong line by line, each with the error of the store;
// [ErrInvalidScheme] if the store has another scheme with the name; an error of
// [latchkey.Store.Update]; [latchkey.ErrTransactionTooLarge] for a dry run of too many entries;
// ctx's error.
func Import(ctx context.Context, s *latchkey.Store, f Format, entries []Entry, opts *ImportOptions) (Report, error) {
	if err := f.validate(); err != nil {
		return Report{}, err
	}
	var r Report
	err := s.Update(ctx, func(tx *latchkey.Tx) error {
		i := importing{tx: tx, provider: opts.provider()}
		if err := i.all(ctx, f, entries); err != nil {
			return err
		}
		r = i.Report
		if opts != nil && opts.DryRun {
			return errDryRun
		}
		return nil
	})
	if errors.Is(err, latchkey.ErrTransactionTooLarge) && len(entries) > 1 && (opts == nil || !opts.DryRun) {
		first, err := Import(ctx, s, f, entries[:len(entries)/2], opts)
		if err != nil {
			return first, err
		}
		second, err := Import(ctx, s, f, entries[len(entries)/2:], opts)
		first.add(second)
		return first, err
	}
	if err != nil && !errors.Is(err, errDryRun) {
		return Report{}, err
	}
	return r, nil
}

// add adds what a later part of the import did.
func (r *Report) add(later Report) {
	r.Users, r.Keys = append(r.Users, later.Users...), append(r.Keys, later.Keys...)
	r.Disabled, r.Expired = append(r.Disabled, later.Disabled...), append(r.Expired, later.Expired...)
	r.Known += later.Known
}

// errDryRun undoes a transaction.
var errDryRun = errors.New("nothing is to be changed")

// importing is one run of an import.
type importing struct {
	Report
	tx       *latchkey.Tx
	provider latchkey.Provider
}

func (i *importing) all(ctx context.Context, f Format, entries []Entry) error {
	var errs Errors
	if f.Scheme.Name != "" && slices.ContainsFunc(entries, func(e Entry) bool { return e.isKey() }) {
		if err := putScheme(i.tx, f.Scheme); err != nil {
			return err
		}
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := i.entry(e)
		switch {
		case err == nil:
			continue
		case !isOfLine(err):
			return err
		}
		if errs = append(errs, LineError{Line: e.Line, Reason: err.Error(), err: err}); len(errs) == maxErrors {
			break
		}
	}
	if len(errs) > 0 {
		return errs
	}
	return nil
}

// isOfLine reports whether an error of the store says that an entry is wrong.
func isOfLine(err error) bool {
	return slices.ContainsFunc([]error{
		ErrInvalidScheme,
		latchkey.ErrKeyDeleted, latchkey.ErrInvalidName, latchkey.ErrKeyNameTaken, latchkey.ErrTooManyKeys, latchkey.ErrAnonymousUser,
		latchkey.ErrInvalidExpiry, latchkey.ErrInvalidScope, latchkey.ErrInvalidNetwork, latchkey.ErrInvalidMetadata,
		latchkey.ErrInvalidGroup, latchkey.ErrInvalidIdentity, latchkey.ErrIdentityTaken, latchkey.ErrTooManyIdentities,
		latchkey.ErrInvalidMintedKey,
	}, func(is error) bool { return errors.Is(err, is) })
}

func (i *importing) entry(e Entry) error {
	switch {
	case e.Scheme != nil:
		return putScheme(i.tx, *e.Scheme)
	case !e.isKey():
		_, err := i.user(e.User)
		return err
	}
	k, err := i.tx.KeyByID(e.Key.ID())
	if err == nil {
		return i.known(e, k)
	}
	if !errors.Is(err, latchkey.ErrKeyNotFound) {
		return err
	}
	if !e.Expires.IsZero() && !i.tx.Now().Before(e.Expires) {
		i.Expired = append(i.Expired, e.Line)
		return nil
	}
	n := latchkey.KeySpec{Name: e.Name, Expires: e.Expires, Scopes: e.Scopes, Networks: e.Networks, Metadata: e.Metadata, Group: e.Group}
	owner := latchkey.ServerOwner
	if u := i.ownerOf(e); u == nil {
		_, _, err = i.tx.EnsureServerKey(n, e.Key)
	} else if owner, err = i.user(u); err == nil {
		n.Group = ""
		_, _, err = i.tx.EnsureKey(owner, n, e.Key)
	}
	if err == nil && e.Disabled {
		err = i.tx.DisableKey(owner, e.Key.ID())
	}
	if err == nil {
		i.Keys = append(i.Keys, e.Key.ID())
	}
	return err
}

// known is for a key that the store has already.
func (i *importing) known(e Entry, k latchkey.Key) error {
	i.Known++
	if !e.Disabled || k.Disabled {
		return nil
	}
	i.Disabled = append(i.Disabled, k.ID)
	return i.tx.DisableKey(k.Owner, k.ID)
}

// ownerOf returns the owner of a key, or nil for a server key.
func (i *importing) ownerOf(e Entry) *User {
	if e.User != nil || e.Owner == "" {
		return e.User
	}
	return &User{Identities: []latchkey.Identity{{Provider: i.provider, Subject: e.Owner}}, Group: e.Group}
}

// user returns the ID of the user with one of the identities. If there is none, it makes the user.
func (i *importing) user(u *User) (uuid.UUID, error) {
	for _, identity := range u.Identities {
		have, err := i.tx.UserByIdentity(identity)
		if err == nil {
			if u.Disabled && !have.Disabled {
				err = i.tx.DisableUser(have.ID)
			}
			return have.ID, err
		}
		if !errors.Is(err, latchkey.ErrUserNotFound) {
			return uuid.Nil, err
		}
	}
	made, err := i.tx.CreateUser(latchkey.UserSpec{Identity: u.Identities[0], Group: u.Group, Metadata: u.Metadata})
	for _, identity := range u.Identities[1:] {
		if err == nil {
			_, err = i.tx.LinkIdentity(made.ID, identity)
		}
	}
	if err == nil && u.Disabled {
		err = i.tx.DisableUser(made.ID)
	}
	if err == nil {
		i.Users = append(i.Users, made.ID)
	}
	return made.ID, err
}

// table is the application table of a store that has the schemes of its keys, by name, as JSON.
const table = "keyimport"

// putScheme writes a scheme, unless the store has it already.
func putScheme(tx *latchkey.Tx, s Scheme) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	schemes := tx.AppTable(table)
	have, err := schemes.Get([]byte(s.Name))
	n := 0
	for _, scanErr := range schemes.Scan(nil, nil) {
		if err = cmp.Or(err, scanErr); err == nil {
			n++
		}
	}
	switch {
	case err != nil:
		return err
	case have == nil && n >= MaxSchemes:
		return fmt.Errorf("%w %.80q: the store has %d others", ErrInvalidScheme, s.Name, n)
	case have == nil:
		return schemes.Put([]byte(s.Name), b)
	case string(have) != string(b):
		return fmt.Errorf("%w %.80q: the store has another one with the name; keep that one, or choose another name", ErrInvalidScheme, s.Name)
	}
	return nil
}

// StoredSchemes returns the schemes of the keys that [Import] has made in a store, for [New].
//
// Errors: an error of [latchkey.Store.View].
func StoredSchemes(ctx context.Context, s *latchkey.Store) (schemes []Scheme, err error) {
	err = s.View(ctx, func(tx *latchkey.Tx) error {
		schemes = nil
		for e, err := range tx.AppTable(table).Scan(nil, nil) {
			if err != nil {
				return err
			}
			var scheme Scheme
			if err := json.Unmarshal(e.Value, &scheme); err != nil {
				return fmt.Errorf("%w: the scheme %.80q in the store", latchkey.ErrCorrupt, e.Key)
			}
			schemes = append(schemes, scheme)
		}
		return nil
	})
	return schemes, err
}
