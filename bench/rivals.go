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

// Rivals compares a store with the usual alternatives. Each alternative gets a token and finds its
// owner. Each has as many keys as the store beside it, and is asked for as many keys in turn.
var Rivals = Group{
	Name:   "rivals",
	Title:  "What does the same check cost with the usual alternatives?",
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

// checker is one rival: a function that checks a token, and tokens that it finds good.
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

// newToken makes a token of 256 random bits, in the shortest form that these rivals allow.
func newToken() string {
	var secret [32]byte
	rand.Read(secret[:])
	return base64.RawURLEncoding.EncodeToString(secret[:])
}

func ownerName(i int) string { return fmt.Sprintf("user-%07d", i/keysPerUser) }

// every returns a function that reports whether to ask for key i: about asked of size keys, evenly
// spread.
func every(size, asked int) func(i int) bool {
	step := max(1, size/asked)
	return func(i int) bool { return i%step == 0 }
}

// openBoltGet looks tokens up in a bucket of bbolt, with a read transaction, a Get, and no hash.
// Its time is the least for keys that are kept on disk and read there each time. It is no way to
// keep keys, because everybody with access to the file has all tokens.
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
			owner = string(tx.Bucket(bucket).Get([]byte(token))) // a copy, as bbolt asks for
			return nil
		})
		return owner, err
	}
	return c, err
}

// openTokenCache uses the cache that Kubernetes puts before its token authenticators. The lifetimes
// are those that its API server gives to webhooks by default. All tokens are in the cache when the
// measurement begins, so the authenticator behind the cache does not count. A cached token stays
// good until its lifetime ends, even after the token has been revoked.
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

// openSQLite keeps the SHA-256 of each token in a table of SQLite, as the primary key. Most
// programs with a database do this, and for random tokens it is as safe as any other way. The
// journal is a write-ahead log, and the statement is prepared once.
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

// hashedTokens is the number of tokens for the rivals that hash at each check. Their time does not
// depend on this number, and hashing as many tokens as the others have would take hours.
const hashedTokens = 8

// openArgon2id compares the token with its argon2id hash at each check, as programs do with
// passwords. The parameters are a store's defaults. The package's own defaults need nine times the
// memory and would be slower. A map finds the hash, which is quicker than any database.
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

// openBcrypt does the same with bcrypt at its default cost, 10, which is the least that OWASP
// recommends.
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
	// keys are found by an ID, which such tokens carry in the clear. Here the ID is the token's
	// first eight digits.
	keys := make(map[string]key)
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
