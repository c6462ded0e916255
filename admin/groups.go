package admin

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"

	"github.com/latchkeydb/latchkey"
)

// listGroups answers with a page of groups. The cursor is the name of a group in base64, because a
// name can have any character.
func (c *call) listGroups() error {
	w, q, err := c.window("search")
	if err != nil {
		return err
	}
	after, err := base64.RawURLEncoding.DecodeString(w.cursor)
	if err != nil || len(after) > latchkey.MaxGroup {
		return errBadCursor
	}
	search := strings.ToLower(q.Get("search"))
	has := func(g latchkey.Group) bool { return strings.Contains(strings.ToLower(g.Name), search) }
	found, next, err := take(w, c.store.Groups(c.r.Context(), string(after)), has, func(g latchkey.Group) string {
		return base64.RawURLEncoding.EncodeToString([]byte(g.Name))
	})
	if err != nil {
		return err
	}
	items, err := readAgain(c, found, nil, func(tx *latchkey.Tx, g latchkey.Group) (Group, error) { return readGroup(tx, g.Name) })
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, List[Group]{Items: items, Next: next})
}

// readGroup returns a group with its ETag.
func readGroup(tx *latchkey.Tx, name string) (Group, error) {
	g, err := tx.Group(name)
	if err != nil {
		return Group{}, err
	}
	sequence, err := tx.GroupSequence(name)
	return Group{g, etag(sequence)}, err
}

func (c *call) showGroup() error { return c.answerGroup(c.r.Context()) }

// answerGroup answers with the group in the path.
func (c *call) answerGroup(ctx context.Context) error {
	var group Group
	err := c.store.View(ctx, func(tx *latchkey.Tx) (err error) {
		group, err = readGroup(tx, c.r.PathValue("group"))
		return err
	})
	if err != nil {
		return err
	}
	c.w.Header().Set("ETag", group.ETag)
	return c.answer(http.StatusOK, group)
}

// changeGroup disables or enables a group. Disabling needs no ETag, as for a key.
func (c *call) changeGroup() error {
	var change GroupChange
	if err := c.decode(&change, false); err != nil {
		return err
	}
	if !change.Disabled.Set {
		return fmt.Errorf("%w: the body must have the field disabled", errBadRequest)
	}
	name := c.r.PathValue("group")
	err := c.store.Update(c.r.Context(), func(tx *latchkey.Tx) error {
		sequence, err := tx.GroupSequence(name)
		if err != nil {
			return err
		}
		if err := c.match(sequence, !change.Disabled.Value); err != nil {
			return err
		}
		if change.Disabled.Value {
			return tx.DisableGroup(name)
		}
		return tx.EnableGroup(name)
	})
	if err != nil {
		return err
	}
	return c.answerGroup(c.afterChange())
}
