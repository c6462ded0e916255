package appservices

import (
	"net/http"
	"regexp"
	"strconv"
	"sync"
	"time"

	"github.com/latchkeydb/latchkey/internal/loggable"
	"github.com/latchkeydb/latchkey/internal/loopback"
)

// journalSize is how many refused requests have a page. They take about 1 MiB at most.
const journalSize = 1000

// A journal keeps the latest requests that were refused, for the pages that their links lead to.
type journal struct {
	mu     sync.Mutex
	latest []entry // a ring when it is full
	next   int     // where the next entry goes when it is full
}

// An entry is a refused request. Its texts are as in the log.
type entry struct {
	RequestID string    `json:"request_id"`
	Time      time.Time `json:"time"`
	Method    string    `json:"method"`
	Path      string    `json:"path"`
	Remote    string    `json:"remote"`
	Status    int       `json:"status"`
	Code      string    `json:"error_code,omitempty"`
	Reason    string    `json:"reason"`
}

func (j *journal) add(e entry) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.latest) < journalSize {
		j.latest = append(j.latest, e)
		return
	}
	j.latest[j.next] = e
	j.next = (j.next + 1) % journalSize
}

func (j *journal) find(requestID string) (e entry, ok bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, e := range j.latest {
		if e.RequestID == requestID {
			return e, true
		}
	}
	return entry{}, false
}

// record puts a refused request into the journal. The request is there before the client knows the
// link.
func (c *call) record(status int) {
	if !c.h.opts.LogPages {
		return
	}
	c.h.journal.add(entry{
		RequestID: c.requestID, Time: time.Now().UTC(), Method: loggable.Text(c.r.Method), Path: loggable.Text(c.r.URL.Path),
		Remote: c.h.remote(c.r).String(), Status: status, Code: loggable.Text(c.code), Reason: loggable.Text(c.reason),
	})
}

// logPath is the path of a link.
var logPath = regexp.MustCompile(`^/groups/[0-9a-f]{24}/apps/[0-9a-f]{24}/logs$`)

// logPage answers the request for the page of a refused request.
func (c *call) logPage() (reply, error) {
	if !c.h.opts.LogPages {
		return reply{}, errMissingPart("page of its log")
	}
	if err := loopback.Check(c.r); err != nil {
		return reply{}, pageForm(&refusal{status: http.StatusForbidden, text: "the page of the log " + err.Error()})
	}
	e, ok := c.h.journal.find(c.r.URL.Query().Get("co_id"))
	switch {
	case !ok:
		return reply{}, pageForm(&refusal{status: http.StatusNotFound, text: "only the last " + strconv.Itoa(journalSize) +
			" refused requests since the start have a page, and this is none of them"})
	case !asksForPage(c.r):
		return reply{http.StatusOK, e}, nil
	}
	return reply{http.StatusOK, page{Title: "A refused request", Rows: e.rows()}}, nil
}

func (e entry) rows() []pageRow {
	rows := []pageRow{
		{"reason", e.Reason},
		{"request", e.Method + " " + e.Path},
		{"status", strconv.Itoa(e.Status) + " " + http.StatusText(e.Status)},
	}
	if e.Code != "" {
		rows = append(rows, pageRow{"error_code", e.Code})
	}
	return append(rows,
		pageRow{"remote", e.Remote},
		pageRow{"time", e.Time.Format(time.RFC3339Nano)},
		pageRow{"request_id in the log", e.RequestID})
}
