package record_test

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/record"
)

func TestTheNextStampIsHigherThanEveryStampInTheRecord(t *testing.T) {
	var k record.Key
	if got := k.Next(here); got != at(1, here) {
		t.Errorf("the first stamp of a key is %v", got)
	}
	for name, set := range map[string]func(*record.Key, record.Stamp){
		"name":     func(k *record.Key, s record.Stamp) { k.Name.Stamp = s },
		"expires":  func(k *record.Key, s record.Stamp) { k.Expires.Stamp = s },
		"scopes":   func(k *record.Key, s record.Stamp) { k.Scopes.Stamp = s },
		"networks": func(k *record.Key, s record.Stamp) { k.Networks.Stamp = s },
		"metadata": func(k *record.Key, s record.Stamp) { k.Metadata.Stamp = s },
		"groups":   func(k *record.Key, s record.Stamp) { k.Groups = k.Groups.Set("x", s) },
	} {
		k := fullKey()
		set(&k, at(77, there))
		if got := k.Next(here); got != at(78, here) {
			t.Errorf("%s: the next stamp after 77 is %v", name, got)
		}
	}
	for name, set := range map[string]func(*record.User, record.Stamp){
		"metadata":   func(u *record.User, s record.Stamp) { u.Metadata.Stamp = s },
		"groups":     func(u *record.User, s record.Stamp) { u.Groups = u.Groups.Set("x", s) },
		"identities": func(u *record.User, s record.Stamp) { u.Identities[0].Stamp = s },
		"dropped":    func(u *record.User, s record.Stamp) { u.Dropped = s },
	} {
		u := fullUser()
		set(&u, at(77, there))
		if got := u.Next(here); got != at(78, here) {
			t.Errorf("%s: the next stamp after 77 is %v", name, got)
		}
	}
	k.Name.Stamp.Counter = math.MaxUint64
	if got := k.Next(here); got.Counter != math.MaxUint64 {
		t.Errorf("the stamp after the last is %v", got)
	}
}

func TestOfTwoValuesOfAFieldTheOneWithTheHigherStampWins(t *testing.T) {
	type change func(k *record.Key, value int, s record.Stamp)
	for name, set := range map[string]change{
		"name": func(k *record.Key, value int, s record.Stamp) { k.Name = text(fmt.Sprint(value), s) },
		"expires": func(k *record.Key, value int, s record.Stamp) {
			k.Expires = record.Register[time.Time]{Value: time.Unix(int64(value), 0).UTC(), Stamp: s}
		},
		"scopes": func(k *record.Key, value int, s record.Stamp) {
			k.Scopes = record.Register[[]string]{Value: []string{fmt.Sprint(value)}, Stamp: s}
		},
		"networks": func(k *record.Key, value int, s record.Stamp) {
			n := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(value)}), 16)
			k.Networks = record.Register[[]netip.Prefix]{Value: []netip.Prefix{n}, Stamp: s}
		},
		"metadata": func(k *record.Key, value int, s record.Stamp) {
			k.Metadata = record.Register[record.Metadata]{Value: record.Metadata{"note": fmt.Sprint(value)}, Stamp: s}
		},
	} {
		for _, tt := range []struct {
			about         string
			lower, higher record.Stamp
		}{
			{"a higher counter", at(1, there), at(2, here)},
			{"a higher replica", at(2, here), at(2, there)},
			{"a field that was never set", record.Stamp{}, at(1, here)},
			{"equal stamps, so the greater value", at(2, here), at(2, here)},
		} {
			var a, b record.Key
			set(&a, 5, tt.lower)
			set(&b, 4, tt.higher)
			if tt.lower == tt.higher {
				set(&a, 3, tt.lower)
			}
			for _, order := range [][2]record.Key{{a, b}, {b, a}} {
				merged, err := order[0].Merge(order[1])
				must(t, err)
				if !reflect.DeepEqual(merged, b) {
					t.Errorf("%s: %s: got %+v, want %+v", name, tt.about, merged, b)
				}
			}
		}
	}
}

func TestAWriteSaysWhichValueOfAnotherReplicaItHasReplaced(t *testing.T) {
	var r record.Register[string]
	for i, tt := range []struct {
		by   uuid.UUID
		want uint64
	}{
		{here, 0}, {here, 0}, // nothing, and its own
		{there, 2}, {there, 2}, {there, 2}, // the second write here, and its own
		{here, 5},
	} {
		if r = r.Set("x", at(uint64(i+1), tt.by)); r.Replaces != tt.want || r.Stamp != at(uint64(i+1), tt.by) {
			t.Errorf("write %d replaces %d, want %d", i+1, r.Replaces, tt.want)
		}
	}
}

func TestTheWholeOfMetadataIsOneField(t *testing.T) {
	a, b := fullUser(), fullUser()
	a.Metadata = record.Register[record.Metadata]{Value: record.Metadata{"a": "1", "b": "1"}, Stamp: at(50, here)}
	b.Metadata = record.Register[record.Metadata]{Value: record.Metadata{"b": "2", "c": "2"}, Stamp: at(51, here)}
	if merged := a.Merge(b); !reflect.DeepEqual(merged.Metadata, b.Metadata) {
		t.Errorf("got %+v", merged.Metadata)
	}
}

func TestKeysOfDifferentOwnersDoNotMerge(t *testing.T) {
	a, b := fullKey(), fullKey()
	b.Owner = uuid.Max
	if _, err := a.Merge(b); !errors.Is(err, record.ErrDifferentOwner) {
		t.Errorf("keys: got %v", err)
	}
	if _, err := a.Tombstone().Merge(b.Tombstone()); !errors.Is(err, record.ErrDifferentOwner) {
		t.Errorf("tombstones: got %v", err)
	}
}

func TestOfTwoCreationTimesTheEarlierWinsAndForeignStays(t *testing.T) {
	a, b := fullKey(), fullKey()
	a.Created, a.Foreign = a.Created.Add(time.Second), false
	b.Foreign = true
	u, v := fullUser(), fullUser()
	u.Created = u.Created.Add(time.Second)
	for i, order := range [][2]record.Key{{a, b}, {b, a}} {
		merged, err := order[0].Merge(order[1])
		must(t, err)
		tombstone, err := order[0].Tombstone().Merge(order[1].Tombstone())
		must(t, err)
		if !merged.Created.Equal(b.Created) || !merged.Foreign || !tombstone.Foreign {
			t.Errorf("order %d: %+v, %+v", i, merged, tombstone)
		}
		if got := []record.User{u.Merge(v), v.Merge(u)}[i]; !got.Created.Equal(v.Created) {
			t.Errorf("order %d: the user was created %v", i, got.Created)
		}
	}
}

func TestARecordKeepsItsLastGroups(t *testing.T) {
	var groups record.Groups
	if groups.Now() != "" {
		t.Error("a record without groups is in one")
	}
	for i := range 20 {
		groups = groups.Set(fmt.Sprint(i), at(uint64(i+1), here))
	}
	if groups.Now() != "19" || len(groups) != 1+record.MaxPastGroups || groups[record.MaxPastGroups].Value != "11" {
		t.Errorf("%+v", groups)
	}
	// A record that goes back and forth keeps the groups before.
	for i := range 20 {
		groups = groups.Set(fmt.Sprint(18+i%2), at(uint64(i+100), here))
	}
	if groups.Now() != "19" || groups[1].Value != "18" || groups[record.MaxPastGroups].Value != "11" {
		t.Errorf("after going back and forth: %+v", groups)
	}
	a, b := record.User{}, record.User{}
	a.Groups, b.Groups = groups[:5], groups[3:]
	if merged := a.Merge(b); !reflect.DeepEqual(merged.Groups, groups) {
		t.Errorf("merged: %+v", merged.Groups)
	}
	key, user := fullKey(), fullUser()
	key.Groups, user.Groups = groups, groups
	if !reflect.DeepEqual(key.Tombstone().Groups, groups) || !reflect.DeepEqual(user.Tombstone().Groups, groups) {
		t.Error("a tombstone does not keep the groups")
	}
	// Of two moves under one stamp, the greater name is the present group.
	for _, names := range [][2]string{{"a", "b"}, {"b", "a"}} {
		if got := (record.Groups{}).Set(names[0], at(1, here)).Set(names[1], at(1, here)); got.Now() != "b" || len(got) != 2 {
			t.Errorf("%q: %+v", names, got)
		}
	}
}

func identity(subject string, s record.Stamp, unlinked bool) record.Identity {
	return record.Identity{Provider: "custom-token", Subject: subject, Stamp: s, Unlinked: unlinked}
}

func subjects(u record.User) (all []string) {
	for _, i := range u.Linked() {
		all = append(all, i.Subject)
	}
	return all
}

func TestAnIdentityIsLinkedOrUnlinkedByItsOwnStamp(t *testing.T) {
	start := record.User{ID: userID}.SetIdentity(identity("b", at(1, here), false)).SetIdentity(identity("a", at(2, here), false))
	if got := subjects(start); !reflect.DeepEqual(got, []string{"b", "a"}) {
		t.Errorf("in the order of linking: %q", got)
	}
	for _, tt := range []struct {
		about string
		a, b  record.Identity
		want  []string
	}{
		{"unlinked later", identity("a", at(3, here), false), identity("a", at(4, here), true), []string{"b"}},
		{"linked later", identity("a", at(5, here), false), identity("a", at(4, here), true), []string{"b", "a"}},
		{"at once", identity("a", at(4, here), false), identity("a", at(4, here), true), []string{"b"}},
		{"linked anew, so it comes last", identity("b", at(4, here), false), identity("b", at(3, here), true), []string{"a", "b"}},
		{"another one", identity("c", at(3, here), false), identity("a", at(3, there), true), []string{"b", "c"}},
	} {
		a, b := start.SetIdentity(tt.a), start.SetIdentity(tt.b)
		for _, merged := range []record.User{a.Merge(b), b.Merge(a)} {
			if got := subjects(merged); !reflect.DeepEqual(got, tt.want) {
				t.Errorf("%s: got %q, want %q", tt.about, got, tt.want)
			}
		}
	}
	other := record.Identity{Provider: "oauth2-google", Subject: "a", Stamp: at(9, here), Unlinked: true}
	if got := subjects(start.SetIdentity(other)); len(got) != 2 {
		t.Errorf("an identity of another provider is the same: %q", got)
	}
	unlinked := start.SetIdentity(identity("a", at(3, here), true))
	if forgotten := unlinked.Forget(); len(forgotten.Identities) != 1 || len(unlinked.Identities) != 2 {
		t.Errorf("forgotten: %+v", forgotten.Identities)
	}
}

func TestOfTooManyIdentitiesThoseWithTheLowestStampsGoForGood(t *testing.T) {
	u := record.User{ID: userID}
	first := u.SetIdentity(identity("first", u.Next(here), false))
	u = first
	for i := range record.MaxIdentities {
		u = u.SetIdentity(identity(fmt.Sprint(i), u.Next(here), i%2 == 0))
	}
	if len(u.Identities) != record.MaxIdentities || u.Dropped != at(1, here) {
		t.Errorf("%d identities, dropped %v", len(u.Identities), u.Dropped)
	}
	for _, merged := range []record.User{u.Merge(first), first.Merge(u)} {
		if !reflect.DeepEqual(merged, u) {
			t.Errorf("the first identity came back: %+v", merged.Linked())
		}
	}
	anew := first.SetIdentity(identity("first", at(1000, there), false))
	if merged := u.Merge(anew); merged.Dropped != at(2, here) || len(merged.Identities) != record.MaxIdentities {
		t.Errorf("linked anew: %d identities, dropped %v", len(merged.Identities), merged.Dropped)
	}
}

func TestChangingAUserLeavesTheOldOneAsItWas(t *testing.T) {
	u := fullUser()
	u.Identities = append(make([]record.Identity, 0, 10), u.Identities...) // with room for more
	_, _ = u.SetIdentity(record.Identity{Provider: "api-key", Subject: "x", Stamp: at(99, here)}), u.Forget()
	if !reflect.DeepEqual(u, fullUser()) {
		t.Errorf("the user is %+v now", u)
	}
}
