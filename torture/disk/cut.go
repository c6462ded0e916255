package disk

import (
	"bytes"
	"maps"
	"math/rand/v2"
	"syscall"
)

// This file decides what a power cut leaves, and what a failed sync leaves.

// sectorSize is the size of the unit that a disk writes as a whole or not at all.
const sectorSize = 512

// A Loss says how much of the unsynced data is lost.
type Loss int

// The losses. With LoseSome, each write, each length of a file and each name is lost or kept
// independently. A write can also be torn, so that some of its sectors are lost and others kept.
const (
	LoseAll Loss = iota
	LoseNothing
	LoseSome
)

func (l Loss) String() string { return [...]string{"all", "nothing", "some"}[l] }

// Restart returns the disk in the state after the power is back. It cuts the power if nothing has
// cut it before. d itself must not be used afterwards. Only LoseSome needs random.
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

// luck decides which changes are lost.
type luck struct {
	random *rand.Rand
	share  float64 // share of the changes that are kept
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

// apply makes the part of a change that is kept.
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
