package etcd

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/latchkeydb/latchkey"
)

// ErrFaultyServer means that a member of etcd runs a release with known faults. The text names the
// member and the first release without them. Upgrade the member.
var ErrFaultyServer = errors.New("etcd member runs a release with known faults")

// sound has the first release of each minor version of etcd 3 without the faults that a store
// cannot live with: acknowledged writes that get lost, reads that are not linearizable, and watches
// that report progress before the events.
var sound = map[int]int{4: 42, 5: 28, 6: 14, 7: 1}

// checkVersion returns an error if a release has known faults.
func checkVersion(version string) error {
	var major, minor, patch int
	if _, err := fmt.Sscanf(version, "%d.%d.%d", &major, &minor, &patch); err != nil {
		return fmt.Errorf("etcd member has the version %q, which cannot be read", version)
	}
	first, listed := sound[minor]
	switch {
	case major != 3 || listed && patch >= first || minor > 7:
		return nil
	case listed:
		return fmt.Errorf("%w: it runs %s, and 3.%d.%d is the first of its line without them", ErrFaultyServer, version, minor, first)
	}
	return fmt.Errorf("%w: it runs %s, and nobody mends that line", ErrFaultyServer, version)
}

// checkVersions asks all members for their versions. Members that do not answer do not matter if
// another one does.
func (e *engine) checkVersions(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, e.opts.timeout())
	defer cancel()
	endpoints := e.client.Endpoints()
	type result struct {
		status *clientv3.StatusResponse
		err    error
	}
	results := make(chan result, len(endpoints))
	var asking sync.WaitGroup
	for _, endpoint := range endpoints {
		asking.Go(func() {
			status, err := e.client.Status(limited, endpoint)
			results <- result{status, err}
		})
	}
	go func() {
		asking.Wait()
		close(results)
	}()
	answered, failure := 0, error(latchkey.ErrUnavailable)
	var enough <-chan time.Time // when a member has answered, the others get another second
	for {
		select {
		case r, ok := <-results:
			switch {
			case !ok && answered > 0:
				return nil
			case !ok:
				return e.explain(ctx, failure)
			case r.err != nil:
				failure = r.err
				continue
			}
			if err := checkVersion(r.status.Version); err != nil && !e.opts.AcceptFaultyServers {
				return err
			}
			answered++
			enough = time.After(time.Second)
		case <-enough:
			return nil
		}
	}
}
