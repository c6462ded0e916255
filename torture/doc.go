// Package torture holds what is too heavy for the library's own tests: histories that a checker of linearizability
// judges, programs run against a model, processes killed while they write, and measurements of time and memory. It has
// only tests; README.md tells how to run them.
package torture
