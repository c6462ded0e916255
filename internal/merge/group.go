package merge

import (
	"bytes"
	"fmt"

	"github.com/latchkeydb/latchkey/internal/cache"
	"github.com/latchkeydb/latchkey/internal/record"
)

// group merges the record of a group.
func (t *Tables) group(c record.Copy) error {
	name := string(c.Key)
	theirs, err := record.UnsealGroup(name, c.Sealed)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if err := checkGroup(name); err != nil {
		return err
	}
	merged := *theirs
	sealed, err := t.Get(c.Table, c.Key)
	if err != nil {
		return err
	}
	if sealed != nil {
		ours, err := record.UnsealGroup(name, sealed)
		if err != nil {
			return err
		}
		if merged = ours.Merge(*theirs); bytes.Equal(merged.Encode(), ours.Encode()) {
			return nil
		}
	}
	t.DropCached(cache.Stale{Groups: []string{name}})
	return t.put(c.Table, c.Key, merged.Encode())
}
