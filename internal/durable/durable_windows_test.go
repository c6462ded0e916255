package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/windows"
)

// changes are the ways to change the name of the file at path.
var changes = []struct {
	name   string
	change func(path string) error
}{
	{"Rename from it", func(path string) error { return Rename(path, path+".renamed") }},
	{"Rename over it", func(path string) error {
		other := path + ".other"
		if err := os.WriteFile(other, []byte("new"), 0o600); err != nil {
			return err
		}
		return Rename(other, path)
	}},
	{"Remove", Remove},
	{"Replace", func(path string) error { return Replace(path, writing("new", nil)) }},
	{"Create's name", func(path string) error { return nameNew(path, path+".created") }},
}

func TestANameIsChangedAsSoonAsNobodyElseHasTheFileOpen(t *testing.T) {
	for _, tt := range changes {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "keys.db")
				must(t, os.WriteFile(path, []byte("old"), 0o600))
				scanner, err := os.Open(path) // which, unlike OpenFile, keeps the name
				must(t, err)
				go func() {
					time.Sleep(time.Second)
					_ = scanner.Close()
				}()
				must(t, tt.change(path))
			})
		})
	}
}

func TestANameThatCannotBeChangedIsAnErrorAfterTwoSeconds(t *testing.T) {
	for _, tt := range changes {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "keys.db")
				must(t, os.WriteFile(path, []byte("old"), 0o600))
				scanner, err := os.Open(path)
				must(t, err)
				defer scanner.Close()
				start := time.Now()
				if err := tt.change(path); !IsBusy(err) {
					t.Errorf("got %v, want an error that says that the file is open", err)
				}
				if d := time.Since(start); d < 2*time.Second || d > 3*time.Second {
					t.Errorf("it took %v, want two seconds", d)
				}
				if got, err := os.ReadFile(path); string(got) != "old" {
					t.Errorf("the file has %q, %v, want %q", got, err, "old")
				}
			})
		})
	}
}

func TestAFileOfOpenFileCanBeRenamedWhileItIsOpenAndMapped(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	must(t, os.WriteFile(path, make([]byte, 4096), 0o600))
	f, err := OpenFile(path, os.O_RDWR)
	must(t, err)
	defer f.Close()
	mapping, err := windows.CreateFileMapping(windows.Handle(f.Fd()), nil, windows.PAGE_READONLY, 0, 0, nil)
	must(t, err)
	defer windows.CloseHandle(mapping)
	data, err := windows.MapViewOfFile(mapping, windows.FILE_MAP_READ, 0, 0, 0)
	must(t, err)
	defer func() { must(t, windows.UnmapViewOfFile(data)) }()
	if locked, err := Lock(f, -1); err != nil || !locked {
		t.Fatal(locked, err)
	}
	other := path + ".other"
	must(t, os.WriteFile(other, []byte("old"), 0o600))
	must(t, Rename(path, other))
	g, err := OpenFile(other, os.O_RDWR)
	must(t, err)
	defer g.Close()
	if locked, err := Lock(g, -1); err != nil || locked {
		t.Errorf("got %t, %v; the lock must stay with the file", locked, err)
	}
}

func TestOpenFileKnowsItsFlags(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	want := func(flag int, want error) {
		t.Helper()
		f, err := OpenFile(path, flag)
		if !errors.Is(err, want) {
			t.Errorf("flags %x: got %v, want %v", flag, err, want)
		}
		if err == nil {
			must(t, f.Close())
		}
	}
	want(os.O_RDWR, fs.ErrNotExist)
	want(os.O_RDWR|os.O_CREATE|os.O_EXCL, nil)
	want(os.O_RDWR|os.O_CREATE|os.O_EXCL, fs.ErrExist)
	want(os.O_RDWR|os.O_CREATE, nil)
	want(os.O_RDONLY, nil)
}

func TestAReplacementHasTheAccessListOfTheFileInItsPlace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	must(t, os.WriteFile(path, []byte("old"), 0o600))
	handedDown := accessList(t, path)
	me, err := windows.GetCurrentProcessToken().GetTokenUser()
	must(t, err)
	narrow, err := windows.SecurityDescriptorFromString("D:P(A;;FA;;;" + me.User.Sid.String() + ")")
	must(t, err)
	h, err := createFile(path, windows.WRITE_DAC, windows.OPEN_EXISTING)
	must(t, err)
	must(t, windows.SetKernelObjectSecurity(h, windows.DACL_SECURITY_INFORMATION, narrow))
	must(t, windows.CloseHandle(h))
	want := accessList(t, path)
	if want == handedDown {
		t.Fatalf("the list %s cannot be made narrower", want)
	}
	must(t, Replace(path, writing("new", nil)))
	if got := accessList(t, path); got != want {
		t.Errorf("the list is %s, want %s", got, want)
	}
}

// accessList returns the access list of a file as text.
func accessList(t *testing.T, path string) string {
	t.Helper()
	list, err := windows.GetNamedSecurityInfo(path, windows.SE_FILE_OBJECT, windows.DACL_SECURITY_INFORMATION)
	must(t, err)
	return list.String()
}
