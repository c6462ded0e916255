package inside

import (
	"errors"
	"runtime"
	"sync"
	"testing"
)

func TestAMarkIsFoundByTheFunctionThatItRuns(t *testing.T) {
	for range 70 { // the numbers have one to four digits
		m, other := New(), New()
		if m.Around() {
			t.Fatal("found before it ran anything")
		}
		failed := errors.New("failed")
		err := m.Run(func() error {
			func() {
				if !m.Around() {
					t.Errorf("mark %d is not found by the function that it runs", m.number)
				}
			}()
			return failed
		})
		if err != failed {
			t.Errorf("got error %v", err)
		}
		// The marks run something elsewhere, so Around has to read the stack.
		elsewhere(m, func() {
			elsewhere(other, func() {
				if m.Around() || other.Around() {
					t.Errorf("mark %d or %d is found where it runs nothing", m.number, other.number)
				}
				_ = m.Run(func() error {
					if other.Around() {
						t.Errorf("mark %d is found inside mark %d", other.number, m.number)
					}
					return nil
				})
			})
		})
	}
}

// elsewhere calls fn while m runs a function in another goroutine.
func elsewhere(m *Mark, fn func()) {
	begun, end := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = m.Run(func() error {
			close(begun)
			<-end
			return nil
		})
	})
	<-begun
	fn()
	close(end)
	wg.Wait()
}

func TestEachOfSeveralMarksIsFound(t *testing.T) {
	outer, middle, inner := New(), New(), New()
	elsewhere(inner, func() {
		_ = outer.Run(func() error {
			return middle.Run(func() error {
				if !outer.Around() || !middle.Around() || inner.Around() {
					t.Error("the marks that are found are not the outer two")
				}
				return inner.Run(func() error {
					if !outer.Around() || !middle.Around() || !inner.Around() {
						t.Error("the marks that are found are not all three")
					}
					return nil
				})
			})
		})
	})
}

func TestAMarkIsFoundAtTheEndOfADeepStack(t *testing.T) {
	m := New()
	var descend func(depth int) bool
	descend = func(depth int) bool {
		if depth > 0 {
			return descend(depth - 1)
		}
		return m.Around()
	}
	for depth := range 150 {
		_ = m.Run(func() error {
			if !descend(depth) {
				t.Errorf("not found from %d frames below", depth)
			}
			return nil
		})
	}
}

func TestAGoroutineThatTheFunctionStartsIsNotInside(t *testing.T) {
	m := New()
	_ = m.Run(func() error {
		found := make(chan bool)
		go func() { found <- m.Around() }()
		if <-found {
			t.Error("found in another goroutine")
		}
		return nil
	})
}

func TestAMarkIsGoneAfterAPanicAndAfterGoexit(t *testing.T) {
	m := New()
	func() {
		defer func() { _ = recover() }()
		_ = m.Run(func() error { panic("no") })
	}()
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = m.Run(func() error { runtime.Goexit(); return nil })
	})
	wg.Wait()
	if m.Around() || m.running.Load() != 0 {
		t.Errorf("the mark runs %d functions", m.running.Load())
	}
}

func BenchmarkRun(b *testing.B) {
	m := New()
	for b.Loop() {
		_ = m.Run(func() error { return nil })
	}
}

func BenchmarkAround(b *testing.B) {
	m := New()
	b.Run("running=0", func(b *testing.B) {
		for b.Loop() {
			m.Around()
		}
	})
	b.Run("running=1", func(b *testing.B) {
		elsewhere(m, func() {
			for b.Loop() {
				m.Around()
			}
		})
	})
}
