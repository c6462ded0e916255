package appservices

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"encoding/hex"
	"time"

	"github.com/latchkeydb/latchkey"
)

// A mailToken is what proves that somebody reads the mail of an address. Only its hash is kept. Its ID begins with the
// time that it was made at, so that the oldest come first in the store. One that resets a password is good as long as the
// account has the password that it had.
type mailToken struct {
	id, token string // hexadecimal
	mailRecord
}

type mailRecord struct {
	Kind  MailKind `json:"kind"`
	Email string   `json:"email"`
	Hash  []byte   `json:"hash"`            // SHA-256
	Stamp []byte   `json:"stamp,omitempty"` // the account's, in a MailReset
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

// newResetToken makes the token that lets an account's password be set anew.
func (h *Handler) newResetToken(acc *account) *mailToken {
	t := h.newMailToken(MailReset, acc.Email)
	t.Stamp = acc.stamp()
	return t
}

// readMailToken reads what a client sends back. It knows no address yet.
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
	dead := max(binary.BigEndian.Uint32(made), life) - life // a clock may begin in 1970
	if _, err := prune(tx, keyMailed, binary.BigEndian.AppendUint32(append([]byte(nil), keyMailed...), dead)); err != nil {
		return err
	}
	return putJSON(tx, t.key(), t.mailRecord)
}

// check returns errTokenUnknown unless the token is one that was mailed, for the same purpose and not too long ago, and is
// not outdated. It learns whose it is.
func (t *mailToken) check(tx *latchkey.Tx, now time.Time) error {
	var r mailRecord
	found, err := getJSON(tx, t.key(), &r)
	if err != nil {
		return err
	}
	id, _ := hex.DecodeString(t.id)
	made := time.Unix(int64(binary.BigEndian.Uint32(id)), 0)
	if !found || subtle.ConstantTimeCompare(r.Hash, t.hash()) != 1 || r.Kind != t.Kind || now.Sub(made) >= mailTokenLife {
		return errTokenUnknown
	}
	t.mailRecord = r
	return t.checkStamp(tx)
}

// checkStamp returns errTokenUnknown if a reset is not for the account that there is now.
func (t *mailToken) checkStamp(tx *latchkey.Tx) error {
	if t.Kind != MailReset {
		return nil
	}
	acc, err := findAccount(tx, t.Email)
	if err == nil && (acc == nil || !bytes.Equal(acc.stamp(), t.Stamp)) {
		err = errTokenUnknown
	}
	return err
}

// use is check for the only time.
func (t *mailToken) use(tx *latchkey.Tx, now time.Time) error {
	if err := t.check(tx, now); err != nil {
		return err
	}
	return data(tx).Delete(t.key())
}

// sendMail keeps a token and hands it to whoever sends mail.
func (c *call) sendMail(t *mailToken) error {
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
