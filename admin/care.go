package admin

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/latchkeydb/latchkey"
)

func (c *call) showStore() error {
	return c.answer(http.StatusOK, StoreInfo{Domain: c.store.DomainID(), Replica: c.store.ReplicaID(), Now: c.store.Now(), TokenPrefix: c.store.TokenPrefix()})
}

// showHealth answers with what is wrong. The status is 200 also then, because the question was
// answered; only a store that is closed is a problem.
func (c *call) showHealth() error {
	err := c.store.Health(c.r.Context())
	if errors.Is(err, latchkey.ErrClosed) {
		return err
	}
	if c.opts.Trail != nil {
		err = errors.Join(err, c.opts.Trail.Health())
	}
	health := Health{OK: err == nil, Findings: []Problem{}}
	for _, finding := range split(err) {
		health.Findings = append(health.Findings, *problemOf(finding))
	}
	return c.answer(http.StatusOK, health)
}

// split returns the errors that [errors.Join] has joined.
func split(err error) []error {
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var texts []string
	var parts []error
	for _, e := range joined.Unwrap() {
		texts = append(texts, e.Error())
		parts = append(parts, split(e)...)
	}
	if strings.Join(texts, "\n") != err.Error() { // one error with several causes
		return []error{err}
	}
	return parts
}

func (c *call) showStats() error {
	s, err := c.store.Stats(c.r.Context())
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, Stats{
		Sequence: s.Sequence, Users: s.Users, Keys: s.Keys, ClockResets: s.ClockResets,
		Hits: s.Hits, Misses: s.Misses, Malformed: s.Malformed, Forged: s.Forged, Unknown: s.Unknown, Refused: s.Refused, Busy: s.Busy,
		CacheSize: s.CacheSize, Hashes: s.Hashes, HashWaitSeconds: s.HashWait.Seconds(), HashPeak: s.HashPeak, Rehashed: s.Rehashed, Commits: s.Commits,
	})
}

// alone runs fn unless it is running for another request.
//
// Errors: ErrInProgress; an error of fn.
func alone(mu *sync.Mutex, fn func() error) error {
	if !mu.TryLock() {
		return ErrInProgress
	}
	defer mu.Unlock()
	return fn()
}

// writeBackup answers with a backup.
func (c *call) writeBackup() error {
	return alone(&c.backup, func() error {
		return c.download("application/octet-stream", "latchkey.backup", func(w io.Writer) error { return c.store.Backup(c.r.Context(), w) })
	})
}

// failureTrailer is the trailer of a download that has failed after its first byte. It has the
// problem as JSON.
const failureTrailer = "Latchkey-Problem"

// download answers with what write writes. When write fails after its first byte, the connection is
// broken off, so that no client takes half of the answer for the whole of it. A client that reads
// trailers, and says so by the header TE (RFC 9110, section 10.1.4), gets failureTrailer instead.
func (c *call) download(media, file string, write func(io.Writer) error) error {
	d := &downloadWriter{w: c.w, again: c.caller.Again, control: http.NewResponseController(c.w), media: media, file: file}
	err := write(d)
	switch {
	case err == nil:
		d.begin()
		return nil
	case !d.begun:
		return err
	}
	c.logFailed(problemOf(err), err)
	text, jsonErr := json.Marshal(problemOf(err))
	if c.r.Header.Get("TE") != "trailers" || jsonErr != nil {
		panic(http.ErrAbortHandler)
	}
	c.w.Header().Set(http.TrailerPrefix+failureTrailer, string(text))
	return nil
}

// A downloadWriter begins an answer at the first byte.
type downloadWriter struct {
	w           http.ResponseWriter
	control     *http.ResponseController
	again       func() error
	media, file string
	begun       bool
}

func (d *downloadWriter) begin() {
	if !d.begun {
		d.begun = true
		d.w.Header().Set("Content-Type", d.media)
		d.w.Header().Set("Content-Disposition", `attachment; filename="`+d.file+`"`)
	}
}

func (d *downloadWriter) Write(p []byte) (int, error) {
	if d.again != nil && d.begun {
		if err := d.again(); err != nil { // the key was revoked meanwhile
			return 0, err
		}
	}
	d.begin()
	// Space that becomes free during a backup is not used again, so the file grows while a client
	// stands still.
	_ = d.control.SetWriteDeadline(time.Now().Add(writeWithin))
	return d.w.Write(p)
}

// maxFindings bounds the answer about a store with much damage.
const maxFindings = 1000

// checkStore answers with the damage in the store.
func (c *call) checkStore() error {
	return alone(&c.check, func() error {
		answer := Findings{Findings: []Problem{}}
		for err := range c.store.Check(c.r.Context()) {
			if !isDamage(err) {
				return err // the check has not come to its end
			}
			if answer.More = len(answer.Findings) == maxFindings; answer.More {
				break
			}
			answer.Findings = append(answer.Findings, *problemOf(err))
		}
		return c.answer(http.StatusOK, answer)
	})
}

// isDamage reports whether an error of [latchkey.Store.Check] is a finding.
func isDamage(err error) bool {
	for _, end := range []error{latchkey.ErrClosed, latchkey.ErrInTransaction, latchkey.ErrInterrupted, context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, end) {
			return false
		}
	}
	return errors.Is(err, latchkey.ErrCorrupt) || errors.Is(err, latchkey.ErrNumbering) || errors.Is(err, latchkey.ErrNewerFormat)
}

// repairStore repairs what can be derived from users and keys.
func (c *call) repairStore() error {
	return alone(&c.check, func() error {
		n, err := c.store.Repair(c.r.Context())
		if err != nil {
			return err
		}
		return c.answer(http.StatusOK, Repaired{n})
	})
}

func (c *call) compactStore() error {
	return alone(&c.compact, func() error {
		if err := c.store.Compact(c.r.Context()); err != nil {
			return err
		}
		c.w.WriteHeader(http.StatusNoContent)
		return nil
	})
}
