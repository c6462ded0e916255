// Archive packs files into an archive whose bytes depend on the files alone: not on their dates and
// owners, and not on the order in which a directory lists them. The date of every entry is
// SOURCE_DATE_EPOCH.
//
//	archive DIRECTORY NAME .tar.gz|.zip SOURCE=ENTRY ...
//
// The archive is DIRECTORY/NAME.tar.gz or DIRECTORY/NAME.zip. A SOURCE is a file or a directory,
// relative to DIRECTORY. An ENTRY is its path below the directory NAME in the archive.
package main

import (
	"archive/tar"
	"archive/zip"
	"compress/gzip"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("archive: ")
	if len(os.Args) < 5 {
		log.Fatal("the arguments are DIRECTORY NAME .tar.gz|.zip SOURCE=ENTRY ...")
	}
	seconds, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64)
	if err != nil {
		log.Fatal("SOURCE_DATE_EPOCH must be a number of seconds")
	}
	if err := pack(os.Args[1], os.Args[2], os.Args[3], os.Args[4:], time.Unix(seconds, 0).UTC()); err != nil {
		log.Fatal(err)
	}
}

// pack writes the archive.
func pack(dir, name, extension string, sources []string, date time.Time) (err error) {
	file, err := os.Create(filepath.Join(dir, name+extension))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	var to packer
	switch extension {
	case ".tar.gz":
		compressed := gzip.NewWriter(file)
		to = &tarPacker{compressed, tar.NewWriter(compressed), date}
	case ".zip":
		to = &zipPacker{zip.NewWriter(file), date}
	default:
		return fmt.Errorf("%s is neither .tar.gz nor .zip", extension)
	}
	for _, s := range sources {
		source, entry, ok := strings.Cut(s, "=")
		if !ok {
			return fmt.Errorf("%s is not SOURCE=ENTRY", s)
		}
		if !filepath.IsAbs(source) {
			source = filepath.Join(dir, source)
		}
		if err := add(to, source, path.Join(name, entry)); err != nil {
			return err
		}
	}
	return to.Close()
}

// add adds a file, or all files below a directory in the order of their names.
func add(to packer, source, entry string) error {
	return filepath.WalkDir(source, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(source, p)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		mode := fs.FileMode(0o644)
		if info.Mode()&0o100 != 0 {
			mode = 0o755
		}
		return to.add(path.Join(entry, filepath.ToSlash(rel)), mode, data)
	})
}

// packer is an archive that is being written.
type packer interface {
	add(entry string, mode fs.FileMode, data []byte) error
	Close() error
}

type tarPacker struct {
	compressed *gzip.Writer
	tar        *tar.Writer
	date       time.Time
}

func (t *tarPacker) add(entry string, mode fs.FileMode, data []byte) error {
	header := &tar.Header{Name: entry, Mode: int64(mode), Size: int64(len(data)), ModTime: t.date, Format: tar.FormatUSTAR}
	if err := t.tar.WriteHeader(header); err != nil {
		return err
	}
	_, err := t.tar.Write(data)
	return err
}

func (t *tarPacker) Close() error {
	if err := t.tar.Close(); err != nil {
		return err
	}
	return t.compressed.Close()
}

type zipPacker struct {
	zip  *zip.Writer
	date time.Time
}

func (z *zipPacker) add(entry string, mode fs.FileMode, data []byte) error {
	header := &zip.FileHeader{Name: entry, Method: zip.Deflate, Modified: z.date}
	header.SetMode(mode)
	w, err := z.zip.CreateHeader(header)
	if err != nil {
		return err
	}
	_, err = w.Write(data)
	return err
}

func (z *zipPacker) Close() error { return z.zip.Close() }
