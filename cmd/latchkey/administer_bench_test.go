package main

import (
	"context"
	"fmt"
	"os/exec"
	"testing"
	"time"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
)

// BenchmarkListing compares a listing of 20 keys through the socket of a program with one that
// opens the file. Each is a whole process of the command, in turns. The metric socket/direct is the
// ratio of their times, and is to stay under 1.5.
func BenchmarkListing(b *testing.B) {
	s, trail, held := heldStore(b)
	other, _, path := heldStore(b)
	for _, store := range []*latchkey.Store{s, other} {
		for i := range 20 {
			if _, _, err := store.CreateServerKey(b.Context(), latchkey.KeySpec{Name: fmt.Sprint("key ", i)}); err != nil {
				b.Fatal(err)
			}
		}
	}
	if err := other.Close(); err != nil {
		b.Fatal(err)
	}
	socket, err := admin.Listen(s, held, &admin.Options{Trail: trail})
	if err != nil {
		b.Fatal(err)
	}
	defer socket.Close()
	list := func(ctx context.Context, store string) time.Duration {
		began := time.Now()
		if out, err := exec.CommandContext(ctx, "latchkey", "key", "list", "--server", "--store", store).CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
		return time.Since(began)
	}
	var through, direct time.Duration
	for b.Loop() {
		through += list(b.Context(), held)
		direct += list(b.Context(), path)
	}
	b.ReportMetric(float64(through)/float64(direct), "socket/direct")
	b.ReportMetric(float64(direct.Microseconds())/float64(b.N), "direct-µs")
	b.ReportMetric(float64(through.Microseconds())/float64(b.N), "socket-µs")
}
