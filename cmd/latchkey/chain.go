package main

import (
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/latchkeydb/latchkey/admin"
	"github.com/latchkeydb/latchkey/audit"
	"github.com/latchkeydb/latchkey/etcd"
)

// This file is about the chains of the audit trail. Changes to a store on etcd go into a chain of
// the machine, because there the changes that programs write into one chain wait for each other.

// chainFlag is the value of a flag that names a chain. The empty name is that of the default chain.
type chainFlag struct {
	chain audit.Chain
	given bool
}

func (f *chainFlag) Set(s string) error {
	chain, err := audit.ParseChain(s)
	if err == nil {
		f.chain, f.given = chain, true
	}
	return err
}

func (f *chainFlag) String() string { return string(f.chain) }
func (f *chainFlag) Type() string   { return "NAME" }

// addTo adds the flag to a command whose work is about chains, in the place of the flag of all
// commands.
func (f *chainFlag) addTo(cmd *cobra.Command, usage string) {
	cmd.Flags().Var(f, "chain", usage)
	_ = cmd.RegisterFlagCompletionFunc("chain", cobra.NoFileCompletions)
}

// of returns client, or a client that is about the chain if the flag was given.
func (f *chainFlag) of(client *admin.Client) *admin.Client {
	if f.given {
		return client.Chain(f.chain)
	}
	return client
}

// chainFor returns the chain into which changes to the store at path go.
func (c *cli) chainFor(path string) audit.Chain {
	if c.chain.given || !etcd.IsURL(path) {
		return c.chain.chain
	}
	name, _ := os.Hostname()
	return fitChain(name)
}

// fitChain makes the name of a machine fit for a chain.
func fitChain(host string) audit.Chain {
	fit := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '.' {
			return r
		}
		return '-'
	}, strings.ToLower(host))
	fit = strings.TrimLeft(fit, "-.")
	if fit == "" {
		return "host"
	}
	return audit.Chain(fit[:min(len(fit), 64)])
}
