package migrate

import (
	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/internal/record"
)

// A mark is in the table meta of an unfinished copy. A store has no mark.
type mark struct {
	run     uuid.UUID // of the call of Copy that writes the copy
	replica uuid.UUID // of the store that is being copied
}

func (m mark) write(tx latchkey.EngineTx) error {
	var message record.Message
	message.Bytes(1, m.run[:])
	message.Bytes(2, m.replica[:])
	return putMeta(tx, record.MetaMigration, message)
}

// readMark returns the mark, or the zero mark if there is none.
func readMark(tx latchkey.EngineTx) (m mark, err error) {
	get := func(key []byte) ([]byte, error) { return tx.Get(record.TableMeta, key) }
	message, err := record.GetMeta(get, record.MetaMigration)
	if err != nil {
		return m, storeError(err)
	}
	for f, err := range record.Fields(message) {
		switch {
		case err != nil:
		case f.Num == 1:
			m.run, err = record.DecodeID(f.Bytes)
		case f.Num == 2:
			m.replica, err = record.DecodeID(f.Bytes)
		}
		if err != nil {
			return m, storeError(err)
		}
	}
	return m, nil
}

// isOurs returns ErrTakenOver unless the mark is the one that this call has written.
func (c *copying) isOurs(tx latchkey.EngineTx) error {
	m, err := readMark(tx)
	if err == nil && m.run != c.run {
		err = ErrTakenOver
	}
	return err
}

func putMeta(tx latchkey.EngineTx, key string, message record.Message) error {
	return tx.Put(record.TableMeta, []byte(key), record.Seal(record.TableMeta, []byte(key), message))
}
