package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/latchkeydb/latchkey"
)

// refusals are the errors that decide that a token is refused, and the reasons that JSON tells.
var refusals = []struct {
	err    error
	reason string
}{
	{latchkey.ErrInvalidToken, "invalid_token"},
	{latchkey.ErrKeyDisabled, "key_disabled"},
	{latchkey.ErrKeyExpired, "key_expired"},
	{latchkey.ErrUserDisabled, "user_disabled"},
}

// loginAnswer is what login prints as JSON, whether the token is good or not.
type loginAnswer struct {
	OK        bool                `json:"ok"`
	Principal *latchkey.Principal `json:"principal,omitempty"`
	Reason    string              `json:"reason,omitempty"`
}

func loginCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "login",
		Short: "Tell whether a token is good, and whose it is",
		Long: `Read a token from standard input, and tell whether it is good, and whose it is. One newline at its end does no harm.
On a terminal, login asks for the token and does not show it. The exit status is 0 for a good token, and 5 for one that
is refused; with --json, standard output has the answer in both cases.`,
		Example: examples("latchkey login < token"),
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return errors.New("the token belongs on standard input: arguments can be seen by every process on the machine")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			token, err := c.readToken(cmd.Context())
			if err != nil {
				return err
			}
			return c.withStoreReadOnly(cmd.Context(), func(s *latchkey.Store) error {
				who, err := s.Login(cmd.Context(), token)
				if err != nil {
					return c.refuse(err)
				}
				ownerText := noOwner
				if !who.ServerKey {
					user, err := s.User(cmd.Context(), who.UserID)
					if err != nil {
						return err
					}
					ownerText = fmt.Sprintf("%s (%s)", formatIdentities(user), user.ID)
				}
				return c.printFields(loginAnswer{OK: true, Principal: &who},
					"Key", fmt.Sprintf("%s (%s)", who.KeyName, who.KeyID),
					"Owner", ownerText)
			})
		},
	}
}

// refuse answers a login that failed. Only a refusal is an answer.
func (c *cli) refuse(err error) error {
	for _, r := range refusals {
		if c.json && errors.Is(err, r.err) {
			writeErr := writeJSON(c.stdout, loginAnswer{Reason: r.reason})
			return errors.Join(err, writeErr)
		}
	}
	return err
}
