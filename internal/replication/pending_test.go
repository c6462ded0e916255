package replication

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/access"
	"github.com/latchkeydb/latchkey/internal/merge"
	"github.com/latchkeydb/latchkey/internal/record"
)

func TestAnEdgePermitsWhatItMayPush(t *testing.T) {
	for _, tt := range []struct {
		name string
		call func(d *device, user, key uuid.UUID) error
		// allowed is the least that permits the call, or above PushAll for nothing.
		allowed Push
		// claimed is what the edge pushes below allowed, if the call is permitted all the same.
		claimed string
	}{
		{"disabling a user", func(d *device, user, _ uuid.UUID) error { return d.DisableUser(d.t.Context(), user) }, PushRevocations, "claim users"},
		{"disabling a key", func(d *device, user, key uuid.UUID) error { return d.DisableKey(d.t.Context(), user, key) }, PushRevocations, "claim keys"},
		{"disabling a group", func(d *device, _, _ uuid.UUID) error { return d.DisableGroup(d.t.Context(), "north") }, PushRevocations, "claim groups"},
		{"deleting a user", func(d *device, user, _ uuid.UUID) error { return d.DeleteUser(d.t.Context(), user) }, PushAll, ""},
		{"deleting a key", func(d *device, user, key uuid.UUID) error { return d.DeleteKey(d.t.Context(), user, key) }, PushAll, ""},
		{"enabling a disabled key", func(d *device, user, _ uuid.UUID) error {
			keys, err := d.Keys(d.t.Context(), user)
			if err != nil {
				return err
			}
			i := slices.IndexFunc(keys, func(k latchkey.Key) bool { return k.Disabled })
			return d.EnableKey(d.t.Context(), user, keys[i].ID)
		}, PushAll, ""},
		{"making a key", func(d *device, user, _ uuid.UUID) error {
			_, _, err := d.CreateKey(d.t.Context(), user, latchkey.KeySpec{Name: "phone"})
			return err
		}, PushAll, ""},
		{"setting an expiry", func(d *device, user, key uuid.UUID) error {
			return d.SetExpiry(d.t.Context(), user, key, time.Now().Add(time.Hour))
		}, PushAll, ""},
		{"moving a user", func(d *device, user, _ uuid.UUID) error { return d.SetUserGroup(d.t.Context(), user, "south") }, PushAll + 1, ""},
		{"adding a tag secret", func(d *device, _, _ uuid.UUID) error { _, err := d.AddTagSecret(d.t.Context()); return err }, PushAll + 1, ""},
		{"resetting the clock", func(d *device, _, _ uuid.UUID) error { return d.ResetClock(d.t.Context()) }, PushAll + 1, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			hub := openSource(t)
			ada := addUser(t, hub.Store, "ada", "north")
			key, _ := addKey(t, hub.Store, ada, "laptop")
			old, _ := addKey(t, hub.Store, ada, "old")
			must(t, hub.DisableKey(t.Context(), ada, old))
			for push := PushNothing; push <= PushAll; push++ {
				d := openDevice(t, hub.Store)
				d.receive(hub.welcome(withPush(push)))
				d.receive(hub.records()...)
				err := tt.call(d, ada, key)
				got := d.pushes()
				switch {
				case push >= tt.allowed:
					if err != nil || len(got) == 0 || slices.ContainsFunc(got, isClaim) {
						t.Errorf("with %d: %v, pushed %q", push, err, got)
					}
				case tt.claimed != "":
					if err != nil || !slices.Equal(got, []string{tt.claimed}) {
						t.Errorf("with %d: %v, pushed %q", push, err, got)
					}
				default:
					if !errors.Is(err, ErrNotPermitted) || len(got) > 0 {
						t.Errorf("with %d: %v, pushed %q", push, err, got)
					}
					wantSame(t, hub.Store, d.Store)
				}
			}
		})
	}
}

func isClaim(s string) bool { return s[:5] == "claim" }

func TestAnEdgeChangesNothingOutsideItsGroups(t *testing.T) {
	hub := openSource(t)
	ada := addUser(t, hub.Store, "ada", "south")
	d := openDevice(t, hub.Store)
	d.receive(hub.welcome(Policy{Groups: []string{"north"}, Push: PushAll, Version: 1}))
	d.receive(hub.records()...) // before the hub had it forget the user
	for name, err := range map[string]error{
		"deleting a user": d.DeleteUser(t.Context(), ada),
		"making a key":    second(d.CreateKey(t.Context(), ada, latchkey.KeySpec{Name: "laptop"})),
		"making a user": first(d.CreateUser(t.Context(), latchkey.UserSpec{
			Identity: latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: "bob"}, Group: "south"})),
		"making a user without a group": first(d.CreateUser(t.Context(), latchkey.UserSpec{
			Identity: latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: "bob"}})),
		"enabling a group": errors.Join(d.DisableGroup(t.Context(), "south"), d.EnableGroup(t.Context(), "south")),
	} {
		if !errors.Is(err, ErrNotPermitted) {
			t.Errorf("%s: %v, want ErrNotPermitted", name, err)
		}
	}
	addUser(t, d.Store, "carol", "north")
	must(t, d.DisableUser(t.Context(), ada))
	wantWords(t, d.pushes(), "claim groups", "claim users", "record users")
}

func first[T any](_ T, err error) error          { return err }
func second[T, U any](_ T, _ U, err error) error { return err }

func TestAKeyWithReservedScopesStaysHere(t *testing.T) {
	hub := openSource(t)
	d := openDevice(t, hub.Store)
	d.receive(hub.welcome(withPush(PushNothing)))
	k, _, err := d.CreateServerKey(t.Context(), latchkey.KeySpec{Name: "page", Scopes: latchkey.NewScopes("latchkey:admin")})
	must(t, err)
	before, err := d.Digest(t.Context())
	must(t, err)
	must(t, d.DeleteKey(t.Context(), latchkey.ServerOwner, k.ID))
	after, err := d.Digest(t.Context())
	must(t, err)
	if before != after || before != [16]byte{} {
		t.Errorf("the digest is %x with the key and %x without", before, after)
	}
	wantWords(t, d.pushes())
}

func TestARecordThatChangesDuringAPushStaysPending(t *testing.T) {
	hub := openSource(t)
	ada := addUser(t, hub.Store, "ada", "")
	d := openDevice(t, hub.Store)
	d.receive(hub.welcome(allOfIt))
	d.receive(hub.records()...)
	must(t, d.DisableUser(t.Context(), ada))
	r, p, err := d.Pending(t.Context(), 1<<20)
	must(t, err)
	wantWords(t, inWords(r), "record users")
	must(t, d.EnableUser(t.Context(), ada))
	must(t, d.Pushed(t.Context(), p, PushReply{}))
	d.restart()
	wantWords(t, d.pushes(), "record users")
	d.restart()
	wantWords(t, d.pushes())
	if s, err := d.Status(t.Context()); err != nil || s.Pending != 0 {
		t.Errorf("%d records are pending, %v", s.Pending, err)
	}
}

func TestADeletedUserIsPushedAsATombstone(t *testing.T) {
	hub := openSource(t)
	ada := addUser(t, hub.Store, "ada", "")
	addKey(t, hub.Store, ada, "laptop")
	d := openDevice(t, hub.Store)
	d.receive(hub.welcome(allOfIt))
	d.receive(hub.records()...)
	must(t, d.DeleteUser(t.Context(), ada))
	wantWords(t, d.pushes(), "record deadkeys", "record deadusers")
}

func TestAChangeThatWasUndoneHereAltogetherIsNotPushed(t *testing.T) {
	hub := openSource(t)
	ada := addUser(t, hub.Store, "ada", "")
	d := openDevice(t, hub.Store)
	d.receive(hub.records()...)
	d.receive(hub.welcome(allOfIt))
	must(t, d.DisableUser(t.Context(), ada))
	must(t, access.Of(d.Store).Update(t.Context(), func(tables *merge.Tables) error { return tables.Forget(record.TableUsers, ada[:]) }))
	r, _, err := d.Pending(t.Context(), 1<<20)
	must(t, err)
	if s, err := d.Status(t.Context()); err != nil || s.Pending != 0 || !r.IsEmpty() {
		t.Errorf("%d records are pending, %v", s.Pending, err)
	}
}

func TestWhatAWiderPolicyPermittedBecomesAClaim(t *testing.T) {
	hub := openSource(t)
	ada := addUser(t, hub.Store, "ada", "north")
	d := openDevice(t, hub.Store)
	d.receive(hub.welcome(allOfIt))
	d.receive(hub.records()...)
	addKey(t, d.Store, ada, "laptop")
	must(t, d.DisableUser(t.Context(), ada))
	d.receive(NewPolicy{Policy{Groups: []string{AllGroups}, Push: PushRevocations, Version: 2}})
	r, _, err := d.Pending(t.Context(), 1<<20)
	must(t, err)
	wantWords(t, inWords(r), "claim keys", "record users")
	if r.Policy != 2 {
		t.Errorf("the push is under policy %d", r.Policy)
	}
	d.receive(NewPolicy{Policy{Groups: []string{"south"}, Push: PushAll, Version: 3}})
	r, _, err = d.Pending(t.Context(), 1<<20)
	must(t, err)
	wantWords(t, inWords(r), "claim keys", "claim users")
}

func TestWhatIsForgottenWhileItIsPendingBecomesAClaim(t *testing.T) {
	hub := openSource(t)
	ada := addUser(t, hub.Store, "ada", "north")
	key, _ := addKey(t, hub.Store, ada, "laptop")
	d := openDevice(t, hub.Store)
	d.receive(hub.welcome(allOfIt))
	d.receive(hub.records()...)
	must(t, d.DisableKey(t.Context(), ada, key))
	d.receive(Forget{record.TableUsers, ada[:]})
	d.restart()
	r, p, err := d.Pending(t.Context(), 1<<20)
	must(t, err)
	wantWords(t, inWords(r), "claim keys")
	k, err := record.Unseal(record.TableKeys, key[:], r.Claims[0].Sealed, record.DecodeKey)
	if err != nil || !k.Flag.IsDisabled() {
		t.Errorf("the claim is not that of a disabled key: %v", err)
	}
	must(t, d.Pushed(t.Context(), p, PushReply{}))
	wantWords(t, d.pushes())
}

// reply answers pushes as a hub that refuses some records, in any form.
func (d *device) reply(refuses func(record.Copy) bool) (taken []string) {
	d.t.Helper()
	for range 100 {
		r, p, err := d.Pending(d.t.Context(), 1<<20)
		must(d.t, err)
		if r.IsEmpty() {
			return taken
		}
		reply := PushReply{}
		if slices.ContainsFunc(r.Records, refuses) {
			reply.Refused = "no"
		} else {
			taken = append(taken, inWords(r)...)
		}
		must(d.t, d.Pushed(d.t.Context(), p, reply))
	}
	d.t.Error("pushes have no end")
	return taken
}

func TestARefusedRecordHoldsUpNoOtherAndBecomesAClaim(t *testing.T) {
	hub := openSource(t)
	d := openDevice(t, hub.Store)
	d.receive(hub.welcome(allOfIt))
	var users []uuid.UUID
	for i := range 5 {
		users = append(users, addUser(t, d.Store, fmt.Sprint("user", i), ""))
	}
	taken := d.reply(func(c record.Copy) bool { return uuid.UUID(c.Key) == users[2] })
	slices.Sort(taken)
	wantWords(t, taken, "claim users", "record users", "record users", "record users", "record users")
	if s, _ := d.Status(t.Context()); s.Pending != 0 {
		t.Errorf("%d records are pending", s.Pending)
	}
	must(t, d.DisableUser(t.Context(), users[2])) // which the hub may take
	wantWords(t, d.pushes(), "record users")
}

func TestARefusedClaimWaitsForAnotherPolicy(t *testing.T) {
	hub := openSource(t)
	ada := addUser(t, hub.Store, "ada", "")
	d := openDevice(t, hub.Store)
	d.receive(hub.welcome(withPush(PushNothing)))
	d.receive(hub.records()...)
	must(t, d.DisableUser(t.Context(), ada))
	r, p, err := d.Pending(t.Context(), 1<<20)
	must(t, err)
	wantWords(t, inWords(r), "claim users")
	must(t, d.Pushed(t.Context(), p, PushReply{Refused: "no"}))
	wantWords(t, d.pushes())
	if s, err := d.Status(t.Context()); err != nil || s.Pending != 1 {
		t.Errorf("%d records are pending, %v", s.Pending, err)
	}
	d.receive(NewPolicy{Policy{Groups: []string{AllGroups}, Version: 2}})
	wantWords(t, d.pushes(), "claim users")
}

func TestARecordThatWasRefusedIsPushedWhenItChanges(t *testing.T) {
	hub := openSource(t)
	d := openDevice(t, hub.Store)
	d.receive(hub.welcome(allOfIt))
	ada := addUser(t, d.Store, "ada", "")
	for _, want := range []string{"record users", "claim users"} {
		r, p, err := d.Pending(t.Context(), 1<<20)
		must(t, err)
		wantWords(t, inWords(r), want)
		must(t, d.Pushed(t.Context(), p, PushReply{Refused: "no"}))
	}
	wantWords(t, d.pushes())
	must(t, d.DisableUser(t.Context(), ada))
	wantWords(t, d.pushes(), "record users")
}

func TestWhatTheHubWantsIsPushedWithItsMAC(t *testing.T) {
	for push, want := range map[Push][]string{PushNothing: {"signed users"}, PushAll: {"record users", "signed users"}} {
		hub := openSource(t)
		ada := addUser(t, hub.Store, "ada", "")
		must(t, hub.DisableUser(t.Context(), ada))
		d := openDevice(t, hub.Store)
		d.receive(hub.welcome(withPush(push)))
		d.receive(hub.records()...)
		must(t, access.Of(d.Store).Update(t.Context(), func(tables *merge.Tables) error {
			return note(tables, record.TableUsers, ada[:], whatWanted)
		}))
		wantWords(t, d.pushes(), want...)
	}
}

func TestAPushUnderAnOldPolicyIsRepeated(t *testing.T) {
	hub := openSource(t)
	d := openDevice(t, hub.Store)
	d.receive(hub.welcome(allOfIt))
	addUser(t, d.Store, "ada", "")
	_, p, err := d.Pending(t.Context(), 1<<20)
	must(t, err)
	must(t, d.Pushed(t.Context(), p, PushReply{Refused: "an outdated policy", Policy: 2}))
	wantWords(t, d.pushes(), "record users")
}

func TestPushesAreBounded(t *testing.T) {
	hub := openSource(t)
	d := openDevice(t, hub.Store)
	d.receive(hub.welcome(allOfIt))
	for i := range 20 {
		addUser(t, d.Store, fmt.Sprint("user", i), "")
	}
	pushes, n := 0, 0
	for {
		r, p, err := d.Pending(t.Context(), 2000)
		must(t, err)
		if r.IsEmpty() {
			break
		}
		if size := len(r.Encode()); size > 4000 {
			t.Errorf("a push of %d bytes", size)
		}
		pushes, n = pushes+1, n+len(r.Records)
		must(t, d.Pushed(t.Context(), p, PushReply{}))
	}
	if pushes < 2 || n != 20 {
		t.Errorf("%d records in %d pushes", n, pushes)
	}
}

func TestARestoredHubGetsTheRevocationsThatItHadMade(t *testing.T) {
	hub := openSource(t)
	ada, bob := addUser(t, hub.Store, "ada", ""), addUser(t, hub.Store, "bob", "")
	d := openDevice(t, hub.Store)
	d.receive(hub.welcome(withPush(PushNothing)))
	before := *copyOf(t, hub.Store, record.TableUsers, ada[:])
	must(t, hub.DisableUser(t.Context(), ada))
	must(t, hub.DeleteUser(t.Context(), bob))
	d.receive(hub.records()...)

	w := hub.welcome(withPush(PushNothing))
	w.How = CompareFirst
	d.receive(w)
	wantWords(t, d.pushes()) // the hub is the one that it was
	w.At.Era = uuid.UUID{2}
	d.receive(w)
	d.receive(hub.signed(before)) // as the hub has the record now
	d.restart()
	r, p, err := d.Pending(t.Context(), 1) // one at a time
	must(t, err)
	var words []string
	for !r.IsEmpty() {
		for _, s := range r.Signed {
			if string(macOf(hub.secret, s.Copy)) != string(s.MAC) {
				t.Errorf("the MAC of %s is not that of the hub", s.Copy.Table)
			}
			if s.Copy.Table == record.TableUsers {
				u, err := record.Unseal(s.Copy.Table, s.Copy.Key, s.Copy.Sealed, record.DecodeUser)
				if err != nil || !u.Flag.IsDisabled() {
					t.Errorf("the signed copy lost its revocation: %v", err)
				}
			}
		}
		words = append(words, inWords(r)...)
		must(t, d.Pushed(t.Context(), p, PushReply{}))
		d.restart()
		r, p, err = d.Pending(t.Context(), 1)
		must(t, err)
	}
	slices.Sort(words)
	wantWords(t, words, "signed deadusers", "signed users")
}

func TestLastUsesArePushed(t *testing.T) {
	hub := openSource(t)
	ada := addUser(t, hub.Store, "ada", "")
	var tokens []string
	for i := range 3 {
		_, token := addKey(t, hub.Store, ada, fmt.Sprint("key", i))
		tokens = append(tokens, token)
	}
	for push, want := range []int{PushNothing: 0, PushUse: 3, PushRevocations: 3, PushAll: 3} {
		d := openDevice(t, hub.Store)
		d.receive(hub.welcome(withPush(Push(push))))
		d.receive(hub.records()...)
		for _, token := range tokens {
			wantLogin(t, d.Store, token, nil)
		}
		for _, err := range d.Store.LastUses(t.Context(), time.Time{}) { // writes them
			must(t, err)
		}
		n := 0
		for {
			r, p, err := d.Pending(t.Context(), 60)
			must(t, err)
			if r.IsEmpty() {
				break
			}
			if n += len(r.Uses); n > 10 {
				t.Fatal("uses have no end")
			}
			must(t, d.Pushed(t.Context(), p, PushReply{}))
		}
		if n != want {
			t.Errorf("with %d the edge has pushed %d uses, want %d", push, n, want)
		}
		d.restart()
		if used := d.now().used; (used > 0) != (want > 0) {
			t.Errorf("with %d the edge knows that the hub has the uses until minute %d", push, used)
		}
	}
}

func TestOwnersArePushedBeforeTheirKeys(t *testing.T) {
	hub := openSource(t)
	d := openDevice(t, hub.Store)
	d.receive(hub.welcome(withPush(PushAll)))
	addKey(t, d.Store, addUser(t, d.Store, "ada", ""), "laptop")
	r, _, err := d.Pending(t.Context(), 1) // no room for both
	must(t, err)
	wantWords(t, inWords(r), "record users")
}

func TestTheEndOfATokenByUseIsAClaimWithoutPermission(t *testing.T) {
	hub := openSource(t)
	user := addUser(t, hub.Store, "ada", "")
	key, _ := addKey(t, hub.Store, user, "laptop")
	_, token, err := hub.RotateKey(t.Context(), user, key, latchkey.Rotation{Overlap: time.Hour, UntilUsed: true})
	must(t, err)
	d := openDevice(t, hub.Store)
	d.receive(hub.welcome(withPush(PushNothing)))
	d.receive(hub.records()...)
	wantLogin(t, d.Store, token, nil)
	wantWords(t, d.pushes(), "claim keys")
}

func TestWhatAHubHasLostIsClaimedBesideItsSignedCopy(t *testing.T) {
	hub := openSource(t)
	user := addUser(t, hub.Store, "ada", "")
	must(t, hub.DisableUser(t.Context(), user))
	d := openDevice(t, hub.Store)
	d.receive(hub.welcome(withPush(PushNothing)), hub.signed(*copyOf(t, hub.Store, record.TableUsers, user[:])))
	must(t, d.DisableUser(t.Context(), user))
	wantWords(t, d.pushes(), "claim users")
	must(t, access.Of(d.Store).Update(t.Context(), func(tables *merge.Tables) error {
		return note(tables, record.TableUsers, user[:], whatWanted) // by a hub that was restored
	}))
	wantWords(t, d.pushes(), "claim users", "signed users")
}

func TestAWantedRecordThatIsRefusedBecomesAClaim(t *testing.T) {
	hub := openSource(t)
	d := openDevice(t, hub.Store)
	d.receive(hub.welcome(withPush(PushAll)))
	user := addUser(t, d.Store, "ada", "")
	d.pushes()
	must(t, access.Of(d.Store).Update(t.Context(), func(tables *merge.Tables) error {
		return note(tables, record.TableUsers, user[:], whatWanted)
	}))
	r, p, err := d.Pending(t.Context(), 1<<20)
	must(t, err)
	wantWords(t, inWords(r), "record users")
	must(t, d.Pushed(t.Context(), p, PushReply{Refused: "no"}))
	wantWords(t, d.pushes(), "claim users")
}

func TestSignedCopiesOfForgottenRecordsAreBroughtToARestoredHub(t *testing.T) {
	hub := openSource(t)
	user := addUser(t, hub.Store, "ada", "")
	key, _ := addKey(t, hub.Store, user, "laptop")
	must(t, hub.DisableKey(t.Context(), user, key))
	d := openDevice(t, hub.Store)
	d.receive(hub.welcome(withPush(PushNothing)))
	d.receive(hub.records()...)
	d.receive(hub.signed(*copyOf(t, hub.Store, record.TableKeys, key[:])))
	restored := hub.welcome(withPush(PushNothing))
	restored.How, restored.At.Incarnation = CompareFirst, uuid.New()
	d.receive(restored, Forget{record.TableUsers, user[:]})
	wantWords(t, d.pushes(), "signed keys", "signed users")
}

func TestAChangeOfARecordThatHasComeBackIsPushedBesideTheFormerOne(t *testing.T) {
	hub := openSource(t)
	ada := addUser(t, hub.Store, "ada", "")
	d := openDevice(t, hub.Store)
	d.receive(hub.welcome(withPush(PushRevocations)))
	d.receive(hub.records()...)
	must(t, d.DisableUser(t.Context(), ada))
	d.receive(Forget{record.TableUsers, ada[:]})
	d.receive(hub.records()...)
	must(t, d.DisableUser(t.Context(), ada)) // before the hub has heard of the former disabling
	wantWords(t, d.pushes(), "claim users", "record users")
}
