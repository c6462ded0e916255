//go:build unix

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
	"github.com/latchkeydb/latchkey/audit"
)

// besideStore makes a socket beside a store, which is open here for writing.
func besideStore(t *testing.T) (path string, l *net.UnixListener) {
	t.Helper()
	dir, err := os.MkdirTemp("", "lk") // short enough for a socket
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path = dir + "/keys.db"
	s, err := openStore(path, latchkey.Options{Cost: latchkey.LightCost}, 0)
	must(t, err)
	t.Cleanup(func() { _ = s.Close() })
	l, err = net.ListenUnix("unix", &net.UnixAddr{Name: path + ".sock", Net: "unix"})
	must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	return path, l
}

func TestDoctorSaysThatTheProgramDoesNotAnswer(t *testing.T) {
	before := answerWithin
	answerWithin = 20 * time.Millisecond
	defer func() { answerWithin = before }()
	path, _ := besideStore(t) // the system accepts connections, and nobody answers
	d, err := diagnose(t.Context(), path)
	must(t, err)
	f := found(d, "socket")
	wantFinding(t, f, stateProblem, "has not answered for 20ms")
	if f.Advice == "" || f.status != exitFailed {
		t.Errorf("got %+v", f)
	}
}

func TestDoctorSaysThatTheSocketIsOfAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give a socket to another user")
	}
	path, l := besideStore(t)
	must(t, os.Chown(l.Addr().String(), 4711, 4711))
	d, err := diagnose(t.Context(), path)
	must(t, err)
	f := found(d, "socket")
	wantFinding(t, f, stateWarning, "it is of user 4711")
	if f.Advice == "" {
		t.Errorf("got %+v", f)
	}
}

func TestDoctorRepeatsWhatTheProgramFinds(t *testing.T) {
	path, l := besideStore(t)
	problem := func(name, detail string) admin.Problem {
		return admin.Problem{Type: "urn:latchkey:problem:" + name, Title: name, Status: 503, Detail: detail}
	}
	answers := map[string]any{
		"/v1/health": admin.Health{Findings: []admin.Problem{
			problem("clock-behind", "the clock is 2h behind"), problem("sync-failed", "the disk is full"),
			problem("safety-copy-failed", "no room for the copy"),
		}},
		"/v1/stats": admin.Stats{Users: 3, Keys: 7, Hits: 11},
		"/v1/check": admin.Findings{Findings: []admin.Problem{problem("corrupt", "user 1 has no index")}},
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(answers[r.URL.Path])
	})}
	go server.Serve(l)
	defer server.Close()
	d, err := diagnose(t.Context(), path)
	must(t, err)
	wantFinding(t, found(d, "socket"), stateGood, path+".sock")
	wantFinding(t, found(d, "contents"), stateGood, "3 users and 7 keys")
	wantFinding(t, found(d, "program"), stateGood, "logins by the cache: 11;")
	wantFinding(t, found(d, "clock"), stateWarning, "the clock is 2h behind")
	wantFinding(t, found(d, "damage"), stateProblem, "user 1 has no index")
	var texts []string
	for _, f := range d.Findings {
		if f.Name == "health" {
			texts = append(texts, f.State+" "+f.Text)
		}
	}
	if want := "[problem the disk is full warning no room for the copy]"; fmt.Sprint(texts) != want {
		t.Errorf("the health is %s, want %s", texts, want)
	}
}

// TestDoctorSaysWhatToDoAboutEachFindingOfHealth has each error that Health documents.
func TestDoctorSaysWhatToDoAboutEachFindingOfHealth(t *testing.T) {
	for _, err := range []error{
		latchkey.ErrSafetyCopyFailed, latchkey.ErrLastUseFailed, latchkey.ErrRotationNotDurable, latchkey.ErrRecovered, latchkey.ErrReaderHoldsUp,
		latchkey.ErrFileChanged, latchkey.ErrFileGone, latchkey.ErrSyncFailed, latchkey.ErrCorrupt, latchkey.ErrClosed, audit.ErrBroken, errors.New("an engine's own"),
	} {
		if f := unhealthy(fmt.Errorf("health: %w", err)); f.Advice == "" || f.State == stateGood {
			t.Errorf("got %+v", f)
		}
	}
	if f := lookAtClock(time.Now(), time.Now(), latchkey.ErrClockBehind); f.Advice == "" {
		t.Errorf("got %+v", f)
	}
}
