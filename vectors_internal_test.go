package latchkey

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/google/uuid"
)

// hexBytes are bytes that are in hexadecimal in a test vector.
type hexBytes []byte

// readVectors reads a file of testdata/vectors. The README there describes the files.
func readVectors(t testing.TB, name string, vectors any) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "vectors", name))
	if err != nil {
		t.Fatal(err)
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(vectors); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

func TestUserIDsAreDerivedAsTheVectorsSay(t *testing.T) {
	var vectors struct {
		UserIDs []struct {
			UserSecret        hexBytes `json:"user_secret"`
			Provider, Subject string
			Former            uint64
			ID                uuid.UUID
		} `json:"user_ids"`
	}
	readVectors(t, "user_ids.json", &vectors)
	for _, v := range vectors.UserIDs {
		d := &domain{userSecret: [32]byte(v.UserSecret)}
		if got := d.userID(Identity{Provider(v.Provider), v.Subject}, v.Former); got != v.ID {
			t.Errorf("(%s, %s) after %d former users: got %s, want %s", v.Provider, v.Subject, v.Former, got, v.ID)
		}
	}
}

type stampVector struct {
	Counter uint64
	Replica uuid.UUID
}

func (v stampVector) stamp() stamp { return stamp{v.Counter, v.Replica} }

type userVector struct {
	Sequence   uint64
	Made       stampVector
	CreatedMS  int64 `json:"created_ms"`
	Identities []struct {
		Provider Provider
		Subject  string
		Linked   stampVector
		Unknown  hexBytes
	}
	Disablings        uint64
	Disabled, Deleted bool
	Unknown           hexBytes
}

func (v userVector) record(id uuid.UUID) userRecord {
	u := userRecord{
		id: id, created: time.UnixMilli(v.CreatedMS).UTC(), made: v.Made.stamp(),
		disabledFlag: disabledFlag{v.Disablings, v.Disabled}, deleted: v.Deleted, sequence: v.Sequence, unknown: orNil(v.Unknown),
	}
	for _, i := range v.Identities {
		identity := Identity{i.Provider, i.Subject}
		u.identities = append(u.identities, identityRecord{identity, i.Linked.stamp(), orNil(i.Unknown)})
	}
	return u
}

type keyVector struct {
	Sequence            uint64
	Made, Named, Hashed stampVector
	CreatedMS           int64 `json:"created_ms"`
	Owner               uuid.UUID
	Name, Verifier      string
	ExpiresS            int64 `json:"expires_s"`
	Disablings          uint64
	Disabled, Deleted   bool
	Unknown             hexBytes
}

func (v keyVector) record(id uuid.UUID) keyRecord {
	k := keyRecord{
		id: id, owner: v.Owner, created: time.UnixMilli(v.CreatedMS).UTC(), made: v.Made.stamp(), name: v.Name,
		named: v.Named.stamp(), verifier: v.Verifier, hashed: v.Hashed.stamp(), disabledFlag: disabledFlag{v.Disablings, v.Disabled},
		deleted: v.Deleted, sequence: v.Sequence, unknown: orNil(v.Unknown),
	}
	if v.ExpiresS != 0 {
		k.expires = time.Unix(v.ExpiresS, 0).UTC()
	}
	return k
}

// orNil returns b, or nil if b is empty, as a decoded record has it.
func orNil(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return b
}

type recordVectors struct {
	Users []struct {
		About  string
		ID     uuid.UUID
		Record hexBytes
		Fields userVector
	}
	Keys []struct {
		About  string
		ID     uuid.UUID
		Record hexBytes
		Fields keyVector
	}
	Meta []struct {
		Key    string
		Record hexBytes
		Fields json.RawMessage
	}
	Indexes []struct {
		Table      string
		Key, Value hexBytes
		Fields     struct {
			Provider Provider
			Subject  string
			ID       uuid.UUID
			Owner    uuid.UUID
			Name     string
			Sequence uint64
			Kind     string
		}
	}
	Refused []struct {
		About, Error string
		ID           uuid.UUID
		Record       hexBytes
	}
}

func TestRecordsAreWrittenAndReadAsTheVectorsSay(t *testing.T) {
	var vectors recordVectors
	readVectors(t, "records.json", &vectors)
	for _, v := range vectors.Users {
		t.Run("user/"+v.About, func(t *testing.T) {
			want := v.Fields.record(v.ID)
			if got, err := decodeUser(v.ID, v.Record); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("decode: got %+v, %v, want %+v", got, err, want)
			}
			if got := want.encode(); !bytes.Equal(got, v.Record) {
				t.Errorf("encode: got %x, want %x", got, v.Record)
			}
		})
	}
	for _, v := range vectors.Keys {
		t.Run("key/"+v.About, func(t *testing.T) {
			want := v.Fields.record(v.ID)
			if got, err := decodeKey(v.ID, v.Record); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("decode: got %+v, %v, want %+v", got, err, want)
			}
			if got := want.encode(); !bytes.Equal(got, v.Record) {
				t.Errorf("encode: got %x, want %x", got, v.Record)
			}
		})
	}
	for _, v := range vectors.Refused {
		t.Run("refused/"+v.About, func(t *testing.T) {
			want := map[string]error{"corrupt": ErrCorrupt, "version": ErrNewerFormat}[v.Error]
			if _, err := decodeKey(v.ID, v.Record); want == nil || !errors.Is(err, want) {
				t.Errorf("decode: got error %v, want %v", err, want)
			}
		})
	}
}

func TestIndexEntriesAreAsTheVectorsSay(t *testing.T) {
	var vectors recordVectors
	readVectors(t, "records.json", &vectors)
	for _, v := range vectors.Indexes {
		f := v.Fields
		var key, value []byte
		switch v.Table {
		case tableIdentities:
			key, value = Identity{f.Provider, f.Subject}.indexKey(), f.ID[:]
		case tableNames:
			key, value = nameIndexKey(f.Owner, f.Name, f.ID), nil
			if name, id, err := splitNameIndexKey(v.Key); name != f.Name || id != f.ID || err != nil {
				t.Errorf("splitNameIndexKey: got %q, %s, %v", name, id, err)
			}
		case tableChanges:
			kind := map[string]recordKind{"user": userKind, "key": keyKind}[f.Kind]
			key, value = sequenceKey(f.Sequence), append([]byte{byte(kind)}, f.ID[:]...)
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
	var vectors recordVectors
	readVectors(t, "records.json", &vectors)
	tx := metaTx{records: make(map[string][]byte)}
	var want struct {
		format struct{ Version uint64 }
		domain struct {
			ID         uuid.UUID
			UserSecret hexBytes `json:"user_secret"`
			TagSecrets []struct {
				Number uint64
				Secret hexBytes
			} `json:"tag_secrets"`
			Prefix string
		}
		replica struct{ ID uuid.UUID }
		state   struct{ Sequence, Users, Keys uint64 }
	}
	fields := map[string]any{"format": &want.format, "domain": &want.domain, "replica": &want.replica, "state": &want.state}
	for _, v := range vectors.Meta {
		tx.records[tableMeta+"/"+v.Key] = v.Record
		if err := json.Unmarshal(v.Fields, fields[v.Key]); err != nil {
			t.Fatal(err)
		}
	}

	if want.format.Version != formatVersion {
		t.Fatalf("the vectors are of version %d", want.format.Version)
	}
	d := &domain{
		id: want.domain.ID, replica: want.replica.ID, prefix: want.domain.Prefix, userSecret: [32]byte(want.domain.UserSecret),
	}
	for _, s := range want.domain.TagSecrets {
		d.tagSecrets = append(d.tagSecrets, tagSecret{s.Number, [16]byte(s.Secret)})
	}
	if got, err := readDomain(metaRecords(tx)); err != nil || !reflect.DeepEqual(got, d) {
		t.Errorf("domain: got %+v, %v, want %+v", got, err, d)
	}
	if got := sealRecord(tableMeta, metaDomain, d.encode()); !bytes.Equal(got, tx.records["meta/domain"]) {
		t.Errorf("domain: wrote %x", got)
	}

	st := &storeState{sequence: want.state.Sequence, users: want.state.Users, keys: want.state.Keys}
	if got, err := (&Tx{etx: tx}).readState(); err != nil || !reflect.DeepEqual(got, st) {
		t.Errorf("state: got %+v, %v, want %+v", got, err, st)
	}
	if got := st.encode(); !bytes.Equal(got, tx.records["meta/state"]) {
		t.Errorf("state: wrote %x", got)
	}
}

func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}
