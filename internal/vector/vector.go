// Package vector reads the test vectors in testdata/vectors, whose README describes them. Only
// tests import it.
package vector

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// Read reads a file of vectors into v. A field that v does not have fails the test. The test runs
// in the directory of its package, which is the module's root or at most three directories below
// it.
func Read(t testing.TB, name string, v any) {
	t.Helper()
	path := filepath.Join("testdata", "vectors", name)
	data, err := os.ReadFile(path)
	for i := 0; err != nil && i < 3; i++ {
		path = filepath.Join("..", path)
		data, err = os.ReadFile(path)
	}
	if err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		t.Fatal(err)
	}
}

// Hex are bytes that are in hexadecimal digits in a vector.
type Hex []byte

// UnmarshalText reads the digits.
func (h *Hex) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}
