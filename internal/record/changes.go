package record

import (
	"maps"
	"slices"
)

// The functions below say what a write has changed in a record, in words. They do not look at
// stamps, so writing a value anew is no change of it.

// words are the changes that were found.
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

// Changes returns what has changed in a user since a version. There is always one word.
func (u User) Changes(was User) []string {
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

// Changes returns what has changed in a key since a version. There is always one word.
func (k Key) Changes(was Key) []string {
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

// Changes returns what has changed in a group since a version. There is always one word.
func (g Group) Changes(was Group) []string {
	var w words
	w.addFlag(was.Flag, g.Flag)
	return w.orChanged()
}
