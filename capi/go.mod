module github.com/latchkeydb/latchkey/capi

go 1.25.0

require (
	github.com/google/uuid v1.6.0
	github.com/latchkeydb/latchkey v0.0.0
)

require (
	go.etcd.io/bbolt v1.5.0 // indirect
	golang.org/x/crypto v0.55.0 // indirect
	golang.org/x/sys v0.47.0 // indirect
)

replace github.com/latchkeydb/latchkey => ..
