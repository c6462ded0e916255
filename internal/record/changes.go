package record

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/google/uuid"
)

// A Difference says what a write has changed in a record, in words such as "key.renamed". The other
// fields are those of the record after the write, or before it if the write has deleted the record.
// None of them is a secret. Provider is the provider of an identity that a user got or lost.
type Difference struct {
	Actions          []string // never empty
	User, Key, Owner uuid.UUID
	Provider         string
	Group            string
	Name             string
	Expires          time.Time
	Scopes           []string
	Networks         []netip.Prefix
}

// UserDifference compares two messages of a user. A nil message means that there is no record.
//
// Errors: [ErrDamaged].
func UserDifference(key, before, after []byte) (d Difference, err error) {
	d.User, _ = uuid.FromBytes(key)
	was, is, err := versions(before, after, func(b []byte) (User, error) { return DecodeUser(d.User, b) })
	if err != nil {
		return d, err
	}
	d.Actions = actions("user.", before, after, is.changes(was))
	for _, i := range append(was.Linked(), is.Linked()...) {
		if was.Has(i.Provider, i.Subject) != is.Has(i.Provider, i.Subject) {
			d.Provider = i.Provider
		}
	}
	if after == nil {
		is = was
	}
	d.Group = is.Groups.Now()
	return d, nil
}

// KeyDifference compares two messages of a key. A nil message means that there is no record.
//
// Errors: [ErrDamaged].
func KeyDifference(key, before, after []byte) (d Difference, err error) {
	d.Key, _ = uuid.FromBytes(key)
	was, is, err := versions(before, after, func(b []byte) (Key, error) { return DecodeKey(d.Key, b) })
	if err != nil {
		return d, err
	}
	d.Actions = actions("key.", before, after, is.changes(was))
	if after == nil {
		is = was
	}
	d.Owner, d.Name, d.Group = is.Owner, is.Name.Value, is.Groups.Now()
	d.Expires, d.Scopes, d.Networks = is.Expires.Value, is.Scopes.Value, is.Networks.Value
	return d, nil
}

// GroupDifference compares two messages of a group. A nil message means that nothing is known of
// the group.
//
// Errors: [ErrDamaged].
func GroupDifference(key, before, after []byte) (d Difference, err error) {
	d.Group = string(key)
	was, is, err := versions(before, after, func(b []byte) (Group, error) { return DecodeGroup(d.Group, b) })
	d.Actions = actions("group.", key, key, is.changes(was)) // no word for making and deleting
	return d, err
}

// versions decodes a record as it is before and after a write. A record that is not there is the
// zero record, and so is a damaged one that the write deletes.
func versions[T any](before, after []byte, decode func([]byte) (T, error)) (was, is T, err error) {
	if before != nil {
		if was, err = decode(before); err != nil && after != nil {
			return was, is, err
		}
	}
	if after == nil {
		return was, is, nil
	}
	is, err = decode(after)
	return was, is, err
}

// actions puts the kind of a record before the words for its changes.
func actions(kind string, before, after []byte, words []string) (all []string) {
	switch {
	case before == nil:
		words = []string{"created"}
	case after == nil:
		words = []string{"deleted"}
	}
	for _, word := range words {
		all = append(all, kind+word)
	}
	return all
}

// words are the words for the changes of a record. They do not look at stamps, so writing a value
// anew is no change of it.
type words []string

func (w *words) add(word string, changed bool) {
	if changed {
		*w = append(*w, word)
	}
}

func (w *words) addFlag(was, is Flag) {
	w.add("disabled", is.Disablings() > was.Disablings())
	w.add("enabled", was.IsDisabled() && !is.IsDisabled())
}

// orChanged returns the words, or a word for a change that has none of its own.
func (w *words) orChanged() []string {
	w.add("changed", len(*w) == 0)
	return *w
}

// changes returns what has changed in a user since a version. There is always one word.
func (u User) changes(was User) []string {
	var w words
	w.add("identity-linked", u.hasMore(was))
	w.add("identity-unlinked", was.hasMore(u))
	w.addFlag(was.Flag, u.Flag)
	w.add("group", was.Groups.Now() != u.Groups.Now())
	w.add("metadata", !maps.Equal(was.Metadata.Value, u.Metadata.Value))
	return w.orChanged()
}

// hasMore reports whether the user has an identity that other does not have.
func (u User) hasMore(other User) bool {
	return slices.ContainsFunc(u.Linked(), func(i Identity) bool { return !other.Has(i.Provider, i.Subject) })
}

// changes returns what has changed in a key since a version. There is always one word.
func (k Key) changes(was Key) []string {
	var w words
	rotated := slices.ContainsFunc(k.Verifiers.All, func(v Verifier) bool {
		_, known := was.Verifiers.Find(v.ID)
		return !known
	})
	w.add("rotated", rotated)
	w.add("token-ended", !rotated && !slices.EqualFunc(was.Verifiers.All, k.Verifiers.All, sameEnd))
	w.add("renamed", was.Name.Value != k.Name.Value)
	w.addFlag(was.Flag, k.Flag)
	w.add("expiry", !was.Expires.Value.Equal(k.Expires.Value))
	w.add("scopes", !slices.Equal(was.Scopes.Value, k.Scopes.Value))
	w.add("networks", !slices.Equal(was.Networks.Value, k.Networks.Value))
	w.add("metadata", !maps.Equal(was.Metadata.Value, k.Metadata.Value))
	w.add("group", was.Groups.Now() != k.Groups.Now())
	return w.orChanged()
}

// sameEnd reports whether two versions of a verifier are good for the same time.
func sameEnd(a, b Verifier) bool { return a.Retired == b.Retired && a.End.Equal(b.End) }

// changes returns what has changed in a group since a version. There is always one word.
func (g Group) changes(was Group) []string {
	var w words
	w.addFlag(was.Flag, g.Flag)
	return w.orChanged()
}
