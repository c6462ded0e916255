package admin

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
)

// listUsers answers with a page of users, or with the user of an identity.
func (c *call) listUsers() error {
	w, q, err := c.window("group", "disabled", "search", "provider", "subject")
	if err != nil {
		return err
	}
	after, err := w.afterID()
	if err != nil {
		return err
	}
	disabled := q.Get("disabled")
	if q.Has("disabled") && disabled != "true" && disabled != "false" {
		return badParameter("disabled", "true or false")
	}
	var list List[User]
	var found []latchkey.User
	if q.Has("provider") || q.Has("subject") {
		u, err := c.store.UserByIdentity(c.r.Context(), latchkey.Identity{Provider: latchkey.Provider(q.Get("provider")), Subject: q.Get("subject")})
		if err != nil && !errors.Is(err, latchkey.ErrUserNotFound) {
			return err
		}
		if err == nil {
			found = append(found, u)
		}
	} else {
		search := strings.ToLower(q.Get("search"))
		keep := func(u latchkey.User) bool {
			return (!q.Has("group") || u.Group == q.Get("group")) &&
				(disabled == "" || u.Disabled == (disabled == "true")) && hasText(u, search)
		}
		found, list.Next, err = take(w, c.store.Users(c.r.Context(), after), keep, func(u latchkey.User) string { return u.ID.String() })
		if err != nil {
			return err
		}
	}
	list.Items, err = readAgain(c, found, latchkey.ErrUserNotFound, func(tx *latchkey.Tx, u latchkey.User) (User, error) { return readUser(tx, u.ID) })
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, list)
}

// hasText reports whether a user has a text, in lower case, in a subject or in the ID.
func hasText(u latchkey.User, search string) bool {
	if strings.Contains(u.ID.String(), search) {
		return true
	}
	for _, i := range u.Identities {
		if strings.Contains(strings.ToLower(i.Subject), search) {
			return true
		}
	}
	return false
}

// readUser returns a user with its ETag.
func readUser(tx *latchkey.Tx, id uuid.UUID) (User, error) {
	u, err := tx.User(id)
	if err != nil {
		return User{}, err
	}
	sequence, err := tx.UserSequence(id)
	return User{u, etag(sequence)}, err
}

// answerUser answers with a user as it is now.
func (c *call) answerUser(ctx context.Context, status int, id uuid.UUID) error {
	var user User
	err := c.store.View(ctx, func(tx *latchkey.Tx) (err error) {
		user, err = readUser(tx, id)
		return err
	})
	if err != nil {
		return err
	}
	c.w.Header().Set("ETag", user.ETag)
	return c.answer(status, user)
}

func (c *call) showUser() error {
	id, err := c.pathID("user")
	if err != nil {
		return err
	}
	return c.answerUser(c.r.Context(), http.StatusOK, id)
}

func (c *call) createUser() error {
	var n NewUser
	if err := c.decode(&n, false); err != nil {
		return err
	}
	id, repeated, err := c.once(n, func(tx *latchkey.Tx) (uuid.UUID, error) {
		u, err := tx.CreateUser(latchkey.UserSpec{Identity: n.Identity, Group: n.Group, Metadata: n.Metadata})
		return u.ID, err
	})
	if err != nil {
		return err
	}
	c.w.Header().Set("Location", "/v1/users/"+id.String())
	if repeated {
		return c.answerUser(c.afterChange(), http.StatusOK, id)
	}
	return c.answerUser(c.afterChange(), http.StatusCreated, id)
}

// changeUser changes the fields of a user that the body has, in one transaction. Only a disabling
// needs no ETag, because it must not fail when the user was changed meanwhile.
func (c *call) changeUser() error {
	id, err := c.pathID("user")
	if err != nil {
		return err
	}
	var change UserChange
	if err := c.decode(&change, false); err != nil {
		return err
	}
	onlyDisables := change.Disabled.Value && !change.Group.Set && !change.Metadata.Set
	err = c.store.Update(c.r.Context(), func(tx *latchkey.Tx) error {
		if _, err := tx.User(id); err != nil {
			return err
		}
		if err := c.matchUser(tx, id, !onlyDisables); err != nil {
			return err
		}
		if change.Group.Set {
			if err := tx.SetUserGroup(id, change.Group.Value); err != nil {
				return err
			}
		}
		if change.Metadata.Set {
			if err := tx.SetUserMetadata(id, change.Metadata.Value); err != nil {
				return err
			}
		}
		switch {
		case !change.Disabled.Set:
			return nil
		case change.Disabled.Value:
			return tx.DisableUser(id)
		}
		return tx.EnableUser(id)
	})
	if err != nil {
		return err
	}
	return c.answerUser(c.afterChange(), http.StatusOK, id)
}

func (c *call) deleteUser() error {
	id, err := c.pathID("user")
	if err != nil {
		return err
	}
	err = c.deleteWhole(func(tx *latchkey.Tx) error {
		if _, err := tx.User(id); err != nil {
			return err
		}
		if err := c.matchUser(tx, id, false); err != nil {
			return err
		}
		return tx.DeleteUser(id)
	}, func() error { return c.store.DeleteUser(c.r.Context(), id) })
	if err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

func (c *call) linkIdentity() error {
	var identity latchkey.Identity
	if err := c.decode(&identity, false); err != nil {
		return err
	}
	return c.changeIdentities(func(change func(*latchkey.Tx) error) error {
		return c.store.Update(c.r.Context(), change)
	}, func(tx *latchkey.Tx, id uuid.UUID) error {
		_, err := tx.LinkIdentity(id, identity)
		return err
	})
}

func (c *call) unlinkIdentity() error {
	q := c.r.URL.Query()
	identity := latchkey.Identity{Provider: latchkey.Provider(q.Get("provider")), Subject: q.Get("subject")}
	return c.changeIdentities(func(change func(*latchkey.Tx) error) error {
		return c.delete(change, "provider", "subject")
	}, func(tx *latchkey.Tx, id uuid.UUID) error {
		_, err := tx.UnlinkIdentity(id, identity)
		return err
	})
}

// changeIdentities makes a change in a transaction that run runs.
func (c *call) changeIdentities(run func(func(*latchkey.Tx) error) error, change func(tx *latchkey.Tx, id uuid.UUID) error) error {
	id, err := c.pathID("user")
	if err != nil {
		return err
	}
	err = run(func(tx *latchkey.Tx) error {
		if _, err := tx.User(id); err != nil {
			return err
		}
		if err := c.matchUser(tx, id, false); err != nil {
			return err
		}
		return change(tx, id)
	})
	if err != nil {
		return err
	}
	return c.answerUser(c.afterChange(), http.StatusOK, id)
}
