// Package bench measures how long a login takes, beside the usual alternatives and beside a single
// hash.
//
// A [Group] asks one question, and its cases are measured beside each other. The same groups serve
// three commands:
//
//	go test ./...                          runs every case once, on small stores
//	go test -run '^$' -bench . -count 10   measures, for benchstat
//	go run ./report                        measures in rounds, and compares medians with targets
//
// Stores are built once and kept for later runs, in the directory that LATCHKEY_BENCH_DIR names or
// else in the user's cache directory. With LATCHKEY_BENCH_LONG=1, or -long for the report, one of
// the stores has 5 million keys. docs/performance.md shows a run and explains the method.
// docs/scaling.md has the results of the groups for etcd.
package bench
