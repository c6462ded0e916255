package latchkey

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"
)

// A Provider is what vouched for an identity. The names are those of the hosted service.
type Provider string

// The providers. Another is [ErrInvalidIdentity]; a program with a way of its own to know people uses ProviderCustomToken or
// ProviderCustomFunction.
const (
	ProviderAnonymous      Provider = "anon-user" // nobody vouched: an anonymous user
	ProviderLocalUserpass  Provider = "local-userpass"
	ProviderCustomToken    Provider = "custom-token"
	ProviderCustomFunction Provider = "custom-function"
	ProviderGoogle         Provider = "oauth2-google"
	ProviderFacebook       Provider = "oauth2-facebook"
	ProviderApple          Provider = "oauth2-apple"
	ProviderAPIKey         Provider = "api-key"
)

var providers = []Provider{
	ProviderAnonymous, ProviderLocalUserpass, ProviderCustomToken, ProviderCustomFunction, ProviderGoogle, ProviderFacebook, ProviderApple, ProviderAPIKey,
}

// An Identity says who a user is to a provider. It belongs to one user at most. Subjects are compared byte by byte: the
// store folds no case and normalises nothing, so a program that takes Ada@ and ada@example.com for one makes them so
// itself.
type Identity struct {
	Provider Provider `json:"provider"`
	Subject  string   `json:"subject"` // 1 to 256 bytes of UTF-8 without control characters, such as an e-mail address
}

// A User is an account: an ID, and the identities by which its person is known.
type User struct {
	ID         uuid.UUID  `json:"id"`
	Identities []Identity `json:"identities"` // in the order of linking; never empty
	Created    time.Time  `json:"created"`    // by the store's clock, to the millisecond, in UTC
	Disabled   bool       `json:"disabled"`   // a disabled user's keys do not log in
	// Disablings only grows, and grows with each disabling of the user. A program that gives users sessions keeps it in them:
	// if the user's number is another one by now, a disabling has ended the session.
	Disablings uint64 `json:"-"`
}

// UserSpec says what user to make.
type UserSpec struct {
	// Identity is the user's first. An anonymous one may leave its subject empty: it is the user's ID then.
	Identity Identity
}

// maxIdentities keeps a user's record well within MaxEngineValue.
const maxIdentities = 64

// CreateUser makes a user with one identity. The user's ID is derived from the identity, so that replicas that meet the
// same person while apart make the same user; an anonymous user's is random. A user who is made again after a deletion
// gets another ID.
//
// It returns [ErrIdentityTaken], [ErrInvalidIdentity], or an error of [Store.Update].
func (s *Store) CreateUser(ctx context.Context, n UserSpec) (User, error) {
	user, err := write(ctx, s, func(tx *Tx) (User, error) { return tx.CreateUser(n) })
	return user, wrapf(err, "create user")
}

// CreateUser is [Store.CreateUser] in a transaction.
func (tx *Tx) CreateUser(n UserSpec) (user User, err error) {
	defer tx.wholeSince(tx.writes, &err)
	i := n.Identity
	id, err := tx.newUserID(&i)
	if err != nil {
		return User{}, err
	}
	if err := tx.claim(i, id); err != nil {
		return User{}, err
	}
	u := &userRecord{id: id, created: tx.store.now()}
	now, err := tx.nextChange(userKind, id, &u.sequence)
	if err != nil {
		return User{}, err
	}
	u.made, u.identities = now, []identityRecord{{Identity: i, linked: now}}
	tx.state.users++
	if err := tx.putUser(u); err != nil {
		return User{}, err
	}
	return u.toUser(), nil
}

// newUserID checks a first identity, completes an anonymous one, and finds the ID of its user.
func (tx *Tx) newUserID(i *Identity) (uuid.UUID, error) {
	if i.Provider == ProviderAnonymous {
		id, err := tx.store.newID()
		if err != nil {
			return uuid.UUID{}, err
		}
		if i.Subject == "" {
			i.Subject = id.String()
		}
		if err := i.validate(); err != nil {
			return uuid.UUID{}, err
		}
		// With Options.InsecureRand it can be an ID that there was before.
		u, err := tx.getUser(id)
		if err != nil {
			return uuid.UUID{}, err
		}
		if u != nil {
			return uuid.UUID{}, identityTaken(*i, id)
		}
		return id, nil
	}
	if err := i.validate(); err != nil {
		return uuid.UUID{}, err
	}
	deletions, err := tx.countDeletions(*i)
	return tx.store.domain.userID(*i, deletions), err
}

// countDeletions returns how many users were deleted who began with an identity, or ErrIdentityTaken if there is one. A user
// after n deletions was made where all before had tombstones, and nothing removes these: so it doubles and halves, and need
// not read them all. Salvage may have lost some. Then it can return the number of one that is lost, and only claim knows
// whether there is a user.
func (tx *Tx) countDeletions(i Identity) (uint64, error) {
	deleted := func(deletions uint64) (bool, error) {
		id := tx.store.domain.userID(i, deletions)
		u, err := tx.getUser(id)
		if err == nil && u != nil && !u.deleted {
			err = identityTaken(i, id)
		}
		return u != nil, err
	}
	low, high := uint64(0), uint64(0) // what is before low is deleted, and in the end high is not
	for {
		yes, err := deleted(high)
		if err != nil {
			return 0, err
		}
		if !yes {
			break
		}
		low, high = high+1, 2*high+1
	}
	for low < high {
		middle := low + (high-low)/2
		yes, err := deleted(middle)
		if err != nil {
			return 0, err
		}
		if yes {
			low = middle + 1
		} else {
			high = middle
		}
	}
	return low, nil
}

// claim enters an identity into the index as userID's.
func (tx *Tx) claim(i Identity, userID uuid.UUID) error {
	owner, err := tx.etx.Get(tableIdentities, i.indexKey())
	if err != nil {
		return err
	}
	if owner != nil {
		id, _ := uuid.FromBytes(owner)
		return identityTaken(i, id)
	}
	return tx.put(tableIdentities, i.indexKey(), userID[:])
}

func identityTaken(i Identity, userID uuid.UUID) error {
	return fmt.Errorf("%w: (%s, %q) is user %s", ErrIdentityTaken, i.Provider, i.Subject, userID)
}

// User returns the user with an ID. It returns [ErrUserNotFound], or an error of [Store.View].
func (s *Store) User(ctx context.Context, id uuid.UUID) (User, error) {
	user, err := read(ctx, s, func(tx *Tx) (User, error) { return tx.User(id) })
	return user, wrapf(err, "user %s", id)
}

// User is [Store.User] in a transaction.
func (tx *Tx) User(id uuid.UUID) (User, error) {
	u, err := tx.liveUser(id)
	if err != nil {
		return User{}, err
	}
	return u.toUser(), nil
}

// liveUser returns the record of a user who is not deleted, or ErrUserNotFound.
func (tx *Tx) liveUser(id uuid.UUID) (*userRecord, error) {
	u, err := tx.getUser(id)
	if err != nil {
		return nil, err
	}
	if u == nil || u.deleted {
		return nil, ErrUserNotFound
	}
	return u, nil
}

// UserByIdentity returns the user to whom an identity belongs. It returns [ErrUserNotFound], [ErrInvalidIdentity], or an
// error of [Store.View].
func (s *Store) UserByIdentity(ctx context.Context, i Identity) (User, error) {
	user, err := read(ctx, s, func(tx *Tx) (User, error) { return tx.UserByIdentity(i) })
	return user, wrapf(err, "user with identity (%.80q, %.80q)", i.Provider, i.Subject)
}

// UserByIdentity is [Store.UserByIdentity] in a transaction.
func (tx *Tx) UserByIdentity(i Identity) (User, error) {
	if err := i.validate(); err != nil {
		return User{}, err
	}
	value, err := tx.etx.Get(tableIdentities, i.indexKey())
	if err != nil {
		return User{}, err
	}
	if value == nil {
		return User{}, ErrUserNotFound
	}
	id, err := decodeUUID(value)
	if err != nil {
		return User{}, err
	}
	user, err := tx.User(id)
	if errors.Is(err, ErrUserNotFound) || err == nil && !slices.Contains(user.Identities, i) {
		// Somebody else's account must not be the answer to a damaged index.
		return User{}, errMissing("identity of user", id)
	}
	return user, err
}

// usersPageSize is how many users one read transaction of [Store.Users] takes: few, since the file cannot grow meanwhile.
const usersPageSize = 256

// Users yields all users in the order of their IDs, beginning after an ID; [uuid.Nil] is the beginning. The last ID that
// was yielded is where to go on. No transaction is open while the loop's body runs, so the body may call the store; a
// user who is made or deleted meanwhile may or may not be met. An error, one of [Store.View]'s, is yielded once, as the
// last element.
func (s *Store) Users(ctx context.Context, after uuid.UUID) iter.Seq2[User, error] {
	return func(yield func(User, error) bool) {
		after := after // a second loop begins where the first did
		for {
			page, err := s.usersPage(ctx, after)
			for _, user := range page {
				after = user.ID
				if !yield(user, nil) {
					return
				}
			}
			if err != nil {
				yield(User{}, wrapf(err, "users after %s", after))
				return
			}
			if len(page) < usersPageSize {
				return
			}
		}
	}
}

// usersPage returns up to usersPageSize users in the order of their IDs, beginning after an ID. Beside
// an error it returns the users before the place of the error.
func (s *Store) usersPage(ctx context.Context, after uuid.UUID) (page []User, err error) {
	page = make([]User, 0, usersPageSize)
	err = s.View(ctx, func(tx *Tx) error {
		for user, err := range tx.Users(after) {
			if err != nil {
				return err
			}
			page = append(page, user)
			if len(page) == usersPageSize {
				break
			}
		}
		return nil
	})
	return page, err
}

// Users is [Store.Users] in a transaction. What the transaction changes on the way is seen where it lies ahead.
func (tx *Tx) Users(after uuid.UUID) iter.Seq2[User, error] {
	return func(yield func(User, error) bool) {
		for e, err := range tx.etx.Scan(tableUsers, append(after[:], 0), nil) {
			var u userRecord
			if err == nil {
				u, err = decodeUserEntry(e)
			}
			if err != nil {
				yield(User{}, err)
				return
			}
			if !u.deleted && !yield(u.toUser(), nil) {
				return
			}
		}
	}
}

// LinkIdentity gives a user a further identity. One that is this user's already changes nothing. An anonymous identity
// cannot be linked; an anonymous user to whom another identity is linked is anonymous no more.
//
// It returns [ErrUserNotFound], [ErrIdentityTaken] if the identity is another user's, [ErrInvalidIdentity],
// [ErrTooManyIdentities], or an error of [Store.Update].
func (s *Store) LinkIdentity(ctx context.Context, userID uuid.UUID, i Identity) (User, error) {
	user, err := write(ctx, s, func(tx *Tx) (User, error) { return tx.LinkIdentity(userID, i) })
	return user, wrapf(err, "link identity to user %s", userID)
}

// LinkIdentity is [Store.LinkIdentity] in a transaction.
func (tx *Tx) LinkIdentity(userID uuid.UUID, i Identity) (user User, err error) {
	defer tx.wholeSince(tx.writes, &err)
	u, err := tx.liveUser(userID)
	if err != nil {
		return User{}, err
	}
	if slices.ContainsFunc(u.identities, func(r identityRecord) bool { return r.Identity == i }) {
		return u.toUser(), nil
	}
	if i.Provider == ProviderAnonymous {
		return User{}, fmt.Errorf("%w: an anonymous identity cannot be linked", ErrInvalidIdentity)
	}
	if err := i.validate(); err != nil {
		return User{}, err
	}
	if len(u.identities) >= maxIdentities {
		return User{}, ErrTooManyIdentities
	}
	if err := tx.claim(i, userID); err != nil {
		return User{}, err
	}
	now, err := tx.nextChange(userKind, userID, &u.sequence)
	if err != nil {
		return User{}, err
	}
	u.identities = append(u.identities, identityRecord{Identity: i, linked: now})
	if err := tx.putUser(u); err != nil {
		return User{}, err
	}
	return u.toUser(), nil
}

// EnableUser lets a disabled user's keys log in again. Enabling an enabled user changes nothing. It returns
// [ErrUserNotFound], or an error of [Store.Update].
func (s *Store) EnableUser(ctx context.Context, id uuid.UUID) error {
	err := s.Update(ctx, func(tx *Tx) error { return tx.EnableUser(id) })
	return wrapf(err, "enable user %s", id)
}

// EnableUser is [Store.EnableUser] in a transaction.
func (tx *Tx) EnableUser(id uuid.UUID) error { return tx.setUserDisabled(id, false) }

// DisableUser stops all keys of a user from logging in until the user is enabled. Disabling a disabled user leaves it so.
// When it returns nil, the change is on disk and no login with such a key that begins afterwards succeeds.
//
// It returns [ErrUserNotFound], or an error of [Store.Update].
func (s *Store) DisableUser(ctx context.Context, id uuid.UUID) error {
	err := s.Update(ctx, func(tx *Tx) error { return tx.DisableUser(id) })
	return wrapf(err, "disable user %s", id)
}

// DisableUser is [Store.DisableUser] in a transaction.
func (tx *Tx) DisableUser(id uuid.UUID) error { return tx.setUserDisabled(id, true) }

func (tx *Tx) setUserDisabled(id uuid.UUID, disable bool) (err error) {
	defer tx.wholeSince(tx.writes, &err)
	u, err := tx.liveUser(id)
	if err != nil {
		return err
	}
	if !u.set(disable) {
		return nil
	}
	if _, err := tx.nextChange(userKind, id, &u.sequence); err != nil {
		return err
	}
	tx.forgetUser(id)
	return tx.putUser(u)
}

// DeleteUser deletes a user and all keys of the user, for good. No record has more of them than the IDs; the identities
// are free for another user. When it returns nil, the change is on disk and no login with such a key that begins
// afterwards succeeds. What the file's free pages still hold goes when they are used again, or with [Store.Compact].
//
// It returns [ErrUserNotFound], or an error of [Store.Update].
func (s *Store) DeleteUser(ctx context.Context, id uuid.UUID) error {
	err := s.Update(ctx, func(tx *Tx) error { return tx.DeleteUser(id) })
	return wrapf(err, "delete user %s", id)
}

// DeleteUser is [Store.DeleteUser] in a transaction.
func (tx *Tx) DeleteUser(id uuid.UUID) (err error) {
	defer tx.wholeSince(tx.writes, &err)
	u, err := tx.liveUser(id)
	if err != nil {
		return err
	}
	for key, err := range tx.keysOf(id) {
		if err == nil {
			err = tx.DeleteKey(id, key)
		}
		if errors.Is(err, ErrKeyNotFound) {
			err = errMissing("key", key)
		}
		if err != nil {
			return err
		}
	}
	for _, i := range u.identities {
		if err := tx.delete(tableIdentities, i.indexKey()); err != nil {
			return err
		}
	}
	tombstone := &userRecord{id: id, made: u.made, deleted: true, sequence: u.sequence}
	if _, err := tx.nextChange(userKind, id, &tombstone.sequence); err != nil {
		return err
	}
	tx.state.users--
	tx.forgetUser(id)
	return tx.putUser(tombstone)
}

func (u *userRecord) toUser() User {
	user := User{ID: u.id, Created: u.created, Disabled: u.disabled, Disablings: u.disablings}
	for _, i := range u.identities {
		user.Identities = append(user.Identities, i.Identity)
	}
	return user
}

// anonymous reports whether all that is known of the user is that there is one.
func (u *userRecord) anonymous() bool {
	return !slices.ContainsFunc(u.identities, func(i identityRecord) bool { return i.Provider != ProviderAnonymous })
}

// key is the identity's key in the index. No provider has a zero byte in its name.
func (i Identity) indexKey() []byte {
	return slices.Concat([]byte(i.Provider), []byte{0}, []byte(i.Subject))
}

func (i Identity) validate() error {
	if !slices.Contains(providers, i.Provider) {
		return fmt.Errorf("%w: unknown provider %.80q", ErrInvalidIdentity, i.Provider)
	}
	if !validText(i.Subject) {
		return fmt.Errorf("%w: subject %.80q is not %s", ErrInvalidIdentity, i.Subject, validTextRule)
	}
	return nil
}

const (
	maxText       = 256
	validTextRule = "1 to 256 bytes of UTF-8 without control characters"
)

// validText is the rule for names of keys and subjects of identities.
func validText(s string) bool {
	if len(s) == 0 || len(s) > maxText || !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if unicode.IsControl(r) {
			return false
		}
	}
	return true
}
