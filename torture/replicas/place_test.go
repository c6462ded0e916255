package replicas_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"os"
	"os/exec"
	"testing"
	"time"
)

// A place is a hub or an edge: a process that may be dead at the moment.
type place struct {
	name string
	open order // what the process is told first; its invitation is used once

	cmd    *exec.Cmd // nil while the process is dead
	in     io.WriteCloser
	orders *json.Encoder
	out    *json.Decoder
	stderr bytes.Buffer
}

// patience bounds how long a test waits for anything. No wait takes a tenth of it, unless the
// machine stands still.
const patience = 5 * time.Minute

// start starts the process, and returns what came of opening.
func (p *place) start(t *testing.T) answer {
	t.Helper()
	p.cmd = exec.Command(os.Args[0])
	p.cmd.Env = append(os.Environ(), programVariable+"=1", "GORACE=halt_on_error=1")
	p.cmd.Stderr = &p.stderr
	var err error
	p.in, err = p.cmd.StdinPipe()
	must(t, err)
	out, err := p.cmd.StdoutPipe()
	must(t, err)
	p.orders, p.out = json.NewEncoder(p.in), json.NewDecoder(out)
	must(t, p.cmd.Start())
	p.open.Do = "open"
	a := p.do(t, p.open)
	p.open.Invitation = ""
	return a
}

// do gives an order, and returns the answer. The process must be alive.
func (p *place) do(t *testing.T, o order) (a answer) {
	t.Helper()
	p.send(t, o)
	kill := time.AfterFunc(patience, func() { _ = p.cmd.Process.Kill() })
	defer kill.Stop()
	if err := p.out.Decode(&a); err != nil {
		t.Fatalf("%s: %s: no answer: %v\n%s", p.name, o.Do, err, p.stderr.String())
	}
	return a
}

// send gives an order, and does not wait for the answer.
func (p *place) send(t *testing.T, o order) {
	t.Helper()
	if err := p.orders.Encode(o); err != nil {
		t.Fatalf("%s: %s: %v\n%s", p.name, o.Do, err, p.stderr.String())
	}
}

// mustDo is do for an order that has to succeed.
func (p *place) mustDo(t *testing.T, o order) answer {
	t.Helper()
	a := p.do(t, o)
	if a.Outcome != "ok" {
		t.Fatalf("%s: %s: %s\n%s", p.name, o.Do, a.Outcome, p.stderr.String())
	}
	return a
}

// kill ends the process at once.
func (p *place) kill() {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait() // it was killed
	_ = p.in.Close()
	p.cmd = nil
}

func (p *place) alive() bool { return p.cmd != nil }

// writeCertificate writes a new key and its certificate to a file.
func writeCertificate(path string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().AddDate(-1, 0, 0), NotAfter: time.Now().AddDate(10, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature,
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})...), 0o600)
}

// must ends the test for any error.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
