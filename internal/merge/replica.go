package merge

import (
	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/record"
)

// Share writes that the domain has several stores, and returns the record of the replica as it is
// then. If the record cannot be read, it stays, and known is what it was.
func (t *Tables) Share(known record.Replica) (record.Replica, error) {
	r, err := t.Replica()
	if err != nil {
		known.Shared = true
		return known, nil
	}
	if r.Shared {
		return r, nil
	}
	r.Shared = true
	return r, t.putReplica(r)
}

// Replica returns the record of the replica.
func (t *Tables) Replica() (record.Replica, error) {
	return record.ReadReplica(func(key []byte) ([]byte, error) { return t.Get(record.TableMeta, key) })
}

// BeginIncarnation gives the store another replica ID. A copy of the store can exist that has gone
// on from the same state.
func (t *Tables) BeginIncarnation(id uuid.UUID) (record.Replica, error) {
	r := record.Replica{ID: id, Shared: true}
	return r, t.putReplica(r)
}

// BeginRestored begins a new incarnation, because the engine was restored from an earlier state.
// before is what the caller has known of the replica until now.
//
// Several processes can notice the same restoration. If the number of restorations is greater than
// before, another process has written it since, in a history that before does not belong to, and
// BeginRestored changes nothing. The state that was restored cannot have the greater number itself,
// unless it is later than what the caller has known. Otherwise BeginRestored writes a number that
// is greater than both. So a second restoration, to whatever state, is not taken for the first.
func (t *Tables) BeginRestored(id uuid.UUID, before record.Replica) error {
	now, err := t.Replica()
	if err != nil || now.Restores > before.Restores {
		return err
	}
	return t.putReplica(record.Replica{ID: id, Shared: true, Restores: before.Restores + 1})
}

func (t *Tables) putReplica(r record.Replica) error {
	return t.Put(record.TableMeta, []byte(record.MetaReplica), record.Seal(record.TableMeta, []byte(record.MetaReplica), r.Encode()))
}
