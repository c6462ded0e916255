package main

import (
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func TestEveryFlagIsAListOrCanBeGivenOnce(t *testing.T) {
	var visit func(cmd *cobra.Command)
	n := 0
	visit = func(cmd *cobra.Command) {
		check := func(f *pflag.Flag) {
			n++
			if _, once := f.Value.(*onceFlag); once == makesList(f) {
				t.Errorf("%s: --%s is a list: %t, and can be given once: %t", cmd.CommandPath(), f.Name, makesList(f), once)
			}
		}
		cmd.Flags().VisitAll(check)
		cmd.PersistentFlags().VisitAll(check)
		for _, below := range cmd.Commands() {
			visit(below)
		}
	}
	visit(newRoot(&cli{}))
	if n < 40 {
		t.Errorf("the test has seen %d flags", n)
	}
}
