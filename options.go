package latchkey

import (
	"fmt"
	"io"
	"time"
)

// Options changes how a store is opened. A nil *Options, or one with only zero fields, is the safe choice. Open copies it.
type Options struct {
	// ReadOnly opens a store that is there already for reading: several processes can do so at once, but not while
	// one has it open for writing. Calls that would change something return [ErrReadOnly].
	ReadOnly bool

	// LockTimeout is how long [Open] waits for another process to close the file, before it returns [ErrLocked]. The
	// default is one second; below 50 ms, or negative, it does not wait.
	LockTimeout time.Duration

	// TokenPrefix begins every token of a new store, before the underscore: 1 to 16 ASCII letters and digits. The
	// default is "lk". A store keeps the prefix that it was made with; opening it with another is [ErrInvalidOptions].
	TokenPrefix string

	// MaxKeysPerUser is how many keys a user can have. The default is 20, as in the hosted service; negative is no limit.
	// Server keys are not limited.
	MaxKeysPerUser int

	// AppServicesNames holds the names of new and renamed keys to the hosted service's alphabet: ASCII letters, digits, '_'
	// and '-'.
	AppServicesNames bool

	// Cost is what one hash of a new key's secret costs. The default is [DefaultCost]. A key that was hashed at another
	// cost logs in all the same, and is hashed anew with one of the next writes.
	Cost Cost

	// HashMemory bounds the memory, in bytes, that argon2 takes, including what finished hashes have left for the garbage
	// collector. Hashes that run share half of it, though a single one may take it all. When the other half is full of what
	// they have left, the store runs the collector before it goes on. That is slow in a program with a large heap, which
	// therefore wants a large HashMemory. One hash of Cost must fit. The default is 64 MiB.
	HashMemory int64

	// HashQueue bounds how many logins can wait for argon2 at once, those that are being hashed included; more get
	// [ErrBusy]. Logins of one token count once. Passwords get ErrBusy when as many hashes wait. The default is 1,024.
	HashQueue int

	// CacheSize is how many verified keys are remembered, so that their logins need neither disk nor argon2. The default
	// is 10,000, which takes about 2.5 MiB when full; the most is 16,777,216; negative is none.
	// To disable or delete a user looks through all of them: a tenth of a millisecond at the default.
	CacheSize int

	// SafetyCopyEvery is how often [Open] has a copy of the file made beside it, with the suffix ".safety", if anything has
	// changed. Each copy is checked before it replaces the last. It costs a reading and a writing of the whole file, so on
	// flash memory choose hours. The default is never. A copy that fails is tried again the next time; the last one stays.
	// Where there is a copy and no file, Open starts no new store: see [ErrFileGone].
	SafetyCopyEvery time.Duration

	// RecoverFromSafetyCopy has [Open] put the safety copy in the place of a file that is gone, or damaged, which it keeps with the
	// suffix ".damaged". The copy is as old as it is: keys that were disabled or deleted since are as they were before.
	RecoverFromSafetyCopy bool

	// InsecureRand is where the secrets of tokens and domains and the random parts of IDs come from, for tests that want the same
	// ones in every run. Whoever knows what it gives can make every token, so never set it in earnest. It is read by one
	// goroutine at a time, and must not fail: the program ends then. The default is [crypto/rand.Reader]; salts always
	// come from there.
	InsecureRand io.Reader

	// Now is the clock, for tests and for devices that know the time better than their operating system. Only creation
	// times, new IDs and expiry dates depend on it. Several goroutines call it at once. The default is [time.Now].
	Now func() time.Time
}

func (o *Options) readOnly() bool { return o != nil && o.ReadOnly }

// lockTimeout never is 0, which would be to wait for ever.
func (o *Options) lockTimeout() time.Duration {
	switch {
	case o == nil || o.LockTimeout == 0:
		return time.Second
	case o.LockTimeout < 0:
		return 1
	}
	return o.LockTimeout
}

// tokenPrefix is "lk" by default: short, since every token carries it.
func (o *Options) tokenPrefix() string {
	if o == nil || o.TokenPrefix == "" {
		return "lk"
	}
	return o.TokenPrefix
}

// maxKeysPerUser is the hosted service's 20 by default.
func (o *Options) maxKeysPerUser() int {
	if o == nil || o.MaxKeysPerUser == 0 {
		return 20
	}
	return o.MaxKeysPerUser
}

func (o *Options) appServicesNames() bool { return o != nil && o.AppServicesNames }

func (o *Options) cost() Cost {
	if o == nil || o.Cost == (Cost{}) {
		return DefaultCost
	}
	return o.Cost
}

// hashMemory is 64 MiB by default: nine hashes of the default cost.
func (o *Options) hashMemory() int64 {
	if o == nil || o.HashMemory == 0 {
		return 64 << 20
	}
	return o.HashMemory
}

// hashQueue is 1,024 by default: some twenty seconds of hashing on one core.
func (o *Options) hashQueue() int {
	if o == nil || o.HashQueue == 0 {
		return 1024
	}
	return o.HashQueue
}

// cacheSize is 10,000 keys by default.
func (o *Options) cacheSize() int {
	switch {
	case o == nil || o.CacheSize == 0:
		return 10_000
	case o.CacheSize < 0:
		return 0
	}
	return o.CacheSize
}

func (o *Options) safetyCopyEvery() time.Duration {
	if o == nil || o.ReadOnly {
		return 0
	}
	return o.SafetyCopyEvery
}

func (o *Options) recoverFromSafetyCopy() bool {
	return o != nil && o.RecoverFromSafetyCopy && !o.ReadOnly
}

func (o *Options) random() *randomSource {
	if o == nil {
		return &randomSource{}
	}
	return &randomSource{r: o.InsecureRand}
}

func (o *Options) now() func() time.Time {
	if o == nil || o.Now == nil {
		return time.Now
	}
	return o.Now
}

func (o *Options) validate() error {
	switch c := o.cost(); {
	case !validPrefix(o.tokenPrefix()):
		return fmt.Errorf("%w: TokenPrefix %q is not 1 to %d ASCII letters and digits", ErrInvalidOptions, o.tokenPrefix(), maxPrefix)
	case !c.valid():
		return fmt.Errorf("%w: Cost %+v is out of bounds", ErrInvalidOptions, c)
	case c.bytes() > o.hashMemory():
		return fmt.Errorf("%w: one hash takes %d bytes, and HashMemory is %d", ErrInvalidOptions, c.bytes(), o.hashMemory())
	case o.hashQueue() < 0:
		return fmt.Errorf("%w: HashQueue is negative", ErrInvalidOptions)
	case o.cacheSize() > maxCacheSize:
		return fmt.Errorf("%w: CacheSize is over %d", ErrInvalidOptions, maxCacheSize)
	}
	return nil
}
