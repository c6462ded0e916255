package replicas_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/record"
	"github.com/latchkeydb/latchkey/replica"
)

// This program is a hub or an edge. It reads orders from its standard input, one a line, and writes
// an answer to each of them to its standard output. It ends when its input does.

// An order says what the program has to do.
type order struct {
	Do string `json:"do"`

	// For open.
	Hub         bool          `json:"hub,omitempty"`
	Path        string        `json:"path,omitempty"`
	Certificate string        `json:"certificate,omitempty"` // the path of a PEM file
	URL         string        `json:"url,omitempty"`
	Invitation  string        `json:"invitation,omitempty"` // for an edge that has to join
	Name        string        `json:"name,omitempty"`
	Strict      bool          `json:"strict,omitempty"`
	Offset      time.Duration `json:"offset,omitempty"` // of the clock

	Policy *replica.Policy `json:"policy,omitempty"`
	User   uuid.UUID       `json:"user,omitzero"`
	Key    uuid.UUID       `json:"key,omitzero"`
	Group  string          `json:"group,omitempty"`
	Token  string          `json:"token,omitempty"`
	File   string          `json:"file,omitempty"`
}

// An answer is what came of an order. Outcome is "ok", or the name or the text of an error.
type answer struct {
	Outcome string         `json:"outcome"`
	Text    string         `json:"text,omitempty"` // an address or an invitation
	ID      uuid.UUID      `json:"id,omitzero"`
	Token   string         `json:"token,omitempty"`
	Status  replica.Status `json:"status,omitzero"`
	// Records has a short hash of each record that travels, by its table and key. Groups has the
	// group of each that has one.
	Records map[string]string `json:"records,omitempty"`
	Groups  map[string]string `json:"groups,omitempty"`
}

// programVariable is an environment variable. If it is set, the test binary runs the program and no
// tests.
const programVariable = "LATCHKEY_REPLICAS_PROGRAM"

type program struct {
	offset atomic.Int64 // of the clock
	store  *latchkey.Store
	hub    *replica.Hub
	edge   *replica.Edge

	unfollow func()     // ends Follow, and waits for its end
	followed chan error // what Follow has returned, when it was not asked to end
}

func runProgram() error {
	p := &program{unfollow: func() {}, followed: make(chan error, 1)}
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var o order
		if err := in.Decode(&o); err != nil {
			return nil // the test is over
		}
		a, err := p.do(context.Background(), o)
		a.Outcome = outcome(err)
		if err := out.Encode(a); err != nil {
			return err
		}
	}
}

// now is the clock of the device.
func (p *program) now() time.Time { return time.Now().Add(time.Duration(p.offset.Load())) }

// quickCost is the lowest cost that a store accepts.
var quickCost = latchkey.Cost{Memory: 8, Passes: 1, Lanes: 1}

func (p *program) do(ctx context.Context, o order) (a answer, err error) {
	switch o.Do {
	case "open":
		p.offset.Store(int64(o.Offset))
		opts := latchkey.Options{Cost: quickCost, Now: p.now}
		if o.Hub {
			a.Text, err = p.openHub(o, &opts)
		} else {
			err = p.openEdge(ctx, o, opts)
		}
	case "clock":
		p.offset.Store(int64(o.Offset))
	case "follow":
		p.unfollow()
		p.follow()
	case "status":
		a.Status = p.edge.Status()
		select {
		case err = <-p.followed:
			err = fmt.Errorf("Follow has ended: %w", err)
		default:
		}
	case "records":
		a.Records, a.Groups, err = p.records(ctx)
	case "check":
		for finding := range p.store.Check(ctx) {
			err = errors.Join(err, finding)
		}
	case "backup":
		var b bytes.Buffer
		if err = p.store.Backup(ctx, &b); err == nil {
			err = os.WriteFile(o.File, b.Bytes(), 0o600)
		}
	case "invite":
		a.Text, err = p.hub.Invite(ctx, *o.Policy)
	case "confirm":
		var claims []replica.Claim
		claims, err = p.hub.Claims(ctx)
		for _, c := range claims {
			if e := p.hub.ConfirmClaim(ctx, c.Number); !errors.Is(e, replica.ErrClaimNotFound) {
				err = errors.Join(err, e)
			}
		}
	case "login":
		_, err = p.store.Login(ctx, o.Token)
	case "create user":
		var u latchkey.User
		u, err = p.store.CreateUser(ctx, latchkey.UserSpec{Group: o.Group, Identity: latchkey.Identity{
			Provider: latchkey.ProviderLocalUserpass, Subject: o.Name,
		}})
		a.ID = u.ID
	case "create key":
		var k latchkey.Key
		k, a.Token, err = p.store.CreateKey(ctx, o.User, latchkey.KeySpec{Name: o.Name})
		a.ID = k.ID
	case "rotate key":
		_, a.Token, err = p.store.RotateKey(ctx, o.User, o.Key, latchkey.Rotation{})
	case "disable key":
		err = p.store.DisableKey(ctx, o.User, o.Key)
	case "enable key":
		err = p.store.EnableKey(ctx, o.User, o.Key)
	case "delete key":
		err = p.store.DeleteKey(ctx, o.User, o.Key)
	case "disable user":
		err = p.store.DisableUser(ctx, o.User)
	case "delete user":
		err = p.store.DeleteUser(ctx, o.User)
	default:
		err = fmt.Errorf("unknown order %q", o.Do)
	}
	return a, err
}

// openHub opens the store and serves the hub over TLS. It returns the address.
func (p *program) openHub(o order, opts *latchkey.Options) (address string, err error) {
	pair, err := tls.LoadX509KeyPair(o.Certificate, o.Certificate)
	if err != nil {
		return "", err
	}
	if p.store, err = latchkey.Open(o.Path, opts); err != nil {
		return "", err
	}
	p.hub = replica.NewHub(p.store, &replica.HubOptions{Certificate: pair.Leaf})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	server := &http.Server{Handler: p.hub, TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}}}
	go func() { _ = server.ServeTLS(l, "", "") }() // until the process ends
	return l.Addr().String(), nil
}

// openEdge joins or opens the edge, and follows the hub.
func (p *program) openEdge(ctx context.Context, o order, store latchkey.Options) (err error) {
	opts := &replica.Options{Store: store, Name: o.Name}
	if o.Strict {
		opts.Staleness = replica.Strict(90 * time.Second)
	}
	if o.Invitation != "" {
		p.edge, err = replica.Join(ctx, o.URL, o.Invitation, o.Path, opts)
	} else {
		p.edge, err = replica.Open(o.Path, opts)
	}
	if err != nil {
		return err
	}
	p.store = p.edge.Store()
	p.follow()
	return nil
}

func (p *program) follow() {
	ctx, end := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := p.edge.Follow(ctx); ctx.Err() == nil {
			p.followed <- err
		}
	}()
	p.unfollow = func() { end(); <-done }
}

// records returns a hash of each record that travels, and the groups of those that have one.
func (p *program) records(ctx context.Context) (records, groups map[string]string, err error) {
	records, groups = map[string]string{}, map[string]string{}
	owners := map[string]uuid.UUID{} // of keys
	for r, err := range p.store.Records(ctx, latchkey.RecordCursor{}) {
		if err != nil {
			return nil, nil, err
		}
		c, err := record.DecodeCopy(r.Export())
		if err != nil {
			return nil, nil, err
		}
		name := recordName(c.Table, c.Key)
		sum := sha256.Sum256(c.Sealed)
		records[name] = hex.EncodeToString(sum[:8])
		switch c.Table {
		case record.TableGroups:
			groups[name] = string(c.Key)
		case record.TableUsers:
			u, err := record.Unseal(c.Table, c.Key, c.Sealed, record.DecodeUser)
			if err != nil {
				return nil, nil, err
			}
			groups[name] = u.Groups.Now()
		case record.TableKeys:
			k, err := record.Unseal(c.Table, c.Key, c.Sealed, record.DecodeKey)
			if err != nil {
				return nil, nil, err
			}
			groups[name], owners[name] = k.Groups.Now(), k.Owner
		}
	}
	for name, owner := range owners { // a user's key is in the group of the user
		if g := groups[recordName(record.TableUsers, owner[:])]; g != "" {
			groups[name] = g
		}
	}
	return records, groups, nil
}

func recordName(table string, key []byte) string { return table + "/" + hex.EncodeToString(key) }

// outcomes has a name for every error after which the test can go on.
var outcomes = []struct {
	err  error
	name string
}{
	{latchkey.ErrInvalidToken, "invalid token"},
	{latchkey.ErrKeyDisabled, "disabled"},
	{latchkey.ErrUserDisabled, "disabled"},
	{latchkey.ErrStale, "stale"},
	{latchkey.ErrNotPermitted, "not permitted"},
	{latchkey.ErrKeyNotFound, "not found"},
	{latchkey.ErrUserNotFound, "not found"},
	{latchkey.ErrKeyDeleted, "not found"},
	{latchkey.ErrTooManyKeys, "too many keys"},
}

func outcome(err error) string {
	if err == nil {
		return "ok"
	}
	for _, o := range outcomes {
		if errors.Is(err, o.err) {
			return o.name
		}
	}
	return err.Error()
}
