package main

import (
	"errors"
	"os"
	"slices"
	"strings"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
)

// socketEnv makes the command of the scripts meet a store that a server has open.
const socketEnv = "LATCHKEY_TEST_SOCKET"

// direct has the commands that meet no server in the scripts, with the reason.
var direct = map[string]string{
	"init":    "it makes the file",
	"restore": "it makes the file",
	"salvage": "it reads a file that no program could open",
	"doctor":  "it looks at the file, and its output depends on who has the file open",
	"serve":   "it is a server itself",
	"watch":   "it opens the file again and again",
}

// unconverted has the commands that do not work through the socket yet.
var unconverted = []string{
	"user", "key", "login", "completion", "__complete", "__completeNoDesc",
}

// serveFirst opens the store that a command line names, and serves its socket, if socketEnv is set.
// The lock on the file holds for the same process, too, so the command goes through the socket. If
// the store cannot be opened, nothing is served, and the command says why. The function that
// serveFirst returns ends serving.
func serveFirst(args []string) (end func()) {
	if os.Getenv(socketEnv) == "" {
		return func() {}
	}
	c := &cli{store: os.Getenv("LATCHKEY_STORE")}
	name := ""
	if cmd, _, err := newRoot(&cli{}).Find(args); err == nil {
		name = strings.Fields(cmd.CommandPath() + " latchkey")[1]
	}
	if len(args) > 0 && strings.HasPrefix(args[0], "__complete") { // cobra adds these when it runs
		name = args[0]
	}
	for i, arg := range args {
		if value, ok := strings.CutPrefix(arg, "--store="); ok {
			c.store = value
		} else if arg == "--store" && i+1 < len(args) {
			c.store = args[i+1]
		}
	}
	if _, ok := direct[name]; ok || slices.Contains(unconverted, name) {
		return func() {}
	}
	if _, err := os.Stat(c.store); err != nil {
		return func() {}
	}
	opts := latchkey.Options{}
	trail := keepTrail(&opts)
	store, err := openStore(c.store, opts, 0)
	if err != nil {
		return func() {}
	}
	socket, err := admin.Listen(store, c.store, &admin.Options{Trail: trail})
	if err != nil {
		panic(err)
	}
	return func() {
		if err := errors.Join(socket.Close(), store.Close()); err != nil {
			panic(err)
		}
	}
}
