package appservices_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/appservices"
)

// A double for a test, and the first request that an SDK sends to it.
func Example() {
	dir, err := os.MkdirTemp("", "latchkey")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	store, err := latchkey.Open(filepath.Join(dir, "keys.db"), &latchkey.Options{AppServicesNames: true, Cost: latchkey.LightCost})
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	handler, err := appservices.New(store, nil)
	if err != nil {
		log.Fatal(err)
	}
	server := httptest.NewServer(handler) // a program would use appservices.NewServer
	defer server.Close()

	// An SDK gets server.URL as its base URL. Its anonymous login sends this request.
	resp, err := http.Post(server.URL+"/api/client/v2.0/app/myapp-abcde/auth/providers/anon-user/login", "application/json", strings.NewReader("{}"))
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	var login struct {
		UserID string `json:"user_id"`
	}
	err = json.NewDecoder(resp.Body).Decode(&login)
	fmt.Println(resp.StatusCode, len(login.UserID), err)

	for user, err := range store.Users(context.Background(), latchkey.User{}.ID) {
		fmt.Println(user.Identities[0].Provider, appservices.UserObjectID(user) == login.UserID, err)
	}
	// Output:
	// 200 24 <nil>
	// anon-user true <nil>
}

// The tokens in mails confirm addresses and reset passwords.
func ExampleOptions_mail() {
	opts := &appservices.Options{
		ManualConfirmation: true,
		Mail: func(ctx context.Context, m appservices.Mail) {
			link := fmt.Sprintf("https://app.example.com/%s?token=%s&tokenId=%s", m.Kind, m.Token, m.TokenID)
			sendMail(ctx, m.Email, link)
		},
	}
	_ = opts
}

func sendMail(context.Context, string, string) {}

// Users of another authority log in with the tokens that the authority issues for this service.
func ExampleJWTVerifier() {
	verifier := &appservices.JWTVerifier{
		Keys:      []any{[]byte("the secret that the authority signs with")},
		Audiences: []string{"myapp-abcde"},
		Fields:    map[string]string{"email": "email", "name": "preferred_username"},
	}
	if err := verifier.Check(); err != nil {
		log.Fatal(err)
	}
	opts := &appservices.Options{CustomToken: verifier.Verify}
	_ = opts
}
