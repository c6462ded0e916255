package disk

import (
	"bytes"
	"maps"
	"math/rand/v2"
	"syscall"
)

// What a power cut leaves, and a sync that failed.

// sectorSize is what a disk writes whole or not at all.
const sectorSize = 512

// A Loss is how much is lost of what was not synced.
type Loss int

// The losses. Of LoseSome each write, each length of a file and each name is lost or kept for itself, and a write can be
// torn: some of its sectors are lost, and some kept.
const (
	LoseAll Loss = iota
	LoseNothing
	LoseSome
)

func (l Loss) String() string { return [...]string{"all", "nothing", "some"}[l] }

// Restart returns the disk as it is when the power is back. It cuts the power if nothing has. The disk itself is of no use
// afterwards. LoseSome alone needs random.
func (d *Disk) Restart(loss Loss, random *rand.Rand) *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.isOff() {
		close(d.off)
	}
	luck := newLuck(loss, random)
	for _, n := range d.pending {
		if (n.after == nil || n.after.kept) && luck.holds() {
			n.keep(d.kept)
		}
	}
	restarted := New()
	restarted.last = d.last
	restarted.names, restarted.kept = d.kept, maps.Clone(d.kept)
	for id := range uint64(d.last + 1) {
		f := d.files[id]
		if f == nil {
			continue
		}
		for _, c := range f.pending {
			f.kept = luck.apply(c, f.kept)
		}
		restarted.files[id] = &file{data: f.kept, kept: bytes.Clone(f.kept), told: make(map[uint64]syscall.Errno)}
	}
	return restarted
}

// luck decides what is lost.
type luck struct {
	random *rand.Rand
	share  float64 // of changes that are kept
}

func newLuck(loss Loss, random *rand.Rand) luck {
	switch loss {
	case LoseAll:
		return luck{random, 0}
	case LoseNothing:
		return luck{random, 1}
	}
	return luck{random, []float64{0.1, 0.5, 0.9}[random.IntN(3)]}
}

func (l luck) holds() bool { return l.share == 1 || l.share > 0 && l.random.Float64() < l.share }

// apply makes as much of a change as is kept.
func (l luck) apply(c change, data []byte) []byte {
	torn := c.data != nil && l.share > 0 && l.share < 1 && l.random.IntN(4) == 0
	if !torn {
		if l.holds() {
			return c.apply(data)
		}
		return data
	}
	for len(c.data) > 0 {
		n := min(sectorSize-int(c.at%sectorSize), len(c.data))
		if l.holds() {
			data = change{c.at, c.data[:n]}.apply(data)
		}
		c = change{c.at + int64(n), c.data[n:]}
	}
	return data
}
