package latchkey_test

import (
	"crypto/sha256"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/etcd"
)

// This file makes the tests of packages latchkey and latchkey_test run on etcd. The test of module
// etcd that runs them adds the file to the package, and tells the address of a member.

// alone has the tests whose stores believe that no other process uses etcd. These tests are about
// entries without their records, and records without their users. Where other processes delete
// while etcd is full, these are no damage, and the store removes them.
var alone = []string{
	"TestADamagedIndexIsAnErrorAndNeverAnotherUser",
	"TestAKeyWhoseUserIsElsewhereIsRefusedAndNoDamage",
	"TestCheckFindsEverythingThatIsWrong",
	"TestRepairMakesDerivedDataAgain",
}

func init() {
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{os.Getenv("LATCHKEY_TEST_ETCD")}, Logger: zap.NewNop()})
	if err != nil {
		panic(err)
	}
	// In a bubble of package synctest, the clock begins in the year 2000.
	inBubble := func() bool { return time.Now().Year() < 2020 }
	var last atomic.Value
	latchkey.OtherEngine = func(t testing.TB, path string, opts *latchkey.Options) latchkey.Engine {
		t.Helper()
		if inBubble() {
			t.Skip("the test runs in a bubble of package synctest, where nothing waits for a network")
		}
		test, _, _ := strings.Cut(t.Name(), "/")
		if test != last.Swap(test) {
			fmt.Printf("\non etcd: %s\n", test) // the test that runs this one reads it
		}
		prefix := sha256.Sum256([]byte(path))
		e := etcd.NewWith(client, string(prefix[:]), etcd.Options{
			ReadOnly: opts != nil && opts.ReadOnly,
			WatchAge: time.Minute, // so that the cache is believed also on a machine that is busy
		})
		if slices.Contains(alone, test) {
			return struct{ latchkey.Engine }{e}
		}
		return e
	}
	// The engine on etcd does neither.
	delete(storeCalls, "Backup")
	delete(storeCalls, "Compact")
}
