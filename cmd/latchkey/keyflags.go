package main

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/latchkeydb/latchkey"
)

// This file parses the values of the flags of key create.

// parseExpiry parses s, the value of --expires, and returns the expiry date. It returns the zero
// time, which means never, if s is empty.
func parseExpiry(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	t, ok := parseTime(s, now)
	if !ok {
		return time.Time{}, usagef("--expires takes a date (2027-01-31), a time (2027-01-31T18:00:00Z) or a duration (90d, 12h)")
	}
	if t.UTC().Year() > 9999 { // JSON cannot contain such a time
		return time.Time{}, usagef("--expires is after the year 9999; leave --expires out for a key that never expires")
	}
	return t, nil
}

// parseTime parses a date, a time of RFC 3339, or a duration from now.
func parseTime(s string, now time.Time) (time.Time, bool) {
	if t, err := time.Parse(time.DateOnly, s); err == nil {
		return t, true
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t, true
	}
	if days, ok := strings.CutSuffix(s, "d"); ok {
		// A number of days of 32 bits reaches far beyond the year 9999 and does not overflow a
		// time.
		n, err := strconv.ParseInt(days, 10, 32)
		return now.UTC().AddDate(0, 0, int(n)), err == nil
	}
	d, err := time.ParseDuration(s)
	return now.Add(d), err == nil
}

// costFlag is the value of a flag that takes a cost: a name, or parameters in the form of a PHC
// string.
type costFlag latchkey.Cost

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
	*c = given
	return nil
}

func (c *costFlag) String() string {
	cost := cmp.Or(*c, costFlag(latchkey.DefaultCost))
	return fmt.Sprintf("m=%d,t=%d,p=%d", cost.Memory, cost.Passes, cost.Lanes)
}

func (c *costFlag) Type() string { return "COST" }
