package disk

import (
	"bytes"
	"math/rand/v2"
	"syscall"
	"testing"
)

// sectors returns the content of a file in which each sector repeats one byte.
func sectors(of ...byte) (data []byte) {
	for _, b := range of {
		data = append(data, bytes.Repeat([]byte{b}, sectorSize)...)
	}
	return data
}

// newFile makes a disk with one file. The file's content and name are synced.
func newFile(t *testing.T, data []byte) (d *Disk, id, handle uint64) {
	t.Helper()
	d = New()
	id, err := d.create("file")
	want(t, err, 0)
	handle, _, err = d.open(id)
	want(t, err, 0)
	want(t, d.write(id, 0, data), 0)
	want(t, d.sync(id, handle), 0)
	want(t, d.syncDirectory(), 0)
	return d, id, handle
}

func want(t *testing.T, err, want syscall.Errno) {
	t.Helper()
	if err != want {
		t.Fatalf("got error %d, want %d", err, want)
	}
}

func wantFile(t *testing.T, d *Disk, name string, want []byte) {
	t.Helper()
	if got := d.Files()[name]; !bytes.Equal(got, want) {
		t.Errorf("%s has %q, want %q", name, got, want)
	}
}

func TestACutLosesOnlyDataThatWasNotSynced(t *testing.T) {
	synced, written := sectors('a', 'b'), sectors('c', 'd')
	for loss, want := range map[Loss][]byte{LoseAll: synced, LoseNothing: written} {
		t.Run(loss.String(), func(t *testing.T) {
			d, id, _ := newFile(t, synced)
			d.write(id, 0, written)
			wantFile(t, d, "file", written)
			wantFile(t, d.Restart(loss, nil), "file", want)
		})
	}
}

func TestACutLeavesEachSectorOldOrNewAndEveryMixtureOccurs(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	seen := make(map[string]bool)
	for range 1000 {
		d, id, _ := newFile(t, sectors('a', 'b', 'c'))
		d.write(id, 0, sectors('x', 'y'))
		d.write(id, 2*sectorSize, sectors('z'))
		got := d.Restart(LoseSome, random).Files()["file"]
		mixture := string([]byte{got[0], got[sectorSize], got[2*sectorSize]})
		if !bytes.Equal(got, sectors(mixture[0], mixture[1], mixture[2])) {
			t.Fatalf("a sector is of two writes: %q", got)
		}
		seen[mixture] = true
	}
	if len(seen) != 8 {
		t.Errorf("1,000 cuts left %v, want all 8 mixtures", seen)
	}
}

func TestACutCanLeaveALengthenedFileWithZeros(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	for range 1000 {
		d, id, _ := newFile(t, sectors('a'))
		d.write(id, sectorSize, sectors('b'))
		if bytes.Equal(d.Restart(LoseSome, random).Files()["file"], sectors('a', 0)) {
			return
		}
	}
	t.Error("1,000 cuts left no file of the new length without the new data")
}

func TestACutDuringARenameLeavesTheOldFileOrTheNewUnderTheName(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	seen := make(map[string]bool)
	for range 200 {
		d, _, _ := newFile(t, sectors('a'))
		id, err := d.create("new")
		want(t, err, 0)
		want(t, d.write(id, 0, sectors('b')), 0)
		handle, _, _ := d.open(id)
		want(t, d.sync(id, handle), 0)
		want(t, d.move("new", "file"), 0)
		wantFile(t, d, "file", sectors('b'))
		got := d.Restart(LoseSome, random).Files()["file"]
		if !bytes.Equal(got, sectors('a')) && !bytes.Equal(got, sectors('b')) {
			t.Fatalf("the name stands for %q", got)
		}
		seen[string(got[:1])] = true
	}
	if len(seen) != 2 {
		t.Errorf("200 cuts left only %v", seen)
	}
}

func TestAFailedSyncLosesDataForGoodAndIsReportedOnceToEachOpenFile(t *testing.T) {
	d, id, handle := newFile(t, sectors('a'))
	other, _, _ := d.open(id)
	d.Fail(Fault{Op: Sync, Nth: 1, Err: syscall.EIO})
	d.write(id, 0, sectors('b'))
	want(t, d.sync(id, handle), syscall.EIO)
	later, _, _ := d.open(id)
	for h, err := range map[uint64]syscall.Errno{handle: 0, other: syscall.EIO, later: 0} {
		want(t, d.sync(id, h), err)
		want(t, d.sync(id, h), 0)
	}
	wantFile(t, d, "file", sectors('a'))
	wantFile(t, d.Restart(LoseNothing, nil), "file", sectors('a'))
}

func TestAFailedSyncMayHaveWrittenTheData(t *testing.T) {
	d, id, handle := newFile(t, sectors('a'))
	d.Fail(Fault{Op: Sync, Nth: 1, Err: syscall.EIO, Loss: LoseNothing})
	d.write(id, 0, sectors('b'))
	want(t, d.sync(id, handle), syscall.EIO)
	wantFile(t, d.Restart(LoseAll, nil), "file", sectors('b'))
}

func TestADiskThatLiesAboutSyncingHoldsBackTheLastChanges(t *testing.T) {
	d, id, handle := newFile(t, sectors('a', 'b', 'c'))
	d.Lie(2)
	for i := range int64(3) {
		want(t, d.write(id, i*sectorSize, sectors('z')), 0)
		want(t, d.sync(id, handle), 0)
	}
	wantFile(t, d.Restart(LoseAll, nil), "file", sectors('z', 'b', 'c'))
}

func TestTheNthChangeIsTheOneThatIsCutOrRefused(t *testing.T) {
	d, id, _ := newFile(t, sectors('a', 'b', 'c'))
	d.Fail(Fault{Op: Write, Nth: 2, Err: syscall.ENOSPC})
	for _, err := range []syscall.Errno{0, syscall.ENOSPC, 0} {
		want(t, d.write(id, 0, sectors('x')), err)
	}
	if n := d.Heal(); n != 1 {
		t.Errorf("%d changes were refused, want 1", n)
	}
	d.CutAfter(2)
	want(t, d.write(id, sectorSize, sectors('y')), 0)
	want(t, d.write(id, 2*sectorSize, sectors('z')), syscall.EIO)
	want(t, d.truncate(id, 0), syscall.EIO)
	wantFile(t, d.Restart(LoseNothing, nil), "file", sectors('x', 'y', 'z'))
}
