package admin

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"slices"
	"sync"
	"time"
)

const (
	// linkLife is how long a sign-in URL is good. It is read from a terminal and opened at once.
	linkLife = 5 * time.Minute
	maxLinks = 16
	// sessionLife is a working day. A page that nobody uses is signed out after sessionIdle.
	sessionLife = 12 * time.Hour
	sessionIdle = 30 * time.Minute
	maxSessions = 32
)

// proofHeader has the second secret of a session. Browsers send cookies to every port of a host, so
// the cookie alone can come into the hands of another server on the machine. The page keeps the
// second secret where only pages of its own origin can read it.
const proofHeader = "Latchkey-Proof"

// backgroundHeader marks requests that the page makes by itself, such as reading a change. They do
// not keep a session from being idle.
const backgroundHeader = "Latchkey-Background"

// sessions are the signed-in browsers of a page, and the URLs with which more can sign in. They end
// with the process.
type sessions struct {
	secure bool
	name   string // of the cookie

	mu    sync.Mutex
	links []link              // in the order of their making
	all   map[digest]*session // by the SHA-256 of the cookie
}

type digest = [sha256.Size]byte

// A link is a sign-in URL that was not used.
type link struct {
	secret digest
	ends   time.Time
}

// A session is one signed-in browser.
type session struct {
	key   digest
	proof digest
	actor string
	ends  time.Time // whatever happens
	idle  time.Time // when it ends unless it is used
	timer *time.Timer
	over  context.Context
	stop  context.CancelFunc
}

type sessionKey struct{}

// newSessions returns no sessions. port is a part of the cookie's name, because servers on several
// ports of one host share their cookies.
func newSessions(secure bool, port string) *sessions {
	s := &sessions{secure: secure, name: "latchkey", all: map[digest]*session{}}
	if port != "" {
		s.name += "-" + port
	}
	if secure {
		s.name = "__Host-" + s.name
	}
	return s
}

// newSecret returns a secret of 256 bits, and what is kept of it.
func newSecret() (text string, kept digest) {
	var b [32]byte
	rand.Read(b[:])
	text = base64.RawURLEncoding.EncodeToString(b[:])
	return text, sha256.Sum256([]byte(text))
}

// now returns the time of the wall clock, which goes on while a laptop sleeps. Tests change it.
var now = func() time.Time { return time.Now().Round(0) }

// newLink returns the secret of a sign-in URL.
func (s *sessions) newLink() string {
	text, kept := newSecret()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.links) == maxLinks {
		s.links = slices.Delete(s.links, 0, 1)
	}
	s.links = append(s.links, link{kept, now().Add(linkLife)})
	return text
}

// begin uses up the secret of a sign-in URL, and begins a session. It returns the secrets of the
// session, and reports whether the secret was good.
func (s *sessions) begin(secret string) (begun *session, cookie, proof string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	given, at := sha256.Sum256([]byte(secret)), now()
	s.links = slices.DeleteFunc(s.links, func(l link) bool { return !at.Before(l.ends) })
	i := slices.IndexFunc(s.links, func(l link) bool { return subtle.ConstantTimeCompare(l.secret[:], given[:]) == 1 })
	if i < 0 {
		return nil, "", "", false
	}
	s.links = slices.Delete(s.links, i, i+1)
	if len(s.all) >= maxSessions {
		s.endLocked(s.leastUsedLocked())
	}
	begun = &session{ends: at.Add(sessionLife), idle: at.Add(sessionIdle)}
	cookie, begun.key = newSecret()
	proof, begun.proof = newSecret()
	var id [4]byte
	rand.Read(id[:])
	begun.actor = "page " + hex.EncodeToString(id[:])
	begun.over, begun.stop = context.WithCancel(context.Background())
	begun.timer = time.AfterFunc(sessionIdle, func() { s.endIfOver(begun) })
	s.all[begun.key] = begun
	return begun, cookie, proof, true
}

func (s *sessions) leastUsedLocked() *session {
	var least *session
	for _, one := range s.all {
		if least == nil || cmp.Compare(one.idle.UnixNano(), least.idle.UnixNano()) < 0 {
			least = one
		}
	}
	return least
}

// find returns the session of a request, or nil.
func (s *sessions) find(r *http.Request) *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.findLocked(r)
}

func (s *sessions) findLocked(r *http.Request) *session {
	cookies := r.CookiesNamed(s.name)
	if len(cookies) != 1 { // another server has set one for a path or a domain
		return nil
	}
	found := s.all[sha256.Sum256([]byte(cookies[0].Value))]
	if found == nil {
		return nil
	}
	proof := sha256.Sum256([]byte(r.Header.Get(proofHeader)))
	if subtle.ConstantTimeCompare(found.proof[:], proof[:]) != 1 {
		return nil
	}
	if at := now(); !at.Before(found.ends) || !at.Before(found.idle) {
		s.endLocked(found)
		return nil
	}
	return found
}

// use returns the session of a request, or nil, and notes that the session was used.
func (s *sessions) use(r *http.Request) *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := s.findLocked(r)
	if found == nil || r.Header.Get(backgroundHeader) != "" {
		return found
	}
	at := now()
	if found.idle = at.Add(sessionIdle); found.idle.After(found.ends) {
		found.idle = found.ends
	}
	found.timer.Reset(found.idle.Sub(at))
	return found
}

// end ends a session, if there is one.
func (s *sessions) end(one *session) {
	if one == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endLocked(one)
}

func (s *sessions) endLocked(one *session) {
	delete(s.all, one.key)
	one.timer.Stop()
	one.stop()
}

// endIfOver ends a session if its time is over by the wall clock. Otherwise it looks again when the
// time will be over: the session was used just now, or somebody has set the clock back.
func (s *sessions) endIfOver(one *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if left := one.idle.Sub(now()); left > 0 && s.all[one.key] == one {
		one.timer.Reset(left)
		return
	}
	s.endLocked(one)
}

// again returns an error if a session has ended. By the wall clock it can have ended while the
// machine slept, when no timer runs.
func (s *sessions) again(one *session) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all[one.key] == one && now().Before(one.idle) {
		return nil
	}
	s.endLocked(one)
	return problemOf(errSignedOut)
}

// endAll ends all sessions and all sign-in URLs.
func (s *sessions) endAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.links = nil
	for _, one := range s.all {
		s.endLocked(one)
	}
}

// cookie returns the cookie of a session.
func (s *sessions) cookie(value string, maxAge int) *http.Cookie {
	return &http.Cookie{
		Name: s.name, Value: value, Path: "/", MaxAge: maxAge, Secure: s.secure, HttpOnly: true, SameSite: http.SameSiteStrictMode,
	}
}

// context returns a context for a request of the session, which ends with the session.
func (one *session) context(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.WithValue(parent, sessionKey{}, one))
	stop := context.AfterFunc(one.over, cancel)
	return ctx, func() { stop(); cancel() }
}
