// Package etcdtest tests the command on a store on etcd. The server of etcd runs in the process of
// the tests, so that neither the command nor its other tests compile the server.
package etcdtest
