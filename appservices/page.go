package appservices

import (
	"bytes"
	"html/template"
	"net/http"
	"strconv"
	"strings"
)

// A page is the body of a reply to a person with a browser. Its fields can be empty.
type page struct {
	Title string
	Text  string
	Rows  []pageRow
	Link  string // to the line of the log
}

type pageRow struct{ Name, Value string }

var pageTemplate = template.Must(template.New("").Parse(`<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{{.Title}}</title>
<style>body{font:16px/1.5 sans-serif;max-width:48em;margin:2em auto;padding:0 1em}th{text-align:left;padding-right:2em;vertical-align:top}td{overflow-wrap:anywhere}</style>
<h1>{{.Title}}</h1>
{{with .Text}}<p>{{.}}</p>
{{end}}{{with .Rows}}<table>
{{range .}}<tr><th>{{.Name}}<td>{{.Value}}
{{end}}</table>
{{end}}{{with .Link}}<p><a href="{{.}}">The line of the log</a></p>
{{end}}</html>
`))

// sendPage sends a page, which loads nothing and which no other page can frame.
func (c *call) sendPage(status int, p page) {
	var body bytes.Buffer
	if err := pageTemplate.Execute(&body, p); err != nil {
		panic(err) // the template fits the type
	}
	header := c.w.Header()
	header.Set("Content-Type", "text/html; charset=utf-8")
	header.Set("Content-Length", strconv.Itoa(body.Len()))
	header.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "no-referrer")
	c.w.WriteHeader(status)
	_, _ = body.WriteTo(c.w)
}

// asksForPage reports whether a person asks with a browser. SDKs ask for JSON.
func asksForPage(r *http.Request) bool {
	for accepted := range strings.SplitSeq(strings.Join(r.Header.Values("Accept"), ","), ",") {
		if kind, _, _ := strings.Cut(strings.TrimSpace(accepted), ";"); strings.EqualFold(kind, "text/html") {
			return true
		}
	}
	return false
}
