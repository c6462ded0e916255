module github.com/latchkeydb/latchkey/cmd/latchkey

go 1.25.0

require github.com/latchkeydb/latchkey v0.0.0

replace github.com/latchkeydb/latchkey => ../..
