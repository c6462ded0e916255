module github.com/latchkeydb/latchkey/examples/desktop

go 1.26.0

require (
	github.com/latchkeydb/latchkey v0.0.0
	github.com/latchkeydb/latchkey/admin v0.0.0
)

require (
	github.com/Microsoft/go-winio v0.6.2 // indirect
	github.com/google/uuid v1.6.0 // indirect
	go.etcd.io/bbolt v1.5.0 // indirect
	go.yaml.in/yaml/v3 v3.0.4 // indirect
	golang.org/x/crypto v0.55.0 // indirect
	golang.org/x/sys v0.47.0 // indirect
	golang.org/x/text v0.41.0 // indirect
	golang.org/x/time v0.15.0 // indirect
)

replace github.com/latchkeydb/latchkey => ../..

replace github.com/latchkeydb/latchkey/admin => ../../admin
