package disk

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
)

// An Op is a kind of change that a program can ask a disk for.
type Op int

// The kinds of changes. Sync applies to a file or to the directory. Name stands for link, rename
// and unlink.
const (
	Write Op = iota
	Sync
	Truncate
	Create
	Name
	countOps
)

// Ops has all kinds of changes.
var Ops = []Op{Write, Sync, Truncate, Create, Name}

func (op Op) String() string {
	return [countOps]string{"write", "sync", "truncate", "create", "name"}[op]
}

// Counts has the number of changes of each kind that a disk was asked for, and the bytes written.
type Counts struct {
	Of    [countOps]int
	Bytes int64
}

// Since returns the counts since an earlier moment.
func (c Counts) Since(earlier Counts) Counts {
	for op := range c.Of {
		c.Of[op] -= earlier.Of[op]
	}
	c.Bytes -= earlier.Bytes
	return c
}

// A Fault makes a disk refuse changes.
type Fault struct {
	Op     Op
	Nth    int // counted from 1, beginning when the fault is set
	Err    syscall.Errno
	Always bool // refuse all changes from the nth until [Disk.Heal], and not only the nth

	// Loss says how much of the data of a failed sync the disk loses. Only LoseSome needs Random.
	Loss   Loss
	Random *rand.Rand
}

func (f Fault) String() string {
	when := fmt.Sprintf("for %s %d", f.Op, f.Nth)
	if f.Always {
		when = fmt.Sprintf("from %s %d on", f.Op, f.Nth)
	}
	if f.Op == Sync {
		when += fmt.Sprintf(", with a loss of %s", f.Loss)
	}
	return errnoName(f.Err) + " " + when
}

func errnoName(err syscall.Errno) string {
	switch err {
	case syscall.ENOSPC:
		return "ENOSPC"
	case syscall.EIO:
		return "EIO"
	}
	return err.Error()
}

// A Disk is a disk in memory. It is safe for concurrent use.
type Disk struct {
	mu      sync.Mutex
	files   map[uint64]*file // by inode number
	last    uint64
	names   map[string]uint64 // names as programs see them
	kept    map[string]uint64 // names that are synced
	pending []*naming         // changes of names that are not synced

	counts  Counts
	fault   Fault
	asked   int // how often the fault's kind of change was requested
	refused int

	changes int // until the power is cut; 0 for never
	off     chan struct{}
	until   int // changes until during is called; 0 for never
	during  func()
	caches  bool
	lies    bool
	cache   int // how many changes a lying disk holds back

	handle uint64 // the last handle that was given out
}

// file is a file, which names stand for.
type file struct {
	data    []byte // content as programs see it
	kept    []byte // content that is synced
	pending []change
	spoilt  []int64 // offsets of sectors that cannot be read
	// told has, for each handle, the error of a failed sync through another handle. The handle's
	// next sync returns it.
	told map[uint64]syscall.Errno
}

// change is a write to a file. If data is nil, change sets a new length instead.
type change struct {
	at   int64
	data []byte
}

// naming gives a name to a file. If file is 0, naming removes the name instead.
type naming struct {
	name  string
	file  uint64
	after *naming // must be kept before this one, unless nil
	kept  bool
}

// rootID is the directory's inode number, as FUSE has it.
const rootID = 1

// New returns an empty disk.
func New() *Disk {
	return &Disk{
		files: make(map[uint64]*file),
		last:  rootID,
		names: make(map[string]uint64),
		kept:  make(map[string]uint64),
		off:   make(chan struct{}),
	}
}

// CutAfter cuts the power during the nth change from now, counted from 1, before that change is
// synced or answered.
func (d *Disk) CutAfter(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.changes = n
}

// During calls fn during the nth change from now, counted from 1, before that change is made. fn
// must not use the disk.
func (d *Disk) During(n int, fn func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.until, d.during = n, fn
}

// Off returns a channel that is closed when the power is cut. From then on, every operation fails
// with EIO.
func (d *Disk) Off() <-chan struct{} { return d.off }

// Fail sets the fault of the disk, which has one at a time.
func (d *Disk) Fail(f Fault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault, d.asked, d.refused = f, 0, 0
}

// Heal ends the fault, and returns how many changes it has refused.
func (d *Disk) Heal() (refused int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault = Fault{}
	return d.refused
}

// Lie makes the disk ignore syncs. It holds back the last changes of each file and of the
// directory, as many as cache says, and keeps older changes.
func (d *Disk) Lie(cache int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lies, d.cache = true, cache
}

// Cache makes the kernel keep written data in its own cache too, for files that are opened from now
// on. Programs then still see the data that a failed sync has lost, until the kernel drops it, as
// on ext4 and XFS. Without Cache, lost data is gone at once.
//
// Make no write fail after Cache: the kernel would show the refused write in maps of the file,
// which no real file system does.
func (d *Disk) Cache() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.caches = true
}

// Put writes the beginning of a file as if the data had been synced. It makes the file if there is
// none. Put is for the program that has mounted the disk.
func (d *Disk) Put(name string, data []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.files[d.names[name]]
	if f == nil {
		f = &file{told: make(map[uint64]syscall.Errno)}
		d.last++
		d.files[d.last], d.names[name], d.kept[name] = f, d.last, d.last
	}
	f.data = append(bytes.Clone(data), f.data[min(len(data), len(f.data)):]...)
	f.kept = append(bytes.Clone(data), f.kept[min(len(data), len(f.kept)):]...)
}

// Spoil makes the sector at an offset in a file unreadable.
func (d *Disk) Spoil(name string, at int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.files[d.names[name]]
	f.spoilt = append(f.spoilt, at)
}

// Counts returns the counts of all changes until now.
func (d *Disk) Counts() Counts {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.counts
}

// Files returns the files in the directory, as programs see them.
func (d *Disk) Files() map[string][]byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	files := make(map[string][]byte)
	for name, id := range d.names {
		files[name] = bytes.Clone(d.files[id].data)
	}
	return files
}

// ask decides whether a change is made, and which error the caller gets.
func (d *Disk) ask(op Op) (made bool, err syscall.Errno) {
	if d.isOff() {
		return false, syscall.EIO
	}
	d.counts.Of[op]++
	if d.until == 1 {
		d.during()
	}
	d.until = max(0, d.until-1)
	if d.fault.Err != 0 && d.fault.Op == op {
		d.asked++
		if d.asked == d.fault.Nth || d.fault.Always && d.asked > d.fault.Nth {
			d.refused++
			return false, d.fault.Err
		}
	}
	if d.changes == 1 {
		close(d.off)
		return op != Sync, syscall.EIO
	}
	d.changes = max(0, d.changes-1)
	return true, 0
}

func (d *Disk) isOff() bool {
	select {
	case <-d.off:
		return true
	default:
		return false
	}
}

func (d *Disk) lookUp(name string) (id uint64, size int, err syscall.Errno) {
	d.mu.Lock()
	defer d.mu.Unlock()
	id = d.names[name]
	switch {
	case d.isOff():
		return 0, 0, syscall.EIO
	case id == 0:
		return 0, 0, syscall.ENOENT
	}
	return id, len(d.files[id].data), 0
}

func (d *Disk) size(id uint64) (size int, err syscall.Errno) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.isOff() {
		return 0, syscall.EIO
	}
	return len(d.files[id].data), 0
}

func (d *Disk) list() (names []string, err syscall.Errno) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.isOff() {
		return nil, syscall.EIO
	}
	return slices.Sorted(maps.Keys(d.names)), 0
}

func (d *Disk) read(id uint64, at int64, p []byte) (n int, err syscall.Errno) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.files[id]
	switch {
	case d.isOff():
		return 0, syscall.EIO
	case at >= int64(len(f.data)):
		return 0, 0
	}
	for _, bad := range f.spoilt {
		if at < bad+sectorSize && bad < at+int64(len(p)) {
			return 0, syscall.EIO
		}
	}
	return copy(p, f.data[at:]), 0
}

func (d *Disk) create(name string) (id uint64, err syscall.Errno) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.names[name] != 0 {
		return 0, syscall.EEXIST
	}
	made, err := d.ask(Create)
	if made {
		d.last++
		d.files[d.last] = &file{told: make(map[uint64]syscall.Errno)}
		d.rename(&naming{name: name, file: d.last})
	}
	return d.last, err
}

func (d *Disk) write(id uint64, at int64, data []byte) syscall.Errno {
	d.mu.Lock()
	defer d.mu.Unlock()
	made, err := d.ask(Write)
	if made {
		f := d.files[id]
		if end := at + int64(len(data)); end > int64(len(f.data)) {
			d.change(f, change{at: end})
		}
		d.change(f, change{at, append([]byte{}, data...)})
		d.counts.Bytes += int64(len(data))
	}
	return err
}

func (d *Disk) truncate(id uint64, size int64) syscall.Errno {
	d.mu.Lock()
	defer d.mu.Unlock()
	made, err := d.ask(Truncate)
	if made {
		d.change(d.files[id], change{at: size})
	}
	return err
}

func (d *Disk) change(f *file, c change) {
	f.data = c.apply(f.data)
	f.pending = append(f.pending, c)
	for d.lies && len(f.pending) > d.cache {
		f.kept = f.pending[0].apply(f.kept)
		f.pending = f.pending[1:]
	}
}

// apply makes a change to data, and returns the data at its new length. A write does not make the
// data longer.
func (c change) apply(data []byte) []byte {
	switch more := c.at - int64(len(data)); {
	case c.data != nil && more < 0:
		copy(data[c.at:], c.data)
	case c.data == nil && more > 0:
		return append(data, make([]byte, more)...)
	case c.data == nil:
		return data[:c.at]
	}
	return data
}

func (d *Disk) open(id uint64) (handle uint64, cached bool, err syscall.Errno) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.isOff() {
		return 0, false, syscall.EIO
	}
	d.handle++
	d.files[id].told[d.handle] = 0
	return d.handle, d.caches, 0
}

func (d *Disk) close(id, handle uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.files[id].told, handle)
}

func (d *Disk) sync(id, handle uint64) syscall.Errno {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.files[id]
	made, err := d.ask(Sync)
	switch {
	case made && !d.lies:
		for _, c := range f.pending {
			f.kept = c.apply(f.kept)
		}
		f.pending = nil
	case !made && !d.isOff():
		f.lose(newLuck(d.fault.Loss, d.fault.Random))
		for other := range f.told {
			f.told[other] = err
		}
	}
	if err == 0 {
		err = f.told[handle]
	}
	if _, ok := f.told[handle]; ok {
		f.told[handle] = 0
	}
	return err
}

// lose does what a failed sync does. The kernel takes all data for synced, though the disk may not
// have received it. Lengths are not lost.
func (f *file) lose(luck luck) {
	var lengths []change
	for _, c := range f.pending {
		if c.data == nil {
			lengths = append(lengths, c)
		} else {
			f.kept = luck.apply(c, f.kept)
		}
	}
	f.pending = lengths
	f.data = bytes.Clone(f.kept)
	for _, c := range lengths {
		f.data = c.apply(f.data)
	}
}

func (d *Disk) syncDirectory() syscall.Errno {
	d.mu.Lock()
	defer d.mu.Unlock()
	made, err := d.ask(Sync)
	switch {
	case made && !d.lies:
		for _, n := range d.pending {
			n.keep(d.kept)
		}
		d.pending = nil
	}
	return err
}

func (d *Disk) link(id uint64, name string) (size int, err syscall.Errno) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.names[name] != 0 {
		return 0, syscall.EEXIST
	}
	made, err := d.ask(Name)
	if made {
		d.rename(&naming{name: name, file: id})
	}
	return len(d.files[id].data), err
}

func (d *Disk) unlink(name string) syscall.Errno {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.names[name] == 0 {
		return syscall.ENOENT
	}
	made, err := d.ask(Name)
	if made {
		d.rename(&naming{name: name})
	}
	return err
}

func (d *Disk) move(from, to string) syscall.Errno {
	d.mu.Lock()
	defer d.mu.Unlock()
	id := d.names[from]
	if id == 0 {
		return syscall.ENOENT
	}
	made, err := d.ask(Name)
	if made && d.names[to] != id {
		there := &naming{name: to, file: id}
		d.rename(there)
		d.rename(&naming{name: from, after: there})
	}
	return err
}

func (d *Disk) rename(n *naming) {
	n.apply(d.names)
	d.pending = append(d.pending, n)
	for d.lies && len(d.pending) > d.cache {
		d.pending[0].keep(d.kept)
		d.pending = d.pending[1:]
	}
}

func (n *naming) apply(names map[string]uint64) {
	if n.file == 0 {
		delete(names, n.name)
	} else {
		names[n.name] = n.file
	}
}

func (n *naming) keep(kept map[string]uint64) {
	n.apply(kept)
	n.kept = true
}
