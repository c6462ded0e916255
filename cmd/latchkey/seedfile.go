package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/latchkeydb/latchkey/appservices"
)

// This file reads seeds from YAML. JSON is YAML, too. The errors say on which line a mistake is and
// what to write in its place, because people write seeds by hand.

// seedDocument is a seed and the places of its parts in its file.
type seedDocument struct {
	appservices.Seed
	root *yaml.Node // nil if the file is empty
}

// parseSeed reads a seed from YAML. Its errors have the line, and never repeat a value, which
// may be a password.
func parseSeed(data []byte) (*seedDocument, error) {
	doc := &seedDocument{}
	root, err := parseDocument(data)
	if err != nil || root == nil {
		return doc, err
	}
	doc.root = root
	check := &seedCheck{open: map[*yaml.Node]bool{}}
	if err := check.node(root, reflect.TypeFor[appservices.Seed](), ""); err != nil {
		return nil, err
	}
	var content any
	if err := root.Decode(&content); err != nil {
		return nil, yamlError(err)
	}
	text, err := json.Marshal(content)
	if err != nil {
		return nil, err
	}
	if doc.Seed, err = appservices.ParseSeed(text); err != nil {
		return nil, doc.locate(err)
	}
	return doc, nil
}

// parseDocument returns the only document in data, or nil if there is none.
func parseDocument(data []byte) (*yaml.Node, error) {
	d := yaml.NewDecoder(bytes.NewReader(data))
	var first, second yaml.Node
	if err := d.Decode(&first); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, yamlError(err)
	}
	switch err := d.Decode(&second); {
	case errors.Is(err, io.EOF):
		return first.Content[0], nil
	case err != nil:
		return nil, yamlError(err)
	}
	return nil, fmt.Errorf("line %d: there is a second document; the file must be one document", second.Line)
}

// yamlError returns err without the name of the library.
func yamlError(err error) error { return errors.New(strings.TrimPrefix(err.Error(), "yaml: ")) }

// nodeError is a mistake at the line of n. path leads to n, as in users[0].email.
func nodeError(n *yaml.Node, path, format string, args ...any) error {
	text := fmt.Sprintf(format, args...)
	if path != "" {
		text = path + ": " + text
	}
	return fmt.Errorf("line %d: %s", n.Line, text)
}

// seedCheck checks the types of the parts of a seed.
type seedCheck struct {
	open map[*yaml.Node]bool // the nodes that are being checked, because a node can contain itself
}

// node returns an error unless n can be read as typ, a type of a part of a seed. It replaces the
// words of YAML 1.1 for true and false.
func (c *seedCheck) node(n *yaml.Node, typ reflect.Type, path string) error {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if c.open[n] {
		return nodeError(n, path, "it contains itself")
	}
	c.open[n] = true
	defer delete(c.open, n)
	tag := n.ShortTag()
	switch {
	case tag == "!!null":
		return nil
	case typ == reflect.TypeFor[appservices.SeedValue]():
		// A float without digits is .nan or .inf.
		if tag != "!!str" && tag != "!!int" && (tag != "!!float" || !strings.ContainsAny(n.Value, "0123456789")) {
			return nodeError(n, path, "it must be text or a number")
		}
		return nil
	case typ == reflect.TypeFor[manifestTime]() && n.Kind == yaml.ScalarNode:
		return nil
	case typ.Kind() == reflect.Pointer:
		delete(c.open, n)
		return c.node(n, typ.Elem(), path)
	case typ.Kind() == reflect.Map:
		return c.texts(n, path)
	case typ.Kind() == reflect.String:
		return checkText(n, path)
	case typ.Kind() == reflect.Bool:
		return checkBool(n, path)
	case typ.Kind() == reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			return nodeError(n, path, "it must be a list; begin each element with a dash")
		}
		for i, element := range n.Content {
			if err := c.node(element, typ.Elem(), fmt.Sprintf("%s[%d]", path, i)); err != nil {
				return err
			}
		}
		return nil
	}
	return c.fields(n, typ, path)
}

// texts is node for texts by their names.
func (c *seedCheck) texts(n *yaml.Node, path string) error {
	if n.Kind != yaml.MappingNode {
		return nodeError(n, path, "it must have names and texts, as in {site: Turin}")
	}
	for _, part := range n.Content {
		if err := c.node(part, reflect.TypeFor[string](), path); err != nil {
			return err
		}
	}
	return nil
}

func checkText(n *yaml.Node, path string) error {
	switch {
	case n.Kind != yaml.ScalarNode:
		return nodeError(n, path, "it must be text")
	case n.ShortTag() != "!!str":
		return nodeError(n, path, "put quotes around it, because without quotes it is not text")
	}
	return nil
}

func checkBool(n *yaml.Node, path string) error {
	if n.ShortTag() == "!!str" && n.Style == 0 {
		switch strings.ToLower(n.Value) {
		case "yes", "on":
			n.Tag, n.Value = "!!bool", "true"
		case "no", "off":
			n.Tag, n.Value = "!!bool", "false"
		}
	}
	if n.ShortTag() != "!!bool" {
		return nodeError(n, path, "it must be true or false")
	}
	return nil
}

// fields is node for a struct.
func (c *seedCheck) fields(n *yaml.Node, typ reflect.Type, path string) error {
	fields, names := map[string]reflect.Type{}, []string{}
	for i := range typ.NumField() {
		if !typ.Field(i).IsExported() {
			continue
		}
		name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
		fields[name] = typ.Field(i).Type
		names = append(names, name)
	}
	if n.Kind != yaml.MappingNode {
		if n.Kind == yaml.ScalarNode && names[0] == "name" {
			return nodeError(n, path, "write name: before the name, as in {name: laptop}")
		}
		return nodeError(n, path, "it must have fields; the fields are %s", strings.Join(names, ", "))
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.ShortTag() == "!!merge" {
			if err := c.merged(key, value, typ, path); err != nil {
				return err
			}
			continue
		}
		field, ok := fields[key.Value]
		switch {
		case !ok:
			return nodeError(key, path, "there is no field %q; the fields are %s", key.Value, strings.Join(names, ", "))
		case seen[key.Value]:
			return nodeError(key, path, "the field %s is there twice", key.Value)
		}
		seen[key.Value] = true
		if err := c.node(value, field, strings.TrimPrefix(path+"."+key.Value, ".")); err != nil {
			return err
		}
	}
	return nil
}

// merged checks the fields that the key << brings in.
func (c *seedCheck) merged(key, value *yaml.Node, typ reflect.Type, path string) error {
	if value.Kind == yaml.AliasNode {
		value = value.Alias
	}
	if value.Kind != yaml.MappingNode {
		return nodeError(key, path, "<< must be followed by an alias of fields, as in <<: *ada")
	}
	return c.node(value, typ, path)
}

// seedPart matches what an error of package appservices says about the part of a seed that it
// means, as in users[0] or keys[1].
var seedPart = regexp.MustCompile(`\b(users|server_keys|identities|keys)\[(\d+)\]: `)

// locate returns err, an error about the seed, with the line of the part that it means.
func (s *seedDocument) locate(err error) error {
	text := strings.TrimPrefix(err.Error(), "appservices: seed: ")
	text = strings.TrimPrefix(text, appservices.ErrInvalidSeed.Error()+": ")
	n := s.root
	for _, part := range seedPart.FindAllStringSubmatch(text, -1) {
		index, _ := strconv.Atoi(part[2])
		if below := element(n, part[1], index); below != nil {
			n = below
		}
	}
	if n == nil || n == s.root {
		return errors.New(text)
	}
	return fmt.Errorf("line %d: %s", n.Line, text)
}

// element returns the element of a list that is a field of n, or nil.
func element(n *yaml.Node, field string, index int) *yaml.Node {
	if n == nil {
		return nil
	}
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		list := n.Content[i+1]
		if list.Kind == yaml.AliasNode {
			list = list.Alias
		}
		if n.Content[i].Value == field && index < len(list.Content) {
			return list.Content[index]
		}
	}
	return nil
}
