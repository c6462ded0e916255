package socket

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/Microsoft/go-winio"
)

func newFile(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "keys.db")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func greet(t *testing.T, l net.Listener, name string) {
	t.Helper()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, name)
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close() })
}

func wantAnswer(t *testing.T, file, want string) {
	t.Helper()
	conn, err := Dial(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	got, err := io.ReadAll(conn)
	if err != nil || string(got) != want {
		t.Errorf("%q answers (%v), want %q", got, err, want)
	}
}

func TestAPipeIsThereWhileItsListenerIs(t *testing.T) {
	if os.Getenv("LATCHKEY_WINE") != "" {
		t.Skip("in Wine 8 a client connects to the instance of a pipe that only keeps its name")
	}
	file := newFile(t)
	if _, err := Dial(t.Context(), file); !errors.Is(err, ErrNotServed) {
		t.Errorf("got %v, want ErrNotServed", err)
	}
	for range 2 {
		l, err := Listen(file)
		if err != nil {
			t.Fatal(err)
		}
		greet(t, l, "hello")
		wantAnswer(t, file, "hello")
		wantAnswer(t, strings.ToUpper(file), "hello")
		if _, err := Listen(file); !errors.Is(err, ErrServed) {
			t.Errorf("got %v, want ErrServed", err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept: got %v, want net.ErrClosed", err)
		}
		if _, err := Dial(t.Context(), file); !errors.Is(err, ErrNotServed) {
			t.Errorf("got %v, want ErrNotServed", err)
		}
	}
}

// impostor makes the pipe of a file with another descriptor.
func impostor(t *testing.T, file, descriptor string) {
	t.Helper()
	real, err := resolve(file)
	if err != nil {
		t.Fatal(err)
	}
	me, err := currentUser()
	if err != nil {
		t.Fatal(err)
	}
	l, err := winio.ListenPipe(pipeName(real, me), &winio.PipeConfig{SecurityDescriptor: descriptor})
	if err != nil {
		t.Fatal(err)
	}
	greet(t, l, "an impostor")
}

func TestAPipeThatIsThereAlreadyIsNotTakenOver(t *testing.T) {
	if os.Getenv("LATCHKEY_WINE") != "" {
		t.Skip("Wine 8 lets anybody add an instance to a pipe")
	}
	file := newFile(t)
	impostor(t, file, "D:P(A;;GA;;;WD)")
	if l, err := Listen(file); !errors.Is(err, ErrInTheWay) {
		t.Errorf("got %v, %v, want ErrInTheWay", l, err)
	}
}

func TestAPipeThatBelongsToSomebodyElseIsNotTrusted(t *testing.T) {
	file := newFile(t)
	impostor(t, file, "O:BAD:P(A;;GA;;;WD)") // the administrators' group
	if _, err := Dial(t.Context(), file); !errors.Is(err, ErrUntrusted) {
		t.Errorf("got %v, want ErrUntrusted", err)
	}
}
