// Package admin lets people administer a store that a program has open.
package admin
