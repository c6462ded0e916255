package keyimport

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/latchkeydb/latchkey"
)

// A row has the fields of one entry. Of CSV all of them are texts, and a field without a text is
// not there. A field of JSON that is null is not there, either. A wrong field is noted, and its
// zero value is returned.
type row struct {
	reader *reader
	line   int
	fields map[string]any
	used   []string
	errs   int // how many errors there were before
}

func (r *row) fail(field, format string, args ...any) {
	r.reader.fail(r.line, field, format, args...)
}

// get returns a field, or nil if it is not there.
func (r *row) get(name string) any {
	r.used = append(r.used, name)
	if r.reader.ignored[name] {
		return nil
	}
	return r.fields[name]
}

// text returns a text.
func (r *row) text(name string) string {
	switch v := r.get(name).(type) {
	case nil:
		return ""
	case string:
		return v
	case json.Number:
		return v.String()
	}
	r.fail(name, "it is no text")
	return ""
}

// boolean returns the value of a field, or otherwise if the field is not there.
func (r *row) boolean(name string, otherwise bool) bool {
	switch v := r.get(name).(type) {
	case nil:
		return otherwise
	case bool:
		return v
	case json.Number:
		if v == "0" || v == "1" {
			return v == "1"
		}
	case string:
		switch strings.ToLower(v) {
		case "true", "t", "1":
			return true
		case "false", "f", "0":
			return false
		}
	}
	r.fail(name, "it is neither true nor false")
	return false
}

// times are the forms of times beside RFC 3339: as databases write them, in UTC if they name no
// zone.
var times = []string{
	time.RFC3339Nano,
	"2006-01-02 15:04:05.999999999Z07:00",
	"2006-01-02 15:04:05.999999999Z07",
	"2006-01-02 15:04:05.999999999",
	"2006-01-02T15:04:05.999999999",
	"2006-01-02",
}

// maxMilliseconds is the end of the year 9999.
const maxMilliseconds = 253402300799_999

// time returns a time: a text, or a number of milliseconds since 1970.
func (r *row) time(name string) time.Time {
	text := r.text(name)
	if text == "" {
		return time.Time{}
	}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil && n >= 0 && n <= maxMilliseconds {
		return time.UnixMilli(n).UTC()
	}
	for _, layout := range times {
		if t, err := time.Parse(layout, text); err == nil {
			return t.UTC()
		}
	}
	r.fail(name, "it is neither a time as in RFC 3339 nor a number of milliseconds since 1970")
	return time.Time{}
}

// object returns an object of JSON, which in CSV and in some systems' JSON is a text.
func (r *row) object(name string) map[string]any {
	v := r.decoded(name)
	if v == nil {
		return nil
	}
	object, ok := v.(map[string]any)
	if !ok {
		r.fail(name, "it is no object of JSON")
	}
	return object
}

// networks returns a list of networks. An address is the network of the address alone.
func (r *row) networks(name string) (networks []netip.Prefix) {
	for _, text := range r.texts(name) {
		n, err := netip.ParsePrefix(text)
		if err != nil {
			var addr netip.Addr
			addr, err = netip.ParseAddr(text)
			n = netip.PrefixFrom(addr, addr.BitLen())
		}
		if err != nil {
			r.fail(name, "it has a text that is neither a network nor an address")
			return nil
		}
		networks = append(networks, n)
	}
	return networks
}

// texts returns a list of texts: of JSON, or a text with blanks or commas between them.
func (r *row) texts(name string) []string {
	if text, ok := r.get(name).(string); ok && !strings.HasPrefix(strings.TrimSpace(text), "[") {
		return strings.FieldsFunc(text, func(c rune) bool { return c == ' ' || c == ',' })
	}
	v := r.decoded(name)
	if v == nil {
		return nil
	}
	list, ok := textsOf(v)
	if !ok {
		r.fail(name, "it is no list of texts")
	}
	return list
}

func textsOf(v any) (texts []string, ok bool) {
	list, ok := v.([]any)
	if !ok {
		return nil, false
	}
	for _, e := range list {
		text, ok := e.(string)
		if !ok {
			return nil, false
		}
		texts = append(texts, text)
	}
	return texts, true
}

// decoded returns a value of JSON.
func (r *row) decoded(name string) any {
	text, ok := r.get(name).(string)
	if !ok {
		return r.get(name)
	}
	var v any
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(&v); err != nil || decoder.InputOffset() != int64(len(text)) {
		r.fail(name, "it is no JSON")
		return nil
	}
	return v
}

// metadata returns an object whose values are texts. A value that is none becomes its JSON.
func (r *row) metadata(name string) map[string]string {
	object := r.object(name)
	if len(object) == 0 {
		return nil
	}
	metadata := make(map[string]string, len(object))
	for k, v := range object {
		if text, ok := v.(string); ok {
			metadata[k] = text
			continue
		}
		b, err := json.Marshal(v)
		if err != nil {
			r.fail(name, "it has a value that is no JSON")
		}
		metadata[k] = string(b)
	}
	return metadata
}

// without marks fields as known that hold nothing for a store.
func (r *row) without(names ...string) { r.used = append(r.used, names...) }

// refuse fails if a field is there that bounds the use of a key in a way that a store does not
// have.
func (r *row) refuse(names ...string) {
	for _, name := range names {
		if r.get(name) != nil {
			r.fail(name, "a store has no such limit, so the key would have none")
		}
	}
}

// refuseReserved fails if a scope is one of those that the project's own parts ask for. Another
// system has not meant to permit what they do.
func (r *row) refuseReserved(scopes latchkey.Scopes) {
	for _, scope := range scopes.All() {
		if strings.HasPrefix(scope, "latchkey:") {
			r.fail("", "the scope %.80q is reserved, so a key of another system cannot have it", scope)
		}
	}
}

// refuseOthers fails for every field that nothing has asked for.
func (r *row) refuseOthers() {
	var others []string
	for name, v := range r.fields {
		if v != nil && !r.reader.ignored[name] && !slices.Contains(r.used, name) {
			others = append(others, name)
		}
	}
	slices.Sort(others)
	for _, name := range others {
		r.fail(name, "there is no such field")
	}
}
