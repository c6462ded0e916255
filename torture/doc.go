// Package torture has the tests that are too heavy for the library's own suite. A checker of
// linearizability judges histories of calls, programs run against a model, processes are killed
// while they write, and time and memory are measured. The package has only tests. README.md says
// how to run them.
package torture
