package admin_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
	"github.com/latchkeydb/latchkey/audit"
)

// record appends entries to a chain, each with a second of its own, as other processes do.
func (a *api) record(chain audit.Chain, seconds ...int64) {
	a.Helper()
	trail := audit.New(&audit.Options{Chain: chain})
	for _, s := range seconds {
		c := latchkey.Change{Actions: []latchkey.Action{latchkey.ActionGroupDisabled}, Time: time.Unix(s, 0).UTC(), Group: "north"}
		a.must(a.store.Update(a.Context(), func(tx *latchkey.Tx) error { return trail.Record(tx, c) }))
	}
}

// places returns the chains and numbers of entries.
func places(entries []audit.Entry) string {
	var all []string
	for _, e := range entries {
		all = append(all, fmt.Sprintf("%s/%d", e.Chain, e.Number))
	}
	return strings.Join(all, " ")
}

// newChains returns an API over a store with three chains, and a client.
func newChains(t *testing.T) (*api, *admin.Client) {
	a := newAPI(t, nil)
	a.record("", 1, 4)
	a.record("shop-1", 2, 5, 6)
	a.record("shop-2", 3)
	return a, admin.Local(a.store, nil)
}

func TestTheListOfTheTrailHasAllChains(t *testing.T) {
	a, c := newChains(t)
	const want = "/1 shop-1/1 shop-2/1 /2 shop-1/2 shop-1/3"
	if got := places(collect(t, c.Audit(t.Context(), nil))); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	var got []audit.Entry
	cursor := ""
	for range 9 {
		page := get[admin.AuditPage](a.do("GET", "/v1/audit?limit=2&cursor="+cursor, nil).is(200))
		if got = append(got, page.Items...); len(page.Heads) != 3 || page.Heads[1].Chain != "shop-1" || page.Heads[1].Number != 3 {
			t.Errorf("the heads are %v", page.Heads)
		}
		if cursor = page.Next; cursor == "" {
			break
		}
	}
	if places(got) != want {
		t.Errorf("got %s in pages, want %s", places(got), want)
	}
	if got := places(collect(t, c.Audit(t.Context(), audit.Position{"": 1, "shop-1": 2, "other": 9}))); got != "shop-2/1 /2 shop-1/3" {
		t.Errorf("behind a position are %s", got)
	}
}

func TestAChainOfTheTrailIsListedAlone(t *testing.T) {
	a, c := newChains(t)
	for chain, want := range map[audit.Chain]string{"": "/1 /2", "shop-1": "shop-1/1 shop-1/2 shop-1/3", "shop-9": ""} {
		one := c.Chain(chain)
		if got := places(collect(t, one.Audit(t.Context(), nil))); got != want {
			t.Errorf("chain %q: got %s, want %s", chain, got, want)
		}
		heads, err := one.AuditHeads(t.Context())
		if err != nil || len(heads) > 1 || len(heads) == 1 && heads[0].Chain != chain || (len(heads) == 0) != (want == "") {
			t.Errorf("chain %q: got the heads %v, %v", chain, heads, err)
		}
	}
	page := get[admin.AuditPage](a.do("GET", "/v1/audit?chain=shop-1&limit=1&cursor=7,shop-1/1", nil).is(200))
	if places(page.Items) != "shop-1/2" || page.Next == "" {
		t.Errorf("got %+v", page)
	}
	for _, target := range []string{"/v1/audit?chain=Shop", "/v1/audit?chain=a&chain=b", "/v1/audit?cursor=Shop/1"} {
		if w := a.do("GET", target, nil); w.Code != 400 && w.Code != 422 {
			t.Errorf("%s: got %d", target, w.Code)
		}
	}
}

func TestAllChainsAreVerifiedOrOne(t *testing.T) {
	a, c := newChains(t)
	ctx := t.Context()
	heads, err := c.AuditHeads(ctx)
	a.must(err)
	verdict, err := c.VerifyAudit(ctx, heads...)
	if err != nil || !verdict.OK || verdict.Entries != 6 || !slices.Equal(verdict.Heads, heads) {
		t.Errorf("got %+v, %v", verdict, err)
	}
	if _, err := c.Chain("shop-1").VerifyAudit(ctx, heads[0]); !errors.Is(err, audit.ErrChain) {
		t.Errorf("got %v, want ErrChain", err)
	}
	a.must(a.store.Update(ctx, func(tx *latchkey.Tx) error {
		return tx.AppTable(audit.TableName).Delete([]byte("nshop-1\x00e\x00\x00\x00\x00\x00\x00\x00\x02"))
	}))
	verdict, err = c.VerifyAudit(ctx, heads...)
	if err != nil || verdict.OK || !errors.Is(verdict.Problem, audit.ErrBroken) || !strings.Contains(verdict.Problem.Detail, "chain shop-1: entry 2: ") || len(verdict.Heads) != 3 {
		t.Errorf("got %+v, %v", verdict, err)
	}
	for _, chain := range []audit.Chain{"", "shop-1", "shop-2"} {
		verdict, err := c.Chain(chain).VerifyAudit(ctx)
		if err != nil || verdict.OK != (chain != "shop-1") {
			t.Errorf("chain %q: got %+v, %v", chain, verdict, err)
		}
	}
}

func TestChainsAreBegunAndPruned(t *testing.T) {
	a, c := newChains(t)
	ctx := t.Context()
	if pruned, err := c.Chain("shop-1").PruneAudit(ctx, 2); err != nil || pruned != (admin.AuditPruned{Entries: 3, Removed: 1}) {
		t.Errorf("got %+v, %v", pruned, err)
	}
	if pruned, err := c.PruneAudit(ctx, 1); err != nil || pruned != (admin.AuditPruned{Entries: 5, Removed: 2}) {
		t.Errorf("got %+v, %v", pruned, err)
	}
	if _, err := c.Chain("shop-1").BeginAudit(ctx, false); !errors.Is(err, admin.ErrTrail) {
		t.Errorf("got %v, want ErrTrail", err)
	}
	if head, err := c.Chain("shop-3").BeginAudit(ctx, false); err != nil || head.Chain != "shop-3" || head.Number != 1 {
		t.Errorf("got %v, %v", head, err)
	}
	if verdict, err := c.VerifyAudit(ctx); err != nil || !verdict.OK || verdict.Entries != 4 {
		t.Errorf("got %+v, %v", verdict, err)
	}
	// Without a name, it is the chain to which the program appends.
	own := admin.Local(a.store, &admin.Options{Trail: audit.New(&audit.Options{Chain: "shop-4"})})
	if head, err := own.BeginAudit(ctx, false); err != nil || head.Chain != "shop-4" {
		t.Errorf("got %v, %v", head, err)
	}
}

func TestAStreamHasTheChangesOfAllChains(t *testing.T) {
	a, _ := newChains(t)
	server := serveAPI(t, a)
	c := follow(t, server, "")
	if ready := c.until("ready"); !strings.Contains(ready.data, `"last":"2,shop-1/3,shop-2/1","trail":true`) {
		t.Errorf("got %+v", ready)
	}
	a.record("shop-3", 7)
	if e := c.until("change"); e.id != "2,shop-1/3,shop-2/1,shop-3/1" {
		t.Errorf("got %+v", e)
	}
	a.record("shop-1", 8)
	if e := c.until("change"); e.id != "2,shop-1/4,shop-2/1,shop-3/1" {
		t.Errorf("got %+v", e)
	}
	// The stream goes on in each chain where it ended, and a chain that is shorter was restored.
	c = follow(t, server, "2,shop-1/3,shop-2/9")
	c.until("ready")
	c.until("lost")
	for _, want := range []string{"2,shop-1/3,shop-2/1,shop-3/1", "2,shop-1/4,shop-2/1,shop-3/1"} {
		if e := c.until("change"); e.id != want {
			t.Errorf("got %+v, want %s", e, want)
		}
	}
}
