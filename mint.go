package latchkey

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/parallel"
	"github.com/latchkeydb/latchkey/internal/record"
	"github.com/latchkeydb/latchkey/internal/tokenform"
)

// A MintedKey is a key that has an ID and a hash, but no owner and no name. [Tx.InsertKey] or
// [Tx.InsertServerKey] turns it into a key. A MintedKey of [Store.MintToken] is for [Tx.RotateKey]
// instead. Printing a MintedKey shows only its ID, and marshaling it shows nothing.
type MintedKey struct{ m concealed[mintedKey] }

// concealed holds a value that must not be printed. fmt prints the contents of unexported fields
// without asking their Format methods, and follows pointers. Of a function it prints no more than
// an address.
type concealed[T any] func() T

func conceal[T any](v T) concealed[T] { return func() T { return v } }

type mintedKey struct {
	id       uuid.UUID
	domain   uuid.UUID // zero for a foreign key
	created  time.Time
	verifier record.Verifier
	replaces record.VerifierID // zero unless it is for a rotation
}

func (m *mintedKey) isForeign() bool { return m.verifier.Handle != record.Handle{} }

// isFor reports whether a store of a domain can have the key.
func (m *mintedKey) isFor(domain uuid.UUID) bool {
	return m.domain == domain && !m.isForeign() || m.isForeign() && len(m.verifier.PHC) > 0 && len(m.verifier.PHC) <= record.MaxPHC
}

// ID returns the ID that the key will have, or [uuid.Nil] if m is empty.
func (m MintedKey) ID() uuid.UUID {
	if m.m == nil {
		return uuid.Nil
	}
	return m.m().id
}

// Format writes the ID of the key, and keeps the verifier out of anything that prints a MintedKey.
func (m MintedKey) Format(f fmt.State, _ rune) {
	if m.m == nil {
		fmt.Fprint(f, "empty minted key")
		return
	}
	fmt.Fprintf(f, "minted key %s", m.m().id)
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

// MintKeys is [Store.MintKey] n times, in parallel. progress is called as in [Store.CreateKeys].
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
	replaces record.VerifierID // see mintedKey
}

// draw makes n new keys, each with an ID and a secret.
func (s *Store) draw(n int) []drawnKey {
	drawn := make([]drawnKey, n)
	for i := range drawn {
		s.random.fill(drawn[i].secret[:])
		drawn[i].id, drawn[i].created = s.newID()
	}
	for i := range drawn {
		drawn[i].verifier = record.NewVerifierID(drawn[i].secret[:], s.random.fill)
	}
	return drawn
}

// mint hashes the secret of a new key. Close waits for the hash.
func (s *Store) mint(ctx context.Context, d drawnKey) (MintedKey, string, error) {
	if !s.enter() {
		return MintedKey{}, "", ErrClosed
	}
	defer s.background.Done()
	v, err := s.hasher.hash(ctx, d.secret[:], s.cost)
	if err != nil {
		return MintedKey{}, "", err
	}
	tokens := s.tokens.Load()
	signing, _ := tokens.Secrets.Signing()
	m := mintedKey{
		id: d.id, domain: s.domain.ID, created: d.created, replaces: d.replaces,
		verifier: record.Verifier{ID: d.verifier, PHC: v.String(), Tag: signing.Number},
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
	k := m.m()
	if k.isForeign() {
		return fmt.Sprintf("%s/%x/%d/%s", foreignText, k.verifier.Handle[:], milliseconds(k.created), k.verifier.PHC)
	}
	tag := ""
	if k.verifier.Tag > 0 {
		tag = fmt.Sprintf(".%d", k.verifier.Tag)
	}
	id := k.id.String()
	if k.id.Version() != 7 { // a foreign key since its rotation, whose ID does not have the time
		id += fmt.Sprintf("@%d", milliseconds(k.created))
	}
	return fmt.Sprintf("%s/%s/%x%s/%s", k.domain, id, k.verifier.ID[:], tag, k.verifier.PHC)
}

// foreignText begins the text of a foreign key, in place of a domain.
const foreignText = "foreign"

// milliseconds returns a time in Unix milliseconds, or 0 for the zero time.
func milliseconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// ParseMintedKey reads the text that [MintedKey.Export] returned.
//
// It returns [ErrInvalidMintedKey].
func ParseMintedKey(text string) (MintedKey, error) {
	parts := strings.SplitN(text, "/", 4)
	if len(parts) != 4 {
		return MintedKey{}, wrapf(fmt.Errorf("%w: the text is not one of Export", ErrInvalidMintedKey), "parse minted key")
	}
	minted, ok := MintedKey{}, false
	if parts[0] == foreignText {
		minted, ok = parseForeign(parts)
	} else {
		minted, ok = parseMinted(parts)
	}
	// The comparison catches what the calls above let pass.
	if !ok || minted.Export() != text {
		return MintedKey{}, wrapf(fmt.Errorf("%w: the text is damaged", ErrInvalidMintedKey), "parse minted key")
	}
	return minted, nil
}

func parseMinted(parts []string) (minted MintedKey, ok bool) {
	var m mintedKey
	m.domain, _ = uuid.Parse(parts[0])
	key, ms, _ := strings.Cut(parts[1], "@")
	m.id, _ = uuid.Parse(key)
	verifier, tag, _ := strings.Cut(parts[2], ".")
	id, _ := hex.DecodeString(verifier)
	m.verifier.Tag, _ = strconv.ParseUint(tag, 10, 64)
	copy(m.verifier.ID[:], id)
	m.verifier.PHC = parts[3]
	created, _ := strconv.ParseInt(ms, 10, 64)
	if m.id.Version() == 7 {
		created = int64(binary.BigEndian.Uint64(m.id[:]) >> 16)
	}
	m.created = time.UnixMilli(created).UTC()
	_, err := parseVerifier(m.verifier.PHC)
	ok = err == nil && m.id.Variant() == uuid.RFC4122 && (m.id.Version() == 7 || m.id.Version() == 8)
	return MintedKey{conceal(m)}, ok && created >= 0 && !m.created.After(record.LastTime)
}

// parseForeign does not read the verifier, because only [Options].Foreign can.
func parseForeign(parts []string) (minted MintedKey, ok bool) {
	var handle ForeignHandle
	b, _ := hex.DecodeString(parts[1])
	copy(handle[:], b)
	ms, _ := strconv.ParseInt(parts[2], 10, 64)
	var created time.Time
	if ms != 0 {
		created = time.UnixMilli(ms).UTC()
	}
	return MintForeign(handle, parts[3], created), handle != ForeignHandle{} && ms >= 0 && !created.After(record.LastTime)
}
