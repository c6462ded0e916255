package record_test

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/record"
)

func TestEachChangeOfAKeyHasAWord(t *testing.T) {
	replica := uuid.New()
	secret := record.Verifier{ID: record.VerifierID{1}, PHC: "phc"}
	key := record.Key{ID: uuid.New(), Verifiers: record.Verifiers{}.Add(secret)}
	disabled := key
	disabled.Flag = key.Flag.Disable(record.NewWriter())
	for _, tt := range []struct {
		want   string
		from   record.Key
		change func(k *record.Key, at record.Stamp)
	}{
		{"renamed", key, func(k *record.Key, at record.Stamp) { k.Name = record.Register[string]{Value: "laptop", Stamp: at} }},
		{"disabled", key, func(k *record.Key, _ record.Stamp) { k.Flag = k.Flag.Disable(record.NewWriter()) }},
		{"disabled", disabled, func(k *record.Key, _ record.Stamp) { k.Flag = k.Flag.Disable(record.NewWriter()) }},
		{"enabled", disabled, func(k *record.Key, _ record.Stamp) { k.Flag = k.Flag.Enable() }},
		{"enabled", disabled, func(k *record.Key, _ record.Stamp) { k.Flag = k.Flag.EnableAlone() }},
		{"rotated", key, func(k *record.Key, _ record.Stamp) {
			k.Verifiers = k.Verifiers.Add(secret.Next(record.VerifierID{2}, "phc")).Retire(secret.ID)
		}},
		{"token-ended", key, func(k *record.Key, _ record.Stamp) { k.Verifiers = k.Verifiers.Retire(secret.ID) }},
		{"token-ended", key, func(k *record.Key, _ record.Stamp) { k.Verifiers = k.Verifiers.EndAt(secret.ID, time.Unix(1, 0)) }},
		{"expiry", key, func(k *record.Key, at record.Stamp) {
			k.Expires = record.Register[time.Time]{Value: time.Unix(1, 0), Stamp: at}
		}},
		{"scopes", key, func(k *record.Key, at record.Stamp) {
			k.Scopes = record.Register[[]string]{Value: []string{"files:read"}, Stamp: at}
		}},
		{"networks", key, func(k *record.Key, at record.Stamp) {
			k.Networks = record.Register[[]netip.Prefix]{Value: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, Stamp: at}
		}},
		{"metadata", key, func(k *record.Key, at record.Stamp) {
			k.Metadata = record.Register[record.Metadata]{Value: record.Metadata{"seat": "4"}, Stamp: at}
		}},
		{"group", key, func(k *record.Key, at record.Stamp) { k.Groups = k.Groups.Set("north", at) }},
		{"changed", key, func(k *record.Key, _ record.Stamp) { k.Foreign = true }},
	} {
		after := tt.from
		tt.change(&after, after.Next(replica))
		d, err := record.KeyDifference(after.ID[:], tt.from.Encode(), after.Encode())
		if want := []string{"key." + tt.want}; err != nil || !slices.Equal(d.Actions, want) {
			t.Errorf("got %q, %v, want %q", d.Actions, err, want)
		}
	}
}

func TestEachChangeOfAUserOrAGroupHasAWord(t *testing.T) {
	ada := record.Identity{Provider: "local-userpass", Subject: "ada"}
	user := record.User{ID: uuid.New()}
	ada.Stamp = user.Next(uuid.New())
	user = user.SetIdentity(ada)
	at := user.Next(uuid.New())
	for want, change := range map[string]func(u *record.User){
		"identity-linked": func(u *record.User) {
			*u = u.SetIdentity(record.Identity{Provider: "local-userpass", Subject: "byron", Stamp: at})
		},
		"identity-unlinked": func(u *record.User) {
			*u = u.SetIdentity(record.Identity{Provider: "local-userpass", Subject: "ada", Stamp: at, Unlinked: true})
		},
		"disabled": func(u *record.User) { u.Flag = u.Flag.Disable(record.NewWriter()) },
		"group":    func(u *record.User) { u.Groups = u.Groups.Set("north", at) },
		"metadata": func(u *record.User) {
			u.Metadata = record.Register[record.Metadata]{Value: record.Metadata{"seat": "4"}, Stamp: at}
		},
		"changed": func(u *record.User) { u.Created = time.UnixMilli(1) },
	} {
		after := user
		change(&after)
		d, err := record.UserDifference(user.ID[:], user.Encode(), after.Encode())
		if want := []string{"user." + want}; err != nil || !slices.Equal(d.Actions, want) {
			t.Errorf("got %q, %v, want %q", d.Actions, err, want)
		}
	}
	group := record.Group{Name: "north"}
	disabled := record.Group{Name: "north", Flag: group.Flag.Disable(record.NewWriter())}
	for want, pair := range map[string][2]record.Group{"disabled": {group, disabled}, "enabled": {disabled, group}, "changed": {group, group}} {
		d, err := record.GroupDifference([]byte("north"), pair[0].Encode(), pair[1].Encode())
		if want := []string{"group." + want}; err != nil || !slices.Equal(d.Actions, want) {
			t.Errorf("got %q, %v, want %q", d.Actions, err, want)
		}
	}
}
