// Command report measures how long a login takes, in rounds, and compares the medians with the
// targets. Run it from the directory bench:
//
//	go run ./report                  the short form: stores of up to 100 thousand keys
//	go run ./report -long            the long form: up to 5 million keys
//	go run ./report -out ../docs     also renews docs/performance.md
//
// It prints a table and writes performance.json, performance.svg and performance.png. Its exit
// status is 1 if a target is missed.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/latchkeydb/latchkey/bench"
)

func main() {
	bench.Serve()
	missed, err := report(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(2)
	}
	if missed > 0 {
		fmt.Printf("%d targets missed\n", missed)
		os.Exit(1)
	}
}

func report(args []string) (missed int, err error) {
	dir, dirErr := bench.DefaultDir()
	flags := flag.NewFlagSet("report", flag.ExitOnError)
	long := flags.Bool("long", os.Getenv("LATCHKEY_BENCH_LONG") != "", "also measure a store of 5 million keys (`LATCHKEY_BENCH_LONG`)")
	flags.StringVar(&dir, "dir", dir, "keep stores for the next run in this `directory` (LATCHKEY_BENCH_DIR)")
	out := flags.String("out", "", "write to this `directory`, and renew performance.md there if it exists (default: the directory of -dir)")
	rounds := flags.Int("rounds", 21, "measure each case this often, or less often if a round takes long")
	only := flags.String("only", "", "measure only the groups whose names match this `regexp`, and write nothing")
	from := flags.String("from", "", "measure nothing, and show the run in this `file`, a performance.json")
	_ = flags.Parse(args)
	if dir == "" {
		return 0, fmt.Errorf("name a directory for stores with -dir: %w", dirErr)
	}
	if *out == "" {
		*out = dir
	}
	if *rounds < 1 {
		return 0, errors.New("-rounds is less than 1")
	}
	groups, err := regexp.Compile(*only)
	if err != nil {
		return 0, err
	}

	var run *Run
	if *from != "" {
		run, err = readRun(*from)
	} else {
		testing.Init()
		env := &bench.Env{Dir: dir, Sizes: bench.ShortSizes, Logf: logf}
		if *long {
			env.Sizes = bench.LongSizes
		}
		run, err = measure(env, groups, *rounds)
	}
	if err != nil {
		return 0, err
	}
	run.printTable(os.Stdout)
	if *only == "" {
		err = run.write(*out)
	}
	return run.missed(), err
}

func logf(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

func readRun(path string) (*Run, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	run := &Run{}
	return run, json.Unmarshal(data, run)
}

// write writes the run to dir in every form except the table.
func (r *Run) write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "performance.json"), append(data, '\n'), 0o644); err != nil {
		return err
	}
	for _, format := range []string{"svg", "png"} {
		if err := r.plot(filepath.Join(dir, "performance."+format)); err != nil {
			return err
		}
	}
	page := filepath.Join(dir, "performance.md")
	if _, err := os.Stat(page); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return r.renewPage(page)
}
