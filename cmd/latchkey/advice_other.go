//go:build !linux && !windows

package main

// ownAdvice has the errors that only this system has. There is none that needs its own advice.
var ownAdvice []advice
