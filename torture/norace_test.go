//go:build !race

package torture_test

const underRace = false
