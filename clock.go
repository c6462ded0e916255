package latchkey

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/clock"
	"github.com/latchkeydb/latchkey/internal/record"
)

// The store's time never runs backwards. It is at least the time that the file remembers, moved on
// by the monotonic clock, and the clock moves it forward. Package clock does that while the store
// is open. This file is about what the file remembers.

// releaseDate is when this version was released, 2026-01-01. No store believes an earlier time. No
// version has been released yet.
const releaseDate = 1767225600 // in seconds since 1970, because reading a date takes more code

// rememberAfter is how old the remembered time is when a write renews it. So the time of a store
// that is written costs two pages a minute, and an expired key is remembered as expired after a
// minute.
const rememberAfter = time.Minute

// newStoreClock returns a clock that knows nothing of a file yet.
func newStoreClock(opts *Options) *clock.Kept {
	if opts.testClock() {
		return clock.Keep(clock.NewTest(opts.now()))
	}
	return clock.Keep(clock.New(opts.now(), time.Unix(releaseDate, 0).UTC()))
}

// Now returns the store's time, in UTC and to the millisecond. The store judges expiry dates by
// this time, and gives it to new users and keys as their creation time.
//
// The time goes by the clock, which is the system's or [Options].Now, but it never runs backwards
// in one store. If the clock is set back, the time goes on by the system's monotonic clock. The
// file remembers the time: a change renews it if it is more than a minute old. So the time also
// goes on after the store was opened again, on a device whose clock begins in 1970 each time. No
// time is earlier than the release of this version. The store looks at the clock each second.
//
// If the time is ahead of the clock by no more than ten minutes, it runs slower by a thousandth
// until the clock has caught up. A greater lead is a finding of [Store.Health], and
// [Store.ResetClock] ends it. [Options].TestClock switches all of this off.
func (s *Store) Now() time.Time { return s.now() }

func (s *Store) now() time.Time { return s.clock.Now() }

// Now returns the time by which the transaction judges expiry dates. It is [Store.Now] at the first
// use, and stays the same until the transaction ends.
func (tx *Tx) Now() time.Time { return tx.now() }

// newID makes an ID of version 7 by the store's time, and returns the time in it.
func (s *Store) newID() (uuid.UUID, time.Time) { return s.random.ID(s.now) }

// ResetClock sets the store's time to the clock's, if the store's time is ahead. It is the remedy
// for a clock that was far ahead once, and is right now: the store has remembered the wrong time,
// and [Store.Health] says so with [ErrClockBehind]. See that the clock is right before you call
// ResetClock.
//
// The effect on keys: a key that has expired by the wrong time is good again, if its expiry date is
// still ahead by the clock's time. It has the name that it has now, and counts again towards
// [Options].MaxKeysPerUser. Users and keys that were made in the meantime keep their creation
// times, which are in the future. Nothing else changes.
//
// The file counts the calls, see [Stats].ClockResets, and [Options].OnChange hears of each. With
// [Options].TestClock, ResetClock does nothing.
//
// It returns [ErrClockBehind] if the clock is before the release of this version, because then the
// clock is wrong; or an error of [Store.Update].
func (s *Store) ResetClock(ctx context.Context) error { return s.resetClock(ctx, false) }

// resetClock is ResetClock, perhaps as a part of a merge.
func (s *Store) resetClock(ctx context.Context, merging bool) error {
	err := s.Update(ctx, func(tx *Tx) error {
		tx.merging = merging
		now := s.clock.Wall()
		if s.clock.IsTest() {
			return nil
		}
		if now.Before(s.clock.Least()) {
			return fmt.Errorf("%w: it says %s, before the release of this version, so set the clock first", ErrClockBehind, now.UTC().Format(time.RFC3339))
		}
		c, err := loadClock(tx.etx)
		if err != nil {
			return err
		}
		c.Time = now
		c.Resets++
		tx.newClock = &c
		tx.note(Change{Actions: []Action{ActionClockReset}})
		return tx.putClock(c)
	})
	return wrapf(err, "reset the clock")
}

// metaClock is the key of the remembered time in the table meta.
var metaClock = []byte(record.MetaClock)

// loadClock returns what the file remembers of the time. If that is nothing, loadClock returns the
// zero Clock.
func loadClock(etx EngineTx) (record.Clock, error) {
	message, err := record.GetMeta(metaRecords(etx), record.MetaClock)
	if err != nil || message == nil {
		return record.Clock{}, recordError(err)
	}
	c, err := record.DecodeClock(message)
	return c, recordError(err)
}

func (tx *Tx) putClock(c record.Clock) error { return tx.putRecord(tableMeta, metaClock, c.Encode()) }

// readClock takes over what the file remembers of the time.
func (s *Store) readClock(ctx context.Context) error {
	return s.engine.View(ctx, func(etx EngineTx) error {
		c, err := loadClock(etx)
		if err == nil {
			s.clock.Adopt(c)
		}
		return err
	})
}

// rememberTime writes the time of the transaction, if the remembered time is too old. It returns
// what it has written, or nil.
func (tx *Tx) rememberTime() (*record.Clock, error) {
	s := tx.store
	kept := s.clock.Kept()
	if s.clock.IsTest() || tx.newClock != nil || tx.now().Sub(kept.Time) <= rememberAfter {
		return tx.newClock, nil
	}
	c, err := loadClock(tx.etx)
	switch {
	case errors.Is(err, ErrCorrupt):
		return nil, nil // no reason to refuse the change, which may disable a key
	case err != nil:
		return nil, err
	case c.Resets != kept.Resets || !tx.now().After(c.Time):
		return nil, nil // by a transaction that shares the commit with this one
	}
	c.Time = tx.now()
	return &c, tx.putClock(c)
}

// clockFinding returns ErrClockBehind if the store's time is too far ahead of the clock, or nil.
func (s *Store) clockFinding() error {
	if s.clock.IsTest() {
		return nil
	}
	ahead := s.clock.Ahead()
	if ahead <= clock.Tolerance {
		return nil
	}
	return fmt.Errorf("%w by %s", ErrClockBehind, ahead.Round(time.Minute))
}
