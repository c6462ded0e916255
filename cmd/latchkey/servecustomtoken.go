package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/latchkeydb/latchkey/appservices"
)

// customTokenFlags are the flags for custom tokens, and the verifier that they make.
type customTokenFlags struct {
	keyFiles   []string
	algorithms []string
	verifier   appservices.JWTVerifier
}

// tokenAlgorithms are the algorithms that --custom-token-algorithm can name.
var tokenAlgorithms = []string{"HS256", "RS256", "ES256"}

func (f *customTokenFlags) addFlags(flags *pflag.FlagSet) {
	flags.StringArrayVar(&f.keyFiles, "custom-token-key", nil, "a `FILE` with keys that sign custom tokens: public keys in PEM, JSON Web Keys, or a secret for HS256; can be repeated")
	flags.StringArrayVar(&f.algorithms, "custom-token-algorithm", nil, "an `ALGORITHM` that the keys may be for: HS256, RS256 or ES256; can be repeated (default any of these)")
	flags.StringArrayVar(&f.verifier.Audiences, "custom-token-audience", nil, "a `TEXT` that \"aud\" of a custom token may contain; can be repeated (default the one --app-id)")
	flags.StringArrayVar(&f.verifier.Issuers, "custom-token-issuer", nil, "a `TEXT` that \"iss\" of a custom token may be; can be repeated (default any)")
	flags.Var((*fieldsFlag)(&f.verifier.Fields), "custom-token-field", "fill the field NAME of the profile from the CLAIM of a custom token, as `NAME=CLAIM`, where dots lead into objects; can be repeated")
}

// fieldsFlag is the value of a flag that maps each field of the profile to a claim.
type fieldsFlag map[string]string

func (f *fieldsFlag) Set(s string) error {
	field, claim, ok := strings.Cut(s, "=")
	if !ok || field == "" || claim == "" {
		return errors.New("it must be a field and a claim, such as name=user_data.name")
	}
	if (*f)[field] != "" {
		return fmt.Errorf("the field %s is given twice", field)
	}
	if *f == nil {
		*f = make(fieldsFlag)
	}
	(*f)[field] = claim
	return nil
}

func (f *fieldsFlag) String() string { return "" } // there is no default
func (f *fieldsFlag) Type() string   { return "LIST" }

// check returns an error if the flags contradict each other. The audience must be fixed by flags,
// because each client chooses the app ID that it sends.
func (f *customTokenFlags) check(appIDs []string) error {
	for _, algorithm := range f.algorithms {
		if !slices.Contains(tokenAlgorithms, algorithm) {
			return usagef("--custom-token-algorithm must be one of %s", strings.Join(tokenAlgorithms, ", "))
		}
	}
	v := &f.verifier
	if len(f.keyFiles) == 0 {
		if len(f.algorithms)+len(v.Audiences)+len(v.Issuers)+len(v.Fields) > 0 {
			return usagef("custom tokens are refused without a key; give --custom-token-key FILE")
		}
		return nil
	}
	if len(v.Audiences) == 0 && len(appIDs) == 1 {
		v.Audiences = appIDs
	}
	if len(v.Audiences) == 0 || slices.Contains(v.Audiences, "") {
		return usagef("custom tokens for every audience would log in; give --custom-token-audience TEXT, or --app-id once")
	}
	return nil
}

// readTokenKeys reads the files of --custom-token-key.
func (s *server) readTokenKeys() error {
	f := &s.customToken
	for _, name := range f.keyFiles {
		data, err := readOwn(name)
		if err != nil {
			return explainMissing(err, name)
		}
		if data, err = decodeText(data); err != nil {
			return usagef("%s: %w", name, err)
		}
		keys, err := appservices.ParseJWTKeys(data, f.algorithms...)
		if err != nil {
			return usagef("%s: %w", name, err)
		}
		f.verifier.Keys = append(f.verifier.Keys, keys...)
		s.warnOfMode(name, keys)
	}
	if len(f.keyFiles) == 0 {
		return nil
	}
	if err := f.verifier.Check(); err != nil {
		return usagef("%w", err)
	}
	s.opts.CustomToken = f.verifier.Verify
	return nil
}

// warnOfMode warns if others than the owner can read a file with a secret, or write a file of keys.
// Windows has no such modes.
func (s *server) warnOfMode(name string, keys []any) {
	info, err := os.Stat(name)
	if err != nil || runtime.GOOS == "windows" {
		return
	}
	isSecret := func(key any) bool { _, ok := key.([]byte); return ok }
	mode := info.Mode().Perm()
	switch {
	case mode&0o022 != 0:
		s.log.Warn("others can write the file of keys, and so log in any user", "file", name, "mode", fmt.Sprintf("%04o", mode))
	case mode&0o044 != 0 && slices.ContainsFunc(keys, isSecret):
		s.log.Warn("others can read the secret for custom tokens, and so log in any user", "file", name, "mode", fmt.Sprintf("%04o", mode))
	}
}
