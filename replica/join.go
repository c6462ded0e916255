package replica

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
)

// A joiner joins a hub.
type joiner struct {
	path       string
	opts       Options
	invitation invitation
	hub        string
	old        *credential // may be nil
}

func newJoiner(hubURL, text, path string, opts *Options) (*joiner, error) {
	o, err := opts.checked()
	if err != nil {
		return nil, err
	}
	i, err := parseInvitation(text)
	if err != nil {
		return nil, err
	}
	if _, err := checkURL(hubURL, i.pin != nil, o.AllowPlainHTTP); err != nil {
		return nil, err
	}
	if o.Name == "" {
		o.Name = hostName()
	}
	if err := checkEdgeName(o.Name); err != nil {
		return nil, err
	}
	if given := o.Store.Domain.ID(); given != uuid.Nil && given != i.domain {
		return nil, fmt.Errorf("%w: Domain is %s, and the hub is of domain %s", latchkey.ErrInvalidOptions, given, i.domain)
	}
	if path == "" {
		return nil, fmt.Errorf("%w: the path is empty", latchkey.ErrInvalidOptions)
	}
	return &joiner{path: path, opts: o, invitation: i, hub: hubURL}, nil
}

// hostName returns the name of the machine, if an edge can have it.
func hostName() string {
	name, err := os.Hostname()
	if len(name) > maxEdgeName {
		name = name[:maxEdgeName]
	}
	if err != nil || checkEdgeName(name) != nil {
		return "edge"
	}
	return name
}

func (j *joiner) pins() [][]byte {
	if j.invitation.pin == nil {
		return nil
	}
	return [][]byte{j.invitation.pin}
}

// join does the steps of joining. After a crash between two of them, the same call begins again:
//
//  1. The nonce is written, which lets an edge use its invitation twice.
//  2. The hub makes the edge's key.
//  3. The store is made, in the domain of the hub.
//  4. The credential is written. From now on, Open works.
//  5. The first copy.
func (j *joiner) join(ctx context.Context) (*Edge, error) {
	old, err := readCredential(j.path)
	if err != nil && !isMissing(err) && !errors.Is(err, ErrNotEdge) {
		return nil, err
	}
	j.old = old
	if err := j.mayJoin(ctx); err != nil {
		return nil, err
	}
	c := &credential{Hub: j.hub, Domain: j.invitation.domain, Pins: j.pins()}
	if old != nil && old.Domain == c.Domain {
		c.Nonce, c.Token, c.Former, c.Edge, c.Issued, c.Instance = old.Nonce, old.Token, old.Former, old.Edge, old.Issued, old.Instance
		if c.Token != "" {
			// The old pins and the old hub stay with the old token, which no other hub may see.
			c.Hub, c.Pins = old.Hub, old.Pins
		}
	}
	if len(c.Nonce) == 0 {
		c.Nonce = make([]byte, 32)
		if _, err := rand.Read(c.Nonce); err != nil {
			return nil, err
		}
	}
	if err := c.write(j.path); err != nil {
		return nil, err
	}
	answer, secrets, err := j.ask(ctx, c.Nonce)
	if err != nil {
		return nil, err
	}
	j.opts.Store.Domain = secrets
	e, err := j.open(answer)
	if err != nil {
		return nil, err
	}
	if err := e.Sync(ctx); err != nil {
		_ = e.Close()
		return nil, fmt.Errorf("the first copy was cut short, and goes on when the edge is opened: %w", err)
	}
	return e, nil
}

// mayJoin returns an error unless the file at path may join: there is none, or it is an edge in the
// domain of the hub that has no credential which the hub takes.
func (j *joiner) mayJoin(ctx context.Context) error {
	if _, err := os.Stat(j.path); isMissing(err) {
		return nil
	} else if err != nil {
		return err
	}
	if j.old != nil && j.old.Token == "" {
		return nil // Join was interrupted
	}
	o := j.opts
	o.Store.MustExist = true
	s, err := latchkey.Open(j.path, &o.Store)
	if err != nil {
		return err
	}
	joined, err := isEdge(ctx, s)
	domain := s.DomainID()
	if closeErr := s.Close(); err == nil {
		err = closeErr
	}
	switch {
	case err != nil:
		return err
	case domain != j.invitation.domain:
		return fmt.Errorf("%w: it is of domain %s, and the hub is of domain %s", ErrNotEdge, domain, j.invitation.domain)
	case !joined:
		return fmt.Errorf("%w: it is a store that never joined one, and may have users and keys of its own", ErrNotEdge)
	case j.old == nil:
		return nil
	}
	switch err := j.probe(ctx); {
	case err == nil:
		return ErrJoined
	case errors.Is(err, ErrUnknownEdge) || errors.Is(err, ErrRevoked) || errors.Is(err, ErrWrongHub):
		return nil
	default:
		return fmt.Errorf("whether the hub still knows the edge: %w", err)
	}
}

// ask exchanges the invitation for the edge's key.
func (j *joiner) ask(ctx context.Context, nonce []byte) (answer joinAnswer, secrets latchkey.DomainSecrets, err error) {
	u, err := checkURL(j.hub, j.invitation.pin != nil, j.opts.AllowPlainHTTP)
	if err != nil {
		return answer, secrets, err
	}
	c := newClient(&j.opts, u, j.pins(), nil)
	defer c.close()
	body, err := json.Marshal(joinRequest{Secret: j.invitation.secret[:], Nonce: nonce, Name: j.opts.Name, Build: build()})
	if err != nil {
		return answer, secrets, err
	}
	b, err := c.ask(ctx, pathJoin, "", typeJSON, body, false, maxAnswer)
	if err != nil {
		return answer, secrets, err
	}
	if err := json.Unmarshal(b, &answer); err != nil || answer.Token == "" || answer.Edge == uuid.Nil {
		return answer, secrets, fmt.Errorf("%w: its answer to the invitation is not one", ErrHub)
	}
	secrets, err = latchkey.ParseDomainSecrets([]byte(answer.Domain))
	if err == nil && secrets.ID() != j.invitation.domain {
		err = fmt.Errorf("%w: it is of domain %s, and the invitation of domain %s", ErrHub, secrets.ID(), j.invitation.domain)
	}
	return answer, secrets, err
}

// probe returns nil if the hub knows the edge by its old credential. The old token is sent to the
// hub that it is for, and to no other.
//
// Errors: [ErrUnknownEdge]; [ErrRevoked]; [ErrWrongHub]; those of the client.
func (j *joiner) probe(ctx context.Context) error {
	if len(j.old.Pins) == 0 && j.old.Hub != j.hub {
		return ErrWrongHub
	}
	u, err := checkURL(j.hub, len(j.old.Pins) > 0, j.opts.AllowPlainHTTP)
	if err != nil {
		return err
	}
	c := newClient(&j.opts, u, j.old.Pins, nil)
	defer c.close()
	for _, token := range []string{j.old.Token, j.old.Former} {
		if token == "" {
			continue
		}
		// A push without a body is refused, but only after the token was checked.
		_, err = c.ask(ctx, pathPush, token, typeJSON, nil, false, maxAnswer)
		if isCode(err, codeRequest) || isCode(err, codeExpired) {
			err = nil
		}
		if err == nil || !isCode(err, codeUnknown) {
			break
		}
	}
	return err
}

// open makes or opens the store, and writes the credential.
func (j *joiner) open(answer joinAnswer) (*Edge, error) {
	c := &credential{
		Hub: j.hub, Domain: j.invitation.domain, Edge: answer.Edge, Pins: j.pins(), Token: answer.Token, Issued: answer.Issued,
	}
	if j.old != nil {
		c.Instance = j.old.Instance
	}
	return openEdge(j.path, j.opts, c)
}
