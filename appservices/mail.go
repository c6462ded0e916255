package appservices

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/latchkeydb/latchkey"
)

// A mailToken proves that somebody reads the mail of an address. The store keeps only its hash. Its
// ID begins with the time when it was made, so that the oldest tokens come first in the store. A
// token that resets a password is good only while the account keeps its present password.
type mailToken struct {
	id, token string // hexadecimal
	mailRecord
}

type mailRecord struct {
	Kind  MailKind `json:"kind"`
	Email string   `json:"email"`
	Hash  []byte   `json:"hash"`            // SHA-256
	Stamp []byte   `json:"stamp,omitempty"` // of the account, for MailReset
}

const (
	mailTokenSize = 64 // bytes
	mailTokenLife = 30 * time.Minute
)

func (h *Handler) newMailToken(kind MailKind, email string) *mailToken {
	t := &mailToken{id: h.newObjectID(), token: hex.EncodeToString(h.random(mailTokenSize))}
	t.mailRecord = mailRecord{Kind: kind, Email: email, Hash: t.hash()}
	return t
}

// newResetToken makes a token that lets its holder set a new password for an account.
func (h *Handler) newResetToken(acc *account) *mailToken {
	t := h.newMailToken(MailReset, acc.Email)
	t.Stamp = acc.stamp()
	return t
}

// readMailToken reads the token that a client sends. The address is not known yet.
func readMailToken(kind MailKind, d document) (*mailToken, error) {
	token, _ := d.text("token")
	id, _ := d.text("tokenId")
	if !validHexID(token, mailTokenSize) || !validHexID(id, objectIDSize) {
		return nil, errTokenForm
	}
	return &mailToken{id: id, token: token, mailRecord: mailRecord{Kind: kind}}, nil
}

func (t *mailToken) hash() []byte {
	sum := sha256.Sum256([]byte(t.token))
	return sum[:]
}

func (t *mailToken) key() []byte {
	id, _ := hex.DecodeString(t.id)
	return append(append([]byte(nil), keyMailed...), id...)
}

func (t *mailToken) put(tx *latchkey.Tx) error {
	const life = uint32(mailTokenLife / time.Second)
	made, _ := hex.DecodeString(t.id)
	dead := max(binary.BigEndian.Uint32(made), life) - life // not below 0, even for a clock in 1970
	if _, err := prune(tx, keyMailed, binary.BigEndian.AppendUint32(append([]byte(nil), keyMailed...), dead)); err != nil {
		return err
	}
	return putJSON(tx, t.key(), t.mailRecord)
}

// check reads the token's record, which has the address.
//
// Errors: errTokenUnknown unless the token was mailed for this purpose, is not too old, and is not
// outdated by a newer password.
func (t *mailToken) check(tx *latchkey.Tx, now time.Time) error {
	var r mailRecord
	found, err := getJSON(tx, t.key(), &r)
	if err != nil {
		return err
	}
	id, _ := hex.DecodeString(t.id)
	made := time.Unix(int64(binary.BigEndian.Uint32(id)), 0)
	switch {
	case !found:
		return because(errTokenUnknown, "there is no token with this ID, or it was used, or it is long expired")
	case subtle.ConstantTimeCompare(r.Hash, t.hash()) != 1:
		return because(errTokenUnknown, "the token is not the one with this ID")
	case r.Kind != t.Kind:
		return because(errTokenUnknown, fmt.Sprintf("the token is for another purpose: %s", r.Kind))
	case now.Sub(made) >= mailTokenLife:
		return because(errTokenUnknown, fmt.Sprintf("the token has expired, because it was mailed more than %v ago", mailTokenLife))
	}
	t.mailRecord = r
	return t.checkStamp(tx)
}

// checkStamp returns errTokenUnknown if t resets a password, and the account has another password
// now or is gone.
func (t *mailToken) checkStamp(tx *latchkey.Tx) error {
	if t.Kind != MailReset {
		return nil
	}
	acc, err := findAccount(tx, t.Email)
	if err == nil && (acc == nil || !bytes.Equal(acc.stamp(), t.Stamp)) {
		err = because(errTokenUnknown, "the account has another password since the token was mailed, or is gone")
	}
	return err
}

// use checks a token and deletes it, so that it is good only once.
func (t *mailToken) use(tx *latchkey.Tx, now time.Time) error {
	if err := t.check(tx, now); err != nil {
		return err
	}
	return data(tx).Delete(t.key())
}

// sendMail stores a token, and gives it to [Options].Mail.
func (c *call) sendMail(t *mailToken) error {
	if err := c.countMail(t.Email); err != nil {
		return err
	}
	if err := c.app.store.Update(c.ctx(), t.put); err != nil {
		return err
	}
	c.mail(t)
	return nil
}

func (c *call) mail(t *mailToken) {
	if c.h.opts.Mail != nil {
		c.h.opts.Mail(c.ctx(), Mail{c.appID, t.Email, t.Kind, t.token, t.id})
	}
}
