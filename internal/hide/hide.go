// Package hide takes tokens out of texts.
package hide

import "regexp"

// token matches every token, whatever the prefix of its store.
var token = regexp.MustCompile(`[0-9A-Za-z]{1,16}_[0-9A-Za-z]{77}`)

// Tokens replaces the tokens in a text. A message can repeat what a program was given, and that can
// be a token by mistake, which must not reach a log.
func Tokens(text string) string { return token.ReplaceAllString(text, "[token]") }

// IsToken reports whether a text has the form of a token.
func IsToken(text string) bool { return text != "" && token.FindString(text) == text }
