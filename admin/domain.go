package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
)

// ErrKeysLeft means that a tag secret was not retired, because keys would be left without a token.
// Rotate the keys first.
var ErrKeysLeft = errors.New("keys would be left without a good token, and nothing was changed")

// exportDomain answers with the secrets of the domain.
func (c *call) exportDomain() error {
	if _, err := c.query(); err != nil {
		return err
	}
	c.w.Header().Set("Content-Type", "application/octet-stream")
	c.w.Header().Set("Content-Disposition", `attachment; filename="domain.pem"`)
	_, _ = c.w.Write(c.store.DomainSecrets().Export())
	return nil
}

// listTagSecrets answers with the tag secrets, and if asked to with how many keys have their newest
// token under each.
func (c *call) listTagSecrets() error {
	q, err := c.query("count")
	if err != nil {
		return err
	}
	count, err := boolParameter(q, "count")
	if err != nil {
		return err
	}
	list, err := c.tagSecrets(c.r.Context(), count)
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, list)
}

// tagSecrets returns the tag secrets. If count is true, it reads all keys, and counts those that
// have not expired.
func (c *call) tagSecrets(ctx context.Context, count bool) (list TagSecrets, err error) {
	secrets, err := c.store.TagSecrets(ctx)
	if err != nil {
		return list, err
	}
	list.Secrets = []TagSecret{}
	for _, t := range secrets {
		list.Secrets = append(list.Secrets, TagSecret{TagSecret: t})
	}
	if !count {
		return list, nil
	}
	keys, without, err := countTokens(ctx, c.store)
	for i := range list.Secrets {
		n := keys[list.Secrets[i].Number]
		list.Secrets[i].Keys = &n
	}
	list.WithoutToken = &without
	return list, err
}

// countTokens returns how many keys have their newest token under each tag secret, and how many
// have no good token.
func countTokens(ctx context.Context, s *latchkey.Store) (keys map[uint64]int, without int, err error) {
	keys = map[uint64]int{}
	for key, err := range s.AllKeys(ctx, latchkey.KeyFilter{}, uuid.Nil) {
		switch n := len(key.Tokens); {
		case err != nil:
			return nil, 0, err
		case !key.Expires.IsZero() && !s.Now().Before(key.Expires):
		case n == 0:
			without++
		case !key.Tokens[n-1].Foreign:
			keys[key.Tokens[n-1].TagSecret]++
		}
	}
	return keys, without, nil
}

// addTagSecret adds a tag secret. If the body says which number it is to get, a repetition adds
// nothing.
func (c *call) addTagSecret() error {
	var body struct {
		Number Optional[int64] `json:"number"`
	}
	if err := c.decode(&body, true); err != nil {
		return err
	}
	if body.Number.Value < 0 || body.Number.Value > maxNumber {
		return fmt.Errorf("%w: the field number must be a number from 0 to %d", errBadRequest, maxNumber)
	}
	return alone(&c.tags, func() error {
		if want := uint64(body.Number.Value); body.Number.Set {
			all, err := c.store.TagSecrets(c.r.Context())
			if err != nil {
				return err
			}
			next := uint64(0)
			for _, t := range all {
				if next = t.Number + 1; t.Number == want && t.State == latchkey.TagSecretAccepted {
					return c.answer(http.StatusOK, t)
				}
			}
			if want != next {
				return fmt.Errorf("%w: the next one gets the number %d", latchkey.ErrInvalidTagSecret, next)
			}
		}
		number, err := c.store.AddTagSecret(c.r.Context())
		if err != nil {
			return err
		}
		return c.answerTagSecret(http.StatusCreated, number)
	})
}

// answerTagSecret answers with a tag secret as it is now.
func (c *call) answerTagSecret(status int, number uint64) error {
	all, err := c.store.TagSecrets(c.afterChange())
	if err != nil {
		return err
	}
	// A secret that was retired long ago is not listed.
	secret := latchkey.TagSecret{Number: number, State: latchkey.TagSecretRetired}
	for _, t := range all {
		if t.Number == number {
			secret = t
		}
	}
	return c.answer(status, secret)
}

// pathTagSecret returns the number of a tag secret in the path.
func (c *call) pathTagSecret() (uint64, error) {
	number, err := strconv.ParseUint(c.r.PathValue("number"), 10, 64)
	if err != nil || number > uint64(maxNumber) {
		return 0, fmt.Errorf("%w: it is the number of a tag secret", errBadID)
	}
	return number, nil
}

func (c *call) useTagSecret() error {
	number, err := c.pathTagSecret()
	if err != nil {
		return err
	}
	if err := c.store.UseTagSecret(c.r.Context(), number); err != nil {
		return err
	}
	return c.answerTagSecret(http.StatusOK, number)
}

// retireTagSecret retires a tag secret, unless keys would be left without a token.
func (c *call) retireTagSecret() error {
	number, err := c.pathTagSecret()
	if err != nil {
		return err
	}
	var body struct {
		Force bool `json:"force"`
	}
	if err := c.decode(&body, true); err != nil {
		return err
	}
	if !body.Force {
		list, err := c.tagSecrets(c.r.Context(), true)
		if err != nil {
			return err
		}
		for _, t := range list.Secrets {
			if t.Number == number && t.State == latchkey.TagSecretAccepted && *t.Keys > 0 {
				return fmt.Errorf("%w: their number is %d", ErrKeysLeft, *t.Keys)
			}
		}
	}
	if err := c.store.RetireTagSecret(c.r.Context(), number); err != nil {
		return err
	}
	return c.answerTagSecret(http.StatusOK, number)
}

// maxDomain bounds the body with the secrets of a domain.
const maxDomain = 64 << 10

// takeTagSecrets takes over the steps of another store of the domain. No answer repeats anything of
// the body.
func (c *call) takeTagSecrets() error {
	if _, err := c.query(); err != nil {
		return err
	}
	body, err := c.body(maxDomain, "application/octet-stream")
	if err != nil {
		return err
	}
	text, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	secrets, err := latchkey.ParseDomainSecrets(text)
	if err != nil {
		return fmt.Errorf("%w: the body is not what GET /v1/domain-secrets has answered, or it is damaged", latchkey.ErrInvalidTagSecret)
	}
	if err := c.store.TakeTagSecrets(c.r.Context(), secrets); err != nil {
		return err
	}
	list, err := c.tagSecrets(c.afterChange(), false)
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, list)
}
