package etcd_test

import (
	"log"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/etcd"
)

// Several processes that run this program serve the same users and keys.
func Example() {
	engine, err := etcd.Open("etcds://etcd-1:2379,etcd-2:2379,etcd-3:2379/latchkey?cacert=/etc/latchkey/etcd-ca.pem", etcd.Options{})
	if err != nil {
		log.Fatal(err)
	}
	store, err := latchkey.OpenWith(engine, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
}
