// Hello is nearly the smallest program that prints something. The program opened has more in it.
package main

import "fmt"

func main() { fmt.Println("hello") }
