package etcd_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
)

// This program is one node of a cluster. It writes its addresses to its standard output when it can
// be reached, and ends when its standard input does, so that it never outlives the test.

// nodeVariable is an environment variable. If it has nodeSettings in JSON, the test binary runs a
// node and no tests.
const nodeVariable = "LATCHKEY_ETCD_NODE"

type nodeSettings struct {
	Name      string // of the node
	Dir       string // of its data; the program makes it
	Peers     string // the nodes with the addresses at which they reach each other, as name=URL,…
	PeerURL   string // of this node
	ClientURL string
	Log       string // the path of a file
	Quota     int64  // in bytes; 0 means etcd's default
	Sync      bool   // whether commits are synced to the disk
}

// A nodeReport is what a node says about itself when it can be reached.
type nodeReport struct {
	ID      uint64
	Peers   string // the address on which the node listens for other nodes
	Clients string
}

func runNode(settings string) error {
	var s nodeSettings
	if err := json.Unmarshal([]byte(settings), &s); err != nil {
		return err
	}
	c := embed.NewConfig()
	c.Name, c.Dir, c.InitialCluster = s.Name, s.Dir, s.Peers
	// Elections are short, and the longest of them still leaves a node time on a busy machine.
	c.TickMs, c.ElectionMs = 50, 750
	c.QuotaBackendBytes, c.UnsafeNoFsync = s.Quota, !s.Sync
	c.LogLevel, c.LogOutputs = "warn", []string{s.Log}
	var err error
	address := func(u string) []url.URL {
		parsed, e := url.Parse(u)
		if e != nil {
			err = e
			return nil
		}
		return []url.URL{*parsed}
	}
	c.AdvertisePeerUrls, c.AdvertiseClientUrls = address(s.PeerURL), address(s.ClientURL)
	c.ListenPeerUrls, c.ListenClientUrls = address("http://127.0.0.1:0"), address("http://127.0.0.1:0")
	if err != nil {
		return err
	}
	e, err := embed.StartEtcd(c)
	if err != nil {
		return fmt.Errorf("start %s: %w", s.Name, err)
	}
	report := nodeReport{
		ID: uint64(e.Server.MemberID()), Peers: e.Peers[0].Addr().String(), Clients: e.Clients[0].Addr().String(),
	}
	if err := json.NewEncoder(os.Stdout).Encode(report); err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0) // the test is over
	}()
	return <-e.Err()
}

// patience bounds how long a test waits for anything. No wait takes a tenth of it, unless the
// machine stands still.
const patience = 5 * time.Minute
