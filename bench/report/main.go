// Command report measures how long a login takes, in rounds, and compares the medians with the
// targets. Run it from the directory bench:
//
//	go run ./report                  the short form: stores of up to 100 thousand keys
//	go run ./report -long            the long form: up to 5 million keys
//	go run ./report -out ../docs     also renews performance.md, scaling.md and choosing.md there
//
// It prints a table and writes performance.json, performance.svg, performance.png and scaling.json.
// Its exit status is 1 if a target is missed.
package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
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
	out := flags.String("out", "", "write to this `directory`, and renew the pages there that exist (default: the directory of -dir)")
	rounds := flags.Int("rounds", 21, "measure each case this often, or less often if a round takes long")
	only := flags.String("only", "", "measure only the groups whose names match this `regexp`, and write only pages all of whose groups match")
	from := flags.String("from", "", "measure nothing, and show the run in this `file`, a performance.json or scaling.json")
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
	return run.missed(), run.write(*out, wholePages(groups))
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

// performancePage is the page for groups that name none.
const performancePage = "performance"

func pageOf(g bench.Group) string { return cmp.Or(g.Page, performancePage) }

// wholePages returns the pages all of whose groups match only.
func wholePages(only *regexp.Regexp) (pages []string) {
	part := map[string]bool{}
	for _, g := range bench.Groups() {
		if !slices.Contains(pages, pageOf(g)) {
			pages = append(pages, pageOf(g))
		}
		if !only.MatchString(g.Name) {
			part[pageOf(g)] = true
		}
	}
	return slices.DeleteFunc(pages, func(page string) bool { return part[page] })
}

// write writes the part of the run for each of the pages to dir, in every form except the table.
func (r *Run) write(dir string, pages []string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, page := range pages {
		if part := r.partFor(page); len(part.Groups) > 0 {
			if err := part.writePage(dir, page); err != nil {
				return err
			}
		}
	}
	return nil
}

// partFor returns the run with the groups of one page alone.
func (r *Run) partFor(page string) *Run {
	pages := map[string]string{}
	for _, g := range bench.Groups() {
		pages[g.Name] = pageOf(g)
	}
	part := *r
	part.Groups = slices.DeleteFunc(slices.Clone(r.Groups), func(g Group) bool { return pages[g.Name] != page })
	return &part
}

func (r *Run) writePage(dir, name string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, name+".json"), append(data, '\n'), 0o644); err != nil {
		return err
	}
	if name == performancePage {
		for _, format := range []string{"svg", "png"} {
			if err := r.plot(filepath.Join(dir, "performance."+format)); err != nil {
				return err
			}
		}
	}
	if name == performancePage {
		if err := renewPage(filepath.Join(dir, "choosing.md"), r.comparison()); err != nil {
			return err
		}
	}
	return renewPage(filepath.Join(dir, name+".md"), r.markdown(name == performancePage))
}
