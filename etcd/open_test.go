package etcd_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/etcd"
)

// openURL opens an engine, and closes it when the test ends.
func openURL(t testing.TB, url string) engine {
	t.Helper()
	e, err := etcd.Open(url, etcd.Options{})
	if err != nil {
		t.Fatal(err)
	}
	opened := engine{e, t}
	opened.Track("t")
	t.Cleanup(func() {
		for range 2 {
			if err := e.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		}
	})
	return opened
}

func TestAURLNamesAStore(t *testing.T) {
	prefix := "stores/" + t.Name()
	e := openURL(t, "etcd://127.0.0.1:1,"+node.address+"/"+prefix)
	e.put("k", "v")
	same := engine{etcd.New(client(t, node.address), prefix), t}
	defer same.Close()
	if got := same.get("k"); got != "v" {
		t.Errorf("the store of the prefix has %q", got)
	}
	for name, ok := range map[string]bool{
		"the bound of transactions": has[latchkey.EngineBounder](e.Engine), "health": has[latchkey.EngineHealther](e.Engine),
		"the count of commits": has[latchkey.CommitCounter](e.Engine), "the watch": has[latchkey.EngineWatcher](e.Engine),
	} {
		if !ok {
			t.Errorf("the engine lacks %s", name)
		}
	}
	for text, is := range map[string]bool{"etcd://a/b": true, "etcds://a/b": true, "keys.db": false, "./etcd:/a": false, "etcdx://a/b": false} {
		if etcd.IsURL(text) != is {
			t.Errorf("IsURL(%q) is %t", text, !is)
		}
	}
}

func has[T any](e latchkey.Engine) bool {
	_, ok := e.(T)
	return ok
}

func TestAWrongURLIsRefusedWithAReason(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, tt := range []struct{ url, reason string }{
		{"http://host/p", "begin with etcd:// or etcds://"},
		{"keys.db", "begin with etcd:// or etcds://"},
		{"etcd://", "a host is missing"},
		{"etcd:///p", "a host is missing"},
		{"etcd://host,,other/p", "a host is missing"},
		{"etcd://a:b:c/p", "a host is missing or wrong"},
		{"etcd://host:99999/p", "a port is wrong"},
		{"etcd://host:2379", "there must be a prefix"},
		{"etcd://host:2379/", "there must be a prefix"},
		{"etcd://host/%zz", "there must be a prefix"},
		{"etcd://root:hunter2@host/p", "a user and a password do not belong there"},
		{"etcd://host/p?cacert=ca.pem", "begin the URL with etcds://"},
		{"etcds://host/p?ca=ca.pem", `there is no parameter "ca"`},
		{"etcds://host/p?cert=c.pem", "cert and key belong together"},
		{"etcds://host/p?cacert=", "must name one file"},
		{"etcds://host/p?cacert=a&cacert=b", "must name one file"},
		{"etcds://host/p?%zz", "its parameters are not"},
		{"etcd://host/p?watch-age=2", "watch-age must be one duration"},
		{"etcd://host/p?watch-age=99ms", "watch-age is at least 100ms"},
		{"etcd://host/p?watch-age=-2s", "watch-age must be one duration"},
		{"etcd://host/p?watch-age=1s&watch-age=2s", "watch-age must be one duration"},
		{"etcd://host/p?unreachable=", "unreachable must be one duration"},
		{"etcd://host/p?unreachable=-1s", "unreachable is more than 0"},
	} {
		_, err := etcd.Open(tt.url, etcd.Options{})
		if !errors.Is(err, etcd.ErrURL) || !strings.Contains(err.Error(), tt.reason) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: got %v, want %s", tt.url, err, tt.reason)
		}
	}
	for _, tt := range []struct{ url, reason string }{
		{"etcd://host/p?credentials=" + write("no-colon", "hunter2\n"), "must have one line, USER:PASSWORD"},
		{"etcd://host/p?credentials=" + write("no-password", "hunter2:\n"), "must have one line, USER:PASSWORD"},
		{"etcd://host/p?credentials=" + write("two-lines", "root:hunter2\nroot:hunter2\n"), "must have one line, USER:PASSWORD"},
		{"etcds://host/p?cacert=" + write("ca.pem", "hunter2"), "ca.pem has no certificate in PEM"},
		{"etcds://host/p?cert=" + write("c.pem", "hunter2") + "&key=" + write("k.pem", "hunter2"), "c.pem and its key"},
	} {
		_, err := etcd.Open(tt.url, etcd.Options{})
		if err == nil || !strings.Contains(err.Error(), tt.reason) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: got %v, want %s", tt.url, err, tt.reason)
		}
	}
	for _, url := range []string{"etcd://host/p?credentials=" + dir + "/none", "etcds://host/p?cacert=" + dir + "/none", "etcds://host/p?key=none&cert=" + dir + "/none"} {
		if _, err := etcd.Open(url, etcd.Options{}); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: got %v", url, err)
		}
	}
}

// authority signs certificates, and writes them to the directory.
type authority struct {
	t    testing.TB
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// newAuthority makes an authority, and writes its certificate to ca.pem.
func newAuthority(t testing.TB, dir string) *authority {
	t.Helper()
	a := &authority{t: t, dir: dir}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.cert, a.key = a.sign("ca", template)
	return a
}

// sign writes a certificate and its key. The first certificate signs itself.
func (a *authority) sign(name string, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	a.must(err)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	a.must(err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	a.must(err)
	a.write(name+".pem", "CERTIFICATE", der)
	a.write(name+".key", "PRIVATE KEY", private)
	cert, err := x509.ParseCertificate(der)
	a.must(err)
	return cert, key
}

func (a *authority) write(name, kind string, der []byte) {
	a.t.Helper()
	a.must(os.WriteFile(filepath.Join(a.dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
}

func (a *authority) must(err error) {
	a.t.Helper()
	if err != nil {
		a.t.Fatal(err)
	}
}

// issue makes certificates for a server at ip and for a client.
func (a *authority) issue(ip string) {
	a.t.Helper()
	a.issueServer(ip)
	a.sign("client", &x509.Certificate{
		SerialNumber: big.NewInt(3), Subject: pkix.Name{CommonName: "latchkey"}, NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

// issueServer makes a certificate for a server at ip, which reads it at each handshake.
func (a *authority) issueServer(ip string) {
	a.t.Helper()
	a.sign("server", &x509.Certificate{
		SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.ParseIP(ip)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
}

// secure starts a member with TLS, whose certificates are in dir.
func secure(t testing.TB, dir string) *member {
	t.Helper()
	m := &member{dir: t.TempDir(), change: func(c *embed.Config) {
		c.ListenClientUrls[0].Scheme, c.AdvertiseClientUrls[0].Scheme = "https", "https"
		at := func(name string) string { return filepath.Join(dir, name) }
		c.ClientTLSInfo = transport.TLSInfo{CertFile: at("server.pem"), KeyFile: at("server.key"), TrustedCAFile: at("ca.pem"), ClientCertAuth: true}
	}}
	if err := m.start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.server.Close() })
	return m
}

func TestCertificatesAreReadAgainForEachConnection(t *testing.T) {
	dir := t.TempDir()
	newAuthority(t, dir).issue("127.0.0.1")
	l := newLink(t, secure(t, dir).address)
	e := openURL(t, "etcds://"+l.address+"/p?cacert="+dir+"/ca.pem&cert="+dir+"/client.pem&key="+dir+"/client.key")
	e.put("k", "v")

	newAuthority(t, dir).issueServer("127.0.0.1")
	l.cut()
	if got := e.get("k"); got != "v" {
		t.Errorf("got %q from the server with another certificate", got)
	}

	// A file that is being written does no harm.
	if err := os.WriteFile(filepath.Join(dir, "client.pem"), []byte("-----BEGIN"), 0o600); err != nil {
		t.Fatal(err)
	}
	l.cut()
	if got := e.get("k"); got != "v" {
		t.Errorf("got %q by the certificates of before", got)
	}
}

func TestAServerThatIsNotTheOneIsNotAsked(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	newAuthority(t, dir).issue("127.0.0.1")
	newAuthority(t, other)
	m := secure(t, dir)
	_, port, _ := net.SplitHostPort(m.address)
	client := "&cert=" + dir + "/client.pem&key=" + dir + "/client.key"
	for _, tt := range []struct{ what, url, reason string }{
		{"a name that is not in the certificate", "etcds://localhost:" + port + "/p?cacert=" + dir + "/ca.pem" + client, "localhost"},
		{"an authority that nobody trusts", "etcds://" + m.address + "/p?cacert=" + other + "/ca.pem" + client, "authority"},
		{"no TLS", "etcd://" + m.address + "/p", "does not answer"},
		{"no certificate of the client", "etcds://" + m.address + "/p?cacert=" + dir + "/ca.pem", "certificate required"},
		{"a port where nobody listens", "etcd://127.0.0.1:1/p", "etcd does not answer: dial tcp 127.0.0.1:1: "},
	} {
		e, err := etcd.Open(tt.url, etcd.Options{Timeout: 300 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		until(t, "the error names "+tt.reason+" for "+tt.what, func() bool { // perhaps later
			_, _, err := e.Commit(t.Context())
			if !errors.Is(err, latchkey.ErrUnavailable) {
				t.Fatalf("%s: %v, want ErrUnavailable", tt.what, err)
			}
			return strings.Contains(err.Error(), tt.reason)
		})
		e.Close()
	}
}

func TestHealthSaysWhyEtcdDoesNotAnswer(t *testing.T) {
	m := &member{dir: t.TempDir()}
	if err := m.start(); err != nil {
		t.Fatal(err)
	}
	e := openURL(t, "etcd://"+m.address+"/p?watch-age=200ms")
	e.put("k", "v")
	m.server.Close()
	until(t, "Health names the connection", func() bool {
		err := e.health()
		return errors.Is(err, latchkey.ErrUnavailable) && strings.Contains(err.Error(), "etcd does not answer: dial tcp "+m.address+": ")
	})
}

// guarded starts a member on which the user latchkey may use the prefix stores/a alone. It also
// returns a client with all rights.
func guarded(t testing.TB, password string) (*member, *clientv3.Client) {
	t.Helper()
	m := &member{dir: t.TempDir()}
	if err := m.start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.server.Close() })
	anybody := client(t, m.address)
	for _, step := range []func() error{
		func() error { _, err := anybody.UserAdd(t.Context(), "root", "secret"); return err },
		func() error { _, err := anybody.UserGrantRole(t.Context(), "root", "root"); return err },
		func() error { _, err := anybody.UserAdd(t.Context(), "latchkey", password); return err },
		func() error { _, err := anybody.RoleAdd(t.Context(), "stores"); return err },
		func() error {
			_, err := anybody.RoleGrantPermission(t.Context(), "stores", "stores/a/", "stores/a0", 2)
			return err
		},
		func() error { _, err := anybody.UserGrantRole(t.Context(), "latchkey", "stores"); return err },
		func() error { _, err := anybody.AuthEnable(t.Context()); return err },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	root, err := clientv3.New(clientv3.Config{Endpoints: []string{m.address}, Username: "root", Password: "secret", Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return m, root
}

// writeCredentials makes a file of credentials, or replaces it.
func writeCredentials(t testing.TB, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestAUserOfEtcdNeedsThePrefixAlone(t *testing.T) {
	m, _ := guarded(t, "with:colon")
	file := filepath.Join(t.TempDir(), "credentials")
	writeCredentials(t, file, "latchkey:with:colon\n")
	e := openURL(t, "etcd://"+m.address+"/stores/a?credentials="+file)
	e.put("k", "v")
	if got := e.get("k"); got != "v" {
		t.Errorf("got %q", got)
	}
	other := openURL(t, "etcd://"+m.address+"/stores/b?credentials="+file)
	_, _, err := other.Commit(t.Context())
	if err == nil || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("another prefix: got %v", err)
	}
	writeCredentials(t, file, "latchkey:wrong")
	if _, err := etcd.Open("etcd://"+m.address+"/stores/a?credentials="+file, etcd.Options{}); err == nil || !strings.Contains(err.Error(), "authentication failed") {
		t.Errorf("a wrong password: got %v", err)
	}
}

func TestAPasswordIsChangedWhileTheEngineIsOpen(t *testing.T) {
	m, root := guarded(t, "first")
	change := func(password string) {
		t.Helper()
		if _, err := root.UserChangePassword(t.Context(), "latchkey", password); err != nil {
			t.Fatal(err)
		}
	}
	l := newLink(t, m.address)
	file := filepath.Join(t.TempDir(), "credentials")
	writeCredentials(t, file, "latchkey:first")
	e := openURL(t, "etcd://"+l.address+"/stores/a?credentials="+file)
	e.put("k", "1")

	change("second")
	err := e.Update(t.Context(), func(tx latchkey.EngineTx) error { return tx.Put("t", []byte("k"), []byte("2")) })
	if err == nil || !strings.Contains(err.Error(), "authentication failed") || strings.Contains(err.Error(), "first") {
		t.Errorf("before the file has the password: got %v", err)
	}
	writeCredentials(t, file, "latchkey")
	l.cut() // the watch needs the password, too
	writeCredentials(t, file, "latchkey:second")
	e.commitAgain()
	sequence := e.sequence("again")
	other := engine{etcd.New(root, "stores/a"), t}
	defer other.Close()
	other.put("k", "other")
	if err := e.Wait(t.Context(), sequence); err != nil { // by the watch
		t.Error(err)
	}

	// In the other order, no call has to fail.
	writeCredentials(t, file, "latchkey:third")
	change("third")
	e.put("k", "3")
	if got := e.get("k"); got != "3" {
		t.Errorf("got %q", got)
	}
}

func TestAnEngineDoesNotPrintItsPassword(t *testing.T) {
	m, _ := guarded(t, "hunter2")
	file := filepath.Join(t.TempDir(), "credentials")
	writeCredentials(t, file, "latchkey:hunter2\n")
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{m.address}, Username: "latchkey", Password: "hunter2", Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	opened, made := openURL(t, "etcd://"+m.address+"/stores/a?credentials="+file), etcd.New(c, "stores/a")
	defer made.Close()
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d"} {
		if text := fmt.Sprintf(verb+verb, opened.Engine, made); strings.Contains(text, "hunter2") {
			t.Errorf("%s shows the password: %.200q", verb, text)
		}
	}
}
