package latchkey_test

import (
	"cmp"
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// goCommand runs the go command in the directory of the package, and returns its output. Unless
// goos is empty, the command runs for that operating system.
func goCommand(t *testing.T, goos string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("there is no go command here")
	}
	cmd := exec.Command("go", args...)
	if goos != "" {
		cmd.Env = append(cmd.Environ(), "GOOS="+goos)
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func TestThePackageCompilesThreeLibrariesAndTheirDependencies(t *testing.T) {
	allowed := []string{
		"github.com/latchkeydb/latchkey",
		"github.com/latchkeydb/latchkey/internal/access",
		"github.com/latchkeydb/latchkey/internal/address",
		"github.com/latchkeydb/latchkey/internal/attempts",
		"github.com/latchkeydb/latchkey/internal/boltengine",
		"github.com/latchkeydb/latchkey/internal/boltpage",
		"github.com/latchkeydb/latchkey/internal/cache",
		"github.com/latchkeydb/latchkey/internal/check",
		"github.com/latchkeydb/latchkey/internal/clock",
		"github.com/latchkeydb/latchkey/internal/counters",
		"github.com/latchkeydb/latchkey/internal/lastuse",
		"github.com/latchkeydb/latchkey/internal/durable",
		"github.com/latchkeydb/latchkey/internal/flight",
		"github.com/latchkeydb/latchkey/internal/follow",
		"github.com/latchkeydb/latchkey/internal/keycount",
		"github.com/latchkeydb/latchkey/internal/foreign",
		"github.com/latchkeydb/latchkey/internal/merge",
		"github.com/latchkeydb/latchkey/internal/mint",
		"github.com/latchkeydb/latchkey/internal/inside",
		"github.com/latchkeydb/latchkey/internal/names",
		"github.com/latchkeydb/latchkey/internal/packed",
		"github.com/latchkeydb/latchkey/internal/parallel",
		"github.com/latchkeydb/latchkey/internal/permits",
		"github.com/latchkeydb/latchkey/internal/phc",
		"github.com/latchkeydb/latchkey/internal/random",
		"github.com/latchkeydb/latchkey/internal/record",
		"github.com/latchkeydb/latchkey/internal/rehash",
		"github.com/latchkeydb/latchkey/internal/safetycopy",
		"github.com/latchkeydb/latchkey/internal/salvage",
		"github.com/latchkeydb/latchkey/internal/sorted",
		"github.com/latchkeydb/latchkey/internal/tokenform",
		"github.com/latchkeydb/latchkey/internal/unburied",
		"github.com/google/uuid",
		"go.etcd.io/bbolt",
		"go.etcd.io/bbolt/errors",
		"go.etcd.io/bbolt/internal/common",
		"go.etcd.io/bbolt/internal/freelist",
		"golang.org/x/crypto/argon2",
		"golang.org/x/crypto/blake2b",
		"golang.org/x/sys/cpu",
		"golang.org/x/sys/unix",
		"golang.org/x/sys/windows",
	}
	for _, goos := range []string{"linux", "darwin", "windows"} {
		paths := strings.Fields(goCommand(t, goos, "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", "."))
		for _, path := range paths {
			if !slices.Contains(allowed, path) {
				t.Errorf("on %s the package compiles %s", goos, path)
			}
		}
		if !slices.Contains(paths, "go.etcd.io/bbolt") {
			t.Errorf("on %s the list has %q, so this test shows nothing", goos, paths)
		}
	}
}

func TestTheThreatModelNamesTestsThatExist(t *testing.T) {
	tests := map[string]bool{}
	must(t, filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && (d.Name() == "node_modules" || d.Name() != "." && strings.HasPrefix(d.Name(), ".")) {
			return cmp.Or(err, fs.SkipDir)
		}
		if strings.HasSuffix(path, "_test.go") {
			for _, match := range regexp.MustCompile(`(?m)^func ((Test|Fuzz)\w+)\(`).FindAllStringSubmatch(string(readFile(t, path)), -1) {
				tests[match[1]] = true
			}
		}
		return nil
	}))
	named := regexp.MustCompile("`((?:Test|Fuzz)\\w+)`|([\\w/-]+\\.txtar)").FindAllStringSubmatch(string(readFile(t, "docs/threat-model.md")), -1)
	if len(named) < 100 {
		t.Errorf("the threat model names %d tests, so this test shows nothing", len(named))
	}
	for _, match := range named {
		if match[1] != "" && !tests[match[1]] {
			t.Errorf("there is no %s", match[1])
		}
		if match[2] != "" {
			readFile(t, match[2])
		}
	}
}

func TestTheMapOfTheHouseHasEveryFileAndPackage(t *testing.T) {
	houseMap := string(readFile(t, "CONTRIBUTING.md"))
	files, err := filepath.Glob("*.go")
	must(t, err)
	packages, err := filepath.Glob(filepath.Join("internal", "*"))
	must(t, err)
	for _, name := range files {
		if !strings.HasSuffix(name, "_test.go") && !strings.Contains(houseMap, "`"+name+"`") {
			t.Errorf("CONTRIBUTING.md does not have %s", name)
		}
	}
	for _, name := range packages {
		if !strings.Contains(houseMap, "`"+filepath.ToSlash(name)+"/`") {
			t.Errorf("CONTRIBUTING.md does not have %s", name)
		}
	}
	if len(files) == 0 || len(packages) == 0 {
		t.Error("nothing was found, so this test shows nothing")
	}
}

// source is the source of a package, without its tests.
type source struct {
	dir   string
	files []*ast.File
	doc   *doc.Package
}

// parsePackages reads the packages of the module that other programs can import. The root package
// comes first.
func parsePackages(t *testing.T) (all []source) {
	t.Helper()
	for _, dir := range []string{".", "appservices", "appservices/appservicestest", "enginetest", "audit", "httpauth", "keyimport", "latchkeytest", "migrate", "outbox", "tokenscan"} {
		all = append(all, parsePackage(t, dir))
	}
	return all
}

func parsePackage(t *testing.T, dir string) source {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
	must(t, err)
	s := source{dir: dir}
	fset := token.NewFileSet()
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(fset, path, nil, parser.ParseComments|parser.SkipObjectResolution)
		must(t, err)
		s.files = append(s.files, file)
	}
	s.doc, err = doc.NewFromFiles(fset, s.files, "github.com/latchkeydb/latchkey/"+dir, doc.PreserveAST)
	must(t, err)
	return s
}

// exported calls visit with each exported name of the package, and whether the name has a comment.
// The names are Name, Type.Method, and Type.Field.
func (s source) exported(visit func(name string, documented bool)) {
	values := func(all []*doc.Value) {
		for _, v := range all {
			for _, spec := range v.Decl.Specs {
				spec := spec.(*ast.ValueSpec)
				for _, name := range spec.Names {
					// A comment of a group is enough for names that explain themselves.
					visit(name.Name, v.Doc != "" || spec.Doc != nil || spec.Comment != nil)
				}
			}
		}
	}
	funcs := func(receiver string, all []*doc.Func) {
		for _, f := range all {
			visit(receiver+f.Name, f.Doc != "")
		}
	}
	values(s.doc.Consts)
	values(s.doc.Vars)
	funcs("", s.doc.Funcs)
	for _, typ := range s.doc.Types {
		visit(typ.Name, typ.Doc != "")
		values(typ.Consts)
		values(typ.Vars)
		funcs("", typ.Funcs)
		funcs(typ.Name+".", typ.Methods)
		for _, spec := range typ.Decl.Specs {
			switch def := spec.(*ast.TypeSpec).Type.(type) {
			case *ast.StructType:
				for _, field := range def.Fields.List {
					for _, name := range field.Names {
						visit(typ.Name+"."+name.Name, true) // fields may explain themselves
					}
				}
			case *ast.InterfaceType:
				for _, method := range def.Methods.List {
					for _, name := range method.Names {
						visit(typ.Name+"."+name.Name, method.Doc != nil)
					}
				}
			}
		}
	}
}

func TestEveryExportedNameHasADocComment(t *testing.T) {
	n := 0
	for _, s := range parsePackages(t) {
		if s.doc.Doc == "" {
			t.Errorf("%s: the package has no comment", s.dir)
		}
		s.exported(func(name string, documented bool) {
			n++
			if !documented {
				t.Errorf("%s: %s has no comment", s.dir, name)
			}
		})
	}
	if n < 200 {
		t.Errorf("found %d exported names, so this test does not look where they are", n)
	}
}

// linked matches a name in brackets in a comment, such as [Name], [Type.Method], [package.Name] and
// [Type].Field.
var linked = regexp.MustCompile(`\[\*?((?:[a-z]\w*\.)?[A-Z]\w*(?:\.[A-Z]\w*)?)\](\.[A-Z]\w*)?`)

func TestEveryNameInBracketsExists(t *testing.T) {
	found := 0
	others := map[string][]string{} // names in other packages, by import path
	for _, s := range parsePackages(t) {
		own := s.names()
		imports := s.imports()
		for _, name := range s.links() {
			found++
			if own[name] {
				continue
			}
			pkg, rest, _ := strings.Cut(name, ".")
			if path := imports[pkg]; path != "" && rest != "" {
				others[path] = append(others[path], rest)
			} else {
				t.Errorf("%s: [%s] is no exported name", s.dir, name)
			}
		}
	}
	if found < 200 {
		t.Errorf("found %d names in brackets, so this test does not look where they are", found)
	}
	for path, dir := range packageDirs(t, slices.Collect(maps.Keys(others))) {
		known := parsePackage(t, dir).names()
		for _, name := range others[path] {
			if !known[name] {
				t.Errorf("[%s] is no exported name of %s", name, path)
			}
		}
	}
}

// names returns the exported names of the package.
func (s source) names() map[string]bool {
	names := map[string]bool{}
	s.exported(func(name string, _ bool) { names[name] = true })
	return names
}

// imports returns the import paths of the package, by their last elements.
func (s source) imports() map[string]string {
	paths := map[string]string{}
	for _, file := range s.files {
		for _, spec := range file.Imports {
			p := strings.Trim(spec.Path.Value, `"`)
			paths[path.Base(p)] = p
		}
	}
	return paths
}

// links returns the names in brackets in the package's comments.
func (s source) links() (names []string) {
	for _, file := range s.files {
		for _, group := range file.Comments {
			for _, match := range linked.FindAllStringSubmatch(group.Text(), -1) {
				names = append(names, match[1]+match[2])
			}
		}
	}
	return names
}

// packageDirs returns the directory of each package, by its import path.
func packageDirs(t *testing.T, paths []string) map[string]string {
	t.Helper()
	dirs := map[string]string{}
	out := goCommand(t, "", append([]string{"list", "-f", "{{.ImportPath}}\t{{.Dir}}"}, paths...)...)
	for line := range strings.Lines(out) {
		path, dir, _ := strings.Cut(strings.TrimSpace(line), "\t")
		dirs[path] = dir
	}
	for _, path := range paths {
		if dirs[path] == "" {
			t.Errorf("the go command does not know %s", path)
		}
	}
	return dirs
}
