package appservices

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"net/http"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
)

// An account is an e-mail address with a password. It becomes a user of the store when somebody
// first logs in with it or links it to a user. The client's call that deletes the user deletes the
// account, too. If a program deletes the user, the account no longer counts. It is deleted when its
// address is used the next time.
type account struct {
	Email     string    `json:"email"`
	Verifier  string    `json:"verifier"` // of the password
	Confirmed bool      `json:"confirmed"`
	User      uuid.UUID `json:"user,omitzero"`
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

func (acc *account) put(tx *latchkey.Tx) error { return putJSON(tx, accountKey(acc.Email), acc) }

// stamp returns a value that changes with the account's password, and differs between two accounts
// that had the same address.
func (acc *account) stamp() []byte {
	// Each verifier has its own salt.
	sum := sha256.Sum256([]byte(cmp.Or(acc.Verifier, acc.User.String())))
	return sum[:]
}

// account returns the account of an address, or nil.
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

// updateAccount changes an account in a transaction.
//
// Errors: errNoAccount if there is no account.
func updateAccount(tx *latchkey.Tx, email string, change func(acc *account)) error {
	acc, err := findAccount(tx, email)
	if err != nil {
		return err
	}
	if acc == nil {
		return errNoAccount
	}
	change(acc)
	return acc.put(tx)
}

func (c *call) provePassword(d document) (*credential, error) {
	email, err := d.required("username")
	if err != nil {
		return nil, err
	}
	password, err := d.required("password")
	if err != nil {
		return nil, err
	}
	acc, err := c.app.account(c.ctx(), email)
	if err != nil {
		return nil, err
	}
	wrong := "the password is wrong"
	if acc == nil {
		wrong = "nobody has registered this address"
		acc = &account{} // checking an empty verifier takes as long as checking a real one
	}
	ok := false
	err = c.inLine(hashCheck, func() (err error) {
		ok, err = c.app.store.CheckPassword(c.ctx(), acc.Verifier, password)
		return err
	})
	switch {
	case err != nil:
		return nil, err
	case !ok:
		return nil, because(errPassword, wrong)
	case !acc.Confirmed:
		return nil, errUnconfirmed
	}
	return &credential{identity: latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: email}, account: *acc}, nil
}

const (
	minPassword = 6
	maxPassword = 128
	maxEmail    = 128
)

func checkPassword(password string) error {
	if n := utf8.RuneCountInString(password); n < minPassword || n > maxPassword {
		return errPasswordLength
	}
	return nil
}

// checkNewAccount returns an error if an account cannot be made. The rule about passwords comes
// first.
func (a *app) checkNewAccount(ctx context.Context, email, password string) error {
	if err := checkPassword(password); err != nil {
		return err
	}
	switch n := utf8.RuneCountInString(email); {
	case n == 0:
		return because(errEmail, "the address is missing, empty, or not a string")
	case n > maxEmail:
		return because(errEmail, "the address has more than 128 characters")
	}
	return a.store.View(ctx, func(tx *latchkey.Tx) error { return checkEmailFree(tx, email) })
}

func checkEmailFree(tx *latchkey.Tx, email string) error {
	switch acc, err := findAccount(tx, email); {
	case errors.Is(err, latchkey.ErrInvalidIdentity):
		return because(errEmail, "the address has control characters, or more than 256 bytes")
	case err != nil:
		return err
	case acc != nil:
		return errEmailTaken
	}
	return nil
}

// hashPassword returns the verifier of a new password.
func (c *call) hashPassword(password string) (verifier string, err error) {
	err = c.inLine(hashPassword, func() (err error) {
		verifier, err = c.app.store.HashPassword(c.ctx(), password)
		return err
	})
	return verifier, err
}

// makeAccount makes an account, and stores the tokens that are to be mailed.
func (c *call) makeAccount(email, password string, confirmed bool, mailed ...*mailToken) error {
	if err := c.app.checkNewAccount(c.ctx(), email, password); err != nil {
		return err
	}
	verifier, err := c.hashPassword(password)
	if err != nil {
		return err
	}
	return c.app.store.Update(c.ctx(), func(tx *latchkey.Tx) error {
		if err := checkEmailFree(tx, email); err != nil {
			return err
		}
		for _, t := range mailed {
			if err := t.put(tx); err != nil {
				return err
			}
		}
		return (&account{Email: email, Verifier: verifier, Confirmed: confirmed}).put(tx)
	})
}

func (c *call) register() (reply, error) {
	d, err := c.body()
	if err != nil {
		return reply{}, err
	}
	email, _ := d.text("email") // anything but a string counts as empty
	password, _ := d.text("password")
	if err := c.app.checkNewAccount(c.ctx(), email, password); err != nil {
		return reply{}, err
	}
	if !c.h.opts.ManualConfirmation {
		return reply{http.StatusCreated, struct{}{}}, c.makeAccount(email, password, true)
	}
	t := c.h.newMailToken(MailConfirm, email)
	outcome, err := c.decideConfirmation(t)
	if err != nil {
		return reply{}, err
	}
	if err := c.makeAccount(email, password, outcome == Accepted, t); err != nil {
		return reply{}, err
	}
	if c.h.opts.ConfirmFunction == nil {
		c.mail(t)
	}
	return reply{http.StatusCreated, struct{}{}}, nil
}

// decideConfirmation asks ConfirmFunction whether an address is confirmed. Without a
// ConfirmFunction, the decision is Pending.
func (c *call) decideConfirmation(t *mailToken) (Outcome, error) {
	if c.h.opts.ConfirmFunction == nil {
		return Pending, nil
	}
	outcome, err := c.h.opts.ConfirmFunction(c.ctx(), Confirmation{c.appID, t.Email, t.token, t.id})
	if err != nil || outcome != Accepted && outcome != Pending {
		return Refused, errNotConfirmed(t.Email, whyNot("ConfirmFunction", err))
	}
	return outcome, nil
}

func (c *call) confirm() (reply, error) {
	d, err := c.body()
	if err != nil {
		return reply{}, err
	}
	t, err := readMailToken(MailConfirm, d)
	if err != nil {
		return reply{}, err
	}
	return emptyObject, c.app.store.Update(c.ctx(), func(tx *latchkey.Tx) error {
		if err := t.use(tx, c.h.now()); err != nil {
			return err
		}
		return updateAccount(tx, t.Email, func(acc *account) { acc.Confirmed = true })
	})
}

// accountFor returns the document in the body, and the account of the document's address.
func (c *call) accountFor() (document, *account, error) {
	d, err := c.body()
	if err != nil {
		return nil, nil, err
	}
	email, err := d.required("email")
	if err != nil {
		return nil, nil, err
	}
	acc, err := c.app.account(c.ctx(), email)
	if err == nil && acc == nil {
		err = errNoAccount
	}
	return d, acc, err
}

func (c *call) sendConfirmation() (reply, error) {
	if c.h.opts.ConfirmFunction != nil {
		return reply{}, errConfirmByFunc
	}
	_, acc, err := c.accountFor()
	if err != nil {
		return reply{}, err
	}
	if acc.Confirmed {
		return reply{}, errConfirmed
	}
	return emptyObject, c.sendMail(c.h.newMailToken(MailConfirm, acc.Email))
}

func (c *call) callConfirmation() (reply, error) {
	d, err := c.body()
	if err != nil {
		return reply{}, err
	}
	email, err := d.required("email")
	if err != nil {
		return reply{}, err
	}
	switch {
	case !c.h.opts.ManualConfirmation:
		return reply{}, errNoConfirmation(email, "automatic confirmation is enabled")
	case c.h.opts.ConfirmFunction == nil:
		return reply{}, errNoConfirmation(email, "there is no confirmation function")
	}
	acc, err := c.app.account(c.ctx(), email)
	switch {
	case err != nil:
		return reply{}, err
	case acc == nil:
		return reply{}, errNoAccount
	case acc.Confirmed:
		return reply{}, errConfirmed
	}
	t := c.h.newMailToken(MailConfirm, email)
	outcome, err := c.decideConfirmation(t)
	if err != nil {
		return reply{}, err
	}
	return emptyObject, c.app.store.Update(c.ctx(), func(tx *latchkey.Tx) error {
		if outcome == Pending {
			return t.put(tx)
		}
		return updateAccount(tx, email, func(acc *account) { acc.Confirmed = true })
	})
}

func (c *call) sendReset() (reply, error) {
	if c.h.opts.ResetFunction != nil {
		return reply{}, errResetByFunc
	}
	_, acc, err := c.accountFor()
	if err != nil {
		return reply{}, err
	}
	return emptyObject, c.sendMail(c.h.newResetToken(acc))
}

func (c *call) reset() (reply, error) {
	d, err := c.body()
	if err != nil {
		return reply{}, err
	}
	t, err := readMailToken(MailReset, d)
	if err != nil {
		return reply{}, err
	}
	password, _ := d.text("password")
	if err := checkPassword(password); err != nil {
		return reply{}, err
	}
	err = c.app.store.View(c.ctx(), func(tx *latchkey.Tx) error { return t.check(tx, c.h.now()) })
	if err != nil {
		return reply{}, err // refuse before the work of a hash
	}
	return emptyObject, c.setPassword(t.Email, password, func(tx *latchkey.Tx) error { return t.use(tx, c.h.now()) })
}

func (c *call) callReset() (reply, error) {
	d, acc, err := c.accountFor()
	if err != nil {
		return reply{}, err
	}
	password, _ := d.text("password")
	if err := checkPassword(password); err != nil {
		return reply{}, err
	}
	if c.h.opts.ResetFunction == nil {
		return reply{}, errNotReset(acc.Email, "Options.ResetFunction is not set")
	}
	t := c.h.newResetToken(acc)
	arguments, _ := plainJSON(d["arguments"]).([]any)
	outcome, err := c.h.opts.ResetFunction(c.ctx(), Reset{c.appID, acc.Email, password, t.token, t.id, arguments})
	switch {
	case err == nil && outcome == Accepted:
		return emptyObject, c.setPassword(acc.Email, password, nil)
	case err == nil && outcome == Pending:
		return emptyObject, c.app.store.Update(c.ctx(), t.put)
	}
	return reply{}, errNotReset(acc.Email, whyNot("ResetFunction", err))
}

// setPassword sets an account's password. If first returns an error, setPassword changes nothing
// and returns that error. first runs in the same transaction, and may be nil.
func (c *call) setPassword(email, password string, first func(tx *latchkey.Tx) error) error {
	verifier, err := c.hashPassword(password)
	if err != nil {
		return err
	}
	return c.app.store.Update(c.ctx(), func(tx *latchkey.Tx) error {
		if first != nil {
			if err := first(tx); err != nil {
				return err
			}
		}
		return updateAccount(tx, email, func(acc *account) { acc.Verifier = verifier })
	})
}
