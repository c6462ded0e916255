package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"

	"github.com/google/uuid"
	"golang.org/x/text/unicode/norm"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
	"github.com/latchkeydb/latchkey/internal/identities"
)

// This file finds the users and keys that arguments name. The manual in doc.go has the rules.

// parseID parses an ID and reports whether s is one.
func parseID(s string) (id uuid.UUID, ok bool) { return identities.ParseID(s) }

// parseIdentity parses PROVIDER:SUBJECT, or the subject of a local-userpass identity.
func parseIdentity(s string) (latchkey.Identity, error) {
	identity, err := identities.Parse(s)
	if err != nil {
		return identity, usageError{err}
	}
	return identity, nil
}

// formatIdentity returns the shortest text that parseIdentity parses as i.
func formatIdentity(i latchkey.Identity) string { return identities.Format(i) }

// The same letter can be written in several ways, for example é as one character or as an e with a
// combining accent. People cannot see the difference, and their systems type one or the other. The
// store is exact. So the command looks for the exact text of an argument first, and for its normal
// form C second. New users and keys get the normal form.

// newIdentity returns the identity that the argument IDENTITY names, to be given to a user. The
// identity is not normalized if a user has it as it was typed, so that the store says that it is
// taken.
func newIdentity(ctx context.Context, client *admin.Client, arg string) (latchkey.Identity, error) {
	typed, err := parseIdentity(arg)
	if err != nil {
		return typed, err
	}
	_, err = client.UserByIdentity(ctx, typed)
	switch {
	case errors.Is(err, latchkey.ErrUserNotFound):
		return normalized(typed), nil
	case errors.Is(err, latchkey.ErrInvalidIdentity): // the store says so when it gets the identity
		return typed, nil
	}
	return typed, err
}

// normalized returns i with its subject in normal form C.
func normalized(i latchkey.Identity) latchkey.Identity {
	i.Subject = norm.NFC.String(i.Subject)
	return i
}

// findUser returns the user that the argument USER names.
func findUser(ctx context.Context, client *admin.Client, arg string) (user admin.User, err error) {
	if id, ok := parseID(arg); ok {
		user, err = client.User(ctx, id)
	} else {
		var identity latchkey.Identity
		if identity, err = parseIdentity(arg); err == nil {
			user, err = client.UserByIdentity(ctx, identity)
		}
		if normal := normalized(identity); errors.Is(err, latchkey.ErrUserNotFound) && normal != identity {
			user, err = client.UserByIdentity(ctx, normal)
		}
		if small := inSmallLetters(identity); errors.Is(err, latchkey.ErrUserNotFound) && small != identity {
			if _, smallErr := client.UserByIdentity(ctx, small); smallErr == nil {
				err = fmt.Errorf("%w: perhaps you mean %s", err, formatIdentity(small))
			}
		}
	}
	if err != nil {
		return admin.User{}, fmt.Errorf("%s: %w", arg, err)
	}
	return user, nil
}

// inSmallLetters returns i with a subject without capitals, which telephones write unasked.
func inSmallLetters(i latchkey.Identity) latchkey.Identity {
	i.Subject = strings.ToLower(i.Subject)
	return i
}

// findKeyByID returns a key of owner, or of any owner if owner is [uuid.Nil].
func findKeyByID(ctx context.Context, client *admin.Client, owner, id uuid.UUID) (admin.Key, error) {
	key, err := client.Key(ctx, id)
	if err == nil && owner != uuid.Nil && uuid.UUID(key.Owner) != owner {
		err = latchkey.ErrKeyNotFound
	}
	if err != nil {
		return admin.Key{}, fmt.Errorf("%s: %w", id, err)
	}
	return key, nil
}

// findKeyByName returns the key of owner that the argument KEY names, which is no ID.
func findKeyByName(ctx context.Context, client *admin.Client, owner uuid.UUID, arg string) (admin.Key, error) {
	keys, err := keysOf(ctx, client, owner)
	if err != nil {
		return admin.Key{}, err
	}
	for _, name := range []string{arg, norm.NFC.String(arg)} {
		for _, key := range keys {
			if key.Name == name {
				return key, nil
			}
		}
	}
	for _, key := range keys {
		if strings.EqualFold(key.Name, arg) {
			return admin.Key{}, fmt.Errorf("%s: %w: perhaps you mean %s", arg, latchkey.ErrKeyNotFound, key.Name)
		}
	}
	return admin.Key{}, fmt.Errorf("%s: %w", arg, latchkey.ErrKeyNotFound)
}

// keysOf returns the keys of owner.
func keysOf(ctx context.Context, client *admin.Client, owner uuid.UUID) ([]admin.Key, error) {
	return collect(client.Keys(ctx, latchkey.KeyFilter{Owner: owner}))
}

// collect returns the items of a list.
func collect[T any](list iter.Seq2[T, error]) (all []T, err error) {
	for item, err := range list {
		if err != nil {
			return nil, err
		}
		all = append(all, item)
	}
	return all, nil
}

// count returns how many items a list has.
func count[T any](list iter.Seq2[T, error]) (n int, err error) {
	for _, err := range list {
		if err != nil {
			return 0, err
		}
		n++
	}
	return n, nil
}

// newName returns the name for a key of owner for which the argument NAME asks. If the key exists
// already, id is its ID. The name is not normalized if another key has it as it was typed, so that
// the store says that it is taken.
func newName(ctx context.Context, client *admin.Client, owner, id uuid.UUID, arg string) (string, error) {
	if _, ok := parseID(arg); ok { // KEY could not name the key
		return "", fmt.Errorf("%w: %q has the form of an ID", latchkey.ErrInvalidName, arg)
	}
	if norm.NFC.IsNormalString(arg) {
		return arg, nil
	}
	keys, err := keysOf(ctx, client, owner)
	if err != nil {
		return "", err
	}
	for _, key := range keys {
		if key.Name == arg && key.ID != id {
			return arg, nil
		}
	}
	return norm.NFC.String(arg), nil
}

// shown returns text for a list. It marks text that is not in normal form, because nobody could
// tell it from the same text in normal form.
func shown(text string) string {
	if norm.NFC.IsNormalString(text) {
		return text
	}
	return text + " (not NFC)"
}
