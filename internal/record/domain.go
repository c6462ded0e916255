package record

import (
	"fmt"

	"github.com/google/uuid"
)

// A Domain is what the stores of a domain have in common besides their tag secrets. It is made with
// the first store of the domain, and never changes.
type Domain struct {
	ID uuid.UUID
	// UserSecret is the secret from which user IDs are derived.
	UserSecret [32]byte
	Prefix     string // of tokens, without the underscore
}

// Encode returns the domain's message.
func (d Domain) Encode() []byte {
	var m Message
	m.Bytes(1, d.ID[:])
	m.Bytes(2, d.UserSecret[:])
	m.Bytes(3, []byte(d.Prefix))
	return m
}

// DecodeDomain reads a domain's message.
//
// Errors: [ErrDamaged].
func DecodeDomain(message []byte) (d Domain, err error) {
	hasSecret := false
	for f, err := range Fields(message) {
		if err != nil {
			return d, err
		}
		switch f.Num {
		case 1:
			d.ID, err = DecodeID(f.Bytes)
		case 2:
			hasSecret = copy(d.UserSecret[:], f.Bytes) == len(f.Bytes) && len(f.Bytes) == len(d.UserSecret)
		case 3:
			d.Prefix = string(f.Bytes)
		}
		if err != nil {
			return d, err
		}
	}
	if d.ID == uuid.Nil || !hasSecret || d.Prefix == "" {
		return d, fmt.Errorf("%w: the domain is incomplete", ErrDamaged)
	}
	return d, nil
}

// A Replica is what a store knows of itself among the stores of its domain.
type Replica struct {
	ID uuid.UUID
	// Shared says that the domain has or had another store. While it is false, no other store can
	// know of a change, and a record need not keep what only merging needs.
	Shared bool
	// Restores is how often the engine was restored from an earlier state, as far as the processes
	// of the store have noticed it and written another ID.
	Restores uint64
}

// Encode returns the replica's message.
func (r Replica) Encode() []byte {
	var m Message
	m.Bytes(1, r.ID[:])
	m.Bool(2, r.Shared)
	m.Number(3, r.Restores)
	return m
}

// DecodeReplica reads a replica's message.
//
// Errors: [ErrDamaged].
func DecodeReplica(message []byte) (r Replica, err error) {
	for f, err := range Fields(message) {
		if err != nil {
			return r, err
		}
		switch f.Num {
		case 1:
			r.ID, err = DecodeID(f.Bytes)
		case 2:
			r.Shared = f.Number != 0
		case 3:
			r.Restores = f.Number
		}
		if err != nil {
			return r, err
		}
	}
	if r.ID == uuid.Nil {
		return r, fmt.Errorf("%w: the replica has no ID", ErrDamaged)
	}
	return r, nil
}
