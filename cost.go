package latchkey

import (
	"fmt"

	"github.com/latchkeydb/latchkey/internal/phc"
)

// A Cost says how much work one argon2id hash takes (RFC 9106). The zero Cost stands for
// [DefaultCost]. [Open] returns [ErrInvalidOptions] for any other Cost that is out of range.
type Cost struct {
	Memory uint32 // in KiB, from 8 × Lanes to 1,048,576
	Passes uint32 // over the memory, from 1 to 64
	Lanes  uint8  // that can run in parallel, from 1 to 16
}

// These are the named costs. No cost makes it possible to guess a token's secret, which has 256
// random bits, so at any of them a stolen file gives no token away. A slow hash is for programs
// whose rules demand one. docs/decisions has the argument and the figures.
var (
	// DefaultCost is one of the settings for argon2id that the OWASP Password Storage Cheat Sheet
	// lists as equally good. Of these settings it takes the least memory, so a device with 64 MB
	// can compute two hashes at once.
	DefaultCost = Cost{Memory: 7 << 10, Passes: 5, Lanes: 1}
	// LightCost is for small devices and tests: 64 KiB and one pass. NIST SP 800-63B demands no
	// slow hash if a secret has 112 random bits or more.
	LightCost = Cost{Memory: 64, Passes: 1, Lanes: 1}
)

func (c Cost) valid() bool { return phc.Cost(c).Valid() }

func (c Cost) bytes() int64 { return int64(c.Memory) << 10 }

// newVerifier hashes a new secret with a new salt.
func newVerifier(secret []byte, cost Cost) phc.Verifier { return phc.New(secret, phc.Cost(cost)) }

// parseVerifier parses a PHC string.
//
// It returns ErrCorrupt.
func parseVerifier(s string) (phc.Verifier, error) {
	v, err := phc.Parse(s)
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return v, err
}
