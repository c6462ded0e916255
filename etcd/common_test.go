package etcd_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/etcd"
)

// countRequests opens an engine, and counts its reads and transactions in etcd. The engine does not
// ask by itself.
func countRequests(t *testing.T) (engine, *atomic.Int64) {
	t.Helper()
	var n atomic.Int64
	c, err := clientv3.New(clientv3.Config{
		Endpoints: []string{node.address}, Logger: zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithChainUnaryInterceptor(
			func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
				if strings.HasPrefix(method, "/etcdserverpb.KV/") {
					n.Add(1)
				}
				return invoke(ctx, method, req, reply, cc, opts...)
			},
		)},
	})
	if err != nil {
		t.Fatal(err)
	}
	e := engine{etcd.NewWith(c, t.Name(), etcd.Options{WatchAge: time.Hour}), t}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		c.Close()
	})
	return e, &n
}

// readCommon reads two keys that all transactions read, and writes one that no other writes.
func readCommon(i int) func(tx latchkey.EngineTx) error {
	return func(tx latchkey.EngineTx) error {
		own := []byte(fmt.Sprint("own", i))
		for _, key := range []string{string(own), "settings", "limits"} {
			if _, err := tx.Get("t", []byte(key)); err != nil {
				return err
			}
		}
		return tx.Put("t", own, []byte("x"))
	}
}

func TestWhatAllTransactionsReadTakesOneRequest(t *testing.T) {
	e, requests := countRequests(t)
	for i := range 64 {
		e.update(readCommon(i))
	}
	before := requests.Load()
	e.update(readCommon(64))
	if n := requests.Load() - before; n != 2 {
		t.Errorf("a transaction takes %d requests, want 2: for all reads, and for the commit", n)
	}
}

func TestATransactionConflictsAboutWhatAllRead(t *testing.T) {
	e, _ := countRequests(t)
	for i := range 64 {
		e.update(readCommon(i))
	}
	other := engine{etcd.New(client(t, node.address), t.Name()), t}
	defer other.Close()
	var got []string
	e.update(func(tx latchkey.EngineTx) error {
		if err := readCommon(64)(tx); err != nil {
			return err
		}
		limits, err := tx.Get("t", []byte("limits"))
		got = append(got, string(limits))
		if len(got) == 1 {
			other.put("limits", "new")
		}
		return err
	})
	if want := []string{"", "new"}; !slices.Equal(got, want) {
		t.Errorf("the function has read %q, want %q", got, want)
	}
}

// A function that runs again for as long as the first time would meet other commits again.
func TestAFunctionThatRunsAgainFindsWhatItHasRead(t *testing.T) {
	e, requests := countRequests(t)
	other := engine{etcd.New(client(t, node.address), t.Name()), t}
	defer other.Close()
	for _, tt := range []struct {
		keys int
		most int64 // requests of the second run
	}{{20, 1}, {250, 3}} {
		runs, second := 0, int64(0)
		e.update(func(tx latchkey.EngineTx) error {
			before := requests.Load()
			for i := range tt.keys {
				v, err := tx.Get("t", fmt.Append(nil, i))
				if err != nil {
					return err
				}
				if i == 0 && len(v) != runs {
					t.Errorf("run %d has read %q", runs, v)
				}
			}
			second = requests.Load() - before
			if runs++; runs == 1 {
				other.put("0", ".")
			}
			return tx.Put("t", []byte("written"), nil)
		})
		if runs != 2 || second > tt.most {
			t.Errorf("%d keys: after %d runs the last one took %d requests, want %d after 2", tt.keys, runs, second, tt.most)
		}
		e.remove("0")
	}
}
