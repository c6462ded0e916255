package replication

import (
	"slices"
	"testing"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/access"
	"github.com/latchkeydb/latchkey/internal/merge"
	"github.com/latchkeydb/latchkey/internal/record"
)

// pull takes what the hub has, and pushes nothing.
func (d *device) pull(c *center) {
	d.t.Helper()
	feed, err := c.Hello(d.t.Context(), edgeID, d.Hello(), now)
	must(d.t, err)
	defer feed.Close()
	d.receive(feed.Welcome)
	b, err := feed.Next(d.t.Context(), 1<<20)
	must(d.t, err)
	d.receive(b.Messages...)
}

// lists returns the keys in a table of the device.
func (d *device) lists(table string) (keys []string) {
	d.t.Helper()
	must(d.t, access.Of(d.Store).View(d.t.Context(), func(t *merge.Tables) error {
		for e, err := range t.Scan(table, nil, nil) {
			if err != nil {
				return err
			}
			keys = append(keys, string(e.Key))
		}
		return nil
	}))
	return keys
}

// theClaim returns the last claim of the hub.
func (c *center) theClaim() uint64 {
	c.t.Helper()
	claims, err := c.Claims(c.t.Context())
	must(c.t, err)
	if len(claims) == 0 {
		c.t.Fatal("the hub has no claim")
	}
	return claims[len(claims)-1].Number
}

func TestADeviceThatJoinsAgainClaimsAgain(t *testing.T) {
	c := newCenter(t, withPush(PushNothing))
	populate(t, c, nil)
	d := openDevice(t, c.Store)
	d.mustSync(c)
	user := userID(t, c.Store, "user0")
	must(t, d.Store.DisableUser(t.Context(), user))
	d.mustSync(c)
	must(t, c.DropEdge(t.Context(), edgeID))
	was := edgeID
	t.Cleanup(func() { edgeID = was })
	edgeID = uuid.UUID{0xed, 15: 2}
	must(t, c.AddEdge(t.Context(), edgeID, "till", withPush(PushNothing), now))
	must(t, c.RefuseClaim(t.Context(), c.theClaim())) // which reaches nobody
	d.mustSync(c)
	wantDisabled(t, d.Store, user, true)
	must(t, c.RefuseClaim(t.Context(), c.theClaim()))
	d.mustSync(c)
	wantSame(t, c.Store, d.Store)
}

func TestAClaimThatIsConfirmedLeavesNothingOutsideTheGroupsOfTheEdge(t *testing.T) {
	c := newCenter(t, withPush(PushNothing))
	populate(t, c, nil)
	d := openDevice(t, c.Store)
	d.mustSync(c)
	must(t, d.Store.DisableGroup(t.Context(), "north"))
	d.mustSync(c)
	must(t, c.SetPolicy(t.Context(), edgeID, []string{"south"}, PushNothing))
	d.mustSync(c)
	must(t, c.ConfirmClaim(t.Context(), c.theClaim()))
	d.mustSync(c)
	if groups := d.lists(record.TableGroups); len(groups) != 0 {
		t.Errorf("the edge has the groups %q", groups)
	}
}

func TestTheKeysOfAUserAreNotDeletedWithoutTheUser(t *testing.T) {
	c := newCenter(t, north)
	user := addUser(t, c.Store, "ada", "north")
	d := openDevice(t, c.Store)
	d.mustSync(c)
	must(t, d.Store.DeleteUser(t.Context(), user))
	addKey(t, c.Store, user, "laptop")
	d.pull(c) // the key comes when the edge has deleted its owner
	must(t, c.SetUserGroup(t.Context(), user, "south"))
	d.mustSync(c)
	must(t, c.RefuseClaim(t.Context(), c.theClaim()))
	d.mustSync(c)
	if dead := slices.Concat(d.lists(record.TableDeadUsers), d.lists(record.TableDeadKeys)); len(dead) != 0 {
		t.Errorf("the edge has %d tombstones", len(dead))
	}
	must(t, c.SetUserGroup(t.Context(), user, "north"))
	d.mustSync(c)
	wantSame(t, c.Store, d.Store)
}

func TestAnEdgeForgetsWhatItOnlyHadForARestoredHub(t *testing.T) {
	c := newCenter(t, Policy{Groups: []string{"south"}})
	restored := c.backup()
	must(t, c.SetPolicy(t.Context(), edgeID, []string{AllGroups}, PushNothing))
	user := addUser(t, c.Store, "ada", "north")
	must(t, c.DisableUser(t.Context(), user))
	d := openDevice(t, c.Store)
	d.mustSync(c)
	wantDisabled(t, d.Store, user, true)
	d.mustSync(restored)
	wantDisabled(t, restored.Store, user, true)
	wantUsers(t, d.Store)
}

func TestAnEdgeThatWasCutOffIsNotAheadOfARestoredHub(t *testing.T) {
	c := newCenter(t, withPush(PushNothing))
	populate(t, c, nil)
	d := openDevice(t, c.Store)
	d.mustSync(c)
	restored := c.backup()
	addUser(t, c.Store, "ada", "north")
	feed, err := c.Hello(t.Context(), edgeID, d.Hello(), now)
	must(t, err)
	b, err := feed.Next(t.Context(), 1<<20)
	must(t, err)
	withoutMark := b.Messages[:len(b.Messages)-1]
	d.receive(append([]Message{feed.Welcome}, withoutMark...)...)
	feed.Close()
	d.mustSync(restored)
	wantSame(t, restored.Store, d.Store)
}

func TestAFirstCopyGoesOnInItsEraAlone(t *testing.T) {
	for _, anew := range []bool{false, true} {
		testCopyOfLostEra(t, anew)
	}
}

// testCopyOfLostEra makes a first copy from a hub that is then restored. anew says that the copy
// has begun anew before, because something was changed at the edge.
func testCopyOfLostEra(t *testing.T, anew bool) {
	c := newCenter(t, withPush(PushNothing))
	populate(t, c, nil)
	d := openDevice(t, c.Store)
	feed := d.hello(c)
	restored := c.backup()
	addUser(t, c.Store, "ada", "north") // which the copy has, although it began before
	for len(d.lists(record.TableUsers)) == 0 {
		b, err := feed.Next(t.Context(), 1<<20)
		must(t, err)
		d.receive(b.Messages...)
		d.receive(Forget{record.TableDeadUsers, edgeID[:]}) // so that the edge writes what it has
	}
	if anew {
		must(t, d.Store.DisableUser(t.Context(), userID(t, c.Store, "user0")))
		for refused := false; !refused; {
			b, err := feed.Next(t.Context(), 1<<20)
			must(t, err)
			refused = d.Receive(t.Context(), b.Messages, now) != nil
		}
	}
	feed.Close()
	d.restart()
	d.mustSync(restored)
	if anew {
		must(t, restored.RefuseClaim(t.Context(), restored.theClaim()))
		d.mustSync(restored)
	}
	wantSame(t, restored.Store, d.Store)
}

func TestAHubHearsOfADeletionAgainWhenItSendsTheRecordAlive(t *testing.T) {
	c := newCenter(t, withPush(PushAll))
	user := addUser(t, c.Store, "ada", "north")
	alive := copyOf(t, c.Store, record.TableUsers, user[:])
	d := openDevice(t, c.Store)
	d.mustSync(c)
	must(t, d.Store.DeleteUser(t.Context(), user))
	d.pushes()
	d.receive(Record{Copy: *alive})
	wantWords(t, d.pushes(), "record deadusers")
	// A refusal is no change that was made here.
	d.receive(Record{Copy: *alive}, Replace{Copy: *alive})
	wantUsers(t, d.Store, "ada")
}

func TestAHubHearsAgainOfADeletionThatItHasLost(t *testing.T) {
	for _, table := range []string{record.TableUsers, record.TableKeys} {
		c := newCenter(t, Policy{Groups: []string{"north"}, Push: PushAll})
		user := addUser(t, c.Store, "ada", "north")
		key, _ := addKey(t, c.Store, user, "laptop")
		d := openDevice(t, c.Store)
		d.mustSync(c)
		restored := c.backup()
		must(t, c.SetUserGroup(t.Context(), user, "south"))
		must(t, restored.SetUserGroup(t.Context(), user, "south"))
		if table == record.TableUsers {
			must(t, d.Store.DeleteUser(t.Context(), user))
		} else {
			must(t, d.Store.DeleteKey(t.Context(), user, key))
		}
		d.mustSync(c)
		c.theClaim()
		d.mustSync(restored) // which has the record in no group of the edge, so no sum differs
		must(t, restored.RefuseClaim(t.Context(), restored.theClaim()))
		d.mustSync(restored)
		if dead := slices.Concat(d.lists(record.TableDeadUsers), d.lists(record.TableDeadKeys)); len(dead) != 0 {
			t.Errorf("the edge has %d tombstones", len(dead))
		}
	}
}
