// Package plainjson writes JSON that is kept in a store or printed, and not put into a web page.
package plainjson

import (
	"bytes"
	"encoding/json"
)

// Marshal returns v in JSON. Unlike [json.Marshal], it writes <, > and & as they are, in one byte
// and not in six. So a value with many of them is not much longer in JSON than it is.
func Marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
