package main

import (
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// onceFlag is the value of a flag that can be given once. It counts how often the flag is given,
// because otherwise the last value would count, and nobody would learn that the first does not.
type onceFlag struct {
	pflag.Value
	times int
}

func (o *onceFlag) Set(s string) error {
	o.times++
	return o.Value.Set(s)
}

// countFlags makes the flags of cmd and of the commands below it count how often they are given,
// except for the flags that make a list.
func countFlags(cmd *cobra.Command) {
	once := func(f *pflag.Flag) {
		if !makesList(f) {
			f.Value = &onceFlag{Value: f.Value}
		}
	}
	cmd.LocalNonPersistentFlags().VisitAll(once)
	cmd.PersistentFlags().VisitAll(once)
	for _, below := range cmd.Commands() {
		countFlags(below)
	}
}

// makesList reports whether a flag that is given several times keeps all values.
func makesList(f *pflag.Flag) bool {
	switch f.Value.Type() {
	case "stringArray", "LIST":
		return true
	}
	return false
}

// checkRepeats returns an error if a flag was given twice and makes no list. Completion, which
// reads the command line twice, does not call it.
func checkRepeats(cmd *cobra.Command) (err error) {
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if o, ok := f.Value.(*onceFlag); ok && o.times > 1 {
			err = fmt.Errorf("--%s is given twice; give it once", f.Name)
		}
	})
	return err
}
