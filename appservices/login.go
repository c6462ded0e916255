package appservices

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
)

// A credential is what a login has proven: an identity, or a key.
type credential struct {
	identity latchkey.Identity
	data     []byte  // what the provider told about the user, a JSON object; nil for nothing
	account  account // of an e-mail address, as it was when the password proved right
	key      latchkey.Principal
}

func (cr *credential) isKey() bool { return cr.key.KeyID != uuid.Nil }

func (c *call) login() (reply, error) {
	if c.r.URL.Query().Get("link") == "true" {
		return c.link()
	}
	d, cr, err := c.prove()
	if err != nil {
		return reply{}, err
	}
	p, identity, err := c.enter(cr)
	if err != nil {
		return reply{}, c.failed(err)
	}
	device, ok := d.device().id()
	if !ok {
		device = c.h.newObjectID()
	}
	now := c.h.now()
	return c.loggedIn(p, c.openSession(p, identity, device, now), now)
}

// loginReply has four strings, and clients require all of them.
type loginReply struct {
	AccessToken  string `json:"access_token"`
	RefreshToken string `json:"refresh_token"`
	UserID       string `json:"user_id"`
	DeviceID     string `json:"device_id"`
}

func (c *call) loggedIn(p *principal, s *session, now time.Time) (reply, error) {
	access, err := c.newAccessToken(p, s, now)
	if err != nil {
		return reply{}, err
	}
	refresh, err := c.newRefreshToken(p, s, now)
	if err != nil {
		return reply{}, err
	}
	return reply{http.StatusOK, loginReply{access, refresh, p.objectID(), s.device}}, nil
}

// prove finds out what the request's credentials prove. Passwords, and what a hook looks at, are not looked at for an
// address that has failed too often; keys are, since they cannot be guessed and a good one must not suffer for the others,
// and anonymous logins have nothing to guess.
func (c *call) prove() (document, *credential, error) {
	provider := latchkey.Provider(c.params[1])
	d, err := c.body()
	if err != nil {
		return nil, nil, err
	}
	if err := c.h.enabled(provider); err != nil {
		return d, nil, err
	}
	if provider != latchkey.ProviderAPIKey && provider != latchkey.ProviderAnonymous {
		from := c.h.remote(c.r)
		if !c.h.failures.begin(from) {
			return d, nil, errTooManyFailures
		}
		defer c.h.failures.end(from)
	}
	cr, err := c.proveBy(provider, d)
	if err != nil {
		return d, nil, c.failed(err)
	}
	return d, cr, nil
}

// failed counts a failed login. It returns the refusal, or another if there were too many.
func (c *call) failed(err error) error {
	if e, _ := refusalOf(err); e.status == http.StatusUnauthorized && c.h.failures.count(c.h.remote(c.r)) {
		return errTooManyFailures
	}
	return err
}

var providers = []latchkey.Provider{
	latchkey.ProviderAnonymous, latchkey.ProviderLocalUserpass, latchkey.ProviderAPIKey, latchkey.ProviderCustomToken, latchkey.ProviderCustomFunction,
	latchkey.ProviderGoogle, latchkey.ProviderFacebook, latchkey.ProviderApple,
}

func (h *Handler) enabled(p latchkey.Provider) error {
	switch {
	case !slices.Contains(providers, p):
		return errProviderUnknown
	case len(h.opts.Providers) > 0 && !slices.Contains(h.opts.Providers, p):
		return errProviderOff(p)
	case p == latchkey.ProviderCustomFunction && h.opts.CustomFunction == nil:
		return errProviderOff(p)
	}
	return nil
}

func (c *call) proveBy(provider latchkey.Provider, d document) (*credential, error) {
	switch provider {
	case latchkey.ProviderAnonymous:
		return &credential{identity: latchkey.Identity{Provider: provider}}, nil
	case latchkey.ProviderLocalUserpass:
		return c.provePassword(d)
	case latchkey.ProviderAPIKey:
		return c.proveKey(d)
	case latchkey.ProviderCustomToken:
		return c.proveToken(d)
	case latchkey.ProviderCustomFunction:
		return c.proveByFunction(d)
	}
	return c.proveOAuth(provider, d)
}

func (c *call) proveKey(d document) (*credential, error) {
	token, err := d.required("key")
	if err != nil {
		return nil, err
	}
	who, err := c.app.store.Login(c.ctx(), token)
	return &credential{key: who}, err
}

func (c *call) proveToken(d document) (*credential, error) {
	token, err := d.required("token")
	if err != nil {
		return nil, err
	}
	if c.h.opts.CustomToken == nil {
		return nil, errToken(errNoHook)
	}
	id, data, err := c.h.opts.CustomToken(c.ctx(), c.appID, token)
	if err != nil {
		return nil, errToken(err)
	}
	return external(latchkey.ProviderCustomToken, id, data)
}

// errNoHook is why a token is refused that only a hook could vouch for.
var errNoHook = errors.New("nothing is set up to verify it")

func (c *call) proveByFunction(d document) (*credential, error) {
	payload := make(map[string]any, len(d))
	for field, raw := range d {
		if field != "options" {
			payload[field] = plainJSON(raw)
		}
	}
	id, data, err := c.h.opts.CustomFunction(c.ctx(), c.appID, payload)
	if err != nil {
		return nil, errFunction(err)
	}
	return external(latchkey.ProviderCustomFunction, id, data)
}

// oauthFields are the fields of which a client sends one.
var oauthFields = map[latchkey.Provider][]string{
	latchkey.ProviderGoogle:   {"authCode", "id_token"},
	latchkey.ProviderFacebook: {"accessToken"},
	latchkey.ProviderApple:    {"id_token"},
}

func (c *call) proveOAuth(provider latchkey.Provider, d document) (*credential, error) {
	credentials := make(map[string]string)
	for _, field := range oauthFields[provider] {
		if s, ok := d.text(field); ok {
			credentials[field] = s
		}
	}
	if len(credentials) == 0 {
		return nil, errMissing(oauthFields[provider][0])
	}
	if c.h.opts.OAuth == nil {
		return nil, errOAuth(provider)
	}
	id, data, err := c.h.opts.OAuth(c.ctx(), c.appID, provider, credentials)
	if err != nil {
		return nil, errOAuth(provider)
	}
	return external(provider, id, data)
}

// external is the credential that a hook vouches for.
func external(p latchkey.Provider, id string, data map[string]any) (*credential, error) {
	cr := &credential{identity: latchkey.Identity{Provider: p, Subject: id}}
	if data == nil {
		return cr, nil
	}
	var err error
	cr.data, err = json.Marshal(data)
	return cr, err
}

// enter finds whom a credential logs in, or makes the user, and tells as which identity.
func (c *call) enter(cr *credential) (*principal, identityClaim, error) {
	if cr.isKey() {
		return c.enterByKey(cr)
	}
	p, err := c.userOf(cr)
	switch {
	case err != nil:
		return nil, identityClaim{}, err
	case p.user.Disabled:
		return nil, identityClaim{}, errUserDisabled
	case cr.identity.Provider == latchkey.ProviderAnonymous:
		cr.identity = p.user.Identities[0] // the store has chosen the subject
	}
	return p, c.app.identityClaim(cr.identity), nil
}

// userOf returns the user whose identity a credential is. One who is known costs no write, unless what the provider tells
// has changed.
func (c *call) userOf(cr *credential) (*principal, error) {
	var p principal
	found := func(find func(*latchkey.Tx, *credential) (latchkey.User, error)) func(*latchkey.Tx) error {
		return func(tx *latchkey.Tx) (err error) {
			if p.user, err = find(tx, cr); err != nil {
				return err
			}
			p.forgotten, err = getForgotten(tx)
			return err
		}
	}
	err := errStale
	if cr.identity.Provider != latchkey.ProviderAnonymous {
		err = c.app.store.View(c.ctx(), found(known))
	}
	if errors.Is(err, errStale) {
		err = c.app.store.Update(c.ctx(), found(makeKnown))
	}
	return &p, err
}

// errStale is known's word for a credential of which something is still to be written.
var errStale = errors.New("to be written")

func known(tx *latchkey.Tx, cr *credential) (latchkey.User, error) {
	user, err := tx.UserByIdentity(cr.identity)
	if errors.Is(err, latchkey.ErrUserNotFound) {
		return user, errStale
	}
	if err != nil {
		return user, err
	}
	have, err := data(tx).Get(profileKey(cr.identity))
	firstLogin := cr.identity.Provider == latchkey.ProviderLocalUserpass && cr.account.User != user.ID
	if err == nil && (firstLogin || !bytes.Equal(have, cr.data)) {
		err = errStale
	}
	return user, err
}

func makeKnown(tx *latchkey.Tx, cr *credential) (latchkey.User, error) {
	if err := cr.stillGood(tx); err != nil {
		return latchkey.User{}, err
	}
	user, err := latchkey.User{}, latchkey.ErrUserNotFound
	if cr.identity.Provider != latchkey.ProviderAnonymous {
		user, err = tx.UserByIdentity(cr.identity)
	}
	if errors.Is(err, latchkey.ErrUserNotFound) {
		user, err = tx.CreateUser(latchkey.UserSpec{Identity: cr.identity})
	}
	if err != nil {
		return latchkey.User{}, err
	}
	return user, cr.attach(tx, user.ID)
}

// stillGood returns errPassword if a password that proved right is the account's no more.
func (cr *credential) stillGood(tx *latchkey.Tx) error {
	if cr.identity.Provider != latchkey.ProviderLocalUserpass {
		return nil
	}
	acc, err := findAccount(tx, cr.identity.Subject)
	if err == nil && (acc == nil || acc.Verifier != cr.account.Verifier) {
		err = errPassword
	}
	return err
}

// attach writes what belongs to a user's identity beside the store's own record of it.
func (cr *credential) attach(tx *latchkey.Tx, user uuid.UUID) error {
	switch {
	case cr.identity.Provider == latchkey.ProviderLocalUserpass:
		acc := cr.account
		acc.User = user
		return acc.put(tx)
	case cr.data == nil:
		return data(tx).Delete(profileKey(cr.identity))
	}
	return data(tx).Put(profileKey(cr.identity), cr.data)
}

// enterByKey finds whose a key is. A user's key becomes an identity of the user by its first login: the one write in a
// key's life as a credential.
func (c *call) enterByKey(cr *credential) (*principal, identityClaim, error) {
	var p principal
	var key latchkey.Key
	used := true
	err := c.app.store.View(c.ctx(), func(tx *latchkey.Tx) (err error) {
		if p.forgotten, err = getForgotten(tx); err != nil {
			return err
		}
		if cr.key.ServerKey {
			key, err = tx.Key(latchkey.ServerOwner, cr.key.KeyID)
			p.server = &key
			return err
		}
		if key, err = tx.Key(cr.key.UserID, cr.key.KeyID); err != nil {
			return err
		}
		if p.user, err = tx.User(cr.key.UserID); err != nil {
			return err
		}
		mark, err := data(tx).Get(usedKey(key.ID))
		used = mark != nil
		return err
	})
	if errors.Is(err, latchkey.ErrKeyNotFound) {
		err = errAPIKey // deleted since it proved good
	}
	if err != nil {
		return nil, identityClaim{}, err
	}
	if !used {
		if err := c.app.markUsed(c.ctx(), &p.user, key.ID); err != nil {
			// The key is good all the same: who cannot write can still log in.
			c.h.log.WarnContext(c.ctx(), "the first use of a key was not noted", "error", err, "request_id", c.requestID)
		}
	}
	return &p, c.app.keyClaim(key), nil
}

// link gives the identity of the request's credentials to the user of its access token, in the session at hand.
func (c *call) link() (reply, error) {
	s, p, err := c.authenticate(accessToken)
	if err != nil {
		return reply{}, err
	}
	if latchkey.Provider(c.params[1]) == latchkey.ProviderAnonymous {
		return reply{}, errLinkOfAnonymous
	}
	d, cr, err := c.prove()
	if err == nil {
		err = c.linkTo(p, cr)
	}
	if err != nil && !d.device().isCore() {
		switch e, _ := refusalOf(err); {
		case e == errLinkSecondEmail:
			err = linkFailure(unauthorized("AuthError", e.old)) // the 500 is what suites of SDKs on the core look for
		case !strings.HasPrefix(e.text, "unauthorized: "): // as what a function says has it already
			err = linkFailure(err)
		}
	}
	if err != nil {
		return reply{}, err
	}
	return c.loggedIn(p, s, c.h.now())
}

func (c *call) linkTo(p *principal, cr *credential) error {
	switch {
	case p.server != nil, cr.isKey() && cr.key.UserID != p.user.ID:
		return errLinkRequest
	case cr.isKey():
		return c.app.markUsed(c.ctx(), &p.user, cr.key.KeyID)
	}
	return c.app.store.Update(c.ctx(), func(tx *latchkey.Tx) error {
		if err := cr.stillGood(tx); err != nil {
			return err
		}
		owner, err := tx.UserByIdentity(cr.identity)
		switch {
		case err == nil && owner.ID != p.user.ID:
			return errLinkTaken
		case errors.Is(err, latchkey.ErrUserNotFound) && cr.isSecondEmail(p.user):
			return errLinkSecondEmail
		}
		if p.user, err = tx.LinkIdentity(p.user.ID, cr.identity); err != nil {
			return err
		}
		return cr.attach(tx, p.user.ID)
	})
}

func (cr *credential) isSecondEmail(user latchkey.User) bool {
	return cr.identity.Provider == latchkey.ProviderLocalUserpass && slices.ContainsFunc(user.Identities, func(i latchkey.Identity) bool {
		return i.Provider == latchkey.ProviderLocalUserpass
	})
}
