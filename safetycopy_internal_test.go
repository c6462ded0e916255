package latchkey

import (
	"context"
	"errors"
	"testing"

	"github.com/latchkeydb/latchkey/internal/safetycopy"
)

func TestASafetyCopyThatIsInterruptedIsMadeAgain(t *testing.T) {
	AboutFile(t)
	smallMaps(t)
	s := open(t, nil)
	user := addUser(t, s, "ada")
	runs := 0
	must(t, safetycopy.RepeatInterrupted(t.Context(), func() error {
		if runs++; runs > 1 {
			return s.makeSafetyCopy(t.Context(), pathOf(s))
		}
		return s.Backup(t.Context(), writerFunc(func(p []byte) (int, error) { return len(p), outgrowMap(s) }))
	}))
	if runs != 2 {
		t.Errorf("it took %d runs, want 2", runs)
	}
	c := openPath(t, safetycopy.Name(pathOf(s)), nil)
	if _, err := c.User(t.Context(), user.ID); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err := safetycopy.RepeatInterrupted(ctx, func() error { cancel(); return ErrInterrupted })
	if !errors.Is(err, ErrInterrupted) {
		t.Errorf("got %v, want ErrInterrupted", err)
	}
}

type writerFunc func(p []byte) (int, error)

func (w writerFunc) Write(p []byte) (int, error) { return w(p) }
