package latchkey_test

import (
	"context"
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

// This file makes the tests of packages latchkey and latchkey_test run on etcd. The test of module
// etcd that runs them adds the file to the package, and tells the address of a member.

// alone has the tests whose stores believe that no other process uses etcd, and why.
var alone = map[string]string{
	"TestADamagedIndexIsAnErrorAndNeverAnotherUser":          missing,
	"TestAKeyWhoseUserIsElsewhereIsRefusedAndNoDamage":       missing,
	"TestASetterSaysWhichValueOfAnotherReplicaItHasReplaced": "it gives the store another replica ID, and the store would read its own again",
	"TestCheckFindsEverythingThatIsWrong":                    missing,
	"TestRepairMakesDerivedDataAgain":                        missing,
}

const missing = "where other processes delete while etcd is full, a missing record is no damage, and the store removes what is left of it"

// settled is an engine on etcd whose Update also waits until the watch has told the store of the
// commit. Without this, a test could log in before that. The store would then forget what the login
// has cached, and the next login would take another hash.
type settled struct {
	latchkey.Engine
	latchkey.EngineBounder
	latchkey.EngineHealther
	latchkey.EngineWatcher
	latchkey.CommitCounter
	watched *atomic.Bool
}

func (e settled) Watch(changed func([]latchkey.TrackedChange)) {
	e.watched.Store(true)
	e.EngineWatcher.Watch(changed)
}

func (e settled) Update(ctx context.Context, fn func(latchkey.EngineTx) error) error {
	err := e.Engine.Update(ctx, fn)
	if err == nil && e.watched.Load() {
		_ = e.Engine.View(context.WithoutCancel(ctx), func(tx latchkey.EngineTx) error {
			for range tx.Changes(tx.Sequence() - 1) { // waits for the watch
				break
			}
			return nil
		})
	}
	return err
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
		s := settled{e, e.(latchkey.EngineBounder), e.(latchkey.EngineHealther), e.(latchkey.EngineWatcher), e.(latchkey.CommitCounter), &atomic.Bool{}}
		if alone[test] != "" {
			return struct{ latchkey.Engine }{s}
		}
		return s
	}
	// The engine on etcd does neither.
	delete(storeCalls, "Backup")
	delete(storeCalls, "Compact")
}
