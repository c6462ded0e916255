package replication

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/frame"
	"github.com/latchkeydb/latchkey/internal/merge"
	"github.com/latchkeydb/latchkey/internal/record"
	"github.com/latchkeydb/latchkey/internal/vector"
)

// vectorFields are the fields of all kinds of messages and bodies in a vector.
type vectorFields struct {
	Format, Time, Resets, How       uint64
	Policy                          json.RawMessage // a number or a policy
	Edge, Instance, Before, Replica uuid.UUID
	Earlier                         []uuid.UUID
	At, Cursor                      *vectorCursor
	Table                           string
	Key, Value, MAC, Record         vector.Hex
	Export, Build, Refused          string
	Pin, Tags, Hash, Sum            vector.Hex
	Formats                         []uint64
	Groups                          []string
	Push                            Push
	Version, Count                  uint64
	Range                           byte
	Follow, Own, Signed, More       bool
	vectorCursor
}

type vectorCursor struct {
	Incarnation, Era uuid.UUID
	Sequence         uint64
	LastTable        string     `json:"last_table"`
	LastKey          vector.Hex `json:"last_key"`
	Copying          string
	CopyKey          vector.Hex `json:"copy_key"`
	Policy, Taken    uint64
	Ahead            bool
	News             uint64
}

// vectorLists are the lists of a body.
type vectorLists struct {
	Records, Claims, Uses    []vectorFields
	Signed                   []vectorFields
	Summaries, Listed, Items []vectorFields
	Differ, Wanted           []vectorFields
	Messages                 []vectorMessage
}

type vectorMessage struct {
	About, Kind string
	Fields      json.RawMessage
	Frame, Body vector.Hex
}

type messageVectors struct {
	Domain           uuid.UUID
	Secret           vector.Hex
	Messages, Bodies []vectorMessage
	Refused          []struct {
		About, Error string
		Body         vector.Hex
	}
	Skipped []struct {
		About        string
		Stream, Left vector.Hex
	}
	Sums []struct {
		Table       string
		Key, Record vector.Hex
		Range       byte
		Hash        vector.Hex
	}
	Sum  vector.Hex
	Macs []struct {
		Table            string
		Key, Record, MAC vector.Hex
	}
}

func readVectors(t testing.TB) (v messageVectors) {
	t.Helper()
	vector.Read(t, "messages.json", &v)
	return v
}

func parsed[T any](t testing.TB, raw json.RawMessage) (v T) {
	t.Helper()
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatalf("%s: %v", raw, err)
	}
	return v
}

func (c *vectorCursor) cursor() (out Cursor) {
	if c == nil {
		return out
	}
	out = Cursor{Incarnation: c.Incarnation, Era: c.Era, At: merge.Position{Sequence: c.Sequence}, Policy: c.Policy, Copying: c.Copying, CopyKey: c.CopyKey, Taken: c.Taken, Ahead: c.Ahead, News: c.News}
	if c.LastTable != "" {
		out.At.Last = c.LastTable + "\x00" + string(c.LastKey)
	}
	return out
}

func (v messageVectors) copy(f vectorFields) record.Copy {
	return record.Copy{Domain: v.Domain, Table: f.Table, Key: f.Key, Sealed: f.Record}
}

func (v messageVectors) signed(f vectorFields) Record { return Record{v.copy(f), f.MAC} }

// message returns the message that a vector describes.
func (v messageVectors) message(t testing.TB, kind string, raw json.RawMessage) Message {
	t.Helper()
	if kind == "mark" {
		c := parsed[vectorCursor](t, raw)
		return Mark{c.cursor()}
	}
	f := parsed[vectorFields](t, raw)
	at := time.UnixMilli(int64(f.Time)).UTC()
	switch kind {
	case "welcome":
		p := parsed[Policy](t, f.Policy)
		return Welcome{Format: f.Format, Time: at, Resets: f.Resets, Policy: p, Edge: f.Edge, How: How(f.How), At: f.At.cursor()}
	case "entry":
		return Entry{Table: f.Table, Key: f.Key, Value: orNil(f.Value), MAC: f.MAC}
	case "record":
		return v.signed(f)
	case "forget":
		return Forget{f.Table, f.Key}
	case "replace":
		if f.Record == nil {
			return Replace{Copy: record.Copy{Table: f.Table, Key: f.Key}}
		}
		return Replace(v.signed(f))
	case "secrets":
		return Secrets{[]byte(f.Export)}
	case "new_policy":
		return NewPolicy{parsed[Policy](t, raw)}
	case "beat":
		return Beat{at, f.Resets}
	case "next_pin":
		return NextPin{f.Pin}
	case "cloned":
		return Cloned{}
	}
	t.Fatalf("a vector of kind %s", kind)
	return nil
}

func orNil(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return b
}

func each[T any](fields []vectorFields, f func(vectorFields) T) (all []T) {
	for _, v := range fields {
		all = append(all, f(v))
	}
	return all
}

func summaryOf(f vectorFields) Summary {
	s := Summary{Table: f.Table, Range: f.Range, Count: f.Count}
	copy(s.Sum[:], f.Sum)
	return s
}

func itemOf(f vectorFields) Item {
	return Item{Table: f.Table, Key: f.Key, Hash: [16]byte(f.Hash), Own: f.Own, Signed: f.Signed}
}

type body interface{ Encode() []byte }

// body returns the body that a vector describes.
func (v messageVectors) body(t testing.TB, kind string, raw json.RawMessage) body {
	t.Helper()
	if kind == "hello" {
		f := parsed[vectorFields](t, raw)
		return Hello{
			Formats: f.Formats, Build: f.Build, Instance: f.Instance, Before: f.Before, Earlier: f.Earlier, Replica: f.Replica, Cursor: f.Cursor.cursor(),
			Policy: parsed[uint64](t, f.Policy), Tags: orNil(f.Tags), Follow: f.Follow,
		}
	}
	l := parsed[vectorLists](t, raw)
	head := parsed[struct {
		Cursor  *vectorCursor
		Policy  uint64
		Taken   uint64
		Refused string
		More    bool
	}](t, raw)
	switch kind {
	case "push":
		return PushRequest{head.Cursor.cursor(), head.Policy, each(l.Records, v.copy), each(l.Claims, v.copy), each(l.Signed, v.signed), each(l.Uses, v.copy)}
	case "push_reply":
		return PushReply{head.Refused, head.Policy, head.Taken}
	case "compare":
		return CompareRequest{head.Cursor.cursor(), head.Policy, each(l.Summaries, summaryOf), each(l.Listed, summaryOf), each(l.Items, itemOf)}
	case "compare_reply":
		r := CompareReply{Differ: each(l.Differ, summaryOf), Wanted: each(l.Wanted, itemOf), More: head.More, Refused: head.Refused}
		for _, m := range l.Messages {
			r.Messages = append(r.Messages, v.message(t, m.Kind, m.Fields))
		}
		return r
	}
	t.Fatalf("a vector of kind %s", kind)
	return nil
}

var bodyDecoders = map[string]func([]byte) (body, error){
	"hello":         func(b []byte) (body, error) { return DecodeHello(b) },
	"push":          func(b []byte) (body, error) { return DecodePushRequest(b) },
	"push_reply":    func(b []byte) (body, error) { return DecodePushReply(b) },
	"compare":       func(b []byte) (body, error) { return DecodeCompareRequest(b) },
	"compare_reply": func(b []byte) (body, error) { return DecodeCompareReply(b) },
}

func stream(b []byte) *bufio.Reader { return bufio.NewReader(bytes.NewReader(b)) }

func TestMessagesReadAndWriteAsTheVectorsSay(t *testing.T) {
	v := readVectors(t)
	for _, m := range v.Messages {
		want := v.message(t, m.Kind, m.Fields)
		if b := AppendMessage(nil, want); !bytes.Equal(b, m.Frame) {
			t.Errorf("%s: written as\n%x, want\n%x", m.About, b, []byte(m.Frame))
		}
		if got, err := ReadMessage(stream(m.Frame)); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: read as\n%+v, %v, want\n%+v", m.About, got, err, want)
		}
	}
	for _, m := range v.Bodies {
		want := v.body(t, m.Kind, m.Fields)
		if b := want.Encode(); !bytes.Equal(b, m.Body) {
			t.Errorf("%s: written as\n%x, want\n%x", m.About, b, []byte(m.Body))
		}
		if got, err := bodyDecoders[m.Kind](m.Body); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: read as\n%+v, %v, want\n%+v", m.About, got, err, want)
		}
	}
}

func TestWhatTheVectorsRefuseIsNoMessage(t *testing.T) {
	for _, r := range readVectors(t).Refused {
		want := map[string]error{"bad": ErrMessage, "newer": ErrNewer}[r.Error]
		if m, err := ReadMessage(stream(frame.Append(nil, r.Body))); !errors.Is(err, want) {
			t.Errorf("%s: %+v, %v, want %v", r.About, m, err, want)
		}
	}
}

func TestWhatIsUnknownIsSkipped(t *testing.T) {
	for _, s := range readVectors(t).Skipped {
		want, err := ReadMessage(stream(s.Left))
		if err != nil {
			t.Fatal(err)
		}
		r := stream(s.Stream)
		if got, err := ReadMessage(r); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v, want %+v", s.About, got, err, want)
		}
		if _, err := ReadMessage(r); !errors.Is(err, io.EOF) {
			t.Errorf("%s: then %v", s.About, err)
		}
	}
}

func TestSumsAndMACsAreThoseOfTheVectors(t *testing.T) {
	v := readVectors(t)
	var all Summary
	for _, s := range v.Sums {
		hash := HashOf(s.Table, s.Key, s.Record)
		if !bytes.Equal(hash[:], s.Hash) || RangeOf(s.Table, s.Key) != s.Range {
			t.Errorf("%s/%x: hash %x, range %d", s.Table, []byte(s.Key), hash, RangeOf(s.Table, s.Key))
		}
		all.Add(hash)
	}
	if !bytes.Equal(all.Sum[:], v.Sum) {
		t.Errorf("the sum is %x, want %x", all.Sum, []byte(v.Sum))
	}
	for _, m := range v.Macs {
		c := record.Copy{Domain: v.Domain, Table: m.Table, Key: m.Key, Sealed: m.Record}
		if mac := macOf(v.Secret, c); !bytes.Equal(mac, m.MAC) {
			t.Errorf("%s/%x: MAC %x, want %x", m.Table, []byte(m.Key), mac, []byte(m.MAC))
		}
	}
}

func TestBeatsAndMarksAreShort(t *testing.T) {
	beat := AppendMessage(nil, Beat{Time: time.Date(2099, 12, 31, 23, 59, 59, 0, time.UTC), Resets: 1000})
	if len(beat) > 12 {
		t.Errorf("a beat has %d bytes", len(beat))
	}
	id := uuid.Max
	at := Cursor{Incarnation: id, Era: id, Policy: 100, News: 1 << 20, At: merge.Position{Sequence: 1 << 40, Last: record.TableDeadUsers + "\x00" + string(id[:])}}
	if mark := AppendMessage(nil, Mark{at}); len(mark) > 74 {
		t.Errorf("a mark has %d bytes", len(mark))
	}
}

func TestTheLargestMessagesCanBeRead(t *testing.T) {
	groups := make([]string, maxGroups)
	for i := range groups {
		groups[i] = string(rune('a'+i/26/26)) + string(rune('a'+i/26%26)) + string(rune('a'+i%26)) + strings.Repeat("g", record.MaxGroup-3)
	}
	name := bytes.Repeat([]byte("g"), record.MaxGroup)
	sealed := record.Seal(record.TableGroups, name, make([]byte, record.MaxSize-5))
	mac := make([]byte, sizeMAC)
	for _, m := range []Message{
		NewPolicy{Policy{Groups: groups, Push: PushAll, Version: 1 << 63}},
		Record{record.Copy{Domain: uuid.Max, Table: record.TableGroups, Key: name, Sealed: sealed}, mac},
		Entry{record.TableGroups, name, sealed, mac},
	} {
		if got, err := ReadMessage(stream(AppendMessage(nil, m))); err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("%T: %v", m, err)
		}
	}
	if _, err := ReadMessage(stream(AppendMessage(nil, NewPolicy{Policy{Groups: append(groups, "z")}}))); !errors.Is(err, ErrMessage) {
		t.Errorf("a policy of %d groups: %v", maxGroups+1, err)
	}
}

func TestALongReasonIsCutShort(t *testing.T) {
	r, err := DecodePushReply(PushReply{Refused: "\xff" + strings.Repeat("ü", maxText)}.Encode())
	if err != nil || len(r.Refused) > maxText || len(r.Refused) < maxText-1 || !strings.HasPrefix(r.Refused, "\uFFFDü") {
		t.Errorf("%d bytes, %v", len(r.Refused), err)
	}
}

func TestACutStreamIsNoEndOfAStream(t *testing.T) {
	b := AppendMessage(nil, Beat{Time: time.UnixMilli(1)})
	if _, err := ReadMessage(stream(b[:len(b)-1])); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("cut: %v", err)
	}
	if _, err := ReadMessage(stream(frame.Append(nil, make([]byte, MaxMessage+1)))); !errors.Is(err, ErrMessage) {
		t.Errorf("too long: %v", err)
	}
}
