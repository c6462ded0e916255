package bench

import (
	"context"
	"errors"
	"net/url"
	"time"

	"go.etcd.io/etcd/server/v3/embed"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/etcd"
)

func init() {
	programs["etcd"] = func() program { return &etcdProgram{} }
	programs["etcd-store"] = func() program { return &etcdStoreProgram{} }
}

// An etcdProgram is a member of etcd.
type etcdProgram struct {
	server *embed.Etcd
	most   func() int64 // ends the watching of the memory
}

func (p *etcdProgram) do(_ context.Context, o order) (a answer, err error) {
	switch o.Do {
	case "start":
		p.most = watchMemory()
		a.Address, err = p.start(o.Path)
	case "memory":
		a.Most = p.most()
		a.Memory, a.Resident, err = allMemory()
	default:
		err = errors.New("unknown order")
	}
	return a, err
}

// start starts the member. Its settings are the defaults of etcd, apart from the quota. The default
// quota, 2 GB, is too small for the largest store.
func (p *etcdProgram) start(dir string) (address string, err error) {
	c := embed.NewConfig()
	c.Dir, c.Logger, c.LogLevel, c.LogOutputs = dir, "zap", "fatal", []string{"/dev/null"}
	c.QuotaBackendBytes = 8 << 30
	local := url.URL{Scheme: "http", Host: "127.0.0.1:0"}
	c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{local}, []url.URL{local}
	c.ListenPeerUrls, c.AdvertisePeerUrls = []url.URL{local}, []url.URL{local}
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	if p.server, err = embed.StartEtcd(c); err != nil {
		return "", err
	}
	select {
	case <-p.server.Server.ReadyNotify():
		return p.server.Clients[0].Addr().String(), nil
	case <-time.After(5 * time.Minute):
		return "", errSlow
	}
}

// allMemory returns the memory of the process after a collection, without and with pages of files.
func allMemory() (anonymous, all int64, err error) {
	if _, err := memory(); err != nil { // which collects
		return 0, 0, err
	}
	r, err := readResident()
	return r.Anon, r.RSS, err
}

// An etcdStoreProgram has a store on etcd.
type etcdStoreProgram struct{ store *latchkey.Store }

func (p *etcdStoreProgram) do(ctx context.Context, o order) (a answer, err error) {
	start := time.Now()
	switch o.Do {
	case "open":
		client, err := newEtcdClient(o.Address)
		if err != nil {
			return a, err
		}
		p.store, err = latchkey.OpenWith(etcd.New(client, etcdPrefix), &latchkey.Options{Cost: quickCost})
		a.Took = time.Since(start)
		return a, err
	case "disable":
		a.Time = start
		err = p.store.DisableKey(ctx, latchkey.ServerOwner, o.ID)
		a.Took = time.Since(start)
	case "login":
		for _, token := range o.Tokens {
			begun := time.Now()
			if _, err := p.store.Login(ctx, token); err != nil {
				return a, err
			}
			a.Times = append(a.Times, time.Since(begun))
		}
	case "memory":
		a.Memory, a.Resident, err = allMemory()
	default:
		err = errors.New("unknown order")
	}
	return a, err
}
