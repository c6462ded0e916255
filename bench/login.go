package bench

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/argon2"

	"github.com/latchkeydb/latchkey"
)

// Cached compares a cached login with one hash. For two goroutines, it compares the throughput with
// that of one.
var Cached = Group{
	Name:  "cached",
	Title: "What does a login cost if the key has logged in before?",
	Open: func(e *Env) ([]Case, error) {
		s, tokens, err := e.openWarm(e.Sizes[0])
		if err != nil {
			return nil, err
		}
		cases := []Case{
			{Name: "sha256", Body: oneHash},
			{Name: "sha256/goroutines=2", Body: twoHashers, Ratios: []Ratio{{To: "sha256", Throughput: true}}},
		}
		for _, distinct := range []int{1, len(tokens)} {
			one := fmt.Sprintf("login/distinct=%d", distinct)
			cases = append(cases,
				Case{
					Name: one, Body: logins(s, tokens[:distinct]),
					Ratios: []Ratio{{To: "sha256", Max: 2.5}}, NoAllocs: true,
				},
				Case{
					Name: one + "/goroutines=2", Body: twoLogins(s, tokens[:distinct]),
					Ratios: []Ratio{{To: one, Throughput: true, Min: 1.8}}, NoAllocs: true,
				},
			)
		}
		return cases, nil
	},
}

// sink keeps the compiler from removing work whose result is not used.
var sink [sha256.Size]byte

// oneHash hashes 51 bytes, which fill one block of SHA-256. A service that stores bare hashes of
// tokens does the same for a token of 256 random bits, such as "key_live_" and 42 base-62 digits.
func oneHash(b *testing.B) error {
	var token [51]byte
	rand.Read(token[:])
	b.ReportAllocs()
	for b.Loop() {
		sink = sha256.Sum256(token[:])
	}
	return nil
}

func twoHashers(b *testing.B) error {
	b.ReportAllocs()
	return together(b, 2, func(i, n int) error {
		var token [51]byte
		var sum [sha256.Size]byte
		rand.Read(token[:])
		for range n {
			sum = sha256.Sum256(token[:])
		}
		runtime.KeepAlive(sum)
		return nil
	})
}

// logins logs in with the tokens in turn.
func logins(s *latchkey.Store, tokens []string) func(b *testing.B) error {
	return func(b *testing.B) error {
		ctx := context.Background()
		i := 0
		b.ReportAllocs()
		for b.Loop() {
			if _, err := s.Login(ctx, tokens[i]); err != nil {
				return err
			}
			if i++; i == len(tokens) {
				i = 0
			}
		}
		return nil
	}
}

// twoLogins makes two goroutines log in with the tokens in turn. They begin half the tokens apart.
func twoLogins(s *latchkey.Store, tokens []string) func(b *testing.B) error {
	return func(b *testing.B) error {
		ctx := context.Background()
		b.ReportAllocs()
		return together(b, 2, func(g, n int) error {
			i := g * len(tokens) / 2
			for range n {
				if _, err := s.Login(ctx, tokens[i]); err != nil {
					return err
				}
				if i++; i == len(tokens) {
					i = 0
				}
			}
			return nil
		})
	}
}

// Cold compares the first login of a key with the one hash that it needs. The time of a hash
// changes by some percent from second to second. So the target is for logins that each have a bare
// hash before them.
var Cold = Group{
	Name:   "cold",
	Title:  "What does the first login of a key cost after the store was opened, at the default cost?",
	Time:   150 * time.Millisecond,
	Rounds: 11,
	Open: func(e *Env) ([]Case, error) {
		cases := []Case{{Name: "argon2", Body: bareArgon2}}
		for _, size := range e.Sizes {
			st, err := e.stock(size)
			if err != nil {
				return nil, err
			}
			c := &coldLogins{stock: st}
			e.onClose(c.close)
			keys := "/keys=" + sizeName(size)
			cases = append(cases,
				Case{Name: "login" + keys, Body: c.fromMemory, Ratios: []Ratio{{To: "argon2"}}},
				Case{Name: "login/beside=argon2" + keys, Body: c.besideArgon2, Unit: "bare-hashes", Max: 1.05},
			)
			if canEvict {
				cases = append(cases, Case{Name: "login/from=disk" + keys, Body: c.fromDisk, Ratios: []Ratio{{To: "argon2"}}})
			}
		}
		return cases, nil
	},
}

func bareArgon2(b *testing.B) error {
	hash := newHash()
	b.ReportAllocs()
	for b.Loop() {
		hash()
	}
	return nil
}

// newHash returns a function that computes a hash of the default cost.
func newHash() func() {
	secret, salt := make([]byte, 32), make([]byte, 16)
	rand.Read(secret)
	rand.Read(salt)
	c := latchkey.DefaultCost
	return func() { copy(sink[:], argon2.IDKey(secret, salt, c.Passes, c.Memory, c.Lanes, 32)) }
}

// coldLogins logs in once with each token. When all tokens are used up, it opens the store anew.
type coldLogins struct {
	stock *stock
	store *latchkey.Store
	next  int
}

// fromMemory measures while the file is in the operating system's memory. It reads the file first,
// because the system may have dropped it since the last round.
func (c *coldLogins) fromMemory(b *testing.B) error {
	f, err := os.Open(c.stock.Path)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, f)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return c.measure(b)
}

// fromDisk measures with a file that the operating system has dropped from memory, as after a
// reboot.
func (c *coldLogins) fromDisk(b *testing.B) error {
	if err := c.close(); err != nil {
		return err
	}
	if err := evict(c.stock.Path); err != nil {
		return err
	}
	if err := c.reopen(); err != nil {
		return err
	}
	return c.measure(b)
}

func (c *coldLogins) measure(b *testing.B) error {
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		if c.store == nil || c.next == len(c.stock.Cold) {
			b.StopTimer()
			if err := c.reopen(); err != nil {
				return err
			}
			b.StartTimer()
		}
		if _, err := c.store.Login(ctx, c.stock.Cold[c.next]); err != nil {
			return err
		}
		c.next++
	}
	return nil
}

// besideArgon2 reports how many bare hashes a login takes, from pairs of a hash and a login.
func (c *coldLogins) besideArgon2(b *testing.B) error {
	hash := newHash()
	var logins, hashes time.Duration
	for range max(b.N, 20) { // fewer pairs say little
		if c.store == nil || c.next == len(c.stock.Cold) {
			if err := c.reopen(); err != nil {
				return err
			}
		}
		start := time.Now()
		hash()
		hashed := time.Now()
		if _, err := c.store.Login(context.Background(), c.stock.Cold[c.next]); err != nil {
			return err
		}
		logins, hashes = logins+time.Since(hashed), hashes+hashed.Sub(start)
		c.next++
	}
	b.ReportMetric(float64(logins)/float64(hashes), "bare-hashes")
	return nil
}

func (c *coldLogins) reopen() error {
	if err := c.close(); err != nil {
		return err
	}
	c.next = 0
	var err error
	c.store, err = latchkey.Open(c.stock.Path, nil)
	return err
}

func (c *coldLogins) close() error {
	if c.store == nil {
		return nil
	}
	s := c.store
	c.store = nil
	return s.Close()
}

// Forged measures the work that an outsider can cause. Both kinds of tokens must cost the same.
var Forged = Group{
	Name:  "forged",
	Title: "What does it cost to refuse a token that the domain did not make?",
	Open: func(e *Env) ([]Case, error) {
		st, err := e.stock(e.Sizes[0])
		if err != nil {
			return nil, err
		}
		engine, err := latchkey.OpenBoltEngine(st.Path, nil)
		if err != nil {
			return nil, err
		}
		counting := &countingEngine{Engine: engine}
		s, err := latchkey.OpenWith(counting, &latchkey.Options{Cost: quickCost})
		if err != nil {
			return nil, errors.Join(err, engine.Close())
		}
		e.onClose(s.Close)
		strangers, err := e.otherDomain(len(st.Warm))
		if err != nil {
			return nil, err
		}
		existing := make([]string, len(st.Warm))
		for i, stranger := range strangers {
			existing[i] = withKeyID(stranger, st.Warm[i])
		}
		replacing, err := e.openNew() // its tag secret
		if err != nil {
			return nil, err
		}
		if _, err := replacing.AddTagSecret(context.Background()); err != nil {
			return nil, err
		}
		refuse := func(tokens []string) func(*testing.B) error { return refusals(s, &counting.views, tokens) }
		return []Case{
			{Name: "sha256", Body: oneHash},
			{
				Name: "login/id=existing", Body: refuse(existing),
				Ratios: []Ratio{{To: "sha256", Max: 4}}, NoAllocs: true,
			},
			{
				Name: "login/id=unknown", Body: refuse(strangers),
				Ratios: []Ratio{{To: "sha256", Max: 4}, {To: "login/id=existing", Min: 1 / 1.05, Max: 1.05}}, NoAllocs: true,
			},
			{
				Name: "login/secrets=2", Body: refusals(replacing, new(atomic.Int64), strangers),
				Ratios: []Ratio{{To: "sha256", Max: 4}}, NoAllocs: true,
			},
		}, nil
	},
}

// countingEngine counts read transactions.
type countingEngine struct {
	latchkey.Engine
	views atomic.Int64
}

func (e *countingEngine) View(ctx context.Context, fn func(latchkey.EngineTx) error) error {
	e.views.Add(1)
	return e.Engine.View(ctx, fn)
}

// otherDomain returns tokens of a store in another domain.
func (e *Env) otherDomain(n int) ([]string, error) {
	other, err := e.openNew()
	if err != nil {
		return nil, err
	}
	_, tokens, err := other.MintKeys(context.Background(), n, nil)
	return tokens, err
}

// withKeyID returns token with the key ID of another token.
func withKeyID(token, other string) string {
	at := strings.IndexByte(token, '_') + 1
	const digits = 22
	return token[:at] + other[at:at+digits] + token[at+digits:]
}

// refusals logs in with tokens that the store must refuse without a hash and without a read.
func refusals(s *latchkey.Store, views *atomic.Int64, tokens []string) func(b *testing.B) error {
	return func(b *testing.B) error {
		ctx := context.Background()
		before, err := s.Stats(ctx)
		if err != nil {
			return err
		}
		reads := views.Load()
		for _, token := range tokens {
			if err := login(s, token); !errors.Is(err, latchkey.ErrInvalidToken) {
				return fmt.Errorf("got %v, want ErrInvalidToken", err)
			}
		}
		i := 0
		b.ReportAllocs()
		for b.Loop() {
			if _, err := s.Login(ctx, tokens[i]); err == nil {
				return errors.New("a token that the store did not make is good")
			}
			if i++; i == len(tokens) {
				i = 0
			}
		}
		reads = views.Load() - reads
		after, err := s.Stats(ctx)
		if err == nil && (reads != 0 || after.Hashes != before.Hashes) {
			err = fmt.Errorf("refusing took %d reads and %d hashes", reads, after.Hashes-before.Hashes)
		}
		return err
	}
}

// Malformed measures strings that are no tokens, from those that are quickest to recognise to those
// that are slowest.
var Malformed = Group{
	Name:  "malformed",
	Title: "What does it cost to refuse a string that is no token?",
	Open: func(e *Env) ([]Case, error) {
		s, err := e.openNew()
		if err != nil {
			return nil, err
		}
		_, good, err := s.MintKey(context.Background())
		if err != nil {
			return nil, err
		}
		var cases []Case
		for _, c := range []struct{ name, token string }{
			{"empty", ""},
			{"short", good[:len(good)-1]},
			{"prefix", "x" + good[1:]},
			{"first-digit", good[:3] + "-" + good[4:]},
			{"last-digit", good[:len(good)-1] + "-"},
		} {
			cases = append(cases, Case{
				Name: "login/wrong=" + c.name, Body: refusals(s, new(atomic.Int64), []string{c.token}),
				Max: 50, NoAllocs: true,
			})
		}
		return cases, nil
	},
}
