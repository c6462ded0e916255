package record

import "slices"

// Metadata are a program's own texts on a record, by name. The whole map is one field with one
// stamp.
type Metadata map[string]string

func (d Metadata) clone() Metadata {
	if len(d) == 0 {
		return nil
	}
	out := make(Metadata, len(d))
	for k, v := range d {
		out[k] = v
	}
	return out
}

// fields writes the entries in the order of their names.
func (d Metadata) fields(m *Message, field int) {
	names := make([]string, 0, len(d))
	for k := range d {
		names = append(names, k)
	}
	slices.Sort(names)
	for _, k := range names {
		var em Message
		em.Bytes(1, []byte(k))
		em.Bytes(2, []byte(d[k]))
		m.element(field, em)
	}
}

func encodeMetadata(d Metadata) []byte {
	var m Message
	d.fields(&m, 3)
	return m
}

func encodeMetadataRegister(r Register[Metadata], t replicaTable) []byte {
	return encodeRegister(r, t, func(m *Message) { r.Value.fields(m, fieldValue) })
}

func decodeMetadata(b []byte, t replicaTable) (Register[Metadata], error) {
	size := 0
	return decodeRegister(b, t, func(d *Metadata, f Field) error {
		name, value, err := decodeMetadataEntry(f.Bytes)
		if err != nil {
			return err
		}
		if *d == nil {
			*d = Metadata{}
		}
		(*d)[name] = value
		size += len(name) + len(value)
		if err := tooMany("entries of metadata", len(*d), MaxMetadata); err != nil {
			return err
		}
		return tooMany("bytes of metadata", size, MaxMetadataSize)
	})
}

func decodeMetadataEntry(b []byte) (name, value string, err error) {
	for f, err := range Fields(b) {
		if err != nil {
			return "", "", err
		}
		switch f.Num {
		case 1:
			name = string(f.Bytes)
		case 2:
			value = string(f.Bytes)
		}
	}
	return name, value, nil
}
