package latchkey

import (
	"context"
	"os"

	"github.com/latchkeydb/latchkey/internal/boltengine"
	"github.com/latchkeydb/latchkey/internal/durable"
	"github.com/latchkeydb/latchkey/internal/names"
	"github.com/latchkeydb/latchkey/internal/record"
	"github.com/latchkeydb/latchkey/internal/salvage"
)

// SalvageReport says what [Salvage] brought back, and what it could not.
type SalvageReport struct {
	Users int // live users that came back
	Keys  int // live keys that came back

	// Data is the number of application records that came back. If Salvage cannot know which of two
	// commits was the last, only the records that are the same in both come back. If it can know
	// nothing about the commits, no application records come back. The same holds for what a hub or
	// an edge keeps for replication.
	Data int

	BadPages   int // pages in use that could not be read
	BadRecords int // records with a wrong checksum, and entries of pages that cannot be read
	// Uncertain is the number of users, keys and groups that came back disabled because their
	// records may not be of the last commit: a meta page or the list of free pages is lost, or the
	// change index has a later change of the record. They are disabled because that change may have
	// revoked them. A group whose record is lost counts, too.
	Uncertain int
	// Orphaned is the number of users whose record is lost, but whose keys are not. These
	// users came back disabled, with the identity that the index has for them, or with
	// (custom-function, "lost:<ID>").
	Orphaned int
}

// Salvage makes a new store in the file out from the damaged store in the file broken. It reads
// broken page by page, and takes every record whose checksum is right. It does not change broken.
// No program should have broken open. If out is a symbolic link to a file that does not exist,
// Salvage makes that file, as [Open] does.
//
// Tokens stay good. Deleted users and keys stay deleted, unless two pages are lost: the page of the
// tombstone, and the page of its entry in the change index. [SalvageReport] says which records come
// back disabled. The new store is another replica of the domain, and knows that there are others.
//
// It returns [ErrNotStore] if broken is no regular file; [ErrCorrupt] if the record of the domain
// is lost, because no token can be checked without it; [ErrNewerFormat]; [fs.ErrExist] if out
// exists; [ErrInvalidOptions] if a path is empty; ctx's error; or the operating system's error.
func Salvage(ctx context.Context, broken, out string) (report SalvageReport, err error) {
	if broken == "" || out == "" {
		return report, wrapf(errNoPath, "salvage")
	}
	f, err := boltengine.OpenRegular(broken)
	if err != nil {
		return report, wrapf(err, "salvage %s", broken)
	}
	defer f.Close()
	found, err := salvage.Read(ctx, f, salvagedIdentities)
	var d *record.Meta
	if err == nil {
		d, err = salvagedDomain(found)
	}
	if err == nil {
		err = durable.Create(durable.Resolve(out), func(tmp *os.File) error { return salvage.Write(ctx, tmp.Name(), d, found) })
	}
	return SalvageReport(found.Counts), wrapf(err, "salvage %s", broken)
}

// salvagedIdentities has the rules by which a salvage knows and makes identities.
var salvagedIdentities = salvage.Identities{
	Valid: func(provider, subject string) bool {
		return Identity{Provider(provider), subject}.check(names.Stored) == nil
	},
	Lost: string(ProviderCustomFunction),
}

// salvagedDomain returns the domain of the new store.
//
// It returns ErrCorrupt if some of the domain is lost, or ErrNewerFormat.
func salvagedDomain(found salvage.Found) (*record.Meta, error) {
	d, err := readDomain(func(key []byte) ([]byte, error) { return found.Meta[string(key)], nil })
	if err != nil {
		return nil, err
	}
	if d == nil {
		return nil, errNoFormat
	}
	d.Replica = found.Replica
	return d, nil
}
