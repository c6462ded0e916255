package appservices

import (
	"net/http"
	"slices"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
)

// A profileReply answers the request that follows every login.
type profileReply struct {
	UserID     string            `json:"user_id"`
	DomainID   string            `json:"domain_id"`
	Identities []profileIdentity `json:"identities"` // in the order of linking
	Data       map[string]any    `json:"data"`
	Type       string            `json:"type"` // normal or server
}

type profileIdentity struct {
	identityClaim
	ProviderData map[string]any `json:"provider_data,omitempty"`
}

// identityClaim returns an identity in the form that clients see. The form does not show the
// subject of an anonymous identity or of an e-mail address.
func (a *app) identityClaim(i latchkey.Identity) identityClaim {
	id := i.Subject
	switch i.Provider {
	case latchkey.ProviderAnonymous:
		id = anonymousID(a.domain, i.Subject)
	case latchkey.ProviderLocalUserpass:
		id = deriveID(a.domain, "identity", i.Subject)
	}
	return identityClaim{id, i.Provider, providerID(a.domain, i.Provider)}
}

// hasIdentity reports whether a user has the identity that clients see as claim.
func (a *app) hasIdentity(user latchkey.User, claim identityClaim) bool {
	return slices.ContainsFunc(user.Identities, func(i latchkey.Identity) bool { return a.identityClaim(i) == claim })
}

// keyClaim returns a key in the form of an identity.
func (a *app) keyClaim(key latchkey.Key) identityClaim {
	return identityClaim{KeyObjectID(key), latchkey.ProviderAPIKey, a.keysID}
}

func providerID(domain uuid.UUID, p latchkey.Provider) string {
	return deriveID(domain, "provider", string(p))
}

// markUsed makes a key one of its user's identities. The record has the number of identities that
// the user has now. The number is the key's place among them.
func markUsed(tx *latchkey.Tx, user *latchkey.User, key uuid.UUID) error {
	mark, err := data(tx).Get(usedKey(key))
	if err != nil || mark != nil {
		return err
	}
	return data(tx).Put(usedKey(key), []byte{byte(len(user.Identities))}) // at most 64
}

func (c *call) profile() (reply, error) {
	_, p, err := c.authenticate(accessToken)
	if err != nil {
		return reply{}, err
	}
	body := profileReply{UserID: p.objectID(), DomainID: c.app.wireID, Type: "normal", Data: map[string]any{}}
	if p.server != nil {
		body.Type, body.Data["name"] = "server", p.server.Name
		body.Identities = []profileIdentity{{identityClaim: c.app.keyClaim(*p.server)}}
		return reply{http.StatusOK, body}, nil
	}
	err = c.app.store.View(c.ctx(), func(tx *latchkey.Tx) error {
		used, err := c.app.usedKeys(tx, p.user)
		if err != nil {
			return err
		}
		for n, i := range p.user.Identities {
			body.Identities = append(body.Identities, used[n]...)
			identity := profileIdentity{identityClaim: c.app.identityClaim(i)}
			told, err := toldBy(tx, i)
			if err != nil {
				return err
			}
			if i.Provider == latchkey.ProviderLocalUserpass {
				identity.ProviderData = told
			}
			body.Identities = append(body.Identities, identity)
			merge(body.Data, told)
		}
		body.Identities = append(body.Identities, used[len(p.user.Identities)]...)
		return nil
	})
	return reply{http.StatusOK, body}, err
}

// usedKeys returns the keys that are identities of a user, by their place among the identities. If
// identities were unlinked since a key's first use, the key comes last.
func (a *app) usedKeys(tx *latchkey.Tx, user latchkey.User) (map[int][]profileIdentity, error) {
	keys, err := tx.Keys(user.ID)
	if err != nil {
		return nil, err
	}
	used := make(map[int][]profileIdentity)
	for _, key := range keys {
		mark, err := data(tx).Get(usedKey(key.ID))
		if err != nil {
			return nil, err
		}
		if len(mark) == 1 {
			place := min(int(mark[0]), len(user.Identities))
			used[place] = append(used[place], profileIdentity{identityClaim: a.keyClaim(key)})
		}
	}
	return used, nil
}

// toldBy returns the data about a user that the identity's provider gave.
func toldBy(tx *latchkey.Tx, i latchkey.Identity) (told map[string]any, err error) {
	if i.Provider == latchkey.ProviderLocalUserpass {
		return map[string]any{"email": i.Subject}, nil
	}
	_, err = getJSON(tx, profileKey(i), &told)
	return told, err
}

// textFields are the fields of a profile's data that clients read as strings. Clients fail if such
// a field has another type.
var textFields = map[string]bool{
	"name": true, "email": true, "picture_url": true, "first_name": true, "last_name": true,
	"gender": true, "birthday": true, "min_age": true, "max_age": true,
}

func merge(into, told map[string]any) {
	for field, value := range told {
		if _, isText := value.(string); isText || !textFields[field] && value != nil {
			into[field] = value
		}
	}
}

// deleteUser deletes the user of an access token, and this package's records of the user.
func (c *call) deleteUser() (reply, error) {
	_, p, err := c.authenticateToChange()
	if err != nil {
		return reply{}, err
	}
	if p.server != nil {
		return reply{}, errServerUser
	}
	err = c.delete(func(tx *latchkey.Tx) error { return deleteRecords(tx, p.user) },
		func(tx *latchkey.Tx) error { return tx.DeleteUser(p.user.ID) },
		func() error { return c.app.store.DeleteUser(c.ctx(), p.user.ID) })
	return noContent, err
}

// deleteRecords deletes this package's records of a user. It must run before the store deletes the
// user's keys.
func deleteRecords(tx *latchkey.Tx, user latchkey.User) error {
	keys, err := tx.Keys(user.ID)
	if err != nil {
		return err
	}
	for _, key := range keys {
		if err := data(tx).Delete(usedKey(key.ID)); err != nil {
			return err
		}
	}
	for _, i := range user.Identities {
		if err := data(tx).Delete(profileKey(i)); err != nil {
			return err
		}
		if i.Provider != latchkey.ProviderLocalUserpass {
			continue
		}
		if err := data(tx).Delete(accountKey(i.Subject)); err != nil {
			return err
		}
	}
	return nil
}
