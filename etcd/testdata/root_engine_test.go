package latchkey_test

import (
	"crypto/sha256"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/etcd"
)

// This file makes the tests of package latchkey run on etcd. The test of module etcd that runs them
// adds it to the package, and tells the address of a member.

func init() {
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{os.Getenv("LATCHKEY_TEST_ETCD")}, Logger: zap.NewNop()})
	if err != nil {
		panic(err)
	}
	// Inside a bubble of package synctest the time of day is in the year 2000.
	inBubble := func() bool { return time.Now().Year() < 2020 }
	var last atomic.Value
	otherEngine = func(t testing.TB, path string, opts *latchkey.Options) latchkey.Engine {
		t.Helper()
		if inBubble() {
			t.Skip("the test runs in a bubble of package synctest, where nothing waits for a network")
		}
		if name, _, _ := strings.Cut(t.Name(), "/"); name != last.Swap(name) {
			fmt.Printf("\non etcd: %s\n", name) // the test that runs this one reads it
		}
		prefix := sha256.Sum256([]byte(path))
		return etcd.NewWith(client, string(prefix[:]), etcd.Options{ReadOnly: opts != nil && opts.ReadOnly})
	}
	// The engine on etcd does neither.
	delete(storeCalls, "Backup")
	delete(storeCalls, "Compact")
}
