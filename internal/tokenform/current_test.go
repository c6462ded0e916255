package tokenform

import (
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/record"
)

var (
	oldSecret, newSecret = [16]byte{1}, [16]byte{2}
	before               = record.TagSecrets{All: []record.TagSecret{
		{Secret: oldSecret, State: record.TagUsed}, {Number: 1, Secret: newSecret, State: record.TagUsed},
	}}
)

// retired returns the secrets after the old one was retired.
func retired(t testing.TB) record.TagSecrets {
	after, err := before.Retire(0, time.Unix(1, 0).UTC())
	if err != nil {
		t.Fatal(err)
	}
	return after
}

// reading returns a function that reads secrets.
func reading(secrets record.TagSecrets) func() (record.TagSecrets, error) {
	return func() (record.TagSecrets, error) { return secrets, nil }
}

// wantState fails the test unless a token under the old secret is good, leaving or refused, and one
// under the new secret is good.
func wantState(t testing.TB, about string, c *Current, want string) {
	t.Helper()
	s := c.Load()
	verdict := func(secret [16]byte) string {
		var token Token
		if !s.Parse(New("lk", secret).Make(uuid.UUID{1}, [SecretSize]byte{2}), &token) {
			return "malformed"
		}
		switch good, leaving := s.Genuine(&token), s.Leaving(&token); {
		case good && !leaving:
			return "good"
		case leaving && !good:
			return "leaving"
		case good:
			return "both"
		}
		return "refused"
	}
	if got := verdict(oldSecret); got != want {
		t.Errorf("%s: a token under the old secret is %s, want %s", about, got, want)
	}
	if got := verdict(newSecret); got != "good" {
		t.Errorf("%s: a token under the new secret is %s", about, got)
	}
}

func TestASecretThatACommitRetiresIsInDoubtUntilTheCommitHasEnded(t *testing.T) {
	var c Current
	c.Begin("lk", before)
	wantState(t, "at first", &c, "good")
	c.Hold(retired(t))
	wantState(t, "during the commit", &c, "leaving")
	c.Reload(reading(before))
	wantState(t, "reloaded during the commit", &c, "leaving")
	c.Release(1, reading(before))
	wantState(t, "after a commit that failed", &c, "good")
	c.Hold(retired(t))
	c.Hold(retired(t)) // its function ran again
	c.Release(2, reading(retired(t)))
	wantState(t, "after the commit", &c, "refused")
	c.Release(0, reading(before))
	wantState(t, "after a commit that changes no secrets", &c, "refused")
}

func TestTheLastOfSeveralCommitsDecidesAboutASecret(t *testing.T) {
	var c Current
	c.Begin("lk", before)
	c.Hold(before)
	c.Hold(retired(t))
	c.Release(1, reading(before)) // it has read before the second commit
	wantState(t, "after the first", &c, "leaving")
	c.Release(1, reading(retired(t)))
	wantState(t, "after both", &c, "refused")
}

func TestWhatWasReadBeforeACommitBeganIsNotUsed(t *testing.T) {
	var c Current
	c.Begin("lk", before)
	c.Reload(func() (record.TagSecrets, error) {
		c.Hold(retired(t))
		return before, nil
	})
	wantState(t, "during the commit", &c, "leaving")
	c.Reload(func() (record.TagSecrets, error) { return before, nil })
	c.Release(1, reading(retired(t)))
	c.Reload(func() (record.TagSecrets, error) {
		c.Hold(retired(t))
		c.Release(1, reading(retired(t)))
		return before, nil
	})
	wantState(t, "after a commit during the reading", &c, "refused")
}

func TestASecretStaysInDoubtWhileTheFileCannotBeRead(t *testing.T) {
	var c Current
	c.Begin("lk", before)
	c.Hold(retired(t))
	c.Release(1, func() (record.TagSecrets, error) { return record.TagSecrets{}, errors.New("unreadable") })
	wantState(t, "after the commit", &c, "leaving")
}

func TestNewTokensAreMadeUnderTheSecretInUseUntilAnotherIsCommitted(t *testing.T) {
	first := record.FirstTagSecret(oldSecret)
	var c Current
	c.Begin("lk", first)
	wantSigning := func(about string, want [16]byte) {
		t.Helper()
		if got := c.Load().Make(uuid.UUID{1}, [SecretSize]byte{2}); got != New("lk", want).Make(uuid.UUID{1}, [SecretSize]byte{2}) {
			t.Errorf("%s: a token is not under the expected secret", about)
		}
	}
	wantSigning("at first", oldSecret)
	c.Hold(retired(t))
	wantSigning("during the commit", oldSecret)
	c.Release(1, reading(retired(t)))
	wantSigning("after the commit", newSecret)
}
