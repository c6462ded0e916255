package replica

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/access"
	"github.com/latchkeydb/latchkey/internal/replication"
	"github.com/latchkeydb/latchkey/internal/tokenform"
)

// The lives of invitations and of the keys of edges.
const (
	invitationLife = time.Hour
	// An edge exchanges its key after renewAfter. Until keyLife, an edge that was away can go on at
	// once, and until exchangeLife after that, it can still exchange the key.
	renewAfter   = 90 * 24 * time.Hour
	keyLife      = 120 * 24 * time.Hour
	exchangeLife = 30 * 24 * time.Hour
	// renewOverlap is how long the old token stays good if the edge does not use the new one.
	renewOverlap = keyLife + exchangeLife
	// renewAgain is how long after a renewal only the process that has made the token can answer an
	// edge that has lost the answer.
	renewAgain = 10 * time.Minute
)

// invitationTable is the application table of the hub's store with the invitations, by the SHA-256
// of their secrets.
const invitationTable = "latchkey-invitations"

// A kept invitation is what the hub keeps of one.
type keptInvitation struct {
	Groups  []string  `json:"groups"`
	Push    Push      `json:"push"`
	Expires time.Time `json:"expires"`
	// Nonce is the SHA-256 of what the edge that has used the invitation drew for that. It is empty
	// as long as nobody has used the invitation.
	Nonce []byte    `json:"nonce,omitempty"`
	Edge  uuid.UUID `json:"edge,omitzero"`
}

// Invite makes an invitation, with which one edge can join within an hour, by the time of the
// store. The invitation is secret. It cannot be seen again.
//
// Errors: [latchkey.ErrInvalidOptions] if the policy is not valid; an error of
// [latchkey.Store.Update].
func (h *Hub) Invite(ctx context.Context, p Policy) (string, error) {
	policy, err := p.core()
	if err != nil {
		return "", wrapf(err, "invite")
	}
	i := invitation{domain: h.store.DomainID(), pin: pinOf(h.opts.Certificate)}
	if _, err := rand.Read(i.secret[:]); err != nil {
		return "", wrapf(err, "invite")
	}
	sweep := h.sweeps(h.store.Now())
	err = h.store.Update(ctx, func(tx *latchkey.Tx) error {
		if sweep {
			if err := removeOldInvitations(tx); err != nil {
				return err
			}
		}
		return putInvitation(tx, i.hash(), keptInvitation{Groups: policy.Groups, Push: Push(policy.Push), Expires: tx.Now().Add(invitationLife)})
	})
	if err != nil {
		return "", wrapf(err, "invite")
	}
	return i.String(), nil
}

func putInvitation(tx *latchkey.Tx, hash [sha256.Size]byte, kept keptInvitation) error {
	b, err := json.Marshal(kept)
	if err != nil {
		return err
	}
	return tx.AppTable(invitationTable).Put(hash[:], b)
}

// invitations calls fn for each invitation.
func invitations(tx *latchkey.Tx, fn func(hash []byte, kept keptInvitation) error) error {
	for e, err := range tx.AppTable(invitationTable).Scan(nil, nil) {
		var kept keptInvitation
		if err == nil {
			err = json.Unmarshal(e.Value, &kept)
		}
		if err == nil {
			err = fn(e.Key, kept)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// openInvitations returns how many invitations are good.
func openInvitations(tx *latchkey.Tx) (n int, err error) {
	err = invitations(tx, func(_ []byte, kept keptInvitation) error {
		if len(kept.Nonce) == 0 && tx.Now().Before(kept.Expires) {
			n++
		}
		return nil
	})
	return n, err
}

// sweepEvery is how often old invitations are removed. Looking at all of them each time would make
// ten thousand invitations take minutes.
const sweepEvery = invitationLife / 6

// sweeps reports whether it is time to remove old invitations.
func (h *Hub) sweeps(now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if since := now.Sub(h.swept); since >= 0 && since < sweepEvery {
		return false
	}
	h.swept = now
	return true
}

// removeOldInvitations removes the invitations whose hour is over, used or not.
func removeOldInvitations(tx *latchkey.Tx) error {
	var old [][]byte
	err := invitations(tx, func(hash []byte, kept keptInvitation) error {
		if !tx.Now().Before(kept.Expires) {
			old = append(old, hash)
		}
		return nil
	})
	for _, hash := range old {
		if err == nil {
			err = tx.AppTable(invitationTable).Delete(hash)
		}
	}
	return err
}

// find returns the invitation that a request may use. It takes the same time whatever is wrong,
// because the hash of a secret that nobody knows gives nothing away.
//
// Errors: [ErrInvitation] without a reason; an error of tx.
func (r joinRequest) find(tx *latchkey.Tx) (kept keptInvitation, err error) {
	hash := sha256.Sum256(r.Secret)
	b, err := tx.AppTable(invitationTable).Get(hash[:])
	if err != nil {
		return kept, err
	}
	if b == nil {
		return kept, ErrInvitation
	}
	if err := json.Unmarshal(b, &kept); err != nil {
		return kept, err
	}
	nonce := sha256.Sum256(r.Nonce)
	if !tx.Now().Before(kept.Expires) || len(kept.Nonce) > 0 && subtle.ConstantTimeCompare(kept.Nonce, nonce[:]) == 0 {
		return kept, ErrInvitation
	}
	return kept, nil
}

// A joinRequest is what an edge joins with.
type joinRequest struct {
	Secret []byte `json:"secret"` // of the invitation
	Nonce  []byte `json:"nonce"`  // drawn by the edge, so that it can ask again
	Name   string `json:"name"`
	Build  string `json:"build"`
}

// A joinAnswer is what an edge gets when it has joined.
type joinAnswer struct {
	Edge   uuid.UUID `json:"edge"`
	Token  string    `json:"token"`
	Issued time.Time `json:"issued"`
	Domain string    `json:"domain"` // as DomainSecrets.Export
}

// maxEdgeName bounds the name of an edge, in bytes.
const maxEdgeName = 64

// checkEdgeName returns an error unless an edge can have the name.
func checkEdgeName(name string) error {
	if name == "" || len(name) > maxEdgeName || !utf8.ValidString(name) || strings.TrimSpace(name) != name ||
		strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return fmt.Errorf("%w: the name of an edge has 1 to %d bytes of printable UTF-8, and no blank at its ends", latchkey.ErrInvalidOptions, maxEdgeName)
	}
	return nil
}

// join lets an edge join.
//
// Errors: [ErrInvitation]; an error of the store.
func (h *Hub) join(ctx context.Context, r joinRequest) (answer joinAnswer, err error) {
	core, err := h.core(ctx)
	if err != nil {
		return answer, err
	}
	var kept keptInvitation
	look := func(tx *latchkey.Tx) (err error) { kept, err = r.find(tx); return err }
	if err = h.store.View(ctx, look); err != nil {
		return answer, err
	}
	if kept.Edge != uuid.Nil {
		return h.joinAgain(ctx, core, r, kept)
	}
	minted, token, err := mintKey(ctx, h.store)
	if err != nil {
		return answer, err
	}
	id := minted.ID()
	err = h.store.Update(ctx, func(tx *latchkey.Tx) error {
		kept, err = r.find(tx)
		if err == nil && kept.Edge != uuid.Nil {
			err = ErrInvitation // two requests with one nonce at once: the edge asks again
		}
		if err != nil {
			return err
		}
		answer = joinAnswer{Edge: id, Token: token, Issued: tx.Now()}
		spec := latchkey.KeySpec{Name: keyName(r.Name, id), Scopes: latchkey.NewScopes(Scope), Expires: tx.Now().Add(keyLife)}
		if _, err := tx.InsertServerKey(spec, minted); err != nil {
			return err
		}
		nonce := sha256.Sum256(r.Nonce)
		kept.Nonce, kept.Edge = nonce[:], id
		return putInvitation(tx, sha256.Sum256(r.Secret), kept)
	})
	if err != nil {
		return joinAnswer{}, err
	}
	return h.admit(ctx, core, r, kept, answer)
}

// keyName returns the name of the key of an edge. No two keys have one ID, so the name is free.
func keyName(edge string, id uuid.UUID) string { return fmt.Sprintf("edge %s %x", edge, id[12:]) }

// edgeName returns the name of the edge that has a key.
func edgeName(key latchkey.Key) string {
	name := strings.TrimPrefix(key.Name, "edge ")
	return strings.TrimSuffix(name, fmt.Sprintf(" %x", key.ID[12:]))
}

// joinAgain gives a new token to an edge that has used its invitation already, because the answer
// was lost.
func (h *Hub) joinAgain(ctx context.Context, core *replication.Hub, r joinRequest, kept keptInvitation) (answer joinAnswer, err error) {
	minted, token, err := mintToken(ctx, h.store, kept.Edge)
	if err == nil {
		err = h.store.Update(ctx, func(tx *latchkey.Tx) error {
			if _, err := r.find(tx); err != nil {
				return err
			}
			key, err := tx.Key(latchkey.ServerOwner, kept.Edge)
			if err == nil && key.Disabled {
				err = ErrInvitation
			}
			if err == nil {
				answer = joinAnswer{Edge: kept.Edge, Token: token, Issued: tx.Now()}
				_, err = tx.RotateServerKey(kept.Edge, latchkey.Rotation{}, minted)
			}
			return err
		})
	}
	switch {
	case errors.Is(err, latchkey.ErrKeyNotFound) || errors.Is(err, latchkey.ErrInvalidRotation) || errors.Is(err, latchkey.ErrInvalidMintedKey):
		return joinAnswer{}, ErrInvitation
	case err != nil:
		return joinAnswer{}, err
	}
	return h.admit(ctx, core, r, kept, answer)
}

// admit makes the edge known to the core. An edge that joins again keeps the policy that an
// administrator has given it meanwhile.
func (h *Hub) admit(ctx context.Context, core *replication.Hub, r joinRequest, kept keptInvitation, answer joinAnswer) (joinAnswer, error) {
	policy, err := Policy{Groups: kept.Groups, Push: kept.Push}.core()
	if err == nil {
		err = core.AddEdge(ctx, answer.Edge, r.Name, policy, h.store.Now())
	}
	if err != nil {
		return joinAnswer{}, err
	}
	answer.Domain = string(h.store.DomainSecrets().Export())
	h.log(slog.LevelInfo, "an edge has joined", "edge", answer.Edge, "name", r.Name)
	return answer, nil
}

// A renewAnswer is the new token of an edge.
type renewAnswer struct {
	Token  string    `json:"token"`
	Issued time.Time `json:"issued"`
}

// A renewal is a new token that an edge may not have received. Only memory has it.
type renewal struct {
	from   [sha256.Size]byte // the hash of the token that asked for it
	answer renewAnswer
}

// renew exchanges the token of an edge, which may have expired. The old token stays good until the
// edge uses the new one.
func (h *Hub) renew(ctx context.Context, edge uuid.UUID, old string) (answer renewAnswer, err error) {
	from := sha256.Sum256([]byte(old))
	h.mu.Lock()
	last, ok := h.renewed[edge]
	h.mu.Unlock()
	if ok && last.from == from {
		return last.answer, nil // the answer was lost
	}
	if err := h.waitsForAnother(ctx, edge); err != nil {
		return answer, err
	}
	minted, token, err := mintToken(ctx, h.store, edge)
	if err != nil {
		return answer, err
	}
	err = h.store.Update(ctx, func(tx *latchkey.Tx) error {
		answer = renewAnswer{Token: token, Issued: tx.Now()}
		if err := tx.SetExpiry(latchkey.ServerOwner, edge, tx.Now().Add(keyLife)); err != nil {
			return err
		}
		_, err := tx.RotateServerKey(edge, latchkey.Rotation{Overlap: renewOverlap, UntilUsed: true}, minted)
		return err
	})
	if err != nil {
		return renewAnswer{}, err
	}
	h.mu.Lock()
	h.renewed[edge] = renewal{from, answer}
	h.mu.Unlock()
	return answer, nil
}

// waitsForAnother returns [latchkey.ErrBusy] if another process has just made a token for an edge.
// Another one would end the token that the edge has, and the edge may never get an answer.
func (h *Hub) waitsForAnother(ctx context.Context, edge uuid.UUID) error {
	if !access.Of(h.store).SharesEngine() {
		return nil
	}
	key, err := h.store.Key(ctx, latchkey.ServerOwner, edge)
	if err != nil {
		return err
	}
	for _, token := range key.Tokens {
		if !token.Ends.IsZero() && h.store.Now().Sub(token.Ends.Add(-renewOverlap)) < renewAgain {
			return latchkey.ErrBusy
		}
	}
	return nil
}

// used notes that an edge has used a token, so that a renewal that made the token is over.
func (h *Hub) used(edge uuid.UUID, token string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if last, ok := h.renewed[edge]; ok && last.from != sha256.Sum256([]byte(token)) {
		delete(h.renewed, edge)
	}
}

// mintKey and mintToken make a key and a new token of a key. The secrets have 256 random bits, so
// the keys of edges have a light verifier.
func mintKey(ctx context.Context, s *latchkey.Store) (latchkey.MintedKey, string, error) {
	return mintToken(ctx, s, uuid.Nil)
}

func mintToken(ctx context.Context, s *latchkey.Store, edge uuid.UUID) (latchkey.MintedKey, string, error) {
	minted, token, err := access.MintLight(ctx, s, edge)
	if err != nil {
		return latchkey.MintedKey{}, "", err
	}
	return minted.(latchkey.MintedKey), token, nil
}

// exchangeable returns the edge whose key has expired, if the key can still be exchanged. The
// holder of token has proved its secret.
//
// Errors: [ErrRevoked]; an error of the store.
func (h *Hub) exchangeable(ctx context.Context, token string) (edge uuid.UUID, err error) {
	var t tokenform.Token
	if !tokenform.New(h.store.TokenPrefix(), [16]byte{}).Parse(token, &t) {
		return edge, ErrRevoked
	}
	id, _, ok := t.Decode()
	if !ok {
		return edge, ErrRevoked
	}
	key, err := h.store.Key(ctx, latchkey.ServerOwner, id)
	switch {
	case err != nil:
		return edge, err
	case key.Disabled || !key.Scopes.Has(Scope) || !h.store.Now().Before(key.Expires.Add(exchangeLife)):
		return edge, ErrRevoked
	}
	return key.ID, nil
}
