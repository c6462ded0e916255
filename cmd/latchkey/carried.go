package main

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
)

// This file has the flags for what a key carries: an expiry date, scopes, networks and metadata.

// carriedFlags are the flags of key create and key set.
type carriedFlags struct {
	expires, scopes, networks string
	metadata                  []string
}

// carriedHelp explains the flags.
const carriedHelp = `--expires says when the key stops logging in. It takes a date, which means the first moment of that
day in UTC (2027-01-31), a time in the format of RFC 3339 (2027-01-31T18:00:00Z), a duration from now
in years, weeks, days, hours or minutes (1y, 2w, 90d, 12h, 30m), or never. A new key without --expires
never expires.

--scopes says what the key permits: texts that mean something to the program that checks the token,
with blanks between them, such as "files:read mail:*". A comma does not separate scopes, because it can
be a part of one. A scope that ends in ":*" permits every scope that begins with the text before the
star, and "*" permits everything that is not reserved. A key without scopes logs in and is permitted
nothing.

--networks says where the key may be used from: networks or addresses with blanks or commas between
them, such as "192.0.2.0/24 2001:db8::/32". Without networks the key may be used from everywhere. The
program must give the caller's address when it checks the token.

--metadata NAME=VALUE is a text of your own. Give it once for each name. NAME= takes the text away.`

func (f *carriedFlags) addFlags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.expires, "expires", "", "the time `WHEN` the key stops logging in, or never")
	flags.StringVar(&f.scopes, "scopes", "", "the `SCOPES` of the key, with blanks between them; empty for none")
	flags.StringVar(&f.networks, "networks", "", "the `NETWORKS` that the key may be used from; empty for everywhere")
	addMetadataFlag(cmd, &f.metadata)
	_ = cmd.RegisterFlagCompletionFunc("expires", cobra.FixedCompletions([]string{"1w", "90d", "1y", "never"}, cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveKeepOrder))
}

func addMetadataFlag(cmd *cobra.Command, metadata *[]string) {
	cmd.Flags().StringArrayVar(metadata, "metadata", nil, "a text `NAME=VALUE` of your own; NAME= takes it away")
}

// addMaxKeysFlag adds the flag --max-keys, which checkMaxKeys checks.
func addMaxKeysFlag(cmd *cobra.Command, maxKeys *int) {
	cmd.Flags().IntVar(maxKeys, "max-keys", 20, "the largest `NUMBER` of keys that the user can have; -1 for no limit")
}

func checkMaxKeys(n int) error {
	if n == 0 { // for the library this is the default
		return usagef("--max-keys must be at least 1, or -1 for no limit")
	}
	return nil
}

// spec returns the flags as a new key has them.
func (f *carriedFlags) spec(now time.Time) (spec admin.NewKey, err error) {
	if spec.Expires, err = parseExpiry(f.expires, now); err != nil {
		return spec, err
	}
	if spec.Networks, err = parseNetworks(f.networks); err != nil {
		return spec, err
	}
	spec.Scopes = strings.Fields(f.scopes)
	spec.Metadata, err = changeMetadata(nil, f.metadata)
	return spec, err
}

// change returns what the flags that were given change in a key that has metadata, at a time of the
// store.
func (f *carriedFlags) change(cmd *cobra.Command, metadata map[string]string, now time.Time) (change admin.KeyChange, err error) {
	spec, err := f.spec(now)
	if err != nil {
		return change, err
	}
	given := cmd.Flags().Changed
	if given("expires") {
		change.Expires = admin.Some(&spec.Expires)
		if spec.Expires.IsZero() {
			change.Expires.Value = nil
		}
	}
	if given("scopes") {
		change.Scopes = admin.Some(append([]string{}, spec.Scopes...))
	}
	if given("networks") {
		change.Networks = admin.Some(append([]netip.Prefix{}, spec.Networks...))
	}
	if given("metadata") {
		var changed map[string]string
		changed, err = changeMetadata(metadata, f.metadata)
		change.Metadata = admin.Some(changed)
	}
	return change, err
}

// parseNetworks parses the value of --networks. An address is the network of this address alone.
func parseNetworks(s string) (networks []netip.Prefix, err error) {
	for _, text := range strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == ',' }) {
		network, err := netip.ParsePrefix(text)
		if addr, addrErr := netip.ParseAddr(text); addrErr == nil && addr.Zone() == "" {
			network, err = netip.PrefixFrom(addr, addr.BitLen()), nil
		}
		if err != nil {
			return nil, usagef("--networks takes networks such as 192.0.2.0/24 and 2001:db8::/32, and %q is none", text)
		}
		networks = append(networks, network)
	}
	return networks, nil
}

// changeMetadata returns metadata with the values of --metadata. It leaves its argument as it is.
func changeMetadata(metadata map[string]string, flags []string) (map[string]string, error) {
	changed := maps.Clone(metadata)
	if changed == nil {
		changed = map[string]string{}
	}
	for _, flag := range flags {
		name, value, ok := strings.Cut(flag, "=")
		switch {
		case !ok || name == "":
			return nil, usagef("--metadata takes NAME=VALUE, such as room=4")
		case value == "":
			delete(changed, name)
		default:
			changed[name] = value
		}
	}
	return changed, nil
}

// showCarried returns rows for the scopes, the networks, the metadata and the group that there are.
func showCarried(scopes latchkey.Scopes, networks []netip.Prefix, metadata map[string]string, group string) (pairs []string) {
	var where, texts []string
	for _, n := range networks {
		where = append(where, n.String())
	}
	for _, name := range slices.Sorted(maps.Keys(metadata)) {
		texts = append(texts, name+"="+metadata[name])
	}
	for _, row := range [][2]string{
		{"Scopes", scopes.String()}, {"Networks", strings.Join(where, " ")}, {"Metadata", strings.Join(texts, ", ")}, {"Group", shown(group)},
	} {
		if row[1] != "" {
			pairs = append(pairs, row[0], row[1])
		}
	}
	return pairs
}
