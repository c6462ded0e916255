package follow_test

import (
	"bytes"
	"context"
	"errors"
	"reflect"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/cache"
	"github.com/latchkeydb/latchkey/internal/follow"
	"github.com/latchkeydb/latchkey/internal/record"
)

// memory is a memory that notes what it is told.
type memory struct {
	dropped cache.Stale
	cleared bool
	handles []record.Handle
	shared  bool
	news    []follow.News
	err     error // of Reread
	during  func()
}

func (m *memory) Drop(s cache.Stale) { m.dropped.Add(s) }
func (m *memory) Clear()             { m.cleared = true }

func (m *memory) follower(fresh *atomic.Bool) *follow.Follower {
	return follow.New(follow.Memory{
		Answers: m,
		Learn:   func(h record.Handle) { m.handles = append(m.handles, h) },
		Shared:  func() bool { return m.shared },
		Reread: func(_ context.Context, n follow.News) error {
			if m.during != nil {
				m.during()
			}
			m.news = append(m.news, n)
			return m.err
		},
	}, fresh.Load)
}

// change calls Changed with one entry.
func change(f *follow.Follower, table string, key []byte) {
	f.Changed(follow.Entries([]string{table}, func(table string) (string, []byte) { return table, key }))
}

func TestEachChangeForgetsWhatDependsOnIt(t *testing.T) {
	id := uuid.Must(uuid.NewV7())
	key, user, group := cache.Stale{Keys: []uuid.UUID{id}}, cache.Stale{Users: []uuid.UUID{id}}, cache.Stale{Groups: []string{"Oslo"}}
	later := func(table string, key []byte) []byte { return bytes.Join([][]byte{[]byte(table), key}, []byte{0}) }
	handle := record.Handle{1, 2}
	name := record.NameKey(id, "laptop", id)
	for _, tt := range []struct {
		table   string
		key     []byte
		alone   bool // in a domain with one store
		dropped cache.Stale
		handle  bool
		news    follow.News
	}{
		{table: record.TableKeys, key: id[:], dropped: key},
		{table: record.TableDeadKeys, key: id[:], dropped: key},
		{table: record.TableUsers, key: id[:], dropped: user},
		{table: record.TableDeadUsers, key: id[:], dropped: user},
		{table: record.TableGroups, key: []byte("Oslo"), dropped: group},
		{table: record.TableLater, key: later(record.TableKeys, id[:]), dropped: key},
		{table: record.TableLater, key: later(record.TableDeadUsers, id[:]), dropped: user},
		{table: record.TableLater, key: later(record.TableGroups, []byte("Oslo")), dropped: group},
		{table: record.TableHandles, key: record.HandleKey(handle, id), handle: true},
		{table: record.TableNames, key: name, news: follow.News{Names: [][]byte{name}}},
		{table: record.TableNames, key: name, alone: true},
		{table: record.TableIdentities, key: []byte("i"), news: follow.News{Identities: [][]byte{[]byte("i")}}},
		{table: record.TableIdentities, key: []byte("i"), alone: true},
		{table: record.TableMeta, key: []byte(record.MetaClock), news: follow.News{Clock: true}},
		{table: record.TableMeta, key: []byte(record.MetaBuried)},
		{table: record.TableMeta, key: []byte(record.MetaTags), news: follow.News{Meta: true}},
		{table: record.TableMeta, key: []byte(record.MetaReplica), news: follow.News{Meta: true}},
		{table: record.TableLastUse, key: id[:]},
		{table: record.TableHashes, key: id[:]},
		{table: record.TableKeys, key: []byte("damaged")},
	} {
		t.Run(tt.table+" "+string(tt.key), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var fresh atomic.Bool
				m := &memory{shared: !tt.alone}
				f := m.follower(&fresh)
				go f.Run(t.Context())
				change(f, tt.table, tt.key)
				synctest.Wait()
				if !reflect.DeepEqual(m.dropped, tt.dropped) {
					t.Errorf("it forgets %+v, want %+v", m.dropped, tt.dropped)
				}
				if (len(m.handles) > 0) != tt.handle {
					t.Errorf("it learns %v", m.handles)
				}
				var news follow.News
				if len(m.news) > 0 {
					news = m.news[0]
				}
				if !reflect.DeepEqual(news, tt.news) {
					t.Errorf("it reads %+v, want %+v", news, tt.news)
				}
			})
		})
	}
}

func TestTheMemoryIsNotBelievedBeforeItIsReadAgain(t *testing.T) {
	lost := (*follow.Follower).Lost
	tags := func(f *follow.Follower) { change(f, record.TableMeta, []byte(record.MetaTags)) }
	for name, happens := range map[string]func(*follow.Follower){"lost": lost, "tag secrets": tags} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var fresh atomic.Bool
				m := &memory{err: errors.New("cut off")}
				f := m.follower(&fresh)
				if f.Known() {
					t.Error("it is believed before it is fresh")
				}
				if fresh.Store(true); !f.Known() {
					t.Error("it is not believed, although nothing has happened")
				}
				if happens(f); f.Known() {
					t.Error("it is believed before it was read again")
				}
				go f.Run(t.Context())
				synctest.Wait()
				if f.Known() {
					t.Error("it is believed although it could not be read")
				}
				m.during = func() { tags(f); m.during = nil }
				m.err = nil
				f.Poke()
				synctest.Wait()
				if n := len(m.news); n != 3 || !reflect.DeepEqual(m.news[1], m.news[0]) {
					t.Errorf("it was read %+v, want three times: in vain, again, and for what came meanwhile", m.news)
				}
				if !f.Known() {
					t.Error("it is not believed after it was read")
				}
				if m.cleared != (name == "lost") {
					t.Errorf("all answers are forgotten: %t", m.cleared)
				}
			})
		})
	}
}

func TestWhatCouldNotBeReadIsReadAgainWithoutNews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var fresh atomic.Bool
		m := &memory{err: errors.New("cut off")}
		f := m.follower(&fresh)
		change(f, record.TableMeta, []byte(record.MetaClock))
		ctx, cancel := context.WithCancel(t.Context())
		m.during = func() {
			if len(m.news) == 3 {
				m.err = nil
				cancel()
			}
		}
		f.Run(ctx) // whose clock goes on while all wait
		if len(m.news) != 4 {
			t.Errorf("it was read %d times, want 4", len(m.news))
		}
	})
}

// restored is an engine that was restored until a store has begun a new incarnation.
type restored struct{ times, renewed atomic.Uint64 }

func (r *restored) Restored() uint64 {
	if times := r.times.Load(); times != r.renewed.Load() {
		return times
	}
	return 0
}

func (r *restored) Renewed(times uint64) { r.renewed.Store(times) }

func TestANewIncarnationThatCannotBeginIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var fresh, full atomic.Bool
		fresh.Store(true)
		full.Store(true)
		var tries, readings atomic.Int32
		engine := &restored{}
		f := follow.New(follow.Memory{
			Answers:  &memory{},
			Learn:    func(record.Handle) {},
			Shared:   func() bool { return true },
			Restores: engine,
			Renew: func(context.Context) error {
				if tries.Add(1) <= readings.Load()-1 {
					t.Error("the store has read again before it has a new incarnation")
				}
				if full.Load() {
					return errors.New("full")
				}
				return nil
			},
			Reread: func(context.Context, follow.News) error {
				readings.Add(1)
				return nil
			},
		}, fresh.Load)
		go f.Run(t.Context())
		f.Lost()
		synctest.Wait()
		if tries.Load() != 0 || readings.Load() != 1 {
			t.Fatalf("%d new incarnations and %d readings, want 0 and 1", tries.Load(), readings.Load())
		}
		engine.times.Store(1)
		f.Lost()
		synctest.Wait()
		if tries.Load() != 1 || engine.renewed.Load() != 0 || !f.Known() {
			t.Errorf("after %d tries, the engine was told of %d, and the memory is believed: %t", tries.Load(), engine.renewed.Load(), f.Known())
		}
		full.Store(false)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if tries.Load() != 2 || engine.renewed.Load() != 1 {
			t.Errorf("after %d tries, the engine was told of %d", tries.Load(), engine.renewed.Load())
		}
	})
}
