package main

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
	"github.com/latchkeydb/latchkey/replica"
)

// socketEnv makes the commands of a script meet a store that a server has open. Its value is the
// name of the script.
const socketEnv = "LATCHKEY_TEST_SOCKET"

// direct has the commands that meet no server in the scripts, with the reason. A name is that of a
// command, of a script and a command, or of a flag.
var direct = map[string]string{
	"init":         "it makes the file",
	"restore":      "it makes the file",
	"salvage":      "it reads a file that no program could open",
	"doctor":       "it looks at the file, and its output depends on who has the file open",
	"migrate":      "it reads a file that no program may write to",
	"serve":        "it is a server itself",
	"hub":          "it is a server itself",
	"join":         "it makes the file",
	"--follow":     "it is a server itself",
	"--hub-cert":   "it is refused, as --cost is",
	"watch":        "it opens the file again and again",
	"--cost":       "it is refused: see TestOptionsOfTheStoreAreRefusedOnTheSocket",
	"--max-keys":   "it is refused, as --cost is",
	"--chain":      "it is refused, as --cost is",
	"import login": "the token of an imported key counts as used, and the script compares the last uses",
}

// isDirect reports whether the command of a command line meets no server.
func isDirect(args []string) bool {
	name := ""
	if len(args) > 0 && strings.HasPrefix(args[0], "__complete") {
		args = args[1:]
	}
	if cmd, _, err := newRoot(&cli{}).Find(args); err == nil {
		name = strings.Fields(cmd.CommandPath() + " latchkey")[1]
	}
	names := append([]string{name, os.Getenv(socketEnv) + " " + name}, args...)
	return slices.ContainsFunc(names, func(name string) bool { return direct[name] != "" })
}

// serveFirst opens the store that a command line names, and serves its socket, if socketEnv is set.
// The lock on the file holds for the same process, too, so the command goes through the socket. If
// the store cannot be opened, nothing is served, and the command says why. The function that
// serveFirst returns ends serving.
func serveFirst(args []string) (end func()) {
	end = func() {}
	if os.Getenv(socketEnv) == "" || isDirect(args) {
		return end
	}
	path := os.Getenv("LATCHKEY_STORE")
	for i, arg := range args {
		if value, ok := strings.CutPrefix(arg, "--store="); ok {
			path = value
		} else if arg == "--store" && i+1 < len(args) {
			path = args[i+1]
		}
	}
	// Opening a file for writing could make a store of it.
	s, err := openStore(path, latchkey.Options{ReadOnly: true}, 0)
	if err != nil || s.Close() != nil {
		return end
	}
	opened, err := openTrailed(context.Background(), path, replica.Options{}, "", 0)
	if err != nil {
		return end
	}
	served := opened.served()
	if opened.edge == nil {
		served.Hub = replica.NewHub(opened.Store, nil)
	}
	socket, err := admin.Listen(opened.Store, path, &served)
	if err != nil {
		panic(err)
	}
	return func() {
		if err := errors.Join(socket.Close(), opened.close()); err != nil {
			panic(err)
		}
	}
}
