// Package bench measures what a login costs, beside what people would use in its place and beside the cost of one hash.
//
// A [Group] is one question, and its cases are measured beside each other. The same groups serve three commands:
//
//	go test ./...                          runs every case once, on small stores
//	go test -run '^$' -bench . -count 10   measures, for benchstat
//	go run ./report                        measures in rounds, and holds the medians against the targets
//
// Stores are built once and kept in the directory that LATCHKEY_BENCH_DIR names, or in the user's cache directory.
// With LATCHKEY_BENCH_LONG=1 (for the report: -long) there is one with 5 million keys among them.
// docs/performance.md shows a run and explains the method.
package bench
