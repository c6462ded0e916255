package admin_test

import (
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/replica"
)

func replicaPath(id uuid.UUID) string { return "/v1/replicas/" + id.String() }

func TestAStoreWithoutAHubSaysSo(t *testing.T) {
	a := newAPI(t, nil)
	for _, route := range []string{"GET /v1/hub", "GET /v1/replicas", "GET " + replicaPath(uuid.New()), "GET /v1/claims", "GET /v1/confirmed?sequence=1"} {
		method, target, _ := strings.Cut(route, " ")
		a.do(method, target, nil).problem(404, "no-hub")
	}
	a.do("POST", "/v1/invitations", replica.Policy{Groups: []string{"*"}}).problem(404, "no-hub")
	a.do("POST", replicaPath(uuid.New())+"/revoke", nil).problem(404, "no-hub")
	a.do("PATCH", replicaPath(uuid.New()), `{"policy":{"groups":["*"]}}`).problem(404, "no-hub")
	a.do("POST", "/v1/claims/1/confirm", nil).problem(404, "no-hub")
	a.do("POST", "/v1/claims/1/refuse", nil).problem(404, "no-hub")
	a.do("GET", "/v1/edge", nil).problem(404, "no-edge")
	a.do("POST", "/v1/edge/sync", nil).problem(404, "no-edge")
}
