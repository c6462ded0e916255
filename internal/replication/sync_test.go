package replication

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/access"
	"github.com/latchkeydb/latchkey/internal/memory"
	"github.com/latchkeydb/latchkey/internal/merge"
	"github.com/latchkeydb/latchkey/internal/record"
)

// A center is a hub with its store.
type center struct {
	*latchkey.Store
	*Hub
	t      testing.TB
	engine latchkey.Engine
}

var edgeID = uuid.UUID{0xed, 15: 1}

// openCenter opens a hub on an engine.
func openCenter(t testing.TB, engine latchkey.Engine) *center {
	t.Helper()
	s, err := latchkey.OpenWith(engine, &latchkey.Options{Cost: latchkey.LightCost})
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	h, err := OpenHub(context.Background(), access.Of(s), HubOptions{Random: rand.Reader})
	must(t, err)
	return &center{s, h, t, engine}
}

// newCenter opens a new hub, with one edge.
func newCenter(t testing.TB, p Policy) *center {
	t.Helper()
	c := openCenter(t, memory.NewEngine())
	must(t, c.AddEdge(t.Context(), edgeID, "till", p, now))
	return c
}

// backup returns a hub that has what c has now.
func (c *center) backup() *center {
	c.t.Helper()
	return openCenter(c.t, memory.CopyEngine(c.engine))
}

// carried returns messages as they arrive over a network.
func carried(t testing.TB, messages []Message) (all []Message) {
	t.Helper()
	var b []byte
	for _, m := range messages {
		b = AppendMessage(b, m)
	}
	r := stream(b)
	for range messages {
		m, err := ReadMessage(r)
		must(t, err)
		all = append(all, m)
	}
	return all
}

// hello begins a feed, and takes its Welcome.
func (d *device) hello(c *center) *Feed {
	d.t.Helper()
	feed, err := c.Hello(d.t.Context(), edgeID, d.Hello(), now)
	must(d.t, err)
	d.receive(feed.Welcome)
	return feed
}

// sync brings hub and edge to agree. It ends with the first error of the edge.
func (d *device) sync(c *center) error {
	for range 20 {
		again, err := d.syncOnce(c)
		if err != nil || !again {
			return err
		}
	}
	return errors.New("hub and edge do not come to an end")
}

func (d *device) syncOnce(c *center) (again bool, err error) {
	ctx := d.t.Context()
	hello, err := DecodeHello(d.Hello().Encode())
	must(d.t, err)
	feed, err := c.Hello(ctx, edgeID, hello, now)
	must(d.t, err)
	defer feed.Close()
	if err := d.Receive(ctx, carried(d.t, []Message{feed.Welcome}), now); err != nil {
		return false, err
	}
	s, err := d.Status(ctx)
	must(d.t, err)
	if s.Compare {
		if err := d.compareWith(c); err != nil {
			return false, err
		}
		_, err := d.pushTo(c, false)
		return true, err
	}
	for {
		b, err := feed.Next(ctx, 1000)
		must(d.t, err)
		if err := d.Receive(ctx, carried(d.t, b.Messages), now); err != nil {
			return false, err
		}
		if b.End {
			return true, nil
		}
		if !b.More {
			break
		}
	}
	return d.pushTo(c, true)
}

func (d *device) compareWith(c *center) error {
	ctx := d.t.Context()
	request, err := d.Compare(ctx)
	if err != nil {
		return err
	}
	for next := &request; next != nil; {
		asked, err := DecodeCompareRequest(next.Encode())
		must(d.t, err)
		reply, err := c.Compare(ctx, edgeID, asked)
		must(d.t, err)
		reply, err = DecodeCompareReply(reply.Encode())
		must(d.t, err)
		if next, err = d.Compared(ctx, *next, reply, now); err != nil {
			return err
		}
	}
	return nil
}

// pushTo pushes what is pending. again reports whether there was something.
func (d *device) pushTo(c *center, ack bool) (again bool, err error) {
	ctx := d.t.Context()
	for range 100 {
		request, p, err := d.Pending(ctx, 1000)
		if err != nil || request.IsEmpty() && !ack {
			return again, err
		}
		ack = false
		request, err = DecodePushRequest(request.Encode())
		must(d.t, err)
		reply, err := c.Push(ctx, edgeID, request, now)
		must(d.t, err)
		if err := d.Pushed(ctx, p, reply); err != nil {
			return again, err
		}
		if reply.Policy != 0 {
			return true, nil // a stream comes first
		}
		again = again || !request.IsEmpty()
	}
	return again, errors.New("pushes do not come to an end")
}

func (d *device) mustSync(c *center) {
	d.t.Helper()
	must(d.t, d.sync(c))
}

// A story is something that happens to a hub and an edge. It returns the hub to go on with.
type story struct {
	name   string
	policy Policy
	before func(t *testing.T, c *center, d *device) // hub and edge agree then
	after  func(t *testing.T, c *center, d *device) *center
	check  func(t *testing.T, c *center, d *device)
}

func userID(t testing.TB, s *latchkey.Store, name string) uuid.UUID {
	t.Helper()
	u, err := s.UserByIdentity(t.Context(), latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: name})
	must(t, err)
	return u.ID
}

func populate(t *testing.T, c *center, _ *device) {
	t.Helper()
	for i, group := range []string{"north", "north", "south", ""} {
		user := addUser(t, c.Store, fmt.Sprint("user", i), group)
		addKey(t, c.Store, user, "laptop")
		addKey(t, c.Store, user, "phone")
	}
}

func wantDisabled(t testing.TB, s *latchkey.Store, user uuid.UUID, want bool) {
	t.Helper()
	if u, err := s.User(t.Context(), user); err != nil || u.Disabled != want {
		t.Errorf("disabled is %t, %v, want %t", u.Disabled, err, want)
	}
}

var north = Policy{Groups: []string{"north"}, Push: PushAll}

var stories = []story{
	{
		name: "a first copy", policy: allOfIt,
		after: func(t *testing.T, c *center, d *device) *center { populate(t, c, d); return c },
	}, {
		name: "changes at both", policy: allOfIt, before: populate,
		after: func(t *testing.T, c *center, d *device) *center {
			must(t, c.DeleteUser(t.Context(), userID(t, c.Store, "user0")))
			must(t, c.DisableUser(t.Context(), userID(t, c.Store, "user1")))
			must(t, d.DisableUser(t.Context(), userID(t, d.Store, "user2")))
			must(t, d.DeleteUser(t.Context(), userID(t, d.Store, "user3")))
			addKey(t, d.Store, userID(t, d.Store, "user1"), "tablet")
			addUser(t, d.Store, "user4", "west")
			return c
		},
		check: func(t *testing.T, c *center, d *device) {
			wantDisabled(t, c.Store, userID(t, c.Store, "user2"), true)
			wantDisabled(t, d.Store, userID(t, d.Store, "user1"), true)
		},
	}, {
		name: "one user changes at both", policy: allOfIt, before: populate,
		after: func(t *testing.T, c *center, d *device) *center {
			user := userID(t, c.Store, "user0")
			must(t, c.DisableUser(t.Context(), user))
			must(t, d.DisableUser(t.Context(), user))
			must(t, c.EnableUser(t.Context(), user))
			return c
		},
		check: func(t *testing.T, c *center, d *device) {
			wantDisabled(t, c.Store, userID(t, c.Store, "user0"), true)
		},
	}, {
		name: "a user moves into a group of the edge, and another one out of it", policy: north, before: populate,
		after: func(t *testing.T, c *center, d *device) *center {
			must(t, c.SetUserGroup(t.Context(), userID(t, c.Store, "user2"), "north"))
			must(t, c.SetUserGroup(t.Context(), userID(t, c.Store, "user0"), "south"))
			return c
		},
		check: func(t *testing.T, c *center, d *device) { wantUsers(t, d.Store, "user1", "user2") },
	}, {
		name: "the edge gets another group", policy: north, before: populate,
		after: func(t *testing.T, c *center, d *device) *center {
			must(t, d.DisableUser(t.Context(), userID(t, d.Store, "user0")))
			must(t, c.SetPolicy(t.Context(), edgeID, []string{"south"}, PushAll))
			return c
		},
		check: func(t *testing.T, c *center, d *device) { wantUsers(t, d.Store, "user2") },
	}, {
		name: "the hub is restored from a backup, and the edge may push nothing", policy: withPush(PushNothing), before: populate,
		after: func(t *testing.T, c *center, d *device) *center {
			restored := c.backup()
			must(t, c.DisableUser(t.Context(), userID(t, c.Store, "user0")))
			must(t, c.DeleteUser(t.Context(), userID(t, c.Store, "user1")))
			addUser(t, c.Store, "user5", "north")
			d.mustSync(c)
			addUser(t, restored.Store, "user6", "north")
			return restored
		},
		check: func(t *testing.T, c *center, d *device) {
			wantDisabled(t, c.Store, userID(t, c.Store, "user0"), true)
			wantUsers(t, c.Store, "user0", "user2", "user3", "user6")
		},
	}, {
		name: "the hub is restored from a backup, and the edge may push everything", policy: allOfIt, before: populate,
		after: func(t *testing.T, c *center, d *device) *center {
			restored := c.backup()
			must(t, c.DisableUser(t.Context(), userID(t, c.Store, "user0")))
			must(t, c.DeleteUser(t.Context(), userID(t, c.Store, "user1")))
			addUser(t, c.Store, "user5", "north")
			d.mustSync(c)
			must(t, d.DisableUser(t.Context(), userID(t, d.Store, "user3")))
			return restored
		},
		check: func(t *testing.T, c *center, d *device) {
			wantDisabled(t, c.Store, userID(t, c.Store, "user0"), true)
			wantDisabled(t, c.Store, userID(t, c.Store, "user3"), true)
			wantUsers(t, c.Store, "user0", "user2", "user3", "user5")
		},
	}, {
		name:   "the hub is restored from a backup, and a user has come into a group of the edge since",
		policy: Policy{Groups: []string{"north"}}, before: populate,
		after: func(t *testing.T, c *center, d *device) *center {
			restored := c.backup()
			user := userID(t, c.Store, "user2")
			must(t, c.SetUserGroup(t.Context(), user, "north"))
			must(t, c.DisableUser(t.Context(), user))
			d.mustSync(c)
			return restored
		},
		check: func(t *testing.T, c *center, d *device) {
			wantDisabled(t, c.Store, userID(t, c.Store, "user2"), true)
			wantUsers(t, d.Store, "user0", "user1", "user2")
		},
	}, {
		name:   "the hub is restored from a backup, and a user has left the groups of the edge since",
		policy: Policy{Groups: []string{"north"}}, before: populate,
		after: func(t *testing.T, c *center, d *device) *center {
			must(t, c.DisableUser(t.Context(), userID(t, c.Store, "user0")))
			d.mustSync(c)
			restored := c.backup()
			must(t, restored.SetUserGroup(t.Context(), userID(t, c.Store, "user0"), "south"))
			addUser(t, c.Store, "user5", "north")
			d.mustSync(c)
			return restored
		},
		check: func(t *testing.T, c *center, d *device) {
			wantDisabled(t, c.Store, userID(t, c.Store, "user0"), true)
			wantUsers(t, d.Store, "user1")
			all := 0
			must(t, access.Of(d.Store).View(t.Context(), func(t *merge.Tables) error {
				return scanLocal(t, edgeSigned, func(_, _ []byte) error { all++; return nil })
			}))
			if all != 0 {
				t.Errorf("the edge keeps %d signed copies of what it has forgotten", all)
			}
		},
	},
}

func wantUsers(t testing.TB, s *latchkey.Store, want ...string) {
	t.Helper()
	var got []string
	for u, err := range s.Users(t.Context(), uuid.Nil) {
		must(t, err)
		got = append(got, u.Identities[0].Subject)
	}
	slices.Sort(got)
	wantWords(t, got, want...)
}

// told opens a hub and an edge, and lets a story happen to them.
func (s story) told(t *testing.T) (*center, *device) {
	t.Helper()
	c := newCenter(t, s.policy)
	d := openDevice(t, c.Store)
	if s.before != nil {
		s.before(t, c, d)
		d.mustSync(c)
	}
	return s.after(t, c, d), d
}

// wantAgreement fails the test unless hub and edge agree.
func (s story) wantAgreement(t *testing.T, c *center, d *device) {
	t.Helper()
	if slices.Equal(s.policy.Groups, allOfIt.Groups) {
		live := func(s *latchkey.Store) map[string]string {
			all := contents(t, s)
			for name := range all {
				if name[:4] == "dead" { // a tombstone of what the other one never had
					delete(all, name)
				}
			}
			return all
		}
		if ours, theirs := live(c.Store), live(d.Store); fmt.Sprint(ours) != fmt.Sprint(theirs) {
			t.Error("hub and edge differ")
		}
	}
	if s.check != nil {
		s.check(t, c, d)
	}
	if state, err := d.Status(t.Context()); err != nil || state.Pending > 0 || state.Compare || state.Copying || state.Skipped != nil || state.Refused != "" {
		t.Errorf("the status is %+v, %v", state, err)
	}
	before := d.faulty.calls
	d.mustSync(c)
	if n := d.faulty.calls - before; n > 2 {
		t.Errorf("another synchronisation writes %d times", n)
	}
}

func TestHubAndEdgeComeToAgree(t *testing.T) {
	for _, s := range stories {
		t.Run(s.name, func(t *testing.T) {
			c, d := s.told(t)
			d.mustSync(c)
			s.wantAgreement(t, c, d)
		})
	}
}

func TestAPowerCutAtAnyMomentLosesNothing(t *testing.T) {
	for _, s := range stories {
		t.Run(s.name, func(t *testing.T) {
			for cut := 0; ; cut++ {
				faults := 0
				for _, commit := range []bool{false, true} {
					c, d := s.told(t)
					d.faulty.left, d.faulty.commit = cut, commit
					switch err := d.sync(c); {
					case err == nil:
					case errors.Is(err, errFault):
						faults++
						d.restart()
						d.mustSync(c)
					default:
						t.Fatalf("cut %d: %v", cut, err)
					}
					d.faulty.left = -1
					s.wantAgreement(t, c, d)
					if t.Failed() {
						t.Fatalf("after a cut in transaction %d, committed: %t", cut, commit)
					}
				}
				if faults == 0 {
					if cut < 2 {
						t.Errorf("there were %d transactions to cut", cut)
					}
					return
				}
			}
		})
	}
}

func TestAClaimCanBeConfirmedAndRefused(t *testing.T) {
	for _, confirm := range []bool{false, true} {
		c := newCenter(t, withPush(PushNothing))
		populate(t, c, nil)
		d := openDevice(t, c.Store)
		d.mustSync(c)
		user := userID(t, c.Store, "user0")
		must(t, d.DisableUser(t.Context(), user))
		d.mustSync(c)
		wantDisabled(t, c.Store, user, false)
		wantDisabled(t, d.Store, user, true)
		claims, err := c.Claims(t.Context())
		must(t, err)
		if len(claims) != 1 || claims[0].Copy.Table != record.TableUsers {
			t.Fatalf("the claims are %+v", claims)
		}
		if confirm {
			must(t, c.ConfirmClaim(t.Context(), claims[0].Number))
		} else {
			must(t, c.RefuseClaim(t.Context(), claims[0].Number))
		}
		d.mustSync(c)
		wantDisabled(t, c.Store, user, confirm)
		wantDisabled(t, d.Store, user, confirm)
		wantSame(t, c.Store, d.Store)
	}
}

func TestADigestTellsWhetherEdgesHaveTheSame(t *testing.T) {
	c := newCenter(t, allOfIt)
	populate(t, c, nil)
	a, b := openDevice(t, c.Store), openDevice(t, c.Store)
	a.mustSync(c)
	digest := func(d *device) [16]byte {
		sum, err := d.Digest(t.Context())
		must(t, err)
		return sum
	}
	if digest(a) == digest(b) || digest(a) == [16]byte{} {
		t.Error("an edge without anything has the same digest")
	}
	b.mustSync(c)
	if digest(a) != digest(b) {
		t.Error("two edges that have the same have different digests")
	}
	must(t, a.DisableUser(t.Context(), userID(t, a.Store, "user0")))
	if digest(a) == digest(b) {
		t.Error("a change does not change the digest")
	}
}

func TestARestoredHubLearnsOfADeletionOfWhatItNeverHad(t *testing.T) {
	c := newCenter(t, withPush(PushAll))
	populate(t, c, nil)
	knows, lacks := openDevice(t, c.Store), openDevice(t, c.Store)
	lacks.mustSync(c)
	restored := c.backup()
	user := addUser(t, c.Store, "user5", "north") // after the backup
	lacks.mustSync(c)
	must(t, c.DeleteUser(t.Context(), user))
	knows.mustSync(c)
	knows.mustSync(restored) // nothing of the user is in a sum of either
	lacks.mustSync(restored)
	for _, s := range []*latchkey.Store{restored.Store, knows.Store, lacks.Store} {
		wantUsers(t, s, "user0", "user1", "user2", "user3")
	}
}

func TestAComparisonEndsWhereTheHubStood(t *testing.T) {
	c := newCenter(t, allOfIt)
	populate(t, c, nil)
	d := openDevice(t, c.Store)
	d.mustSync(c)
	must(t, c.SetPolicy(t.Context(), edgeID, []string{"north"}, PushAll))
	feed := d.hello(c)
	defer feed.Close()
	must(t, d.compareWith(c))
	s, err := d.Status(t.Context())
	must(t, err)
	if s.Compare || s.Cursor.Policy != feed.Welcome.Policy.Version || s.Cursor.At.Sequence == 0 {
		t.Errorf("the status is %+v", s)
	}
	wantUsers(t, d.Store, "user0", "user1")
}

func TestARestoredHubGetsARevocationThatAFirstCopyBrought(t *testing.T) {
	for name, until := range map[string]string{"in the copy": record.TableIdentities, "behind the copy": ""} {
		t.Run(name, func(t *testing.T) {
			c := newCenter(t, withPush(PushNothing))
			populate(t, c, nil)
			d := openDevice(t, c.Store)
			feed := d.hello(c)
			user := userID(t, c.Store, "user0")
			addUser(t, c.Store, "user5", "")
			backup := c.backup()
			for copying := true; copying; {
				b, err := feed.Next(t.Context(), 1000)
				must(t, err)
				d.receive(b.Messages...)
				at := b.Messages[len(b.Messages)-1].(Mark).At
				if at.Copying == record.TableUsers && at.CopyKey == nil { // the users come next
					must(t, c.DisableUser(t.Context(), user))
				}
				copying = at.Copying != until
			}
			must(t, d.writeCopied(t.Context(), nil))
			if until == "" {
				b, err := feed.Next(t.Context(), 1) // a Mark of before the disabling
				must(t, err)
				d.receive(b.Messages...)
				if !b.More {
					t.Error("the Mark is behind the disabling")
				}
			}
			feed.Close()
			d.mustSync(backup)
			wantDisabled(t, backup.Store, user, true)
			wantSame(t, backup.Store, d.Store)
		})
	}
}

func TestTheKeysOfAUserWhoLeavesDuringAFirstCopyAreForgotten(t *testing.T) {
	for name, anew := range map[string]bool{"the copy goes on": false, "the copy begins anew": true} {
		t.Run(name, func(t *testing.T) {
			c := newCenter(t, Policy{Groups: []string{"south"}, Push: PushAll})
			ada := addUser(t, c.Store, "ada", "south")
			lost, _ := addKey(t, c.Store, ada, "phone")
			addKey(t, c.Store, ada, "laptop")
			d := openDevice(t, c.Store)
			feed := d.hello(c)
			for copying := ""; copying != record.TableIdentities; { // the names come later
				b, err := feed.Next(t.Context(), 1000)
				must(t, err)
				d.receive(b.Messages...)
				copying = b.Messages[len(b.Messages)-1].(Mark).At.Copying
			}
			must(t, d.writeCopied(t.Context(), nil))
			feed.Close()
			must(t, c.SetUserGroup(t.Context(), ada, "north"))
			must(t, c.DeleteKey(t.Context(), ada, lost))
			if anew {
				addUser(t, d.Store, "frank", "south")
				if err := d.sync(c); !errors.Is(err, merge.ErrInvalid) {
					t.Fatalf("the copy goes on: %v", err)
				}
			}
			d.mustSync(c)
			for at := range contents(t, d.Store) {
				if strings.HasPrefix(at, record.TableKeys) || strings.HasPrefix(at, record.TableNames) {
					t.Errorf("the edge still has %s", at)
				}
			}
		})
	}
}

func TestAComparisonForAnotherReasonBringsNoSignedCopies(t *testing.T) {
	c := newCenter(t, withPush(PushNothing))
	populate(t, c, nil)
	must(t, c.DisableUser(t.Context(), userID(t, c.Store, "user0")))
	d := openDevice(t, c.Store)
	d.mustSync(c)
	h, err := OpenHub(t.Context(), access.Of(c.Store), HubOptions{Random: rand.Reader})
	must(t, err)
	c.Hub = h
	must(t, c.SetPolicy(t.Context(), edgeID, []string{"north", "south"}, PushNothing))
	if again, err := d.syncOnce(c); err != nil || !again {
		t.Fatalf("the policy: %t, %v", again, err)
	}
	if r, _, err := d.Pending(t.Context(), 1000); err != nil || len(r.Signed) > 0 {
		t.Errorf("the edge brings %d signed copies, %v", len(r.Signed), err)
	}
	d.mustSync(c)
	wantUsers(t, d.Store, "user0", "user1", "user2")
}
