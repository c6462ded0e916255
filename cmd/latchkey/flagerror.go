package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// wanted says what the value of a flag of some type must be. The other types have their own errors.
var wanted = map[string]string{
	"bool":     "true or false",
	"int":      "a whole number",
	"uint":     "a whole number that is not negative",
	"uint64":   "a whole number that is not negative",
	"float64":  "a number",
	"duration": "a duration, such as 500ms, 30s or 5m",
}

// explainFlag returns err, the error of parsing the flags of a command, in the words of this
// command. The flags of a command that does not exist are parsed as those of the command above it.
func explainFlag(cmd *cobra.Command, err error) error {
	if cmd.HasSubCommands() && cmd.Flags().NArg() > 0 {
		return noCommand(cmd, cmd.Flags().Arg(0))
	}
	var invalid *pflag.InvalidValueError
	if !errors.As(err, &invalid) {
		return err
	}
	flag := invalid.GetFlag()
	if want, ok := wanted[flag.Value.Type()]; ok {
		return fmt.Errorf("--%s is %q, and must be %s", flag.Name, invalid.GetValue(), want)
	}
	return fmt.Errorf("--%s is %q: %w", flag.Name, invalid.GetValue(), invalid.Unwrap())
}
