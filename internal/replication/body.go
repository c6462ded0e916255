package replication

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/latchkeydb/latchkey/internal/record"
)

// Encode returns the bytes of a request.
func (h Hello) Encode() []byte {
	w := record.Message{Format}
	for _, f := range h.Formats {
		w.Number(1, f)
	}
	w.Bytes(2, []byte(shortened(h.Build)))
	w.Bytes(3, h.Instance[:])
	w.Bytes(4, h.Replica[:])
	w.Bytes(5, encodeCursor(h.Cursor))
	w.Number(6, h.Policy)
	w.Bytes(7, h.Tags)
	w.Bool(8, h.Follow)
	if h.Before != uuid.Nil {
		w.Bytes(9, h.Before[:])
	}
	if h.Edge != uuid.Nil {
		w.Bytes(10, h.Edge[:])
	}
	for _, id := range h.Earlier {
		w.Bytes(11, id[:])
	}
	return w
}

// DecodeHello reads what [Hello.Encode] returned.
//
// Errors: [ErrMessage]; [ErrNewer].
func DecodeHello(b []byte) (h Hello, err error) {
	for f, err := range bodyFields(b) {
		if err != nil {
			return h, err
		}
		switch f.Num {
		case 1:
			if len(h.Formats) == maxFormats || f.Number == 0 {
				return h, bad("a format %d, after %d formats", f.Number, len(h.Formats))
			}
			h.Formats = append(h.Formats, f.Number)
		case 2:
			h.Build, err = text(f.Bytes)
		case 3:
			h.Instance, err = decodeID(f.Bytes)
		case 4:
			h.Replica, err = decodeID(f.Bytes)
		case 5:
			h.Cursor, err = decodeCursor(f.Bytes)
		case 6:
			h.Policy = f.Number
		case 7:
			h.Tags, err = bounded(f.Bytes, sizeTags)
		case 8:
			h.Follow = f.Number != 0
		case 9:
			h.Before, err = decodeID(f.Bytes)
		case 10:
			h.Edge, err = decodeID(f.Bytes)
		case 11:
			if len(h.Earlier) == MaxEarlier {
				return h, bad("more than %d former openings", MaxEarlier)
			}
			var id uuid.UUID
			id, err = decodeID(f.Bytes)
			h.Earlier = append(h.Earlier, id)
		}
		if err != nil {
			return h, err
		}
	}
	return h, nil
}

// Encode returns the bytes of a request.
func (p PushRequest) Encode() []byte {
	w := record.Message{Format}
	w.Bytes(1, encodeCursor(p.Cursor))
	w.Number(2, p.Policy)
	for _, c := range p.Records {
		w.Bytes(3, c.Encode())
	}
	for _, c := range p.Claims {
		w.Bytes(4, c.Encode())
	}
	for _, r := range p.Signed {
		w.Bytes(5, encodeSigned(r))
	}
	for _, c := range p.Uses {
		w.Bytes(6, c.Encode())
	}
	return w
}

// DecodePushRequest reads what [PushRequest.Encode] returned.
//
// Errors: [ErrMessage]; [ErrNewer].
func DecodePushRequest(b []byte) (p PushRequest, err error) {
	for f, err := range bodyFields(b) {
		if err != nil {
			return p, err
		}
		switch f.Num {
		case 1:
			p.Cursor, err = decodeCursor(f.Bytes)
		case 2:
			p.Policy = f.Number
		case 3:
			p.Records, err = appendCopy(p.Records, f.Bytes)
		case 4:
			p.Claims, err = appendCopy(p.Claims, f.Bytes)
		case 5:
			r, failure := decodeSigned(f.Bytes)
			p.Signed, err = append(p.Signed, r), failure
		case 6:
			p.Uses, err = appendCopy(p.Uses, f.Bytes)
		}
		if err != nil {
			return p, err
		}
	}
	return p, nil
}

// Encode returns the bytes of a reply.
func (r PushReply) Encode() []byte {
	w := record.Message{Format}
	w.Bytes(1, []byte(shortened(r.Refused)))
	w.Number(2, r.Policy)
	w.Number(3, r.Taken)
	return w
}

// DecodePushReply reads what [PushReply.Encode] returned.
//
// Errors: [ErrMessage]; [ErrNewer].
func DecodePushReply(b []byte) (r PushReply, err error) {
	for f, err := range bodyFields(b) {
		if err != nil {
			return r, err
		}
		switch f.Num {
		case 1:
			r.Refused, err = text(f.Bytes)
		case 2:
			r.Policy = f.Number
		case 3:
			r.Taken = f.Number
		}
		if err != nil {
			return r, err
		}
	}
	return r, nil
}

// Encode returns the bytes of a request.
func (c CompareRequest) Encode() []byte {
	w := record.Message{Format}
	w.Bytes(1, encodeCursor(c.Cursor))
	w.Number(2, c.Policy)
	for _, s := range c.Summaries {
		w.Bytes(3, encodeSummary(s))
	}
	for _, s := range c.Listed {
		w.Bytes(4, encodeSummary(s))
	}
	for _, i := range c.Items {
		w.Bytes(5, encodeItem(i))
	}
	return w
}

// DecodeCompareRequest reads what [CompareRequest.Encode] returned.
//
// Errors: [ErrMessage]; [ErrNewer].
func DecodeCompareRequest(b []byte) (c CompareRequest, err error) {
	for f, err := range bodyFields(b) {
		if err != nil {
			return c, err
		}
		switch f.Num {
		case 1:
			c.Cursor, err = decodeCursor(f.Bytes)
		case 2:
			c.Policy = f.Number
		case 3:
			c.Summaries, err = appendSummary(c.Summaries, f.Bytes)
		case 4:
			c.Listed, err = appendSummary(c.Listed, f.Bytes)
		case 5:
			c.Items, err = appendItem(c.Items, f.Bytes)
		}
		if err != nil {
			return c, err
		}
	}
	return c, nil
}

// Encode returns the bytes of a reply.
func (r CompareReply) Encode() []byte {
	w := record.Message{Format}
	for _, s := range r.Differ {
		w.Bytes(1, encodeSummary(s))
	}
	for _, m := range r.Messages {
		w.Bytes(2, encode(m))
	}
	for _, i := range r.Wanted {
		w.Bytes(3, encodeItem(i))
	}
	w.Bool(4, r.More)
	w.Bytes(5, []byte(shortened(r.Refused)))
	return w
}

// DecodeCompareReply reads what [CompareReply.Encode] returned.
//
// Errors: [ErrMessage]; [ErrNewer].
func DecodeCompareReply(b []byte) (r CompareReply, err error) {
	for f, err := range bodyFields(b) {
		if err != nil {
			return r, err
		}
		switch f.Num {
		case 1:
			r.Differ, err = appendSummary(r.Differ, f.Bytes)
		case 2:
			r.Messages, err = appendCompared(r.Messages, f.Bytes)
		case 3:
			r.Wanted, err = appendItem(r.Wanted, f.Bytes)
		case 4:
			r.More = f.Number != 0
		case 5:
			r.Refused, err = text(f.Bytes)
		}
		if err != nil {
			return r, err
		}
	}
	return r, nil
}

// appendCompared reads a message of the kinds that a reply to a comparison can have.
func appendCompared(all []Message, body []byte) ([]Message, error) {
	if len(body) > MaxMessage {
		return all, bad("a message of %d bytes", len(body))
	}
	m, err := decode(body)
	switch m.(type) {
	case nil:
		return all, err
	case Record, Forget, Replace:
	case Mark:
		if len(all) > 0 {
			return all, bad("a Mark among other messages of a comparison")
		}
	default:
		return all, bad("a message of kind %d in a comparison", m.kind())
	}
	return append(all, m), nil
}

func encodeSummary(s Summary) (w record.Message) {
	w.Number(1, number(s.Table))
	w.Number(2, uint64(s.Range))
	w.Number(3, s.Count)
	if s.Sum != [16]byte{} {
		w.Bytes(4, s.Sum[:])
	}
	return w
}

func appendSummary(all []Summary, message []byte) ([]Summary, error) {
	var s Summary
	for f, err := range fields(message) {
		if err != nil {
			return all, err
		}
		switch f.Num {
		case 1:
			s.Table, err = table(f.Number)
		case 2:
			s.Range = byte(f.Number)
			if f.Number > 255 {
				err = bad("a range %d", f.Number)
			}
		case 3:
			s.Count = f.Number
		case 4:
			s.Sum, err = decodeHash(f.Bytes)
		}
		if err != nil {
			return all, err
		}
	}
	if !isTracked(s.Table) || len(all) == maxSummaries {
		return all, bad("a sum of table %q, after %d sums", s.Table, len(all))
	}
	return append(all, s), nil
}

func encodeItem(i Item) (w record.Message) {
	w.Number(1, number(i.Table))
	w.Bytes(2, i.Key)
	w.Bytes(3, i.Hash[:])
	w.Bool(4, i.Own)
	w.Bool(5, i.Signed)
	return w
}

func appendItem(all []Item, message []byte) ([]Item, error) {
	var i Item
	hashed := false
	for f, err := range fields(message) {
		if err != nil {
			return all, err
		}
		switch f.Num {
		case 1:
			i.Table, err = table(f.Number)
		case 2:
			i.Key, err = bounded(f.Bytes, record.MaxGroup)
		case 3:
			hashed = true
			i.Hash, err = decodeHash(f.Bytes)
		case 4:
			i.Own = f.Number != 0
		case 5:
			i.Signed = f.Number != 0
		}
		if err != nil {
			return all, err
		}
	}
	if !hashed {
		return all, bad("an item without a hash")
	}
	return append(all, i), checkKey(i.Table, i.Key)
}

// bodyFields yields the fields of a request or a reply, which begins with the number of its format.
func bodyFields(b []byte) func(func(record.Field, error) bool) {
	return func(yield func(record.Field, error) bool) {
		switch {
		case len(b) == 0 || b[0] == 0 || len(b) > MaxBody:
			yield(record.Field{}, bad("a body of %d bytes", len(b)))
		case b[0] > Format:
			yield(record.Field{}, fmt.Errorf("%w: it has format %d, and this build reads %d", ErrNewer, b[0], Format))
		default:
			fields(b[1:])(yield)
		}
	}
}

// text reads a text for people.
func text(b []byte) (string, error) {
	b, err := bounded(b, maxText)
	return shortened(string(b)), err
}

// shortened returns a text in UTF-8 that is no longer than a reader allows.
func shortened(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) > maxText {
		end := maxText
		for !utf8.RuneStart(s[end]) {
			end--
		}
		s = s[:end]
	}
	return s
}
