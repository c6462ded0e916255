// Package sorted sorts slices with package sort, whose algorithm all types share. Package slices
// has a copy of the algorithm for each type, which would make a program that opens a store larger
// by 140 kB. Code that every such program contains sorts with this package.
package sorted

import "sort"

// Func sorts a slice in the order of compare. The order of equal elements is not defined.
func Func[S ~[]E, E any](s S, compare func(a, b E) int) {
	if len(s) > 1 {
		sort.Slice(s, func(i, j int) bool { return compare(s[i], s[j]) < 0 })
	}
}

// StableFunc sorts a slice in the order of compare, and keeps the order of equal elements.
func StableFunc[S ~[]E, E any](s S, compare func(a, b E) int) {
	if len(s) > 1 {
		sort.SliceStable(s, func(i, j int) bool { return compare(s[i], s[j]) < 0 })
	}
}
