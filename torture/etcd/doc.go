// Package etcd tests stores that share a cluster of etcd. The cluster has three nodes, each a
// process that tests kill, stop, cut off and start again. The package has only tests.
package etcd
