package etcd_test

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"testing"
)

// TestMain runs the tests, or a node that they start as a separate process.
func TestMain(m *testing.M) {
	if settings := os.Getenv(nodeVariable); settings != "" {
		if err := runNode(settings); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	flag.Parse()
	if runtime.GOOS == "windows" {
		fmt.Println("left out: etcd does not support Windows as a server, and Windows cannot stop a process")
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// must ends the test for any error.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
