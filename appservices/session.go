package appservices

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
)

// A principal is the owner of a session: a user, or the user of type server that stands for a
// server key.
type principal struct {
	user   latchkey.User
	server *latchkey.Key

	// These are set when a login reads the principal.
	key       *latchkey.Key // the key of the login, or nil
	tokenID   string        // the token of the login, if it has a key
	forgotten forgotten
}

func (p *principal) objectID() string {
	if p.server != nil {
		return KeyObjectID(*p.server)
	}
	return UserObjectID(p.user)
}

// The types of token.
const (
	accessToken  = "access"
	refreshToken = "refresh"
)

// A session begins with a login. The store has no record of it, because its tokens carry it.
type session struct {
	sessionClaim
	id       string
	device   string
	expires  int64 // Unix seconds
	identity identityClaim

	signing *signingKey // the key that the session's token was checked with
}

// A sessionClaim is the part of a session for which the service's own claims have no place.
type sessionClaim struct {
	App           string    `json:"app"`                      // the app ID that the client used
	Disablings    uint64    `json:"disablings"`               // of the user, when it began
	Forgotten     uint64    `json:"forgotten"`                // count of [forgotten] when it began
	User          uuid.UUID `json:"user,omitzero"`            // missing for a server key
	Key           uuid.UUID `json:"key,omitzero"`             // the key that opened the session
	KeyDisablings uint64    `json:"key_disablings,omitempty"` // of the key
	KeyToken      string    `json:"key_token,omitempty"`      // the ID of the key's token
}

// isOfUserKey reports whether a user key opened the session.
func (s *session) isOfUserKey() bool { return s.Key != uuid.Nil && s.User != uuid.Nil }

// actor is the actor of the changes that a session makes. It has IDs only, because a trail keeps it
// when the user is deleted.
func (s *session) actor() string {
	var names []string
	if s.User != uuid.Nil {
		names = append(names, "user "+s.User.String())
	}
	if s.Key != uuid.Nil {
		names = append(names, "key "+s.Key.String())
	}
	return strings.Join(names, ", ")
}

// An identityClaim is the identity that opened a session, in the form that clients see.
type identityClaim struct {
	ID         string            `json:"id"`
	Provider   latchkey.Provider `json:"provider_type"`
	ProviderID string            `json:"provider_id"`
}

// claims are the contents of a token. The hosted service's claims are for the clients, and most of
// them occur under two names. The handler adds claims of its own, whose names begin with latchkey.
// A token does not have the claims that belong only to the other type of token.
type claims struct {
	jwt.RegisteredClaims // sub, exp, iat; iss is the session's ID in an access token

	Type           string       `json:"typ"`
	DeviceID       string       `json:"baas_device_id"`
	StitchDeviceID string       `json:"stitch_devId"`
	DomainID       string       `json:"baas_domain_id"`
	StitchDomainID string       `json:"stitch_domainId"`
	Session        sessionClaim `json:"latchkey"`

	// Only in a refresh token.
	SessionID      string        `json:"baas_id,omitempty"`
	StitchID       string        `json:"stitch_id,omitempty"`
	Data           any           `json:"baas_data,omitempty"` // null
	StitchData     any           `json:"stitch_data,omitempty"`
	Identity       identityClaim `json:"baas_identity,omitzero"`
	StitchIdentity identityClaim `json:"stitch_ident,omitzero"`

	// Only in an access token. The claims about the session are enough to make a refresh token,
	// because linking an identity gives a new one. The handler does not read UserData.
	SessionExpires  int64           `json:"latchkey_exp,omitempty"`
	SessionIdentity identityClaim   `json:"latchkey_identity,omitzero"`
	UserData        json.RawMessage `json:"user_data,omitempty"`
}

func (cl *claims) session() *session {
	if cl.Type == refreshToken {
		return &session{sessionClaim: cl.Session, id: cl.SessionID, device: cl.DeviceID, expires: cl.ExpiresAt.Unix(), identity: cl.Identity}
	}
	return &session{sessionClaim: cl.Session, id: cl.Issuer, device: cl.DeviceID, expires: cl.SessionExpires, identity: cl.SessionIdentity}
}

// openSession returns the session of a login. A session that a key opened does not outlast the key,
// nor the token of the key that opened it.
func (c *call) openSession(p *principal, identity identityClaim, device string, now time.Time) *session {
	s := &session{
		sessionClaim: sessionClaim{App: c.appID, User: p.user.ID, Disablings: p.user.Disablings, Forgotten: p.forgotten.Count},
		id:           c.h.newObjectID(),
		device:       device,
		expires:      now.Add(c.h.opts.refreshLife(identity.Provider)).Unix(),
		identity:     identity,
	}
	if p.key == nil {
		return s
	}
	s.Key, s.KeyDisablings, s.KeyToken = p.key.ID, p.key.Disablings, p.tokenID
	if c.h.opts.InsecureKeySessions {
		return s
	}
	token, _ := keyToken(*p.key, p.tokenID)
	for _, end := range []time.Time{p.key.Expires, token.Ends} {
		if !end.IsZero() {
			s.expires = min(s.expires, end.Unix())
		}
	}
	return s
}

// keyToken returns the token of a key with an ID, and reports whether the key has it still.
func keyToken(key latchkey.Key, id string) (token latchkey.KeyToken, has bool) {
	i := slices.IndexFunc(key.Tokens, func(t latchkey.KeyToken) bool { return t.ID == id })
	if i < 0 {
		return latchkey.KeyToken{}, false
	}
	return key.Tokens[i], true
}

// newRefreshToken returns the token that keeps a session alive.
func (c *call) newRefreshToken(p *principal, s *session, now time.Time) (string, error) {
	cl := c.newClaims(refreshToken, p, s, now, time.Unix(s.expires, 0))
	cl.SessionID, cl.StitchID = s.id, s.id
	cl.Data, cl.StitchData = null, null
	cl.Identity, cl.StitchIdentity = s.identity, s.identity
	return c.app.sign(cl)
}

// null is null in JSON, also for a field that is left out if it is empty.
var null any = (*struct{})(nil)

// newAccessToken returns a token for calls.
func (c *call) newAccessToken(p *principal, s *session, now time.Time) (string, error) {
	cl := c.newClaims(accessToken, p, s, now, now.Add(c.h.opts.accessLife()))
	cl.Issuer = s.id
	cl.SessionExpires, cl.SessionIdentity = s.expires, s.identity
	if c.h.opts.UserData != nil && p.server == nil {
		userData, err := c.h.opts.UserData(c.ctx(), p.user)
		if err == nil && len(userData) > 0 { // clients expect no claim if there is no data
			cl.UserData, err = json.Marshal(userData)
		}
		if err != nil {
			return "", err
		}
	}
	return c.app.sign(cl)
}

// newClaims returns the claims that both types of token have.
func (c *call) newClaims(typ string, p *principal, s *session, now, expires time.Time) *claims {
	return &claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Subject: p.objectID(), ExpiresAt: jwt.NewNumericDate(expires), IssuedAt: jwt.NewNumericDate(now),
		},
		Type:     typ,
		DeviceID: s.device, StitchDeviceID: s.device,
		DomainID: c.app.wireID, StitchDomainID: c.app.wireID,
		Session: s.sessionClaim,
	}
}

func (a *app) sign(cl *claims) (string, error) {
	return jwt.NewWithClaims(jwt.SigningMethodHS256, cl).SignedString(a.signing.Load().secret())
}

// parser checks no dates, because the handler's answers to them depend on the type of token. Strict
// decoding gives each token only one spelling.
var parser = jwt.NewParser(
	jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}), jwt.WithoutClaimsValidation(), jwt.WithStrictDecoding())

// bearer returns the rest of the Authorization header after the word Bearer. present is false if
// the request has no such header.
func bearer(r *http.Request) (token string, present bool) {
	values := r.Header.Values("Authorization")
	if len(values) == 0 {
		return "", false
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return "", true
	}
	return strings.TrimSpace(token), true
}

// tokenAppID returns the app ID in a request's token, or "". It checks nothing.
func tokenAppID(r *http.Request) string {
	token, _ := bearer(r)
	var cl claims
	if _, _, err := parser.ParseUnverified(token, &cl); err != nil {
		return ""
	}
	return cl.Session.App
}

// authenticate checks the bearer token, and returns its session and the session's owner. The token
// must have the type typ. If the path names no app, authenticate sets the call's app. A call
// authenticates before it checks anything else of the request.
func (c *call) authenticate(typ string) (*session, *principal, error) {
	s, err := c.bearerSession(typ)
	if err != nil {
		return nil, nil, err
	}
	p, err := c.holder(s, typ, typ == refreshToken)
	return s, p, err
}

// authenticateToChange does what authenticate does for a call that changes the user of an access
// token. The session must not have ended, and no user key may have opened it, because a thief with
// the key would keep the user for good.
func (c *call) authenticateToChange() (*session, *principal, error) {
	s, err := c.bearerSession(accessToken)
	if err != nil {
		return nil, nil, err
	}
	p, err := c.holder(s, accessToken, true)
	if err == nil && s.isOfUserKey() && !c.h.opts.InsecureKeySessions {
		err = errKeySession
	}
	return s, p, err
}

// bearerSession returns the session of the bearer token. It does not check whether the session has
// ended.
func (c *call) bearerSession(typ string) (*session, error) {
	token, present := bearer(c.r)
	if !present {
		return nil, errNoBearer
	}
	var a *app
	var signing *signingKey
	var cl claims
	var failure error // why the app could not be opened, although the token may be good
	parse := func() error {
		cl = claims{}
		_, err := parser.ParseWithClaims(token, &cl, func(*jwt.Token) (any, error) {
			var err error
			if a, err = c.h.app(c.ctx(), cl.Session.App); err != nil {
				if e, _ := refusalOf(err); e.status != http.StatusNotFound {
					failure = err
				}
				return nil, err
			}
			signing = a.signing.Load()
			return signing.secret(), nil
		})
		return err
	}
	err := parse()
	if signing != nil && errors.Is(err, jwt.ErrTokenSignatureInvalid) {
		if failure = a.askForSigningKey(c.ctx()); failure == nil && a.signing.Load() != signing {
			err = parse()
		}
	}
	if failure != nil {
		return nil, failure
	}
	if err != nil {
		return nil, badToken(typ, err)
	}
	if c.app != nil && c.app != a {
		return nil, errAnotherAppsToken
	}
	c.app, c.appID = a, cl.Session.App
	if err := c.checkDates(typ, &cl); err != nil {
		return nil, err
	}
	s := cl.session()
	s.signing = signing
	c.r = c.r.WithContext(latchkey.WithActor(c.ctx(), s.actor()))
	return s, nil
}

// badToken returns the answer to a bearer token that is not a token of the app. The answer to an
// access token makes realm-web refresh its token.
func badToken(typ string, err error) error {
	switch {
	case typ == accessToken:
		return because(errAccessToken, err.Error())
	case errors.Is(err, jwt.ErrTokenSignatureInvalid), errors.Is(err, jwt.ErrTokenUnverifiable):
		return because(errSignature, err.Error())
	}
	return because(errNoJWT, err.Error())
}

func (c *call) checkDates(typ string, cl *claims) error {
	expired := cl.ExpiresAt == nil || c.h.now().Unix() >= cl.ExpiresAt.Unix()
	switch {
	case cl.Type != typ && typ == refreshToken:
		return errNotRefreshToken
	case cl.Type != typ:
		return because(errInvalidSession, "a refresh token cannot stand for an access token")
	case expired && typ == refreshToken:
		return because(errRefreshExpired, "the refresh token has expired")
	case expired:
		return errAccessExpired
	}
	return nil
}

// holder returns the owner of a session, unless the session has ended. As in the hosted service, an
// access token stays good for reading after the session was logged out: then goesOn is false. typ
// is the type of the request's token, and decides the refusal.
func (c *call) holder(s *session, typ string, goesOn bool) (p *principal, err error) {
	err = c.app.store.View(c.ctx(), func(tx *latchkey.Tx) (err error) {
		p, err = c.holderIn(tx, s, typ, goesOn)
		return err
	})
	return p, err
}

// holderIn is holder in a transaction.
func (c *call) holderIn(tx *latchkey.Tx, s *session, typ string, goesOn bool) (*principal, error) {
	gone, revoked := errUserGone, errInvalidSession
	if typ == refreshToken {
		gone, revoked = errSessionEnded, errSessionEnded
	}
	switch k, err := c.app.presentSigningKey(tx); {
	case err != nil:
		return nil, err
	case k == nil || !bytes.Equal(k.record, s.signing.record):
		return nil, revoked
	}
	if goesOn {
		switch ended, err := s.hasEnded(tx); {
		case err != nil:
			return nil, err
		case ended:
			return nil, because(errSessionEnded, "the session was logged out")
		case c.h.now().Unix() >= s.expires:
			return nil, because(errSessionEnded, "the session has expired")
		}
	}
	p := &principal{}
	if s.User != uuid.Nil {
		user, err := tx.User(s.User)
		switch {
		case errors.Is(err, latchkey.ErrUserNotFound):
			return nil, because(gone, "the user was deleted")
		case err != nil:
			return nil, err
		case user.Disabled:
			return nil, because(errInvalidSession, "the user is disabled")
		case user.Disablings != s.Disablings:
			return nil, because(gone, "the user was disabled after the session had begun")
		case s.Key == uuid.Nil && !c.app.hasIdentity(user, s.identity):
			return nil, because(gone, "the identity that opened the session was unlinked")
		}
		p.user = user
	}
	if s.Key == uuid.Nil || s.isOfUserKey() && c.h.opts.InsecureKeySessions {
		return p, nil
	}
	owner := s.User
	if owner == uuid.Nil {
		owner = latchkey.ServerOwner
	}
	key, err := tx.Key(owner, s.Key)
	switch {
	case errors.Is(err, latchkey.ErrKeyNotFound):
		return nil, because(gone, "the key that opened the session was deleted")
	case err != nil:
		return nil, err
	case key.Disabled, key.Disablings != s.KeyDisablings:
		return nil, because(revoked, "the key that opened the session was disabled")
	}
	group := key.Group
	if p.user.ID != uuid.Nil {
		group = p.user.Group
	}
	switch g, err := tx.Group(group); {
	case err != nil:
		return nil, err
	case g.Disabled:
		return nil, because(revoked, "the group of the key that opened the session is disabled")
	case !key.Expires.IsZero() && !c.app.store.Now().Before(key.Expires):
		return nil, because(revoked, "the key that opened the session has expired")
	}
	if token, has := keyToken(key, s.KeyToken); !has || !token.Ends.IsZero() && !c.app.store.Now().Before(token.Ends) {
		return nil, because(revoked, "the token that opened the session was replaced by another token of the key")
	}
	if owner == latchkey.ServerOwner {
		p.server = &key
	}
	return p, nil
}

// forgotten describes the ended sessions that have no record any more. These sessions must stay
// ended even if the clock goes back. So a session counts as ended if it expires at Expiry or
// earlier and was opened before the last forgetting. All such sessions had expired by then.
type forgotten struct {
	Count  uint64 `json:"count"`  // how often records were deleted
	Expiry int64  `json:"expiry"` // the latest expiry of a deleted record, in Unix seconds
}

func getForgotten(tx *latchkey.Tx) (f forgotten, err error) {
	_, err = getJSON(tx, keyForgotten, &f)
	return f, err
}

// forgetEnded deletes the records of some ended sessions that have expired. While the clock is
// behind Expiry, it deletes none, because that would end good sessions.
func forgetEnded(tx *latchkey.Tx, now time.Time) error {
	f, err := getForgotten(tx)
	if err != nil || now.Unix() <= f.Expiry {
		return err
	}
	last, err := prune(tx, keyEnded, endedBefore(now.Unix()))
	if err != nil || last == nil {
		return err
	}
	f.Count++
	f.Expiry = max(f.Expiry, int64(binary.BigEndian.Uint64(last[len(keyEnded):])))
	return putJSON(tx, keyForgotten, f)
}

// hasEnded reports whether a session was ended before it expired. It also reports true if the
// record of the end may have been deleted.
func (s *session) hasEnded(tx *latchkey.Tx) (bool, error) {
	f, err := getForgotten(tx)
	if err != nil || s.Forgotten < f.Count && s.expires <= f.Expiry {
		return true, err
	}
	record, err := data(tx).Get(s.endedKey())
	return record != nil, err
}

// endedKey returns the key of the record that a session was ended. The records sort by expiry.
func (s *session) endedKey() []byte {
	id, _ := hex.DecodeString(s.id)
	return append(endedBefore(s.expires), id...)
}

func endedBefore(expiry int64) []byte {
	return binary.BigEndian.AppendUint64(append([]byte(nil), keyEnded...), uint64(expiry))
}

// A refreshReply has one string.
type refreshReply struct {
	AccessToken string `json:"access_token"`
}

func (c *call) refresh() (reply, error) {
	s, p, err := c.authenticate(refreshToken)
	if err != nil {
		return reply{}, err
	}
	access, err := c.newAccessToken(p, s, c.h.now())
	return reply{http.StatusCreated, refreshReply{access}}, err
}

func (c *call) logOut() (reply, error) {
	s, _, err := c.authenticate(refreshToken)
	if errors.Is(err, errInvalidSession) { // the session of a disabled user
		err = because(errSessionEnded, reasonOf(err))
	}
	if err != nil {
		return reply{}, err
	}
	if err := c.countWrite("logouts"); err != nil {
		return reply{}, err
	}
	err = c.app.store.Update(c.ctx(), func(tx *latchkey.Tx) error {
		if err := forgetEnded(tx, c.h.now()); err != nil {
			return err
		}
		return data(tx).Put(s.endedKey(), nil)
	})
	return noContent, err
}
