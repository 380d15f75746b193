package main

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
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
}

const kubernetesVersion = "1.33.13"

var programs = []program{
	{name: "kubernetes", pkg: ".", ldflags: kubernetesLdflags()},
	{name: "kwok", pkg: "sigs.k8s.io/kwok/cmd/kwok"},
	{name: "helm", pkg: "helm.sh/helm/v4/cmd/helm"},
	{name: "istio-1.25.1", pkg: ".", charts: "istio.io/istio"},
	{name: "istio-1.27.9", pkg: ".", charts: "istio.io/istio"},
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
	for _, file := range []string{"go.mod", "go.sum", "main.go"} {
		text, err := os.ReadFile(filepath.Join(source, "programs", p.name, file))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		digest.Write(text)
	}
	return filepath.Join(cacheDir(), p.name+"-"+hex.EncodeToString(digest.Sum(nil))[:16]), nil
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
	if err := goBuild(p, module, fresh); err != nil {
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

func build(args []string) error {
	for _, p := range programs {
		if len(args) > 0 && !contains(args, p.name) {
			continue
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

// manifest maps each file of an exported cache to its SHA-256.
type manifest map[string]string

const manifestName = "manifest.json"

func cacheCommand(args []string) error {
	if len(args) != 2 {
		return errUsage
	}
	switch args[0] {
	case "export":
		return exportCache(args[1])
	case "import":
		return importCache(args[1])
	}
	return errUsage
}

func exportCache(file string) error {
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	defer out.Close()
	zipped := gzip.NewWriter(out)
	archive := tar.NewWriter(zipped)
	digests := manifest{}
	for _, p := range programs {
		binary, err := p.ensure()
		if err != nil {
			return err
		}
		if err := addFolder(archive, filepath.Dir(binary), digests); err != nil {
			return err
		}
	}
	text, err := json.MarshalIndent(digests, "", "  ")
	if err != nil {
		return err
	}
	if err := archive.WriteHeader(&tar.Header{Name: manifestName, Mode: 0o644, Size: int64(len(text))}); err != nil {
		return err
	}
	if _, err := archive.Write(text); err != nil {
		return err
	}
	return errors.Join(archive.Close(), zipped.Close())
}

func addFolder(archive *tar.Writer, folder string, digests manifest) error {
	var files []string
	err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			files = append(files, path)
		}
		return err
	})
	sort.Strings(files)
	for _, path := range files {
		if err != nil {
			return err
		}
		err = addFile(archive, path, digests)
	}
	return err
}

func addFile(archive *tar.Writer, path string, digests manifest) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	name, err := filepath.Rel(cacheDir(), path)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(text)
	digests[name] = hex.EncodeToString(sum[:])
	if err := archive.WriteHeader(&tar.Header{Name: name, Mode: int64(info.Mode().Perm()), Size: int64(len(text))}); err != nil {
		return err
	}
	_, err = archive.Write(text)
	return err
}

// importCache unpacks beside the cache, compares every digest, and only then moves the folders in.
func importCache(file string) error {
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	zipped, err := gzip.NewReader(in)
	if err != nil {
		return fmt.Errorf("%s is not an exported cache: %w", file, err)
	}
	if err := os.MkdirAll(cacheDir(), 0o755); err != nil {
		return err
	}
	staging, err := os.MkdirTemp(cacheDir(), "import-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(staging)
	found, err := unpack(tar.NewReader(zipped), staging)
	if err != nil {
		return err
	}
	if err := verify(found, filepath.Join(staging, manifestName)); err != nil {
		return fmt.Errorf("%s is damaged, nothing was imported: %w", file, err)
	}
	entries, err := os.ReadDir(staging)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		target := filepath.Join(cacheDir(), entry.Name())
		if _, err := os.Stat(target); err == nil || entry.Name() == manifestName {
			continue
		}
		if err := os.Rename(filepath.Join(staging, entry.Name()), target); err != nil {
			return err
		}
	}
	return nil
}

func unpack(archive *tar.Reader, to string) (manifest, error) {
	found := manifest{}
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return found, nil
		}
		if err != nil {
			return nil, err
		}
		if !filepath.IsLocal(header.Name) {
			return nil, fmt.Errorf("the archive names a path outside itself: %q", header.Name)
		}
		path := filepath.Join(to, header.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, err
		}
		out, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, fs.FileMode(header.Mode).Perm())
		if err != nil {
			return nil, err
		}
		digest := sha256.New()
		_, err = io.Copy(io.MultiWriter(out, digest), archive)
		if err := errors.Join(err, out.Close()); err != nil {
			return nil, err
		}
		found[header.Name] = hex.EncodeToString(digest.Sum(nil))
	}
}

func verify(found manifest, manifestFile string) error {
	text, err := os.ReadFile(manifestFile)
	if err != nil {
		return err
	}
	var stated manifest
	if err := json.Unmarshal(text, &stated); err != nil {
		return err
	}
	delete(found, manifestName)
	if len(found) != len(stated) {
		return fmt.Errorf("the manifest lists %d files, the archive holds %d", len(stated), len(found))
	}
	for name, digest := range stated {
		if found[name] != digest {
			return fmt.Errorf("digest of %s differs", name)
		}
	}
	return nil
}
