package latchkey

import (
	"fmt"
	"io"
	"time"

	"github.com/latchkeydb/latchkey/internal/boltengine"
	"github.com/latchkeydb/latchkey/internal/cache"
	"github.com/latchkeydb/latchkey/internal/random"
	"github.com/latchkeydb/latchkey/internal/record"
	"github.com/latchkeydb/latchkey/internal/tokenform"
)

// Options changes how a store is opened. A nil *Options, and one whose fields are all zero, is the
// safe choice. The calls that take Options copy them.
type Options struct {
	// ReadOnly opens an existing store for reading. Several processes can do so at once, but not
	// while another process has the store open for writing. Calls that would change something
	// return [ErrReadOnly].
	ReadOnly bool

	// MustExist makes [Open] return an error that is [fs.ErrNotExist] if there is no store at the
	// path, in place of making a new one. It is for a program whose disk may not be mounted yet.
	MustExist bool

	// FileCheckEvery is how often a store that [Open] has opened looks at its file. A look takes
	// some microseconds. If the file is gone, [Store.Health] says so. If another file or other
	// bytes are in its place, logins return [ErrFileChanged]. But a store with ReadOnly goes on
	// with the new file, if that file is of the same domain and not older. The default is one
	// second. With a negative duration the store does not look, but each commit still compares the
	// file.
	FileCheckEvery time.Duration

	// LockTimeout is how long [Open] waits for another process to close the file, before it returns
	// [ErrLocked]. The default is one second. If the duration is negative, or less than 50 ms but
	// not zero, Open does not wait.
	LockTimeout time.Duration

	// TokenPrefix begins every token of a new store, before the underscore. It has 1 to 16 ASCII
	// letters and digits. The default is "lk". A store keeps the prefix that it was made with, and
	// opening it with another one returns [ErrInvalidOptions].
	TokenPrefix string

	// Domain puts a new store into an existing domain. The store takes keys that were minted for
	// the domain, and its tokens have the domain's prefix. See [Store.DomainSecrets]. Without
	// Domain, a new store begins a domain of its own. A store keeps the domain that it was made in,
	// and opening it with another one returns [ErrInvalidOptions].
	Domain DomainSecrets

	// MaxKeysPerUser is how many keys a user can have. The default is 20, as in the hosted service.
	// A negative number means no limit. Server keys are not limited. Expired keys do not count.
	// After [Store.ResetClock], a key that had expired can be good again and counts again, so a
	// user can then have more keys than the limit, but gets no further ones.
	MaxKeysPerUser int

	// AppServicesNames restricts the names of new and renamed keys to those that the hosted service
	// accepted: 1 to 256 ASCII letters, digits, '_' and '-'. The hosted service also accepted names
	// in the form of an ID. The test suites of its SDKs use such names, so the store accepts them,
	// too.
	AppServicesNames bool

	// Cost is the cost of new hashes, both for keys and by [Store.HashPassword]. The default is
	// [DefaultCost]. Keys that were hashed at another cost still log in. After such a login, one of
	// the next writes stores a hash at Cost.
	Cost Cost

	// HashMemory bounds the memory for argon2, in bytes. The bound includes the memory that
	// finished hashes have left to the garbage collector. Running hashes share half of HashMemory,
	// except that a single hash may take all of it. When the garbage of finished hashes fills the
	// other half, the store runs the collector before it goes on. A collection is slow in a program
	// with a large heap, so give such a program a large HashMemory. One hash at Cost must fit, or
	// Open returns [ErrInvalidOptions]. The default is 64 MiB.
	HashMemory int64

	// HashQueue bounds how many calls of each kind can wait for argon2 at once, including the calls
	// whose hash is running. There are four kinds: logins that need a hash (see [Store.Login]),
	// checks of passwords, new passwords, and new keys. Further calls of the kind get [ErrBusy].
	// Logins with the same token count once, and so does a call that makes many keys. The kinds
	// take turns, so that a flood of one kind does not keep out the others. The default is 1,024.
	// Open returns [ErrInvalidOptions] for a negative number.
	HashQueue int

	// Foreign knows the tokens of keys that were made elsewhere and are in the store, see
	// [MintForeign] and package keyimport. Without it, these keys stay in the store, and their
	// holders are refused with [ErrInvalidToken].
	//
	// While the store has such keys, a string in the form of one of their tokens costs a hash of
	// SHA-256, and a look at a filter in memory that takes 2 to 4 bytes for each key. A string with
	// the handle of a key may cost a slow hash, at most one a second for each handle. These slow
	// hashes run one after another, beside all other hashes, and may take as much memory as
	// HashMemory again. At most 64 calls wait for these hashes, and further calls get [ErrBusy].
	Foreign Foreign

	// CacheSize is how many tokens the store remembers after their login. Their next logins need
	// neither the disk nor argon2, until the key, its user or its group changes. The default is
	// 10,000 tokens, which take about 5 MiB. The most is 16,777,216. A negative number means no
	// cache. A change of a user or a group searches the whole cache, which takes a tenth of a
	// millisecond at the default.
	CacheSize int

	// SafetyCopyEvery is how often the store makes a copy of its file beside the file, with the
	// suffix ".safety", if anything has changed. The store checks each copy before the copy
	// replaces the last one. Making a copy reads and writes the whole file, so choose hours on
	// flash memory. The default is to make no copies. If a copy fails, the last one stays, and the
	// store tries again the next time. If there is a copy but no file, Open starts no new store:
	// see [ErrFileGone].
	SafetyCopyEvery time.Duration

	// RecoverFromSafetyCopy makes [Open] use the safety copy if the file is gone or damaged. A
	// damaged file is kept with the suffix ".damaged". Changes that were made after the copy are
	// lost: keys that were disabled or deleted since then are as they were before.
	RecoverFromSafetyCopy bool

	// LastUseEvery is the time between two batches in which the store writes when tokens were last
	// used; see [Key].LastUsed. Close writes one more batch. A crash loses the uses since the last
	// batch. A shorter time costs more writes: each batch writes one page of 4,096 bytes for about
	// 75 keys, or for each key if they are few among many. The default is one hour. With a negative
	// duration, or with ReadOnly, the store writes no last uses. It then knows the uses that are on
	// disk, and the uses since it was opened.
	LastUseEvery time.Duration

	// OnChange is a hook for what callers change in users, keys and groups, for each step of the
	// replacement of a tag secret, and for [Store.ResetClock]. The store calls it in the
	// transaction of the change, when the function of [Store.Update] has returned, or at the end of
	// a call that is no Update. It is called once for each record that a call has changed, in the
	// order of the changes: deleting a user changes the user's keys, too. The store does not call
	// it for a call that changes nothing, or for work of its own, such as hashing anew.
	// [Store.Merge] calls it for what it changes, and [Store.Repair] for what it disables and
	// deletes. [Salvage] and [Restore] do not call it.
	//
	// What OnChange writes by tx, for example with [Tx.AppTable], is in the transaction. If it
	// changes users, keys or groups, it is called for these changes, too. If it returns an error,
	// the transaction is undone, and the call returns the error. It may be called again for a
	// transaction that the engine runs again. Like the function of a [Store.Update], it must not
	// call methods of the store. Other writers wait until it returns.
	//
	// An error of OnChange also undoes the disabling or the deletion of a key, which then stays
	// good. Packages audit and outbox have hooks that keep the changes.
	OnChange func(tx *Tx, c Change) error

	// Gate is called at the start of each login, and of each [Store.Inspect]. If it returns an
	// error, the login returns that error and does nothing else. It must return at once, because
	// every login waits for it. Several goroutines may call it at once. It is for programs that
	// must stop all logins for a reason of their own, and for the edges of package replica.
	Gate func() error

	// InsecureRand replaces the source of the secrets of tokens and domains, and of the random
	// parts of IDs, for tests that want the same ones in every run. Never set it in production,
	// because its output is enough to make every token. The store reads it from one goroutine at a
	// time. It must not fail, because the program ends if it does. The default is
	// [crypto/rand.Reader], from which salts come in any case.
	InsecureRand io.Reader

	// Now replaces the clock, for devices that know the time better than their operating system
	// does. It decides creation times, new IDs, expiry dates, the ends of old tokens, last uses and
	// the times of changes, and nothing else. If Now goes back or stands still, the store's time
	// goes on all the same; see [Store.Now]. Each login of a key with an expiry date, or with a
	// token that has an end, calls Now. Several goroutines may call it at once. The default is the
	// system's clock.
	Now func() time.Time

	// TestClock makes the store's time equal to the clock's, also when the clock goes back or
	// stands still. The time that the file remembers and the date of the release do not count, and
	// the file remembers no other time. It is for tests that move Now. Never set it in production,
	// because keys that have expired are then good again while the clock is set back.
	TestClock bool
}

// fileCheckEvery is one second by default, because a revocation should not take longer to get
// through to a reader of a file that is replaced.
func (o *Options) fileCheckEvery() time.Duration {
	if o == nil || o.FileCheckEvery == 0 {
		return time.Second
	}
	return o.FileCheckEvery
}

func (o *Options) mustExist() bool { return o != nil && o.MustExist }

func (o *Options) readOnly() bool { return o != nil && o.ReadOnly }

// lockTimeout is one second by default. It is never 0, because bbolt would then wait for ever.
func (o *Options) lockTimeout() time.Duration {
	switch {
	case o == nil || o.LockTimeout == 0:
		return boltengine.DefaultLockTimeout
	case o.LockTimeout < 0:
		return 1
	}
	return o.LockTimeout
}

// tokenPrefix is "lk" by default: short, because every token carries it.
func (o *Options) tokenPrefix() string {
	if o == nil || o.TokenPrefix == "" {
		return "lk"
	}
	return o.TokenPrefix
}

// domain returns the domain that a new store is to be of, or nil for a domain of its own.
func (o *Options) domain() *record.Meta {
	if o == nil || o.Domain.d == nil {
		return nil
	}
	return o.Domain.d()
}

// maxKeysPerUser is 20 by default, as in the hosted service.
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

// hashMemory is 64 MiB by default. Running hashes share half of that, which is room for four hashes
// of the default cost.
func (o *Options) hashMemory() int64 {
	if o == nil || o.HashMemory == 0 {
		return 64 << 20
	}
	return o.HashMemory
}

// hashQueue is 1,024 by default, which is some twenty seconds of hashing on one core.
func (o *Options) hashQueue() int {
	if o == nil || o.HashQueue == 0 {
		return 1024
	}
	return o.HashQueue
}

// cacheSize is 10,000 tokens by default.
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

// lastUseEvery is one hour by default. It is 0 if last uses are never written.
func (o *Options) lastUseEvery() time.Duration {
	switch {
	case o == nil || o.LastUseEvery == 0 && !o.ReadOnly:
		return time.Hour
	case o.LastUseEvery < 0 || o.ReadOnly:
		return 0
	}
	return o.LastUseEvery
}

func (o *Options) onChange() func(tx *Tx, c Change) error {
	if o == nil {
		return nil
	}
	return o.OnChange
}

func (o *Options) gate() func() error {
	if o == nil {
		return nil
	}
	return o.Gate
}

func (o *Options) random() *random.Source {
	if o == nil {
		return &random.Source{}
	}
	return &random.Source{Reader: o.InsecureRand}
}

// now returns Now, or nil for the system's clock.
func (o *Options) now() func() time.Time {
	if o == nil {
		return nil
	}
	return o.Now
}

func (o *Options) testClock() bool { return o != nil && o.TestClock }

func (o *Options) validate() error {
	d := o.domain()
	switch c := o.cost(); {
	case d != nil && o.TokenPrefix != "" && o.TokenPrefix != d.Prefix:
		return fmt.Errorf("%w: TokenPrefix is %.20q, and the prefix of Domain is %q", ErrInvalidOptions, o.TokenPrefix, d.Prefix)
	case !tokenform.ValidPrefix(o.tokenPrefix()):
		return fmt.Errorf("%w: TokenPrefix %.20q is not 1 to %d ASCII letters and digits", ErrInvalidOptions, o.tokenPrefix(), tokenform.MaxPrefix)
	case !c.valid():
		return fmt.Errorf("%w: Cost %+v is out of range", ErrInvalidOptions, c)
	case c.bytes() > o.hashMemory():
		return fmt.Errorf("%w: one hash at Cost takes %d bytes, and HashMemory has %d", ErrInvalidOptions, c.bytes(), o.hashMemory())
	case o.hashQueue() < 0:
		return fmt.Errorf("%w: HashQueue is negative; 0 is the default", ErrInvalidOptions)
	case o.cacheSize() > cache.MaxSize:
		return fmt.Errorf("%w: CacheSize is greater than %d", ErrInvalidOptions, cache.MaxSize)
	}
	return nil
}
