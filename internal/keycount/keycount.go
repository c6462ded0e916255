// Package keycount counts the keys of owners, once in a transaction that asks many times.
package keycount

import (
	"iter"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/record"
)

// Counts are the numbers of keys of the owners whose keys were counted. The zero Counts has none.
type Counts struct{ of map[uuid.UUID]*count }

// count is the number of an owner's keys.
type count struct {
	all     int
	expired int // -1 until the expired ones were counted
}

// All returns the number of an owner's keys, which keys yields. It does not count the expired ones,
// because it reads no records.
func (c *Counts) All(owner uuid.UUID, keys iter.Seq2[uuid.UUID, error]) (int, error) {
	if n := c.of[owner]; n != nil {
		return n.all, nil
	}
	n := &count{expired: -1}
	for _, err := range keys {
		if err != nil {
			return 0, err
		}
		n.all++
	}
	if c.of == nil {
		c.of = make(map[uuid.UUID]*count)
	}
	c.of[owner] = n
	return n.all, nil
}

// Expired returns the number of an owner's keys that have expired. records yields the owner's keys.
// All must have been called for the owner.
func (c *Counts) Expired(owner uuid.UUID, records iter.Seq2[*record.Key, error], now time.Time) (int, error) {
	n := c.of[owner]
	if n.expired >= 0 {
		return n.expired, nil
	}
	expired := 0
	for k, err := range records {
		if err != nil {
			return 0, err
		}
		if k.ExpiredAt(now) {
			expired++
		}
	}
	n.expired = expired
	return expired, nil
}

// Made adds a key that was made to the number of an owner's keys, if they have been counted.
func (c *Counts) Made(owner uuid.UUID) {
	if n := c.of[owner]; n != nil {
		n.all++
	}
}

// Deleted takes a key that was deleted off the number of its owner's keys, if they have been
// counted.
func (c *Counts) Deleted(k *record.Key, now time.Time) {
	n := c.of[k.Owner]
	if n == nil {
		return
	}
	n.all--
	if n.expired >= 0 && k.ExpiredAt(now) {
		n.expired--
	}
}

// Revived takes a key of an owner off the expired ones, if they have been counted.
func (c *Counts) Revived(owner uuid.UUID) {
	if n := c.of[owner]; n != nil && n.expired >= 0 {
		n.expired--
	}
}
