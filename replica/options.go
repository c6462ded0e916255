package replica

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/latchkeydb/latchkey"
)

// Options changes how an edge works. A nil *Options, and one whose fields are all zero, is the safe
// choice. [Join] and [Open] copy them.
type Options struct {
	// Store has the options of the edge's store. Its OnChange and Gate are called as in any store.
	// The time of the hub takes precedence over Now, once the edge has heard it. ReadOnly is
	// refused, and so is a Domain or a TokenPrefix of another domain than the hub's.
	Store latchkey.Options
	// HubURL is where the hub is now, if not where the edge joined it. [Join] ignores it.
	HubURL string
	// Staleness says what becomes of logins when the hub cannot be reached. The zero value is
	// [BestEffort].
	Staleness Staleness
	// AllowPlainHTTP lets the edge use an "http://" URL whose host is not a loopback address.
	// A listener on the way then gets the edge's token, and an attacker on the way can make tokens
	// good. An invitation with the hash of a key is not used over plain HTTP even so.
	AllowPlainHTTP bool
	// Name is how the hub lists the edge: 1 to 64 bytes of UTF-8. The default is the name of the
	// machine. Only [Join] uses it.
	Name string
	// Progress is called about once a second during a first copy, from one goroutine at a time.
	Progress func(Progress)
	// Logger gets a line when the connection to the hub comes and goes. The default is no log.
	Logger *slog.Logger

	dial func(ctx context.Context, network, addr string) (net.Conn, error) // for tests
	// sessions lets an edge connect again with fewer bytes.
	sessions tls.ClientSessionCache
}

// Progress says how far a first copy has come.
type Progress struct {
	Entries uint64 // of the tables that came
	Bytes   uint64 // that came, without compression
	Table   string // the table that is being copied: users, keys, groups, …
}

// Staleness says what becomes of logins when an edge does not hear of its hub.
type Staleness struct{ bound time.Duration }

// BestEffort lets logins go on by what was last heard, however long ago that is.
func BestEffort() Staleness { return Staleness{} }

// minStrict is the least bound of [Strict]: three beats of the hub.
const minStrict = 90 * time.Second

// Strict makes logins fail with [latchkey.ErrStale] when the edge has heard nothing of the hub for
// longer than d, which is at least 90 seconds. A hub speaks every 30 seconds to an edge that
// follows.
//
// The edge looks at the wall clock and at the monotonic clock once a second, and believes the one
// that says that more time has passed. The time of the hub's last word is in the file. After a
// restart with a clock that is behind the time that the file remembers, logins fail until the edge
// hears of the hub.
func Strict(d time.Duration) Staleness { return Staleness{bound: max(d, 1)} }

// String returns "best effort", or "strict" and the bound.
func (s Staleness) String() string {
	if s.bound == 0 {
		return "best effort"
	}
	return "strict " + s.bound.String()
}

func (s Staleness) validate() error {
	if s.bound != 0 && s.bound < minStrict {
		return fmt.Errorf("%w: the bound of Strict is %s, and the least is %s", latchkey.ErrInvalidOptions, s.bound, minStrict)
	}
	return nil
}
