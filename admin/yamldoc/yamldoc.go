// Package yamldoc reads documents of YAML that people write by hand. JSON is YAML, too. The errors
// say on which line a mistake is, and what to write in its place. They never repeat a value, which
// may be a password.
package yamldoc

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxAliased bounds how many parts of a document aliases can stand for. A few lines of aliases of
// aliases stand for more parts than any memory has.
const maxAliased = 100_000

// Parse returns the only document in data, or nil if there is none.
func Parse(data []byte) (*yaml.Node, error) {
	d := yaml.NewDecoder(bytes.NewReader(data))
	var first, second yaml.Node
	if err := d.Decode(&first); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, Error(err)
	}
	switch err := d.Decode(&second); {
	case errors.Is(err, io.EOF):
		return first.Content[0], nil
	case err != nil:
		return nil, Error(err)
	}
	return nil, fmt.Errorf("line %d: there is a second document; the file must be one document", second.Line)
}

// Error returns an error of the YAML library without the library's name.
func Error(err error) error { return errors.New(strings.TrimPrefix(err.Error(), "yaml: ")) }

// nodeError is a mistake at the line of n. path leads to n, as in users[0].email.
func nodeError(n *yaml.Node, path, format string, args ...any) error {
	text := fmt.Sprintf(format, args...)
	if path != "" {
		text = path + ": " + text
	}
	return fmt.Errorf("line %d: %s", n.Line, text)
}

// AtLine returns err with the number of a line, or nil if err is nil.
func AtLine(line int, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("line %d: %w", line, err)
}

// A Scalar says what is wrong with a node as the value of some type, or returns "".
type Scalar func(n *yaml.Node) (wrong string)

// Check returns an error unless n can be read as typ: a struct whose fields have names in JSON, a
// list, text, a boolean, or a map of texts. scalars are for the types that are none of these. Check
// replaces the words of YAML 1.1 for true and false.
func Check(n *yaml.Node, typ reflect.Type, scalars map[reflect.Type]Scalar) error {
	c := &checking{scalars: scalars, open: map[*yaml.Node]bool{}}
	return c.node(n, typ, "")
}

// checking is one check of a document.
type checking struct {
	scalars map[reflect.Type]Scalar
	open    map[*yaml.Node]bool // that are being checked, because a node can contain itself
	inAlias int                 // how many aliases lead to the node
	aliased int                 // how many nodes were reached by aliases
}

// node is Check for a part of the document.
func (c *checking) node(n *yaml.Node, typ reflect.Type, path string) error {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
		c.inAlias++
		defer func() { c.inAlias-- }()
	}
	if c.inAlias > 0 {
		if c.aliased++; c.aliased > maxAliased {
			return nodeError(n, "", "the aliases stand for too much; write it out")
		}
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
	case c.scalars[typ] != nil:
		if wrong := c.scalars[typ](n); wrong != "" {
			return nodeError(n, path, "%s", wrong)
		}
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
func (c *checking) texts(n *yaml.Node, path string) error {
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
func (c *checking) fields(n *yaml.Node, typ reflect.Type, path string) error {
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
func (c *checking) merged(key, value *yaml.Node, typ reflect.Type, path string) error {
	mapping := value
	if value.Kind == yaml.AliasNode {
		mapping = value.Alias
	}
	if mapping.Kind != yaml.MappingNode {
		return nodeError(key, path, "<< must be followed by an alias of fields, as in <<: *ada")
	}
	return c.node(value, typ, path)
}
