module github.com/latchkeydb/latchkey/admin

go 1.25.0

require (
	github.com/Microsoft/go-winio v0.6.2
	github.com/google/uuid v1.6.0
	github.com/latchkeydb/latchkey v0.0.0
	github.com/santhosh-tekuri/jsonschema/v6 v6.0.3
	go.yaml.in/yaml/v3 v3.0.4
	golang.org/x/sys v0.47.0
	golang.org/x/text v0.41.0
)

require (
	github.com/google/btree v1.1.3 // indirect
	go.etcd.io/bbolt v1.5.0 // indirect
	golang.org/x/crypto v0.55.0 // indirect
	golang.org/x/time v0.15.0 // indirect
)

replace github.com/latchkeydb/latchkey => ..
