package appservices

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
)

// An account is an e-mail address with a password. It becomes a user of the store when somebody
// first logs in with it or links it to a user. The client's call that deletes the user deletes the
// account, too. If a program deletes the user, the account no longer counts. It is deleted when
// somebody registers its address or asks for a mail to it.
type account struct {
	Email     string    `json:"email"`
	Verifier  string    `json:"verifier"` // of the password
	Password  string    `json:"password"` // a random ID, kept when it is hashed anew
	Confirmed bool      `json:"confirmed"`
	Made      int64     `json:"made,omitempty"` // Unix seconds, if it was not confirmed then
	User      uuid.UUID `json:"user,omitzero"`
}

func (acc *account) made() time.Time { return time.Unix(acc.Made, 0) }

// setPassword gives an account the password that a verifier was made from.
func (acc *account) setPassword(verifier string) {
	acc.Verifier, acc.Password = verifier, rand.Text()
}

// findAccount returns the account of an address, or nil if there is none. A program can give a user
// an address as an identity. Such a user has an account without a password, and a reset sets the
// password. This account counts even if a stranger has registered the address before.
//
// Errors: [latchkey.ErrInvalidIdentity] if email cannot be an address.
func findAccount(tx *latchkey.Tx, email string) (*account, error) {
	acc, _, err := lookUpAccount(tx, email)
	return acc, err
}

// lookUpAccount does what findAccount does, and also reports whether there is a record that does
// not count.
func lookUpAccount(tx *latchkey.Tx, email string) (acc *account, dead bool, err error) {
	user, err := tx.UserByIdentity(latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: email})
	if err != nil && !errors.Is(err, latchkey.ErrUserNotFound) {
		return nil, false, err
	}
	acc = &account{}
	switch found, err := getJSON(tx, accountKey(email), acc); {
	case err != nil:
		return nil, false, err
	case found && acc.User == user.ID:
		return acc, false, nil
	case user.ID == uuid.Nil:
		return nil, found, nil
	default:
		return &account{Email: email, Confirmed: true, User: user.ID}, found, nil
	}
}

// existingAccount returns the account of an address.
//
// Errors: errNoAccount if there is no account.
func existingAccount(tx *latchkey.Tx, email string) (*account, error) {
	acc, err := findAccount(tx, email)
	if err == nil && acc == nil {
		err = errNoAccount
	}
	return acc, err
}

func (acc *account) put(tx *latchkey.Tx) error {
	if err := addDecoy(tx, acc.Verifier); err != nil {
		return err
	}
	return putJSON(tx, accountKey(acc.Email), acc)
}

// stamp returns a value that changes with the account's password, and differs between two accounts
// that had the same address.
func (acc *account) stamp() []byte {
	sum := sha256.Sum256([]byte(cmp.Or(acc.Password, acc.User.String())))
	return sum[:]
}

// account returns the account of an address, or nil. It deletes the account of a deleted user.
func (a *app) account(ctx context.Context, email string) (acc *account, err error) {
	var dead bool
	err = a.store.View(ctx, func(tx *latchkey.Tx) error {
		acc, dead, err = lookUpAccount(tx, email)
		return err
	})
	if errors.Is(err, latchkey.ErrInvalidIdentity) {
		return nil, nil
	}
	if dead {
		a.bury(ctx, email)
	}
	return acc, err
}

// bury deletes the record of an account that does not count. It only logs an error, because nothing
// depends on the deletion.
func (a *app) bury(ctx context.Context, email string) {
	err := a.store.Update(ctx, func(tx *latchkey.Tx) error {
		_, dead, err := lookUpAccount(tx, email)
		if err != nil || !dead {
			return err
		}
		return data(tx).Delete(accountKey(email))
	})
	if err != nil {
		a.h.log.WarnContext(ctx, "the account of a deleted user was not deleted", "error", err)
	}
}

// provePassword checks an address and a password. The check takes the same time whether or not
// anybody has registered the address, also if verifiers have different costs: it hashes the
// password once for each cost that any verifier has. It does not delete the account of a deleted
// user, because a deletion takes time.
func (c *call) provePassword(d document) (*credential, error) {
	email, err := d.required("username")
	if err != nil {
		return nil, err
	}
	password, err := d.required("password")
	if err != nil {
		return nil, err
	}
	var acc *account
	var verifiers []string
	err = c.app.store.View(c.ctx(), func(tx *latchkey.Tx) (err error) {
		if acc, err = findAccount(tx, email); err != nil && !errors.Is(err, latchkey.ErrInvalidIdentity) {
			return err
		}
		verifiers, err = decoys(tx)
		return err
	})
	if err != nil {
		return nil, err
	}
	wrong := "the password is wrong"
	if acc == nil {
		wrong, acc = "nobody has registered this address", &account{}
	}
	verifiers = withVerifier(verifiers, acc.Verifier)
	matches := false
	err = c.inLine(hashCheck, func() (err error) {
		matches, err = c.checkPassword(verifiers, password)
		return err
	})
	switch {
	case err != nil:
		return nil, err
	case !matches:
		return nil, because(errPassword, wrong)
	case !acc.Confirmed:
		return nil, errUnconfirmed
	}
	c.renewVerifier(acc, password)
	return &credential{identity: latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: email}, account: *acc}, nil
}

// checkPassword reports whether one of the verifiers was made from a password. It tries the others
// even so, unless one matches.
func (c *call) checkPassword(verifiers []string, password string) (bool, error) {
	for _, verifier := range verifiers {
		matches, err := c.app.store.CheckPassword(c.ctx(), verifier, password)
		switch {
		case errors.Is(err, latchkey.ErrCostTooHigh):
			// The answer must be that for an unknown address, so only the log tells, and only once.
			c.h.warnedOfCost.Do(func() {
				c.h.log.WarnContext(c.ctx(), "some passwords need more memory for their hash than the store may use, and count as wrong", "error", err)
			})
		case err != nil || matches:
			return matches, err
		}
	}
	return false, nil
}

// renewVerifier hashes the password of an account anew if its verifier has another cost than the
// store's. It only logs an error, because the password is good all the same.
func (c *call) renewVerifier(acc *account, password string) {
	if !c.app.store.NeedsRehash(acc.Verifier) {
		return
	}
	verifier, err := c.hashPassword(password)
	if err == nil {
		err = c.app.store.Update(c.ctx(), func(tx *latchkey.Tx) error {
			now, err := existingAccount(tx, acc.Email)
			if err != nil || now.Verifier != acc.Verifier {
				return err // somebody has set another password meanwhile
			}
			now.Verifier = verifier
			if err := now.put(tx); err != nil {
				return err
			}
			*acc = *now
			return nil
		})
	}
	if err != nil {
		c.h.log.WarnContext(c.ctx(), "a password was not hashed anew", "error", err, "request_id", c.requestID)
	}
}

// A decoy is a verifier that no password matches. The store's record of decoys has one for each
// cost that the verifier of an account may have.

// decoys returns the decoys in the order in which they were added.
func decoys(tx *latchkey.Tx) (all []string, err error) {
	_, err = getJSON(tx, keyDecoys, &all)
	return all, err
}

// decoyOf returns the decoy with the cost of a verifier: the verifier with a salt and a hash of
// zeros.
func decoyOf(verifier string) string {
	const salt, hash = "AAAAAAAAAAAAAAAAAAAAAA", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	parts := strings.Split(verifier, "$") // the first part is empty
	return strings.Join(append(parts[:min(len(parts), 4)], salt, hash), "$")
}

// addDecoy adds the decoy for a verifier to the record, unless it is there.
func addDecoy(tx *latchkey.Tx, verifier string) error {
	all, err := decoys(tx)
	if err != nil || verifier == "" || slices.Contains(all, decoyOf(verifier)) {
		return err
	}
	return putJSON(tx, keyDecoys, append(all, decoyOf(verifier)))
}

// withVerifier returns the decoys with a verifier in the place of the decoy that has its cost. If
// there are no decoys, it returns a verifier of the store's cost.
func withVerifier(decoys []string, verifier string) []string {
	if len(decoys) == 0 {
		return []string{verifier}
	}
	all := slices.Clone(decoys)
	if verifier == "" {
		return all
	}
	if i := slices.Index(all, decoyOf(verifier)); i >= 0 {
		all[i] = verifier
		return all
	}
	return append(all, verifier)
}

// dropDecoys removes the decoys whose costs no verifier has any more. It keeps that of the store's
// cost, because every new verifier has this cost.
func (a *app) dropDecoys(ctx context.Context) error {
	var before []string
	err := a.store.View(ctx, func(tx *latchkey.Tx) (err error) {
		before, err = decoys(tx)
		return err
	})
	if err != nil || len(before) < 2 {
		return err
	}
	used, err := a.usedDecoys(ctx)
	if err != nil {
		return err
	}
	kept := slices.DeleteFunc(slices.Clone(before), func(decoy string) bool {
		return !used[decoy] && a.store.NeedsRehash(decoy)
	})
	if len(kept) == len(before) {
		return nil
	}
	return a.store.Update(ctx, func(tx *latchkey.Tx) error {
		if now, err := decoys(tx); err != nil || !slices.Equal(now, before) {
			return err
		}
		return putJSON(tx, keyDecoys, kept)
	})
}

// usedDecoys returns the decoys of all accounts. It reads a page at a time, so that it holds up
// nobody.
func (a *app) usedDecoys(ctx context.Context) (map[string]bool, error) {
	used := make(map[string]bool)
	from := []byte(keyAccounts)
	for {
		n := 0
		err := a.store.View(ctx, func(tx *latchkey.Tx) error {
			n = 0
			for e, err := range data(tx).Scan(from, []byte{keyAccounts[0] + 1}) {
				if err != nil {
					return err
				}
				var acc account
				if err := json.Unmarshal(e.Value, &acc); err != nil {
					return err
				}
				used[decoyOf(acc.Verifier)] = true
				from = append(bytes.Clone(e.Key), 0)
				if n++; n == accountsPage {
					break
				}
			}
			return nil
		})
		if err != nil || n < accountsPage {
			return used, err
		}
	}
}

// accountsPage is how many accounts usedDecoys reads in one transaction.
const accountsPage = 256
