package main

import (
	"fmt"
	"image/color"
	"math"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// dots are the cases that the plot shows, from top to bottom. The plot leaves out cases that were
// not measured.
var dots = []struct {
	group, name, label string
	color              color.Color
}{
	{"malformed", "login/wrong=last-digit", "Latchkey, malformed token", ours},
	{"cached", "sha256", "one SHA-256 of 51 bytes", yardstick},
	{"forged", "login/id=existing", "Latchkey, forged token", ours},
	{"growth", "login/keys=1k", "Latchkey, one of 1k keys", ours},
	{"growth", "login/keys=100k", "Latchkey, one of 100k keys", ours},
	{"growth", "login/keys=5M", "Latchkey, one of 5M keys", ours},
	{"rivals", "bbolt-get", "bbolt Get, no hash", rival},
	{"rivals", "k8s-token-cache", "Kubernetes' token cache", rival},
	{"rivals", "sqlite-sha256", "SHA-256 and SQLite", rival},
	{"cold", "argon2", "one argon2id", yardstick},
	{"cold", "login/keys=100k", "Latchkey, first login", ours},
	{"rivals", "argon2id", "argon2id each time", rival},
	{"rivals", "bcrypt", "bcrypt each time", rival},
}

// These are colours of the palette by Okabe and Ito, which colour-blind people can tell apart too.
var (
	ours      = color.RGBA{R: 0x00, G: 0x72, B: 0xb2, A: 0xff}
	rival     = color.RGBA{R: 0xd5, G: 0x5e, B: 0x00, A: 0xff}
	yardstick = color.RGBA{R: 0x70, G: 0x70, B: 0x70, A: 0xff}
)

// find returns a case, or nil if the case was not measured.
func (r *Run) find(group, name string) *Case {
	for i := range r.Groups {
		for j := range r.Groups[i].Cases {
			if r.Groups[i].Name == group && r.Groups[i].Cases[j].Name == name {
				return &r.Groups[i].Cases[j]
			}
		}
	}
	return nil
}

// plot draws the time of one check on a logarithmic scale. A dot stands for the median, and a line
// goes from the fastest round to the slowest. The extension of path chooses the format.
func (r *Run) plot(path string) error {
	p := plot.New()
	p.Title.Text = "Time of one check of a token. Blue: Latchkey; orange: the usual alternatives; grey: one hash"
	p.Title.Padding = 12
	p.Y.Label.Text = " " // keeps the longest label from touching the edge
	p.X.Scale = plot.LogScale{}
	p.X.Tick.Marker = plot.TickerFunc(decades)
	p.X.Min, p.X.Max = 10, 1e9
	p.Add(verticalGrid())

	var labels []string
	for _, d := range slices.Backward(dots) {
		c := r.find(d.group, d.name)
		if c == nil {
			continue
		}
		if err := addDot(p, c, float64(len(labels)), d.color); err != nil {
			return err
		}
		labels = append(labels, d.label)
	}
	p.NominalY(labels...)
	p.Y.Min, p.Y.Max = -0.5, float64(len(labels))-0.3
	return p.Save(24*vg.Centimeter, vg.Length(3+len(labels))*0.8*vg.Centimeter, path)
}

func addDot(p *plot.Plot, c *Case, y float64, col color.Color) error {
	dot, err := plotter.NewScatter(plotter.XYs{{X: c.Value, Y: y}})
	if err != nil {
		return err
	}
	dot.GlyphStyle = draw.GlyphStyle{Color: col, Radius: 4, Shape: draw.CircleGlyph{}}
	spread, err := plotter.NewLine(plotter.XYs{{X: slices.Min(c.Samples), Y: y}, {X: slices.Max(c.Samples), Y: y}})
	if err != nil {
		return err
	}
	spread.LineStyle = draw.LineStyle{Color: col, Width: 2}
	label, err := plotter.NewLabels(plotter.XYLabels{
		XYs:    plotter.XYs{{X: slices.Max(c.Samples), Y: y}},
		Labels: []string{formatTime(c.Value)},
	})
	if err != nil {
		return err
	}
	label.Offset = vg.Point{X: 8, Y: -4}
	p.Add(spread, dot, label)
	return nil
}

func verticalGrid() *plotter.Grid {
	grid := plotter.NewGrid()
	grid.Vertical.Color = color.Gray{Y: 0xd8}
	grid.Horizontal.Width = 0
	return grid
}

// decades marks each power of ten and its unit.
func decades(lo, hi float64) (ticks []plot.Tick) {
	for v := math.Pow(10, math.Ceil(math.Log10(lo))); v <= hi; v *= 10 {
		value, unit := timeUnit(v)
		ticks = append(ticks, plot.Tick{Value: v, Label: fmt.Sprintf("%g %s", math.Round(value), unit)})
	}
	return ticks
}
