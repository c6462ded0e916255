// Package mint has keys that have an ID and a verifier, but no owner and no name yet, and their
// text for a configuration.
package mint

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/foreign"
	"github.com/latchkeydb/latchkey/internal/phc"
	"github.com/latchkeydb/latchkey/internal/record"
)

// A Key is a key that has an ID and a verifier.
type Key struct {
	ID       uuid.UUID
	Domain   uuid.UUID // zero for a foreign key
	Created  time.Time
	Verifier record.Verifier
	Replaces record.VerifierID // zero unless it is for a rotation
	// Outside says that the key has a text outside the store, so that it may come again after it
	// was deleted. The text does not say so itself.
	Outside bool
}

// Foreign returns a key that was made elsewhere.
func Foreign(h record.Handle, verifier string, created time.Time) Key {
	k := Key{Created: created, Verifier: record.Verifier{PHC: verifier, Handle: h}}
	k.ID, k.Verifier.ID = foreign.IDs(h, verifier)
	return k
}

// IsForeign reports whether the token of the key was made elsewhere.
func (k *Key) IsForeign() bool { return k.Verifier.Handle != record.Handle{} }

// FromElsewhere reports whether the key was made elsewhere, also if it was rotated since then.
func (k *Key) FromElsewhere() bool { return k.ID.Version() == 8 }

// IsFor reports whether a store of a domain can have the key.
func (k *Key) IsFor(domain uuid.UUID) bool {
	if k.IsForeign() {
		return k.Verifier.PHC != "" && len(k.Verifier.PHC) <= record.MaxPHC
	}
	return k.Domain == domain
}

// foreignText begins the text of a foreign key, in place of a domain.
const foreignText = "foreign"

// Text returns the text of the key, which [Parse] reads.
func (k Key) Text() string {
	if k.IsForeign() {
		return fmt.Sprintf("%s/%x/%d/%s", foreignText, k.Verifier.Handle[:], milliseconds(k.Created), k.Verifier.PHC)
	}
	tag := ""
	if k.Verifier.Tag > 0 {
		tag = fmt.Sprintf(".%d", k.Verifier.Tag)
	}
	id := k.ID.String()
	if k.FromElsewhere() { // such an ID does not have the time
		id += fmt.Sprintf("@%d", milliseconds(k.Created))
	}
	return fmt.Sprintf("%s/%s/%x%s/%s", k.Domain, id, k.Verifier.ID[:], tag, k.Verifier.PHC)
}

// milliseconds returns a time in Unix milliseconds, or 0 for the zero time.
func milliseconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// Parse reads the text of a key. It is not ok if the text is damaged. It does not read the verifier
// of a foreign key.
func Parse(text string) (k Key, ok bool) {
	parts := strings.SplitN(text, "/", 4)
	if len(parts) != 4 {
		return Key{}, false
	}
	if parts[0] == foreignText {
		k, ok = parseForeign(parts)
	} else {
		k, ok = parse(parts)
	}
	k.Outside = true
	// The comparison catches what the calls above let pass.
	return k, ok && !k.Created.After(record.LastTime) && k.Text() == text
}

func parse(parts []string) (k Key, ok bool) {
	k.Domain, _ = uuid.Parse(parts[0])
	key, ms, _ := strings.Cut(parts[1], "@")
	k.ID, _ = uuid.Parse(key)
	verifier, tag, _ := strings.Cut(parts[2], ".")
	id, _ := hex.DecodeString(verifier)
	copy(k.Verifier.ID[:], id)
	k.Verifier.Tag, _ = strconv.ParseUint(tag, 10, 64)
	k.Verifier.PHC = parts[3]
	created, _ := strconv.ParseInt(ms, 10, 64)
	if !k.FromElsewhere() {
		created = int64(binary.BigEndian.Uint64(k.ID[:]) >> 16)
	}
	k.Created = time.UnixMilli(created).UTC()
	_, err := phc.Parse(k.Verifier.PHC)
	return k, err == nil && created >= 0 && k.ID.Variant() == uuid.RFC4122 && (k.ID.Version() == 7 || k.FromElsewhere())
}

func parseForeign(parts []string) (k Key, ok bool) {
	var handle record.Handle
	b, _ := hex.DecodeString(parts[1])
	copy(handle[:], b)
	ms, _ := strconv.ParseInt(parts[2], 10, 64)
	var created time.Time
	if ms != 0 {
		created = time.UnixMilli(ms).UTC()
	}
	return Foreign(handle, parts[3], created), handle != record.Handle{} && ms >= 0
}
