package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/latchkeydb/latchkey"
)

// stock is a store that is kept for later runs, and tokens of keys from all parts of it.
type stock struct {
	Path string   `json:"-"`
	Warm []string `json:"warm"` // of keys with a cheap hash, for logins that the cache decides
	Cold []string `json:"cold"` // of keys with a hash at the default cost, for cold logins
}

const (
	keysPerUser = 20     // as many as the default options allow
	stockChunk  = 50_000 // keys in one transaction: few enough for memory, and commits stay cheap
	warmTokens  = 500
	coldTokens  = 32
)

// quickCost is the lowest cost that a store accepts. It makes large stores quick to fill.
var quickCost = latchkey.Cost{Memory: 8, Passes: 1, Lanes: 1}

// stock returns the store with size keys. It builds the store if there is none that can be used.
func (e *Env) stock(size int) (*stock, error) {
	path := filepath.Join(e.Dir, fmt.Sprintf("keys=%d.db", size))
	tokens := path + ".tokens.json"
	st, err := loadStock(path, tokens, size)
	// If another run has the store open, it needs the store whole.
	if err == nil || errors.Is(err, latchkey.ErrLocked) {
		return st, err
	}
	start := time.Now()
	e.Logf("building a store of %d keys in %s (%v)", size, e.Dir, err)
	if err := os.MkdirAll(e.Dir, 0o700); err != nil {
		return nil, err
	}
	if err := remove(tokens); err != nil {
		return nil, err
	}
	if err := remove(path); err != nil {
		return nil, err
	}
	st = &stock{Path: path}
	if err := st.build(e, size); err != nil {
		return nil, fmt.Errorf("build a store of %d keys: %w", size, err)
	}
	// The tokens are written last, so a store without tokens is known to be unfinished.
	data, err := json.Marshal(st)
	if err == nil {
		err = os.WriteFile(tokens, data, 0o600)
	}
	e.Logf("built it in %v", time.Since(start).Round(time.Second))
	return st, err
}

func remove(path string) error {
	if err := os.Remove(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// loadStock loads a store that an earlier run has built, and logs in with one token of each kind.
func loadStock(path, tokens string, size int) (*stock, error) {
	st := &stock{Path: path}
	data, err := os.ReadFile(tokens)
	if err == nil {
		err = json.Unmarshal(data, st)
	}
	if err != nil {
		return nil, err
	}
	s, err := latchkey.Open(path, &latchkey.Options{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	stats, err := s.Stats(context.Background())
	if err != nil {
		return nil, err
	}
	if stats.Keys != uint64(size) {
		return nil, fmt.Errorf("it has %d keys", stats.Keys)
	}
	for _, token := range []string{st.Warm[0], st.Cold[0]} {
		if err := login(s, token); err != nil {
			return nil, err
		}
	}
	return st, nil
}

func login(s *latchkey.Store, token string) error {
	_, err := s.Login(context.Background(), token)
	return err
}

// build fills a new store through the public API, one transaction after another.
func (st *stock) build(e *Env, size int) error {
	chunks := (size + stockChunk - 1) / stockChunk
	for c := range chunks {
		first := c * stockChunk
		n := min(stockChunk, size-first)
		if err := st.addKeys(first, n, (coldTokens+chunks-1)/chunks, (warmTokens+chunks-1)/chunks); err != nil {
			return err
		}
		if c%10 == 9 {
			e.Logf("%d keys", first+n)
		}
	}
	return nil
}

// addKeys makes n keys, 20 for each user, whose names count from first. It keeps the tokens of some
// keys.
func (st *stock) addKeys(first, n, cold, warm int) error {
	ctx := context.Background()
	slow, coldTokens, err := st.mintCold(cold)
	if err != nil {
		return err
	}
	s, err := latchkey.Open(st.Path, &latchkey.Options{Cost: quickCost})
	if err != nil {
		return err
	}
	defer s.Close()
	minted, tokens, err := s.MintKeys(ctx, n-cold, nil)
	if err != nil {
		return err
	}
	for i := range warm {
		st.Warm = append(st.Warm, tokens[i*len(tokens)/warm])
	}
	st.Cold = append(st.Cold, coldTokens...)
	for i := range cold {
		minted = slices.Insert(minted, i*n/cold, slow[i])
	}
	return s.Update(ctx, func(tx *latchkey.Tx) error {
		var user latchkey.User
		for i, m := range minted {
			if i%keysPerUser == 0 {
				if user, err = tx.CreateUser(newUser(first + i)); err != nil {
					return err
				}
			}
			if _, err := tx.InsertKey(user.ID, latchkey.KeySpec{Name: fmt.Sprintf("device-%08d", first+i)}, m); err != nil {
				return err
			}
		}
		return nil
	})
}

// mintCold mints keys at the default cost. It opens the store for this purpose alone, because an
// open store hashes at one cost.
func (st *stock) mintCold(n int) ([]latchkey.MintedKey, []string, error) {
	s, err := latchkey.Open(st.Path, nil)
	if err != nil {
		return nil, nil, err
	}
	minted, tokens, err := s.MintKeys(context.Background(), n, nil)
	return minted, tokens, errors.Join(err, s.Close())
}

func newUser(i int) latchkey.UserSpec {
	return latchkey.UserSpec{Identity: latchkey.Identity{
		Provider: latchkey.ProviderLocalUserpass,
		Subject:  fmt.Sprintf("user-%07d@example.com", i),
	}}
}

// openStock opens the store with size keys until the Env is closed.
func (e *Env) openStock(size int, opts *latchkey.Options) (*latchkey.Store, *stock, error) {
	st, err := e.stock(size)
	if err != nil {
		return nil, nil, err
	}
	s, err := latchkey.Open(st.Path, opts)
	if err != nil {
		return nil, nil, err
	}
	e.onClose(s.Close)
	return s, st, nil
}

// openWarm opens the store with size keys, and logs in with the tokens that the cache is to decide
// from then on.
func (e *Env) openWarm(size int) (*latchkey.Store, []string, error) {
	// Open the store at the cost of these keys. At another cost, the keys would be hashed anew
	// during the measurement.
	s, st, err := e.openStock(size, &latchkey.Options{Cost: quickCost})
	if err != nil {
		return nil, nil, err
	}
	for _, token := range st.Warm {
		if err := login(s, token); err != nil {
			return nil, nil, err
		}
	}
	return s, st.Warm, nil
}

// openNew opens a new store until the Env is closed. The store hashes at the light cost, so that
// the hash does not hide the time of the store.
func (e *Env) openNew() (*latchkey.Store, error) {
	return e.openNewWith(&latchkey.Options{Cost: latchkey.LightCost})
}

// openNewWith is openNew with options.
func (e *Env) openNewWith(opts *latchkey.Options) (*latchkey.Store, error) {
	dir, err := e.tempDir()
	if err != nil {
		return nil, err
	}
	s, err := latchkey.Open(filepath.Join(dir, "keys.db"), opts)
	if err == nil {
		e.onClose(s.Close)
	}
	return s, err
}

// sizeName writes 5,000,000 as "5M".
func sizeName(n int) string {
	switch {
	case n >= 1_000_000 && n%1_000_000 == 0:
		return fmt.Sprintf("%dM", n/1_000_000)
	case n >= 1_000 && n%1_000 == 0:
		return fmt.Sprintf("%dk", n/1_000)
	}
	return fmt.Sprint(n)
}
