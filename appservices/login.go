package appservices

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/address"

	"github.com/latchkeydb/latchkey"
)

// A credential is the identity or the key that a login has proved.
type credential struct {
	identity latchkey.Identity
	data     []byte  // from the provider, about the user: a JSON object or nil
	account  account // of an e-mail address, when the password was checked
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

// loginByGet answers the anonymous login of the SDK mongodb-stitch, whose query has the options
// that later SDKs send in the body. A HEAD makes no user.
func (c *call) loginByGet() (reply, error) {
	if c.r.Method == http.MethodHead {
		return reply{status: http.StatusOK}, nil
	}
	// When the SDK links, it writes ?link=true after the query that is there already.
	device, links := strings.CutSuffix(c.r.URL.Query().Get("device"), "?link=true")
	if links {
		c.r.URL.RawQuery = "link=true"
	}
	options, err := base64.StdEncoding.DecodeString(device)
	if err != nil || !json.Valid(options) {
		options = []byte("null")
	}
	c.r.Body = io.NopCloser(strings.NewReader(`{"options":{"device":` + string(options) + `}}`))
	c.params = append(c.params, string(latchkey.ProviderAnonymous))
	return c.login()
}

// A loginReply has four strings, and clients require all of them.
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

// prove checks the credentials of a request. After too many failures by a provider from one
// address, it refuses the logins by that provider from that address without checking their
// credentials.
func (c *call) prove() (document, *credential, error) {
	provider := latchkey.Provider(c.params[1])
	d, err := c.body()
	if err != nil {
		return nil, nil, err
	}
	if err := c.h.enabled(provider); err != nil {
		return d, nil, err
	}
	if countFailures(provider) {
		key := c.failureKey()
		if wait := c.h.failures.begin(key); wait > 0 {
			return d, nil, errTooManyFailures(wait)
		}
		defer c.h.failures.end(key)
	}
	cr, err := c.proveBy(provider, d)
	if err != nil {
		return d, nil, c.failed(err)
	}
	return d, cr, nil
}

func (c *call) failureKey() failureKey {
	return failureKey{latchkey.Provider(c.params[1]), address.Counted(c.h.remote(c.r))}
}

// failed counts a failed login. It returns err, or another refusal if too many logins have failed.
func (c *call) failed(err error) error {
	key := c.failureKey()
	if e, _ := refusalOf(err); e.status != http.StatusUnauthorized || !countFailures(key.provider) {
		return err
	}
	if wait := c.h.failures.take(key); wait > 0 {
		return errTooManyFailures(wait)
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
		return because(errProviderOff(p), "Options.CustomFunction is not set")
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
	// With a context that has ended, Login decides only what it can decide at once, so that a key
	// that has logged in before does not stand in line.
	from := c.h.remote(c.r)
	who, err := c.app.store.LoginFrom(endedContext, token, from)
	if errors.Is(err, context.Canceled) {
		err = c.inLine(hashLogin, func() error {
			who, err = c.app.store.LoginFrom(c.ctx(), token, from)
			return err
		})
	}
	return &credential{key: who}, err
}

var endedContext = func() context.Context {
	ctx, end := context.WithCancel(context.Background())
	end()
	return ctx
}()

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

// errNoHook is the reason for refusing a token if [Options].CustomToken or OAuth is not set.
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

// oauthFields lists the fields of a provider. A client sends one of them.
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
		return nil, errOAuth(provider, errNoHook)
	}
	id, data, err := c.h.opts.OAuth(c.ctx(), c.appID, provider, credentials)
	if err != nil {
		return nil, errOAuth(provider, err)
	}
	return external(provider, id, data)
}

// external returns the credential of an identity that a hook has proved.
func external(p latchkey.Provider, id string, data map[string]any) (*credential, error) {
	cr := &credential{identity: latchkey.Identity{Provider: p, Subject: id}}
	if data == nil {
		return cr, nil
	}
	var err error
	cr.data, err = json.Marshal(data)
	return cr, err
}

// enter returns the user of a credential and the identity that it logs in with. It makes the user
// if the user is new.
func (c *call) enter(cr *credential) (*principal, identityClaim, error) {
	if err := c.app.followReplica(c.ctx()); err != nil {
		return nil, identityClaim{}, err
	}
	if cr.isKey() {
		return c.enterByKey(cr)
	}
	p, err := c.userOf(cr)
	switch {
	case err != nil:
		return nil, identityClaim{}, err
	case p.user.Disabled:
		return nil, identityClaim{}, because(errUserDisabled, "the user is disabled")
	case cr.identity.Provider == latchkey.ProviderAnonymous:
		cr.identity = p.user.Identities[0] // the store chose the subject
	}
	return p, c.app.identityClaim(cr.identity), nil
}

// userOf returns the user that the credential's identity belongs to. For a known user it writes
// nothing, unless the provider tells something new about the user.
func (c *call) userOf(cr *credential) (*principal, error) {
	p := &principal{}
	if cr.identity.Provider != latchkey.ProviderAnonymous {
		known := false
		err := c.app.store.View(c.ctx(), func(tx *latchkey.Tx) (err error) {
			known, err = c.app.readUser(tx, cr, p)
			return err
		})
		if err != nil || known {
			return p, err
		}
	} else if err := c.countWrite("anonymous users"); err != nil {
		return nil, err
	}
	err := c.app.store.Update(c.ctx(), func(tx *latchkey.Tx) error { return c.app.makeUser(tx, cr, p) })
	return p, err
}

// readForSession reads what the session of a principal needs, besides the principal.
func (a *app) readForSession(tx *latchkey.Tx, p *principal) (err error) {
	if _, err := a.presentSigningKey(tx); err != nil {
		return err
	}
	p.forgotten, err = getForgotten(tx)
	return err
}

// readUser reads the user of a credential. known is false if there is no such user, or if something
// about the user is to be written.
func (a *app) readUser(tx *latchkey.Tx, cr *credential, p *principal) (known bool, err error) {
	p.user, err = tx.UserByIdentity(cr.identity)
	if errors.Is(err, latchkey.ErrUserNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	told, err := data(tx).Get(profileKey(cr.identity))
	if err != nil {
		return false, err
	}
	firstLogin := cr.identity.Provider == latchkey.ProviderLocalUserpass && cr.account.User != p.user.ID
	if firstLogin || !bytes.Equal(told, cr.data) {
		return false, nil
	}
	return true, a.readForSession(tx, p)
}

// makeUser makes the user of a credential, unless there is one, and writes what the provider tells
// about the user.
func (a *app) makeUser(tx *latchkey.Tx, cr *credential, p *principal) (err error) {
	if err := cr.stillGood(tx); err != nil {
		return err
	}
	p.user, err = latchkey.User{}, latchkey.ErrUserNotFound
	if cr.identity.Provider != latchkey.ProviderAnonymous {
		p.user, err = tx.UserByIdentity(cr.identity)
	}
	if errors.Is(err, latchkey.ErrUserNotFound) {
		p.user, err = tx.CreateUser(latchkey.UserSpec{Identity: cr.identity})
	}
	if err != nil {
		return err
	}
	if cr.identity.Provider == latchkey.ProviderAnonymous {
		if err := a.deleteAged(tx); err != nil {
			return err
		}
		if err := noteAnonymous(tx, p.user); err != nil {
			return err
		}
	}
	if err := cr.attach(tx, p.user.ID); err != nil {
		return err
	}
	return a.readForSession(tx, p)
}

// stillGood returns errPassword if the account has another password now than the one that was
// checked.
func (cr *credential) stillGood(tx *latchkey.Tx) error {
	if cr.identity.Provider != latchkey.ProviderLocalUserpass {
		return nil
	}
	acc, err := findAccount(tx, cr.identity.Subject)
	if err == nil && (acc == nil || acc.Verifier != cr.account.Verifier) {
		err = because(errPassword, "the password was changed while it was checked")
	}
	return err
}

// attach writes the package's own record of a user's identity.
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

// enterByKey returns the owner of a key. The first login with a user key makes the key an identity
// of its user. This is the only write that logins with the key cause.
func (c *call) enterByKey(cr *credential) (*principal, identityClaim, error) {
	var p principal
	var key latchkey.Key
	used := true
	err := c.app.store.View(c.ctx(), func(tx *latchkey.Tx) (err error) {
		if err := c.app.readForSession(tx, &p); err != nil {
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
		err = because(errAPIKey, "the key was deleted while it was checked")
	}
	if err != nil {
		return nil, identityClaim{}, err
	}
	p.key, p.tokenID = &key, cr.key.TokenID
	if !used {
		err := c.app.store.Update(c.ctx(), func(tx *latchkey.Tx) error { return markUsed(tx, &p.user, key.ID) })
		if err != nil {
			// The key is good all the same, and a login must work even if nothing can be written.
			c.h.log.WarnContext(c.ctx(), "the first use of a key was not noted", "error", err, "request_id", c.requestID)
		}
	}
	return &p, c.app.keyClaim(key), nil
}

// link adds the identity of the request's credentials to the user of the access token. The session
// goes on.
func (c *call) link() (reply, error) {
	s, p, err := c.authenticateToChange()
	if err != nil {
		return reply{}, err
	}
	if latchkey.Provider(c.params[1]) == latchkey.ProviderAnonymous {
		return reply{}, errLinkOfAnonymous
	}
	d, cr, err := c.prove()
	if err == nil {
		err = c.linkTo(s, p, cr)
	}
	if err != nil && !d.device().isCore() {
		err = linkFailure(err)
	}
	if err != nil {
		return reply{}, err
	}
	return c.loggedIn(p, s, c.h.now())
}

// linkTo adds the identity of a credential to the owner of a session. It checks the session again
// in its transaction, because checking the credential may have taken long.
func (c *call) linkTo(s *session, p *principal, cr *credential) error {
	switch {
	case p.server != nil:
		return because(errLinkRequest, "a server key has no identities")
	case cr.isKey() && cr.key.UserID != p.user.ID:
		return because(errLinkRequest, "the key is not the user's")
	}
	return c.app.store.Update(c.ctx(), func(tx *latchkey.Tx) error {
		if _, err := c.holderIn(tx, s, accessToken, true); err != nil {
			return err
		}
		if cr.isKey() {
			return markUsed(tx, &p.user, cr.key.KeyID)
		}
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
