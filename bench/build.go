package bench

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// repository returns the directory of the repository.
func repository() (string, error) {
	return run("go", "list", "-m", "-f", "{{.Dir}}", "github.com/latchkeydb/latchkey")
}

// build builds a package of a module of the repository into the file out, without cgo and symbols.
// module is the directory of the module, relative to the repository.
func build(out, module, pkg string, env ...string) error {
	root, err := repository()
	if err != nil {
		return err
	}
	cmd := exec.Command("go", "build", "-C", filepath.Join(root, module), "-ldflags", "-s -w", "-o", out, pkg)
	cmd.Env = append(append(os.Environ(), "CGO_ENABLED=0"), env...)
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, text)
	}
	return nil
}

// run returns what a command prints.
func run(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s", name, err, out)
	}
	return strings.TrimSpace(string(out)), err
}
