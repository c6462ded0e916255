package etcd

import "strings"

// keyspace knows the keys of one engine in etcd. See the comment of the package.
type keyspace struct{ prefix string }

func newKeyspace(prefix string) keyspace {
	if !strings.HasSuffix(prefix, "/") {
		prefix += "/"
	}
	return keyspace{prefix}
}

func (k keyspace) commit() string { return k.prefix + "commit" }

// fences returns the beginning of the keys of all fences.
func (k keyspace) fences() string { return k.prefix + "fence/" }

// entries returns the beginning of the keys of all entries.
func (k keyspace) entries() string { return k.prefix + "t/" }

// A name that was escaped has no zero byte. So no table's name with the zero byte that ends it is
// the beginning of another one.
var (
	escape   = strings.NewReplacer("\x00", "\x01\x02", "\x01", "\x01\x01")
	unescape = strings.NewReplacer("\x01\x02", "\x00", "\x01\x01", "\x01")
)

// table returns the beginning of the keys of a table's entries.
func (k keyspace) table(name string) string {
	return k.entries() + escape.Replace(name) + "\x00"
}

// split returns the table and the key of an entry, by its key in etcd. ok is false for a key that
// is no entry's.
func (k keyspace) split(key string) (table, rest string, ok bool) {
	key, ok = strings.CutPrefix(key, k.entries())
	if !ok {
		return "", "", false
	}
	table, rest, ok = strings.Cut(key, "\x00")
	return unescape.Replace(table), rest, ok
}

// after returns the least key that is greater than key.
func after(key string) string { return key + "\x00" }
