package latchkey

import (
	"context"
	"fmt"
	"time"

	"github.com/latchkeydb/latchkey/internal/record"
	"github.com/latchkeydb/latchkey/internal/tokenform"
)

// A TagSecret is what the store tells about one of the secrets under which the stores of a domain
// make and check the tags of tokens. [DomainSecrets] have the secret itself.
//
// A tag secret that somebody else may know is replaced step by step: [Store.AddTagSecret],
// [Store.UseTagSecret], new tokens for all keys, [Store.RetireTagSecret]. Where a domain has
// several stores, one of them takes each step, and the others follow with [Store.TakeTagSecrets]
// before the next step. docs/threat-model.md says when to replace a tag secret.
type TagSecret struct {
	Number  uint64         `json:"number"` // the first one of a domain has 0
	State   TagSecretState `json:"state"`
	Changed time.Time      `json:"changed,omitzero"` // of the last step; zero if there was none yet
}

// A TagSecretState is the last step that a tag secret has taken.
type TagSecretState string

// The states.
const (
	TagSecretAccepted TagSecretState = "accepted" // tokens under it are good
	TagSecretUsed     TagSecretState = "used"     // and new tokens are made under it
	TagSecretRetired  TagSecretState = "retired"  // tokens under it are refused
)

// TagSecrets returns the domain's tag secrets in the order of their numbers, without those that
// were retired long ago. Exactly one of them is in use. [KeyFilter].TagSecretBefore lists the keys
// that still need a token under a newer one.
//
// It returns an error of [Store.View].
func (s *Store) TagSecrets(ctx context.Context) (all []TagSecret, err error) {
	secrets, err := read(ctx, s, (*Tx).tagSecrets)
	signing, _ := secrets.Signing()
	for _, t := range secrets.All {
		state := [...]TagSecretState{TagSecretAccepted, TagSecretAccepted, TagSecretRetired}[t.State]
		if t.Number == signing.Number {
			state = TagSecretUsed
		}
		all = append(all, TagSecret{t.Number, state, t.Changed})
	}
	return all, wrapf(err, "tag secrets")
}

// AddTagSecret adds a new tag secret to the domain, and returns its number. Tokens under it are
// good from then on, but none are made until [Store.UseTagSecret].
//
// It returns [ErrInvalidTagSecret] if the domain accepts four already, or an error of
// [Store.Update].
func (s *Store) AddTagSecret(ctx context.Context) (number uint64, err error) {
	err = s.changeTagSecrets(ctx, func(tx *Tx, secrets record.TagSecrets) (_ record.TagSecrets, err error) {
		var secret [16]byte
		s.random.Fill(secret[:])
		secrets, number, err = secrets.Add(secret, tx.now())
		return secrets, err
	})
	return orZero(number, wrapf(err, "add a tag secret"))
}

// UseTagSecret lets the store make new tokens under a tag secret that was added. Old tokens stay
// good. Without a rotation, a key keeps its old token. A tag secret that is in use stays in use.
//
// It returns [ErrInvalidTagSecret] if there is no such secret, or if it is retired or older than
// the one in use; or an error of [Store.Update].
func (s *Store) UseTagSecret(ctx context.Context, number uint64) error {
	return wrapf(s.changeTagSecrets(ctx, func(tx *Tx, secrets record.TagSecrets) (record.TagSecrets, error) {
		return secrets.Use(number, tx.now())
	}), "use tag secret %d", number)
}

// RetireTagSecret ends all tokens under a tag secret, for good. A login with such a token does not
// succeed if it begins after RetireTagSecret has returned. A key that has no other token stays, and
// needs a rotation. A key that was minted under the secret cannot be inserted any more. Retiring a
// retired secret changes nothing.
//
// It returns [ErrInvalidTagSecret] if there is no such secret, or if it is in use; or an error of
// [Store.Update].
func (s *Store) RetireTagSecret(ctx context.Context, number uint64) error {
	return wrapf(s.changeTagSecrets(ctx, func(tx *Tx, secrets record.TagSecrets) (record.TagSecrets, error) {
		return secrets.Retire(number, tx.now())
	}), "retire tag secret %d", number)
}

// TakeTagSecrets takes the steps that another store of the domain had taken when d was exported.
//
// It returns [ErrInvalidTagSecret] if d is empty or of another domain, or if the two stores have
// taken steps that contradict each other; or an error of [Store.Update].
func (s *Store) TakeTagSecrets(ctx context.Context, d DomainSecrets) error {
	return s.takeTagSecrets(ctx, d, false)
}

// takeTagSecrets is TakeTagSecrets, or in a merge the same for a store that follows the other one.
func (s *Store) takeTagSecrets(ctx context.Context, d DomainSecrets, merging bool) error {
	return wrapf(s.changeTagSecrets(ctx, func(tx *Tx, secrets record.TagSecrets) (record.TagSecrets, error) {
		tx.merging = merging
		if d.ID() != s.domain.ID {
			return secrets, fmt.Errorf("%w: these are secrets of another domain", ErrInvalidTagSecret)
		}
		if merging {
			return secrets.Follow(d.d().Tags)
		}
		return secrets.Take(d.d().Tags)
	}), "take tag secrets")
}

// changeTagSecrets takes a step of a replacement.
func (s *Store) changeTagSecrets(ctx context.Context, step func(*Tx, record.TagSecrets) (record.TagSecrets, error)) error {
	return s.Update(ctx, func(tx *Tx) error {
		was, err := tx.tagSecrets()
		next := was
		if err == nil {
			next, err = step(tx, was)
		}
		changed := next.Since(was)
		if err != nil || len(changed) == 0 {
			return err
		}
		for _, t := range changed {
			actions := [...]Action{ActionTagSecretAdded, ActionTagSecretUsed, ActionTagSecretRetired}
			tx.note(Change{Actions: actions[t.State : t.State+1], Name: fmt.Sprint(t.Number)})
		}
		tx.newTags = &next
		return tx.putRecord(tableMeta, metaTags, next.Encode())
	})
}

// tagSecrets returns the domain's tag secrets as the transaction sees them.
func (tx *Tx) tagSecrets() (record.TagSecrets, error) {
	secrets, err := record.ReadTagSecrets(metaRecords(tx.etx))
	return secrets, recordError(err)
}

// checkTag returns ErrInvalidMintedKey if logins would refuse the token of a minted key.
func (tx *Tx) checkTag(v record.Verifier) error {
	secrets, err := tx.tagSecrets()
	if err == nil && v.Tagged() && !secrets.Accepts(v.Tag) {
		err = fmt.Errorf("%w: the store does not accept tag secret %d, under which the token was made", ErrInvalidMintedKey, v.Tag)
	}
	return err
}

// readTagSecrets reads the tag secrets that logins go by from now on.
func (s *Store) readTagSecrets() (secrets record.TagSecrets, err error) {
	err = s.engine.View(context.Background(), func(etx EngineTx) (err error) {
		secrets, err = s.newTx(etx).tagSecrets()
		return err
	})
	return secrets, err
}

// genuineStill returns ErrInvalidToken for a token whose tag is not good, unless a commit in
// progress retires the secret of the tag, and cannot be seen yet.
func (s *Store) genuineStill(ctx context.Context, tokens *tokenform.State, t tokenform.Token) error {
	if tokens.Leaving(&t) {
		secrets, err := read(ctx, s, (*Tx).tagSecrets)
		if err != nil {
			return wrapf(err, "login")
		}
		if tokenform.NewState(s.domain.Prefix, secrets).Genuine(&t) {
			return nil
		}
	}
	s.counters.Add(statForged, 1)
	return ErrInvalidToken
}
