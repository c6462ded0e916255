// Command capi is the C library of Latchkey: liblatchkey and latchkey.h. The script build builds
// it, with the build modes c-shared and c-archive of go build.
//
// latchkey.h is the documentation, and docs/c.md the introduction. latchkey.c has the functions of
// the header. Each of them looks whether it is in a child of fork, and calls the Go function in
// exports.go that does the work. input.go reads what C passes, block.go writes results into memory
// of C, codes.go gives a code to each error, and stores.go gives a number to each open store.
// testing.go is in builds for tests alone.
package main

func main() {} // a library needs a main package, but nothing calls main
