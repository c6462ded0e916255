package main

import (
	"fmt"
	"go/scanner"
	"go/token"
	"regexp"
	"strings"
	"unicode/utf8"
)

const (
	maxColumns = 100
	tabColumns = 4
)

// A rule names one way to break the rules of prose.
type rule string

const (
	tooWide rule = "too wide"
	noNoun  rule = "subject is no noun"
)

// A finding is a line that breaks a rule.
type finding struct {
	file string
	line int
	rule rule
	text string // of the comment
}

func (f finding) String() string { return fmt.Sprintf("%s:%d: %s: %s", f.file, f.line, f.rule, f.text) }

// check returns the comment lines of a Go file that break a rule, in order. A comment line may
// begin with code, whose width then counts too. Slashes in a string are no comment.
func check(file string, src []byte) (found []finding) {
	fset := token.NewFileSet()
	f := fset.AddFile(file, fset.Base(), len(src))
	var s scanner.Scanner
	s.Init(f, src, nil, scanner.ScanComments)
	lines := strings.Split(string(src), "\n")
	for {
		pos, tok, comment := s.Scan()
		if tok == token.EOF {
			return found
		}
		if tok != token.COMMENT {
			continue
		}
		line := f.Line(pos)
		for _, text := range strings.Split(comment, "\n") {
			text = strings.TrimSpace(text)
			if !exempt(text) {
				if columns(lines[line-1]) > maxColumns {
					found = append(found, finding{file, line, tooWide, text})
				}
				if headless(text) {
					found = append(found, finding{file, line, noNoun, text})
				}
			}
			line++
		}
	}
}

// directive matches a comment that is an instruction to a tool.
var directive = regexp.MustCompile(`^//(go:|nolint|line |export )`)

// exempt reports whether the rules do not apply to a comment line, because a tool reads the line or
// because it has a link, which cannot be wrapped.
func exempt(text string) bool {
	return directive.MatchString(text) || strings.Contains(text, "http://") || strings.Contains(text, "https://")
}

// columns returns the width of a line.
func columns(line string) int {
	line = strings.TrimRight(line, "\r")
	return utf8.RuneCountInString(line) + (tabColumns-1)*strings.Count(line, "\t")
}

// pronoun matches a word that stands for an unnamed person.
var pronoun = regexp.MustCompile(`\b(?:[Ww]ho|[Ww]hoever|[Ww]hom)\b`)

// clause matches a sentence whose subject is a clause.
var clause = regexp.MustCompile(
	`(?:^//|^/\*|^\*|[.:;])\s*(?:What|That) (?:a|an|can|does|has|is|it|may|no|of|the|they|was)\b`)

// headless reports whether a comment line seems to have a sentence without a noun for a subject.
func headless(text string) bool { return pronoun.MatchString(text) || clause.MatchString(text) }
