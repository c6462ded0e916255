package latchkey

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/names"
	"github.com/latchkeydb/latchkey/internal/record"
)

// A Provider is the way in which an identity was established. The names are those of the hosted
// service.
type Provider string

// The providers. Any other provider is refused with [ErrInvalidIdentity]. A program that has its
// own way to identify people uses ProviderCustomToken or ProviderCustomFunction.
const (
	ProviderAnonymous      Provider = "anon-user" // for an anonymous user
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

// An Identity is a name that a provider has for a user. It belongs to at most one user. Subjects
// are compared byte by byte: the store neither folds case nor normalises Unicode. A program that
// takes Ada@example.com and ada@example.com for the same person must make them equal itself.
type Identity struct {
	Provider Provider `json:"provider"`
	// Subject is 1 to 256 bytes of UTF-8 without control characters, such as an e-mail address.
	// [CheckIdentity] has the other rules for the subject of a new identity.
	Subject string `json:"subject"`
}

// A User is an account: an ID, and the identities of the person or program that it is for.
type User struct {
	ID         uuid.UUID  `json:"id"`
	Identities []Identity `json:"identities"` // in the order of linking; never empty
	Created    time.Time  `json:"created"`    // by the store's clock, to the millisecond, in UTC
	Disabled   bool       `json:"disabled"`   // the keys of a disabled user do not log in
	// Disablings is the number of times that the user was disabled. It never falls. A program that
	// gives users sessions stores the number in each session: if the user has another number now,
	// the user was disabled since, and the session is over.
	Disablings uint64            `json:"-"`
	Group      string            `json:"group,omitempty"`
	Metadata   map[string]string `json:"metadata,omitempty"`
}

// UserSpec describes a user to be made.
type UserSpec struct {
	// Identity is the user's first identity. The subject of an anonymous identity may be empty.
	// Then CreateUser sets the subject to the user's ID.
	Identity Identity
	// Group is the tenant, site or project that the user and the user's keys belong to, or "". It
	// follows the rules of [KeySpec].Group.
	Group string
	// Metadata are the program's own texts on the user, by name. They follow the rules of
	// [KeySpec].Metadata.
	Metadata map[string]string
}

// maxIdentities is how many identities a user can have. A record can have more, because it keeps
// some that are unlinked.
const maxIdentities = 64

// CreateUser makes a user with one identity. The user's ID is derived from the identity, so that
// replicas that create a user for the same person while they are apart create the same user. The ID
// of an anonymous user is random. If another user has begun with the identity before, and was
// deleted or has lost it by [Store.UnlinkIdentity], the new user gets another ID.
//
// It returns [ErrIdentityTaken], [ErrInvalidIdentity], [ErrInvalidGroup], [ErrInvalidMetadata], or
// an error of [Store.Update].
func (s *Store) CreateUser(ctx context.Context, n UserSpec) (User, error) {
	user, err := write(ctx, s, func(tx *Tx) (User, error) { return tx.CreateUser(n) })
	return user, wrapf(err, "create user")
}

// CreateUser is [Store.CreateUser] in a transaction.
func (tx *Tx) CreateUser(n UserSpec) (user User, err error) {
	defer tx.wholeSince(tx.writes, &err)
	i := n.Identity
	if err := checkGroup(n.Group); err != nil {
		return User{}, err
	}
	if err := checkMetadata(n.Metadata); err != nil {
		return User{}, err
	}
	id, err := tx.newUserID(&i)
	if err != nil {
		return User{}, err
	}
	if err := tx.claim(i, id); err != nil {
		return User{}, err
	}
	u := record.User{ID: id, Created: tx.store.now()}
	at := u.Next(tx.store.ReplicaID())
	u = u.SetIdentity(record.Identity{Provider: string(i.Provider), Subject: i.Subject, Stamp: at})
	u.Metadata = registerOf(record.Metadata(maps.Clone(n.Metadata)), len(n.Metadata) == 0, at)
	if _, err := tx.setGroup(&u.Groups, id, n.Group, at); err != nil {
		return User{}, err
	}
	if err := tx.putUser(&u); err != nil {
		return User{}, err
	}
	return toUser(&u), nil
}

// registerOf returns the register of a field of a new record. A field that is empty gets no stamp.
func registerOf[T any](value T, empty bool, at record.Stamp) (r record.Register[T]) {
	if !empty {
		r.Value, r.Stamp = value, at
	}
	return r
}

// newUserID validates a first identity, completes an anonymous one, and returns the ID for its
// user.
func (tx *Tx) newUserID(i *Identity) (uuid.UUID, error) {
	if i.Provider == ProviderAnonymous {
		id, _ := tx.store.newID()
		if i.Subject == "" {
			i.Subject = id.String()
		}
		if err := CheckIdentity(*i); err != nil {
			return uuid.UUID{}, err
		}
		// With Options.InsecureRand, the same ID may have been drawn before.
		used, err := tx.isUsed(tableUsers, tableDeadUsers, id)
		if err == nil && used {
			err = identityTaken(*i, id)
		}
		return id, err
	}
	if err := CheckIdentity(*i); err != nil {
		return uuid.UUID{}, err
	}
	former, err := tx.countFormerUsers(*i)
	return tx.store.domain.UserID(i.indexKey(), former), err
}

// countFormerUsers returns how many users began with the identity i, or ErrIdentityTaken if the
// last one of them still has i. These users are numbered from 0, and none of their records is ever
// removed: a deleted user leaves a tombstone, and a user that has lost i lives on. So
// countFormerUsers searches by doubling and bisection instead of reading every record.
//
// Any user can have i, because i can be linked to a user that began with another identity. Only
// claim finds that out. Salvage may have lost some of the records. Then countFormerUsers may return
// the number of a lost one although a later user has i, and claim finds that out, too.
func (tx *Tx) countFormerUsers(i Identity) (uint64, error) {
	exists := func(number uint64) (bool, error) {
		id := tx.store.domain.UserID(i.indexKey(), number)
		u, err := tx.getUser(id)
		switch {
		case err != nil:
			return false, err
		case u == nil:
			dead, err := tx.has(tableDeadUsers, id[:])
			if err != nil || dead {
				return dead, err
			}
			holder, err := tx.etx.Get(tableIdentities, i.indexKey())
			return bytes.Equal(holder, id[:]), err // a deletion that is not finished
		case hasIdentity(u, i):
			return true, identityTaken(i, id)
		}
		return true, nil
	}
	return names.FirstFree(exists)
}

// claim enters an identity of a user into the index.
func (tx *Tx) claim(i Identity, userID uuid.UUID) error {
	owner, err := tx.etx.Get(tableIdentities, i.indexKey())
	if err != nil {
		return err
	}
	if owner != nil {
		var id uuid.UUID
		copy(id[:], owner)
		u, err := tx.getUser(id)
		if err != nil || u != nil || !tx.store.isUnfinished() {
			return cmp.Or(err, identityTaken(i, id))
		}
		if err := tx.putRecord(tableDeadUsers, id[:], record.UserTombstone{ID: id}.Encode()); err != nil {
			return err
		}
	}
	return tx.put(tableIdentities, i.indexKey(), userID[:])
}

// isConflict reports whether several users have an identity, so that it belongs to none of them.
func (tx *Tx) isConflict(i Identity) (bool, error) {
	if !tx.isShared() {
		return false, nil
	}
	value, err := tx.etx.Get(tableIdentities, i.indexKey())
	return len(record.Holders(value)) > 1, err
}

func identityTaken(i Identity, userID uuid.UUID) error {
	return fmt.Errorf("%w: (%s, %s) is user %s", ErrIdentityTaken, i.Provider, names.Quote(i.Subject), userID)
}

// User returns the user with an ID.
//
// It returns [ErrUserNotFound], or an error of [Store.View].
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
	return toUser(u), nil
}

// liveUser returns the record of a user, or ErrUserNotFound.
func (tx *Tx) liveUser(id uuid.UUID) (*record.User, error) {
	u, err := tx.getUser(id)
	if err == nil && u == nil {
		err = ErrUserNotFound
	}
	return u, err
}

// UserByIdentity returns the user that an identity belongs to.
//
// It returns [ErrUserNotFound], [ErrIdentityConflict], [ErrInvalidIdentity], or an error of
// [Store.View].
func (s *Store) UserByIdentity(ctx context.Context, i Identity) (User, error) {
	user, err := read(ctx, s, func(tx *Tx) (User, error) { return tx.UserByIdentity(i) })
	return user, wrapf(err, "user with identity (%s, %s)", names.Quote(string(i.Provider)), names.Quote(i.Subject))
}

// UserByIdentity is [Store.UserByIdentity] in a transaction.
func (tx *Tx) UserByIdentity(i Identity) (User, error) {
	if err := i.check(names.Stored); err != nil {
		return User{}, err
	}
	value, err := tx.etx.Get(tableIdentities, i.indexKey())
	if err != nil {
		return User{}, err
	}
	if value == nil {
		return User{}, ErrUserNotFound
	}
	holders := record.Holders(value)
	if len(holders) > 1 {
		return User{}, fmt.Errorf("%w: of user %s, for one", ErrIdentityConflict, holders[0])
	}
	id, err := record.DecodeID(value)
	if err != nil {
		return User{}, recordError(err)
	}
	user, err := tx.User(id)
	if errors.Is(err, ErrUserNotFound) && tx.store.isUnfinished() {
		return User{}, err
	}
	if errors.Is(err, ErrUserNotFound) || err == nil && !slices.Contains(user.Identities, i) {
		// A damaged index must not lead to the account of somebody else.
		return User{}, errMissing("identity of user", id)
	}
	return user, err
}

// Users yields all users with an ID greater than after, in the order of their IDs. [uuid.Nil] is
// the beginning. To continue later, pass the ID of the last user that was yielded. No transaction
// is open while the body of the loop runs, so the body may call the store. A user that is made or
// deleted meanwhile may or may not be yielded.
//
// An error, one of [Store.View], is yielded once, as the last element.
func (s *Store) Users(ctx context.Context, after uuid.UUID) iter.Seq2[User, error] {
	return inPages(ctx, s, "users", after, (*Tx).Users, func(u User) uuid.UUID { return u.ID })
}

// Users is [Store.Users] in a transaction. The loop sees changes that the transaction makes to
// users ahead of it.
func (tx *Tx) Users(after uuid.UUID) iter.Seq2[User, error] {
	return func(yield func(User, error) bool) {
		for e, err := range tx.etx.Scan(tableUsers, append(after[:], 0), nil) {
			var u *record.User
			if err == nil {
				u, err = record.Unseal(tableUsers, e.Key, e.Value, record.DecodeUser)
			}
			if err != nil {
				yield(User{}, recordError(err))
				return
			}
			if !yield(toUser(u), nil) {
				return
			}
		}
	}
}

// LinkIdentity gives a user another identity. If the identity is this user's already, nothing
// changes. An anonymous identity cannot be linked. An anonymous user that gets another identity is
// no longer anonymous.
//
// It returns [ErrUserNotFound], [ErrIdentityTaken] if the identity belongs to another user,
// [ErrInvalidIdentity], [ErrTooManyIdentities], or an error of [Store.Update].
func (s *Store) LinkIdentity(ctx context.Context, userID uuid.UUID, i Identity) (User, error) {
	user, err := write(ctx, s, func(tx *Tx) (User, error) { return tx.LinkIdentity(userID, i) })
	return user, wrapf(err, "link identity to user %s", userID)
}

// LinkIdentity is [Store.LinkIdentity] in a transaction.
func (tx *Tx) LinkIdentity(userID uuid.UUID, i Identity) (User, error) {
	return tx.changeIdentities(userID, func(u *record.User, at record.Stamp) (bool, error) {
		if hasIdentity(u, i) {
			return false, nil
		}
		if i.Provider == ProviderAnonymous {
			return false, fmt.Errorf("%w: an anonymous identity cannot be linked", ErrInvalidIdentity)
		}
		if err := CheckIdentity(i); err != nil {
			return false, err
		}
		// The record drops identities when it has too many, and the oldest may be one that the user
		// still has.
		if len(u.Linked()) >= maxIdentities || len(u.Identities) >= record.MaxIdentities {
			return false, ErrTooManyIdentities
		}
		if len(u.Linked()) == 0 { // which merging can leave
			if err := tx.tables().Release(record.NoIdentityKey(userID), userID); err != nil {
				return false, err
			}
		}
		*u = u.SetIdentity(record.Identity{Provider: string(i.Provider), Subject: i.Subject, Stamp: at})
		return true, tx.claim(i, userID)
	})
}

// changeIdentities is changeUser for a call that returns the user.
func (tx *Tx) changeIdentities(id uuid.UUID, change func(u *record.User, at record.Stamp) (changed bool, err error)) (User, error) {
	u, err := tx.changeUser(id, change)
	if err != nil {
		return User{}, err
	}
	return toUser(u), nil
}

// UnlinkIdentity takes an identity from a user, so that another user can have it. Before an e-mail
// address passes to another person, unlink it. The user keeps the ID and the keys. An identity that
// was unlinked can be linked again.
//
// It returns [ErrUserNotFound]; [ErrIdentityNotFound] if the user has no such identity, even if
// another user has it; [ErrLastIdentity] if the user has no other identity; [ErrUserHasKeys] if all
// other identities of the user are anonymous, and the user has keys, expired ones included; or an
// error of [Store.Update].
func (s *Store) UnlinkIdentity(ctx context.Context, userID uuid.UUID, i Identity) (User, error) {
	user, err := write(ctx, s, func(tx *Tx) (User, error) { return tx.UnlinkIdentity(userID, i) })
	return user, wrapf(err, "unlink identity from user %s", userID)
}

// UnlinkIdentity is [Store.UnlinkIdentity] in a transaction.
func (tx *Tx) UnlinkIdentity(userID uuid.UUID, i Identity) (User, error) {
	return tx.changeIdentities(userID, func(u *record.User, at record.Stamp) (bool, error) {
		if !hasIdentity(u, i) {
			return false, ErrIdentityNotFound
		}
		*u = u.SetIdentity(record.Identity{Provider: string(i.Provider), Subject: i.Subject, Stamp: at, Unlinked: true})
		if !tx.isShared() {
			*u = u.Forget()
		}
		if len(u.Linked()) == 0 {
			return false, ErrLastIdentity
		}
		if u.IsAnonymous() {
			n, err := tx.keyCounts.All(userID, tx.keysOf(userID))
			if err != nil {
				return false, err
			}
			if n > 0 {
				return false, ErrUserHasKeys
			}
		}
		return true, tx.tables().Release(i.indexKey(), userID)
	})
}

// EnableUser lets the keys of a disabled user log in again. Enabling an enabled user changes
// nothing. Keys that are disabled themselves stay disabled.
//
// It returns [ErrUserNotFound], or an error of [Store.Update].
func (s *Store) EnableUser(ctx context.Context, id uuid.UUID) error {
	err := s.Update(ctx, func(tx *Tx) error { return tx.EnableUser(id) })
	return wrapf(err, "enable user %s", id)
}

// EnableUser is [Store.EnableUser] in a transaction.
func (tx *Tx) EnableUser(id uuid.UUID) error { return tx.setUserDisabled(id, false) }

// DisableUser stops all keys of a user from logging in, until the user is enabled. Disabling a
// disabled user changes nothing that a login can see. When DisableUser returns nil, the change is
// on disk, and no login with a key of the user that begins afterwards succeeds.
//
// It returns [ErrUserNotFound], or an error of [Store.Update].
func (s *Store) DisableUser(ctx context.Context, id uuid.UUID) error {
	err := s.Update(ctx, func(tx *Tx) error { return tx.DisableUser(id) })
	return wrapf(err, "disable user %s", id)
}

// DisableUser is [Store.DisableUser] in a transaction.
func (tx *Tx) DisableUser(id uuid.UUID) error { return tx.setUserDisabled(id, true) }

func (tx *Tx) setUserDisabled(id uuid.UUID, disable bool) error {
	_, err := tx.changeUser(id, func(u *record.User, _ record.Stamp) (bool, error) {
		return tx.setDisabled(&u.Flag, disable), nil
	})
	return err
}

// DeleteUser deletes a user and all keys of the user, for good. Only their IDs are kept, and the
// identities can be given to another user. When DeleteUser returns nil, the change is on disk, and
// no login with a key of the user that begins afterwards succeeds. Old bytes may remain in free
// pages of the file until the pages are used again or [Store.Compact] runs.
//
// An engine that bounds its transactions can take several: the user goes first, which refuses all
// keys of the user. If DeleteUser fails after that, call it again. On a full engine, DeleteUser
// does what [Store.DeleteKey] does.
//
// It returns [ErrUserNotFound], or an error of [Store.Update].
func (s *Store) DeleteUser(ctx context.Context, id uuid.UUID) error {
	err := s.Update(ctx, func(tx *Tx) error { return tx.DeleteUser(id) })
	if errors.Is(err, ErrTransactionTooLarge) || errors.Is(err, ErrUserNotFound) && s.isUnfinished() {
		err = s.deleteUserInSteps(ctx, id, err)
	}
	if errors.Is(err, ErrNoSpace) && s.unburied != nil {
		err = recordError(s.unburied.User(ctx, id, ErrUserNotFound))
	}
	return wrapf(err, "delete user %s", id)
}

// deleteUserInSteps deletes a user, and then the keys of the user, as a merge of the user's
// tombstone does. It returns why if there is neither a user nor a key.
func (s *Store) deleteUserInSteps(ctx context.Context, id uuid.UUID, why error) error {
	for more := true; more; {
		err := s.Update(ctx, func(tx *Tx) error {
			n, err := tx.keyCounts.All(id, tx.keysOf(id))
			if err == nil && n == 0 && errors.Is(why, ErrUserNotFound) {
				err = why
			}
			if err == nil {
				t := record.Seal(tableDeadUsers, id[:], record.UserTombstone{ID: id}.Encode())
				more, err = tx.tables().Record(record.Copy{Domain: s.domain.ID, Table: tableDeadUsers, Key: id[:], Sealed: t})
			}
			return mergeError(err)
		})
		if err != nil {
			return err
		}
	}
	return nil
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
			if err = errMissing("key", key); tx.store.isUnfinished() {
				continue
			}
		}
		if err != nil {
			return err
		}
	}
	if err := tx.deleteEntries(id, u.Index()); err != nil {
		return err
	}
	tx.forgetUser(id)
	if err := tx.delete(tableUsers, id[:]); err != nil {
		return err
	}
	return tx.putRecord(tableDeadUsers, id[:], u.Tombstone().Encode())
}

func toUser(u *record.User) User {
	user := User{
		ID: u.ID, Created: u.Created, Disabled: u.Flag.IsDisabled(), Disablings: u.Flag.Disablings(),
		Group: u.Groups.Now(), Metadata: u.Metadata.Value,
	}
	for _, i := range u.Linked() {
		user.Identities = append(user.Identities, identityOf(i))
	}
	return user
}

func identityOf(i record.Identity) Identity { return Identity{Provider(i.Provider), i.Subject} }

func hasIdentity(u *record.User, i Identity) bool { return u.Has(string(i.Provider), i.Subject) }

// indexKey returns the key of the identity in the index.
func (i Identity) indexKey() []byte { return record.IdentityKey(string(i.Provider), i.Subject) }

// CheckIdentity returns [ErrInvalidIdentity] unless a user can be made with i. The provider must be
// one of the constants of type [Provider]. The subject must be 1 to 256 bytes of UTF-8 without
// control characters. It must not begin or end with white space or with an invisible character,
// such as U+00A0, U+200B or U+FEFF, and something in it must be visible. Unlike [Store.CreateUser],
// CheckIdentity does not accept an empty subject of an anonymous identity, and does not look for a
// user that has i already.
func CheckIdentity(i Identity) error { return i.check(names.Subject) }

// check returns ErrInvalidIdentity if i has no known provider, or if its subject breaks the rules
// for a text of kind k.
func (i Identity) check(k names.Kind) error {
	if !slices.Contains(providers, i.Provider) {
		return fmt.Errorf("%w: unknown provider %s", ErrInvalidIdentity, names.Quote(string(i.Provider)))
	}
	if problem := names.Problem(k, i.Subject); problem != "" {
		return fmt.Errorf("%w: the subject %s %s", ErrInvalidIdentity, names.Quote(i.Subject), problem)
	}
	return nil
}
