package main

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/latchkeydb/latchkey"
)

// This file parses the values of the flags --expires, --overlap and --cost.

// parseExpiry parses s, the value of --expires, and returns the expiry date. It returns the zero
// time, which means never, if s is empty or never.
func parseExpiry(s string, now time.Time) (time.Time, error) {
	if s == "" || s == "never" {
		return time.Time{}, nil
	}
	t, ok := parseTime(s, now)
	if !ok {
		return time.Time{}, usagef("--expires takes a date (2027-01-31), a time (2027-01-31T18:00:00Z), a duration (1y, 2w, 90d, 12h) or never")
	}
	if t.UTC().Year() > 9999 { // JSON cannot contain such a time
		return time.Time{}, usagef("--expires is after the year 9999; leave --expires out for a key that never expires")
	}
	return t, nil
}

// calendarUnits are the units of a duration from now that package time does not have.
var calendarUnits = map[string]func(from time.Time, n int) time.Time{
	"d": func(from time.Time, n int) time.Time { return from.AddDate(0, 0, n) },
	"w": func(from time.Time, n int) time.Time { return from.AddDate(0, 0, 7*n) },
	"y": func(from time.Time, n int) time.Time { return from.AddDate(n, 0, 0) },
}

// parseTime parses a date, a time of RFC 3339, or what parseDuration parses.
func parseTime(s string, now time.Time) (time.Time, bool) {
	if t, err := time.Parse(time.DateOnly, s); err == nil {
		return t, true
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t, true
	}
	return parseDuration(s, now)
}

// parseDuration parses a duration, and returns the time that is so much after now.
func parseDuration(s string, now time.Time) (time.Time, bool) {
	for unit, add := range calendarUnits {
		if number, ok := strings.CutSuffix(s, unit); ok {
			// A number of 28 bits reaches far beyond the year 9999 and does not overflow a time.
			n, err := strconv.ParseInt(number, 10, 28)
			return add(now.UTC(), int(n)), err == nil
		}
	}
	d, err := time.ParseDuration(s)
	return now.Add(d), err == nil
}

// costFlag is the value of a flag that takes a cost: a name, or parameters in the form of a PHC
// string.
type costFlag latchkey.Cost

// addCostFlag adds the flag --cost to cmd.
func addCostFlag(cmd *cobra.Command, cost *latchkey.Cost) {
	cmd.Flags().Var((*costFlag)(cost), "cost", "the cost of hashing the key (or set LATCHKEY_COST)")
	_ = cmd.RegisterFlagCompletionFunc("cost", cobra.FixedCompletions([]string{"default", "light"}, cobra.ShellCompDirectiveNoFileComp))
}

func (c *costFlag) Set(s string) error {
	named := map[string]latchkey.Cost{"default": latchkey.DefaultCost, "light": latchkey.LightCost}
	if cost, ok := named[s]; ok {
		*c = costFlag(cost)
		return nil
	}
	var given costFlag
	_, err := fmt.Sscanf(s, "m=%d,t=%d,p=%d", &given.Memory, &given.Passes, &given.Lanes)
	if err != nil || given.String() != s {
		return errors.New("a cost must be default, light, or of the form m=7168,t=5,p=1")
	}
	if !given.inRange() {
		return errors.New("the memory must be from 8 for each lane to 1048576 (1 GiB), the passes from 1 to 64, and the lanes from 1 to 16")
	}
	*c = given
	return nil
}

// inRange reports whether the library accepts c. See [latchkey.Cost].
func (c *costFlag) inRange() bool {
	return c.Memory >= 8*uint32(c.Lanes) && c.Memory <= 1<<20 && c.Passes >= 1 && c.Passes <= 64 && c.Lanes >= 1 && c.Lanes <= 16
}

func (c *costFlag) String() string {
	cost := cmp.Or(*c, costFlag(latchkey.DefaultCost))
	return fmt.Sprintf("m=%d,t=%d,p=%d", cost.Memory, cost.Passes, cost.Lanes)
}

func (c *costFlag) Type() string { return "COST" }
