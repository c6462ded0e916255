package record_test

import (
	"bytes"
	"errors"
	"reflect"
	"testing"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/record"
	"github.com/latchkeydb/latchkey/internal/vector"
)

// copyOf returns a copy of a record.
func copyOf(table string, key, message []byte) record.Copy {
	return record.Copy{Domain: uuid.UUID{0xdd, 15: 1}, Table: table, Key: key, Sealed: record.Seal(table, key, message)}
}

func TestACopyReadsBackAsItWasWritten(t *testing.T) {
	for _, c := range []record.Copy{
		copyOf(record.TableKeys, keyID[:], fullKey().Encode()),
		copyOf(record.TableUsers, userID[:], nil),
		copyOf(record.TableGroups, []byte("home"), nil),
		copyOf(record.TableDeadUsers, userID[:], nil),
		copyOf(record.TableDeadKeys, keyID[:], nil),
		copyOf(record.TableLastUse, append(keyID[:], 1, 2, 3, 4, 5, 6, 7, 8), record.EncodeLastUse(5)),
	} {
		b := c.Encode()
		if got, err := record.DecodeCopy(b); err != nil || !reflect.DeepEqual(got, c) {
			t.Errorf("%+v reads back as %+v, %v", c, got, err)
		}
		got, _ := record.DecodeCopy(b)
		clear(b)
		if !reflect.DeepEqual(got, c) {
			t.Error("the copy shares memory with what it was read from")
		}
	}
}

func TestALargestRecordFitsIntoACopy(t *testing.T) {
	name := bytes.Repeat([]byte("g"), record.MaxGroup)
	c := copyOf(record.TableGroups, name, make([]byte, record.MaxSize-5))
	b := c.Encode()
	if _, err := record.DecodeCopy(b); err != nil || len(c.Sealed) != record.MaxSize || len(b) > record.MaxCopy {
		t.Errorf("a copy of %d bytes: %v", len(b), err)
	}
	c.Sealed = record.Seal(c.Table, c.Key, make([]byte, record.MaxSize-4))
	if _, err := record.DecodeCopy(c.Encode()); !errors.Is(err, record.ErrDamaged) {
		t.Errorf("a record that is too long: %v", err)
	}
}

type copyVectors struct {
	Domain uuid.UUID
	Copies []struct {
		About, Table string
		Key, Record  vector.Hex
		Copy         vector.Hex
		Later        bool
	}
	Refused []struct {
		About, Error string
		Copy         vector.Hex
	}
	Streams []struct {
		About  string
		Bodies []vector.Hex
		Stream vector.Hex
	}
}

func TestCopiesAreAsTheVectorsSay(t *testing.T) {
	var vectors copyVectors
	vector.Read(t, "copies.json", &vectors)
	if len(vectors.Copies) < 6 || len(vectors.Refused) < 6 {
		t.Fatal("there are too few vectors")
	}
	for _, v := range vectors.Copies {
		want := record.Copy{Domain: vectors.Domain, Table: v.Table, Key: v.Key, Sealed: v.Record}
		got, err := record.DecodeCopy(v.Copy)
		if err != nil || !reflect.DeepEqual(got, want) || got.IsLater() != v.Later {
			t.Errorf("%s: reads as %+v, %v, want %+v", v.About, got, err, want)
		}
		if b := want.Encode(); !bytes.Equal(b, v.Copy) {
			t.Errorf("%s: is written as\n%x, want\n%x", v.About, b, v.Copy)
		}
	}
	for _, v := range vectors.Refused {
		want := map[string]error{"damaged": record.ErrDamaged, "newer": record.ErrNewer}[v.Error]
		if _, err := record.DecodeCopy(v.Copy); want == nil || !errors.Is(err, want) {
			t.Errorf("%s: %v, want %s", v.About, err, v.Error)
		}
	}
}

func FuzzDecodeCopy(f *testing.F) {
	f.Add(copyOf(record.TableKeys, keyID[:], fullKey().Encode()).Encode())
	f.Add(copyOf(record.TableGroups, []byte("home"), nil).Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := record.DecodeCopy(b)
		if err != nil {
			if !errors.Is(err, record.ErrNewer) {
				wantDamaged(t, err)
			}
			return
		}
		if again, err := record.DecodeCopy(c.Encode()); err != nil || !reflect.DeepEqual(again, c) {
			t.Errorf("%x reads back as %+v, %v, want %+v", c.Encode(), again, err, c)
		}
	})
}
