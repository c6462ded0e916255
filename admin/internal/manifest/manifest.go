// Package manifest brings users and keys of a store in line with a manifest, which says what users
// and keys the store is to have. docs/manifests.md explains manifests.
//
//   - manifest.go reads manifests.
//   - apply.go applies them.
package manifest

import (
	"bytes"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"go.yaml.in/yaml/v3"
	"golang.org/x/text/unicode/norm"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin/yamldoc"
	"github.com/latchkeydb/latchkey/internal/identities"
)

// A Manifest is a manifest as it is written.
type Manifest struct {
	Domain     string `json:"domain"`
	Name       string `json:"manifest" yaml:"manifest"`
	Users      []User `json:"users"`
	ServerKeys []Key  `json:"server_keys" yaml:"server_keys"`
}

// A User is the entry of a user.
type User struct {
	line     int
	Identity string            `json:"identity"`
	Group    *string           `json:"group"`
	Metadata map[string]string `json:"metadata"`
	Disabled *bool             `json:"disabled"`
	Keys     []Key             `json:"keys"`

	identity latchkey.Identity
}

// A Key is the entry of a key.
type Key struct {
	line     int
	Name     string            `json:"name"`
	Minted   string            `json:"minted"`
	Expires  Time              `json:"expires"`
	Scopes   []string          `json:"scopes"`
	Networks []string          `json:"networks"`
	Metadata map[string]string `json:"metadata"`
	Group    string            `json:"group"`
	Disabled *bool             `json:"disabled"`

	spec   latchkey.KeySpec
	minted latchkey.MintedKey
}

// A Time is a date or a time, with or without quotes.
type Time string

// scalars are the types of scalars that are neither texts nor booleans.
var scalars = map[reflect.Type]yamldoc.Scalar{
	reflect.TypeFor[Time](): func(n *yaml.Node) string {
		if n.Kind != yaml.ScalarNode {
			return "it must be text"
		}
		return ""
	},
}

// UnmarshalYAML reads the entry, and notes its line.
func (u *User) UnmarshalYAML(n *yaml.Node) error {
	type entry User
	u.line = n.Line
	return n.Decode((*entry)(u))
}

// UnmarshalYAML reads the entry, and notes its line.
func (k *Key) UnmarshalYAML(n *yaml.Node) error {
	type entry Key
	k.line = n.Line
	return n.Decode((*entry)(k))
}

// Parse reads a manifest, and checks what can be checked without a store. Its errors have the line.
func Parse(data []byte) (*Manifest, error) {
	m, err := read(data)
	// The library has no line if the end of the file is missing.
	if err != nil && !strings.Contains(err.Error(), "line ") {
		err = yamldoc.AtLine(bytes.Count(data, []byte("\n"))+1, err)
	}
	return m, err
}

func read(data []byte) (*Manifest, error) {
	root, err := yamldoc.Parse(data)
	if err != nil {
		return nil, err
	}
	m := &Manifest{}
	if root == nil {
		return nil, fmt.Errorf("line 1: the manifest is empty; it must have the field domain")
	}
	if err := yamldoc.Check(root, reflect.TypeFor[Manifest](), scalars); err != nil {
		return nil, err
	}
	if err := root.Decode(m); err != nil {
		return nil, yamldoc.Error(err)
	}
	domain, ok := identities.ParseID(m.Domain)
	if !ok {
		return nil, fmt.Errorf("line %d: domain must be the ID of the domain; latchkey domain show prints it", root.Line)
	}
	return m, m.resolve(domain)
}

// resolve fills in the fields of users and keys that the store takes.
func (m *Manifest) resolve(domain uuid.UUID) error {
	users, ids := map[latchkey.Identity]int{}, map[uuid.UUID]int{}
	for i := range m.Users {
		u := &m.Users[i]
		identity, err := identities.Parse(u.Identity)
		if err == nil {
			u.identity = identity
			u.identity.Subject = norm.NFC.String(identity.Subject)
			err = latchkey.CheckIdentity(u.identity)
		}
		if err != nil {
			return yamldoc.AtLine(u.line, err)
		}
		if users[u.identity] > 0 {
			return fmt.Errorf("line %d: the user is on line %d already", u.line, users[u.identity])
		}
		users[u.identity] = u.line
		if err := resolveKeys(u.Keys, domain, ids); err != nil {
			return err
		}
	}
	return resolveKeys(m.ServerKeys, domain, ids)
}

// resolveKeys is resolve for the keys of one owner. ids has the line of each key so far.
func resolveKeys(keys []Key, domain uuid.UUID, ids map[uuid.UUID]int) error {
	names := map[string]int{}
	for i := range keys {
		k := &keys[i]
		err := k.resolve()
		id := k.minted.ID()
		of, _, _ := strings.Cut(k.Minted, "/")
		switch {
		case err != nil:
		case of != domain.String():
			err = fmt.Errorf("the key was minted for the domain %s, and the manifest is of %s", of, domain)
		case ids[id] > 0:
			err = fmt.Errorf("the minted key is on line %d already", ids[id])
		case names[k.spec.Name] > 0:
			err = fmt.Errorf("the owner has a key of this name on line %d already", names[k.spec.Name])
		}
		if err != nil {
			return yamldoc.AtLine(k.line, err)
		}
		ids[id], names[k.spec.Name] = k.line, k.line
	}
	return nil
}

func (k *Key) resolve() (err error) {
	if k.minted, err = latchkey.ParseMintedKey(k.Minted); err != nil {
		return fmt.Errorf("minted is not what latchkey mint prints, or is damaged")
	}
	k.spec = latchkey.KeySpec{Name: norm.NFC.String(k.Name), Scopes: latchkey.NewScopes(k.Scopes...), Metadata: k.Metadata, Group: k.Group}
	for _, text := range k.Networks {
		network, err := netip.ParsePrefix(text)
		if err != nil {
			return fmt.Errorf("%q is no network; write it as 10.0.0.0/8", text)
		}
		k.spec.Networks = append(k.spec.Networks, network)
	}
	if k.Expires != "" && k.Expires != "never" {
		for _, layout := range []string{time.DateOnly, time.RFC3339} {
			if t, err := time.Parse(layout, string(k.Expires)); err == nil {
				k.spec.Expires = t
				return nil
			}
		}
		return fmt.Errorf("expires must be a date (2027-01-31), a time (2027-01-31T18:00:00Z) or never")
	}
	return nil
}

// has reports whether a key is in the manifest.
func (m *Manifest) has(key uuid.UUID) bool {
	is := func(k Key) bool { return k.minted.ID() == key }
	return slices.ContainsFunc(m.ServerKeys, is) ||
		slices.ContainsFunc(m.Users, func(u User) bool { return slices.ContainsFunc(u.Keys, is) })
}
