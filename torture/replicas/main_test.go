package replicas_test

import (
	"flag"
	"fmt"
	"os"
	"testing"
)

// TestMain runs the tests, or the program that they start as separate processes.
func TestMain(m *testing.M) {
	if os.Getenv(programVariable) != "" {
		if err := runProgram(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	flag.Parse()
	os.Exit(m.Run())
}
