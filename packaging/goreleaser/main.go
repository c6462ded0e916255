// Goreleaser reads a configuration of goreleaser with goreleaser's own package, which refuses
// fields that it does not know and values of the wrong kind. This program compiles in seconds.
// The command goreleaser check, which also looks at what the values say, takes minutes.
//
//	goreleaser FILE
package main

import (
	"log"
	"os"

	"github.com/goreleaser/goreleaser/v2/pkg/config"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) != 2 {
		log.Fatal("the argument is a FILE")
	}
	if _, err := config.Load(os.Args[1]); err != nil {
		log.Fatalf("%s: %v", os.Args[1], err)
	}
}
