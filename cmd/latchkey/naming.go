package main

import (
	"fmt"
	"strings"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
)

// This file finds the users and keys that arguments name. The manual in doc.go has the rules.

// parseID parses an ID and reports whether s is one. It accepts only the form that the command
// prints.
func parseID(s string) (id uuid.UUID, ok bool) {
	if len(s) != 36 {
		return id, false
	}
	id, err := uuid.Parse(s)
	return id, err == nil
}

// parseIdentity parses PROVIDER:SUBJECT, or the subject of a local-userpass identity. The store
// checks the provider. A subject with a colon in it always needs the provider, because
// custom-tokn:42 is more likely a mistyped provider than an address.
func parseIdentity(s string) (latchkey.Identity, error) {
	if _, ok := parseID(s); ok {
		return latchkey.Identity{}, usagef("%s has the form of an ID, but an identity is needed here; if it is the subject of an identity, write local-userpass:%[1]s", s)
	}
	if provider, subject, ok := strings.Cut(s, ":"); ok {
		return latchkey.Identity{Provider: latchkey.Provider(provider), Subject: subject}, nil
	}
	return latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: s}, nil
}

// formatIdentity returns the shortest text that parseIdentity parses as i.
func formatIdentity(i latchkey.Identity) string {
	short, err := parseIdentity(i.Subject)
	if err == nil && short == i {
		return i.Subject
	}
	return string(i.Provider) + ":" + i.Subject
}

// findUser returns the user that the argument USER names.
func findUser(tx *latchkey.Tx, arg string) (user latchkey.User, err error) {
	if id, ok := parseID(arg); ok {
		user, err = tx.User(id)
	} else {
		var identity latchkey.Identity
		if identity, err = parseIdentity(arg); err == nil {
			user, err = tx.UserByIdentity(identity)
		}
	}
	if err != nil {
		return latchkey.User{}, fmt.Errorf("%s: %w", arg, err)
	}
	return user, nil
}

// findKey returns the key of owner that the argument KEY names.
func findKey(tx *latchkey.Tx, owner uuid.UUID, arg string) (latchkey.Key, error) {
	if id, ok := parseID(arg); ok {
		key, err := tx.Key(owner, id)
		if err != nil {
			return latchkey.Key{}, fmt.Errorf("%s: %w", arg, err)
		}
		return key, nil
	}
	keys, err := tx.Keys(owner)
	if err != nil {
		return latchkey.Key{}, err
	}
	for _, key := range keys {
		if key.Name == arg {
			return key, nil
		}
	}
	return latchkey.Key{}, fmt.Errorf("%s: %w", arg, latchkey.ErrKeyNotFound)
}
