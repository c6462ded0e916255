// Command capi is the C library of Latchkey: liblatchkey and latchkey.h. Package build modes
// c-shared and c-archive make it; the script build does so, and says with which flags.
//
// latchkey.h is the documentation, and docs/c.md the introduction. latchkey.c has the functions of
// the header. Each of them looks for a child of fork, and calls the Go function in exports.go that
// does the work. input.go reads what C passes, block.go writes results into memory of C, and
// codes.go gives a code to each error.
package main

func main() {} // a library needs a main package, but nothing calls main
