package admin

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"mime"
	"net/http"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/loggable"
)

// maxBody bounds the body of a request. The largest key has 64 scopes, 64 KiB of metadata and some
// networks, which take a few hundred KiB if each character is an escape sequence.
const maxBody = 1 << 20

// maxNumber is the largest number in a body or a path. Programs in JavaScript know larger ones only
// roughly.
const maxNumber int64 = 1<<53 - 1

// decode reads the body of a request into v. An empty body leaves v as it is if mayBeEmpty is true.
//
// Unlike package json, decode refuses a field that is there twice, and a field whose name has other
// upper and lower case: two programs could read such a body differently. No error has a value of
// the body, because the value may be a token in the wrong place.
//
// Errors: errMediaType, errTooLarge, errBadRequest, or an error of reading.
func (c *call) decode(v any, mayBeEmpty bool) error {
	body, err := io.ReadAll(http.MaxBytesReader(c.w, c.r.Body, maxBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return fmt.Errorf("%w: the largest has %d bytes", errTooLarge, maxBody)
	case err != nil:
		return fmt.Errorf("%w: the body ends too early", errBadRequest)
	}
	_ = http.NewResponseController(c.w).SetReadDeadline(time.Time{}) // see limitReading
	if len(body) == 0 && mayBeEmpty {
		return nil
	}
	// A page of another site can send other types without asking the browser.
	if media, _, err := mime.ParseMediaType(c.r.Header.Get("Content-Type")); err != nil || media != "application/json" {
		return fmt.Errorf("%w: it must be application/json", errMediaType)
	}
	if !utf8.Valid(body) || !json.Valid(body) {
		return fmt.Errorf("%w: the body is no JSON in UTF-8", errBadRequest)
	}
	return decodeValue(body, reflect.ValueOf(v).Elem(), "")
}

// body returns the body of a request, which has one of the media types. A page of another site
// cannot send these without asking the browser. Reading fails with errTooLarge after most bytes,
// and with errBadRequest if the body ends too early, or if the client sends nothing for a while.
//
// Errors: errMediaType.
func (c *call) body(most int64, types ...string) (io.Reader, error) {
	media, _, err := mime.ParseMediaType(c.r.Header.Get("Content-Type"))
	if err != nil || !slices.Contains(types, media) {
		return nil, fmt.Errorf("%w: it must be %s", errMediaType, strings.Join(types, " or "))
	}
	return &bodyReader{http.MaxBytesReader(c.w, c.r.Body, most), http.NewResponseController(c.w), most, nil}, nil
}

// readWithin is how long a client may take to send a body in JSON, or a part of a longer body.
const readWithin = 30 * time.Second

// limitReading bounds how long a client may take to send the body of a request, also of a request
// that is refused: the server reads the rest of the body after the answer. The deadline must not
// outlast the body, because the server ends a request whose connection cannot be read.
func limitReading(w http.ResponseWriter, r *http.Request) {
	if r.Body != nil && r.Body != http.NoBody {
		// A writer without deadlines is one of a test, or of a client within the program.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(readWithin))
	}
}

// A bodyReader reads the body of a request.
type bodyReader struct {
	r       io.Reader
	control *http.ResponseController
	most    int64
	err     error // of the last reading
}

func (b *bodyReader) Read(p []byte) (int, error) {
	if b.err != nil { // and the deadline stays as it is
		return 0, b.err
	}
	_ = b.control.SetReadDeadline(time.Now().Add(readWithin))
	n, err := b.r.Read(p)
	var tooLarge *http.MaxBytesError
	switch {
	case err == nil:
		return n, nil
	case errors.As(err, &tooLarge):
		err = fmt.Errorf("%w: the largest has %d bytes", errTooLarge, b.most)
	case errors.Is(err, io.EOF):
		_ = b.control.SetReadDeadline(time.Time{}) // see limitReading
	default:
		err = fmt.Errorf("%w: the body ends too early", errBadRequest)
	}
	b.err = err
	return n, err
}

// decodeValue decodes valid JSON. path says where in the body the value is.
func decodeValue(text []byte, v reflect.Value, path string) error {
	if o, ok := v.Addr().Interface().(optional); ok {
		inner, null := o.set()
		if null && isNull(text) {
			return nil
		}
		return decodeValue(text, inner, path)
	}
	_, isText := v.Addr().Interface().(encoding.TextUnmarshaler)
	_, isJSON := v.Addr().Interface().(json.Unmarshaler)
	switch {
	case isText || isJSON: // whatever its kind is
	case v.Kind() == reflect.Struct:
		return decodeObject(text, path, func(name string) (reflect.Value, bool) { return field(v, name) }, func(string) {})
	case v.Kind() == reflect.Map && !isNull(text):
		v.Set(reflect.MakeMap(v.Type()))
		value := reflect.New(v.Type().Elem()).Elem()
		return decodeObject(text, path, func(string) (reflect.Value, bool) { return value, true }, func(name string) {
			v.SetMapIndex(reflect.ValueOf(name), value)
		})
	case v.Kind() == reflect.Slice && !isNull(text):
		var items []json.RawMessage
		if json.Unmarshal(text, &items) != nil {
			return badField(path)
		}
		v.Set(reflect.MakeSlice(v.Type(), len(items), len(items)))
		for i, item := range items {
			if err := decodeValue(item, v.Index(i), path); err != nil {
				return err
			}
		}
		return nil
	}
	if isNull(text) {
		return badField(path)
	}
	if json.Unmarshal(text, v.Addr().Interface()) == nil {
		return nil
	}
	// For openapi.yaml, a network is any text, and 60.0 is an integer.
	if text[0] == '"' && v.Type() == reflect.TypeFor[netip.Prefix]() {
		return badNetwork(text, path)
	}
	if n, err := strconv.ParseFloat(string(text), 64); err == nil && v.CanInt() && n == math.Trunc(n) && math.Abs(n) < 1<<53 {
		v.SetInt(int64(n))
		return nil
	}
	return badField(path)
}

// badNetwork returns the error for a text that is no network. The error repeats the text only if it
// is shorter than a token.
func badNetwork(text []byte, path string) error {
	var given string
	if json.Unmarshal(text, &given) != nil || len(given) > 64 {
		given = "a text"
	} else {
		given = strconv.Quote(given)
	}
	return fmt.Errorf("%w: %s in the field %s is not written as 192.0.2.0/24 or 2001:db8::/32", latchkey.ErrInvalidNetwork, given, path)
}

// badField returns the error for a field with another form than it should have.
func badField(path string) error {
	return fmt.Errorf("%w: the field %s has another form than it should", errBadRequest, path)
}

func isNull(text []byte) bool { return bytes.Equal(bytes.TrimSpace(text), []byte("null")) }

// decodeObject decodes an object. get returns the place of a field, and set is called when the
// field has been decoded.
func decodeObject(text []byte, path string, get func(name string) (reflect.Value, bool), set func(name string)) error {
	d := json.NewDecoder(bytes.NewReader(text))
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		if path == "" {
			return fmt.Errorf("%w: the body is no object", errBadRequest)
		}
		return fmt.Errorf("%w: the field %s is no object", errBadRequest, path)
	}
	seen := map[string]bool{}
	for d.More() {
		token, err := d.Token()
		name, _ := token.(string)
		inside := strings.TrimPrefix(path+"."+loggable.Text(name), ".")
		if err != nil || seen[name] {
			return fmt.Errorf("%w: the field %s is there twice", errBadRequest, inside)
		}
		seen[name] = true
		v, ok := get(name)
		if !ok {
			return fmt.Errorf("%w: there is no field %s", errBadRequest, inside)
		}
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return fmt.Errorf("%w: the body is no JSON", errBadRequest)
		}
		if err := decodeValue(raw, v, inside); err != nil {
			return err
		}
		set(name)
	}
	return nil
}

// field returns the field of a struct that has a name in JSON.
func field(v reflect.Value, name string) (reflect.Value, bool) {
	for i := range v.NumField() {
		if tag, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ","); tag == name && name != "" {
			return v.Field(i), true
		}
	}
	return reflect.Value{}, false
}

// writeJSON writes an answer. A client that takes nothing for a while is cut off, so that such
// clients do not fill the memory with answers.
func writeJSON(w http.ResponseWriter, status int, v any) {
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false)
	_ = e.Encode(v) // what goes over the wire can be encoded
	w.WriteHeader(status)
	control := http.NewResponseController(w)
	for text.Len() > 0 {
		_ = control.SetWriteDeadline(time.Now().Add(writeWithin))
		if _, err := w.Write(text.Next(64 << 10)); err != nil {
			return // the client is gone
		}
	}
}

// answer answers with v.
func (c *call) answer(status int, v any) error {
	c.w.Header().Set("Content-Type", "application/json")
	writeJSON(c.w, status, v)
	return nil
}
