package appservices

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
)

// A principal is who a session is of: a user, or the user of type server that a server key is.
type principal struct {
	user   latchkey.User
	server *latchkey.Key

	forgotten forgotten // as it was when a login found this
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

// A session is what a login opened. It is kept nowhere: its tokens carry it.
type session struct {
	sessionClaim
	id       string
	device   string
	expires  int64 // Unix seconds
	identity identityClaim
}

// sessionClaim is the part of a session that the service's own claims have no place for.
type sessionClaim struct {
	App        string    `json:"app"`           // the app ID that the client used
	Disablings uint64    `json:"disablings"`    // the user's: disabling ends a session for good
	Forgotten  uint64    `json:"forgotten"`     // the count of [forgotten] when it was opened
	User       uuid.UUID `json:"user,omitzero"` // unless it is a server key's
	Key        uuid.UUID `json:"key,omitzero"`  // the server key
}

// identityClaim is the identity that opened a session.
type identityClaim struct {
	ID         string            `json:"id"`
	Provider   latchkey.Provider `json:"provider_type"`
	ProviderID string            `json:"provider_id"`
}

// claims are what a token says: to clients in the service's words, most of them twice, and to the handler under names of
// its own. The fields that only the other type of token has are left out.
type claims struct {
	jwt.RegisteredClaims // sub, exp and iat; in an access token also iss, the session's ID

	Type           string       `json:"typ"`
	DeviceID       string       `json:"baas_device_id"`
	StitchDeviceID string       `json:"stitch_devId"`
	DomainID       string       `json:"baas_domain_id"`
	StitchDomainID string       `json:"stitch_domainId"`
	Session        sessionClaim `json:"latchkey"`

	// In a refresh token.
	SessionID      string          `json:"baas_id,omitempty"`
	StitchID       string          `json:"stitch_id,omitempty"`
	Data           json.RawMessage `json:"baas_data,omitempty"` // null
	StitchData     json.RawMessage `json:"stitch_data,omitempty"`
	Identity       identityClaim   `json:"baas_identity,omitzero"`
	StitchIdentity identityClaim   `json:"stitch_ident,omitzero"`

	// In an access token. What it says of its session is enough for a refresh token, which is made anew when an identity
	// is linked. The handler does not read UserData.
	SessionExpires  int64           `json:"latchkey_exp,omitempty"`
	SessionIdentity identityClaim   `json:"latchkey_identity,omitzero"`
	UserData        json.RawMessage `json:"user_data,omitempty"`
}

func (cl *claims) session() *session {
	if cl.Type == refreshToken {
		return &session{cl.Session, cl.SessionID, cl.DeviceID, cl.ExpiresAt.Unix(), cl.Identity}
	}
	return &session{cl.Session, cl.Issuer, cl.DeviceID, cl.SessionExpires, cl.SessionIdentity}
}

// openSession makes the session of a login.
func (c *call) openSession(p *principal, identity identityClaim, device string, now time.Time) *session {
	s := &session{
		sessionClaim: sessionClaim{App: c.appID, User: p.user.ID, Disablings: p.user.Disablings, Forgotten: p.forgotten.Count},
		id:           c.h.newObjectID(),
		device:       device,
		expires:      now.Add(c.h.opts.refreshLife(identity.Provider)).Unix(),
		identity:     identity,
	}
	if p.server != nil {
		s.Key = p.server.ID
	}
	return s
}

// newRefreshToken returns the token that a session lives by.
func (c *call) newRefreshToken(p *principal, s *session, now time.Time) (string, error) {
	cl := c.newClaims(refreshToken, p, s, now, time.Unix(s.expires, 0))
	cl.SessionID, cl.StitchID = s.id, s.id
	cl.Data, cl.StitchData = null, null
	cl.Identity, cl.StitchIdentity = s.identity, s.identity
	return c.app.sign(cl)
}

var null = json.RawMessage("null")

// newAccessToken returns a token for calls.
func (c *call) newAccessToken(p *principal, s *session, now time.Time) (string, error) {
	cl := c.newClaims(accessToken, p, s, now, now.Add(c.h.opts.accessLife()))
	cl.Issuer = s.id
	cl.SessionExpires, cl.SessionIdentity = s.expires, s.identity
	if c.h.opts.UserData != nil && p.server == nil {
		userData, err := c.h.opts.UserData(c.ctx(), p.user)
		if err == nil && len(userData) > 0 { // clients expect none where there is none
			cl.UserData, err = json.Marshal(userData)
		}
		if err != nil {
			return "", err
		}
	}
	return c.app.sign(cl)
}

// newClaims returns what both types of token say.
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
	return jwt.NewWithClaims(jwt.SigningMethodHS256, cl).SignedString(a.key)
}

// parser leaves the dates to the handler, whose answers to them depend on the type of token. It is strict, or some tokens
// could be written in more than one way.
var parser = jwt.NewParser(
	jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}), jwt.WithoutClaimsValidation(), jwt.WithStrictDecoding())

// bearer returns what comes behind the word Bearer in the Authorization header, and whether there is such a header.
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

// tokenAppID returns the app ID that a request's token carries, if it carries one. Nothing is checked.
func tokenAppID(r *http.Request) string {
	token, _ := bearer(r)
	var cl claims
	if _, _, err := parser.ParseUnverified(token, &cl); err != nil {
		return ""
	}
	return cl.Session.App
}

// authenticate checks the bearer token, which must be of a type, and returns its session and who that is of. It sets the
// call's app if the path has none. It comes before everything else that could be wrong with a request.
func (c *call) authenticate(typ string) (*session, *principal, error) {
	token, present := bearer(c.r)
	if !present {
		return nil, nil, errNoBearer
	}
	var a *app
	var cl claims
	var failure error // to open the app, which says nothing about the token
	_, err := parser.ParseWithClaims(token, &cl, func(*jwt.Token) (any, error) {
		var err error
		if a, err = c.h.app(c.ctx(), cl.Session.App); err != nil {
			if e, _ := refusalOf(err); e.status != http.StatusNotFound {
				failure = err
			}
			return nil, err
		}
		return a.key, nil
	})
	if failure != nil {
		return nil, nil, failure
	}
	if err != nil {
		return nil, nil, badToken(typ, err)
	}
	if c.app != nil && c.app != a {
		return nil, nil, errAnotherAppsToken
	}
	c.app, c.appID = a, cl.Session.App
	if err := c.checkDates(typ, &cl); err != nil {
		return nil, nil, err
	}
	s := cl.session()
	p, err := c.holder(typ, s)
	return s, p, err
}

// badToken is the answer to what is no token of the app. To an access token it is the one that has realm-web refresh.
func badToken(typ string, err error) error {
	switch {
	case typ == accessToken:
		return errAccessToken
	case errors.Is(err, jwt.ErrTokenSignatureInvalid), errors.Is(err, jwt.ErrTokenUnverifiable):
		return errSignature
	}
	return errNoJWT
}

func (c *call) checkDates(typ string, cl *claims) error {
	expired := cl.ExpiresAt == nil || c.h.now().Unix() >= cl.ExpiresAt.Unix()
	switch {
	case cl.Type != typ && typ == refreshToken:
		return errNotRefreshToken
	case cl.Type != typ:
		return errInvalidSession
	case expired && typ == refreshToken:
		return errRefreshExpired
	case expired:
		return errAccessExpired
	}
	return nil
}

// holder returns whose a session is, unless it has ended. An access token outlives its session's log out, as the hosted
// service's did, but not its user.
func (c *call) holder(typ string, s *session) (p *principal, err error) {
	gone, p := errUserGone, &principal{}
	if typ == refreshToken {
		gone = errSessionEnded
	}
	err = c.app.store.View(c.ctx(), func(tx *latchkey.Tx) error {
		if typ == refreshToken {
			ended, err := s.hasEnded(tx)
			if err != nil {
				return err
			}
			if ended {
				return errSessionEnded
			}
		}
		if s.Key != uuid.Nil {
			key, err := tx.Key(latchkey.ServerOwner, s.Key)
			p.server = &key
			return err
		}
		p.user, err = tx.User(s.User)
		return err
	})
	switch {
	case errors.Is(err, latchkey.ErrUserNotFound), errors.Is(err, latchkey.ErrKeyNotFound):
		return nil, gone
	case err != nil:
		return nil, err
	case p.user.Disabled:
		return nil, errInvalidSession
	case p.user.Disablings != s.Disablings:
		return nil, gone
	}
	return p, nil
}

// forgotten says which ended sessions have no record any more. So that they are not good again when the clock goes back,
// no session is that expires by Expiry and was opened before the last time: by then all of those had expired.
type forgotten struct {
	Count  uint64 `json:"count"`  // of the times that some were forgotten
	Expiry int64  `json:"expiry"` // the latest among them, in Unix seconds
}

func getForgotten(tx *latchkey.Tx) (f forgotten, err error) {
	_, err = getJSON(tx, keyForgotten, &f)
	return f, err
}

// forgetEnded deletes the records of some ended sessions that have expired. While the clock is behind Expiry it deletes
// none, since that would end sessions that are good.
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

// hasEnded reports whether a session was ended before it expired, or could have been and has expired since.
func (s *session) hasEnded(tx *latchkey.Tx) (bool, error) {
	f, err := getForgotten(tx)
	if err != nil || s.Forgotten < f.Count && s.expires <= f.Expiry {
		return true, err
	}
	record, err := data(tx).Get(s.endedKey())
	return record != nil, err
}

// endedKey is where the end of a session is noted, in the order of expiry.
func (s *session) endedKey() []byte {
	id, _ := hex.DecodeString(s.id)
	return append(endedBefore(s.expires), id...)
}

func endedBefore(expiry int64) []byte {
	return binary.BigEndian.AppendUint64(append([]byte(nil), keyEnded...), uint64(expiry))
}

// refreshReply has one string.
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
	if err != nil {
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
