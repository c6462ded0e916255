// Package replication simulates a hub and its edges: stores in memory, machines that crash at any
// transaction and go on from backups, devices that are cloned, clocks that are wrong, a network
// that cuts, repeats and loses, changes everywhere, and a thief. A run depends on its seed alone.
// In the end there are no faults, and after a few rounds all replicas must agree.
//
//   - model.go is the reference: what two versions of a record merge to, on one page.
//   - observe.go reads records into the model, and node.go compares each step of a machine with it.
//   - operations.go has the changes, thief.go the thefts, and network.go the messages.
//   - run.go draws what happens, and agree.go is the end of a run.
//   - bug.go has faults that are planted to see that a run finds them.
package replication
