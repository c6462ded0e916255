package etcd

import (
	"context"
	"fmt"
	"os"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

// freshCredentials returns an interceptor that puts the user and the password of a file into each
// request for a token. The client asks for a token for each new stream, and when a server refuses
// the former token, as it does after a change of the password. If the file cannot be used at this
// moment, because it is half written for example, the request keeps what the file had when the
// client was made.
func freshCredentials(path string) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, request, reply any, conn *grpc.ClientConn, call grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		if _, ok := request.(*pb.AuthenticateRequest); ok {
			if user, password, err := readCredentials(path); err == nil {
				request = &pb.AuthenticateRequest{Name: user, Password: password}
			}
		}
		return call(ctx, method, request, reply, conn, opts...)
	}
}

// readCredentials reads a file with a user and a password. Its errors do not repeat what is in the
// file.
func readCredentials(path string) (user, password string, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", "", err
	}
	line := strings.TrimRight(string(b), "\r\n")
	user, password, _ = strings.Cut(line, ":")
	if user == "" || password == "" || strings.ContainsAny(line, "\n\x00") {
		return "", "", fmt.Errorf("%s must have one line, USER:PASSWORD", path)
	}
	return user, password, nil
}
