package torture

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/memory"
	"github.com/latchkeydb/latchkey/internal/record"
)

// Stores of one domain make changes while they are apart, and exchange records in random order,
// with cuts and repetitions. In the end they must have the same records, byte by byte: those that
// the reference below makes of every version of every record that there ever was. On the way, no
// store may let in what it knows to be revoked.

// reference is what stores of a domain have that know everything. Its merging is the one of package
// record, which merge_test.go checks. The rest of it is this page: deletion wins, and a deleted
// user takes the keys along.
type reference struct {
	users     map[uuid.UUID]record.User
	keys      map[uuid.UUID]record.Key
	groups    map[string]record.Group
	deadUsers map[uuid.UUID]record.UserTombstone
	deadKeys  map[uuid.UUID]record.KeyTombstone
}

func newReference() *reference {
	return &reference{
		map[uuid.UUID]record.User{}, map[uuid.UUID]record.Key{}, map[string]record.Group{},
		map[uuid.UUID]record.UserTombstone{}, map[uuid.UUID]record.KeyTombstone{},
	}
}

// add adds a version of a record. All versions are kept apart by their tables until the end.
func (r *reference) add(c record.Copy) error {
	message, err := record.Open(c.Table, c.Key, c.Sealed)
	if err != nil {
		return err
	}
	id, _ := uuid.FromBytes(c.Key)
	switch c.Table {
	case record.TableUsers:
		v, err := record.DecodeUser(id, message)
		if was, ok := r.users[id]; ok {
			v = was.Merge(v)
		}
		r.users[id] = v
		return err
	case record.TableKeys:
		v, err := record.DecodeKey(id, message)
		if was, ok := r.keys[id]; ok && err == nil {
			v, err = was.Merge(v)
		}
		r.keys[id] = v
		return err
	case record.TableGroups:
		v, err := record.DecodeGroup(string(c.Key), message)
		if was, ok := r.groups[v.Name]; ok {
			v = was.Merge(v)
		}
		r.groups[v.Name] = v
		return err
	case record.TableDeadUsers:
		v, err := record.DecodeUserTombstone(id, message)
		if was, ok := r.deadUsers[id]; ok {
			v = was.Merge(v)
		}
		r.deadUsers[id] = v
		return err
	case record.TableDeadKeys:
		v, err := record.DecodeKeyTombstone(id, message)
		if was, ok := r.deadKeys[id]; ok && err == nil {
			v, err = was.Merge(v)
		}
		r.deadKeys[id] = v
		return err
	}
	return fmt.Errorf("a record of table %s", c.Table)
}

// records returns what is left in the end, by table and key.
func (r *reference) records() map[string]string {
	all := map[string]string{}
	put := func(table string, key, message []byte) {
		all[fmt.Sprintf("%s/%x", table, key)] = string(record.Seal(table, key, message))
	}
	for id, u := range r.users {
		if d, dead := r.deadUsers[id]; dead {
			r.deadUsers[id] = d.Merge(u.Tombstone())
		} else {
			put(record.TableUsers, id[:], u.Encode())
		}
	}
	for id, k := range r.keys {
		d, dead := r.deadKeys[id]
		if _, orphan := r.deadUsers[k.Owner]; !dead && orphan {
			d, dead = k.Tombstone(), true
		}
		if dead {
			r.deadKeys[id], _ = d.Merge(k.Tombstone())
		} else {
			put(record.TableKeys, id[:], k.Encode())
		}
	}
	for id, d := range r.deadUsers {
		put(record.TableDeadUsers, id[:], d.Encode())
	}
	for id, d := range r.deadKeys {
		put(record.TableDeadKeys, id[:], d.Encode())
	}
	for name, g := range r.groups {
		put(record.TableGroups, []byte(name), g.Encode())
	}
	return all
}

// known is what a store knows of a record, or what is known of it in a copy.
type known struct {
	seen, cancelled map[int]bool    // disablings, by their numbers
	ended           map[string]bool // tokens that a rotation without overlap has ended
	tokens          map[string]bool // tokens of the key
	deleted         bool
}

func newKnown() *known {
	return &known{map[int]bool{}, map[int]bool{}, map[string]bool{}, map[string]bool{}, false}
}

func (k *known) add(other *known) {
	maps.Copy(k.seen, other.seen)
	maps.Copy(k.cancelled, other.cancelled)
	maps.Copy(k.ended, other.ended)
	maps.Copy(k.tokens, other.tokens)
	k.deleted = k.deleted || other.deleted
}

func (k *known) clone() *known {
	c := newKnown()
	c.add(k)
	return c
}

// isDisabled reports whether there is a disabling that no enabling has seen.
func (k *known) isDisabled() bool {
	for event := range k.seen {
		if !k.cancelled[event] {
			return true
		}
	}
	return false
}

// site is one of the stores, with what it knows.
type site struct {
	*latchkey.Store
	known   map[string]*known // by the name of the user, key or group
	cursors map[*site]latchkey.RecordCursor
	heard   latchkey.RecordCursor // how far the reference has read
}

// of returns what a site knows of a user, a key or a group.
func (s *site) of(name string) *known {
	if s.known[name] == nil {
		s.known[name] = newKnown()
	}
	return s.known[name]
}

// message is a copy of a record on its way.
type message struct {
	latchkey.ReplicaRecord
	name  string
	known *known
}

// nameOf returns the name under which sites know the record of a copy.
func nameOf(c record.Copy) string {
	if c.Table == record.TableGroups {
		return "group " + string(c.Key)
	}
	return uuid.UUID(c.Key).String()
}

// domain are the stores of a domain.
type domain struct {
	*rapid.T
	ctx    context.Context
	sites  []*site
	ref    *reference
	events int
	owners map[string]uuid.UUID // of tokens
	keys   map[string]uuid.UUID
	old    []message // which may be delivered again
}

func newDomain(t *rapid.T) *domain {
	d := &domain{T: t, ctx: context.Background(), ref: newReference(), owners: map[string]uuid.UUID{}, keys: map[string]uuid.UUID{}}
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range rapid.IntRange(2, 5).Draw(t, "stores") {
		opts := &latchkey.Options{Cost: latchkey.LightCost, Now: func() time.Time { return now }, TestClock: true}
		opts.InsecureRand = rand.NewChaCha8([32]byte{byte(i), byte(rapid.IntRange(0, 255).Draw(t, "secrets"))})
		if i > 0 {
			opts.Domain = d.sites[0].DomainSecrets()
		}
		s, err := memory.Open(opts)
		if err != nil {
			t.Fatal(err)
		}
		d.sites = append(d.sites, &site{Store: s, known: map[string]*known{}, cursors: map[*site]latchkey.RecordCursor{}})
		d.hear(d.sites[i]) // from now on the store knows that it is not alone
	}
	return d
}

func (d *domain) close() {
	for _, s := range d.sites {
		for finding := range s.Check(d.ctx) {
			d.Errorf("Check: %v", finding)
		}
		if err := s.Close(); err != nil {
			d.Error(err)
		}
	}
}

func (d *domain) site(name string) *site { return rapid.SampledFrom(d.sites).Draw(d.T, name) }

func (d *domain) text(name string) string {
	return rapid.SampledFrom([]string{"a", "b", "c"}).Draw(d.T, name)
}

// hear adds what has changed at a site to the reference.
func (d *domain) hear(s *site) {
	for r, err := range s.Records(d.ctx, s.heard) {
		if err == nil {
			err = d.ref.add(d.copyOf(r))
		}
		if err != nil {
			d.Fatal(err)
		}
		s.heard = r.Cursor()
	}
}

func (d *domain) copyOf(r latchkey.ReplicaRecord) record.Copy {
	c, err := record.DecodeCopy(r.Export())
	if err != nil {
		d.Fatal(err)
	}
	return c
}

// allowed are the errors of calls that come too late, or find something taken.
var allowed = []error{
	latchkey.ErrUserNotFound, latchkey.ErrKeyNotFound, latchkey.ErrKeyNameTaken, latchkey.ErrIdentityTaken, latchkey.ErrIdentityNotFound,
	latchkey.ErrLastIdentity, latchkey.ErrUserHasKeys, latchkey.ErrTooManyKeys, latchkey.ErrAnonymousUser, latchkey.ErrInvalidRotation,
	latchkey.ErrIdentityConflict,
}

// change makes one change at one store.
func (d *domain) change() {
	s := d.site("store")
	var users []latchkey.User
	for u, err := range s.Users(d.ctx, uuid.Nil) {
		if err != nil {
			d.Fatal(err)
		}
		users = append(users, u)
	}
	var keys []latchkey.Key
	for k, err := range s.AllKeys(d.ctx, latchkey.KeyFilter{}, uuid.Nil) {
		if err != nil {
			d.Fatal(err)
		}
		keys = append(keys, k)
	}
	identity := func() latchkey.Identity {
		return latchkey.Identity{Provider: latchkey.ProviderLocalUserpass, Subject: d.text("subject")}
	}
	what := rapid.SampledFrom([]string{
		"create user", "create user", "create key", "create key", "create server key", "rename", "scopes", "disable key", "disable key", "enable key",
		"disable user", "enable user", "disable group", "enable group", "group", "link", "unlink", "rotate", "rotate at once", "delete key", "delete user",
	}).Draw(d.T, "change")
	var u latchkey.User
	var k latchkey.Key
	if len(users) > 0 {
		u = rapid.SampledFrom(users).Draw(d.T, "user")
	}
	if len(keys) > 0 {
		k = rapid.SampledFrom(keys).Draw(d.T, "key")
	}
	var err error
	disable := func(name string, err error) error {
		if err == nil {
			d.events++
			s.of(name).seen[d.events] = true
		}
		return err
	}
	enable := func(name string, err error) error {
		if err == nil {
			maps.Copy(s.of(name).cancelled, s.of(name).seen)
		}
		return err
	}
	made := func(k latchkey.Key, token string, err error) error {
		if err == nil {
			d.owners[token], d.keys[token] = k.Owner, k.ID
			s.of(k.ID.String()).tokens[token] = true
		}
		return err
	}
	rotate := func(r latchkey.Rotation) error {
		var token string
		if k.Owner == latchkey.ServerOwner {
			k, token, err = s.RotateServerKey(d.ctx, k.ID, r)
		} else {
			k, token, err = s.RotateKey(d.ctx, k.Owner, k.ID, r)
		}
		if err == nil && r.Overlap == 0 {
			maps.Copy(s.of(k.ID.String()).ended, s.of(k.ID.String()).tokens)
		}
		return made(k, token, err)
	}
	switch what {
	case "create user":
		_, err = s.CreateUser(d.ctx, latchkey.UserSpec{Identity: identity(), Group: d.text("group")})
	case "create key":
		err = made(s.CreateKey(d.ctx, u.ID, latchkey.KeySpec{Name: d.text("name")}))
	case "create server key":
		err = made(s.CreateServerKey(d.ctx, latchkey.KeySpec{Name: d.text("name"), Group: d.text("group")}))
	case "rename":
		err = s.RenameKey(d.ctx, k.Owner, k.ID, d.text("name"))
	case "scopes":
		err = s.SetScopes(d.ctx, k.Owner, k.ID, latchkey.NewScopes(d.text("scope")))
	case "disable key":
		err = disable(k.ID.String(), s.DisableKey(d.ctx, k.Owner, k.ID))
	case "enable key":
		err = enable(k.ID.String(), s.EnableKey(d.ctx, k.Owner, k.ID))
	case "disable user":
		err = disable(u.ID.String(), s.DisableUser(d.ctx, u.ID))
	case "enable user":
		err = enable(u.ID.String(), s.EnableUser(d.ctx, u.ID))
	case "disable group":
		name := d.text("group")
		err = disable("group "+name, s.DisableGroup(d.ctx, name))
	case "enable group":
		name := d.text("group")
		err = enable("group "+name, s.EnableGroup(d.ctx, name))
	case "group":
		if k.Owner == latchkey.ServerOwner {
			err = s.SetKeyGroup(d.ctx, k.ID, d.text("group"))
		} else {
			err = s.SetUserGroup(d.ctx, u.ID, d.text("group"))
		}
	case "link":
		_, err = s.LinkIdentity(d.ctx, u.ID, identity())
	case "unlink":
		_, err = s.UnlinkIdentity(d.ctx, u.ID, identity())
	case "rotate":
		err = rotate(latchkey.Rotation{Overlap: time.Hour})
	case "rotate at once":
		err = rotate(latchkey.Rotation{})
	case "delete key":
		if err = s.DeleteKey(d.ctx, k.Owner, k.ID); err == nil {
			s.of(k.ID.String()).deleted = true
		}
	case "delete user":
		if err = s.DeleteUser(d.ctx, u.ID); err == nil {
			s.of(u.ID.String()).deleted = true
		}
	}
	if err != nil && !slices.ContainsFunc(allowed, func(a error) bool { return errors.Is(err, a) }) {
		d.Fatalf("%s: %v", what, err)
	}
	d.hear(s)
	d.checkSite(s)
}

// exchange delivers what has changed at one store to another: all of it, or the first part.
func (d *domain) exchange(from, to *site, disturbed bool) (merged int) {
	var messages []message
	for r, err := range from.Records(d.ctx, to.cursors[from]) {
		if err != nil {
			d.Fatal(err)
		}
		name := nameOf(d.copyOf(r))
		messages = append(messages, message{r, name, from.of(name).clone()})
	}
	if disturbed && len(messages) > 0 {
		messages = messages[:rapid.IntRange(0, len(messages)).Draw(d.T, "cut")]
	}
	if len(messages) == 0 {
		return 0
	}
	to.cursors[from] = messages[len(messages)-1].Cursor()
	d.old = append(d.old, messages...)
	if disturbed {
		for range rapid.IntRange(0, 3).Draw(d.T, "again") {
			messages = append(messages, rapid.SampledFrom(d.old).Draw(d.T, "old"))
		}
		r := rand.New(rand.NewPCG(1, rapid.Uint64().Draw(d.T, "order")))
		r.Shuffle(len(messages), func(i, j int) { messages[i], messages[j] = messages[j], messages[i] })
	}
	d.deliver(to, messages)
	return len(messages)
}

func (d *domain) deliver(to *site, messages []message) {
	var records []latchkey.ReplicaRecord
	for _, m := range messages {
		r, err := latchkey.ParseReplicaRecord(m.Export())
		if err != nil {
			d.Fatal(err)
		}
		records = append(records, r)
	}
	refused, err := to.Merge(d.ctx, records)
	if err != nil || len(refused) > 0 {
		d.Fatalf("merging: %v, %v", refused, err)
	}
	for _, m := range messages {
		to.of(m.name).add(m.known)
	}
	d.hear(to)
	d.checkSite(to)
}

// checkSite compares what a store says with what it knows, and tries every token.
func (d *domain) checkSite(s *site) {
	for u, err := range s.Users(d.ctx, uuid.Nil) {
		if err != nil || u.Disabled != s.of(u.ID.String()).isDisabled() || s.of(u.ID.String()).deleted {
			d.Fatalf("user %+v, %v, and what is known of it: %+v", u, err, s.of(u.ID.String()))
		}
	}
	for k, err := range s.AllKeys(d.ctx, latchkey.KeyFilter{}, uuid.Nil) {
		at := s.of(k.ID.String())
		if err != nil || k.Disabled != at.isDisabled() || at.deleted || k.Owner != latchkey.ServerOwner && s.of(k.Owner.String()).deleted {
			d.Fatalf("key %+v, %v, and what is known of it: %+v", k, err, at)
		}
	}
	for _, token := range slices.Sorted(maps.Keys(d.keys)) {
		key, owner := s.of(d.keys[token].String()), s.of(d.owners[token].String())
		who, err := s.Login(d.ctx, token)
		switch {
		case err != nil:
			continue
		case key.deleted, owner.deleted, key.isDisabled(), owner.isDisabled(), key.ended[token], s.of("group " + who.Group).isDisabled():
			d.Fatalf("%+v logs in, and what is known of the key: %+v, the owner: %+v, the group: %+v", who, key, owner, s.of("group "+who.Group))
		}
		if k, err := s.KeyByID(d.ctx, who.KeyID); err != nil || k.Name != who.KeyName {
			d.Fatalf("the key %q logs in as %q, %v", k.Name, who.KeyName, err)
		}
		if who.Identity.Subject != "" {
			if u, err := s.UserByIdentity(d.ctx, who.Identity); err != nil || u.ID != who.UserID {
				d.Fatalf("user %s logs in as %+v, which belongs to %s, %v", who.UserID, who.Identity, u.ID, err)
			}
		}
	}
}

// content returns the records of a store that travel, by table and key.
func (d *domain) content(s *site) map[string]string {
	all := map[string]string{}
	for r, err := range s.Records(d.ctx, latchkey.RecordCursor{}) {
		if err != nil {
			d.Fatal(err)
		}
		c := d.copyOf(r)
		all[fmt.Sprintf("%s/%x", c.Table, c.Key)] = string(c.Sealed)
	}
	return all
}

func TestStoresThatExchangeTheirRecordsAgreeInTheEnd(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := newDomain(t)
		defer d.close()
		for range rapid.IntRange(5, 60).Draw(t, "steps") {
			if rapid.IntRange(0, 2).Draw(t, "exchange") > 0 {
				d.change()
			} else if from, to := d.site("from"), d.site("to"); from != to {
				d.exchange(from, to, true)
			}
		}
		// Without faults, each store has everything when it has heard of every other store, and of
		// the tombstones that the others have made of what they heard.
		rounds := 0
		for merged := 1; merged > 0; rounds++ {
			merged = 0
			for _, from := range d.sites {
				for _, to := range d.sites {
					if from != to {
						merged += d.exchange(from, to, false)
					}
				}
			}
			if rounds > 2*len(d.sites) {
				t.Fatalf("the stores still have news after %d rounds", rounds)
			}
		}
		want := d.ref.records()
		for i, s := range d.sites {
			got := d.content(s)
			for _, at := range slices.Sorted(maps.Keys(want)) {
				if got[at] != want[at] {
					t.Errorf("store %d has %x of %s, want %x", i, got[at], at, want[at])
				}
				delete(got, at)
			}
			if len(got) > 0 {
				t.Errorf("store %d also has %v", i, slices.Collect(maps.Keys(got)))
			}
		}
	})
}
