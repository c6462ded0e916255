package latchkey

import (
	"bytes"
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/lastuse"
	"github.com/latchkeydb/latchkey/internal/merge"
	"github.com/latchkeydb/latchkey/internal/record"
	"github.com/latchkeydb/latchkey/internal/rehash"
	"github.com/latchkeydb/latchkey/internal/vector"
)

func TestUserIDsAreDerivedAsTheVectorsSay(t *testing.T) {
	var vectors struct {
		UserIDs []struct {
			UserSecret        vector.Hex `json:"user_secret"`
			Provider, Subject string
			Former            uint64
			ID                uuid.UUID
		} `json:"user_ids"`
	}
	vector.Read(t, "user_ids.json", &vectors)
	for _, v := range vectors.UserIDs {
		d := &record.Meta{Domain: record.Domain{UserSecret: [32]byte(v.UserSecret)}}
		if got := d.UserID(Identity{Provider(v.Provider), v.Subject}.indexKey(), v.Former); got != v.ID {
			t.Errorf("(%s, %s) after %d former users: got %s, want %s", v.Provider, v.Subject, v.Former, got, v.ID)
		}
	}
}

type storeVectors struct {
	Meta []struct {
		Key    string
		Record vector.Hex
		Fields json.RawMessage
	}
	Indexes []struct {
		Table      string
		Key, Value vector.Hex
		Fields     struct {
			Provider Provider
			Subject  string
			ID       uuid.UUID
			Owner    uuid.UUID
			Name     string
			Group    string
			Verifier vector.Hex
			PHC      string
			Handle   vector.Hex
			Hint     vector.Hex
			Minute   uint32
		}
	}
}

func TestIndexEntriesAreAsTheVectorsSay(t *testing.T) {
	var vectors storeVectors
	vector.Read(t, "store.json", &vectors)
	for _, v := range vectors.Indexes {
		f := v.Fields
		var key, value []byte
		switch v.Table {
		case tableIdentities:
			key, value = Identity{f.Provider, f.Subject}.indexKey(), f.ID[:]
		case tableNames:
			key, value = record.NameKey(f.Owner, f.Name, f.ID), nil
			if name, id, err := record.SplitNameKey(v.Key); name != f.Name || id != f.ID || err != nil {
				t.Errorf("record.SplitNameKey: got %q, %s, %v", name, id, err)
			}
		case tableMembers:
			key, value = record.MemberKey(f.Group, f.ID), nil
			if group, id, err := record.SplitMemberKey(v.Key); group != f.Group || id != f.ID || err != nil {
				t.Errorf("record.SplitMemberKey: got %q, %s, %v", group, id, err)
			}
		case tableHandles:
			key = record.HandleKey(record.Handle(f.Handle), f.ID)
		case tableHashes:
			key = rehash.ID{Key: f.ID, Verifier: record.VerifierID(f.Verifier)}.TableKey()
			var m record.Message
			m.Bytes(1, []byte(f.PHC))
			m.Bytes(2, f.Hint)
			value = record.Seal(tableHashes, key, m)
			if own, err := decodeHash(v.Key, v.Value); own != (rehash.Own{PHC: f.PHC, Hint: string(f.Hint)}) || err != nil {
				t.Errorf("decodeHash: got %q, %v", own, err)
			}
		case tableLastUse:
			id := lastuse.Join(f.ID, [8]byte(f.Verifier))
			key = id[:]
			value = record.Seal(tableLastUse, key, record.EncodeLastUse(f.Minute))
			if minute, err := merge.DecodeUse(v.Key, v.Value); minute != f.Minute || err != nil {
				t.Errorf("decodeLastUse: got %d, %v", minute, err)
			}
		default:
			t.Errorf("table %s: no test", v.Table)
		}
		if !bytes.Equal(key, v.Key) || !bytes.Equal(value, v.Value) {
			t.Errorf("table %s: got %x → %x, want %x → %x", v.Table, key, value, v.Key, v.Value)
		}
	}
}

// metaTx is a transaction that has only the table meta.
type metaTx struct {
	EngineTx
	records map[string][]byte
}

func (tx metaTx) Get(table string, key []byte) ([]byte, error) {
	return tx.records[table+"/"+string(key)], nil
}

func TestTheRecordsOfMetaAreWrittenAndReadAsTheVectorsSay(t *testing.T) {
	var vectors storeVectors
	vector.Read(t, "store.json", &vectors)
	tx := metaTx{records: make(map[string][]byte)}
	var want struct {
		format struct{ Version uint64 }
		domain struct {
			ID         uuid.UUID
			UserSecret vector.Hex `json:"user_secret"`
			Prefix     string
		}
		tags struct {
			All []struct {
				Number    uint64
				Secret    vector.Hex
				State     record.TagState
				ChangedMS int64 `json:"changed_ms"`
			}
			Floor uint64
		}
		replica struct {
			ID     uuid.UUID
			Shared bool
		}
		clock struct {
			Time   int64 `json:"time_ms"`
			Resets uint64
		}
	}
	fields := map[string]any{"format": &want.format, "domain": &want.domain, "tags": &want.tags, "replica": &want.replica, "clock": &want.clock}
	for _, v := range vectors.Meta {
		tx.records[tableMeta+"/"+v.Key] = v.Record
		if err := json.Unmarshal(v.Fields, fields[v.Key]); err != nil {
			t.Fatal(err)
		}
	}

	if want.format.Version != record.FormatVersion {
		t.Fatalf("the vectors are of version %d", want.format.Version)
	}
	d := &record.Meta{
		Domain:  record.Domain{ID: want.domain.ID, UserSecret: [32]byte(want.domain.UserSecret), Prefix: want.domain.Prefix},
		Tags:    record.TagSecrets{Floor: want.tags.Floor},
		Replica: record.Replica{ID: want.replica.ID, Shared: want.replica.Shared},
	}
	for _, s := range want.tags.All {
		tag := record.TagSecret{Number: s.Number, State: s.State}
		copy(tag.Secret[:], s.Secret)
		if s.ChangedMS > 0 {
			tag.Changed = time.UnixMilli(s.ChangedMS).UTC()
		}
		d.Tags.All = append(d.Tags.All, tag)
	}
	if got, err := readDomain(metaRecords(tx)); err != nil || !reflect.DeepEqual(got, d) {
		t.Errorf("got %+v, %v, want %+v", got, err, d)
	}
	for key, sealed := range d.Records() {
		if !bytes.Equal(sealed, tx.records[tableMeta+"/"+key]) {
			t.Errorf("%s: wrote %x", key, sealed)
		}
	}
	c, err := loadClock(tx)
	if want := (record.Clock{Time: time.UnixMilli(want.clock.Time).UTC(), Resets: want.clock.Resets}); err != nil || !reflect.DeepEqual(c, want) {
		t.Errorf("got the clock %+v, %v, want %+v", c, err, want)
	}
	if got := record.Seal(tableMeta, metaClock, c.Encode()); !bytes.Equal(got, tx.records[tableMeta+"/clock"]) {
		t.Errorf("clock: wrote %x", got)
	}
}
