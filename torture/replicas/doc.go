// Package replicas tests a hub and its edges as processes that are killed, cut off and started
// again. The package has only tests. Package replication, beside it, tests the same rules in a
// simulation, which finds more and can be replayed.
package replicas
