package merge

import (
	"bytes"
	"context"
)

// InSteps calls each for all entries of a table, in several transactions of view, each of which
// reads at most so many entries. So no transaction takes long, but they see different states. A
// change that is made meanwhile may be seen or not.
func InSteps(
	ctx context.Context, view func(context.Context, func(*Tables) error) error, table string, most int, each func(*Tables, Entry) error,
) error {
	var from []byte
	for more := true; more; {
		err := view(ctx, func(t *Tables) error {
			more = false
			looked := 0
			for e, err := range t.Scan(table, from, nil) {
				if err != nil {
					return err
				}
				if looked++; looked > most {
					more = true
					return nil
				}
				from = append(bytes.Clone(e.Key), 0)
				if err := each(t, e); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
