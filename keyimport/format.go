package keyimport

import (
	"encoding/base64"
	"encoding/hex"
	"slices"
	"strings"
	"time"

	"github.com/latchkeydb/latchkey"
)

// A Format is how a system exports its keys. Its Scheme can be changed, to say more about the
// tokens, such as their prefix. It must then be the same in [New] and in [Read].
type Format struct {
	Scheme Scheme

	own  bool // the format of Export
	read func(r *row) Entry
}

// validate returns ErrInvalidScheme if the format has a scheme that cannot be used. The format
// [Latchkey] has none.
func (f Format) validate() error {
	if f.Scheme == (Scheme{}) && f.own {
		return nil
	}
	return f.Scheme.validate()
}

// General returns the format of no system, for a scheme. Its fields are
//
//	hash      as in Scheme.Key
//	handle    as in Scheme.Key; none for a digest
//	name
//	owner     none for a server key
//	created   a time
//	expires   a time
//	scopes    a list of texts, or one text with blanks or commas between the scopes
//	networks  a list of networks or addresses, in the same forms
//	metadata  an object
//	group
//	disabled  true or false
//
// All fields but hash can be absent. A time is as in RFC 3339, also with a blank in the place of
// the T, or without a zone, which means UTC; or a date; or a number of milliseconds since 1970.
// Lists and objects are of JSON, in CSV too.
func General(s Scheme) Format {
	return Format{Scheme: s, read: func(r *row) Entry {
		return Entry{
			Key:      r.key(r.text("hash"), "hash", r.text("handle"), r.time("created")),
			Owner:    r.text("owner"),
			Name:     r.text("name"),
			Expires:  r.time("expires"),
			Scopes:   latchkey.NewScopes(r.texts("scopes")...),
			Networks: r.networks("networks"),
			Metadata: r.metadata("metadata"),
			Group:    r.text("group"),
			Disabled: r.boolean("disabled", false),
		}
	}}
}

// key makes the key of an entry.
func (r *row) key(hash, field, handle string, created time.Time) latchkey.MintedKey {
	if hash == "" {
		r.fail(field, "there is none")
		return latchkey.MintedKey{}
	}
	key, err := r.reader.format.Scheme.Key(hash, handle, created)
	if err != nil {
		r.fail(field, "%v", err)
	}
	return key
}

// Unkey returns the format of Unkey's key migrations, as JSON lines: one element of the list "keys"
// a line. A hash is an object with "value" and the variant "sha256_base64", or a text in base64 or
// in hexadecimal digits. Permissions become scopes. Roles and limits of rates are not imported.
func Unkey() Format {
	return Format{
		Scheme: Scheme{Name: "unkey", Hash: SHA256, MinLength: 8},
		read: func(r *row) Entry {
			r.without("id", "keyId", "apiId", "start", "prefix", "byteLength", "roles", "ratelimit", "ratelimits", "updatedAt", "migrationId")
			r.refuse("remaining", "credits", "refill")
			owner := r.text("externalId")
			if old := r.text("ownerId"); owner == "" {
				owner = old
			}
			return Entry{
				Key:      r.key(r.digest(r.unkeyHash()), "hash", "", r.time("createdAt")),
				Owner:    owner,
				Name:     r.text("name"),
				Expires:  r.time("expires"),
				Scopes:   latchkey.NewScopes(r.texts("permissions")...),
				Metadata: r.metadata("meta"),
				Disabled: !r.boolean("enabled", true),
			}
		},
	}
}

// unkeyHash returns the value of a hash.
func (r *row) unkeyHash() string {
	object, ok := r.get("hash").(map[string]any)
	if !ok {
		return r.text("hash")
	}
	value, _ := object["value"].(string)
	if variant, _ := object["variant"].(string); variant != "sha256_base64" {
		r.fail("hash", "its variant is not sha256_base64")
	}
	return value
}

// BetterAuth returns the format of the table of the API key plugin of better-auth, whose keys are
// hashed by its default. Of the permissions {"files":["read"]} it makes the scope "files:read".
// Limits of rates are not imported.
func BetterAuth() Format {
	return Format{
		Scheme: Scheme{Name: "better-auth", Hash: SHA256},
		read: func(r *row) Entry {
			r.without("id", "configId", "start", "prefix", "lastRefillAt", "rateLimitEnabled", "rateLimitTimeWindow", "rateLimitMax",
				"requestCount", "lastRequest", "updatedAt")
			r.refuse("remaining", "refillInterval", "refillAmount")
			owner := r.text("userId")
			if reference := r.text("referenceId"); owner == "" { // later versions
				owner = reference
			}
			return Entry{
				Key:      r.key(r.digest(r.text("key")), "key", "", r.time("createdAt")),
				Owner:    owner,
				Name:     r.text("name"),
				Expires:  r.time("expiresAt"),
				Scopes:   latchkey.NewScopes(r.permissions("permissions")...),
				Metadata: r.metadata("metadata"),
				Disabled: !r.boolean("enabled", true),
			}
		},
	}
}

// permissions returns scopes for an object of lists.
func (r *row) permissions(name string) (scopes []string) {
	for resource, v := range r.object(name) {
		actions, ok := textsOf(v)
		if !ok {
			r.fail(name, "it has a value that is no list of texts")
		}
		for _, action := range actions {
			scopes = append(scopes, resource+":"+action)
		}
	}
	slices.Sort(scopes)
	return scopes
}

// digest returns the hexadecimal digits of a SHA-256 that is in base64 with either alphabet, with
// or without padding.
func (r *row) digest(text string) string {
	standard := strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimRight(text, "="))
	if b, err := base64.RawStdEncoding.DecodeString(standard); err == nil && len(b) == 32 {
		return hex.EncodeToString(b)
	}
	return text
}

// DjangoAPIKey returns the format of djangorestframework-api-key, version 3 and later: the table as
// CSV, or what "manage.py dumpdata --format jsonl rest_framework_api_key.apikey" writes. Its keys
// belong to no user. A revoked key is imported as disabled.
//
// Keys that were made with an earlier version, and were not used since, still have a hash of
// Django's password hashers, and are refused.
func DjangoAPIKey() Format {
	return Format{
		Scheme: Scheme{Name: "djangorestframework-api-key", Hash: SHA512, MinLength: 20},
		read: func(r *row) Entry {
			if fields, ok := r.get("fields").(map[string]any); ok {
				r.without("model", "pk")
				for name, v := range fields {
					r.fields[name] = v
				}
			}
			r.without("id", "prefix")
			hash := r.text("hashed_key")
			digits, ok := strings.CutPrefix(hash, "sha512$$")
			if hash != "" && !ok {
				r.fail("hashed_key", "it is no sha512; the key gets one when it is used with version 3 or later")
				digits = ""
			}
			e := Entry{
				Name:     r.text("name"),
				Expires:  r.time("expiry_date"),
				Disabled: r.boolean("revoked", false),
			}
			if created := r.time("created"); hash == "" || ok {
				e.Key = r.key(digits, "hashed_key", "", created)
			}
			return e
		},
	}
}
