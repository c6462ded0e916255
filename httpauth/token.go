package httpauth

import (
	"errors"
	"net/http"
	"strings"
)

// The errors of a request whose token the store is not asked about.
var (
	errNoToken   = errors.New("the request has no token")
	errTwoTokens = errors.New("the request has two different tokens")
	errBearer    = errors.New(`the header Authorization is not "Bearer TOKEN"`)
	errBasic     = errors.New(`the header Authorization is not "Basic" with a password`)
)

// token returns the token of a request.
//
// Errors: errNoToken, errTwoTokens, errBearer, errBasic.
func (a *Auth) token(r *http.Request) (token string, err error) {
	if a.opts.Header != "" {
		for _, v := range r.Header[a.opts.Header] {
			if token, err = oneToken(token, strings.TrimSpace(v)); err != nil {
				return "", err
			}
		}
		if token != "" {
			return token, nil
		}
	}
	if a.opts.Header == authorization {
		return "", errNoToken
	}
	for _, v := range r.Header[authorization] {
		found, err := a.fromAuthorization(v)
		if err != nil {
			return "", err
		}
		if token, err = oneToken(token, found); err != nil {
			return "", err
		}
	}
	if token == "" {
		return "", errNoToken
	}
	return token, nil
}

const authorization = "Authorization"

// fromAuthorization returns the token in the value of a header Authorization. It returns "" for a
// scheme that the options do not ask for.
func (a *Auth) fromAuthorization(v string) (token string, err error) {
	scheme, rest, _ := strings.Cut(v, " ")
	switch {
	case strings.EqualFold(scheme, "Bearer"):
		rest = strings.Trim(rest, " ")
		if rest == "" || hasByte(rest, ' ') || hasByte(rest, ',') || hasByte(rest, '\t') {
			return "", errBearer
		}
		return rest, nil
	case a.opts.Basic && strings.EqualFold(scheme, "Basic"):
		alone := http.Request{Header: http.Header{authorization: {v}}}
		if _, password, ok := alone.BasicAuth(); ok && password != "" {
			return password, nil
		}
		return "", errBasic
	}
	return "", nil
}

// hasByte reports whether s contains b. It takes less time than [strings.ContainsAny], which makes
// a set first.
func hasByte(s string, b byte) bool { return strings.IndexByte(s, b) >= 0 }

// oneToken returns the token that was found, or else the one that was found before.
//
// Errors: errTwoTokens if there are both and they differ.
func oneToken(before, found string) (string, error) {
	switch {
	case found == "":
		return before, nil
	case before != "" && before != found:
		return "", errTwoTokens
	}
	return found, nil
}
