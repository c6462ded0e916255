package admin

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/tokenscan"
)

// listKeys answers with a page of keys.
func (c *call) listKeys() error {
	w, q, err := c.window("owner", "group", "name_prefix", "search", "state", "expiring_before", "unused_since", "tag_secret_before")
	if err != nil {
		return err
	}
	after, err := w.afterID()
	if err != nil {
		return err
	}
	filter, err := keyFilter(q)
	if err != nil {
		return err
	}
	keep := c.keySearch(q.Get("search"))
	found, next, err := take(w, c.store.AllKeys(c.r.Context(), filter, after), keep, func(k latchkey.Key) string { return k.ID.String() })
	if err != nil {
		return err
	}
	items, err := readAgain(c, found, latchkey.ErrKeyNotFound, func(tx *latchkey.Tx, k latchkey.Key) (Key, error) { return readKey(tx, k.ID) })
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, List[Key]{Items: items, Next: next})
}

// keySearch returns a function that reports whether a key has a text in its name, its ID, or a
// subject or the ID of its owner.
func (c *call) keySearch(text string) func(latchkey.Key) bool {
	if text == "" {
		return func(latchkey.Key) bool { return true }
	}
	text = strings.ToLower(text)
	owners := map[uuid.UUID]bool{} // whether the owner has the text
	return func(k latchkey.Key) bool {
		if strings.Contains(strings.ToLower(k.Name), text) || strings.Contains(k.ID.String(), text) {
			return true
		}
		if k.Owner == latchkey.ServerOwner {
			return false
		}
		has, known := owners[k.Owner]
		if !known {
			u, err := c.store.User(c.r.Context(), k.Owner)
			has = err == nil && hasText(u, text)
			owners[k.Owner] = has
		}
		return has
	}
}

// keyFilter reads the parameters of a list of keys.
func keyFilter(q url.Values) (f latchkey.KeyFilter, err error) {
	if q.Has("owner") {
		var owner Owner
		if owner.UnmarshalText([]byte(q.Get("owner"))) != nil {
			return f, badParameter("owner", "the ID of a user, or server")
		}
		f.Owner = uuid.UUID(owner)
	}
	f.Group, f.NamePrefix = q.Get("group"), q.Get("name_prefix")
	switch state := q.Get("state"); {
	case !q.Has("state"):
	case state == "enabled":
		f.State = latchkey.KeyEnabled
	case state == "disabled":
		f.State = latchkey.KeyDisabled
	case state == "expired":
		f.State = latchkey.KeyExpired
	default:
		return f, badParameter("state", "enabled, disabled or expired")
	}
	if f.ExpiringBefore, err = timeParameter(q, "expiring_before"); err != nil {
		return f, err
	}
	if f.UnusedSince, err = timeParameter(q, "unused_since"); err != nil {
		return f, err
	}
	f.TagSecretBefore, err = numberParameter(q, "tag_secret_before", 1, math.MaxUint32, 0)
	return f, err
}

// readKey returns a key with its ETag.
func readKey(tx *latchkey.Tx, id uuid.UUID) (Key, error) {
	k, err := tx.KeyByID(id)
	if err != nil {
		return Key{}, err
	}
	sequence, err := tx.KeySequence(id)
	if err != nil {
		return Key{}, err
	}
	key := keyOf(k, sequence, tx.Now())
	group := k.Group
	if k.Owner != latchkey.ServerOwner {
		switch u, err := tx.User(k.Owner); {
		case errors.Is(err, latchkey.ErrUserNotFound): // a damaged store
		case err != nil:
			return Key{}, err
		default:
			key.Identity, group = u.Identities[0], u.Group
			if u.Disabled {
				key.Stopped = "user"
			}
		}
	}
	if group != "" && key.Stopped == "" {
		g, err := tx.Group(group)
		if err != nil {
			return Key{}, err
		}
		if g.Disabled {
			key.Stopped = "group"
		}
	}
	return key, nil
}

// keyOf returns a key of the store as the API shows it.
func keyOf(k latchkey.Key, sequence uint64, now time.Time) Key {
	key := Key{
		ID: k.ID, Owner: Owner(k.Owner), Name: k.Name, Created: k.Created, Expires: k.Expires,
		Expired: !k.Expires.IsZero() && !now.Before(k.Expires), Disabled: k.Disabled,
		Scopes: k.Scopes.All(), Networks: append([]netip.Prefix{}, k.Networks...), Metadata: k.Metadata,
		Group: k.Group, Tokens: []Token{}, LastUsed: k.LastUsed, ETag: etag(sequence),
	}
	if key.Metadata == nil {
		key.Metadata = map[string]string{}
	}
	for _, t := range k.Tokens {
		key.Tokens = append(key.Tokens, Token{ID: t.ID, Ends: t.Ends, TagSecret: t.TagSecret, Foreign: t.Foreign, LastUsed: t.LastUsed})
	}
	return key
}

// keyNow returns a key as it is now.
func (c *call) keyNow(ctx context.Context, id uuid.UUID) (key Key, err error) {
	err = c.store.View(ctx, func(tx *latchkey.Tx) (err error) {
		key, err = readKey(tx, id)
		return err
	})
	return key, err
}

// answerKey answers with a key as it is now.
func (c *call) answerKey(ctx context.Context, id uuid.UUID) error {
	key, err := c.keyNow(ctx, id)
	if err != nil {
		return err
	}
	c.w.Header().Set("ETag", key.ETag)
	return c.answer(http.StatusOK, key)
}

func (c *call) showKey() error {
	id, err := c.pathID("key")
	if err != nil {
		return err
	}
	return c.answerKey(c.r.Context(), id)
}

// createKey makes a key of a user.
func (c *call) createKey() error {
	user, err := c.pathID("user")
	if err != nil {
		return err
	}
	return c.create(func(tx *latchkey.Tx, n latchkey.KeySpec, m latchkey.MintedKey) (latchkey.Key, error) {
		return tx.InsertKey(user, n, m)
	})
}

func (c *call) createServerKey() error {
	return c.create(func(tx *latchkey.Tx, n latchkey.KeySpec, m latchkey.MintedKey) (latchkey.Key, error) {
		return tx.InsertServerKey(n, m)
	})
}

// create makes a key, which insert inserts in a transaction.
func (c *call) create(insert func(*latchkey.Tx, latchkey.KeySpec, latchkey.MintedKey) (latchkey.Key, error)) error {
	var n NewKey
	if err := c.decode(&n, false); err != nil {
		return err
	}
	spec := latchkey.KeySpec{Name: n.Name, Expires: n.Expires, Scopes: latchkey.NewScopes(n.Scopes...), Networks: n.Networks, Metadata: n.Metadata, Group: n.Group}
	if err := c.mayMake(spec.Scopes); err != nil {
		return err
	}
	// A repetition ends before the slow hash.
	id, repeated, err := c.once(n, nil)
	var minted latchkey.MintedKey
	var token string
	var key latchkey.Key
	if err == nil && !repeated {
		if minted, token, err = c.store.MintKey(c.r.Context()); err != nil {
			return err
		}
		id, repeated, err = c.once(n, func(tx *latchkey.Tx) (uuid.UUID, error) {
			key, err = insert(tx, spec, minted)
			return key.ID, err
		})
	}
	if err != nil {
		return err
	}
	c.w.Header().Set("Location", "/v1/keys/"+id.String())
	if repeated {
		return c.answerRepeated(id)
	}
	return c.answerToken(http.StatusCreated, key, token)
}

// mayMake returns errNoSecrets if a token of a key with these scopes could get what the caller may
// not have.
func (c *call) mayMake(scopes latchkey.Scopes) error {
	reserved := func(scope string) bool { return strings.HasPrefix(scope, "latchkey:") }
	if !c.caller.Secrets && slices.ContainsFunc(scopes.All(), reserved) {
		return errNoSecrets
	}
	return nil
}

// answerRepeated answers the repetition of a creation.
func (c *call) answerRepeated(id uuid.UUID) error {
	key, err := c.keyNow(c.r.Context(), id)
	if errors.Is(err, latchkey.ErrKeyNotFound) {
		return latchkey.ErrKeyDeleted
	}
	if err != nil {
		return err
	}
	c.w.Header().Set("ETag", key.ETag)
	return c.answer(http.StatusOK, KeyWithToken{Key: key, Repeated: true,
		Advice: "The key was made by an earlier request with this Idempotency-Key, and its token was in the answer. If that answer is lost, rotate the key to get another token."})
}

// answerToken answers with a key and its new token. It must not fail, because nobody can get the
// token again: a key that cannot be read now is the one that the transaction has returned.
func (c *call) answerToken(status int, k latchkey.Key, token string) error {
	key, err := c.keyNow(c.afterChange(), k.ID)
	if err != nil {
		key = keyOf(k, 0, c.store.Now())
	}
	c.w.Header().Set("ETag", key.ETag)
	return c.answer(status, KeyWithToken{Key: key, Token: token})
}

// changeKey changes the fields of a key that the body has, in one transaction. Only a disabling
// needs no ETag, because it must not fail when the key was changed meanwhile.
func (c *call) changeKey() error {
	id, err := c.pathID("key")
	if err != nil {
		return err
	}
	var change KeyChange
	if err := c.decode(&change, false); err != nil {
		return err
	}
	onlyDisables := change.Disabled.Value && !change.Name.Set && !change.Expires.Set && !change.Scopes.Set &&
		!change.Networks.Set && !change.Metadata.Set && !change.Group.Set
	err = c.store.Update(c.r.Context(), func(tx *latchkey.Tx) error {
		key, err := tx.KeyByID(id)
		if err != nil {
			return err
		}
		if err := c.matchKey(tx, id, !onlyDisables); err != nil {
			return err
		}
		if change.Scopes.Set {
			if err := c.mayMake(latchkey.NewScopes(change.Scopes.Value...)); err != nil {
				return err
			}
		}
		return change.apply(tx, key)
	})
	if err != nil {
		return err
	}
	return c.answerKey(c.afterChange(), id)
}

// apply makes the change.
func (change KeyChange) apply(tx *latchkey.Tx, key latchkey.Key) error {
	if change.Name.Set {
		if err := tx.RenameKey(key.Owner, key.ID, change.Name.Value); err != nil {
			return err
		}
	}
	if change.Expires.Set {
		var expires time.Time
		if t := change.Expires.Value; t != nil {
			expires = *t
		}
		if err := tx.SetExpiry(key.Owner, key.ID, expires); err != nil {
			return err
		}
	}
	if change.Scopes.Set {
		if err := tx.SetScopes(key.Owner, key.ID, latchkey.NewScopes(change.Scopes.Value...)); err != nil {
			return err
		}
	}
	if change.Networks.Set {
		if err := tx.SetNetworks(key.Owner, key.ID, change.Networks.Value); err != nil {
			return err
		}
	}
	if change.Metadata.Set {
		if err := tx.SetMetadata(key.Owner, key.ID, change.Metadata.Value); err != nil {
			return err
		}
	}
	if change.Group.Set {
		if key.Owner != latchkey.ServerOwner {
			return fmt.Errorf("%w: a key of a user is in the group of the user", latchkey.ErrInvalidGroup)
		}
		if err := tx.SetKeyGroup(key.ID, change.Group.Value); err != nil {
			return err
		}
	}
	switch {
	case !change.Disabled.Set:
		return nil
	case change.Disabled.Value:
		return tx.DisableKey(key.Owner, key.ID)
	}
	return tx.EnableKey(key.Owner, key.ID)
}

func (c *call) deleteKey() error {
	id, err := c.pathID("key")
	if err != nil {
		return err
	}
	var owner uuid.UUID
	err = c.deleteWhole(func(tx *latchkey.Tx) error {
		key, err := tx.KeyByID(id)
		if err != nil {
			return err
		}
		if err := c.matchKey(tx, id, false); err != nil {
			return err
		}
		owner = key.Owner
		return tx.DeleteKey(owner, id)
	}, func() error { return c.store.DeleteKey(c.r.Context(), owner, id) })
	if err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

// maxOverlap is the longest overlap of a rotation, in seconds: 285 years. A [time.Duration] holds
// little more.
const maxOverlap = 9_000_000_000

// rotateKey gives a key a new token. It needs an ETag, so that a repetition after a lost answer
// does not end the token that somebody else has got meanwhile.
func (c *call) rotateKey() error {
	id, err := c.pathID("key")
	if err != nil {
		return err
	}
	var n Rotation
	if err := c.decode(&n, true); err != nil {
		return err
	}
	if n.OverlapSeconds < 0 || n.OverlapSeconds > maxOverlap {
		return fmt.Errorf("%w: overlap_seconds must be from 0 to %d", latchkey.ErrInvalidRotation, int64(maxOverlap))
	}
	rotation := latchkey.Rotation{Overlap: time.Duration(n.OverlapSeconds) * time.Second, UntilUsed: n.UntilUsed}
	var key latchkey.Key
	read := func(tx *latchkey.Tx) (err error) {
		if key, err = tx.KeyByID(id); err != nil {
			return err
		}
		if err := c.mayMake(key.Scopes); err != nil {
			return err
		}
		return c.matchKey(tx, id, true)
	}
	if err := c.store.View(c.r.Context(), read); err != nil { // before the slow hash
		return err
	}
	minted, token, err := c.store.MintToken(c.r.Context(), key.Owner, id)
	if err != nil {
		return err
	}
	err = c.store.Update(c.r.Context(), func(tx *latchkey.Tx) (err error) {
		if err := read(tx); err != nil {
			return err
		}
		if key.Owner == latchkey.ServerOwner {
			key, err = tx.RotateServerKey(id, rotation, minted)
		} else {
			key, err = tx.RotateKey(key.Owner, id, rotation, minted)
		}
		return err
	})
	if err != nil {
		return err
	}
	return c.answerToken(http.StatusOK, key, token)
}

// exportKey answers with the stored verifier of a key.
func (c *call) exportKey() error {
	id, err := c.pathID("key")
	if err != nil {
		return err
	}
	minted, err := c.store.ExportKey(c.r.Context(), id)
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, ExportedKey{minted.Export()})
}

// login answers with the principal of a token. The token does not count as used, unless the body
// asks for it, or the key of the token was made elsewhere: only a login finds such a key.
func (c *call) login() error {
	var n Login
	if err := c.decode(&n, false); err != nil {
		return err
	}
	var who latchkey.Principal
	err := latchkey.ErrInvalidToken
	if !n.Use {
		who, err = c.store.Inspect(c.r.Context(), n.Token, n.Address)
	}
	if errors.Is(err, latchkey.ErrInvalidToken) {
		who, err = c.store.LoginFrom(c.r.Context(), n.Token, n.Address)
	}
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, who)
}

// findToken answers with the key of a token that somebody has found. The token is in the body,
// because URLs are logged.
func (c *call) findToken() error {
	var body struct {
		Token string `json:"token"`
	}
	if err := c.decode(&body, false); err != nil {
		return err
	}
	for found, err := range tokenscan.FindTokens(strings.NewReader(body.Token), "") {
		if err != nil {
			return err
		}
		answer, err := tokenscan.Ask(c.r.Context(), c.store, found)
		if err != nil {
			return err
		}
		if answer.State == tokenscan.Unknown || found.Token() != body.Token {
			break
		}
		f := FoundToken{State: string(answer.State)}
		if answer.Reason != nil {
			f.Reason = problemOf(answer.Reason).Type
		} else {
			f.Principal = &answer.Principal
		}
		if f.Key, err = c.keyNow(c.r.Context(), found.KeyID); err != nil {
			return err
		}
		return c.answer(http.StatusOK, f)
	}
	return ErrTokenUnknown
}
