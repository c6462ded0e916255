package disk_test

import (
	"net/rpc"
	"testing"

	"github.com/latchkeydb/latchkey/torture/internal/form"
)

// Some calls wait for a resource that another call holds. They must not wait for ever when the disk
// makes the other call fail.
func TestCallsInProgressWhenThePowerIsCutAllReturn(t *testing.T) {
	seed := form.NewSeed(t)
	for cut := range form.Amount(50, 1000) {
		h := newHistory()
		h.cut, h.random = cut, form.NewRandom(seed, cut)
		h.between(t, 0, func(u *use) {
			u.open()
			u.fill()
			u.disk.CutAfter(1 + u.random.IntN(14))
			for n := 0; !u.isOff(); n++ {
				if n == manyCalls {
					t.Fatalf("%d crowds of calls have not reached the change that the power is cut in", n)
				}
				u.crowd()
			}
		})
	}
}

// crowd makes several changes and looks at the store several times, all at once. The calls may
// fail, but must return.
func (u *use) crowd() {
	u.t.Helper()
	var begun []*rpc.Call
	for _, i := range u.random.Perm(len(subjects))[:4] {
		for range 3 {
			begun = append(begun, u.program.begin(Call{Do: "look", Path: u.path}))
		}
		begun = append(begun, u.program.begin(u.state.draw(u.random, u.path, subjects[i])))
	}
	for _, b := range begun {
		if _, err := u.program.wait(b); err != nil {
			u.t.Fatalf("%s: %v", u.program.where, err)
		}
	}
}
