package appservices

import (
	"bytes"
	"encoding/json"
	"strconv"
	"time"
	"unicode/utf8"
)

// A document is a request's body: a JSON object whose fields are read one by one, so that one of the wrong type says so
// in the words that belong to it. Of a field that is there twice the last counts.
type document map[string]json.RawMessage

// parseDocument reads a body. Nothing at all is an empty document, since clients send nothing where nothing is required.
func parseDocument(body []byte) (document, error) {
	if len(bytes.TrimSpace(body)) == 0 {
		return document{}, nil
	}
	var d document
	if !utf8.Valid(body) || json.Unmarshal(body, &d) != nil || d == nil {
		return nil, errBody
	}
	return d, nil
}

// text returns a field that is a string.
func (d document) text(field string) (s string, ok bool) {
	raw := d[field]
	switch {
	case len(raw) == 0 || raw[0] != '"':
		return "", false
	case bytes.IndexByte(raw, '\\') < 0:
		return string(raw[1 : len(raw)-1]), true
	}
	err := json.Unmarshal(raw, &s)
	return s, err == nil
}

// required returns a field that must be a string.
func (d document) required(field string) (string, error) {
	s, ok := d.text(field)
	if !ok {
		return "", errMissing(field)
	}
	return s, nil
}

// deviceInfo is what the client says of itself; nothing of it is required.
type deviceInfo struct {
	DeviceID    json.RawMessage
	CoreVersion json.RawMessage
}

func (d document) device() deviceInfo {
	var options struct{ Device deviceInfo }
	_ = json.Unmarshal(d["options"], &options)
	return options.Device
}

// id returns the ID that the device was given at an earlier login, if it has one: a string, or {"$oid":…}.
func (i deviceInfo) id() (id string, ok bool) {
	id, _ = plainJSON(i.DeviceID).(string)
	return id, validHexID(id, objectIDSize) && id != noDevice
}

// noDevice is what clients take for no ID.
const noDevice = "000000000000000000000000"

// isCore reports whether the client is built on the C++ core of recent years, which realm-web is not: whether it says a
// version of that, a string.
func (i deviceInfo) isCore() bool { return len(i.CoreVersion) > len(`""`) && i.CoreVersion[0] == '"' }

// plainJSON returns a value with the wrappings of Extended JSON taken off, in which clients send what they type
// themselves: {"$numberInt":"7"} is int64(7), {"$date":…} a [time.Time], {"$oid":…} and {"$numberDecimal":…} strings.
func plainJSON(raw json.RawMessage) any {
	var v any
	if json.Unmarshal(raw, &v) != nil {
		return nil
	}
	return unwrap(v)
}

func unwrap(v any) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = unwrap(v[i])
		}
		return v
	case map[string]any:
		if len(v) == 1 {
			for name, inner := range v {
				if plain, ok := unwrapTyped(name, inner); ok {
					return plain
				}
			}
		}
		for name := range v {
			v[name] = unwrap(v[name])
		}
		return v
	}
	return v
}

func unwrapTyped(name string, inner any) (plain any, ok bool) {
	s, isText := inner.(string)
	switch {
	case name == "$date":
		return unwrapDate(unwrap(inner))
	case !isText:
		return nil, false
	case name == "$oid", name == "$numberDecimal", name == "$symbol":
		return s, true
	case name == "$numberInt", name == "$numberLong":
		n, err := strconv.ParseInt(s, 10, 64)
		return n, err == nil
	case name == "$numberDouble":
		f, err := strconv.ParseFloat(s, 64)
		return f, err == nil
	}
	return nil, false
}

// unwrapDate reads milliseconds since 1970, or RFC 3339.
func unwrapDate(v any) (plain any, ok bool) {
	switch v := v.(type) {
	case int64:
		return time.UnixMilli(v).UTC(), true
	case float64:
		return time.UnixMilli(int64(v)).UTC(), true
	case string:
		t, err := time.Parse(time.RFC3339Nano, v)
		return t, err == nil
	}
	return nil, false
}
