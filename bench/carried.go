package bench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/latchkeydb/latchkey"
)

// Carried compares cached logins of keys that carry something with those of a bare key, in a store
// without a hook that writes no last uses. The caller logs in from the second of two networks, so
// that both are compared with the address. What everything costs together is also compared with one
// hash.
var Carried = Group{
	Name:  "carried",
	Title: "What do scopes, metadata, networks, an expiry date, a hook and last use add to a cached login?",
	Open: func(e *Env) ([]Case, error) {
		s, err := e.openNewWith(&latchkey.Options{Cost: latchkey.LightCost, LastUseEvery: -1})
		if err != nil {
			return nil, err
		}
		full, err := e.openFull(&latchkey.Options{Cost: latchkey.LightCost})
		if err != nil {
			return nil, err
		}
		scopes := latchkey.NewScopes("admin", "files:*", "mail:read", "users:list")
		metadata := map[string]string{"room": "4", "shift": "night"}
		networks := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")}
		cases := []Case{{Name: "sha256", Body: oneHash}}
		for _, c := range []struct {
			name string
			spec latchkey.KeySpec
			most float64
		}{
			{"bare", latchkey.KeySpec{}, 0},
			{"scopes+metadata", latchkey.KeySpec{Scopes: scopes, Metadata: metadata}, 1.15},
			{"networks=2", latchkey.KeySpec{Scopes: scopes, Metadata: metadata, Networks: networks}, 1.25},
			{"expiry", latchkey.KeySpec{Scopes: scopes, Metadata: metadata, Expires: time.Now().Add(24 * time.Hour)}, 1.4},
		} {
			c.spec.Name = c.name
			_, token, err := s.CreateServerKey(context.Background(), c.spec)
			if err != nil {
				return nil, err
			}
			made := Case{Name: c.name, Body: loginsFrom(s, token, netip.MustParseAddr("2001:db8::7")), NoAllocs: true}
			if c.most > 0 {
				made.Ratios = []Ratio{{To: "bare", Max: c.most}}
			}
			cases = append(cases, made)
		}
		_, token, err := full.CreateServerKey(context.Background(), latchkey.KeySpec{Name: "full", Scopes: scopes, Metadata: metadata})
		if err != nil {
			return nil, err
		}
		var stale atomic.Bool // as an edge knows whether it has heard of its hub
		gated, err := e.openNewWith(&latchkey.Options{Cost: latchkey.LightCost, Gate: func() error {
			if stale.Load() {
				return latchkey.ErrStale
			}
			return nil
		}})
		if err != nil {
			return nil, err
		}
		_, gatedToken, err := gated.CreateServerKey(context.Background(), latchkey.KeySpec{Name: "bare"})
		if err != nil {
			return nil, err
		}
		return append(cases,
			Case{
				Name: "gate", NoAllocs: true, Ratios: []Ratio{{To: "bare", Max: 1.1}},
				Body: loginsFrom(gated, gatedToken, netip.MustParseAddr("2001:db8::7")),
			},
			Case{
				Name: "scopes+metadata+hook+lastuse", NoAllocs: true, Ratios: []Ratio{{To: "bare", Max: 1.15}, {To: "sha256", Max: 2.3}},
				Body: full.logins(token),
			},
			Case{Name: "Scopes.Has", NoAllocs: true, Max: 20, Body: func(b *testing.B) error {
				b.ReportAllocs()
				for b.Loop() {
					if !scopes.Has("users:list") || !scopes.Has("files:read") || scopes.Has("mail:write") {
						return errors.New("a scope is judged wrongly")
					}
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/3, "ns/Has")
				return nil
			}, Unit: "ns/Has"},
		), nil
	},
}

// fullStore is a store with a hook, which writes its last uses as often as it can.
type fullStore struct {
	*latchkey.Store
	changes atomic.Int64 // that the hook was told
}

// openFull opens a new store with options and a hook. A second of its clock lasts ten minutes, so
// that logins note another minute each second.
func (e *Env) openFull(opts *latchkey.Options) (f *fullStore, err error) {
	f = &fullStore{}
	start := time.Now()
	opts.LastUseEvery = time.Second
	opts.Now = func() time.Time { return start.Add(600 * time.Since(start)) }
	opts.OnChange = func(*latchkey.Tx, latchkey.Change) error { f.changes.Add(1); return nil }
	f.Store, err = e.openNewWith(opts)
	return f, err
}

// logins changes a key, and logs in with its token. It returns an error unless the hook was told,
// and the last use was noted.
func (f *fullStore) logins(token string) func(b *testing.B) error {
	return func(b *testing.B) error {
		ctx, told := context.Background(), f.changes.Load()
		who, err := f.Login(ctx, token)
		if err != nil {
			return err
		}
		if err := f.SetMetadata(ctx, who.Owner, who.KeyID, map[string]string{"room": "4", "shift": "night", "round": fmt.Sprint(told)}); err != nil {
			return err
		}
		if _, err := f.Login(ctx, token); err != nil {
			return err
		}
		if err := loginsFrom(f.Store, token, netip.MustParseAddr("2001:db8::7"))(b); err != nil {
			return err
		}
		key, err := f.KeyByID(ctx, who.KeyID)
		if err == nil && (key.LastUsed.IsZero() || f.changes.Load() == told) {
			err = errors.New("no last use was noted, or the hook was not called")
		}
		return err
	}
}

// loginsFrom logs in from an address.
func loginsFrom(s *latchkey.Store, token string, addr netip.Addr) func(b *testing.B) error {
	return func(b *testing.B) error {
		ctx := context.Background()
		b.ReportAllocs()
		for b.Loop() {
			if _, err := s.LoginFrom(ctx, token, addr); err != nil {
				return err
			}
		}
		return nil
	}
}
