// Package packed has scopes and metadata, each in one string, so that a value that has them can be
// compared with ==, and copied without a cost.
package packed

import (
	"encoding/binary"
	"maps"
	"slices"
)

// Metadata are texts by name. Each name, in order, and each value has its length before it, in two
// bytes.
type Metadata string

// PackMetadata packs texts.
func PackMetadata(metadata map[string]string) Metadata {
	var b []byte
	for _, name := range slices.Sorted(maps.Keys(metadata)) {
		for _, text := range []string{name, metadata[name]} {
			b = binary.LittleEndian.AppendUint16(b, uint16(len(text)))
			b = append(b, text...)
		}
	}
	return Metadata(b)
}

// Get returns the value of a name, or "".
func (p Metadata) Get(name string) string {
	for len(p) > 0 {
		var found, value string
		found, p = p.first()
		value, p = p.first()
		if found == name {
			return value
		}
	}
	return ""
}

// first returns the first text, and what follows it.
func (p Metadata) first() (text string, rest Metadata) {
	end := 2 + int(p[0]) + int(p[1])<<8
	return string(p[2:end]), p[end:]
}
