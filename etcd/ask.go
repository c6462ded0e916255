package etcd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/latchkeydb/latchkey"
)

// ask calls request, which reads from etcd, as repeat does, for as long as Timeout.
//
// Errors: ctx's error; [latchkey.ErrUnavailable]; an error of etcd.
func ask[T any](ctx context.Context, e *engine, request func(ctx context.Context) (T, error)) (T, error) {
	return askFor(ctx, e, e.opts.timeout(), request)
}

// askFirst is ask for the first request of a transaction. While etcd cannot be reached, askFirst
// waits for less long, so that logins are refused soon. A transaction that has begun goes on with
// ask, because a long one must not fail when etcd is slow for a moment.
func askFirst[T any](ctx context.Context, e *engine, request func(ctx context.Context) (T, error)) (T, error) {
	timeout := e.opts.timeout()
	if e.feed.unreachable.Load() {
		timeout = min(timeout, e.opts.watchAge()/2) // which was too short for the last question
	}
	return askFor(ctx, e, timeout, request)
}

func askFor[T any](ctx context.Context, e *engine, timeout time.Duration, request func(ctx context.Context) (T, error)) (T, error) {
	v, err := repeat(ctx, e, timeout, request)
	return v, e.explain(ctx, err)
}

// repeat calls request until it has an answer, or timeout has passed. request may run several times
// at once. A member that is silent must not use up the time. So the first attempt has an eighth of
// timeout. The next ones have more, in case that all members are slow, and ask all members, because
// the client gives each request to the next member.
func repeat[T any](ctx context.Context, e *engine, timeout time.Duration, request func(ctx context.Context) (T, error)) (T, error) {
	all, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	members := min(max(len(e.client.Endpoints()), 1), 5)
	for attempt := 0; ; attempt++ {
		one, cancel := context.WithTimeout(all, timeout>>max(3-attempt, 1))
		var v T
		var err error
		if attempt == 0 {
			v, err = request(one)
		} else {
			v, err = together(one, members, request)
		}
		cancel()
		if !isLost(err) || pause(all, attempt+4) != nil {
			return v, err
		}
	}
}

// together calls request n times at once. It returns the first answer, or an error of the last
// call.
func together[T any](ctx context.Context, n int, request func(ctx context.Context) (T, error)) (v T, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		v   T
		err error
	}
	answers := make(chan answer, n)
	for range n {
		go func() {
			v, err := request(ctx)
			answers <- answer{v, err}
		}()
	}
	for range n {
		a := <-answers
		if v, err = a.v, a.err; !isLost(err) {
			break
		}
	}
	return v, err
}

// explain returns the error of a request as the engine's callers know it.
func (e *engine) explain(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case isLost(err):
		return e.unanswered(err)
	}
	return fmt.Errorf("etcd: %w", err)
}

// unanswered returns the [latchkey.ErrUnavailable] after an error of the client, or after none.
func (e *engine) unanswered(err error) error {
	if err = cmp.Or(e.reason.last(), err); err == nil {
		return fmt.Errorf("%w: etcd does not answer", latchkey.ErrUnavailable)
	}
	return fmt.Errorf("%w: etcd does not answer: %v", latchkey.ErrUnavailable, err)
}

// reason knows why the last request had no connection. The errors of the client tell only that time
// has run out.
type reason struct{ text atomic.Pointer[string] }

// note is an interceptor for all requests of a client.
func (r *reason) note(ctx context.Context, method string, request, reply any, conn *grpc.ClientConn, call grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	err := call(ctx, method, request, reply, conn, opts...)
	if status.Code(err) != codes.Canceled { // by another request that has its answer
		r.text.Store(connectionError(err))
	}
	return err
}

// last returns the reason of the last request, or nil if it had a connection or its error names
// none. r can be nil.
func (r *reason) last() error {
	if r == nil {
		return nil
	}
	if text := r.text.Load(); text != nil {
		return errors.New(*text)
	}
	return nil
}

// inConnection finds the error of a connection in a text of gRPC.
var inConnection = regexp.MustCompile(`connection error: desc = ("(?:[^"\\]|\\.)*")`)

// connectionError returns the error of a connection that is in the error of a request, or nil.
func connectionError(err error) *string {
	found := inConnection.FindStringSubmatch(status.Convert(err).Message())
	if found == nil {
		return nil
	}
	text, err := strconv.Unquote(found[1])
	if err != nil {
		return nil
	}
	text = strings.TrimPrefix(strings.TrimPrefix(text, "transport: "), "Error while dialing: ")
	return &text
}

// isLost reports whether err says that a server could not be reached, cannot serve now, or has not
// answered in time.
func isLost(err error) bool {
	if err == nil {
		return false
	}
	if e, ok := errors.AsType[rpctypes.EtcdError](err); ok {
		return e.Code() == codes.Unavailable || errors.Is(err, rpctypes.ErrTooManyRequests)
	}
	code := status.Code(err)
	return code == codes.Unavailable || code == codes.DeadlineExceeded || errors.Is(err, context.DeadlineExceeded)
}

// revision returns the revision of etcd.
func (e *engine) revision(ctx context.Context) (int64, error) {
	r, err := askFirst(ctx, e, func(ctx context.Context) (*clientv3.GetResponse, error) {
		return e.client.Get(ctx, e.keys.commit(), clientv3.WithKeysOnly())
	})
	if err != nil {
		return 0, err
	}
	return r.Header.Revision, nil
}
