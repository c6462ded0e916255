package etcd_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// A cluster is three nodes of etcd, and the network between them and their clients.
type cluster struct {
	t     testing.TB
	dir   string
	nodes [size]*node
	// peers has the wires between two nodes, each in both places. clients has the wires to each
	// node. Requests that do not say which node they are from use other, which cannot fail. They
	// have no Raft messages.
	peers   [size][size]*wire
	clients [size]*wire
	other   *wire
	// known is closed when the IDs of all nodes are known.
	known chan struct{}
}

// size is the number of nodes.
const size = 3

type clusterOptions struct {
	quota int64 // in bytes; 0 means etcd's default
	sync  bool  // whether the nodes sync their disks
}

// A node is a process that may be dead or stopped at the moment.
type node struct {
	settings nodeSettings
	// peers is the link from the other nodes, and clients the one from clients.
	peers, clients *link

	mu     sync.Mutex
	cmd    *exec.Cmd // nil while the process is dead
	in     io.WriteCloser
	stderr bytes.Buffer
	report nodeReport
	resume func() // not nil while the process is stopped
}

// newCluster starts a cluster, and waits until it has a leader.
func newCluster(t testing.TB, opts clusterOptions) *cluster {
	t.Helper()
	c := &cluster{t: t, dir: t.TempDir(), other: newWire(), known: make(chan struct{})}
	for i := range size {
		c.clients[i] = newWire()
		for j := range i {
			w := newWire()
			c.peers[i][j], c.peers[j][i] = w, w
		}
	}
	var peers []string
	for i := range size {
		n := &node{}
		c.nodes[i] = n
		var err error
		n.peers, err = newPeerLink(func(from string) *wire { return c.wireFrom(from, i) })
		must(t, err)
		n.clients, err = newLink(c.clients[i])
		must(t, err)
		n.settings = nodeSettings{
			Name: fmt.Sprint("node", i), Dir: filepath.Join(c.dir, fmt.Sprint("node", i)),
			PeerURL: n.peers.url(), ClientURL: n.clients.url(), Log: filepath.Join(c.dir, fmt.Sprint("log", i)),
			Quota: opts.quota, Sync: opts.sync,
		}
		peers = append(peers, n.settings.Name+"="+n.settings.PeerURL)
	}
	for _, n := range c.nodes {
		n.settings.Peers = strings.Join(peers, ",")
	}
	t.Cleanup(c.end)
	for i := range size {
		c.start(i)
	}
	close(c.known)
	c.leader()
	return c
}

// end kills all nodes. If the test has failed, end logs what the nodes have logged.
func (c *cluster) end() {
	c.heal()
	for i, n := range c.nodes {
		c.kill(i)
		n.peers.close()
		n.clients.close()
		c.clients[i].set(wireCut)
		for _, w := range c.peers[i] {
			if w != nil {
				w.set(wireCut)
			}
		}
		if c.t.Failed() {
			log, _ := os.ReadFile(n.settings.Log)
			lines := strings.SplitAfter(string(log), "\n")
			c.t.Logf("%s: %s%s", n.settings.Name, n.stderr.String(), strings.Join(lines[max(0, len(lines)-15):], ""))
		}
	}
	c.other.set(wireCut)
}

// wireFrom returns the wire from a node with an ID to the node with the number to. A node connects
// before the test knows its ID.
func (c *cluster) wireFrom(id string, to int) *wire {
	number, err := strconv.ParseUint(id, 16, 64)
	if err != nil {
		return c.other
	}
	<-c.known
	for i, n := range c.nodes {
		n.mu.Lock()
		is := n.report.ID == number
		n.mu.Unlock()
		if is && i != to {
			return c.peers[i][to]
		}
	}
	return c.other
}

// startAll starts all nodes that are dead, and waits until there is a leader.
func (c *cluster) startAll() {
	c.t.Helper()
	for i, n := range c.nodes {
		if n.cmd == nil {
			c.start(i)
		}
	}
	c.leader()
}

// start starts a node on its data.
func (c *cluster) start(i int) {
	c.t.Helper()
	n := c.nodes[i]
	settings, err := json.Marshal(n.settings)
	must(c.t, err)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), nodeVariable+"="+string(settings), "GORACE=halt_on_error=1")
	n.stderr.Reset()
	cmd.Stderr = &n.stderr
	in, err := cmd.StdinPipe()
	must(c.t, err)
	out, err := cmd.StdoutPipe()
	must(c.t, err)
	must(c.t, cmd.Start())
	kill := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()
	var report nodeReport
	if err := json.NewDecoder(out).Decode(&report); err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		c.t.Fatalf("%s: does not start: %v\n%s", n.settings.Name, err, n.stderr.String())
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cmd, n.in, n.report = cmd, in, report
	n.peers.lead(report.Peers)
	n.clients.lead(report.Clients)
}

// kill ends a node at once, with SIGKILL.
func (c *cluster) kill(i int) {
	n := c.nodes[i]
	if n.cmd == nil {
		return
	}
	_ = n.cmd.Process.Kill()
	c.goOn(i)
	_ = n.cmd.Wait() // it was killed
	_ = n.in.Close()
	n.cmd = nil
}

// stop makes a node stand still, with SIGSTOP, until goOn. To clients and to the other nodes, the
// node is like one whose disk does not answer.
func (c *cluster) stop(i int) {
	c.t.Helper()
	n := c.nodes[i]
	// The shell lets the node go on when the test ends in any way. A stopped node could not end.
	cmd := exec.Command("sh", "-c", `kill -STOP "$1" && echo; cat; kill -CONT "$1"`, "sh", fmt.Sprint(n.cmd.Process.Pid))
	in, err := cmd.StdinPipe()
	must(c.t, err)
	out, err := cmd.StdoutPipe()
	must(c.t, err)
	must(c.t, cmd.Start())
	_, err = out.Read(make([]byte, 1))
	must(c.t, err)
	n.resume = func() {
		_ = in.Close()
		_ = cmd.Wait() // it fails if the node was killed
	}
}

// goOn lets a stopped node go on.
func (c *cluster) goOn(i int) {
	if n := c.nodes[i]; n.resume != nil {
		n.resume()
		n.resume = nil
	}
}

// isolate sets the state of all wires between a node and the others. Clients still reach the node.
func (c *cluster) isolate(i int, state wireState) {
	for _, w := range c.peers[i] {
		if w != nil {
			w.set(state)
		}
	}
}

// heal opens all wires, and lets all stopped nodes go on.
func (c *cluster) heal() {
	for i := range c.nodes {
		c.goOn(i)
		c.clients[i].set(wireOpen)
		c.isolate(i, wireOpen)
	}
}

// compact makes etcd forget all revisions before the present one, by way of a node.
func (c *cluster) compact(i int) {
	c.t.Helper()
	admin := c.admin(i)
	defer admin.Close()
	eventually(c.t, "a compaction", func(ctx context.Context) bool {
		now, err := admin.Get(ctx, "revision")
		if err != nil {
			return false
		}
		_, err = admin.Compact(ctx, now.Header.Revision, clientv3.WithCompactPhysical())
		return err == nil
	})
}

// dial returns a client that knows the given nodes, by their links.
func (c *cluster) dial(nodes ...int) *clientv3.Client {
	c.t.Helper()
	var endpoints []string
	for _, i := range nodes {
		endpoints = append(endpoints, c.nodes[i].clients.address())
	}
	return dial(c.t, endpoints...)
}

// admin returns a client of one node that no wire disturbs.
func (c *cluster) admin(i int) *clientv3.Client {
	c.t.Helper()
	return dial(c.t, c.nodes[i].report.Clients)
}

func dial(t testing.TB, endpoints ...string) *clientv3.Client {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{
		Endpoints: endpoints, DialTimeout: patience, Logger: zap.NewNop(),
		DialKeepAliveTime: 2 * time.Second, DialKeepAliveTimeout: 2 * time.Second,
	})
	must(t, err)
	return client
}

// leader waits until most nodes know the same leader, which is one of them, and returns its number.
func (c *cluster) leader() (leader int) {
	c.t.Helper()
	clients := [size]*clientv3.Client{}
	for i, n := range c.nodes {
		if n.cmd != nil && n.resume == nil {
			clients[i] = c.admin(i)
			defer clients[i].Close()
		}
	}
	eventually(c.t, "a leader", func(ctx context.Context) bool {
		votes := map[uint64]int{}
		for i, client := range clients {
			if client == nil {
				continue
			}
			s, err := client.Status(ctx, c.nodes[i].report.Clients)
			if err == nil && s.Leader != 0 {
				votes[s.Leader]++
			}
		}
		for i, n := range c.nodes {
			if clients[i] != nil && votes[n.report.ID] > size/2 {
				leader = i
				return true
			}
		}
		return false
	})
	return leader
}

// follower returns the number of a node that is not the leader.
func (c *cluster) follower(random *rand.Rand) int {
	c.t.Helper()
	return (c.leader() + 1 + random.IntN(size-1)) % size
}

// eventually waits until is returns true, and ends the test if that takes longer than patience. The
// context of is ends after some seconds.
func eventually(t testing.TB, what string, is func(ctx context.Context) bool) {
	t.Helper()
	limit, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		ctx, done := context.WithTimeout(limit, 10*time.Second)
		ok := is(ctx)
		done()
		if ok {
			return
		}
		select {
		case <-limit.Done():
			t.Fatalf("waited in vain: %s", what)
		case <-again.C:
		}
	}
}

// awaitOther waits until the cluster has a leader other than the node with the number was.
func (c *cluster) awaitOther(was int) {
	c.t.Helper()
	eventually(c.t, "another leader", func(context.Context) bool { return c.leader() != was })
}
