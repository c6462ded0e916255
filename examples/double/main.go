// Double is an app of the hosted service that Latchkey doubles: it logs in with a user API key, and
// prints whose key it is. The app knows nothing of Latchkey. Its base URL decides whether it speaks
// to the service or to the double, so its tests run against the double. README.md says how, also
// for apps with an official SDK.
//
//	REALM_BASE_URL=http://127.0.0.1:9090 REALM_APP_ID=myapp-abcde REALM_API_KEY=… go run ./examples/double
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
)

func main() {
	s := &session{base: os.Getenv("REALM_BASE_URL"), appID: os.Getenv("REALM_APP_ID"), key: os.Getenv("REALM_API_KEY")}
	email, err := s.email(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("the key is of", email)
}

// errLoggedOut means that the service does not take the key any more.
var errLoggedOut = errors.New("the key is refused: ask for another")

// A session is what an SDK keeps: the key, and the two tokens that a login with it returns. The
// access token is good for half an hour. The refresh token gets the next one.
type session struct {
	base, appID, key string
	access, refresh  string
}

// email returns the address of the user with the key.
func (s *session) email(ctx context.Context) (string, error) {
	var profile struct{ Data struct{ Email string } }
	if s.access == "" {
		if err := s.logIn(ctx); err != nil {
			return "", err
		}
	}
	status, err := s.call(ctx, "GET", "/auth/profile", s.access, nil, &profile)
	if status == http.StatusUnauthorized { // the access token has expired, or the session has ended
		if err := s.renew(ctx); err != nil {
			return "", err
		}
		_, err = s.call(ctx, "GET", "/auth/profile", s.access, nil, &profile)
	}
	return profile.Data.Email, err
}

type tokens struct {
	Access  string `json:"access_token"`
	Refresh string `json:"refresh_token"`
}

func (s *session) logIn(ctx context.Context) error {
	var t tokens
	status, err := s.call(ctx, "POST", "/app/"+s.appID+"/auth/providers/api-key/login", "", map[string]string{"key": s.key}, &t)
	if status == http.StatusUnauthorized {
		return errLoggedOut
	}
	s.access, s.refresh = t.Access, t.Refresh
	return err
}

// renew gets a new access token. If the session has ended, renew logs in again.
func (s *session) renew(ctx context.Context) error {
	var t tokens
	status, err := s.call(ctx, "POST", "/auth/session", s.refresh, nil, &t)
	if status == http.StatusUnauthorized {
		return s.logIn(ctx)
	}
	s.access = t.Access
	return err
}

// call sends a request, and once more if the service is not available. It decodes the answer into
// reply. A status of 400 or more is an error, too.
func (s *session) call(ctx context.Context, method, path, bearer string, body, reply any) (status int, err error) {
	content, err := json.Marshal(body)
	if err != nil {
		return 0, err
	}
	for range 2 {
		r, err := http.NewRequestWithContext(ctx, method, s.base+"/api/client/v2.0"+path, bytes.NewReader(content))
		if err != nil {
			return 0, err
		}
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Authorization", "Bearer "+bearer)
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			return 0, err
		}
		status = answer.StatusCode
		if status < 400 {
			err = json.NewDecoder(answer.Body).Decode(reply)
		} else {
			err = fmt.Errorf("%s %s: %s", method, path, answer.Status)
		}
		answer.Body.Close()
		if status != http.StatusServiceUnavailable {
			return status, err
		}
	}
	return status, fmt.Errorf("%s %s: the service is not available", method, path)
}
