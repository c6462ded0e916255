package bench

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/alexedwards/argon2id"
	"go.etcd.io/bbolt"
	"golang.org/x/crypto/bcrypt"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/token/cache"
	"k8s.io/apiserver/pkg/authentication/user"
	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/latchkeydb/latchkey"
)

// Rivals is what a program would do in place of a store. Each of them gets a token and finds out whose it is; each has as
// many keys as the store beside it, and is asked for as many of them in turn.
var Rivals = Group{
	Name:   "rivals",
	Title:  "What does the same check cost with what one would use instead?",
	Time:   150 * time.Millisecond,
	Rounds: 11,
	Open: func(e *Env) ([]Case, error) {
		size := e.largest(100_000)
		s, tokens, err := e.openWarm(size)
		if err != nil {
			return nil, err
		}
		const us = "latchkey"
		cases := []Case{{Name: us, Body: logins(s, tokens)}}
		for _, r := range []struct {
			name string
			open func(e *Env, size, asked int) (checker, error)
		}{
			{"bbolt-get", openBoltGet},
			{"k8s-token-cache", openTokenCache},
			{"sqlite-sha256", openSQLite},
			{"argon2id", openArgon2id},
			{"bcrypt", openBcrypt},
		} {
			c, err := r.open(e, size, len(tokens))
			if err != nil {
				return nil, fmt.Errorf("%s: %w", r.name, err)
			}
			cases = append(cases, Case{Name: r.name, Body: c.measure, Ratios: []Ratio{{To: us}}})
		}
		return cases, nil
	},
}

// checker is one rival: what checks a token, and tokens that it finds good.
type checker struct {
	tokens []string
	check  func(ctx context.Context, token string) (owner string, err error)
}

func (c checker) measure(b *testing.B) error {
	ctx := context.Background()
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		if owner, err := c.check(ctx, c.tokens[i]); err != nil || owner == "" {
			return fmt.Errorf("found %q: %w", owner, err)
		}
		if i++; i == len(c.tokens) {
			i = 0
		}
	}
	return nil
}

// newToken makes a token of 256 random bits, as short as these rivals can have it.
func newToken() string {
	var secret [32]byte
	rand.Read(secret[:])
	return base64.RawURLEncoding.EncodeToString(secret[:])
}

func ownerName(i int) string { return fmt.Sprintf("user-%07d", i/keysPerUser) }

// every picks the asked ones out of size keys.
func every(size, asked int) func(i int) bool {
	step := max(1, size/asked)
	return func(i int) bool { return i%step == 0 }
}

// openBoltGet looks tokens up in a bucket of bbolt: a read transaction and a Get, with no hash at all. It is the floor of
// what keeps its keys on disk and reads them there each time, and no way to keep keys: whoever reads the file has them all.
func openBoltGet(e *Env, size, asked int) (c checker, err error) {
	dir, err := e.tempDir()
	if err != nil {
		return c, err
	}
	db, err := bbolt.Open(filepath.Join(dir, "keys.db"), 0o600, nil)
	if err != nil {
		return c, err
	}
	e.onClose(db.Close)
	bucket, picked := []byte("keys"), every(size, asked)
	err = db.Update(func(tx *bbolt.Tx) error {
		keys, err := tx.CreateBucket(bucket)
		if err != nil {
			return err
		}
		for i := range size {
			token := newToken()
			if err := keys.Put([]byte(token), []byte(ownerName(i))); err != nil {
				return err
			}
			if picked(i) {
				c.tokens = append(c.tokens, token)
			}
		}
		return nil
	})
	c.check = func(_ context.Context, token string) (owner string, err error) {
		err = db.View(func(tx *bbolt.Tx) error {
			owner = string(tx.Bucket(bucket).Get([]byte(token))) // copied, as bbolt's documentation asks
			return nil
		})
		return owner, err
	}
	return c, err
}

// openTokenCache is the cache that Kubernetes puts before its token authenticators, with the lifetimes that its API
// server gives to those of webhooks by default. Every token that is asked for is in it when the measurement begins, so
// what it stands before does not count. What it remembers stays good until its time is over, also when the token has been
// revoked.
func openTokenCache(_ *Env, _, asked int) (c checker, err error) {
	owners := make(map[[sha256.Size]byte]string)
	for i := range asked {
		token := newToken()
		owners[sha256.Sum256([]byte(token))] = ownerName(i)
		c.tokens = append(c.tokens, token)
	}
	lookUp := authenticator.TokenFunc(func(_ context.Context, token string) (*authenticator.Response, bool, error) {
		owner, ok := owners[sha256.Sum256([]byte(token))]
		return &authenticator.Response{User: &user.DefaultInfo{Name: owner}}, ok, nil
	})
	cached := cache.New(lookUp, false, 2*time.Minute, 2*time.Minute)
	c.check = func(ctx context.Context, token string) (string, error) {
		r, ok, err := cached.AuthenticateToken(ctx, token)
		if err != nil || !ok {
			return "", err
		}
		return r.User.GetName(), nil
	}
	for _, token := range c.tokens {
		if _, err := c.check(context.Background(), token); err != nil {
			return c, err
		}
	}
	return c, nil
}

// openSQLite keeps the SHA-256 of tokens in a table of SQLite, whose primary key they are: what most programs with a
// database do, and as safe as anything when tokens are random. The journal is a write-ahead log, and the statement is
// prepared once.
func openSQLite(e *Env, size, asked int) (c checker, err error) {
	dir, err := e.tempDir()
	if err != nil {
		return c, err
	}
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "keys.sqlite")+"?_pragma=journal_mode(WAL)&_pragma=synchronous(NORMAL)&_pragma=busy_timeout(5000)")
	if err != nil {
		return c, err
	}
	e.onClose(db.Close)
	if _, err := db.Exec(`CREATE TABLE keys (hash BLOB PRIMARY KEY, owner TEXT NOT NULL, disabled INTEGER NOT NULL) STRICT, WITHOUT ROWID`); err != nil {
		return c, err
	}
	if c.tokens, err = fillSQLite(db, size, asked); err != nil {
		return c, err
	}
	find, err := db.Prepare(`SELECT owner FROM keys WHERE hash = ? AND disabled = 0`)
	if err != nil {
		return c, err
	}
	e.onClose(find.Close)
	c.check = func(ctx context.Context, token string) (owner string, err error) {
		hash := sha256.Sum256([]byte(token))
		err = find.QueryRowContext(ctx, hash[:]).Scan(&owner)
		return owner, err
	}
	return c, nil
}

func fillSQLite(db *sql.DB, size, asked int) (tokens []string, err error) {
	tx, err := db.Begin()
	if err != nil {
		return nil, err
	}
	defer tx.Rollback()
	insert, err := tx.Prepare(`INSERT INTO keys VALUES (?, ?, 0)`)
	if err != nil {
		return nil, err
	}
	picked := every(size, asked)
	for i := range size {
		token := newToken()
		hash := sha256.Sum256([]byte(token))
		if _, err := insert.Exec(hash[:], ownerName(i)); err != nil {
			return nil, err
		}
		if picked(i) {
			tokens = append(tokens, token)
		}
	}
	return tokens, tx.Commit()
}

var errMismatch = errors.New("the token does not match its hash")

// hashedTokens is how many tokens the rivals have that hash at each check. It makes no difference to them, and hashing
// them all beforehand would take hours.
const hashedTokens = 8

// openArgon2id compares the token with its argon2id hash at each check, as one does with passwords. The parameters are
// those of a store by default; the package's own ask for nine times the memory, which would be slower. The hash is found
// in a map, which is quicker than any database.
func openArgon2id(*Env, int, int) (checker, error) {
	cost := latchkey.DefaultCost
	params := &argon2id.Params{Memory: cost.Memory, Iterations: cost.Passes, Parallelism: cost.Lanes, SaltLength: 16, KeyLength: 32}
	return openHashing(
		func(token string) (string, error) { return argon2id.CreateHash(token, params) },
		func(token, hash string) error {
			ok, err := argon2id.ComparePasswordAndHash(token, hash)
			if err == nil && !ok {
				err = errMismatch
			}
			return err
		},
	)
}

// openBcrypt is the same with bcrypt at its default cost, 10, the least that OWASP recommends.
func openBcrypt(*Env, int, int) (checker, error) {
	return openHashing(
		func(token string) (string, error) {
			hash, err := bcrypt.GenerateFromPassword([]byte(token), bcrypt.DefaultCost)
			return string(hash), err
		},
		func(token, hash string) error { return bcrypt.CompareHashAndPassword([]byte(hash), []byte(token)) },
	)
}

func openHashing(hash func(token string) (string, error), compare func(token, hash string) error) (c checker, err error) {
	type key struct{ owner, hash string }
	keys := make(map[string]key) // by the ID, which such tokens carry in the clear; here their first eight digits
	for i := range hashedTokens {
		token := newToken()
		h, err := hash(token)
		if err != nil {
			return c, err
		}
		keys[token[:8]] = key{ownerName(i), h}
		c.tokens = append(c.tokens, token)
	}
	c.check = func(_ context.Context, token string) (string, error) {
		k, ok := keys[token[:8]]
		if !ok {
			return "", errMismatch
		}
		return k.owner, compare(token, k.hash)
	}
	return c, nil
}
