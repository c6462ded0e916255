package main

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/latchkeydb/latchkey"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func TestAnExpiryDateIsADateATimeOrADuration(t *testing.T) {
	for _, tt := range []struct {
		flag string
		want time.Time
	}{
		{"", time.Time{}},
		{"2027-01-31", time.Date(2027, 1, 31, 0, 0, 0, 0, time.UTC)},
		{"2027-01-31T18:00:00+02:00", time.Date(2027, 1, 31, 16, 0, 0, 0, time.UTC)},
		{"90d", time.Date(2026, 4, 2, 12, 0, 0, 0, time.UTC)},
		{"1h30m", time.Date(2026, 1, 2, 13, 30, 0, 0, time.UTC)},
	} {
		if got, err := parseExpiry(tt.flag, noon); err != nil || !got.Equal(tt.want) {
			t.Errorf("parseExpiry(%q) = %v, %v; want %v", tt.flag, got, err, tt.want)
		}
	}
	for _, flag := range []string{"tomorrow", "90", "d", "1.5d", "2027-02-30", "31.01.2027", "9999999d", "9999-12-31T23:00:00-02:00"} {
		if got, err := parseExpiry(flag, noon); err == nil {
			t.Errorf("parseExpiry(%q) = %v, want an error", flag, got)
		}
	}
}

func FuzzAnExpiryDateCanBeWrittenAsJSON(f *testing.F) {
	f.Add("2027-01-31")
	f.Add("9999-12-31T23:00:00-02:00")
	f.Add("2147483647d")
	f.Add("2562047h")
	f.Fuzz(func(t *testing.T, flag string) {
		at, err := parseExpiry(flag, noon)
		if err != nil || !at.After(noon) {
			return
		}
		if _, err := json.Marshal(latchkey.Key{Expires: at.UTC()}); err != nil {
			t.Errorf("--expires %q: %v", flag, err)
		}
	})
}

func TestACostIsANameOrParametersAsInAPHCString(t *testing.T) {
	for _, tt := range []struct {
		flag string
		want latchkey.Cost
	}{
		{"default", latchkey.DefaultCost},
		{"light", latchkey.LightCost},
		{"m=65536,t=3,p=4", latchkey.Cost{Memory: 65536, Passes: 3, Lanes: 4}},
	} {
		var c costFlag
		if err := c.Set(tt.flag); err != nil || latchkey.Cost(c) != tt.want {
			t.Errorf("Set(%q): got %+v, %v; want %+v", tt.flag, c, err, tt.want)
		}
	}
	for _, flag := range []string{"", "heavy", "m=64", "m=64,t=1,p=1,", "m=064,t=1,p=1", "m=64,t=1,p=256", "m=-1,t=1,p=1", "m=0,t=0,p=0"} {
		c := costFlag{Memory: 1}
		if err := c.Set(flag); err == nil || c != (costFlag{Memory: 1}) {
			t.Errorf("Set(%q): got %+v, %v; want an error and no change", flag, c, err)
		}
	}
}
