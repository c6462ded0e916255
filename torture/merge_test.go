package torture

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/latchkeydb/latchkey/internal/record"
)

// The laws of merging. Versions of a record are made as replicas make them: by calls on copies of
// one record, which merge now and then, and which are restored from backups.

// version is a copy of a record at one replica.
type version struct {
	user record.User
	key  record.Key
	// The oracle of the key's flag: disablings that the copy has seen, and those that an enabling
	// has seen.
	seen, cancelled map[int]bool
}

func (v version) clone() version {
	v.key.Verifiers.All = slices.Clone(v.key.Verifiers.All)
	v.seen, v.cancelled = maps.Clone(v.seen), maps.Clone(v.cancelled)
	return v
}

// copies are the copies of one record at some replicas.
type copies struct {
	*rapid.T
	replicas []version
	backups  []version
	writers  []record.Writer
	events   int // disablings so far
	drawn    int // writers and verifiers so far
	all      []version
}

func newCopies(t *rapid.T) *copies {
	c := &copies{T: t}
	first := version{seen: map[int]bool{}, cancelled: map[int]bool{}}
	at := record.Stamp{Counter: 1, Replica: replicaID(0)}
	first.user = record.User{ID: uuid.UUID{1}, Created: time.UnixMilli(1).UTC()}.SetIdentity(record.Identity{Provider: "custom-token", Subject: "a", Stamp: at})
	first.key = record.Key{ID: uuid.UUID{2}, Owner: uuid.UUID{1}, Created: time.UnixMilli(1).UTC()}
	first.key.Name = record.Register[string]{Value: "laptop", Stamp: at}
	first.key.Verifiers = first.key.Verifiers.Add(record.Verifier{ID: c.verifierID(), PHC: "first"})
	for range rapid.IntRange(2, 5).Draw(t, "replicas") {
		c.replicas = append(c.replicas, first.clone())
		c.writers = append(c.writers, c.writer())
	}
	return c
}

func replicaID(i int) uuid.UUID { return uuid.UUID{0xaa, byte(i)} }

func (c *copies) writer() (w record.Writer) {
	c.drawn++
	binary.BigEndian.PutUint64(w[:], uint64(c.drawn))
	return w
}

func (c *copies) verifierID() (id record.VerifierID) {
	c.drawn++
	binary.BigEndian.PutUint64(id[:], uint64(c.drawn))
	return id
}

// step does one thing at one replica.
func (c *copies) step() {
	i := rapid.IntRange(0, len(c.replicas)-1).Draw(c.T, "replica")
	v := c.replicas[i].clone()
	switch rapid.SampledFrom([]string{
		"disable", "disable", "enable", "rename", "expire", "scopes", "networks", "metadata", "group", "link", "unlink",
		"rotate", "rotate", "rotate at once", "rotate often", "rotate at once often", "link often", "later build", "retire", "merge", "merge", "merge", "merge", "back up", "restore",
	}).Draw(c.T, "step") {
	case "disable":
		v.key.Flag, v.user.Flag = v.key.Flag.Disable(c.writers[i]), v.user.Flag.Disable(c.writers[i])
		c.events++
		v.seen[c.events] = true
	case "enable":
		v.key.Flag, v.user.Flag = v.key.Flag.Enable(), v.user.Flag.Enable()
		maps.Copy(v.cancelled, v.seen)
	case "rename":
		v.key.Name = record.Register[string]{Value: c.text(), Stamp: v.key.Next(replicaID(i))}
	case "expire":
		at := time.Unix(int64(rapid.IntRange(1, 9).Draw(c.T, "expires")), 0).UTC()
		v.key.Expires = record.Register[time.Time]{Value: at, Stamp: v.key.Next(replicaID(i))}
	case "scopes":
		v.key.Scopes = record.Register[[]string]{Value: []string{c.text()}, Stamp: v.key.Next(replicaID(i))}
	case "networks":
		n := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(rapid.IntRange(0, 3).Draw(c.T, "network"))}), 16)
		v.key.Networks = record.Register[[]netip.Prefix]{Value: []netip.Prefix{n}, Stamp: v.key.Next(replicaID(i))}
	case "metadata":
		v.key.Metadata = record.Register[record.Metadata]{Value: record.Metadata{"note": c.text()}, Stamp: v.key.Next(replicaID(i))}
	case "group":
		v.key.Groups = v.key.Groups.Set(c.text(), v.key.Next(replicaID(i)))
		v.user.Groups = v.user.Groups.Set(c.text(), v.user.Next(replicaID(i)))
	case "link", "unlink":
		unlink := rapid.Bool().Draw(c.T, "unlink")
		v.user = v.user.SetIdentity(record.Identity{Provider: "custom-token", Subject: c.text(), Stamp: v.user.Next(replicaID(i)), Unlinked: unlink})
	case "rotate":
		c.rotate(&v, false)
	case "rotate at once":
		c.rotate(&v, true)
	case "rotate often": // until there are more verifiers than a key can have
		for range 40 {
			c.rotate(&v, false)
			if good := v.key.Verifiers.Good(time.Unix(0, 0)); len(good) > 2 {
				v.key.Verifiers = v.key.Verifiers.Retire(good[0].ID)
			}
		}
	case "rotate at once often": // until there are more bases than a key can list
		for range 300 {
			c.rotate(&v, true)
		}
	case "link often": // until there are more identities than a user can have
		for i := range 70 {
			c.drawn++
			v.user = v.user.SetIdentity(record.Identity{
				Provider: "custom-token", Subject: fmt.Sprint(c.drawn), Stamp: v.user.Next(replicaID(i)), Unlinked: i%2 == 0,
			})
		}
	case "later build": // which writes fields that this build does not know
		var m record.Message
		m.Number(rapid.IntRange(100, 103).Draw(c.T, "field"), uint64(rapid.IntRange(1, 9).Draw(c.T, "number")))
		v.key.Unknown, v.user.Unknown = record.Unknown(m), record.Unknown(m)
		if n := len(v.key.Verifiers.All); n > 0 {
			v.key.Verifiers.All[rapid.IntRange(0, n-1).Draw(c.T, "verifier")].Unknown = record.Unknown(m)
		}
	case "retire":
		if good := v.key.Verifiers.Good(time.Unix(0, 0)); len(good) > 1 {
			v.key.Verifiers = v.key.Verifiers.Retire(good[0].ID)
		}
	case "merge":
		other := c.replicas[rapid.IntRange(0, len(c.replicas)-1).Draw(c.T, "other")]
		v = c.merge(v, other)
	case "back up":
		c.backups = append(c.backups, v.clone())
	case "restore": // of this replica's file or of another's, which is a clone
		if len(c.backups) > 0 {
			v = c.backups[rapid.IntRange(0, len(c.backups)-1).Draw(c.T, "backup")].clone()
			c.writers[i] = c.writer()
		}
	}
	c.replicas[i] = v
	c.all = append(c.all, v)
	c.check(v)
}

func (c *copies) text() string {
	return rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"}).Draw(c.T, "text")
}

// rotate makes a verifier from one that is good.
func (c *copies) rotate(v *version, atOnce bool) {
	good := v.key.Verifiers.Good(time.Unix(0, 0))
	if len(good) == 0 {
		return
	}
	last := good[len(good)-1]
	made := last.Next(c.verifierID(), "made")
	v.key.Verifiers = v.key.Verifiers.Add(made)
	if atOnce {
		v.key.Verifiers = v.key.Verifiers.Supersede(made.ID)
	} else {
		v.key.Verifiers = v.key.Verifiers.EndAt(last.ID, time.Unix(5, 0).UTC())
	}
}

func (c *copies) merge(a, b version) version {
	m := a.clone()
	m.user = a.user.Merge(b.user)
	key, err := a.key.Merge(b.key)
	if err != nil {
		c.Fatal(err)
	}
	m.key = key
	maps.Copy(m.seen, b.seen)
	maps.Copy(m.cancelled, b.cancelled)
	return m
}

// check compares the flag with what the oracle knows.
func (c *copies) check(v version) {
	holds := false
	for event := range v.seen {
		holds = holds || !v.cancelled[event]
	}
	if v.key.Flag.IsDisabled() != holds {
		c.Fatalf("disabled is %v, and a disabling that no enabling has seen: %v\n%+v", v.key.Flag.IsDisabled(), holds, v.key.Flag)
	}
}

func (v version) bytes() []byte { return append(v.user.Encode(), v.key.Encode()...) }

func TestMergingIsCommutativeAssociativeAndIdempotent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := newCopies(t)
		for range rapid.IntRange(3, 60).Draw(t, "steps") {
			c.step()
		}
		draw := func(name string) version { return c.all[rapid.IntRange(0, len(c.all)-1).Draw(t, name)] }
		x, y, z := draw("x"), draw("y"), draw("z")
		for _, law := range []struct {
			name        string
			left, right version
		}{
			{"commutative", c.merge(x, y), c.merge(y, x)},
			{"associative", c.merge(c.merge(x, y), z), c.merge(x, c.merge(y, z))},
			{"idempotent", c.merge(x, x), x},
			{"absorbing", c.merge(x, c.merge(x, y)), c.merge(x, y)},
		} {
			if !bytes.Equal(law.left.bytes(), law.right.bytes()) {
				t.Errorf("not %s:\n%+v\n%+v", law.name, law.left, law.right)
			}
		}
		key, err := record.DecodeKey(x.key.ID, x.key.Encode())
		if err != nil || !bytes.Equal(key.Encode(), x.key.Encode()) {
			t.Errorf("the key reads back as %+v, %v, want %+v", key, err, x.key)
		}
		user, err := record.DecodeUser(x.user.ID, x.user.Encode())
		if err != nil || !bytes.Equal(user.Encode(), x.user.Encode()) {
			t.Errorf("the user reads back as %+v, %v, want %+v", user, err, x.user)
		}
	})
}

func TestReplicasThatHaveMergedAgreeAndCountNothingTwice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := newCopies(t)
		for range rapid.IntRange(3, 60).Draw(t, "steps") {
			c.step()
		}
		// In any order, twice around.
		for range 2 {
			for i := range c.replicas {
				for j := range c.replicas {
					c.replicas[i] = c.merge(c.replicas[i], c.replicas[j])
					c.check(c.replicas[i])
				}
			}
		}
		for i, v := range c.replicas {
			if !bytes.Equal(v.bytes(), c.replicas[0].bytes()) {
				t.Fatalf("replica %d has %+v, and replica 0 has %+v", i, v, c.replicas[0])
			}
			if n := v.key.Flag.Disablings(); n > uint64(c.events) || n < uint64(len(v.seen)) {
				t.Fatalf("%d disablings are counted, of %d that were seen and %d that were made", n, len(v.seen), c.events)
			}
		}
	})
}

func TestARotationWithoutOverlapRetiresWhatOthersMadeMeanwhileAndNoOtherSuchRotation(t *testing.T) {
	first := record.Verifier{ID: record.VerifierID{1}, PHC: "first"}
	start := record.Key{ID: uuid.UUID{2}, Owner: uuid.UUID{1}}
	start.Verifiers = start.Verifiers.Add(first)
	rotate := func(k record.Key, id byte, from record.Verifier, atOnce bool) record.Key {
		v := from.Next(record.VerifierID{id}, fmt.Sprint(id))
		k.Verifiers = k.Verifiers.Add(v)
		if atOnce {
			k.Verifiers = k.Verifiers.Supersede(v.ID)
		}
		return k
	}
	hub, edge, thief := rotate(start, 2, first, true), rotate(start, 3, first, true), rotate(start, 4, first, false)
	merged := start
	for _, k := range []record.Key{thief, hub, edge} {
		var err error
		if merged, err = merged.Merge(k); err != nil {
			t.Fatal(err)
		}
	}
	good := merged.Verifiers.Good(time.Unix(0, 0))
	if len(good) != 2 || good[0].ID[0] != 2 || good[1].ID[0] != 3 {
		t.Errorf("the good verifiers are %+v, want the two of the rotations without overlap", good)
	}
	thiefs, _ := merged.Verifiers.Find(record.VerifierID{4})
	// Made before the thief's replica hears of the rotations.
	late := rotate(thief, 5, mustFind(t, thief, 4), false)
	if merged, _ = merged.Merge(late); len(merged.Verifiers.Good(time.Unix(0, 0))) != 2 || !thiefs.Retired {
		t.Errorf("what was made from a retired verifier is good: %+v", merged.Verifiers)
	}
}

func mustFind(t *testing.T, k record.Key, id byte) record.Verifier {
	t.Helper()
	v, found := k.Verifiers.Find(record.VerifierID{id})
	if !found {
		t.Fatalf("no verifier %d", id)
	}
	return v
}

func TestAFlagWithTooManyWritersIsSealedInWhateverOrderItMerges(t *testing.T) {
	flags := make([]record.Key, 3)
	for i := range flags {
		flags[i] = record.Key{ID: uuid.UUID{1}}
		for n := range 100 {
			flags[i].Flag = flags[i].Flag.Disable(record.Writer{byte(i), byte(n)}).Enable()
		}
	}
	merge := func(a, b record.Key) record.Key {
		m, err := a.Merge(b)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	if m := merge(flags[0], flags[1]); m.Flag.IsDisabled() || len(m.Flag.Writers) != 200 {
		t.Errorf("200 writers: %+v", m.Flag)
	}
	left, right := merge(merge(flags[0], flags[1]), flags[2]), merge(flags[0], merge(flags[1], flags[2]))
	if !bytes.Equal(left.Encode(), right.Encode()) {
		t.Errorf("not associative: %+v, %+v", left.Flag, right.Flag)
	}
	if !left.Flag.Sealed || !left.Flag.Enable().IsDisabled() || left.Flag.Disablings() != math.MaxUint64 {
		t.Errorf("300 writers: %+v", left.Flag)
	}
	one := record.Flag{}
	for n := range record.MaxWriters + 1 {
		one = one.Disable(record.Writer{byte(n >> 8), byte(n)})
	}
	if !one.Sealed {
		t.Errorf("%d writers: %+v", record.MaxWriters+1, one)
	}
}
