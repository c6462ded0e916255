package admin

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
)

// The table has what was made by requests with an Idempotency-Key. An entry under "k" and a hash
// has the hash of the request, the ID of what it made, and the time; an entry under "t", the time
// and the hash of the first one lets old entries be found. The Idempotency-Key itself is not kept.
const idempotencyTable = "admin-idempotency"

const (
	idempotencyFor  = 24 * time.Hour
	maxIdempotency  = 128 // bytes of an Idempotency-Key
	forgetAtATime   = 16  // old entries for each new one, so that they cannot pile up
	idempotencySize = sha256.Size + 16 + 8
)

// once runs makes in a transaction, and returns the ID that it returns. If the request has an
// Idempotency-Key with which the caller has made something before, once returns the ID of that
// instead, and repeated is true. If makes is nil, once only looks.
//
// Errors: errIdempotencyReused if the earlier request was another one; errBadRequest; an error of
// makes or of [latchkey.Store.Update].
func (c *call) once(body any, makes func(*latchkey.Tx) (uuid.UUID, error)) (id uuid.UUID, repeated bool, err error) {
	name, request, err := c.idempotencyKey(body)
	if err != nil {
		return uuid.Nil, false, err
	}
	if makes == nil {
		if name == nil {
			return uuid.Nil, false, nil
		}
		err = c.store.View(c.r.Context(), func(tx *latchkey.Tx) (err error) {
			id, repeated, err = made(tx, name, request)
			return err
		})
		return id, repeated, err
	}
	err = c.store.Update(c.r.Context(), func(tx *latchkey.Tx) (err error) {
		id, repeated = uuid.Nil, false
		if name == nil {
			id, err = makes(tx)
			return err
		}
		if id, repeated, err = made(tx, name, request); err != nil || repeated {
			return err
		}
		if id, err = makes(tx); err != nil {
			return err
		}
		return rememberMade(tx, name, request, id)
	})
	return id, repeated, err
}

// idempotencyKey returns the name of the request's Idempotency-Key in the table, and the hash of
// the request. The name is nil if the request has no Idempotency-Key. Callers do not share names.
func (c *call) idempotencyKey(body any) (name, request []byte, err error) {
	values := c.r.Header.Values("Idempotency-Key")
	if len(values) == 0 {
		return nil, nil, nil
	}
	if len(values) > 1 || values[0] == "" || len(values[0]) > maxIdempotency {
		return nil, nil, fmt.Errorf("%w: there must be one Idempotency-Key of 1 to %d bytes", errBadRequest, maxIdempotency)
	}
	text, err := json.Marshal(body)
	if err != nil {
		return nil, nil, err
	}
	n := sha256.Sum256(fmt.Appendf(nil, "%d:%s%s", len(c.caller.Actor), c.caller.Actor, values[0]))
	r := sha256.Sum256(fmt.Appendf(nil, "%s\n%s", c.r.URL.Path, text))
	return n[:], r[:], nil
}

// made returns what a request with an Idempotency-Key has made before.
func made(tx *latchkey.Tx, name, request []byte) (id uuid.UUID, ok bool, err error) {
	value, err := tx.AppTable(idempotencyTable).Get(append([]byte("k"), name...))
	if err != nil || len(value) != idempotencySize {
		return uuid.Nil, false, err
	}
	at := time.UnixMilli(int64(binary.BigEndian.Uint64(value[sha256.Size+16:])))
	if !tx.Now().Before(at.Add(idempotencyFor)) {
		return uuid.Nil, false, nil
	}
	if !bytes.Equal(value[:sha256.Size], request) {
		return uuid.Nil, false, errIdempotencyReused
	}
	return uuid.UUID(value[sha256.Size : sha256.Size+16]), true, nil
}

// rememberMade notes what a request has made, and forgets some of the requests that are too old.
func rememberMade(tx *latchkey.Tx, name, request []byte, id uuid.UUID) error {
	table := tx.AppTable(idempotencyTable)
	now := uint64(tx.Now().UnixMilli())
	old := binary.BigEndian.AppendUint64([]byte("t"), now-uint64(idempotencyFor.Milliseconds()))
	n := 0
	for e, err := range table.Scan([]byte("t"), old) {
		if err != nil {
			return err
		}
		if n++; n > forgetAtATime {
			break
		}
		if err := forgetMade(table, e.Key); err != nil {
			return err
		}
	}
	value := append(append([]byte{}, request...), id[:]...)
	if err := table.Put(append([]byte("k"), name...), binary.BigEndian.AppendUint64(value, now)); err != nil {
		return err
	}
	return table.Put(append(binary.BigEndian.AppendUint64([]byte("t"), now), name...), []byte{})
}

// forgetMade removes an entry under "t", and the entry that it names if that is not a later one.
func forgetMade(table *latchkey.AppTable, key []byte) error {
	if len(key) > 9 {
		named := append([]byte("k"), key[9:]...)
		value, err := table.Get(named)
		if err != nil {
			return err
		}
		if len(value) == idempotencySize && bytes.Equal(value[sha256.Size+16:], key[1:9]) {
			if err := table.Delete(named); err != nil {
				return err
			}
		}
	}
	return table.Delete(key)
}
