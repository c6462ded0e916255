package merge_test

import (
	"encoding/binary"
	"fmt"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/access"
	"github.com/latchkeydb/latchkey/internal/merge"
	"github.com/latchkeydb/latchkey/internal/record"
)

// copiedKeys is how many keys [BenchmarkFirstCopy] copies. Each tenth has a user of its own.
const copiedKeys, keysOfUser = 1_000_000, 10

// BenchmarkFirstCopy measures how fast an empty file takes in the tables of a first copy, and how
// fast they can be read from there, without the network.
func BenchmarkFirstCopy(b *testing.B) {
	for b.Loop() {
		s, err := latchkey.Open(filepath.Join(b.TempDir(), "keys.db"), &latchkey.Options{Cost: latchkey.LightCost, SafetyCopyEvery: -1})
		must(b, err)
		heap, begin, records, making := uint64(0), time.Now(), 0, time.Duration(0)
		for _, table := range merge.CopiedTables() {
			next := generated(table)
			for {
				made := time.Now()
				var entries []merge.Entry
				for len(entries) < 8192 {
					e, ok := next()
					if !ok {
						break
					}
					entries = append(entries, e)
				}
				making += time.Since(made)
				if len(entries) == 0 {
					break
				}
				must(b, access.Of(s).Update(b.Context(), func(t *merge.Tables) error { return t.PutEntries(table, entries) }))
				if table == record.TableUsers || table == record.TableKeys {
					records += len(entries)
				}
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				heap = max(heap, m.HeapInuse)
			}
		}
		took := time.Since(begin) - making
		begin = time.Now()
		for _, table := range merge.CopiedTables() {
			for after := []byte(nil); ; {
				must(b, access.Of(s).View(b.Context(), func(t *merge.Tables) error {
					p, err := t.CopyTable(table, after, 1<<20, all)
					after = p.Last
					return err
				}))
				if after == nil {
					break
				}
			}
		}
		b.ReportMetric(float64(records)/time.Since(begin).Seconds(), "read-records/s")
		must(b, s.Close())
		b.ReportMetric(float64(records)/took.Seconds(), "records/s")
		b.ReportMetric(float64(heap)/(1<<20), "MiB-heap")
		b.ReportMetric(0, "ns/op")
	}
}

func benchID(kind byte, n uint64) (id uuid.UUID) {
	binary.BigEndian.PutUint64(id[:], n<<16)
	id[6], id[8], id[15] = 0x70, 0x80, kind
	return id
}

// generated returns a function that returns the entries of a table, in their order.
func generated(table string) func() (merge.Entry, bool) {
	const users = copiedKeys / keysOfUser
	n := uint64(0)
	sealed := func(id uuid.UUID, message []byte) merge.Entry {
		return merge.Entry{Key: id[:], Value: record.Seal(table, id[:], message)}
	}
	make, count := map[string]func() merge.Entry{
		record.TableUsers: func() merge.Entry {
			u := record.User{ID: benchID(1, n), Created: time.UnixMilli(1767323045678)}
			u = u.SetIdentity(record.Identity{Provider: "local-userpass", Subject: fmt.Sprintf("user%08d@example.com", n), Stamp: stamp(1, here)})
			return sealed(u.ID, u.Encode())
		},
		record.TableKeys: func() merge.Entry {
			k := record.Key{ID: benchID(2, n), Owner: benchID(1, n%users), Created: time.UnixMilli(1767323045678)}
			k.Name = record.Register[string]{Value: fmt.Sprintf("key %02d", n/users), Stamp: stamp(1, here)}
			k.Verifiers.All = []record.Verifier{{ID: record.VerifierID(k.ID[:8]),
				PHC: "$argon2id$v=19$m=7168,t=5,p=1$gL6Apb/Mokmy8/YdzmAfvQ$YHmbZ+LKTATi/0Rf6xp9hUgG9KYbOCB1m7QbZ783Sns"}}
			return sealed(k.ID, k.Encode())
		},
		record.TableIdentities: func() merge.Entry {
			id := benchID(1, n)
			return merge.Entry{Key: record.IdentityKey("local-userpass", fmt.Sprintf("user%08d@example.com", n)), Value: id[:]}
		},
		record.TableNames: func() merge.Entry {
			i, j := n/keysOfUser, n%keysOfUser
			return merge.Entry{Key: record.NameKey(benchID(1, i), fmt.Sprintf("key %02d", j), benchID(2, j*users+i)), Value: []byte{}}
		},
	}[table], map[string]uint64{
		record.TableUsers: users, record.TableIdentities: users, record.TableKeys: copiedKeys, record.TableNames: copiedKeys,
	}[table]
	return func() (e merge.Entry, ok bool) {
		if n == count {
			return e, false
		}
		e = make()
		n++
		return e, true
	}
}
