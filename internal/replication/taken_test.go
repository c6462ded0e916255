package replication

import (
	"testing"
)

func TestWhatAHubTookBeforeItWasRestoredComesAgain(t *testing.T) {
	for _, push := range []Push{PushNothing, PushAll} {
		c := newCenter(t, withPush(push))
		populate(t, c, nil)
		d := openDevice(t, c.Store)
		d.mustSync(c)
		backup := c.backup()
		user := userID(t, c.Store, "user0")
		must(t, d.Store.DisableUser(t.Context(), user))
		if _, err := d.pushTo(c, false); err != nil {
			t.Fatal(err)
		}
		// The edge has heard nothing since, so its cursor is one that the backup has.
		d.mustSync(backup)
		claims, err := backup.Claims(t.Context())
		must(t, err)
		if push == PushAll {
			wantDisabled(t, backup.Store, user, true)
		} else if len(claims) != 1 {
			t.Errorf("the claims are %v", claims)
		}
	}
}

func TestAHubTakesNothingOffTheListOfAnEdgeThatDoesNotKnowItsEra(t *testing.T) {
	c := newCenter(t, withPush(PushAll))
	populate(t, c, nil)
	d := openDevice(t, c.Store)
	d.mustSync(c)
	backup := c.backup()
	first, second := userID(t, c.Store, "user0"), userID(t, c.Store, "user1")
	must(t, d.Store.DisableUser(t.Context(), first))
	if _, err := d.pushTo(c, false); err != nil {
		t.Fatal(err)
	}
	must(t, d.Store.DisableUser(t.Context(), second))
	if _, err := d.pushTo(backup, false); err != nil { // without a stream before
		t.Fatal(err)
	}
	wantDisabled(t, backup.Store, second, false)
	d.mustSync(backup)
	wantDisabled(t, backup.Store, first, true)
	wantDisabled(t, backup.Store, second, true)
}
