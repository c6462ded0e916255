package replica

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/durable"
)

// A credential is what an edge authenticates itself and its hub with. It is in a file beside the
// store, so that no backup and no copy of the store has it.
type credential struct {
	Version int       `json:"version"`
	Hub     string    `json:"hub"` // the URL
	Domain  uuid.UUID `json:"domain"`
	Edge    uuid.UUID `json:"edge,omitzero"` // by which the hub knows the edge
	// Pins are the hashes of the public keys that the hub may have. Without pins, the authorities
	// of the system vouch for the name in the URL.
	Pins [][]byte `json:"pins,omitempty"`
	// Token is the token of the edge's key, and Issued is when the hub made it, by the hub's time.
	// Former is the token before that, for a hub that was restored from a backup.
	Token  string    `json:"token,omitempty"`
	Issued time.Time `json:"issued,omitzero"`
	Former string    `json:"former,omitempty"`
	// Nonce lets an edge that was interrupted while it joined use its invitation once more.
	Nonce []byte `json:"nonce,omitempty"`
	// Instance is drawn at each opening, and Before is the one of the last opening. So the hub can
	// tell a device that has restarted from a copy of the device.
	Instance uuid.UUID `json:"instance,omitzero"`
	Before   uuid.UUID `json:"before,omitzero"`
	// Earlier are those of the openings before that, the latest first.
	Earlier []uuid.UUID `json:"earlier,omitempty"`
	// Cloned says that another device uses the credential. The store of the edge gets another
	// replica ID at the next opening.
	Cloned bool `json:"cloned,omitempty"`
}

const credentialVersion = 1

// maxCredential bounds the file of a credential, which has some hundred bytes.
const maxCredential = 64 << 10

// credentialPath returns the path of the credential's file for the store at path.
func credentialPath(path string) string { return durable.Beside(durable.Resolve(path), ".edge") }

// readCredential reads the credential of the edge whose store is at path.
//
// Errors: [fs.ErrNotExist] if there is none; [ErrNotEdge] if the file is damaged; the operating
// system's error.
func readCredential(path string) (*credential, error) {
	name := credentialPath(path)
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxCredential+1))
	if err != nil {
		return nil, err
	}
	c := &credential{}
	if len(b) > maxCredential || json.Unmarshal(b, c) != nil {
		return nil, fmt.Errorf("%w: %s is damaged", ErrNotEdge, name)
	}
	if c.Version > credentialVersion {
		return nil, fmt.Errorf("%w: a later version has written %s", ErrNotEdge, name)
	}
	for _, pin := range c.Pins {
		if len(pin) != pinSize {
			return nil, fmt.Errorf("%w: %s is damaged", ErrNotEdge, name)
		}
	}
	return c, nil
}

// write writes the credential durably, in the place of the one that there is.
//
// Errors: the operating system's error.
func (c *credential) write(path string) error {
	c.Version = credentialVersion
	b, err := json.MarshalIndent(c, "", "\t")
	if err != nil {
		return err
	}
	return durable.Replace(credentialPath(path), func(tmp *os.File) error {
		_, err := tmp.Write(append(b, '\n'))
		return err
	})
}

// clone returns a copy that shares nothing with c.
func (c *credential) clone() *credential {
	other := *c
	other.Pins, other.Nonce, other.Earlier = nil, bytes.Clone(c.Nonce), slices.Clone(c.Earlier)
	for _, pin := range c.Pins {
		other.Pins = append(other.Pins, bytes.Clone(pin))
	}
	return &other
}

// isMissing reports whether an error says that there is no file.
func isMissing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
