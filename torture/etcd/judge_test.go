package etcd_test

import (
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// keyState is what a key and its user are.
type keyState struct {
	keyDisabled, userDisabled bool
	keyGone, userGone         bool
}

// login returns the outcome of a login.
func (s keyState) login() string {
	switch {
	case s.keyGone || s.userGone:
		return "gone"
	case s.keyDisabled:
		return "key disabled"
	case s.userDisabled:
		return "user disabled"
	}
	return "ok"
}

// next returns the outcome that the rules give to a call, and the state after the call.
func (s keyState) next(method string) (outcome string, after keyState) {
	gone := s.keyGone || s.userGone
	switch method {
	case "Login":
		return s.login(), s
	case "Key":
		s.userDisabled = false // of which a key's record says nothing
		return s.login(), s
	case "CreateKey", "DisableUser", "EnableUser", "DeleteUser":
		gone = s.userGone
	}
	if gone {
		return "gone", s
	}
	switch method {
	case "DisableKey", "EnableKey":
		s.keyDisabled = method == "DisableKey"
	case "DisableUser", "EnableUser":
		s.userDisabled = method == "DisableUser"
	case "DeleteKey":
		s.keyGone = true
	case "DeleteUser":
		s.userGone = true
	}
	return "ok", s
}

var keyModel = porcupine.Model{
	Init: func() any { return keyState{} },
	Step: func(state, input, output any) (bool, any) {
		before := state.(keyState)
		want, after := before.next(input.(call).method)
		if input.(call).method == "Key" {
			after = before
		}
		return output == want || output == unknown, after
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v → %v", input, output) },
	DescribeState:     func(state any) string { return fmt.Sprintf("%+v", state) },
}

// judge looks for an explanation of the history of each key. It reports each key that has none, and
// writes porcupine's picture of the history.
func (r *recorder) judge(keys []*key) {
	calls := 0
	for _, k := range keys {
		history := slices.Concat(k.calls, k.owner.calls)
		calls += len(k.calls)
		r.judgeRevocations(history)
		if k.owner.home < 0 {
			for i := range history {
				if history[i].Input.(call).method == "Login" {
					history[i].Call -= bound.Nanoseconds()
				}
			}
		}
		result, info := porcupine.CheckOperationsVerbose(keyModel, history, 2*time.Minute)
		if result == porcupine.Ok {
			continue
		}
		page, err := os.CreateTemp(r.dir, "latchkey-history-*.html")
		if err == nil {
			err = porcupine.Visualize(keyModel, info, page)
			_ = page.Close()
		}
		r.report("the history of %d calls of the key %s, whose user has the home %d, is %s; open %s in a browser (%v)",
			len(history), k.id, k.owner.home, result, page.Name(), err)
	}
	r.t.Logf("%d calls of %d keys, %d with an unknown outcome", calls, len(keys), r.unsure.Load())
}

// opposites has the calls that end what a revocation does.
var opposites = map[string]string{"DisableKey": "EnableKey", "DisableUser": "EnableUser", "DeleteKey": "", "DeleteUser": ""}

// judgeRevocations reports a login that has succeeded at the store that had revoked the token
// before, unless a call has enabled the token between.
func (r *recorder) judgeRevocations(history []porcupine.Operation) {
	for _, login := range history {
		in := login.Input.(call)
		if in.method != "Login" || login.Output != "ok" {
			continue
		}
		for _, revocation := range history {
			by := revocation.Input.(call)
			opposite, revokes := opposites[by.method]
			if !revokes || by.store != in.store || revocation.Output != "ok" || revocation.Return >= login.Call {
				continue
			}
			if !slices.ContainsFunc(history, func(op porcupine.Operation) bool {
				return op.Input.(call).method == opposite && op.Return > revocation.Call && op.Call < login.Return
			}) {
				r.report("store %d lets a token log in at %v that it had revoked at %v with %s",
					in.store, time.Duration(login.Call), time.Duration(revocation.Return), by.method)
			}
		}
	}
}
