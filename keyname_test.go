package latchkey_test

import (
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey"
)

type namedText struct{ name, text string }

// goodTexts can be the name of a key and the subject of an identity.
var goodTexts = []namedText{
	{"one byte", "a"},
	{"256 bytes", strings.Repeat("x", 256)},
	{"256 bytes of two-byte letters", strings.Repeat("é", 128)},
	{"an apostrophe and a space", "Ada's laptop"},
	{"a no-break space inside", "Ada's\u00a0laptop"},
	{"the last character before DEL", "~"},
	{"the first visible character after the C1 controls", "\u00a1"},
	{"a sequence of emoji", "👩‍💻"},
	{"right to left", "مفتاح"},
	{"the replacement character itself", "\ufffd"},
	{"the last code point", "\U0010ffff"},
	{"what an SQL or a path would choke on", `'"; DROP TABLE../..\%s%00`},
}

// badTexts can be neither.
var badTexts = []namedText{
	{"empty", ""},
	{"257 bytes", strings.Repeat("x", 257)},
	{"257 bytes, of which 256 are letters", strings.Repeat("x", 255) + "é"},
	{"129 two-byte letters", strings.Repeat("é", 129)},
	{"a byte that is never in UTF-8", "a\xff"},
	{"half a letter", "a\xc3"},
	{"a surrogate", "\xed\xa0\x80"},
	{"an overlong zero", "\xc0\x80"},
	{"NUL", "a\x00b"},
	{"a tab", "a\tb"},
	{"a line feed at the end", "a\n"},
	{"ESC", "\x1b[31m"},
	{"the last C0 control", "a\u001f"},
	{"DEL", "a\u007f"},
	{"the first C1 control", "a\u0080"},
	{"the last C1 control", "a\u009f"},
}

// invisibleTexts can be neither. A store can have them from before that rule.
var invisibleTexts = []namedText{
	{"a space alone", " "},
	{"a space at the beginning", " a"},
	{"a space at the end", "a "},
	{"a no-break space at the end", "a\u00a0"},
	{"a zero-width space at the end", "a\u200b"},
	{"a byte-order mark at the beginning", "\ufeffa"},
	{"letters that nobody sees", "\u3164\u2800\ufe0f"},
}

// idTexts can be the subject of an identity and not the name of a key.
var idTexts = []namedText{
	{"a UUID", "01a21b42-3c1d-7000-8000-0123aceba7ff"},
	{"an ObjectId", "5f60207f14dfb25d23101102"},
}

// lookAlikes look alike, and are different.
var lookAlikes = []string{"Zoë", "Zoe\u0308", "zoë", "Zоë", "Zo\u200bë"}

func TestANameIs1To256BytesOfTextThatPeopleCanSee(t *testing.T) {
	opts := light()
	opts.MaxKeysPerUser = -1
	s := openWith(t, opts)
	ada := addUser(t, s, "ada")
	renamed, _ := addKey(t, s, ada, "renamed")
	for _, tt := range goodTexts {
		t.Run(tt.name, func(t *testing.T) {
			key, token := addKey(t, s, ada, tt.text)
			who, err := s.Login(t.Context(), token)
			must(t, err)
			if key.Name != tt.text || who.KeyName != tt.text {
				t.Errorf("CreateKey named it %q and Login %q", key.Name, who.KeyName)
			}
			must(t, s.DeleteKey(t.Context(), ada, key.ID))
			must(t, s.RenameKey(t.Context(), ada, renamed.ID, tt.text))
			if got, err := s.Key(t.Context(), ada, renamed.ID); err != nil || got.Name != tt.text {
				t.Errorf("RenameKey named it %q, %v", got.Name, err)
			}
		})
	}
	for _, tt := range slices.Concat(badTexts, invisibleTexts, idTexts) {
		t.Run(tt.name, func(t *testing.T) {
			wantNoKey(t, s, ada, latchkey.KeySpec{Name: tt.text}, latchkey.ErrInvalidName)
			wantError(t, s.RenameKey(t.Context(), ada, renamed.ID, tt.text), latchkey.ErrInvalidName)
		})
	}
}

func TestAnErrorAboutANameSaysWhichRuleItBreaksAndShortensTheName(t *testing.T) {
	s := open(t)
	ada := addUser(t, s, "ada")
	long := strings.Repeat("n", 256)
	addKey(t, s, ada, long)
	for name, rule := range map[string]string{
		"":                         "is empty",
		long + "n":                 "has 257 bytes",
		long[1:] + "\n":            "control character U+000A",
		long[3:] + "\u200b":        "ends with the invisible character U+200B",
		"\u00a0laptop":             `"\u00a0laptop" begins with white space, U+00A0`,
		"5f60207f14dfb25d23101102": "has the form of an ID",
		long:                       "key name is taken",
	} {
		_, _, err := s.CreateKey(t.Context(), ada, latchkey.KeySpec{Name: name})
		if err == nil || !strings.Contains(err.Error(), rule) || len(err.Error()) > 250 {
			t.Errorf("got %q, want less than 250 bytes with %q", err, rule)
		}
	}
	for _, i := range []latchkey.Identity{email(long + "n"), email(long[1:] + " ")} {
		if err := latchkey.CheckIdentity(i); err == nil || len(err.Error()) > 150 {
			t.Errorf("got %q, want less than 150 bytes", err)
		}
	}
	addUser(t, s, long)
	_, err := s.CreateUser(t.Context(), latchkey.UserSpec{Identity: email(long)})
	if err == nil || len(err.Error()) > 200 {
		t.Errorf("got %q, want less than 200 bytes", err)
	}
}

func TestNamesAreComparedByteByByte(t *testing.T) {
	s := open(t)
	ada := addUser(t, s, "ada")
	for _, name := range append(lookAlikes, "a", "ab", "a~", "aa", "A") {
		addKey(t, s, ada, name)
		wantNoKey(t, s, ada, latchkey.KeySpec{Name: name}, latchkey.ErrKeyNameTaken)
	}
}

func TestANameIsUniqueAmongTheKeysOfOneOwner(t *testing.T) {
	s := open(t)
	ada, bob := addUser(t, s, "ada"), addUser(t, s, "bob")
	for _, owner := range []uuid.UUID{ada, bob, latchkey.ServerOwner} {
		addKey(t, s, owner, "laptop")
	}
	for _, owner := range []uuid.UUID{ada, bob, latchkey.ServerOwner} {
		wantNoKey(t, s, owner, latchkey.KeySpec{Name: "laptop"}, latchkey.ErrKeyNameTaken)
		phone, _ := addKey(t, s, owner, "phone")
		wantError(t, s.RenameKey(t.Context(), owner, phone.ID, "laptop"), latchkey.ErrKeyNameTaken)
	}
}

func TestADisabledKeyKeepsItsName(t *testing.T) {
	s := open(t)
	ada := addUser(t, s, "ada")
	key, _ := addKey(t, s, ada, "laptop")
	must(t, s.DisableKey(t.Context(), ada, key.ID))
	wantNoKey(t, s, ada, latchkey.KeySpec{Name: "laptop"}, latchkey.ErrKeyNameTaken)
}

func TestANameIsFreeAfterItsKeyWasDeletedOrRenamed(t *testing.T) {
	s := open(t)
	ada := addUser(t, s, "ada")
	first, _ := addKey(t, s, ada, "laptop")
	must(t, s.DeleteKey(t.Context(), ada, first.ID))
	second, _ := addKey(t, s, ada, "laptop")
	must(t, s.RenameKey(t.Context(), ada, second.ID, "old laptop"))
	third, _ := addKey(t, s, ada, "laptop")
	wantNoKey(t, s, ada, latchkey.KeySpec{Name: "old laptop"}, latchkey.ErrKeyNameTaken)
	if first.ID == second.ID || second.ID == third.ID {
		t.Error("two keys have one ID")
	}
}

func TestAppServicesNamesRestrictsNewNames(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	s := openAt(t, path, light())
	ada := addUser(t, s, "ada")
	older, token := addKey(t, s, ada, "Ada's laptop")
	closeStore(t, s)

	opts := light()
	opts.AppServicesNames = true
	s = openAt(t, path, opts)
	for _, name := range []string{
		"my-key", "foo", "key-0", "my-api-key", "api-key-0", "mykey", "myApiKey", "apiKeyName1", "key_test",
		"Name_of_the_API_Key", "5f60207f14dfb25d23101102", "xK3mPq9ZsT1vWb0", "-", "_", strings.Repeat("z", 256),
	} {
		key, _ := addKey(t, s, ada, name)
		must(t, s.RenameKey(t.Context(), ada, key.ID, name+"-"[:min(1, 256-len(name))]))
		must(t, s.DeleteKey(t.Context(), ada, key.ID))
	}
	for _, name := range []string{
		"%s", "My very cool key", "Spaces are not allowed", "$()!$",
		"", "a.b", "a/b", "a:b", "a@b", "a[b", "a`b", "a{b", "é", "a\n", strings.Repeat("z", 257),
	} {
		t.Run(strconv.Quote(name), func(t *testing.T) {
			wantNoKey(t, s, ada, latchkey.KeySpec{Name: name}, latchkey.ErrInvalidName)
			wantError(t, s.RenameKey(t.Context(), ada, older.ID, name), latchkey.ErrInvalidName)
		})
	}

	// A name from before stays, and its key is a key like any other.
	wantLogin(t, s, token, older.ID)
	must(t, s.DisableKey(t.Context(), ada, older.ID))
	must(t, s.EnableKey(t.Context(), ada, older.ID))
	must(t, s.RenameKey(t.Context(), ada, older.ID, older.Name))
	must(t, s.RenameKey(t.Context(), ada, older.ID, "Adas-laptop"))
}

func TestARenamedKeyIsTheSameKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	s := openAt(t, path, light())
	ada := addUser(t, s, "ada")
	want, token := addKey(t, s, ada, "laptop")
	wantName := func(name string) {
		t.Helper()
		who, err := s.Login(t.Context(), token)
		must(t, err)
		if who.KeyName != name {
			t.Errorf("logged in with %q, want %q", who.KeyName, name)
		}
	}
	wantName("laptop") // and it is cached
	must(t, s.RenameKey(t.Context(), ada, want.ID, "tablet"))
	wantName("tablet")
	must(t, s.DisableKey(t.Context(), ada, want.ID))
	must(t, s.RenameKey(t.Context(), ada, want.ID, "desktop"))
	wantRefused(t, s, token, latchkey.ErrKeyDisabled)
	must(t, s.EnableKey(t.Context(), ada, want.ID))
	want.Name, want.Disablings = "desktop", 1
	for range 2 { // as it stands, and after reopening
		if got := keyOf(t, s, ada, want.ID); !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
		wantName("desktop")
		closeStore(t, s)
		s = openAt(t, path, light())
	}
}

func TestAnExpiredKeyMakesWayForAKeyWithItsName(t *testing.T) {
	insert := func(t *testing.T, s *latchkey.Store, owner uuid.UUID, name string) error {
		minted, _, err := s.MintKey(t.Context())
		must(t, err)
		return s.Update(t.Context(), func(tx *latchkey.Tx) error {
			_, err := insertKey(tx, owner, latchkey.KeySpec{Name: name}, minted)
			return err
		})
	}
	ways := map[string]func(t *testing.T, s *latchkey.Store, owner uuid.UUID, name string) error{
		"CreateKey": func(t *testing.T, s *latchkey.Store, owner uuid.UUID, name string) error {
			_, _, err := createKey(t.Context(), s, owner, latchkey.KeySpec{Name: name})
			return err
		},
		"CreateKeys": func(t *testing.T, s *latchkey.Store, owner uuid.UUID, name string) error {
			if owner == latchkey.ServerOwner {
				return insert(t, s, owner, name)
			}
			_, _, err := s.CreateKeys(t.Context(), []latchkey.KeyRequest{
				{Owner: owner, KeySpec: latchkey.KeySpec{Name: "another"}}, {Owner: owner, KeySpec: latchkey.KeySpec{Name: name}},
			}, nil)
			return err
		},
		"InsertKey": insert,
		"RenameKey": func(t *testing.T, s *latchkey.Store, owner uuid.UUID, name string) error {
			key, _ := addKey(t, s, owner, "another")
			return s.RenameKey(t.Context(), owner, key.ID, name)
		},
	}
	for way, take := range ways {
		for _, tt := range []struct{ about, name, cut, separator string }{
			{"short", "Ada's laptop", "Ada's laptop", "~"},
			{"256 bytes", strings.Repeat("x", 256), strings.Repeat("x", 247), "~"},
			{"256 bytes of two-byte letters", strings.Repeat("é", 128), strings.Repeat("é", 123), "~"},
			{"the hosted service's", "laptop", "laptop", "-"},
		} {
			for _, server := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/server=%t", way, tt.about, server), func(t *testing.T) {
					opts := light()
					opts.AppServicesNames = tt.separator == "-"
					s, c := openWithClock(t, opts)
					owner := addUser(t, s, "ada")
					if server {
						owner = latchkey.ServerOwner
					}
					expiring, token := addExpiring(t, s, owner, tt.name)
					wantLogin(t, s, token, expiring.ID) // puts the key into the cache
					wantError(t, take(t, s, owner, tt.name), latchkey.ErrKeyNameTaken)
					for _, key := range keysNamed(t, s, owner, "another") {
						must(t, s.DeleteKey(t.Context(), owner, key.ID))
					}
					before := c.now()
					c.advance(time.Hour)
					must(t, take(t, s, owner, tt.name))

					id := expiring.ID.String()
					expiring.Name = tt.cut + tt.separator + id[len(id)-8:]
					if got := keyOf(t, s, owner, expiring.ID); !reflect.DeepEqual(got, expiring) {
						t.Errorf("the expired key is %+v, want %+v", got, expiring)
					}
					if taker := keysNamed(t, s, owner, tt.name); len(taker) != 1 || taker[0].ID == expiring.ID {
						t.Errorf("the name has the keys %+v, want one new key", taker)
					}
					wantRefused(t, s, token, latchkey.ErrKeyExpired)
					// If the clock goes back, the key is good again, under its new name.
					c.set(before)
					if who, err := s.Login(t.Context(), token); err != nil || who.KeyName != expiring.Name {
						t.Errorf("logged in as %q, %v, want %q", who.KeyName, err, expiring.Name)
					}
				})
			}
		}
	}
}

// keysNamed returns the keys of owner that have a name.
func keysNamed(t *testing.T, s *latchkey.Store, owner uuid.UUID, name string) []latchkey.Key {
	t.Helper()
	keys, err := s.Keys(t.Context(), owner)
	must(t, err)
	return slices.DeleteFunc(keys, func(key latchkey.Key) bool { return key.Name != name })
}

func TestANameCanBeTakenFromOneExpiredKeyAfterAnother(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	c := newClock()
	opts := light()
	opts.Now, opts.TestClock, opts.MaxKeysPerUser = c.now, true, 1
	s := openAt(t, path, opts)
	ada := addUser(t, s, "ada")
	var want []string
	for range 5 {
		key, _ := addExpiring(t, s, ada, "week")
		id := key.ID.String()
		want = append(want, "week~"+id[len(id)-8:])
		c.advance(time.Hour)
	}
	addKey(t, s, ada, "week")
	want = append(want, "week")
	closeStore(t, s)
	s = openAt(t, path, opts)
	keys, err := s.Keys(t.Context(), ada)
	must(t, err)
	var got []string
	for _, key := range keys {
		got = append(got, key.Name)
	}
	if !slices.Equal(got, want) {
		t.Errorf("the keys are named %q, want %q", got, want)
	}
}

func TestAnExpiredKeyKeepsItsNameIfItsNewNameIsTaken(t *testing.T) {
	s, c := openWithClock(t, light())
	ada := addUser(t, s, "ada")
	expiring, _ := addExpiring(t, s, ada, "week")
	id := expiring.ID.String()
	other, _ := addKey(t, s, ada, "week~"+id[len(id)-8:])
	c.advance(time.Hour)
	wantNoKey(t, s, ada, latchkey.KeySpec{Name: "week"}, latchkey.ErrKeyNameTaken)
	wantNoChange(t, s, func() {
		wantError(t, s.RenameKey(t.Context(), ada, other.ID, "week"), latchkey.ErrKeyNameTaken)
	})
	must(t, s.RenameKey(t.Context(), ada, other.ID, "month"))
	addKey(t, s, ada, "week")
}

func TestAnExpiredKeyCanTakeTheNameOfAnother(t *testing.T) {
	s, c := openWithClock(t, light())
	ada := addUser(t, s, "ada")
	week, _ := addExpiring(t, s, ada, "week")
	month, _ := addExpiring(t, s, ada, "month")
	c.advance(time.Hour)
	must(t, s.RenameKey(t.Context(), ada, week.ID, "month"))
	if got, err := s.Key(t.Context(), ada, week.ID); err != nil || got.Name != "month" {
		t.Errorf("the key is named %q, %v, want month", got.Name, err)
	}
	if got, err := s.Key(t.Context(), ada, month.ID); err != nil || !strings.HasPrefix(got.Name, "month~") {
		t.Errorf("the other key is named %q, %v, want month~ and 8 digits", got.Name, err)
	}
}
