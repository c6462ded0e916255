package etcdtest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/latchkeydb/latchkey"
	_ "github.com/latchkeydb/latchkey/admin" // the command has it
	"github.com/latchkeydb/latchkey/etcd"
	"github.com/latchkeydb/latchkey/migrate"
)

// TestScripts runs each file in testdata as a shell session. ETCD is the beginning of the URLs of
// stores on a server of etcd, and each session has prefixes of its own.
func TestScripts(t *testing.T) {
	bin := filepath.Dir(build(t))
	server := start(t)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", bin+string(os.PathListSeparator)+env.Getenv("PATH"))
			env.Setenv("ETCD", "etcd://"+server+"/"+filepath.Base(env.WorkDir))
			env.Setenv("LATCHKEY_COST", "light")
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits":      exits,
			"cutmigrate": cutMigrate,
		},
	})
}

// build makes the command, and returns its path.
func build(t *testing.T) string {
	t.Helper()
	// A run that is in the cache of go test counts only for the files that were read.
	sources, err := filepath.Glob("../../*.go")
	if err != nil || len(sources) == 0 {
		t.Fatalf("the command has no sources: %v", err)
	}
	for _, source := range sources {
		if _, err := os.ReadFile(source); err != nil {
			t.Fatal(err)
		}
	}
	name := filepath.Join(t.TempDir(), "latchkey")
	if out, err := exec.Command("go", "build", "-o", name, "../..").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return name
}

// start starts a server of etcd, and returns its address.
func start(t *testing.T) string {
	t.Helper()
	c := embed.NewConfig()
	c.Dir, c.Logger, c.LogLevel, c.LogOutputs = t.TempDir(), "zap", "fatal", []string{"/dev/null"}
	c.UnsafeNoFsync = true // no test cuts the power
	local := url.URL{Scheme: "http", Host: "127.0.0.1:0"}
	c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{local}, []url.URL{local}
	c.ListenPeerUrls, c.AdvertisePeerUrls = []url.URL{local}, []url.URL{local}
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	e, err := embed.StartEtcd(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	<-e.Server.ReadyNotify()
	return e.Clients[0].Addr().String()
}

// exits runs a command as exec does, and fails unless the command ends with the given status:
// exits 3 latchkey user show bob.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || fmt.Sprint(exit.ExitCode()) != args[0] {
		ts.Fatalf("%s: got %v, want status %s", args[1], err, args[0])
	}
}

// cutMigrate copies the store in a file to etcd, and ends after the first entries:
// cutmigrate FILE URL.
func cutMigrate(ts *testscript.TestScript, _ bool, args []string) {
	from, err := latchkey.OpenBoltEngine(ts.MkAbs(args[0]), &latchkey.Options{ReadOnly: true})
	ts.Check(err)
	to, err := etcd.Open(args[1], etcd.Options{})
	ts.Check(err)
	ctx, cancel := context.WithCancel(context.Background())
	_, err = migrate.Copy(ctx, from, to, &migrate.Options{Progress: func(migrate.Progress) { cancel() }})
	if !errors.Is(err, context.Canceled) {
		ts.Fatalf("got the error %v", err)
	}
	ts.Check(errors.Join(from.Close(), to.Close()))
}

func TestTheCommandDoesNotCompileTheServerOfEtcd(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "../..").Output()
	if err != nil {
		t.Fatal(err)
	}
	for path := range strings.FieldsSeq(string(out)) {
		if strings.HasPrefix(path, "go.etcd.io/etcd/server/") {
			t.Errorf("the command compiles %s", path)
		}
	}
	if !strings.Contains(string(out), "go.etcd.io/etcd/client/v3\n") {
		t.Error("the list does not have the client, so this test shows nothing")
	}
}

func TestProgramsAndCommandsHaveAStoreOpenAtOnce(t *testing.T) {
	bin := build(t)
	store := "etcd://" + start(t) + "/" + t.Name()
	latchkey := func(args ...string) *exec.Cmd {
		cmd := exec.Command(bin, args...)
		cmd.Env = append(cmd.Environ(), "LATCHKEY_STORE="+store, "LATCHKEY_COST=light")
		return cmd
	}
	run := func(args ...string) {
		t.Helper()
		if out, err := latchkey(args...).CombinedOutput(); err != nil {
			t.Errorf("latchkey %q: %v\n%s", args, err, out)
		}
	}
	run("init")
	for i, program := range []string{"serve", "hub"} {
		cmd := latchkey(program, "--addr", "127.0.0.1:0")
		var log bytes.Buffer
		cmd.Stderr = &log
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		url, err := bufio.NewReader(out).ReadString('\n')
		if err != nil || !strings.HasPrefix(url, "http://127.0.0.1:") {
			t.Errorf("%s has printed %q: %v", program, url, err)
		}
		run("user", "add", fmt.Sprintf("ada%d@example.com", i))
		run("stats")
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v\n%s", program, err, &log)
		}
		if strings.Contains(log.String(), "socket") {
			t.Errorf("%s speaks of a socket: %s", program, &log)
		}
	}
}
