// Package replica lets stores share users and keys over a network: a hub, which other stores join,
// and edges, which have joined it.
//
// An edge is a store of its own. It has a file, and it checks tokens without asking anybody, also
// while the network is down. What changes at the hub reaches the edge within a moment if the edge
// follows the hub, or at its next [Edge.Sync]. The hub decides which changes an edge may make.
//
// # A hub
//
// A [Hub] is an [http.Handler] over a store that the program has opened:
//
//	store, err := latchkey.Open("keys.db", nil)
//	pair, err := tls.LoadX509KeyPair("hub.crt", "hub.key")
//	hub := replica.NewHub(store, &replica.HubOptions{Certificate: pair.Leaf})
//	server := &http.Server{Addr: ":7443", Handler: hub}
//	go server.ListenAndServeTLS("hub.crt", "hub.key")
//	invitation, err := hub.Invite(ctx, replica.Policy{Groups: []string{"shop-17"}})
//
// The certificate needs no authority, because an invitation has the hash of the hub's public key.
// The handler serves paths that begin with /latchkey/v1/. A Hub has nothing to close: closing the
// store ends its streams.
//
// # An edge
//
// An invitation is good for one edge, and for an hour:
//
//	edge, err := replica.Join(ctx, "https://hub.example:7443", invitation, "till.db", nil)
//	go edge.Follow(ctx)
//	principal, err := edge.Store().Login(ctx, token)
//
// After a restart, [Open] takes the place of [Join]. It needs no network. The credential of the
// edge is in a file of its own beside the store, till.db.edge. So neither a backup nor a copy of
// the store has it.
//
// # What an edge gets, and what it may change
//
// A [Policy] names the groups whose records an edge gets, and what it may push to the hub. A call
// that the policy does not let an edge push returns [latchkey.ErrNotPermitted] there, and changes
// nothing. Disabling is an exception. It holds at the edge at once, and reaches the hub as a
// [Claim], which an administrator confirms or refuses.
//
// # When the hub cannot be reached
//
// With [BestEffort], what the edge has heard last holds. With [Strict], logins fail with
// [latchkey.ErrStale] when the edge has heard nothing of the hub for too long.
//
// docs/replication.md has the protocol, and docs/threat-model.md says what a stolen edge can do.
package replica
