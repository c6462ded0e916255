package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
	"github.com/latchkeydb/latchkey/audit"
	"github.com/latchkeydb/latchkey/replica"
)

// This file has the one way of all commands to a store: the API of package admin. The command opens
// the file and serves the API within its own process. While another program has the file, the
// command speaks to that program, through the socket beside the file.

// errOwnOptions means that a program with options of its own has the store open.
var errOwnOptions = errors.New("the program that has the store open has its own options")

const unrecorded = "the change has no entry in the audit trail, because the program that has the store open does not keep the trail"

// reading runs fn with a client of the store. fn changes nothing, so several processes can have the
// file open at the same time.
func (c *cli) reading(ctx context.Context, fn func(*admin.Client) error) error {
	return c.administer(ctx, true, fn)
}

// changing runs fn with a client of the store. It warns if a program has made a change of fn
// without an entry in the audit trail.
func (c *cli) changing(ctx context.Context, fn func(*admin.Client) error) error {
	return c.administer(ctx, false, func(client *admin.Client) error {
		before := c.lookAtTrail(ctx, client)
		err := fn(client)
		if errors.Is(err, audit.ErrBroken) { // the error says so already
			return err
		}
		if after := c.lookAtTrail(context.WithoutCancel(ctx), client); after.lacksChangesSince(before) {
			c.warn(unrecorded, "have the program open the store with the trail; docs/audit.md shows how")
		}
		// An error of the question says nothing of the trail.
		health, _ := client.Health(context.WithoutCancel(ctx))
		for _, finding := range health.Findings {
			if errors.Is(&finding, audit.ErrBroken) {
				c.warn(line(text(&finding)), trailAdvice)
			}
		}
		return err
	})
}

// trailMark says how far the store and its audit trail were at a time.
type trailMark struct {
	heads    []audit.Head
	sequence uint64 // of the last commit
}

// lookAtTrail returns the mark of now. It returns the zero mark if the store has no trail, if the
// command itself keeps the trail, or if the question fails, because the trail is not what the
// command is about.
func (c *cli) lookAtTrail(ctx context.Context, client *admin.Client) trailMark {
	if c.openedHere {
		return trailMark{}
	}
	heads, err := client.AuditHeads(ctx)
	if err != nil || len(heads) == 0 {
		return trailMark{}
	}
	stats, err := client.Stats(ctx)
	if err != nil {
		return trailMark{}
	}
	return trailMark{heads, stats.Sequence}
}

// lacksChangesSince reports whether the store was changed since before, and its trail was not.
func (m trailMark) lacksChangesSince(before trailMark) bool {
	return len(before.heads) > 0 && slices.Equal(m.heads, before.heads) && m.sequence > before.sequence
}

// administer runs fn with a client of the store, which must exist.
//
// Errors: errNoStore; errOwnOptions; an error of [latchkey.Open], such as [latchkey.ErrLocked] if a
// program has the file and does not serve it; [admin.ErrUntrusted]; an error of fn.
func (c *cli) administer(ctx context.Context, readOnly bool, fn func(*admin.Client) error) error {
	path, err := c.existing()
	var client *admin.Client
	var end func() error
	switch {
	case err == nil:
		client, end, err = c.reach(ctx, path, readOnly)
	case errors.Is(err, errNoStore):
		// A program may still have the store open whose file was deleted, and can save it.
		if served, endServed, dialErr := c.dial(ctx, c.store); dialErr == nil {
			client, end, err = served, endServed, nil
		}
	}
	if err != nil {
		return err
	}
	return errors.Join(fn(client.As(c.actor)), end())
}

// reach returns a client of the store in the file at path, and a function that ends its work.
func (c *cli) reach(ctx context.Context, path string, readOnly bool) (client *admin.Client, end func() error, err error) {
	return c.reachBy(ctx, path, readOnly, func(wait time.Duration) (*admin.Client, func() error, error) {
		return c.openHere(ctx, path, readOnly, wait)
	})
}

// reachBy is reach with a function that opens the file. While another program has the file, reachBy
// looks for the socket of that program before it waits for the file. It looks again after it has
// waited, because the program may have begun to serve meanwhile.
func (c *cli) reachBy(ctx context.Context, path string, readOnly bool, open func(wait time.Duration) (*admin.Client, func() error, error)) (client *admin.Client, end func() error, err error) {
	for _, wait := range []time.Duration{0, c.wait} {
		if client, end, err = open(wait); !errors.Is(err, latchkey.ErrLocked) {
			return client, end, err
		}
		client, end, dialErr := c.dial(ctx, path)
		if dialErr == nil && !readOnly && len(c.given) > 0 {
			return nil, nil, errors.Join(fmt.Errorf("%s: %w: %s", path, errOwnOptions, strings.Join(c.given, " ")), end())
		}
		if !errors.Is(dialErr, admin.ErrNotServed) {
			return client, end, dialErr
		}
	}
	return nil, nil, err
}

// openHere opens the file, and returns a client of the API within this process.
func (c *cli) openHere(ctx context.Context, path string, readOnly bool, wait time.Duration) (*admin.Client, func() error, error) {
	s, served, err := c.openServed(ctx, path, readOnly, wait)
	if err != nil {
		return nil, nil, err
	}
	return admin.Local(s.Store, &served), s.close, nil
}

// openServed opens the file, and returns the store with the options of the API. Without a program
// that serves the hub, the API still can administer what the file knows of edges.
func (c *cli) openServed(ctx context.Context, path string, readOnly bool, wait time.Duration) (*openedStore, admin.Options, error) {
	opts := c.replica
	opts.Store = c.opts
	opts.Store.ReadOnly = readOnly
	s, err := openTrailed(ctx, path, opts, c.chainFor(path), wait)
	if err != nil {
		return nil, admin.Options{}, err
	}
	c.openedHere = true
	c.explain("opened %s", path)
	served := s.served()
	if !isEdge(path) {
		served.Hub = replica.NewHub(s.Store, &replica.HubOptions{Certificate: c.hubCert})
	}
	return s, served, nil
}

// dial returns a client of the API of the program that has the file open.
//
// Errors: [admin.ErrNotServed]; [admin.ErrUntrusted]; the operating system's error.
func (c *cli) dial(ctx context.Context, path string) (*admin.Client, func() error, error) {
	conn, err := admin.Dial(ctx, path)
	if err != nil {
		return nil, nil, err
	}
	c.explain("a program has %s open; the command goes through its socket %s", path, conn.RemoteAddr().String())
	transport := admin.Transport(path)
	transport.MaxIdleConnsPerHost = maxUnderWay // for pipe, whose requests run at once
	dial, first := transport.DialContext, make(chan net.Conn, 1)
	first <- conn
	transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		select {
		case conn := <-first:
			return conn, nil
		default:
			return dial(ctx, network, addr)
		}
	}
	end := func() error {
		transport.CloseIdleConnections()
		select {
		case conn := <-first: // there was no request
			return conn.Close()
		default:
			return nil
		}
	}
	return admin.NewClient(&http.Client{Transport: transport}, "http://latchkey", ""), end, nil
}

// explain says on standard error what the command does, with --verbose.
func (c *cli) explain(format string, args ...any) {
	if !c.verbose {
		return
	}
	message := line(fmt.Sprintf(format, args...))
	if c.json {
		_ = writeJSON(c.stderr, struct {
			Note string `json:"note"`
		}{message})
		return
	}
	fmt.Fprintf(c.stderr, "latchkey: %s\n", message)
}

// unlessChanged runs fn, which reads something and then changes it. fn runs again if another
// program has changed what fn had read.
//
// Errors: an error of fn.
func unlessChanged(fn func() error) error {
	for {
		if err := fn(); !errors.Is(err, admin.ErrChanged) {
			return err
		}
	}
}
