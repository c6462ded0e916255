package record_test

import (
	"bytes"
	"errors"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/record"
	"github.com/latchkeydb/latchkey/internal/vector"
)

// The test vectors in testdata/vectors, whose README says what is in them. A program in another
// language made them from docs/formats.md alone.

func unknown(b vector.Hex) record.Unknown {
	if len(b) == 0 {
		return nil
	}
	return record.Unknown(b)
}

// jsonRecord has the fields of all kinds of records.
type jsonRecord struct {
	CreatedMS  int64                         `json:"created_ms"`
	Owner      uuid.UUID                     `json:"owner"`
	Flag       jsonFlag                      `json:"flag"`
	Name       jsonRegister[string]          `json:"name"`
	Verifiers  jsonVerifiers                 `json:"verifiers"`
	Expires    jsonRegister[int64]           `json:"expires"`
	Scopes     jsonRegister[[]string]        `json:"scopes"`
	Networks   jsonRegister[[]netip.Prefix]  `json:"networks"`
	Metadata   jsonRegister[record.Metadata] `json:"metadata"`
	Groups     []jsonRegister[string]        `json:"groups"`
	Identities []jsonIdentity                `json:"identities"`
	Dropped    *jsonStamp                    `json:"dropped"`
	Foreign    bool                          `json:"foreign"`
	Unknown    vector.Hex                    `json:"unknown"`
	All        []jsonTag                     `json:"all"`
	Floor      uint64                        `json:"floor"`
}

type jsonStamp struct {
	Counter uint64    `json:"counter"`
	Replica uuid.UUID `json:"replica"`
}

func (s *jsonStamp) stamp() record.Stamp {
	if s == nil {
		return record.Stamp{}
	}
	return record.Stamp(*s)
}

type jsonRegister[T any] struct {
	Value    T          `json:"value"`
	Stamp    *jsonStamp `json:"stamp"`
	Replaces uint64     `json:"replaces"`
}

func (r jsonRegister[T]) register() record.Register[T] {
	return record.Register[T]{Value: r.Value, Stamp: r.Stamp.stamp(), Replaces: r.Replaces}
}

type jsonFlag struct {
	Writers []struct {
		Writer   vector.Hex `json:"writer"`
		Disabled uint64     `json:"disabled"`
		Enabled  uint64     `json:"enabled"`
	} `json:"writers"`
	Base   uint64 `json:"base"`
	Sealed bool   `json:"sealed"`
}

func (j jsonFlag) flag() record.Flag {
	f := record.Flag{Base: j.Base, Sealed: j.Sealed}
	for _, w := range j.Writers {
		f.Writers = append(f.Writers, record.WriterCount{Writer: record.Writer(w.Writer), Disabled: w.Disabled, Enabled: w.Enabled})
	}
	return f
}

type jsonBase struct {
	Generation uint64     `json:"generation"`
	ID         vector.Hex `json:"id"`
}

func verifierID(b vector.Hex) (id record.VerifierID) {
	copy(id[:], b)
	return id
}

func (b jsonBase) base() record.Base {
	return record.Base{Generation: b.Generation, ID: verifierID(b.ID)}
}

type jsonVerifiers struct {
	All []struct {
		ID         vector.Hex `json:"id"`
		PHC        string     `json:"phc"`
		Replaces   vector.Hex `json:"replaces"`
		Generation uint64     `json:"generation"`
		EndS       int64      `json:"end_s"`
		UntilUsed  bool       `json:"until_used"`
		Retired    bool       `json:"retired"`
		Base       jsonBase   `json:"base"`
		Handle     vector.Hex `json:"handle"`
		Tag        uint64     `json:"tag"`
		Unknown    vector.Hex `json:"unknown"`
	} `json:"all"`
	Superseded []jsonBase `json:"superseded"`
	Floor      uint64     `json:"floor"`
	BaseFloor  uint64     `json:"base_floor"`
	Sealed     bool       `json:"sealed"`
}

func (j jsonVerifiers) verifiers() record.Verifiers {
	vs := record.Verifiers{Floor: j.Floor, BaseFloor: j.BaseFloor, Sealed: j.Sealed}
	for _, v := range j.All {
		var handle record.Handle
		copy(handle[:], v.Handle)
		vs.All = append(vs.All, record.Verifier{
			ID: verifierID(v.ID), PHC: v.PHC, Replaces: verifierID(v.Replaces), Generation: v.Generation, End: seconds(v.EndS),
			UntilUsed: v.UntilUsed, Retired: v.Retired, Base: v.Base.base(), Handle: handle, Tag: v.Tag, Unknown: unknown(v.Unknown),
		})
	}
	for _, b := range j.Superseded {
		vs.Superseded = append(vs.Superseded, b.base())
	}
	return vs
}

func seconds(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(n, 0).UTC()
}

type jsonIdentity struct {
	Provider string     `json:"provider"`
	Subject  string     `json:"subject"`
	Stamp    *jsonStamp `json:"stamp"`
	Unlinked bool       `json:"unlinked"`
	Unknown  vector.Hex `json:"unknown"`
}

type jsonTag struct {
	Number uint64     `json:"number"`
	Secret vector.Hex `json:"secret"`
	State  uint64     `json:"state"`
	// ChangedMS is 0 for a secret that has not changed since the domain was made.
	ChangedMS int64 `json:"changed_ms"`
}

// record returns the record of a table.
func (j jsonRecord) record(table, id string) any {
	var groups record.Groups
	for _, g := range j.Groups {
		groups = append(groups, g.register())
	}
	if len(j.Scopes.Value) == 0 {
		j.Scopes.Value = nil
	}
	if len(j.Networks.Value) == 0 {
		j.Networks.Value = nil
	}
	if len(j.Metadata.Value) == 0 {
		j.Metadata.Value = nil
	}
	created := time.UnixMilli(j.CreatedMS).UTC()
	switch table {
	case "keys":
		return record.Key{
			ID: uuid.MustParse(id), Owner: j.Owner, Created: created, Name: j.Name.register(), Verifiers: j.Verifiers.verifiers(),
			Expires: record.Register[time.Time]{Value: seconds(j.Expires.Value), Stamp: j.Expires.Stamp.stamp(), Replaces: j.Expires.Replaces},
			Scopes:  j.Scopes.register(), Networks: j.Networks.register(), Metadata: j.Metadata.register(), Groups: groups,
			Flag: j.Flag.flag(), Foreign: j.Foreign, Unknown: unknown(j.Unknown),
		}
	case "users":
		u := record.User{
			ID: uuid.MustParse(id), Created: created, Metadata: j.Metadata.register(), Groups: groups, Flag: j.Flag.flag(),
			Dropped: j.Dropped.stamp(), Unknown: unknown(j.Unknown),
		}
		for _, i := range j.Identities {
			u.Identities = append(u.Identities, record.Identity{
				Provider: i.Provider, Subject: i.Subject, Stamp: i.Stamp.stamp(), Unlinked: i.Unlinked, Unknown: unknown(i.Unknown),
			})
		}
		return u
	case "groups":
		return record.Group{Name: id, Flag: j.Flag.flag(), Unknown: unknown(j.Unknown)}
	case "deadkeys":
		return record.KeyTombstone{ID: uuid.MustParse(id), Owner: j.Owner, Groups: groups, Foreign: j.Foreign, Unknown: unknown(j.Unknown)}
	case "deadusers":
		return record.UserTombstone{ID: uuid.MustParse(id), Groups: groups, Unknown: unknown(j.Unknown)}
	case "tags":
		s := record.TagSecrets{Floor: j.Floor}
		for _, tag := range j.All {
			next := record.TagSecret{Number: tag.Number, State: record.TagState(tag.State)}
			copy(next.Secret[:], tag.Secret)
			if tag.ChangedMS > 0 {
				next.Changed = time.UnixMilli(tag.ChangedMS).UTC()
			}
			s.All = append(s.All, next)
		}
		return s
	}
	return nil
}

// tableKind returns the kind of a table's records.
func tableKind(t testing.TB, table, id string) (k kind, key []byte) {
	t.Helper()
	uid, _ := uuid.Parse(id)
	switch all := kinds(); table {
	case "keys":
		k = all[0]
		k.decode = func(m []byte) (any, error) { return record.DecodeKey(uid, m) }
	case "users":
		k = all[1]
		k.decode = func(m []byte) (any, error) { return record.DecodeUser(uid, m) }
	case "groups":
		k = all[2]
		return k, []byte(id)
	case "deadkeys":
		k = all[3]
		k.decode = func(m []byte) (any, error) { return record.DecodeKeyTombstone(uid, m) }
	case "deadusers":
		k = all[4]
		k.decode = func(m []byte) (any, error) { return record.DecodeUserTombstone(uid, m) }
	case "tags":
		return kind{
			decode: func(m []byte) (any, error) { return record.DecodeTagSecrets(m) },
			encode: func(v any) []byte { return v.(record.TagSecrets).Encode() },
			merge:  func(a, b any) any { return a.(record.TagSecrets).Merge(b.(record.TagSecrets)) },
		}, nil
	default:
		t.Fatalf("no table %q", table)
	}
	return k, uid[:]
}

func TestRecordsAreThoseOfTheVectors(t *testing.T) {
	var vectors struct {
		Records []struct {
			About  string     `json:"about"`
			Table  string     `json:"table"`
			ID     string     `json:"id"`
			Record vector.Hex `json:"record"`
			Fields jsonRecord `json:"fields"`
		} `json:"records"`
		Refused []struct {
			About  string     `json:"about"`
			Error  string     `json:"error"`
			ID     uuid.UUID  `json:"id"`
			Record vector.Hex `json:"record"`
		} `json:"refused"`
	}
	vector.Read(t, "records.json", &vectors)
	for _, v := range vectors.Records {
		k, key := tableKind(t, v.Table, v.ID)
		message, err := record.Open(v.Table, key, v.Record)
		must(t, err)
		got, err := k.decode(message)
		must(t, err)
		want := v.Fields.record(v.Table, v.ID)
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %s:\ngot  %+v\nwant %+v", v.Table, v.About, got, want)
		}
		if sealed := record.Seal(v.Table, key, k.encode(want)); !bytes.Equal(sealed, v.Record) {
			t.Errorf("%s: %s: got %x, want %x", v.Table, v.About, sealed, v.Record)
		}
	}
	wants := map[string]error{"damaged": record.ErrDamaged, "newer": record.ErrNewer}
	for _, v := range vectors.Refused {
		message, err := record.Open("keys", v.ID[:], v.Record)
		if err == nil {
			_, err = record.DecodeKey(v.ID, message)
		}
		if want := wants[v.Error]; want == nil || !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", v.About, err, want)
		}
	}
	if len(vectors.Records) == 0 || len(vectors.Refused) == 0 {
		t.Error("there are no vectors")
	}
}

func TestRecordsMergeAsInTheVectors(t *testing.T) {
	var vectors struct {
		Merges []struct {
			About  string      `json:"about"`
			Table  string      `json:"table"`
			ID     string      `json:"id"`
			A      vector.Hex  `json:"a"`
			B      vector.Hex  `json:"b"`
			Merged *vector.Hex `json:"merged"`
		} `json:"merges"`
	}
	vector.Read(t, "merges.json", &vectors)
	for _, v := range vectors.Merges {
		k, _ := tableKind(t, v.Table, v.ID)
		a, err := k.decode(v.A)
		must(t, err)
		b, err := k.decode(v.B)
		must(t, err)
		for _, merged := range []any{k.merge(a, b), k.merge(b, a)} {
			if err, refused := merged.(error); refused || v.Merged == nil {
				if v.Merged != nil || !errors.Is(err, record.ErrDifferentOwner) {
					t.Errorf("%s: %s: got %v", v.Table, v.About, merged)
				}
				continue
			}
			if got := k.encode(merged); !bytes.Equal(got, *v.Merged) {
				t.Errorf("%s: %s:\ngot  %x\nwant %x", v.Table, v.About, got, *v.Merged)
			}
		}
	}
	if len(vectors.Merges) == 0 {
		t.Error("there are no vectors")
	}
}
