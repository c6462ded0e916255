package etcd_test

import (
	"fmt"
	"net/url"
	"os"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/enginetest"
	"github.com/latchkeydb/latchkey/etcd"
)

// node is the member of etcd that most tests share. Each test has a prefix of its own.
var node *member

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "etcd")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	node = &member{dir: dir}
	if err := node.start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer node.server.Close()
	return m.Run()
}

// member is a cluster of one member, which runs in this process.
type member struct {
	dir     string
	change  func(c *embed.Config) // nil or what a test wants otherwise
	server  *embed.Etcd
	address string // host and port for clients
}

// start starts the member on what is in its directory.
func (m *member) start() error {
	c := embed.NewConfig()
	c.Dir, c.Logger, c.LogLevel, c.LogOutputs = m.dir, "zap", "fatal", []string{"/dev/null"}
	c.UnsafeNoFsync = true // no test cuts the power
	c.BcryptCost = 4       // the least; a hash of the default takes seconds under the race detector
	c.TickMs, c.ElectionMs = 10, 100
	local := url.URL{Scheme: "http", Host: "127.0.0.1:0"}
	c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{local}, []url.URL{local}
	c.ListenPeerUrls, c.AdvertisePeerUrls = []url.URL{local}, []url.URL{local}
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	if m.address != "" {
		c.ListenClientUrls[0].Host = m.address // as before the restart
	}
	if m.change != nil {
		m.change(c)
	}
	server, err := embed.StartEtcd(c)
	if err != nil {
		return err
	}
	<-server.Server.ReadyNotify()
	m.server, m.address = server, server.Clients[0].Addr().String()
	return nil
}

// client makes a client for a test.
func client(t testing.TB, endpoints ...string) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: endpoints, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestEngineKeepsTheLaws(t *testing.T) {
	c := client(t, node.address)
	enginetest.Run(t, func(dir string, opts *latchkey.Options) (latchkey.Engine, error) {
		return etcd.NewWith(c, dir, etcd.Options{ReadOnly: opts != nil && opts.ReadOnly}), nil
	})
}
