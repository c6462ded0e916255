package appservices

import (
	"context"
	"errors"
	"net/http"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
)

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
	acc, err := findAccount(tx, email)
	if err == nil && acc == nil {
		err = latchkey.CheckIdentity(latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: email})
	}
	switch {
	case errors.Is(err, latchkey.ErrInvalidIdentity):
		return because(errEmail, "the address has control characters, has white space or an invisible character at an end, or has more than 256 bytes")
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
	if err := c.countWrite("registrations"); err != nil {
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
		if err := c.app.deleteAged(tx); err != nil {
			return err
		}
		for _, t := range mailed {
			if err := t.put(tx); err != nil {
				return err
			}
		}
		acc := &account{Email: email, Confirmed: confirmed}
		acc.setPassword(verifier)
		if !confirmed {
			acc.Made = c.app.store.Now().Unix()
			if err := noteUnconfirmed(tx, acc); err != nil {
				return err
			}
		}
		return acc.put(tx)
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
	if err := c.countMail(email); err != nil {
		return reply{}, err
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
		return confirmAccount(tx, t.Email)
	})
}

func confirmAccount(tx *latchkey.Tx, email string) error {
	acc, err := existingAccount(tx, email)
	if err != nil {
		return err
	}
	acc.Confirmed = true
	return acc.put(tx)
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
	if err := c.countMail(email); err != nil {
		return reply{}, err
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
		return confirmAccount(tx, email)
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
	if err := c.countMail(acc.Email); err != nil {
		return reply{}, err
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
		acc, err := existingAccount(tx, email)
		if err != nil {
			return err
		}
		acc.setPassword(verifier)
		if err := acc.put(tx); err != nil || !c.h.opts.ResetEndsSessions {
			return err
		}
		return endSessionsOf(tx, acc.User)
	})
}

// endSessionsOf ends the sessions of a user, because each disabling does, and leaves the user
// enabled or disabled as before. The user may not exist yet.
func endSessionsOf(tx *latchkey.Tx, id uuid.UUID) error {
	if id == uuid.Nil {
		return nil
	}
	user, err := tx.User(id)
	if err != nil || user.Disabled {
		return err // the sessions of a disabled user have ended
	}
	if err := tx.DisableUser(id); err != nil {
		return err
	}
	return tx.EnableUser(id)
}
