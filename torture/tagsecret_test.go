package torture_test

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/latchkeydb/latchkey"
)

// This file has the replacement of tag secrets in programs. Only a store has these calls.

// ruledSecrets are the states of the tag secrets by the rules, in the order of their numbers.
type ruledSecrets []latchkey.TagSecretState

// used returns the number of the secret in use. There is always one.
func (s ruledSecrets) used() int { return slices.Index(s, latchkey.TagSecretUsed) }

func (s ruledSecrets) String() string {
	var texts []string
	for _, state := range s {
		texts = append(texts, string(state))
	}
	return strings.Join(texts, ", ")
}

// onTagSecret plays a call on the tag secrets.
func (r *rules) onTagSecret(s step) []string {
	states := slices.Clone(r.secrets)
	n, used := s.secret, states.used()
	exists := n < len(states)
	accepted := len(states) - strings.Count(states.String(), string(latchkey.TagSecretRetired))
	answer := "ok"
	switch s.do {
	case "TagSecrets":
		return []string{states.String()}
	case "AddTagSecret":
		if accepted == 4 {
			return []string{"ErrInvalidTagSecret"}
		}
		states, answer = append(states, latchkey.TagSecretAccepted), fmt.Sprint(len(states))
	case "UseTagSecret":
		if !exists || n < used || states[n] == latchkey.TagSecretRetired {
			return []string{"ErrInvalidTagSecret"}
		}
		states[used], states[n] = latchkey.TagSecretAccepted, latchkey.TagSecretUsed
	case "RetireTagSecret":
		if !exists || n == used {
			return []string{"ErrInvalidTagSecret"}
		}
		states[n] = latchkey.TagSecretRetired
	}
	r.changed = r.changed || !slices.Equal(states, r.secrets)
	r.secrets = states
	return []string{answer}
}

// noSecret stands for the tag secret of a token that was made elsewhere. It is never retired.
const noSecret = math.MaxInt

// goodTag reports whether the secret is not retired under which a token was made.
func (r *rules) goodTag(token int) bool {
	return r.tokens[token].secret == noSecret || r.secrets[r.tokens[token].secret] != latchkey.TagSecretRetired
}

// taggedBefore reports whether the newest good token of a key was made under an older secret, or
// whether there is no good token.
func (r *rules) taggedBefore(key, secret int) bool {
	for i := len(r.tokens) - 1; i >= 0; i-- {
		if r.keyOf(i) == key && !r.tokens[i].ended && r.goodTag(i) {
			return r.tokens[i].secret < secret
		}
	}
	return true
}

// onTagSecret makes a call on the tag secrets.
func (p *player) onTagSecret(s step) string {
	ctx := context.Background()
	switch s.do {
	case "AddTagSecret":
		number, err := p.store.AddTagSecret(ctx)
		return orError(fmt.Sprint(number), err)
	case "UseTagSecret":
		return outcome(p.store.UseTagSecret(ctx, uint64(s.secret)))
	case "RetireTagSecret":
		return outcome(p.store.RetireTagSecret(ctx, uint64(s.secret)))
	}
	all, err := p.store.TagSecrets(ctx)
	var states ruledSecrets
	for _, t := range all {
		states = append(states, t.State)
	}
	return orError(states.String(), err)
}
