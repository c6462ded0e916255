package replication

import (
	"bytes"

	"github.com/latchkeydb/latchkey/internal/merge"
	"github.com/latchkeydb/latchkey/internal/record"
)

func after(prefix string) []byte { return append([]byte(prefix[:len(prefix)-1]), '/'+1) }

func getLocal(t *merge.Tables, key []byte) ([]byte, error) {
	sealed, err := t.Get(record.TableReplica, key)
	if err != nil || sealed == nil {
		return nil, err
	}
	return record.Open(record.TableReplica, key, sealed)
}

func putLocal(t *merge.Tables, key []byte, message record.Message) error {
	return t.Put(record.TableReplica, key, record.Seal(record.TableReplica, key, message))
}

func scanLocal(t *merge.Tables, prefix string, fn func(key, message []byte) error) error {
	for e, err := range t.Scan(record.TableReplica, []byte(prefix), after(prefix)) {
		if err != nil {
			return err
		}
		message, err := record.Open(record.TableReplica, e.Key, e.Value)
		if err == nil {
			err = fn(bytes.TrimPrefix(e.Key, []byte(prefix)), message)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func locate(table string, key []byte) []byte { return append(append([]byte(table), 0), key...) }

func located(b []byte) (table string, key []byte) {
	of, key, _ := bytes.Cut(b, []byte{0})
	return string(of), key
}
