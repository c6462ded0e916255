package main

import (
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
)

var tableHead = []string{"case", "median", "allocs", "ratio", "target", "met", "besides"}

// row returns the case as the cells of one row of the table.
func (c *Case) row() []string {
	return []string{c.Name, formatValue(c.Value, c.Unit), c.allocs(), c.ratios(), c.target(), c.met(), c.besides()}
}

func (c *Case) allocs() string {
	if c.Unit != "ns" {
		return ""
	}
	return fmt.Sprint(c.Allocs)
}

func (c *Case) ratios() string {
	var parts []string
	for _, r := range c.Ratios {
		of := r.To
		if r.Throughput {
			of = "throughput of " + r.To
		}
		parts = append(parts, fmt.Sprintf("%s × %s", formatNumber(r.Value), of))
	}
	return strings.Join(parts, "; ")
}

func (c *Case) target() string {
	var parts []string
	if c.Max != 0 {
		parts = append(parts, "≤ "+formatValue(c.Max, c.Unit))
	}
	for _, r := range c.Ratios {
		switch {
		case r.Min != 0 && r.Max != 0:
			parts = append(parts, fmt.Sprintf("%.2f to %.2f ×", r.Min, r.Max))
		case r.Min != 0:
			parts = append(parts, fmt.Sprintf("≥ %.2f ×", r.Min))
		case r.Max != 0:
			parts = append(parts, fmt.Sprintf("≤ %.2f ×", r.Max))
		}
	}
	if c.NoAllocs {
		parts = append(parts, "0 allocs")
	}
	return strings.Join(parts, "; ")
}

func (c *Case) met() string {
	switch {
	case !c.Target:
		return ""
	case c.Met:
		return "yes"
	}
	return "NO"
}

func (c *Case) besides() string {
	var parts []string
	for _, unit := range slices.Sorted(maps.Keys(c.Besides)) {
		parts = append(parts, unitName(unit)+formatValue(c.Besides[unit], unit))
	}
	return strings.Join(parts, ", ")
}

// unitName returns the name that a value in a unit such as "p50-ns" needs, because formatValue
// leaves the name out.
func unitName(unit string) string {
	if name, ok := strings.CutSuffix(unit, "-ns"); ok {
		return name + " "
	}
	return ""
}

func formatValue(v float64, unit string) string {
	if unit == "ns" || strings.HasSuffix(unit, "-ns") {
		return formatTime(v)
	}
	return formatNumber(v) + " " + unit
}

func formatTime(ns float64) string {
	v, unit := timeUnit(ns)
	return formatNumber(v) + " " + unit
}

// timeUnit returns a time in the unit that suits it.
func timeUnit(ns float64) (v float64, unit string) {
	switch {
	case ns >= 1e9:
		return ns / 1e9, "s"
	case ns >= 1e6:
		return ns / 1e6, "ms"
	case ns >= 1e3:
		return ns / 1e3, "µs"
	}
	return ns, "ns"
}

// formatNumber shows three digits, or all digits before the point if there are more.
func formatNumber(v float64) string {
	switch {
	case math.Abs(v) >= 100:
		return fmt.Sprintf("%.0f", v)
	case math.Abs(v) >= 10:
		return fmt.Sprintf("%.1f", v)
	case math.Abs(v) >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3g", v)
}

func (r *Run) printTable(w io.Writer) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, strings.Join(tableHead, "\t"))
	for _, g := range r.Groups {
		for _, c := range g.Cases {
			row := c.row()
			row[0] = g.Name + "/" + row[0]
			fmt.Fprintln(tw, strings.Join(row, "\t"))
		}
	}
	tw.Flush()
}
