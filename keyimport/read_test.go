package keyimport_test

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/latchkeydb/latchkey"
	"github.com/latchkeydb/latchkey/keyimport"
)

func readKeys(t testing.TB, text string, f keyimport.Format, ignore ...string) []keyimport.Entry {
	t.Helper()
	entries, err := keyimport.Read(strings.NewReader(text), f, &keyimport.Options{Ignore: ignore})
	must(t, err)
	return entries
}

// wantToken fails unless an entry is the key of a token.
func wantToken(t testing.TB, f keyimport.Format, e keyimport.Entry, token string) {
	t.Helper()
	if got := newKeys(t, f.Scheme).Handles(token); len(got) != 1 || got[0] != handleOf(e.Key) {
		t.Errorf("%s: the token has the handles %x, and the key has %x", e.Name, got, handleOf(e.Key))
	}
}

// createdOf returns when a key was made.
func createdOf(e keyimport.Entry) time.Time {
	ms, _ := strconv.ParseInt(strings.Split(e.Key.Export(), "/")[2], 10, 64)
	return time.UnixMilli(ms).UTC()
}

// bare is an entry without its key, to compare.
func bare(e keyimport.Entry) keyimport.Entry {
	e.Key = latchkey.MintedKey{}
	return e
}

func wantEntry(t testing.TB, got, want keyimport.Entry) {
	t.Helper()
	if got = bare(got); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestKeysOfDjangorestframeworkAPIKeyAreRead(t *testing.T) {
	tokens := map[string]string{
		"backup": "L2QI3SbO.7FW1h5WeRXHV5NhhkXc1Q830xQ2GJDxr", "sensor north": "DiZNM1Af.paR2rmF83o1q7d5j0oqLmlBk3XxdjnJx", "old": "vqz9oyDD.DdHsnuBmDzZckiQ8OhcokyGjFTCzQjFB",
	}
	f := keyimport.DjangoAPIKey()
	for _, file := range []string{"django.csv", "django.jsonl"} {
		entries := readKeys(t, readFile(t, file), f)
		if len(entries) != 3 {
			t.Fatalf("%s: %d entries", file, len(entries))
		}
		for _, e := range entries {
			wantToken(t, f, e, tokens[e.Name])
			want := keyimport.Entry{Line: e.Line, Name: e.Name, Disabled: e.Name == "old"}
			if e.Name == "sensor north" {
				want.Expires = time.Date(2100, 1, 2, 3, 4, 5, 678_000_000, time.UTC)
			}
			wantEntry(t, e, want)
			if created := createdOf(e); created.Format(time.DateOnly) != "2026-11-27" {
				t.Errorf("%s: created %v", file, created)
			}
		}
	}
	csv, jsonLines := readKeys(t, readFile(t, "django.csv"), f), readKeys(t, readFile(t, "django.jsonl"), f)
	if csv[0].Key.ID() != jsonLines[1].Key.ID() || csv[0].Line != 2 || jsonLines[0].Line != 1 {
		t.Error("a key has another ID, or another line")
	}
}

func TestKeysOfBetterAuthAreRead(t *testing.T) {
	tokens := []string{
		"app_VpWJIoVAnwZTxacjGdySNERVnfbAmFKeRzzxHWdHTuvjHqyylyrNeaQqJzhbZjfq", "TIaKyZtwIPEcTcaOUkGInrUxVAGakQJoPMMgXkfJEDaHeuTVpmiDHyfwtFPShYxD",
		"IWPYkAApWKFeFnVLMqRRzTUrrTYIpwxhTcIQeOcWnIPrRULjluxksaWPVrRhQJmq",
	}
	const ada = "0UW8it8NRvd9gt1aG04lFyNTY8WfPtUl"
	f := keyimport.BetterAuth()
	entries := readKeys(t, readFile(t, "better-auth.jsonl"), f)
	if len(entries) != 3 {
		t.Fatalf("%d entries", len(entries))
	}
	for i, e := range entries {
		wantToken(t, f, e, tokens[i])
	}
	wantEntry(t, entries[0], keyimport.Entry{
		Line: 1, Owner: ada, Name: "laptop", Metadata: map[string]string{"site": "Oslo"},
		Scopes: latchkey.NewScopes("files:read", "files:write", "users:read"),
	})
	wantEntry(t, entries[1], keyimport.Entry{
		Line: 2, Owner: ada, Name: "short", Expires: createdOf(entries[1]).Add(300 * 24 * time.Hour),
	})
	id := entries[2].Key.ID().String()
	wantEntry(t, entries[2], keyimport.Entry{Line: 3, Owner: ada, Name: "~" + id[len(id)-8:], Disabled: true})
}

func TestKeysOfUnkeyAreRead(t *testing.T) {
	f := keyimport.Unkey()
	entries := readKeys(t, readFile(t, "unkey.jsonl"), f)
	if len(entries) != 2 {
		t.Fatalf("%d entries", len(entries))
	}
	wantToken(t, f, entries[0], "my-secret-key")
	wantToken(t, f, entries[1], "my-other-secret-key")
	id := entries[0].Key.ID().String()
	wantEntry(t, entries[0], keyimport.Entry{Line: 1, Owner: "hello", Name: "~" + id[len(id)-8:]})
	wantEntry(t, entries[1], keyimport.Entry{
		Line: 2, Owner: "user_1234", Name: "name", Expires: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC), Disabled: true,
		Metadata: map[string]string{"plan": "pro", "seats": "5"}, Scopes: latchkey.NewScopes("documents.read", "documents.write"),
	})
	for _, hash := range []string{
		`"ExH4/ICn6ijXjddyPwnETBdUzTUWDKjnEzrj1/Y2oZo="`, `"ExH4_ICn6ijXjddyPwnETBdUzTUWDKjnEzrj1_Y2oZo"`,
		`"1311f8fc80a7ea28d78dd7723f09c44c1754cd35160ca8e7133ae3d7f636a19a"`,
	} {
		wantToken(t, f, readKeys(t, `{"hash":`+hash+`}`, f)[0], "my-secret-key")
	}
}

func general() keyimport.Format {
	return keyimport.General(keyimport.Scheme{Name: "general", Hash: keyimport.SHA256})
}

func digest(n int) string { return fmt.Sprintf("d1%06x%056x", n, n) }

func TestKeysOfTheGeneralFormatAreReadFromCSVAndJSONLines(t *testing.T) {
	want := keyimport.Entry{
		Line: 2, Owner: "ada", Name: "Ada's, \"laptop\"", Expires: time.UnixMilli(1893456000123).UTC(),
		Scopes: latchkey.NewScopes("a", "b"), Metadata: map[string]string{"site": "Oslo", "n": "1.50"}, Group: "north", Disabled: true,
		Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.7/32")},
	}
	csv := "\xef\xbb\xbfname, hash,owner,created,expires,scopes,metadata,group,disabled,networks\n" +
		`"Ada's, ""laptop""",` + digest(1) + `,ada,2026-01-02 05:04:05+02,1893456000123,a b,"{""site"":""Oslo"",""n"":1.50}",north,TRUE,10.0.0.0/8 192.0.2.7` + "\n"
	wantEntry(t, readKeys(t, csv, general())[0], want)
	jsonLines := `{"hash":"` + digest(1) + `","name":"Ada's, \"laptop\"","owner":"ada","created":"2026-01-02T03:04:05Z","expires":1893456000123,` +
		`"scopes":["b","a"],"metadata":{"site":"Oslo","n":1.50},"group":"north","disabled":true,"handle":null,"networks":["10.0.0.0/8","192.0.2.7"]}` + "\r\n\n"
	want.Line = 1
	entry := readKeys(t, jsonLines, general())[0]
	wantEntry(t, entry, want)
	if created := createdOf(entry); !created.Equal(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)) {
		t.Errorf("created %v", created)
	}
	readKeys(t, "hash,other\n"+digest(1)+",\n", general()) // a field without a text is not there
	for _, text := range []string{"", "hash\n", "\xef\xbb\xbf"} {
		if entries := readKeys(t, text, general()); len(entries) != 0 {
			t.Errorf("%q: got %+v", text, entries)
		}
	}
	// Several lines of CSV can be one record.
	entries := readKeys(t, "hash,name\n"+digest(1)+",\"a\nb\"\n"+digest(2)+",c\n", general())
	if len(entries) != 2 || entries[1].Line != 4 {
		t.Errorf("got %+v", entries)
	}
}

func TestKeysWithOneNameGetDifferentNames(t *testing.T) {
	text := "hash,name,owner\n" + digest(1) + ",a,ada\n" + digest(2) + ",a,ada\n" + digest(3) + ",a,bob\n" + digest(4) + ",,bob\n" + digest(5) + ",b,ada\n"
	entries := readKeys(t, text, general())
	suffix := func(i int) string {
		id := entries[i].Key.ID().String()
		return "~" + id[len(id)-8:]
	}
	for i, want := range []string{"a" + suffix(0), "a" + suffix(1), "a", suffix(3), "b"} {
		if entries[i].Name != want {
			t.Errorf("key %d has the name %q, want %q", i, entries[i].Name, want)
		}
	}
}

// problems returns the lines of an error.
func problems(t testing.TB, text string, f keyimport.Format, ignore ...string) []string {
	t.Helper()
	entries, err := keyimport.Read(strings.NewReader(text), f, &keyimport.Options{Ignore: ignore})
	if err == nil {
		return nil
	}
	var errs keyimport.Errors
	if !errors.As(err, &errs) || entries != nil {
		t.Fatalf("got %v and %d entries", err, len(entries))
	}
	return strings.Split(errs.Error(), "\n")
}

func TestAllThatIsWrongIsSaidLineByLine(t *testing.T) {
	const noDigest = `"hash": invalid verifier: a digest of sha256 has 64 hexadecimal digits`
	for _, tt := range []struct {
		about, text string
		format      keyimport.Format
		want        []string
	}{
		{"several lines", "hash,name,expires\n" + digest(1) + ",a,soon\nabc,b,\n" + digest(2) + ",c,\n" + digest(3) + ",d,x\n", general(), []string{
			`line 2: "expires": it is neither a time as in RFC 3339 nor a number of milliseconds since 1970`,
			"line 3: " + noDigest,
			`line 5: "expires": it is neither a time as in RFC 3339 nor a number of milliseconds since 1970`,
		}},
		{"several fields", `{"hash":"` + digest(1) + `","name":["a"],"scopes":[1],"metadata":"x","disabled":"maybe","created":-1,"group":{},"networks":"all"}`, general(), []string{
			`line 1: "created": it is neither a time as in RFC 3339 nor a number of milliseconds since 1970`,
			`line 1: "name": it is no text`,
			`line 1: "scopes": it is no list of texts`,
			`line 1: "networks": it has a text that is neither a network nor an address`,
			`line 1: "metadata": it is no JSON`,
			`line 1: "group": it is no text`,
			`line 1: "disabled": it is neither true nor false`,
		}},
		{"an unknown field", "hash,expire\n" + digest(1) + ",2030-01-01\n", general(), []string{`line 2: "expire": there is no such field`}},
		{"unknown fields", `{"hash":"` + digest(1) + `","z":1,"a":0,"null":null}`, general(), []string{`line 1: "a": there is no such field`, `line 1: "z": there is no such field`}},
		{"no hash", "hash,name\n,a\n", general(), []string{`line 2: "hash": there is none`}},
		{"one key twice", "hash,name\n" + digest(1) + ",a\n" + digest(2) + ",b\n" + digest(1) + ",c\n", general(), []string{"line 4: it is the key of line 2"}},
		{"no JSON", `{"hash":"` + digest(1) + `"}` + "\n{\n[]\nnull\n{} {}\n", general(), []string{
			"line 2: it is not one object of JSON", "line 3: it is not one object of JSON", "line 4: it is not one object of JSON", "line 5: it is not one object of JSON",
		}},
		{"an array", `[{"hash":"` + digest(1) + `"}]`, general(), []string{"line 1: it is an array of JSON; write each element of the array on a line of its own, as jq -c '.[]' does"}},
		{"a record that is short", "hash,name\n" + digest(1) + "\n" + digest(2) + ",b,c\n", general(), []string{
			"line 2: it has another number of fields than the first record", "line 3: it has another number of fields than the first record",
		}},
		{"no CSV", "hash,name\n" + digest(1) + ",a\"b\n", general(), []string{`line 2: it is no CSV: bare " in non-quoted-field`}},
		{"a field twice", "hash,name,hash\n", general(), []string{`line 1: "hash": the first record names each field once`}},
		{"a field without a name", "hash,\n", general(), []string{"line 1: the first record names each field once"}},
		{"a limit of uses", `{"hash":"` + digest(1) + `","remaining":5,"refill":{"amount":1},"credits":null}`, keyimport.Unkey(), []string{
			`line 1: "remaining": a store has no such limit, so the key would have none`, `line 1: "refill": a store has no such limit, so the key would have none`,
		}},
		{"another variant", `{"hash":{"value":"x","variant":"sha1"}}`, keyimport.Unkey(), []string{
			`line 1: "hash": its variant is not sha256_base64`, "line 1: " + noDigest,
		}},
		{"permissions that are none", `{"key":"` + digest(1) + `","permissions":"{\"files\":\"read\"}","metadata":"3"}`, keyimport.BetterAuth(), []string{
			`line 1: "permissions": it has a value that is no list of texts`, `line 1: "metadata": it is no object of JSON`,
		}},
		{"reserved scopes", `{"key":"` + digest(1) + `","permissions":{"latchkey":["admin"],"files":["read"]}}`, keyimport.BetterAuth(), []string{
			`line 1: the scope "latchkey:admin" is reserved, so a key of another system cannot have it`,
		}},
		{"a hash of Django's", "hashed_key,name\npbkdf2_sha256$1000000$zQtX8XlvPZGIqeUysFVCqo$vyptnBDdChU6M+6VE8OPuJjZSiqxvw1snR8q6SR6V78=,a\n", keyimport.DjangoAPIKey(), []string{
			`line 2: "hashed_key": it is no sha512; the key gets one when it is used with version 3 or later`,
		}},
		{"an object of Django's", `{"model":"rest_framework_api_key.apikey","pk":"x","fields":{"name":"a"}}`, keyimport.DjangoAPIKey(), []string{`line 1: "hashed_key": there is none`}},
		{"a time after the year 9999", "hash,expires\n" + digest(1) + ",253402300800000\n", general(), []string{
			`line 2: "expires": it is neither a time as in RFC 3339 nor a number of milliseconds since 1970`,
		}},
		{"two objects in one text", "hash,metadata\n" + digest(1) + ",{} {}\n", general(), []string{`line 2: "metadata": it is no JSON`}},
		{"a line that is too long", `{"hash":"` + strings.Repeat("x", 1<<20) + `"}`, general(), []string{"line 1: it is longer than 1048576 bytes"}},
	} {
		got := problems(t, tt.text, tt.format)
		if !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s:\ngot  %q\nwant %q", tt.about, got, tt.want)
		}
		for _, line := range got {
			if strings.Contains(line, digest(1)) || strings.Contains(line, "vypt") {
				t.Errorf("%s: the error shows a hash: %s", tt.about, line)
			}
		}
	}
}

func TestFieldsThatAreToBeIgnoredAreNotLookedAt(t *testing.T) {
	text := `{"hash":"` + digest(1) + `","remaining":5,"other":1,"expires":"soon"}`
	if got := problems(t, text, keyimport.Unkey(), "remaining", "other", "expires"); got != nil {
		t.Errorf("got %q", got)
	}
	if got := problems(t, text, keyimport.Unkey(), "remaining"); len(got) != 2 {
		t.Errorf("got %q", got)
	}
}

func TestAfterAHundredErrorsThereAreNoMore(t *testing.T) {
	for _, text := range []string{"hash\n" + strings.Repeat("x\n", 1000), strings.Repeat("{\"hash\":\"x\"}\n", 1000)} {
		if got := problems(t, text, general()); len(got) != 100 {
			t.Errorf("%d errors", len(got))
		}
	}
}

func TestAnErrorOfTheReaderIsReturned(t *testing.T) {
	broken := errors.New("broken")
	readKeys(t, "hash,other\n"+digest(1)+",\n", general()) // a field without a text is not there
	for _, text := range []string{"", "hash\n", "{\"hash\":\"" + digest(1) + "\"}\n"} {
		_, err := keyimport.Read(io.MultiReader(strings.NewReader(text), iotest.ErrReader(broken)), general(), nil)
		if !errors.Is(err, broken) {
			t.Errorf("after %q: got %v", text, err)
		}
	}
	if _, err := keyimport.Read(strings.NewReader(""), keyimport.General(keyimport.Scheme{}), nil); !errors.Is(err, keyimport.ErrInvalidScheme) {
		t.Errorf("an invalid scheme: got %v", err)
	}
}

func FuzzRead(f *testing.F) {
	for _, name := range []string{"django.csv", "django.jsonl", "better-auth.jsonl", "unkey.jsonl"} {
		f.Add(readFile(f, name))
	}
	f.Add("hash,name,scopes,metadata\n" + digest(1) + ",a,\"[\"\"x\"\"]\",{}\n")
	f.Add(`{"scheme":{"name":"old","hash":"sha256"}}
{"user":{"identities":[{"provider":"custom-token","subject":"ada"}],"group":"north","metadata":{"a":"b"},"disabled":true}}
{"owner":{"provider":"custom-token","subject":"ada"},"name":"a","networks":["10.0.0.0/8"],"minted":"foreign/` + digest(1)[:32] + `/5/$sha256$` + digest(1) + `"}
`)
	formats := []keyimport.Format{general(), keyimport.Unkey(), keyimport.BetterAuth(), keyimport.DjangoAPIKey(), keyimport.Latchkey()}
	f.Fuzz(func(t *testing.T, text string) {
		for _, format := range formats {
			entries, err := keyimport.Read(strings.NewReader(text), format, nil)
			if err != nil {
				var errs keyimport.Errors
				if !errors.As(err, &errs) || len(errs) == 0 || len(errs) > 100 || entries != nil {
					t.Errorf("%s: got %v", format.Scheme.Name, err)
				}
				continue
			}
			again, err := keyimport.Read(strings.NewReader(text), format, nil)
			if err != nil || len(again) != len(entries) {
				t.Errorf("%s: read again: %v", format.Scheme.Name, err)
			}
			for i, e := range entries {
				if format.Scheme.Name != "" && e.Name == "" || e.Line < 1 || i > 0 && e.Line < entries[i-1].Line || again[i].Key.ID() != e.Key.ID() {
					t.Errorf("%s: entry %d is %+v", format.Scheme.Name, i, e)
				}
			}
		}
	})
}
