package admin

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/latchkeydb/latchkey"
)

// Local returns a client that administers store within this process. As on a socket, there is no
// key, and each request may do everything. Local does not use [Options].Authenticate. opts may be
// nil.
//
// A call of the client ends when its work has ended. When ctx ends first, the call ends with ctx's
// error, as a call of package latchkey does.
func Local(store *latchkey.Store, opts *Options) *Client {
	var o Options
	if opts != nil {
		o = *opts
	}
	o.Authenticate = localUser
	return NewClient(&http.Client{Transport: within{New(store, &o)}}, "http://latchkey", "")
}

// actorHeader has the name of the actor, escaped as in the path of a URL because a header has no
// other letters than those of ASCII. Only a socket and [Local] honor it: their callers may do
// everything anyway.
const actorHeader = "Latchkey-Actor"

type localUserKey struct{}

// localUser is the Authenticate of a socket, and of [Local].
func localUser(r *http.Request) (Caller, error) {
	id, _ := r.Context().Value(localUserKey{}).(string)
	caller := Caller{Actor: "local user " + id, Secrets: true}
	if escaped := r.Header.Get(actorHeader); escaped != "" {
		actor, err := url.PathUnescape(escaped)
		if err != nil {
			return Caller{}, problemOf(fmt.Errorf("%w: the header %s is not escaped as in a URL", errBadRequest, actorHeader))
		}
		caller.Actor = actor
	}
	return caller, nil
}

// within is a transport whose requests a handler answers.
type within struct{ handler http.Handler }

// RoundTrip returns the answer as soon as it begins. It does not watch the context of the request,
// because the handler does: what the handler answers is what has happened.
func (t within) RoundTrip(r *http.Request) (*http.Response, error) {
	body, written := io.Pipe()
	w := &pipeWriter{header: http.Header{}, body: written, begun: make(chan int, 1), trailer: http.Header{}}
	asServed := r.Clone(r.Context())
	if asServed.Body == nil {
		asServed.Body = http.NoBody
	}
	go w.serve(t.handler, asServed)
	status := <-w.begun
	return &http.Response{
		Status: fmt.Sprintf("%d %s", status, http.StatusText(status)), StatusCode: status,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: w.sent, Trailer: w.trailer, Body: body, ContentLength: -1, Request: r,
	}, nil
}

// A pipeWriter passes an answer on while the handler writes it.
type pipeWriter struct {
	header http.Header
	sent   http.Header // the header when the answer began
	body   *io.PipeWriter
	begun  chan int // gets the status
	// trailer is complete when the body has ended.
	trailer http.Header
}

func (w *pipeWriter) serve(handler http.Handler, r *http.Request) {
	defer func() {
		if v := recover(); v != nil && v != http.ErrAbortHandler {
			panic(v)
		} else if v != nil { // the answer is broken off
			w.WriteHeader(http.StatusInternalServerError)
			_ = w.body.CloseWithError(io.ErrUnexpectedEOF)
		}
	}()
	handler.ServeHTTP(w, r)
	w.WriteHeader(http.StatusOK)
	for name, values := range w.header {
		if name, is := strings.CutPrefix(name, http.TrailerPrefix); is {
			w.trailer[name] = values
		}
	}
	_ = w.body.Close()
}

func (w *pipeWriter) Header() http.Header { return w.header }

func (w *pipeWriter) WriteHeader(status int) {
	if w.sent == nil {
		w.sent = w.header.Clone()
		w.begun <- status
	}
}

func (w *pipeWriter) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(p)
}

// Flush does nothing, because nothing is kept back.
func (w *pipeWriter) Flush() { w.WriteHeader(http.StatusOK) }
