package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/latchkeydb/latchkey/admin/yamldoc"
	"github.com/latchkeydb/latchkey/appservices"
)

// This file reads seeds from YAML.

// seedDocument is a seed and the places of its parts in its file.
type seedDocument struct {
	appservices.Seed
	root *yaml.Node // nil if the file is empty
}

// parseSeed reads a seed from YAML. Its errors have the line, and never repeat a value, which
// may be a password.
func parseSeed(data []byte) (*seedDocument, error) {
	doc := &seedDocument{}
	root, err := yamldoc.Parse(data)
	if err != nil || root == nil {
		return doc, err
	}
	doc.root = root
	if err := yamldoc.Check(root, reflect.TypeFor[appservices.Seed](), seedScalars); err != nil {
		return nil, err
	}
	var content any
	if err := root.Decode(&content); err != nil {
		return nil, yamldoc.Error(err)
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

// seedScalars are the types of scalars that are neither texts nor booleans.
var seedScalars = map[reflect.Type]yamldoc.Scalar{
	reflect.TypeFor[appservices.SeedValue](): func(n *yaml.Node) string {
		// A float without digits is .nan or .inf.
		if tag := n.ShortTag(); tag != "!!str" && tag != "!!int" && (tag != "!!float" || !strings.ContainsAny(n.Value, "0123456789")) {
			return "it must be text or a number"
		}
		return ""
	},
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
