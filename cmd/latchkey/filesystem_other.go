//go:build !linux

package main

// sharedFileSystem returns "", because this system is not asked.
func sharedFileSystem(string) string { return "" }
