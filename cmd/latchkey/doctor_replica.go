package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"time"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
	"github.com/latchkeydb/latchkey/replica"
)

// This file looks at what a store is for other stores, for doctor. A store that is neither an edge
// nor a hub has no finding.

// lookAtReplication looks at a store that no program has open for writing.
func lookAtReplication(ctx context.Context, path string, s *latchkey.Store) []finding {
	if isEdge(path) {
		credential := edgeFile(path)
		if info, err := os.Stat(credential); err == nil && runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
			return []finding{warning("replication", fmt.Sprintf("an edge, and other users may read its credential in %s", credential),
				"take the permission away, and join again with a new invitation if somebody can have read it")}
		}
		return []finding{good("replication", "an edge, whose credential is in %s", credential)}
	}
	edges, err := replica.NewHub(s, nil).Edges(ctx)
	switch {
	case ctx.Err() != nil:
		return nil
	case err != nil:
		return []finding{problem("replication", err)}
	case len(edges) == 0:
		return nil
	}
	claims := 0
	for _, e := range edges {
		claims += e.Claims
	}
	return hubFindings(replica.HubStatus{Edges: len(edges), Claims: claims})
}

// askReplication asks the program that has the store open.
func askReplication(ctx context.Context, client *admin.Client) []finding {
	if edge, err := client.Edge(ctx); err == nil {
		return []finding{edgeFinding(edge)}
	}
	hub, err := client.Hub(ctx)
	if err != nil || hub.Edges == 0 { // an older program, or a store that is no hub
		return nil
	}
	return hubFindings(hub)
}

// edgeFinding returns the finding of an edge that a program has open. Faults of the edge are
// findings of its health.
func edgeFinding(s replica.Status) finding {
	state, heard := "not connected", "never"
	if s.Connected {
		state = "connected"
	}
	if !s.LastWord.IsZero() {
		heard = s.Age.Round(time.Second).String() + " ago"
	}
	return good("replication", "an edge of %s, %s; it heard of the hub %s; changes that wait for the hub: %d", s.HubURL, state, heard, s.Pending)
}

// hubFindings returns the findings of a hub.
func hubFindings(hub replica.HubStatus) []finding {
	found := []finding{good("replication", "a hub with %d edges, of which %d follow it now", hub.Edges, hub.Streams)}
	if hub.Claims > 0 {
		found = append(found, warning("claims", fmt.Sprintf("%d wait", hub.Claims), "look at them with latchkey replica claims, and confirm or refuse each"))
	}
	return found
}
