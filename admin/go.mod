module github.com/latchkeydb/latchkey/admin

go 1.25.0
