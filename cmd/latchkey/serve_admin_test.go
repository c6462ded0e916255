package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/latchkeydb/latchkey/admin"
)

// metricsURL sets the variable METRICS to the URL of the metrics of serve.
func metricsURL(ts *testscript.TestScript, _ bool, _ []string) {
	match := regexp.MustCompile(`msg="serving metrics" url=(\S+)/metrics`).FindStringSubmatch(ts.ReadFile("log"))
	if match == nil {
		ts.Fatalf("serve has no metrics: %s", ts.ReadFile("log"))
	}
	ts.Setenv("METRICS", match[1])
}

// administer sends a request by the socket of the program that has keys.db open, and prints the
// status and the body of the answer: administer METHOD PATH [BODY].
func administer(ts *testscript.TestScript, _ bool, args []string) {
	transport := admin.Transport(ts.MkAbs("keys.db"))
	defer transport.CloseIdleConnections()
	r, err := http.NewRequest(args[0], "http://latchkey"+args[1], strings.NewReader(strings.Join(args[2:], "")))
	ts.Check(err)
	r.Header.Set("Content-Type", "application/json")
	resp, err := transport.RoundTrip(r)
	ts.Check(err)
	defer resp.Body.Close()
	reply, err := io.ReadAll(resp.Body)
	ts.Check(err)
	fmt.Fprintf(ts.Stdout(), "%d %s\n", resp.StatusCode, bytes.TrimSpace(reply))
}

// staleSocket makes a socket that nobody listens on, as a crash leaves one behind:
// stalesocket FILE.
func staleSocket(ts *testscript.TestScript, _ bool, args []string) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: ts.MkAbs(args[0]), Net: "unix"})
	ts.Check(err)
	l.SetUnlinkOnClose(false)
	ts.Check(l.Close())
}
