package etcd

import (
	"context"
	"errors"
	"fmt"

	"github.com/latchkeydb/latchkey"
)

// EngineHealth says what is wrong with etcd, and with the watch.
func (e *engine) EngineHealth(ctx context.Context) error {
	if e.closed.Load() {
		return latchkey.ErrClosed
	}
	var errs []error
	f := e.feed
	f.mu.Lock()
	restored, lag := f.restored, f.lag
	f.mu.Unlock()
	if restored != nil {
		errs = append(errs, restored)
	}
	switch {
	case !e.started.Load():
	case f.unreachable.Load():
		errs = append(errs, e.unanswered(nil))
	case lag > lagging:
		errs = append(errs, errors.New("etcd answers, but not about the progress of the watch, so logins are not answered from the cache: connect to the members of etcd and not to its gRPC proxy"))
	}
	return errors.Join(append(errs, e.mirror.health(), e.checkSpace(ctx))...)
}

// checkSpace returns an error if a member has an alarm, or has used 80 % of its quota.
func (e *engine) checkSpace(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, e.opts.watchAge())
	defer cancel()
	var errs []error
	for _, endpoint := range e.client.Endpoints() {
		s, err := e.client.Status(ctx, endpoint)
		if err != nil {
			continue // EngineHealth reports an etcd that does not answer
		}
		for _, problem := range s.Errors {
			errs = append(errs, fmt.Errorf("etcd member %s: %s", endpoint, problem))
		}
		if s.DbSizeQuota > 0 && s.DbSize > s.DbSizeQuota/5*4 {
			errs = append(errs, fmt.Errorf("etcd member %s: it uses %d %% of its quota: compact and defragment it, or raise the quota",
				endpoint, 100*s.DbSize/s.DbSizeQuota))
		}
	}
	return errors.Join(errs...)
}
