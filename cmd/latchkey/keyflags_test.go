package main

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/memory"
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
		{"never", time.Time{}},
		{"1y", time.Date(2027, 1, 2, 12, 0, 0, 0, time.UTC)},
		{"2w", time.Date(2026, 1, 16, 12, 0, 0, 0, time.UTC)},
		{"4w", time.Date(2026, 1, 30, 12, 0, 0, 0, time.UTC)},
		{"365000d", noon.AddDate(0, 0, 365000)},
		{"90d", time.Date(2026, 4, 2, 12, 0, 0, 0, time.UTC)},
		{"1h30m", time.Date(2026, 1, 2, 13, 30, 0, 0, time.UTC)},
	} {
		if got, err := parseExpiry(tt.flag, noon); err != nil || !got.Equal(tt.want) {
			t.Errorf("parseExpiry(%q) = %v, %v; want %v", tt.flag, got, err, tt.want)
		}
	}
	for _, flag := range []string{"tomorrow", "90", "d", "1.5d", "2027-02-30", "31.01.2027", "1m1d", "1.5y", "w", "y", "8000y", "134217727y", "134217727w", "99999999d", "999999999999w", "9999-12-31T23:00:00-02:00"} {
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

func TestTheCommandAndTheLibraryAcceptTheSameCosts(t *testing.T) {
	for _, cost := range []latchkey.Cost{
		{}, {Memory: 8, Passes: 1, Lanes: 1}, {Memory: 7, Passes: 1, Lanes: 1}, {Memory: 8, Passes: 0, Lanes: 1}, {Memory: 8, Passes: 1, Lanes: 0},
		{Memory: 1 << 20, Passes: 64, Lanes: 16}, {Memory: 1<<20 + 1, Passes: 64, Lanes: 16}, {Memory: 1 << 20, Passes: 65, Lanes: 16},
		{Memory: 1 << 20, Passes: 64, Lanes: 17}, {Memory: 128, Passes: 1, Lanes: 16}, {Memory: 127, Passes: 1, Lanes: 16},
	} {
		text := fmt.Sprintf("m=%d,t=%d,p=%d", cost.Memory, cost.Passes, cost.Lanes)
		flagErr := new(costFlag).Set(text)
		_, err := memory.Open(&latchkey.Options{Cost: cost, HashMemory: 1 << 30})
		if cost == (latchkey.Cost{}) {
			err = latchkey.ErrInvalidOptions // the library takes it for the default
		}
		if (flagErr == nil) != (err == nil) {
			t.Errorf("%s: the command says %v, the library %v", text, flagErr, err)
		}
	}
}
