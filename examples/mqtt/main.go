// Mqtt is a broker for MQTT whose devices log in with keys. Each device has a server key. The name
// of the key is the client ID of the device, and the token is its password. The user name can be
// anything. The scopes of the key say which topics the device may use, with colons for the slashes:
//
//	latchkey init --store keys.db
//	latchkey key create --store keys.db --server --quiet --scopes 'publish:home:kitchen:*' oven
//	latchkey key create --store keys.db --server --quiet --scopes 'subscribe:home:*' display
//	go run -C examples/mqtt . -store "$PWD/keys.db" -addr 127.0.0.1:1883
//
// The command latchkey works while the broker runs. A device whose key is disabled, deleted or
// expired is disconnected at once, and so is a device that gets other networks than its own:
//
//	latchkey key disable --store keys.db --server oven
//
// A token is a password, so give -cert and -key on every network that is not the machine's own.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
)

func main() {
	path := flag.String("store", "keys.db", "the `FILE` of the store")
	addr := flag.String("addr", "127.0.0.1:1883", "the `ADDRESS` to listen on")
	cert := flag.String("cert", "", "the `FILE` of a certificate for TLS")
	key := flag.String("key", "", "the `FILE` of the certificate's private key")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	listener, err := listen(*addr, *cert, *key)
	if err != nil {
		log.Fatal(err)
	}
	if err := run(ctx, *path, listener, os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// listen listens on an address, with TLS if there is a certificate.
func listen(addr, cert, key string) (net.Listener, error) {
	if cert == "" {
		return net.Listen("tcp", addr)
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	return tls.Listen("tcp", addr, &tls.Config{Certificates: []tls.Certificate{pair}})
}

// run serves until ctx ends. It prints the address when it is ready.
func run(ctx context.Context, path string, listener net.Listener, out io.Writer) error {
	defer listener.Close()
	store, err := latchkey.Open(path, &latchkey.Options{MustExist: true})
	if err != nil {
		return err
	}
	defer store.Close()
	socket, err := admin.Listen(store, path, nil) // for the command latchkey
	if err != nil {
		return err
	}
	defer socket.Close()

	broker := mqtt.New(&mqtt.Options{Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))})
	gate := &gate{store: store, broker: broker, devices: map[string]device{}}
	if err := broker.AddHook(gate, nil); err != nil {
		return err
	}
	if err := broker.AddListener(listeners.NewNet("tcp", listener)); err != nil {
		return err
	}
	defer broker.Close()
	if err := broker.Serve(); err != nil {
		return err
	}
	fmt.Fprintln(out, listener.Addr())
	return gate.watch(ctx)
}

// A gate decides which devices the broker serves, and which topics each of them may use.
type gate struct {
	mqtt.HookBase
	store  *latchkey.Store
	broker *mqtt.Server

	mu      sync.Mutex
	devices map[string]device // those that have logged in, by client ID
}

// A device is kept with its token, so that it can be asked at any time whether the token is still
// good. A login after the first takes less than a microsecond.
type device struct {
	token  string
	addr   netip.Addr
	client *mqtt.Client
}

func (g *gate) ID() string { return "latchkey" }

func (g *gate) Provides(hook byte) bool {
	return hook == mqtt.OnConnectAuthenticate || hook == mqtt.OnACLCheck
}

// login returns the scopes of a device, if its token is good. A device that could choose its client
// ID could take over the session of another device.
func (g *gate) login(id string, d device) (latchkey.Scopes, error) {
	who, err := g.store.LoginFrom(context.Background(), d.token, d.addr)
	if err == nil && !(who.ServerKey && who.KeyName == id) {
		err = errors.New("the client ID is not the name of the device's key")
	}
	return who.Scopes, err
}

// OnConnectAuthenticate reports whether a device may connect. The broker publishes the will of a
// device, which is its last message, without asking OnACLCheck.
func (g *gate) OnConnectAuthenticate(client *mqtt.Client, connect packets.Packet) bool {
	remote, err := netip.ParseAddrPort(client.Net.Remote)
	if err != nil {
		return false
	}
	d := device{string(connect.Connect.Password), remote.Addr(), client}
	scopes, err := g.login(client.ID, d)
	if err != nil || connect.Connect.WillFlag && !permits(scopes, "publish", connect.Connect.WillTopic) {
		return false
	}
	g.mu.Lock()
	g.devices[client.ID] = d
	g.mu.Unlock()
	// The device may have been revoked before disconnectRevoked could find it.
	_, err = g.login(client.ID, d)
	return err == nil
}

// OnACLCheck reports whether a device may publish to a topic, subscribe to a filter of topics, or
// get a message about a topic. The broker asks for each message, so that a revoked device neither
// sends nor gets one, and a filter with wildcards gives no topic away.
func (g *gate) OnACLCheck(client *mqtt.Client, topic string, write bool) bool {
	g.mu.Lock()
	d, ok := g.devices[client.ID]
	g.mu.Unlock()
	if !ok {
		return false
	}
	scopes, err := g.login(client.ID, d)
	if write {
		return err == nil && permits(scopes, "publish", topic)
	}
	return err == nil && permits(scopes, "subscribe", topic)
}

// permits reports whether scopes permit a topic. A topic with a colon could be mistaken for
// another.
func permits(scopes latchkey.Scopes, what, topic string) bool {
	return !strings.Contains(topic, ":") && scopes.Has(what+":"+strings.ReplaceAll(topic, "/", ":"))
}

// watch disconnects revoked devices after each change of the store, and once a minute because of
// expiry dates, until ctx ends.
func (g *gate) watch(ctx context.Context) error {
	for {
		var seen uint64
		err := g.store.View(ctx, func(tx *latchkey.Tx) error { seen = tx.Sequence(); return nil })
		if err == nil {
			g.disconnectRevoked()
			minute, cancel := context.WithTimeout(ctx, time.Minute)
			err = g.store.Wait(minute, seen)
			cancel()
		}
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
	}
}

func (g *gate) disconnectRevoked() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for id, d := range g.devices {
		if _, err := g.login(id, d); err != nil {
			delete(g.devices, id)
			// The broker publishes the will of the device, so that others learn that it is gone.
			_ = g.broker.DisconnectClient(d.client, packets.ErrNotAuthorized)
		}
	}
}
