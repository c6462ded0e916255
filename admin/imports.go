package admin

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/hide"
	"github.com/latchkeydb/latchkey/keyimport"
)

// ErrWrongLines means that an import was refused because of some lines. [Problem].Lines has them.
var ErrWrongLines = errors.New("nothing was imported, because lines are wrong")

// maxImport bounds the body of an import, which can have [keyimport.MaxEntries] entries. Tests
// change it.
var maxImport int64 = 256 << 20

// formats are the formats of an import by their names. The format general has a scheme of its own.
var formats = map[string]func() keyimport.Format{
	"general":        func() keyimport.Format { return keyimport.General(keyimport.Scheme{}) },
	"unkey":          keyimport.Unkey,
	"better-auth":    keyimport.BetterAuth,
	"django-api-key": keyimport.DjangoAPIKey,
	"latchkey":       keyimport.Latchkey,
}

// query returns the parameters of an import.
func (i Import) query() url.Values {
	q := url.Values{}
	text := func(name, value string) {
		if value != "" {
			q.Set(name, value)
		}
	}
	number := func(name string, value int) {
		if value != 0 {
			q.Set(name, strconv.Itoa(value))
		}
	}
	text("format", i.Format)
	text("scheme", i.Scheme.Name)
	text("hash", string(i.Scheme.Hash))
	text("handle_until", i.Scheme.Handle.Separator)
	number("handle_count", i.Scheme.Handle.Count)
	number("handle_last", i.Scheme.Handle.Last)
	text("token_prefix", i.Scheme.Prefix)
	number("token_min", i.Scheme.MinLength)
	number("token_max", i.Scheme.MaxLength)
	for _, name := range i.Ignore {
		q.Add("ignore", name)
	}
	text("provider", string(i.Provider))
	if i.DryRun {
		q.Set("dry_run", "true")
	}
	return q
}

// importOf reads the parameters of an import, and returns its format.
func (c *call) importOf() (i Import, f keyimport.Format, err error) {
	q, err := c.queryWith("ignore", "format", "scheme", "hash", "handle_until", "handle_count", "handle_last", "token_prefix", "token_min", "token_max", "provider", "dry_run")
	if err != nil {
		return i, f, err
	}
	i.Ignore = q["ignore"]
	i.Format, i.Provider = q.Get("format"), latchkey.Provider(q.Get("provider"))
	i.Scheme.Name, i.Scheme.Hash = q.Get("scheme"), keyimport.Hash(q.Get("hash"))
	i.Scheme.Handle.Separator, i.Scheme.Prefix = q.Get("handle_until"), q.Get("token_prefix")
	for name, value := range map[string]*int{
		"handle_count": &i.Scheme.Handle.Count, "handle_last": &i.Scheme.Handle.Last, "token_min": &i.Scheme.MinLength, "token_max": &i.Scheme.MaxLength,
	} {
		n, err := numberParameter(q, name, 0, math.MaxInt32, 0)
		if err != nil {
			return i, f, err
		}
		*value = int(n)
	}
	if i.DryRun, err = boolParameter(q, "dry_run"); err != nil {
		return i, f, err
	}
	f, err = i.format(q)
	return i, f, err
}

// format returns the format of an import.
func (i Import) format(q url.Values) (f keyimport.Format, err error) {
	if i.Format == "general" {
		return keyimport.General(i.Scheme), nil
	}
	newFormat, known := formats[i.Format]
	if !known {
		return f, badParameter("format", "one of better-auth, django-api-key, general, latchkey and unkey")
	}
	own := []string{"scheme", "hash", "handle_until", "handle_count", "handle_last"}
	if i.Format == "latchkey" {
		own = append(own, "token_prefix", "token_min", "token_max")
	}
	if n := slices.IndexFunc(own, q.Has); n >= 0 {
		return f, fmt.Errorf("%w: the parameter %s is not for the format %s", keyimport.ErrInvalidScheme, own[n], i.Format)
	}
	f = newFormat()
	if i.Scheme.Prefix != "" {
		f.Scheme.Prefix = i.Scheme.Prefix
	}
	if i.Scheme.MinLength > 0 {
		f.Scheme.MinLength = i.Scheme.MinLength
	}
	if i.Scheme.MaxLength > 0 {
		f.Scheme.MaxLength = i.Scheme.MaxLength
	}
	return f, nil
}

// importKeys makes the keys in the body, in one transaction.
func (c *call) importKeys() error {
	i, f, err := c.importOf()
	if err != nil {
		return err
	}
	body, err := c.body(maxImport, "text/csv", "application/jsonl", "application/octet-stream")
	if err != nil {
		return err
	}
	return alone(&c.imports, func() error {
		entries, err := keyimport.Read(body, f, &keyimport.Options{Ignore: i.Ignore})
		var r keyimport.Report
		if err == nil {
			r, err = keyimport.Import(c.r.Context(), c.store, f, entries, &keyimport.ImportOptions{Provider: i.Provider, DryRun: i.DryRun})
		}
		if err != nil {
			return wrongLines(err)
		}
		ids := func(all []uuid.UUID) []uuid.UUID { return append([]uuid.UUID{}, all...) }
		return c.answer(http.StatusOK, Imported{DryRun: i.DryRun, Users: ids(r.Users), Keys: ids(r.Keys), Disabled: ids(r.Disabled), Known: r.Known, Expired: append([]int{}, r.Expired...)})
	})
}

// wrongLines returns a problem with the lines that an error says are wrong, or else the error.
func wrongLines(err error) error {
	var lines keyimport.Errors
	if !errors.As(err, &lines) {
		return err
	}
	p := problemOf(ErrWrongLines)
	for _, line := range lines {
		p.Lines = append(p.Lines, ProblemLine{Line: line.Line, Error: hide.Tokens(line.Text())})
	}
	return p
}

// exportKeys answers with users and keys as JSON lines.
func (c *call) exportKeys() error {
	q, err := c.query("with_verifiers")
	if err != nil {
		return err
	}
	with, err := boolParameter(q, "with_verifiers")
	if err != nil {
		return err
	}
	return alone(&c.export, func() error {
		return c.download("application/jsonl", "keys.jsonl", func(w io.Writer) error {
			return keyimport.Export(c.r.Context(), c.store, w, &keyimport.ExportOptions{WithVerifiers: with})
		})
	})
}
