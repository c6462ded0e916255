package appservices

import (
	"bytes"
	"encoding/json"
	"strconv"
	"time"
	"unicode/utf8"
)

// A document is the body of a request, which is a JSON object. Its fields are read one by one, so
// that a field of the wrong type gets the error text of that field. If a field occurs twice, the
// last value counts.
type document map[string]json.RawMessage

// parseDocument reads a body. An empty body is an empty document, because clients send no body
// where no field is required.
func parseDocument(body []byte) (document, error) {
	if len(bytes.TrimSpace(body)) == 0 {
		return document{}, nil
	}
	var d document
	switch {
	case bytes.HasPrefix(body, []byte("\xef\xbb\xbf")):
		return nil, because(errBody, "the body begins with a byte order mark")
	case !utf8.Valid(body):
		return nil, because(errBody, "the body is not UTF-8")
	case json.Unmarshal(body, &d) != nil || d == nil:
		return nil, errBody
	}
	return d, nil
}

// text returns a field if it is a string.
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
//
// Errors: errMissing if the field is missing or is not a string.
func (d document) required(field string) (string, error) {
	s, ok := d.text(field)
	if !ok {
		return "", errMissing(field)
	}
	return s, nil
}

// A deviceInfo is what a client says about itself. All of it is optional.
type deviceInfo struct {
	DeviceID    json.RawMessage
	CoreVersion json.RawMessage
}

func (d document) device() deviceInfo {
	var options struct{ Device deviceInfo }
	_ = json.Unmarshal(d["options"], &options)
	return options.Device
}

// id returns the device ID that an earlier login gave the device, if the client sends one. It is a
// string or {"$oid":…}.
func (i deviceInfo) id() (id string, ok bool) {
	id, _ = plainJSON(i.DeviceID).(string)
	return id, validHexID(id, objectIDSize) && id != noDevice
}

// noDevice is the device ID that clients read as "none".
const noDevice = "000000000000000000000000"

// isCore reports whether the client is built on the C++ core of recent years. Such a client sends
// the version of its core as a string. realm-web does not.
func (i deviceInfo) isCore() bool { return len(i.CoreVersion) > len(`""`) && i.CoreVersion[0] == '"' }

// plainJSON returns a value without the wrappings of Extended JSON, which clients use to give
// values a type: {"$numberInt":"7"} becomes int64(7), {"$date":…} becomes a [time.Time], and
// {"$oid":…} and {"$numberDecimal":…} become strings.
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

// unwrapDate reads a date that is either milliseconds since 1970 or text as in RFC 3339.
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
