// Opened is the program hello with a store that it opens.
package main

import (
	"fmt"

	"github.com/latchkeydb/latchkey"
)

func main() {
	store, err := latchkey.Open("keys.db", nil)
	if err == nil {
		err = store.Close()
	}
	fmt.Println("hello", err)
}
