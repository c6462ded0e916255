package main

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/spf13/cobra"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/admin"
)

// refusals lists the errors that mean that a token is refused, with the reason that JSON output
// gives.
var refusals = []struct {
	err    error
	reason string
}{
	{latchkey.ErrInvalidToken, "invalid_token"},
	{latchkey.ErrKeyDisabled, "key_disabled"},
	{latchkey.ErrKeyExpired, "key_expired"},
	{latchkey.ErrUserDisabled, "user_disabled"},
	{latchkey.ErrGroupDisabled, "group_disabled"},
	{latchkey.ErrNetworkNotAllowed, "network_not_allowed"},
}

// loginAnswer is the JSON output of login, for a good token and for a refused one.
type loginAnswer struct {
	OK        bool                `json:"ok"`
	Principal *latchkey.Principal `json:"principal,omitempty"`
	Reason    string              `json:"reason,omitempty"`
}

func loginCommand(c *cli) *cobra.Command {
	var from string
	cmd := &cobra.Command{
		Use:   "login",
		Short: "Check a token, and show its key and owner",
		Long: `Read a token from standard input, check it, and show its key and owner. login ignores what is often
copied along with a token: white space, invisible characters, quotation marks, a byte-order mark, and
the word Bearer before the token. It reads UTF-8, and UTF-16 with a byte-order mark.

--from is the address that the caller has. A key with networks is refused without it.

A token does not count as used when login checks it, unless a program has the store open and the key was
imported.

On a terminal, login asks for the token and does not show what is typed. The exit status is 0 for a
good token and 5 for a refused token. With --json, standard output has the answer in both cases.`,
		Example: examples(
			"latchkey login < token",
			"latchkey login --from 192.0.2.7 < token",
			"Get-Content token | latchkey login    # in PowerShell, which has no <",
		),
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return errors.New("login reads the token from standard input, because every process on the machine can see arguments")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			var addr netip.Addr
			if from != "" {
				var err error
				if addr, err = netip.ParseAddr(from); err != nil {
					return usagef("--from is %q, and must be an address, such as 192.0.2.7 or 2001:db8::7", from)
				}
			}
			token, err := c.readToken(cmd.Context())
			if err != nil {
				return c.refuse(err)
			}
			ctx := cmd.Context()
			return c.reading(ctx, func(client *admin.Client) error {
				who, err := client.Login(ctx, admin.Login{Token: token, Address: addr})
				if err = explainNone(token, err); err != nil {
					return c.refuse(err)
				}
				ownerText := noOwner
				if !who.ServerKey {
					user, err := client.User(ctx, who.UserID)
					if err != nil {
						return err
					}
					ownerText = fmt.Sprintf("%s (%s)", formatIdentities(user.User), user.ID)
				}
				return c.printFields(loginAnswer{OK: true, Principal: &who}, append([]string{
					"Key", fmt.Sprintf("%s (%s)", who.KeyName, who.KeyID),
					"Owner", ownerText,
				}, showCarried(who.Scopes, nil, nil, "")...)...)
			})
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "the `ADDRESS` of the caller, for a key with networks")
	return cmd
}

// reason returns the reason that JSON output gives for an error of a login, or "" for any other
// error.
func reason(err error) string {
	for _, r := range refusals {
		if errors.Is(err, r.err) {
			return r.reason
		}
	}
	return ""
}

// refuse returns err, the error of a login. With --json it first prints the answer, but only if err
// means that the token is refused.
func (c *cli) refuse(err error) error {
	if why := reason(err); c.json && why != "" {
		return errors.Join(err, writeJSON(c.stdout, loginAnswer{Reason: why}))
	}
	return err
}
