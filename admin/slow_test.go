package admin_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latchkeydb/latchkey/admin"
	"github.com/latchkeydb/latchkey/latchkeytest"
)

// The requests of clients that are slow on purpose.

// A pipeListener accepts connections in memory, which have the clock of the test.
type pipeListener struct{ conns chan net.Conn }

func (l *pipeListener) Accept() (net.Conn, error) {
	conn, ok := <-l.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return local{conn}, nil
}
func (l *pipeListener) Close() error   { return nil }
func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

// local is a connection from the same machine.
type local struct{ net.Conn }

func (local) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 40000} }

// connect serves a handler, sends a text, and returns the client's end of the connection.
func connect(t *testing.T, handler http.Handler, text string) net.Conn {
	l := &pipeListener{make(chan net.Conn)}
	server := &http.Server{Handler: handler}
	go func() { _ = server.Serve(l) }()
	ours, theirs := net.Pipe()
	l.conns <- theirs
	if _, err := io.WriteString(ours, text); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { close(l.conns); ours.Close(); server.Close() })
	return ours
}

// The server reads the rest of a body after the answer, so it is no use to refuse the request.
func TestABodyThatDoesNotComeEndsTheConnection(t *testing.T) {
	for _, tt := range []struct{ name, head string }{
		{"of a stranger", "POST /v1/users HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nAuthorization: Bearer x\r\nContent-Length: 100\r\n\r\n{"},
		{"of a stranger who signs in", "POST /sign-in HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"},
		{"of a stranger who signs out", "POST /sign-out HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{"},
		{"of another host", "POST / HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 100\r\n\r\n{"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				conn := connect(t, newSite(t, pageURL).page, tt.head)
				begin := time.Now()
				_ = conn.SetReadDeadline(begin.Add(time.Hour))
				if _, err := io.ReadAll(conn); err != nil || time.Since(begin) > 31*time.Second {
					t.Errorf("got %v after %v, want the end of the connection after 30s", err, time.Since(begin))
				}
			})
		})
	}
	for _, route := range []string{"/v1/users", "/v1/apply", "/v1/import?format=latchkey", "/v1/domain-secrets"} {
		synctest.Test(t, func(t *testing.T) {
			handler := admin.New(latchkeytest.New(t), &admin.Options{Authenticate: everybody})
			media := map[bool]string{true: "application/json", false: "application/octet-stream"}[route == "/v1/users" || route == "/v1/apply"]
			conn := connect(t, handler, fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: 100\r\n\r\n{", route, media))
			begin := time.Now()
			_ = conn.SetReadDeadline(begin.Add(time.Hour))
			answer, err := io.ReadAll(conn)
			if err != nil || !bytes.Contains(answer, []byte("400 Bad Request")) || time.Since(begin) > 31*time.Second {
				t.Errorf("%s: got %q, %v after %v", route, answer, err, time.Since(begin))
			}
		})
	}
}

// A request after a body on the same connection has no deadline of the body.
func TestADeadlineEndsWithItsBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		handler := admin.New(latchkeytest.New(t), &admin.Options{Authenticate: everybody})
		conn := connect(t, handler, "POST /v1/find-token HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n{\"token\":\"x\"}")
		if _, err := conn.Read(make([]byte, 4096)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(40 * time.Second)
		if _, err := io.WriteString(conn, "GET /v1/changes HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		for text := ""; strings.Count(text, "still here") < 5; {
			b := make([]byte, 4096)
			n, err := conn.Read(b)
			if err != nil {
				t.Fatal(err)
			}
			text += string(b[:n])
		}
	})
}

func TestAClientThatTakesNothingIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		handler := admin.New(latchkeytest.New(t), &admin.Options{Authenticate: everybody})
		conn := connect(t, handler, "GET /v1/store HTTP/1.1\r\nHost: x\r\n\r\n")
		time.Sleep(31 * time.Second)
		if answer, err := io.ReadAll(conn); err != nil || len(answer) > 0 {
			t.Errorf("got %q, %v", answer, err)
		}
	})
}

func TestNoAnswerPrintsASecret(t *testing.T) {
	const secret = "19a1/secret"
	for _, v := range []any{admin.ExportedKey{Minted: secret}, admin.SignInURL{URL: secret}, admin.KeyWithToken{Token: secret}, *admin.NewClient(nil, "https://x", secret)} {
		for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
			if text := fmt.Sprintf(format, v); strings.Contains(text, secret) || strings.Contains(text, fmt.Sprintf("%x", secret)) {
				t.Errorf("%s of %T is %s", format, v, text)
			}
		}
	}
}
