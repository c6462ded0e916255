package appservices

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"hash"
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
	App        string    `json:"app"`        // the app ID that the client used
	Disablings uint64    `json:"disablings"` // the user's: disabling ends a session for good
	Forgotten  uint64    `json:"forgotten"`  // the count of [forgotten] when it was opened
	User       uuid.UUID `json:"user"`       // unless it is a server key's
	Key        uuid.UUID `json:"key"`        // the server key
}

// identityClaim is the identity that opened a session.
type identityClaim struct {
	ID         string            `json:"id"`
	Provider   latchkey.Provider `json:"provider_type"`
	ProviderID string            `json:"provider_id"`
}

// claims are what a token says, as far as the handler looks at it: [call.writeClaims] writes more, for the clients.
type claims struct {
	jwt.MapClaims `json:"-"` // makes it a jwt.Claims; it stays empty

	Expires  int64         `json:"exp"`
	Type     string        `json:"typ"`
	Device   string        `json:"baas_device_id"`
	ID       string        `json:"baas_id"`       // of a refresh token's session
	Issuer   string        `json:"iss"`           // of an access token's
	Identity identityClaim `json:"baas_identity"` // in a refresh token
	Session  sessionClaim  `json:"latchkey"`
	// What an access token tells of its session, whose refresh token is made anew when an identity is linked.
	SessionExpires  int64         `json:"latchkey_exp"`
	SessionIdentity identityClaim `json:"latchkey_identity"`
}

func (cl *claims) session() *session {
	if cl.Type == refreshToken {
		return &session{cl.Session, cl.ID, cl.Device, cl.Expires, cl.Identity}
	}
	return &session{cl.Session, cl.Issuer, cl.Device, cl.SessionExpires, cl.SessionIdentity}
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

// writeRefreshToken writes the token that a session lives by.
func (c *call) writeRefreshToken(o *jsonObject, p *principal, s *session, now time.Time) {
	c.app.sign(o, "refresh_token", func(o *jsonObject) {
		c.writeClaims(o, p, s, refreshToken, now, s.expires)
		for _, name := range []string{"baas_", "stitch_"} {
			o.text(name+"id", s.id)
			o.raw(name+"data", "null")
		}
		o.object("baas_identity", s.identity.write)
		o.object("stitch_ident", s.identity.write)
	})
}

// writeAccessToken writes a token for calls.
func (c *call) writeAccessToken(o *jsonObject, p *principal, s *session, now time.Time) error {
	var userData []byte
	if c.h.opts.UserData != nil && p.server == nil {
		data, err := c.h.opts.UserData(c.ctx(), p.user)
		if err == nil && len(data) > 0 { // clients expect none where there is none
			userData, err = json.Marshal(data)
		}
		if err != nil {
			return err
		}
	}
	c.app.sign(o, "access_token", func(o *jsonObject) {
		c.writeClaims(o, p, s, accessToken, now, now.Add(c.h.opts.accessLife()).Unix())
		o.text("iss", s.id)
		o.number("latchkey_exp", s.expires)
		o.object("latchkey_identity", s.identity.write)
		if userData != nil {
			o.raw("user_data", string(userData))
		}
	})
	return nil
}

// writeClaims writes what both types of token say: for clients in the service's words, for the handler under a name of
// its own.
func (c *call) writeClaims(o *jsonObject, p *principal, s *session, typ string, now time.Time, expires int64) {
	o.text("sub", p.objectID())
	o.number("exp", expires)
	o.number("iat", now.Unix())
	o.text("typ", typ)
	o.text("baas_device_id", s.device)
	o.text("stitch_devId", s.device)
	o.text("baas_domain_id", c.app.wireID)
	o.text("stitch_domainId", c.app.wireID)
	o.object("latchkey", s.sessionClaim.write)
}

func (s *sessionClaim) write(o *jsonObject) {
	o.text("app", s.App)
	o.number("disablings", int64(s.Disablings))
	o.number("forgotten", int64(s.Forgotten))
	if s.Key != uuid.Nil {
		o.text("key", s.Key.String())
	} else {
		o.text("user", s.User.String())
	}
}

func (i *identityClaim) write(o *jsonObject) {
	o.text("id", i.ID)
	o.text("provider_type", string(i.Provider))
	o.text("provider_id", i.ProviderID)
}

// signedHeader is {"alg":"HS256","typ":"JWT"}.
const signedHeader = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9."

// A signer is what signing needs each time.
type signer struct {
	mac    hash.Hash // HMAC-SHA-256 under the app's key
	claims jsonObject
}

// sign writes a JWT of the claims that write writes. Signing with the library takes more than twice as long, which is
// felt where a login does little else.
func (a *app) sign(o *jsonObject, name string, write func(claims *jsonObject)) {
	s := a.signers.Get().(*signer)
	defer a.signers.Put(s)
	s.claims = newJSONObject(s.claims.b[:0])
	write(&s.claims)
	claims := s.claims.end()

	o.name(name)
	o.b = append(o.b, '"')
	start := len(o.b)
	o.b = base64.RawURLEncoding.AppendEncode(append(o.b, signedHeader...), claims)
	s.mac.Reset()
	s.mac.Write(o.b[start:])
	o.b = base64.RawURLEncoding.AppendEncode(append(o.b, '.'), s.mac.Sum(claims[:0]))
	o.b = append(o.b, '"')
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
	expired := c.h.now().Unix() >= cl.Expires
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

func (c *call) refresh() (reply, error) {
	s, p, err := c.authenticate(refreshToken)
	if err != nil {
		return reply{}, err
	}
	o := newJSONObject(nil)
	err = c.writeAccessToken(&o, p, s, c.h.now())
	return reply{http.StatusCreated, o}, err
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
