package replication

import (
	"flag"
	"slices"
	"strings"
	"testing"

	"github.com/latchkeydb/latchkey/torture/internal/form"
)

// history says how many of the last events of a run are shown when the run fails.
var history = flag.Int("history", 40, "how many of the last `events` of a run are shown when it fails")

func TestReplicasAgreeInTheEnd(t *testing.T) {
	rounds, replicas := map[int]int{}, map[int]int{}
	seeds := form.Seeds(200, 10_000)
	for _, seed := range seeds {
		r, err := Run(seed, Bug{})
		if err != nil {
			form.Replayable(t, seed)
			t.Fatalf("seed %d: %v\n%s", seed, err, r.last(*history))
		}
		rounds[r.Rounds]++
		replicas[r.Replicas]++
	}
	t.Logf("replicas: %v, rounds: %v", replicas, rounds)
}

func TestARunIsTheSameEachTime(t *testing.T) {
	for _, seed := range form.Seeds(5, 5) {
		first, err := Run(seed, Bug{})
		again, errAgain := Run(seed, Bug{})
		if err != nil || errAgain != nil {
			t.Fatal(err, errAgain)
		}
		if first.Trace != again.Trace {
			for i := range first.History {
				if i >= len(again.History) || first.History[i] != again.History[i] {
					t.Fatalf("seed %d: event %d was\n%s\nand then\n%s", seed, i, first.History[i], again.History[min(i, len(again.History)-1)])
				}
			}
			t.Fatalf("seed %d: the second run is longer", seed)
		}
	}
}

func TestEachPlantedBugIsFound(t *testing.T) {
	for _, bug := range Bugs {
		t.Run(bug.Name, func(t *testing.T) {
			for seed := range uint64(200) {
				if r, err := Run(seed+1, bug); err != nil {
					t.Logf("seed %d: %v", seed+1, err)
					if testing.Verbose() {
						t.Log(r.last(*history))
					}
					return
				}
			}
			t.Error("200 runs have not found it")
		})
	}
}

// last returns the last events.
func (r Report) last(n int) string {
	return strings.Join(slices.Clone(r.History[max(0, len(r.History)-n):]), "\n")
}
