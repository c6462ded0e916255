package admin

import (
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/latchkeydb/latchkey/admin/internal/manifest"
)

// ErrManifest means that a manifest is wrong, or is of another domain. The error names the line.
var ErrManifest = errors.New("the manifest is wrong")

// manifestError is a mistake in a manifest.
type manifestError struct{ error }

func (e manifestError) Unwrap() error        { return e.error }
func (e manifestError) Is(target error) bool { return target == ErrManifest }

// maxManifest bounds the body of an application. It has room for about forty thousand keys.
const maxManifest = 16 << 20

// applyManifest brings users and keys in line with a manifest, in one transaction.
func (c *call) applyManifest() error {
	q, err := c.query("prune", "dry_run")
	if err != nil {
		return err
	}
	var opts ApplyOptions
	if opts.Prune, err = boolParameter(q, "prune"); err != nil {
		return err
	}
	if opts.DryRun, err = boolParameter(q, "dry_run"); err != nil {
		return err
	}
	body, err := c.body(maxManifest, "application/yaml", "application/json")
	if err != nil {
		return err
	}
	// The text of a manifest takes memory, and the tree of the document takes much more.
	return alone(&c.apply, func() error {
		text, err := io.ReadAll(body)
		if err != nil {
			return err
		}
		m, err := manifest.Parse(text)
		if err != nil {
			return manifestError{err}
		}
		if id := c.store.DomainID().String(); m.Domain != id {
			return manifestError{fmt.Errorf("the manifest is of the domain %s, and the store is of %s", m.Domain, id)}
		}
		changes, err := m.Apply(c.r.Context(), c.store, manifest.Options(opts))
		if err != nil && len(changes) > 0 && !opts.DryRun {
			return fmt.Errorf("%w; the number of changes that were made before is %d, because the engine bounds transactions", err, len(changes))
		}
		if err != nil {
			return err
		}
		return c.answer(http.StatusOK, Applied{DryRun: opts.DryRun, Changes: append([]AppliedChange{}, changes...)})
	})
}
