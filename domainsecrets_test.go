package latchkey_test

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
)

// openOfDomain opens a new store of the domain of s, whose secrets go through their text.
func openOfDomain(t testing.TB, s *latchkey.Store) *latchkey.Store {
	t.Helper()
	secrets, err := latchkey.ParseDomainSecrets(s.DomainSecrets().Export())
	must(t, err)
	opts := light()
	opts.Domain = secrets
	return openWith(t, opts)
}

func TestAStoreOfADomainTakesItsTokensAndDerivesTheSameUserIDs(t *testing.T) {
	opts := light()
	opts.TokenPrefix = "acme"
	a := openWith(t, opts)
	b := openOfDomain(t, a)
	if a.TokenPrefix() != b.TokenPrefix() || a.TokenPrefix() == "" {
		t.Errorf("the tokens begin with %q and %q", a.TokenPrefix(), b.TokenPrefix())
	}
	if a.DomainID() != b.DomainID() || a.ReplicaID() == b.ReplicaID() {
		t.Errorf("domains %s and %s, replicas %s and %s; want one domain and two replicas", a.DomainID(), b.DomainID(), a.ReplicaID(), b.ReplicaID())
	}
	ada := addUser(t, a, "ada")
	if other := addUser(t, b, "ada"); ada != other {
		t.Errorf("the user's ID is %s in one store and %s in the other", ada, other)
	}
	minted, token, err := a.MintKey(t.Context())
	must(t, err)
	if !strings.HasPrefix(token, "acme_") {
		t.Fatalf("the token does not begin with the prefix of the domain")
	}
	must(t, b.Update(t.Context(), func(tx *latchkey.Tx) error {
		_, err := tx.InsertKey(ada, latchkey.KeySpec{Name: "laptop"}, minted)
		return err
	}))
	wantLogin(t, b, token, minted.ID())
}

func TestAStoreKeepsTheDomainThatItWasMadeIn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	s, other := openAt(t, path, light()), open(t)
	same := s.DomainSecrets()
	closeStore(t, s)
	opts := light()
	opts.Domain = same
	closeStore(t, openAt(t, path, opts))
	opts.Domain = other.DomainSecrets()
	_, err := latchkey.TryOpen(t, path, opts)
	wantError(t, err, latchkey.ErrInvalidOptions)

	opts.TokenPrefix = "other"
	fresh := filepath.Join(t.TempDir(), "fresh.db")
	_, err = latchkey.TryOpen(t, fresh, opts)
	wantError(t, err, latchkey.ErrInvalidOptions)
	opts.TokenPrefix = "lk"
	closeStore(t, openAt(t, fresh, opts)) // the refusal has left no store of another domain
}

func TestDamagedSecretsOfADomainAreRefused(t *testing.T) {
	text := open(t).DomainSecrets().Export()
	block, _ := pem.Decode(text)
	damaged := map[string][]byte{
		"nothing": nil, "another text": []byte("hello"), "the first half": text[:len(text)/2],
		"another block": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: block.Bytes}),
	}
	for i := range block.Bytes {
		bad := bytes.Clone(block.Bytes)
		bad[i] ^= 1
		damaged[fmt.Sprintf("byte %d", i)] = pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: bad})
	}
	for name, text := range damaged {
		if secrets, err := latchkey.ParseDomainSecrets(text); err == nil || secrets.ID() != uuid.Nil {
			t.Errorf("%s: the text was taken", name)
		} else {
			wantError(t, err, latchkey.ErrInvalidOptions)
		}
	}
	if text := (latchkey.DomainSecrets{}).Export(); text != nil {
		t.Errorf("empty secrets have the text %q", text)
	}
}

func TestTheSecretsOfADomainAreInItsTextAlone(t *testing.T) {
	e := newEngine(t)
	s := openEngine(t, e, light())
	all := secrets{}
	all.addStored(t, e)
	d := s.DomainSecrets()
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		if shown := fmt.Sprintf(verb, d); all.shownBy(shown) != nil || !strings.Contains(shown, s.DomainID().String()) {
			t.Errorf("%s shows %q", verb, shown)
		}
	}
	text, err := json.Marshal(struct{ D latchkey.DomainSecrets }{d})
	if must(t, err); string(text) != `{"D":{}}` {
		t.Errorf("JSON shows %s", text)
	}
}

func FuzzParseDomainSecrets(f *testing.F) {
	f.Add(open(f).DomainSecrets().Export())
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := latchkey.ParseDomainSecrets(text)
		if err != nil {
			return
		}
		again, err := latchkey.ParseDomainSecrets(d.Export())
		if must(t, err); again.ID() != d.ID() {
			t.Errorf("domain %s became %s", d.ID(), again.ID())
		}
	})
}
