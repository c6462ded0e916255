package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
)

// tokenMaker is what key create and key rotate have in common: they give a key a token, and show
// the token for the only time.
type tokenMaker struct {
	*cli
}

// addFlags adds the flags --cost and --quiet.
func (m *tokenMaker) addFlags(cmd *cobra.Command) {
	addCostFlag(cmd, &m.opts.Cost)
	m.quietFlag(cmd, "the token")
}

// show prints a key, what was done to it, and its new token. No other function prints the token of
// a key. If the token cannot be printed, the error says the words lost of the key.
func (m *tokenMaker) show(key admin.Key, token, done, lost string) error {
	doc := struct {
		Key   latchkey.Key `json:"key"`
		Token string       `json:"token"`
	}{key.Stored(), token}
	err := m.print(doc, func(w io.Writer) {
		if m.quiet {
			fmt.Fprintln(w, token)
			return
		}
		fmt.Fprintf(w, "%s\n\n    %s\n\nThis is the token of the key. It is never shown again, so keep it now.\n", done, token)
	})
	if err != nil {
		return fmt.Errorf("key %s %s: %w", key.ID, lost, err)
	}
	return nil
}
