package main

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	paho "github.com/eclipse/paho.mqtt.golang"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
)

// start runs a broker with a key for each device, and returns its address, the tokens of the keys,
// and a client of the store that the broker has open.
func start(t *testing.T, scopes map[string]string) (addr string, tokens map[string]string, local *admin.Client) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keys.db")
	store, err := latchkey.Open(path, &latchkey.Options{Cost: latchkey.LightCost})
	if err != nil {
		t.Fatal(err)
	}
	tokens = map[string]string{}
	for name, s := range scopes {
		_, token, err := store.CreateServerKey(t.Context(), latchkey.KeySpec{Name: name, Scopes: latchkey.NewScopes(strings.Fields(s)...)})
		if err != nil {
			t.Fatal(err)
		}
		tokens[name] = token
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	out, printed := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := run(ctx, path, listener, printed)
		printed.Close()
		ended <- err
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal("the broker did not start")
	}
	return strings.TrimSpace(line), tokens, admin.NewClient(&http.Client{Transport: admin.Transport(path)}, "http://latchkey", "")
}

// options returns the options of a device that connects once.
func options(addr, id, token string) *paho.ClientOptions {
	return paho.NewClientOptions().AddBroker("tcp://" + addr).SetClientID(id).SetUsername("device").SetPassword(token).
		SetAutoReconnect(false).SetConnectRetry(false)
}

func connect(o *paho.ClientOptions) (paho.Client, error) {
	c := paho.NewClient(o)
	return c, wait(c.Connect())
}

func wait(t paho.Token) error {
	t.Wait()
	return t.Error()
}

func mustConnect(t *testing.T, o *paho.ClientOptions) paho.Client {
	t.Helper()
	c, err := connect(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Disconnect(0) })
	return c
}

func disable(t *testing.T, local *admin.Client, name string) {
	t.Helper()
	for key, err := range local.Keys(t.Context(), latchkey.KeyFilter{}) {
		if err != nil {
			t.Fatal(err)
		}
		if key.Name == name {
			if _, err := local.ChangeKey(t.Context(), key.ID, admin.KeyChange{Disabled: admin.Some(true)}, admin.AnyETag); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatalf("there is no key %s", name)
}

func TestADeviceUsesTheTopicsOfItsKeyUntilItIsRevoked(t *testing.T) {
	addr, tokens, local := start(t, map[string]string{
		"oven":    "publish:home:kitchen publish:home:kitchen:oven:*",
		"display": "subscribe:home:kitchen:*",
	})
	display := mustConnect(t, options(addr, "display", tokens["display"]))
	got := make(chan string, 10)
	if err := wait(display.Subscribe("home/kitchen/#", 1, func(_ paho.Client, m paho.Message) {
		got <- m.Topic() + " " + string(m.Payload())
	})); err != nil {
		t.Fatal(err)
	}
	if err := wait(display.Publish("home/kitchen/oven", 0, false, "forged")); err != nil {
		t.Fatal(err)
	}
	// When the broker answers, it has seen the message, too.
	wider := display.Subscribe("home/#", 1, nil).(*paho.SubscribeToken)
	if err := wait(wider); err == nil && wider.Result()["home/#"] != 0x80 {
		t.Error("the display subscribed to topics that its key does not permit")
	}

	lost := make(chan error, 1)
	oven := mustConnect(t, options(addr, "oven", tokens["oven"]).SetWill("home/kitchen/oven/state", "gone", 1, false).
		SetConnectionLostHandler(func(_ paho.Client, err error) { lost <- err }))
	// The oven may not publish the first, and the display may not read the second.
	for _, topic := range []string{"home/kitchen/door", "home/kitchen", "home/kitchen/oven/heat"} {
		if err := wait(oven.Publish(topic, 0, false, "200 °C")); err != nil {
			t.Fatal(err)
		}
	}
	if m := <-got; m != "home/kitchen/oven/heat 200 °C" {
		t.Errorf("the display got %q", m)
	}

	disable(t, local, "oven")
	<-lost
	if m := <-got; m != "home/kitchen/oven/state gone" {
		t.Errorf("the display got %q", m)
	}
	if _, err := connect(options(addr, "oven", tokens["oven"])); err == nil {
		t.Error("a disabled key connected")
	}
	if !display.IsConnectionOpen() {
		t.Error("the display was disconnected, too")
	}
}

func TestADeviceIsRefusedThatIsNotWhatItsKeySays(t *testing.T) {
	addr, tokens, _ := start(t, map[string]string{"oven": "publish:home:kitchen:*", "display": "subscribe:home:*"})
	for what, o := range map[string]*paho.ClientOptions{
		"without a token":                               options(addr, "oven", ""),
		"with the token of another":                     options(addr, "oven", tokens["display"]),
		"with a token that is forged":                   options(addr, "oven", "lk_nonsense"),
		"with a will that the key does not permit":      options(addr, "oven", tokens["oven"]).SetWill("home/door", "open", 0, false),
		"with a will whose topic has a colon":           options(addr, "oven", tokens["oven"]).SetWill("home:kitchen/oven", "on", 0, false),
		"with a client ID that the broker would choose": options(addr, "", tokens["oven"]).SetCleanSession(true),
	} {
		if _, err := connect(o); err == nil {
			t.Errorf("a device connected %s", what)
		}
	}
	mustConnect(t, options(addr, "oven", tokens["oven"]).SetWill("home/kitchen/oven/state", "gone", 0, false))
}
