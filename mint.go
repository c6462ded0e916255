package latchkey

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/mint"
	"github.com/latchkeydb/latchkey/internal/parallel"
	"github.com/latchkeydb/latchkey/internal/record"
	"github.com/latchkeydb/latchkey/internal/tokenform"
)

// A MintedKey is a key that has an ID and a hash, but no owner and no name. [Tx.InsertKey] or
// [Tx.InsertServerKey] turns it into a key. A MintedKey of [Store.MintToken] is for [Tx.RotateKey]
// or [Tx.RotateServerKey] instead. Printing a MintedKey shows only its ID, and marshaling it shows
// nothing.
type MintedKey struct{ m concealed[mint.Key] }

// concealed holds a value that must not be printed. fmt prints the contents of unexported fields
// without asking their Format methods, and follows pointers. Of a function it prints no more than
// an address.
type concealed[T any] func() T

func conceal[T any](v T) concealed[T] { return func() T { return v } }

// ID returns the ID that the key will have, or [uuid.Nil] if m is empty.
func (m MintedKey) ID() uuid.UUID {
	if m.m == nil {
		return uuid.Nil
	}
	return m.m().ID
}

// Format writes the ID of the key, and keeps the verifier out of anything that prints a MintedKey.
func (m MintedKey) Format(f fmt.State, _ rune) {
	if m.m == nil {
		fmt.Fprint(f, "empty minted key")
		return
	}
	fmt.Fprintf(f, "minted key %s", m.m().ID)
}

// MintKey draws a secret, hashes it, and returns a MintedKey for [Tx.InsertKey] and the token.
// Nothing is written. The token is good only after the key was inserted. MintKey waits for a permit
// to hash, as long as ctx lasts.
//
// It returns [ErrBusy], [ErrClosed] or ctx's error.
func (s *Store) MintKey(ctx context.Context) (MintedKey, string, error) {
	minted, tokens, err := s.MintKeys(ctx, 1, nil)
	if err != nil {
		return MintedKey{}, "", err
	}
	return minted[0], tokens[0], nil
}

// MintKeys is [Store.MintKey] n times, in parallel. It calls progress as [Store.CreateKeys] does.
// If n is negative, it counts as 0.
//
// It returns [ErrBusy], [ErrClosed] or ctx's error.
func (s *Store) MintKeys(ctx context.Context, n int, progress func(done, total int)) ([]MintedKey, []string, error) {
	minted, tokens, err := s.mintKeys(ctx, s.draw(max(n, 0)), progress)
	return minted, tokens, wrapf(err, "mint keys")
}

func (s *Store) mintKeys(ctx context.Context, drawn []drawnKey, progress func(done, total int)) ([]MintedKey, []string, error) {
	if s.closed.Load() {
		return nil, nil, ErrClosed
	}
	if err := s.hasher.begin(hashKey); err != nil {
		return nil, nil, err
	}
	defer s.hasher.end(hashKey)
	minted, tokens := make([]MintedKey, len(drawn)), make([]string, len(drawn))
	after := func(done int) error {
		if s.closed.Load() {
			return ErrClosed
		}
		if progress != nil {
			progress(done, len(drawn))
		}
		return nil
	}
	err := parallel.Each(ctx, len(drawn), s.hasher.Slots, after, func(ctx context.Context, i int) (err error) {
		minted[i], tokens[i], err = s.mint(ctx, drawn[i])
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	return minted, tokens, nil
}

// drawnKey is a key whose secret has not been hashed yet.
type drawnKey struct {
	id       uuid.UUID
	created  time.Time
	secret   [tokenform.SecretSize]byte
	verifier record.VerifierID
	replaces record.VerifierID // see mint.Key
	cost     Cost
}

// draw makes n new keys, each with an ID and a secret.
func (s *Store) draw(n int) []drawnKey {
	drawn := make([]drawnKey, n)
	for i := range drawn {
		s.random.Fill(drawn[i].secret[:])
		drawn[i].id, drawn[i].created = s.newID()
		drawn[i].cost = s.cost
	}
	for i := range drawn {
		drawn[i].verifier = record.NewVerifierID(drawn[i].secret[:], s.random.Fill)
	}
	return drawn
}

// mint hashes the secret of a new key. Close waits for the hash.
func (s *Store) mint(ctx context.Context, d drawnKey) (MintedKey, string, error) {
	if !s.enter() {
		return MintedKey{}, "", ErrClosed
	}
	defer s.background.Done()
	v, err := s.hasher.hash(ctx, d.secret[:], d.cost)
	if err != nil {
		return MintedKey{}, "", err
	}
	tokens := s.tokens.Load()
	signing, _ := tokens.Secrets.Signing()
	m := mint.Key{
		ID: d.id, Domain: s.domain.ID, Created: d.created, Replaces: d.replaces,
		Verifier: record.Verifier{ID: d.verifier, PHC: v.String(), Tag: signing.Number},
	}
	return MintedKey{conceal(m)}, tokens.Make(d.id, d.secret), nil
}

// Export returns the minted key as a text for a configuration: the IDs of the domain and of the
// key, the number of the tag secret of the token unless it is 0, and the stored verifier. Nobody
// can log in with the text. A reader of the text can test guesses of the secret, but the secret of
// a key that was not made elsewhere has too many random bits to be guessed. If m is empty, so is
// the text.
func (m MintedKey) Export() string {
	if m.m == nil {
		return ""
	}
	return m.m().Text()
}

// ParseMintedKey reads the text that [MintedKey.Export] returned.
//
// It returns [ErrInvalidMintedKey].
func ParseMintedKey(text string) (MintedKey, error) {
	key, ok := mint.Parse(text)
	if !ok {
		return MintedKey{}, wrapf(fmt.Errorf("%w: the text is damaged, or is not one of Export", ErrInvalidMintedKey), "parse minted key")
	}
	return MintedKey{conceal(key)}, nil
}
